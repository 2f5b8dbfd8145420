"""A recording of a conversation: who was heard when, to the sample, and a file that outlives the program."""

import asyncio
import errno
import itertools
import logging
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clocks import pass_time
from fakes import FakeService
from novasonic import audio, events, messages
from novasonic.emulator import Scenario
from novasonic.emulator.memory import MemoryConnector
from novasonic.errors import ConfigurationError
from novasonic.playback import Player
from novasonic.recorder import Recorder, Timeline
from novasonic.session import SonicSession
from novasonic.sinks import Frames

RATE = 24_000
EMULATOR = Path(audio.__file__).parent / "emulator"


def chunk(seconds: float, *, turn: int = 1, value: int = 1, rate: int = RATE) -> events.AudioChunk:
    return events.AudioChunk(turn=turn, pcm=pcm(seconds, value, rate), sample_rate=rate)


def pcm(seconds: float, value: int = 1, rate: int = RATE) -> bytes:
    return np.full(round(seconds * rate), value, "<i2").tobytes()


def sides(stereo: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    both = np.frombuffer(stereo, "<i2").reshape(-1, 2)
    return both[:, 0], both[:, 1]


def runs(side: NDArray[Any]) -> list[tuple[Any, Any, int]]:
    """Where a side has which value, but for silence: from, to, and the value."""
    edges = np.flatnonzero(np.diff(side, prepend=0, append=0))
    spans = [(start / RATE, end / RATE, int(side[start])) for start, end in itertools.pairwise(edges)]
    return [span for span in spans if span[2]]


class TestTimeline:
    def test_each_side_is_where_it_was_heard(self) -> None:
        line = Timeline(start=100.0)
        line.user(pcm(0.5, 7), RATE, 101.0)
        line.assistant(chunk(1.0, value=3), 102.0)
        left, right = sides(line.finish(104.0))
        assert (len(left), runs(left), runs(right)) == (4 * RATE, [(1.0, 1.5, 7)], [(2.0, 3.0, 3)])

    def test_speech_that_comes_faster_than_it_plays_is_played_piece_by_piece(self) -> None:
        line = Timeline(start=0.0)
        for at in range(10):
            line.assistant(chunk(0.08, value=at + 1), 1.0 + at * 0.016)
        _, right = sides(line.finish(3.0))
        assert runs(right) == [
            (pytest.approx(1 + at * 0.08), pytest.approx(1.08 + at * 0.08), at + 1) for at in range(10)
        ]

    def test_an_interruption_cuts_at_its_sample(self) -> None:
        line = Timeline(start=0.0)
        line.assistant(chunk(5.0, turn=1, value=1), 1.0)
        line.interrupted(2.34567)
        line.assistant(chunk(1.0, turn=2, value=2), 3.0)
        _, right = sides(line.finish(4.0))
        cut = round(2.34567 * RATE) / RATE
        assert runs(right) == [(1.0, cut, 1), (3.0, 4.0, 2)]

    def test_a_response_waits_for_the_one_before_it(self) -> None:
        line = Timeline(start=0.0)
        line.assistant(chunk(2.0, turn=1, value=1), 1.0)
        line.assistant(chunk(1.0, turn=2, value=2), 2.0)
        assert runs(sides(line.finish(2.5))[1]) == [(1.0, 3.0, 1), (3.0, 4.0, 2)]

    def test_an_interruption_of_what_has_been_played_cuts_nothing(self) -> None:
        line = Timeline(start=0.0)
        line.assistant(chunk(1.0), 1.0)
        line.interrupted(5.0)
        assert runs(sides(line.finish(6.0))[1]) == [(1.0, 2.0, 1)]

    def test_a_gap_of_the_user_is_silence(self) -> None:
        line = Timeline(start=0.0)
        line.user(pcm(1.0), RATE, 0.0)
        line.user(pcm(1.0), RATE, 2.0)
        assert runs(sides(line.finish(3.0))[0]) == [(0.0, 1.0, 1), (2.0, 3.0, 1)]

    def test_pieces_that_come_a_little_late_leave_no_gap(self) -> None:
        """The late ones are followed by early ones; a gap at each would crackle."""
        line = Timeline(start=0.0)
        for at, late in enumerate([0.0, 0.03, 0.1, 0.02, 0.0]):
            line.user(pcm(0.02), RATE, at * 0.02 + late)
        assert runs(sides(line.finish(0.2))[0]) == [(0.0, 0.1, 1)]

    @pytest.mark.parametrize("rate", [8_000, 16_000])
    def test_the_users_rate_is_made_that_of_the_recording(self, rate: int) -> None:
        line = Timeline(start=0.0)
        for at in range(100):
            line.user(pcm(0.01, 5000, rate), rate, 1.0 + at * 0.01)
        line.user(pcm(0.5, 5000, rate), rate, 3.0)
        left, _ = sides(line.finish(4.0))
        loud = np.flatnonzero(np.abs(left) > 2500) / RATE
        assert (loud[0], loud[-1]) == (pytest.approx(1.0, abs=0.001), pytest.approx(3.5, abs=0.001))
        assert not ((loud > 2.001) & (loud < 2.999)).any()

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("user"), st.floats(0.001, 0.3)),
                st.tuples(st.just("assistant"), st.floats(0.001, 1.0)),
                st.tuples(st.just("interrupted"), st.just(0.0)),
                st.tuples(st.just("take"), st.just(0.0)),
                st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
            ),
            max_size=30,
        )
    )
    def test_when_it_is_taken_changes_nothing(self, steps: list[tuple[str, float]]) -> None:
        """What was written is never wrong later, so it can be written early."""
        often, once, now = Timeline(start=0.0), Timeline(start=0.0), 0.0
        taken = b""
        for turn, (what, seconds) in enumerate(steps, 1):
            for line in (often, once):
                match what:
                    case "user":
                        line.user(pcm(seconds, turn, 16_000), 16_000, now)
                    case "assistant":
                        line.assistant(chunk(seconds, turn=turn, value=turn), now)
                    case "interrupted":
                        line.interrupted(now)
                    case _:
                        pass
            if what == "take":
                taken += often.take(now)
            now += seconds if what in {"user", "wait"} else 0.001
        left, right = sides(taken + often.finish(now))
        left_once, right_once = sides(once.finish(now))
        assert right.tolist() == right_once.tolist()
        assert len(left) == len(left_once)

    def test_what_a_player_reads_is_where_it_was_read(self) -> None:
        """Loudspeakers ask every 20 ms, more or less; their silence is a pause, and no part of the speech."""
        line = Timeline(start=0.0)
        jitter = [0.0, 0.004, -0.003, 0.009, 0.0]
        for at in range(50):
            now = 1.0 + at * 0.02 + jitter[at % 5]
            speaking = 10 <= at < 20 or at >= 30
            line.played(pcm(0.02, int(speaking)), RATE, now, silent=not speaking)
        _, right = sides(line.finish(2.0))
        assert runs(right) == [
            (pytest.approx(1.2, abs=0.01), pytest.approx(1.4, abs=0.01), 1),
            (pytest.approx(1.6, abs=0.01), pytest.approx(2.0, abs=0.01), 1),
        ]

    def test_what_cannot_be_written_in_time_is_left_out_and_told(self) -> None:
        """A program that sends an hour at once must not fill the memory with it."""
        line = Timeline(start=0.0)
        for _ in range(200):
            line.user(pcm(1.0, rate=8_000), 8_000, 0.0)
        assert line.missing == pytest.approx(79, abs=1)

    def test_nothing_is_settled_before_its_time(self) -> None:
        line = Timeline(start=0.0)
        line.assistant(chunk(1.0), 0.0)
        assert line.take(0.4) == b""
        assert len(line.take(1.0)) == 4 * RATE // 2
        assert line.take(1.0) == b""


async def recorded(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    pcm, form = await asyncio.to_thread(audio.read_wav, path)
    assert form == audio.AudioFormat(RATE, 2)
    return sides(pcm)


pytest_virtual = pytest.mark.clock("virtual")


def said(block: str, seconds: float, value: int) -> list[messages.OutputMessage]:
    """A response, without its end."""
    text = f"text-{block}"
    return [
        messages.OutputContentStart(content_id=text, type="TEXT", role="ASSISTANT", stage="SPECULATIVE"),
        messages.TextOutput(content_id=text, role="ASSISTANT", content="Well."),
        messages.OutputContentEnd(content_id=text, type="TEXT", stop_reason="PARTIAL_TURN"),
        messages.OutputContentStart(content_id=block, type="AUDIO", role="ASSISTANT", sample_rate=RATE),
        *[messages.AudioOutput(content_id=block, content=pcm(0.08, value))] * round(seconds / 0.08),
    ]


INTERRUPTION = messages.OutputContentEnd(content_id="a", type="AUDIO", stop_reason="INTERRUPTED")


async def read_until(
    session: SonicSession, kind: type[events.EventBase], player: Player | None = None
) -> None:
    async for event in session:
        if player is not None:
            player.handle(event)
        if isinstance(event, kind):
            return


@pytest_virtual
class TestSession:
    async def test_a_conversation_is_recorded_as_it_was_heard(self, tmp_path: Path) -> None:
        """Without a player, each response plays at once."""
        service, path = FakeService(), tmp_path / "call.wav"
        async with SonicSession(transport=service, record_audio=path) as session:
            await pass_time(1.0)
            await session.send_audio(pcm(0.32, 9000, 16_000))
            await pass_time(1.0)
            service.say(*said("a", 4.0, 5))
            await read_until(session, events.AudioChunk)
            await pass_time(1.5)
            service.say(INTERRUPTION)
            await read_until(session, events.Interrupted)
            await pass_time(1.0)
            service.say(*said("b", 0.8, 6))
            await read_until(session, events.TurnStarted)
        left, right = await recorded(path)
        assert runs(right) == [(2.0, 3.5, 5), (4.5, pytest.approx(5.3), 6)]
        spoken = np.flatnonzero(np.abs(left) > 4500) / RATE
        assert (spoken[0], spoken[-1]) == (pytest.approx(1.0, abs=0.04), pytest.approx(1.32, abs=0.04))

    async def test_with_a_player_it_is_what_was_played(self, tmp_path: Path) -> None:
        """A player that stops late is heard for longer; and it told the session how long."""
        service, path, player = FakeService(), tmp_path / "call.wav", Player()
        async with SonicSession(transport=service, record_audio=path) as session:
            session.played_by(player)
            loudspeaker = asyncio.create_task(anext_forever(Frames(player, 0.02, silence=True)))
            await pass_time(1.0)
            service.say(*said("a", 4.0, 5))
            for _ in range(50):
                await read_until(session, events.AudioChunk, player)
            await pass_time(1.5)
            service.say(INTERRUPTION)
            async for event in session:
                if isinstance(event, events.Interrupted):
                    assert event.heard == pytest.approx(1.5, abs=0.021)
                    break
            await pass_time(0.5)
            player.stop()
            await pass_time(0.5)
            loudspeaker.cancel()
            await asyncio.wait({loudspeaker})
        _, right = await recorded(path)
        [(start, end, _)] = runs(right)
        assert start == pytest.approx(1.0, abs=0.04)
        assert end == pytest.approx(3.0, abs=0.04)
        assert end - start == player.heard(1)
        assert player.on_read is None

    async def test_a_player_may_be_named_before_the_session_opens(self, tmp_path: Path) -> None:
        player, session = Player(), SonicSession(transport=FakeService(), record_audio=tmp_path / "call.wav")
        session.played_by(player)
        async with session:
            assert player.on_read is not None
            player.play(chunk(0.5, value=4))
            player.handle(events.Interrupted(turn=1))
            player.play(chunk(0.5, turn=2, value=4))
            player.read(RATE // 2)
            await pass_time(1.0)
        assert runs((await recorded(tmp_path / "call.wav"))[1]) == [(0.0, 0.5, 4)]

    async def test_a_player_that_comes_later_takes_over(self, tmp_path: Path) -> None:
        """And so does another one: what was not read is not heard."""
        service, path = FakeService(), tmp_path / "call.wav"
        async with SonicSession(transport=service, record_audio=path) as session:
            service.say(*said("a", 4.0, 5))
            await read_until(session, events.AudioChunk)
            await pass_time(1.0)
            first, second = Player(), Player(48_000)
            for player in (first, first, second):
                session.played_by(player)
            assert first.on_read is None
            await pass_time(1.0)
            second.play(chunk(0.5, value=4))
            second.read(24_000)
            await pass_time(1.0)
        _, right = await recorded(path)
        loud = np.flatnonzero(right) / RATE
        assert runs(right)[0] == (0.0, 1.0, 5)
        assert loud[loud > 1.0][0] == pytest.approx(2.0, abs=0.01)
        assert loud[-1] == pytest.approx(2.5, abs=0.01)

    async def test_an_answer_is_recorded_to_its_end_although_the_session_ends(self, tmp_path: Path) -> None:
        """Whoever asks one question and closes wants the answer, which would play on for seconds."""
        service, path = MemoryConnector(), tmp_path / "call.wav"
        async with SonicSession(transport=service, record_audio=path) as session:
            reply = await session.ask("Hello?")
        _, right = await recorded(path)
        spoken = np.frombuffer(reply.audio, "<i2")
        start = len(right) - len(spoken)
        assert right[start:].tolist() == spoken.tolist()
        assert not right[:start].any()

    async def test_the_recording_has_the_higher_of_the_two_rates(self, tmp_path: Path) -> None:
        path = tmp_path / "call.wav"
        async with SonicSession(transport=FakeService(), record_audio=path, output_rate=8_000):
            await pass_time(1.0)
        assert (await asyncio.to_thread(audio.read_wav, path))[1] == audio.AudioFormat(16_000, 2)

    async def test_the_latency_knows_when_the_answer_was_heard(self) -> None:
        service, player = FakeService(), Player(prebuffer=0)
        async with SonicSession(transport=service) as session:
            session.played_by(player)
            await session.send_text("Hello?")
            await pass_time(1.0)
            service.say(*said("a", 0.8, 5))
            await read_until(session, events.AudioChunk, player)
            await pass_time(0.3)
            player.read(480)  # a slow loudspeaker: 20 ms of it were heard by now
            service.say(messages.OutputContentEnd(content_id="a", type="AUDIO", stop_reason="END_TURN"))
            async for event in session:
                if isinstance(event, events.TurnEnded):
                    assert event.latency.audio == pytest.approx(1.0)
                    assert event.latency.heard == pytest.approx(1.28)
                    break

    async def test_the_file_is_whole_while_the_conversation_goes_on(self, tmp_path: Path) -> None:
        """A program that is killed leaves what it had: any reader opens it."""
        service, path = FakeService(), tmp_path / "call.wav"
        async with SonicSession(transport=service, record_audio=str(path)):
            for second in range(1, 6):
                await pass_time(1.0)
                channels, rate, frames = await asyncio.to_thread(whole, path)
                assert (channels, rate) == (2, RATE)
                assert second - 1 <= frames / RATE <= second

    async def test_a_file_that_cannot_be_created_opens_no_session(self, tmp_path: Path) -> None:
        service = FakeService()
        with pytest.raises(ConfigurationError, match="nowhere does not exist"):
            async with SonicSession(transport=service, record_audio=tmp_path / "nowhere" / "call.wav"):
                pass
        assert service.opened == 0

    async def test_a_session_that_does_not_open_leaves_an_empty_recording(self, tmp_path: Path) -> None:
        service = FakeService()
        service.refusal = OSError("no way")
        with pytest.raises(OSError, match="no way"):
            async with SonicSession(transport=service, record_audio=tmp_path / "call.wav"):
                pass
        assert len((await recorded(tmp_path / "call.wav"))[0]) == 0

    async def test_a_full_disk_ends_the_recording_and_not_the_conversation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        service = FakeService()
        async with SonicSession(transport=service, record_audio=tmp_path / "call.wav") as session:
            monkeypatch.setattr(audio.WavWriter, "write", full)
            await pass_time(3.0)
            service.say(*said("a", 0.8, 5))
            await read_until(session, events.AudioChunk)
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
            f"{tmp_path / 'call.wav'} cannot be written any more: No space left on device"
        ]

    async def test_a_slow_disk_does_not_hold_up_the_conversation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop is watched for whatever blocks it; a thread may wait as long as it takes."""
        write = audio.WavWriter.write

        def slow(self: audio.WavWriter, pcm: bytes) -> None:
            time.sleep(0.02)
            write(self, pcm)

        monkeypatch.setattr(audio.WavWriter, "write", slow)
        async with SonicSession(transport=FakeService(), record_audio=tmp_path / "call.wav"):
            await pass_time(5.0)
        left, _ = await recorded(tmp_path / "call.wav")
        assert len(left) / RATE == pytest.approx(5.0, abs=0.1)

    @pytest.mark.parametrize("wrong", [5, True, b"call.wav", ["call.wav"]])
    async def test_what_is_no_path_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"record_audio is of type .*, but must be a path"):
            SonicSession(record_audio=wrong)

    async def test_cancelling_the_opening_leaves_no_file_open(self, tmp_path: Path) -> None:
        recorder = Recorder(tmp_path / "call.wav")
        opening = asyncio.create_task(recorder.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        await recorder.aclose()
        assert len((await recorded(tmp_path / "call.wav"))[0]) == 0


def whole(path: Path) -> tuple[int, int, int]:
    """What the standard library finds in a file, all of which is there."""
    with wave.open(str(path)) as file:
        frames = file.getnframes()
        assert len(file.readframes(frames)) == frames * 2 * file.getnchannels()
        return file.getnchannels(), file.getframerate(), frames


async def anext_forever(frames: Frames) -> None:
    async for _ in frames:
        pass


@pytest_virtual
async def test_a_demo_with_an_interruption_is_cut_at_its_sample_and_aligned(tmp_path: Path) -> None:
    """The whole of it: a question, an answer, a barge-in, a second answer; opened by another reader."""
    times, spoken, path = dict[str, float](), {1: b"", 2: b""}, tmp_path / "call.wav"
    service = MemoryConnector(await asyncio.to_thread(Scenario.load, EMULATOR / "demo.json"))
    async with SonicSession(transport=service, record_audio=path) as session:
        loop = asyncio.get_running_loop()
        start, answered = loop.time(), asyncio.Event()

        def note(name: str) -> None:
            times.setdefault(name, loop.time() - start)

        async def talk() -> None:
            await pass_time(0.5)
            note("question")
            await session.play_file(EMULATOR / "sounds" / "question.wav")
            await answered.wait()
            await pass_time(5.5)
            note("interruption")
            await session.play_file(EMULATOR / "sounds" / "interruption.wav")

        talking = asyncio.create_task(talk())
        async for event in session:
            match event:
                case events.AudioChunk(turn=turn, pcm=pcm_):
                    note(f"answer {turn}")
                    spoken[turn] += pcm_
                    answered.set()
                case events.Interrupted():
                    note("cut")
                case events.Transcript(role="ASSISTANT", stage="FINAL", turn=2):
                    await session.end()
                case _:
                    pass
        await talking

    await asyncio.to_thread(_check_demo, path, times, spoken)


def _check_demo(path: Path, times: dict[str, float], spoken: dict[int, bytes]) -> None:
    stereo, rate = soundfile.read(path, dtype="int16")
    assert (rate, stereo.shape[1]) == (RATE, 2)
    left, right = stereo[:, 0].astype(float), stereo[:, 1]

    answer, last = (np.frombuffer(spoken[turn], "<i2") for turn in (1, 2))
    begin, cut = round(times["answer 1"] * RATE), round(times["cut"] * RATE)
    assert right[begin:cut].tolist() == answer[: cut - begin].tolist()
    second = round(times["answer 2"] * RATE)
    assert not right[:begin].any()
    assert not right[cut:second].any()
    assert len(answer) > cut - begin
    assert right[second : second + len(last)].tolist() == last.tolist()

    for name in ("question", "interruption"):
        resampler = audio.Resampler(16_000, RATE)
        pcm_ = audio.read_wav(EMULATOR / "sounds" / f"{name}.wav")[0]
        voice = np.frombuffer(resampler.feed(pcm_) + resampler.flush(), "<i2").astype(float)
        around = round(times[name] * RATE)
        lags = range(-960, 961)  # 40 ms
        alike = [float(voice @ left[around + lag : around + lag + len(voice)]) for lag in lags]
        best = int(np.argmax(alike))
        assert alike[best] / float(voice @ voice) > 0.99
        assert 0 < best < len(lags) - 1, f"the {name} is not within 40 ms of when it was spoken"
