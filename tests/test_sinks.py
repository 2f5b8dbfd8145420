"""Sinks: a player read on the loop's clock, by sockets, telephone lines and files."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clocks import pass_time
from novasonic import audio, events, g711
from novasonic.errors import ConfigurationError
from novasonic.playback import Player
from novasonic.sinks import Frames, heard_in

pytestmark = pytest.mark.clock("virtual")

RATE = 24_000


def chunk(seconds: float, *, turn: int = 1, value: int = 1) -> events.AudioChunk:
    pcm = np.full(round(seconds * RATE), value, "<i2").tobytes()
    return events.AudioChunk(turn=turn, pcm=pcm, sample_rate=RATE)


class TestFrames:
    async def test_each_frame_comes_when_its_time_has_come(self) -> None:
        """Whoever sends all at once to a browser cannot take it back when the user breaks in."""
        player, loop = Player(prebuffer=0), asyncio.get_running_loop()
        player.play(chunk(1.0))
        start, came = loop.time(), list[float]()
        async for pcm in Frames(player, 0.1):
            assert len(pcm) == 4800
            came.append(loop.time() - start)
            if not player.playing:
                break
        assert came == pytest.approx([at / 10 for at in range(10)])

    async def test_silence_is_passed_over_unless_it_is_asked_for(self) -> None:
        player, loop = Player(prebuffer=0), asyncio.get_running_loop()
        start = loop.time()
        loop.call_later(1.0, player.play, chunk(0.02))
        assert await anext(Frames(player)) == chunk(0.02).pcm
        assert loop.time() - start == pytest.approx(1.0, abs=0.021)
        assert await anext(Frames(player, silence=True)) == bytes(960)

    async def test_an_interruption_is_heard_within_a_frame(self) -> None:
        player, loop = Player(prebuffer=0), asyncio.get_running_loop()
        player.play(chunk(5.0))
        loop.call_later(0.305, player.stop)
        frames = Frames(player, silence=True)
        spoken = [any(await anext(frames)) for _ in range(30)]
        assert spoken == [True] * 16 + [False] * 14
        assert player.heard(1) == pytest.approx(0.32)

    async def test_what_is_read_late_is_made_up_for(self) -> None:
        """A slow network must not make the speech slower and slower."""
        player, loop = Player(prebuffer=0), asyncio.get_running_loop()
        player.play(chunk(10.0))
        start = loop.time()
        frames = Frames(player, 0.1)
        for at in range(50):
            await anext(frames)
            await pass_time(0.3 if at % 10 == 0 else 0.0)
        assert loop.time() - start == pytest.approx(5.0, abs=0.2)

    async def test_cancelling_loses_nothing(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(1.0))
        frames = Frames(player, 0.1)
        await anext(frames)
        waiting = asyncio.create_task(frames.__anext__())
        await pass_time(0.05)
        waiting.cancel()
        await asyncio.wait({waiting})
        await anext(frames)
        assert player.heard(1) == pytest.approx(0.2)

    async def test_a_telephone_is_a_player_at_its_rate_and_a_law(self) -> None:
        player = Player(8_000, prebuffer=0)
        player.play(chunk(0.5, value=8000))
        packet = g711.encode(await anext(Frames(player, 0.02, silence=True)), "mulaw")
        assert len(packet) == 160

    @pytest.mark.parametrize("seconds", [0, -1, 0.001, 2])
    async def test_a_length_that_cannot_be_is_refused(self, seconds: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"seconds is .*, but must be 0\.005 to 1"):
            Frames(Player(), seconds)


class TestFile:
    async def test_a_file_is_what_would_have_been_heard(self, tmp_path: Path) -> None:
        """Pauses and all, and cut where the user broke in."""
        player, path = Player(prebuffer=0), tmp_path / "heard.wav"
        async with heard_in(path, player):
            await pass_time(0.95)
            player.play(chunk(2.0, value=3))
            await pass_time(1.0)
            player.stop()
            await pass_time(1.0)
            player.play(chunk(0.2, turn=2, value=4))
            await pass_time(1.0)
        pcm, _ = await asyncio.to_thread(audio.read_wav, path)
        heard = np.frombuffer(pcm, "<i2")
        assert player.heard(1) == pytest.approx(1.0, abs=0.1)
        assert (heard == 3).sum() == round(1.0 * RATE)
        assert np.flatnonzero(heard == 3)[0] == RATE
        assert (heard == 4).sum() == round(0.2 * RATE)
        assert len(heard) / RATE == pytest.approx(3.95, abs=0.11)

    async def test_a_file_that_cannot_be_created_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="is a directory"):
            async with heard_in(tmp_path, Player()):
                pass

    async def test_a_full_disk_is_told_at_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        async def play() -> None:
            async with heard_in(tmp_path / "heard.wav", Player()):
                monkeypatch.setattr(audio.WavWriter, "write", full)
                await pass_time(1.0)

        with pytest.raises(OSError, match="No space left"):
            await play()

    async def test_a_program_that_fails_leaves_a_whole_file(self, tmp_path: Path) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(1.0))

        async def play() -> None:
            async with heard_in(tmp_path / "heard.wav", player):
                await pass_time(0.55)
                raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            await play()
        pcm, _ = await asyncio.to_thread(audio.read_wav, tmp_path / "heard.wav")
        assert len(pcm) / 2 / RATE == pytest.approx(0.6, abs=0.1)
