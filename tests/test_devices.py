"""Microphones and loudspeakers: on devices in memory, and on a real sound server without a sound card."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_portaudio import FakePortAudio
from fakes import FakeService
from novasonic import events, messages
from novasonic.devices import Microphone, Speaker, list_devices
from novasonic.echo import can_cancel
from novasonic.errors import ConcurrencyError, ConfigurationError, DeviceError, LocalProtocolError
from novasonic.session import SonicSession
from sound_server import SoundServer, sound_server, why_not

QUIET = bytes(960)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakePortAudio]:
    def do(*names: str, **settings: tuple[int, ...]) -> FakePortAudio:
        fake = FakePortAudio(*names, **settings)
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return do


@pytest.fixture
def portaudio(install: Callable[..., FakePortAudio]) -> FakePortAudio:
    return install("Built-in mic", "USB headset mic spk", "Built-in spk")


def speech(milliseconds: int, *, turn: int = 1, rate: int = 24_000) -> events.AudioChunk:
    pcm = b"\1\1" * (milliseconds * rate // 1000)
    return events.AudioChunk(turn=turn, pcm=pcm, sample_rate=rate)


# --- which there are --------------------------------------------------------------------------------------


def test_the_devices_are_listed(portaudio: FakePortAudio) -> None:
    first, headset, last = list_devices()
    assert (first.index, first.name, first.inputs, first.outputs) == (0, "Built-in mic", 2, 0)
    assert (first.system, first.sample_rate) == ("Memory", 48_000)
    assert [each.is_default_input for each in (first, headset, last)] == [False, True, False]
    assert [each.is_default_output for each in (first, headset, last)] == [False, False, True]
    assert portaudio.streams == []


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (None, "USB headset mic spk"),
        (0, "Built-in mic"),
        ("Built-in mic", "Built-in mic"),
        ("built-in", "Built-in mic"),
        ("headset", "USB headset mic spk"),
    ],
)
@pytest.mark.usefixtures("portaudio")
async def test_a_microphone_is_found(device: str | int | None, name: str) -> None:
    async with Microphone(device) as microphone:
        assert microphone.name == name


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("built in mic", "no microphone is called 'built in mic'; did you mean 'Built-in mic'?"),
        ("Yeti", "no microphone is called 'Yeti'; there are 'Built-in mic', 'USB headset mic spk'"),
        ("mic", "device 'mic' is one of several microphones: 'Built-in mic', 'USB headset mic spk'"),
        ("", "no microphone is called ''; there are"),
        (2, "device 2 is no microphone; those that are have the indexes 0, 1"),
        (9, "device 9 is no microphone"),
    ],
)
@pytest.mark.usefixtures("portaudio")
async def test_a_device_that_is_not_there_is_told_with_those_that_are(
    device: str | int, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await Microphone(device).__aenter__()
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"device": 1.5}, "device is 1.5, but must be a name"),
        ({"device": True}, "device is True"),
        ({"block": 1.0}, "block is 1.0, but must be 0.002 to 0.5 seconds"),
        ({"block": "20ms"}, "block is '20ms'"),
        ({"sample_rate": 4000}, "sample_rate is 4000"),
        ({"echo": "loud"}, "echo is 'loud'"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_opened(
    settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Microphone(**settings)  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)


async def test_a_machine_without_devices_is_told_apart(install: Callable[..., FakePortAudio]) -> None:
    install()
    assert list_devices() == ()
    with pytest.raises(DeviceError, match="this machine has no microphone; plug one in"):
        await Microphone().__aenter__()
    with pytest.raises(DeviceError, match="this machine has no loudspeaker; plug one in"):
        await Speaker().__aenter__()


async def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ImportError, match=r"pip install 'novasonic\[devices\]'"):
        await Microphone().__aenter__()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise OSError('PortAudio library not found')", "PortAudio is not installed"),
        ("raise RuntimeError('Host error')", "PortAudio does not start: Host error"),
    ],
)
async def test_a_missing_portaudio_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, sentence: str
) -> None:
    """It comes with the system, not with Python: its absence is the likeliest trouble on Linux."""
    (tmp_path / "sounddevice.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(DeviceError, match=sentence):
        await Speaker().__aenter__()


# --- opening and closing ----------------------------------------------------------------------------------


async def test_what_portaudio_refuses_is_one_sentence(portaudio: FakePortAudio) -> None:
    portaudio.refusal = "Device unavailable"
    with pytest.raises(
        DeviceError, match="the loudspeaker 'Built-in spk' cannot be opened: Device unavailable"
    ):
        await Speaker().__aenter__()


async def test_a_device_is_opened_once(portaudio: FakePortAudio) -> None:
    speaker = Speaker()
    async with speaker:
        assert portaudio.streams[0].state == "running"
    assert portaudio.streams[0].state == "closed"
    with pytest.raises(LocalProtocolError, match="a loudspeaker is opened once"):
        await speaker.__aenter__()


async def test_what_is_not_open_says_so() -> None:
    with pytest.raises(LocalProtocolError, match="the microphone is not open yet"):
        await anext(Microphone())
    with pytest.raises(LocalProtocolError, match="the microphone is not open yet"):
        _ = Microphone().sample_rate
    with pytest.raises(LocalProtocolError, match="the loudspeaker is not open yet"):
        Speaker().play(speech(20))
    assert Speaker().heard(1) is None


@pytest.mark.clock("fast")
async def test_a_driver_that_hangs_holds_up_nobody(portaudio: FakePortAudio) -> None:
    """Neither at opening nor at closing; and what opens after all is closed again."""
    portaudio.gate.clear()
    with pytest.raises(DeviceError, match="does not open within 10 s; another program may hold it"):
        await Microphone().__aenter__()
    portaudio.gate.set()
    assert await asyncio.to_thread(portaudio.streams[0].is_closed.wait, 10)
    async with Microphone():
        portaudio.closing_gate.clear()
    portaudio.closing_gate.set()


async def test_an_opening_that_is_cancelled_leaves_no_open_device(portaudio: FakePortAudio) -> None:
    portaudio.gate.clear()
    opening = asyncio.create_task(Speaker().__aenter__())
    await asyncio.to_thread(portaudio.wait_for_streams, 1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    portaudio.gate.set()
    assert await asyncio.to_thread(portaudio.streams[0].is_closed.wait, 10)


# --- hearing ----------------------------------------------------------------------------------------------


async def test_a_microphone_yields_what_the_device_hears(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        (stream,) = portaudio.streams
        assert (microphone.sample_rate, microphone.channels, microphone.echo) == (48_000, 1, "off")
        assert stream.settings["blocksize"] == 960
        stream.hear(b"\1\0" * 960)
        stream.hear(b"\2\0" * 960)
        assert await anext(microphone) == b"\1\0" * 960
        assert await anext(microphone) == b"\2\0" * 960
        assert microphone.captured == pytest.approx(0.04)


async def test_whoever_waits_is_woken_by_the_devices_thread(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        waiting = asyncio.create_task(anext(microphone))
        await asyncio.sleep(0)
        threading.Thread(target=portaudio.streams[0].hear, args=(QUIET,)).start()
        assert await waiting == QUIET


async def test_the_loop_is_left_alone_while_nobody_waits(
    portaudio: FakePortAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hop from thread to loop for each of fifty frames a second is work for nothing."""
    async with Microphone() as microphone:
        hops: list[object] = []
        monkeypatch.setattr(
            asyncio.get_running_loop(), "call_soon_threadsafe", lambda *given: hops.append(given)
        )
        for _ in range(50):
            portaudio.streams[0].hear(QUIET)
        assert hops == []
        monkeypatch.undo()
        for _ in range(50):
            await anext(microphone)


async def test_a_read_that_is_cancelled_loses_nothing(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(microphone)
        portaudio.streams[0].hear(QUIET)
        assert await anext(microphone) == QUIET


async def test_two_readers_are_one_too_many(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        first = asyncio.create_task(anext(microphone))
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError, match="another task reads this microphone"):
            await anext(microphone)
        portaudio.streams[0].hear(QUIET)
        await first


async def test_what_nobody_reads_is_dropped_from_the_oldest_on(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        for number in range(105):
            portaudio.streams[0].hear(bytes([number, 0]) * 960)
        assert (await anext(microphone))[0] == 5  # two seconds are kept
        assert microphone.overruns == 5
        portaudio.streams[0].hear(QUIET, overflow=True)
        assert microphone.overruns == 6


async def test_a_muted_microphone_hears_silence(portaudio: FakePortAudio) -> None:
    async with Microphone() as microphone:
        microphone.mute = True
        portaudio.streams[0].hear(b"\1\1" * 960)
        microphone.mute = False
        portaudio.streams[0].hear(b"\1\1" * 960)
        assert [await anext(microphone) for _ in range(2)] == [bytes(1920), b"\1\1" * 960]


@pytest.mark.usefixtures("portaudio")
async def test_iterating_ends_when_the_microphone_is_closed() -> None:
    async with Microphone() as microphone:
        reading = asyncio.create_task(anext(microphone, None))
        await asyncio.sleep(0)
    assert await reading is None
    assert [piece async for piece in microphone] == []


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_microphone_that_is_unplugged_says_so(portaudio: FakePortAudio, *, waiting: bool) -> None:
    async with Microphone() as microphone:
        portaudio.streams[0].hear(QUIET)
        await anext(microphone)
        reading = asyncio.create_task(anext(microphone))
        if waiting:
            await asyncio.sleep(0)
        threading.Thread(target=portaudio.streams[0].unplug).start()
        with pytest.raises(DeviceError, match="the microphone 'USB headset mic spk' is gone"):
            await reading


@pytest.mark.clock("virtual")
async def test_a_microphone_that_falls_silent_says_so(portaudio: FakePortAudio) -> None:
    """Not every driver tells when a device is pulled out."""
    async with Microphone() as microphone:
        portaudio.streams[0].hear(QUIET)
        await anext(microphone)
        with pytest.raises(DeviceError, match="has been dead for 5 s"):
            await anext(microphone)


async def test_a_session_takes_a_microphone_as_it_is(portaudio: FakePortAudio) -> None:
    """It knows its rate and its channels; a caller who repeats them can only be wrong."""
    service = FakeService()
    async with Microphone() as microphone, SonicSession(transport=service, silence=False) as session:
        session.listen_to(microphone)
        for _ in range(10):
            portaudio.streams[0].hear(b"\0\x20" * 960)
        await service.hears(messages.AudioInput, 5)
        sent = session.stats.speech_sent
    assert sent == pytest.approx(0.2 - 0.021, abs=0.032)  # a resampler and half a frame hold the rest


async def test_a_microphone_that_fails_ends_the_session(portaudio: FakePortAudio) -> None:
    service = FakeService()
    async with Microphone() as microphone, SonicSession(transport=service) as session:
        session.listen_to(microphone)
        portaudio.streams[0].unplug()
        with pytest.raises(DeviceError, match="is gone"):
            async for _ in session:
                pass


# --- playing ----------------------------------------------------------------------------------------------


async def test_a_loudspeaker_plays_and_stops_within_a_block(portaudio: FakePortAudio) -> None:
    async with Speaker() as speaker:
        (stream,) = portaudio.streams
        # Two of these are in the device: the 20 ms that play on.
        assert (stream.settings["blocksize"], stream.settings["latency"]) == (240, 0.02)
        assert speaker.sample_rate == 24_000
        speaker.handle(speech(1000))
        assert speaker.playing
        played = [stream.play() for _ in range(20)]
        assert any(played)
        assert speaker.played == speaker.heard(1) == pytest.approx(0.2)
        assert speaker.queued == pytest.approx(0.8)
        speaker.handle(events.Interrupted(turn=1))
        assert not any(stream.play())
        assert not speaker.playing
        speaker.play(speech(1000, turn=2))
        assert any(stream.play())
        speaker.stop()
        assert not any(stream.play())


async def test_speech_is_resampled_for_a_device_that_cannot_play_it(
    install: Callable[..., FakePortAudio],
) -> None:
    portaudio = install("spk", rates=(48_000,))
    async with Speaker() as speaker:
        assert speaker.sample_rate == 48_000
        assert portaudio.streams[0].settings["samplerate"] == 48_000
        speaker.handle(speech(500))
        speaker.handle(
            events.TurnEnded(turn=1, interrupted=False, reason="END_TURN", latency=events.Latency())
        )
        while speaker.playing:
            portaudio.streams[0].play()
        assert speaker.heard(1) == pytest.approx(0.5, abs=0.01)


async def test_torn_speech_is_counted_and_torn_silence_is_not(portaudio: FakePortAudio) -> None:
    async with Speaker() as speaker:
        portaudio.streams[0].play(underflow=True)
        assert speaker.underruns == 0
        speaker.play(speech(1000))
        portaudio.streams[0].play(underflow=True)
        assert speaker.underruns == 1


async def test_a_loudspeaker_that_is_unplugged_says_so(portaudio: FakePortAudio) -> None:
    async with Speaker() as speaker:
        portaudio.streams[0].unplug()
        for use in (speaker.play, speaker.handle):
            with pytest.raises(DeviceError, match="the loudspeaker 'Built-in spk' is gone; was it"):
                use(speech(20))


async def test_what_passes_a_device_can_be_tapped(portaudio: FakePortAudio) -> None:
    passed: list[bytes] = []
    async with Speaker() as speaker, Microphone() as microphone:
        ends = [speaker.tap(passed.append), microphone.tap(passed.append)]
        speaker_stream, microphone_stream = portaudio.streams
        speaker_stream.play()
        microphone_stream.hear(b"\1\1" * 10)
        assert passed == [bytes(480), b"\1\1" * 10]
        for end in (*ends, *ends):
            end()
        speaker_stream.play()
        microphone_stream.hear(QUIET)
        assert len(passed) == 2


@pytest.mark.usefixtures("portaudio")
async def test_a_session_asks_a_loudspeakers_player() -> None:
    """A recording follows what that has played, not what came."""
    async with Speaker() as speaker, SonicSession(transport=FakeService()) as session:
        session.played_by(speaker)
        assert session._conversation.player is speaker.player


# --- echo -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not can_cancel(), reason="needs the extra aec")
async def test_a_microphone_is_told_what_the_loudspeaker_plays(portaudio: FakePortAudio) -> None:
    async with Speaker() as speaker, Microphone(echo_of=speaker) as microphone:
        assert (microphone.echo, microphone.sample_rate) == ("cancel", 16_000)
        playing, hearing = portaudio.streams
        heard = 0
        for _ in range(25):
            playing.play()
            playing.play()
            hearing.hear(bytes(1920))
            while microphone._pieces:
                heard += len(await anext(microphone))
        assert heard == pytest.approx(2 * 16_000 * 0.5, abs=2 * 16_000 * 0.06)


async def test_a_half_duplex_microphone_is_silent_while_the_assistant_speaks(
    portaudio: FakePortAudio,
) -> None:
    async with Speaker() as speaker, Microphone(echo_of=speaker, echo="half-duplex") as microphone:
        assert (microphone.echo, microphone.sample_rate) == ("half-duplex", 48_000)
        playing, hearing = portaudio.streams
        voice = b"\1\1" * 960
        hearing.hear(voice)
        speaker.play(speech(500))
        playing.play()
        for _ in range(25):
            hearing.hear(voice)
        heard = [any(await anext(microphone)) for _ in range(26)]
        assert heard[0]
        assert not any(heard[1:17])  # 0.3 s, and what the devices hold
        assert all(heard[20:])


async def test_a_closed_microphone_listens_to_the_loudspeaker_no_more(portaudio: FakePortAudio) -> None:
    async with Speaker() as speaker:
        async with Microphone(echo_of=speaker, echo="half-duplex"):
            assert len(speaker._taps) == 1
        assert speaker._taps == []
        assert portaudio.streams[1].state == "closed"


@pytest.mark.usefixtures("portaudio")
async def test_echo_is_that_of_a_loudspeaker_that_is_open() -> None:
    with pytest.raises(LocalProtocolError, match="the loudspeaker is not open yet"):
        await Microphone(echo_of=Speaker()).__aenter__()


# --- on a real sound server -------------------------------------------------------------------------------

TONE = 440

# PortAudio looks for devices once in the life of a process, so these are programs of their own.
LOOP = """
import array, asyncio, json, math, pathlib, sys
from novasonic.devices import Microphone, Speaker
from novasonic.events import AudioChunk

TONE = array.array("h", (round(9000 * math.sin(2 * math.pi * 440 * at / 24_000)) for at in range(48_000)))

async def main():
    async with Speaker() as speaker, Microphone(sample_rate=48_000, block=0.01) as microphone:
        heard = bytearray()
        async def until(seconds):
            async for piece in microphone:
                heard.extend(piece)
                if microphone.captured >= seconds:
                    break
        await until(0.2)
        stops = []
        for turn in range(1, 6):
            speaker.play(AudioChunk(turn=turn, pcm=TONE.tobytes(), sample_rate=24_000))
            await until(microphone.captured + 0.53)
            stops.append(microphone.captured)
            speaker.stop()
            await until(microphone.captured + 0.3)
        pathlib.Path("heard.pcm").write_bytes(heard)
        print(json.dumps({
            "stops": stops, "torn": speaker.underruns + microphone.overruns,
            "played": [speaker.heard(turn) for turn in range(1, 6)],
        }))

asyncio.run(main())
"""

UNPLUGGED = """
import asyncio
from novasonic import DeviceError
from novasonic.devices import Microphone, Speaker
from novasonic.events import AudioChunk

async def main():
    async with Speaker() as speaker, Microphone() as microphone:
        await anext(microphone)
        print("ready", flush=True)
        try:
            async for piece in microphone:
                pass
        except DeviceError as exc:
            print(exc)
        try:
            while True:  # its own thread notices in its own time
                speaker.play(AudioChunk(turn=1, pcm=bytes(2), sample_rate=24_000))
                await asyncio.sleep(0.01)
        except DeviceError as exc:
            print(exc)

asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SoundServer]:
    if reason := why_not():
        pytest.skip(reason)
    with sound_server(tmp_path) as running:
        yield running


def run(program: str, server: SoundServer, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=server.env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tone_that_is_played_is_heard_without_gaps_until_it_is_stopped(
    server: SoundServer, tmp_path: Path
) -> None:
    """Loudspeaker, driver, sound server, driver, microphone: all that lies between two people but the air.

    The time is that of the recording: from what had been captured when `stop()` was called to the last sound
    in it. That is the loudspeaker's delay and the microphone's as well.
    """
    for _ in range(3):  # a machine that stands still for a moment tears any sound, and cannot always tell
        report = json.loads(run(LOOP, server, tmp_path))
        heard = np.frombuffer((tmp_path / "heard.pcm").read_bytes(), "<i2").astype(float)
        sounds = list(bursts(heard))
        assert len(sounds) >= 5
        if not report["torn"] and len(sounds) == 5 and not any(gaps(heard[a:b]) for a, b in sounds):
            break
    else:
        pytest.fail("the tone was torn three times in a row")
    spectrum = np.abs(np.fft.rfft(heard[sounds[0][0] : sounds[0][1]]))
    assert np.argmax(spectrum) * 48_000 / (sounds[0][1] - sounds[0][0]) == pytest.approx(TONE, abs=2)
    for (start, end), played in zip(sounds, report["played"], strict=True):
        assert (end - start) / 48_000 == pytest.approx(played, abs=0.005)
    late = [end / 48_000 - stop for (_, end), stop in zip(sounds, report["stops"], strict=True)]
    assert sorted(late)[2] <= 0.06, late


def bursts(heard: Any) -> Iterator[tuple[int, int]]:
    """Where there is sound, with less than 100 ms between its parts."""
    loud = np.flatnonzero(np.abs(heard) > 300)
    for part in np.split(loud, np.flatnonzero(np.diff(loud) > 4800) + 1):
        yield int(part[0]), int(part[-1]) + 1


def gaps(tone: Any) -> int:
    """How often a tone loses its place: its phase against a clock jumps where samples are missing."""
    step = 240
    inner = tone[480 : len(tone) - 480]
    turning = inner * np.exp(-2j * np.pi * TONE * np.arange(len(inner)) / 48_000)
    means = turning[: len(turning) // step * step].reshape(-1, step).mean(axis=1)
    smooth = np.convolve(means, np.ones(10) / 10, "valid")  # 50 ms: whole periods, so nothing else is left
    jumps = np.abs(np.angle(smooth[10:] / smooth[:-10]))
    return int(np.count_nonzero(jumps > 0.3) + np.count_nonzero(np.abs(smooth) < 3000))


@pytest.mark.parametrize("what", ["die", "freeze"])
def test_what_is_unplugged_in_the_middle_is_one_sentence_each(
    server: SoundServer, tmp_path: Path, what: str
) -> None:
    """A driver that hangs tells nothing, and can be neither closed nor waited for at the program's end."""
    with subprocess.Popen(
        [sys.executable, "-c", UNPLUGGED], env=server.env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        getattr(server, what)()
        try:
            said, _ = program.communicate(timeout=30)
        finally:
            program.kill()  # one that hangs would outlive the test
    # Even of a server that has died ALSA does not always tell.
    how = r"(is gone|has been dead for 5 s); was it unplugged\?"
    assert re.fullmatch(f"the microphone 'default' {how}\nthe loudspeaker 'default' {how}\n", said)
    assert program.returncode == 0


ECHO = """
import asyncio, sys
from novasonic import Interrupted
from novasonic.audio import load
from novasonic.devices import Microphone, Speaker
from novasonic.dialogue import Dialogue
from novasonic.emulator import MemoryConnector, Say, Scenario, Turn
from novasonic.session import SonicSession

ANSWER = [Say("One.", sound="answer-1.wav"), Say("Two.", sound="answer-2.wav")]
SERVICE = MemoryConnector(Scenario(turns=[Turn(typed="*", says=ANSWER)]))

async def main(cancel):
    broken = []
    async with Speaker() as speaker, Microphone(echo_of=speaker if cancel else None) as microphone:
        async with SonicSession(transport=SERVICE) as session:
            def note(event):
                if isinstance(event, Interrupted):
                    broken.append(event)
                    dialogue.end()
            dialogue = Dialogue(session, microphone, speaker, on_event=note)
            running = asyncio.create_task(dialogue.run())
            await session.send_text("Tell me of the weather.")
            await asyncio.wait({running}, timeout=7)
            dialogue.end()
            await running
    print(microphone.echo, len(broken))

load()
asyncio.run(main(sys.argv[1] == "cancel"))
"""


@pytest.mark.skipif(not can_cancel(), reason="needs the extra aec")
@pytest.mark.parametrize(("how", "said"), [("off", "off 1\n"), ("cancel", "cancel 0\n")])
def test_the_assistant_does_not_break_in_on_itself(
    server: SoundServer, tmp_path: Path, how: str, said: str
) -> None:
    """The microphone hears all that the loudspeaker plays: without help, each answer is its own end."""
    assert run(ECHO, server, tmp_path, how) == said
