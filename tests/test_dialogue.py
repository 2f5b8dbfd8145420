"""`converse` and what it is made of, against a service in memory, with voices and ears of the test."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Self

import pytest

from clocks import pass_time
from fake_portaudio import FakePortAudio
from fakes import FakeService
from novasonic import events, messages
from novasonic.audio import load
from novasonic.devices import Speaker
from novasonic.dialogue import Dialogue, converse, ctrl_c
from novasonic.echo import EchoMode
from novasonic.emulator import MemoryConnector, Say, Scenario, Turn
from novasonic.errors import ConfigurationError, DeviceError, ServiceError
from novasonic.playback import Player
from novasonic.session import SonicSession
from novasonic.sinks import Frames

pytestmark = pytest.mark.clock("fast")

load()

RATE = 16_000


def tone(seconds: float) -> bytes:
    wave = (math.sin(2 * math.pi * 220 * at / RATE) for at in range(round(seconds * RATE)))
    return b"".join(round(8000 * each).to_bytes(2, "little", signed=True) for each in wave)


class Voice:
    """A microphone: speaks, keeps silent, and ends; or fails."""

    sample_rate = RATE
    channels = 1

    def __init__(self, *script: float | asyncio.Event | Exception) -> None:
        self._script = script  # seconds of speech, or of silence where negative

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for each in self._script:
            if isinstance(each, Exception):
                raise each
            if isinstance(each, asyncio.Event):
                await each.wait()
                due = loop.time()
                continue
            pcm = tone(each) if each > 0 else bytes(2 * round(-each * RATE))
            for at in range(0, len(pcm), 640):
                yield pcm[at : at + 640]
                due += 0.02
                await pass_time(max(0.0, due - loop.time()))


class Ears(Player):
    """A loudspeaker that plays at the loop's speed, within `async with`."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def _play(self) -> None:
        async for _ in Frames(self):
            if self.played > 0.5:
                self.began.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_a_conversation_ends_with_its_microphone_once_the_answer_was_heard() -> None:
    service = MemoryConnector(Scenario(turns=[Turn(heard="how are you?", says=[Say("Fine.", seconds=4)])]))
    told: list[events.Event] = []
    async with Ears() as ears:
        history = await converse(
            microphone=Voice(1.5), speaker=ears, on_event=told.append, transport=service, voice="tiffany"
        )
    assert [(each.role, each.text) for each in history] == [("USER", "how are you?"), ("ASSISTANT", "Fine.")]
    assert ears.played == pytest.approx(4.0, abs=0.1)
    assert ears.queued == 0
    assert isinstance(told[0], events.SessionStarted)
    assert isinstance(told[-1], events.SessionEnded)


async def test_whoever_breaks_in_is_heard_and_the_speech_stops() -> None:
    answers = [
        Turn(heard="tell me all", says=[Say("It is a long story.", seconds=20)]),
        Turn(heard="stop", says=[Say("Fine.", seconds=1)]),
    ]
    async with Ears() as ears:
        history = await converse(
            microphone=Voice(1.0, -0.5, ears.began, 1.0),
            speaker=ears,
            transport=MemoryConnector(Scenario(turns=answers)),
        )
    first = history[1]
    assert first.interrupted
    assert first.heard is not None
    assert 0.4 < first.heard < 10
    assert ears.played == pytest.approx(first.heard + 1.0, abs=0.2)
    assert [each.text for each in history if each.role == "USER"] == ["tell me all", "stop"]


async def test_a_microphone_that_says_nothing_ends_soon() -> None:
    async with Ears() as ears:
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert await converse(microphone=Voice(-0.1), speaker=ears, transport=FakeService()) == ()
        assert loop.time() - before < 6


async def test_a_loudspeaker_that_nobody_reads_holds_up_nothing() -> None:
    service = MemoryConnector(Scenario(turns=[Turn(heard="hello", says=[Say("Hello.", seconds=3)])]))
    history = await converse(microphone=Voice(1.0), speaker=Player(), transport=service)
    assert history[-1].text == "Hello."


async def test_what_the_service_said_before_it_ended_is_heard() -> None:
    service = FakeService()
    async with Ears() as ears:
        task = asyncio.create_task(converse(microphone=Voice(-60), speaker=ears, transport=service))
        await service.hears(messages.AudioInput)
        service.say(
            messages.OutputContentStart(content_id="a", type="AUDIO", role="ASSISTANT"),
            messages.AudioOutput(content_id="a", content=b"\1\1" * 24_000 * 3),
            messages.OutputContentEnd(content_id="a", type="AUDIO", stop_reason="END_TURN"),
            messages.CompletionEnd(stop_reason="END_TURN"),
        )
        service.say_raw(None)
        await task
        assert ears.played == pytest.approx(3.0)


async def test_what_goes_wrong_is_raised() -> None:
    async with Ears() as ears:
        with pytest.raises(DeviceError, match="gone"):
            await converse(microphone=Voice(0.1, DeviceError("gone")), speaker=ears, transport=FakeService())
        service = FakeService()
        service.refusal = ServiceError("not today")
        with pytest.raises(ServiceError, match="not today"):
            await converse(microphone=Voice(1.0), speaker=ears, transport=service)


async def test_a_conversation_that_is_cancelled_leaves_nothing_behind() -> None:
    service = FakeService()
    async with Ears() as ears:
        task = asyncio.create_task(converse(microphone=Voice(-60), speaker=ears, transport=service))
        await service.hears(messages.AudioInput)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert service.closed


async def test_an_echo_is_warned_of() -> None:
    turns = [
        Turn(heard="what is the weather", says=[Say("It is sunny in Paris today.", seconds=4)]),
        Turn(heard="it is sunny in paris", says=[Say("So it is.", seconds=0.5)]),
    ]
    async with Ears() as ears:
        with pytest.warns(UserWarning, match="the microphone hears the loudspeaker"):
            await converse(
                microphone=Voice(1.0, ears.began, 1.0),
                speaker=ears,
                transport=MemoryConnector(Scenario(turns=turns)),
            )


# --- Ctrl-C -----------------------------------------------------------------------------------------------


async def test_ctrl_c_ends_a_conversation_and_returns_it() -> None:
    turn = Turn(heard="tell me", says=[Say("A long story.", seconds=60)])
    service = MemoryConnector(Scenario(turns=[turn]))
    before = signal.getsignal(signal.SIGINT)
    async with Ears() as ears:
        task = asyncio.create_task(converse(microphone=Voice(1.0, -600), speaker=ears, transport=service))
        await ears.began.wait()
        os.kill(os.getpid(), signal.SIGINT)
        history = await task
    assert [each.text for each in history] == ["tell me", "A long story."]
    assert ears.queued == 0
    assert signal.getsignal(signal.SIGINT) is before


async def test_ctrl_c_while_it_opens_ends_it_as_well() -> None:
    service = FakeService()
    service.accepting.clear()
    async with Ears() as ears:
        task = asyncio.create_task(converse(microphone=Voice(1.0), speaker=ears, transport=service))
        await pass_time(1)
        os.kill(os.getpid(), signal.SIGINT)
        assert await task == ()


async def test_a_second_ctrl_c_is_for_the_program() -> None:
    """Whoever presses it again does not want to wait for a goodbye."""
    heard: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append("program"))
    try:
        with ctrl_c(lambda: heard.append("first")):
            os.kill(os.getpid(), signal.SIGINT)
            await pass_time(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            await pass_time(0.1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == ["first", "program"]


async def test_elsewhere_than_in_the_main_thread_ctrl_c_stays_as_it_is() -> None:
    def in_thread() -> None:
        async def main() -> None:
            with ctrl_c(lambda: None):
                pass

        asyncio.run(main())

    before = signal.getsignal(signal.SIGINT)
    await asyncio.to_thread(in_thread)
    assert signal.getsignal(signal.SIGINT) is before


# --- devices ----------------------------------------------------------------------------------------------


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> FakePortAudio:
    fake = FakePortAudio("mic", "spk")
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


async def test_devices_are_opened_and_closed(portaudio: FakePortAudio) -> None:
    service = FakeService()
    task = asyncio.create_task(converse(echo="half-duplex", transport=service))
    _, microphone = await asyncio.to_thread(portaudio.wait_for_streams, 2)
    await service.hears(messages.AudioInput)  # silence, so far
    for _ in range(10):
        microphone.hear(b"\1\1" * 960)
    while not any(service.audio):
        await service.hears(messages.AudioInput, len(service.all_of(messages.AudioInput)) + 1)
    os.kill(os.getpid(), signal.SIGINT)
    assert await task == ()
    assert [each.state for each in portaudio.streams] == ["closed", "closed"]


async def test_a_device_that_is_not_there_is_told_before_the_service_is_bothered(
    portaudio: FakePortAudio,
) -> None:
    service = FakeService()
    with pytest.raises(ConfigurationError, match="no loudspeaker is called 'spk 2'; did you mean 'spk'"):
        await converse(speaker="spk 2", transport=service)
    assert service.opened == 0
    assert portaudio.streams == []


@pytest.mark.parametrize("echo", ["cancel", "half-duplex"])
async def test_echo_cannot_be_kept_from_a_microphone_that_is_not_ours(echo: EchoMode) -> None:
    with pytest.raises(ConfigurationError, match=f"echo is '{echo}', which needs"):
        await converse(microphone=Voice(1.0), speaker=Player(), echo=echo, transport=FakeService())
    with pytest.raises(ConfigurationError, match="echo is 'loud'"):
        await converse(echo="loud", transport=FakeService())  # type: ignore[arg-type]


async def test_a_loudspeaker_that_is_unplugged_ends_the_conversation(portaudio: FakePortAudio) -> None:
    service = MemoryConnector(
        Scenario(turns=[Turn(heard="hello", says="Hello.")]),
    )
    async with Speaker() as speaker, SonicSession(transport=service) as session:
        dialogue = Dialogue(session, Voice(1.0, -60), speaker)
        portaudio.streams[0].unplug()
        with pytest.raises(DeviceError, match="the loudspeaker 'spk' is gone"):
            await dialogue.run()
