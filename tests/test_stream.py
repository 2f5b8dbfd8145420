"""One stream: what goes out on it and in which order, and how another one takes over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 - its profile
from clocks import VirtualLoop, pass_time
from fakes import FakeService
from novasonic import messages
from novasonic.continuation import alternating, trimmed
from novasonic.conversation import Message
from novasonic.emulator.rules import Judge
from novasonic.emulator.scenario import Behaviour
from novasonic.errors import LocalProtocolError, ServiceError, StreamLostError
from novasonic.lifecycle import Lifecycle, State
from novasonic.messages import InputMessage, OutputMessage
from novasonic.models import lookup
from novasonic.outgoing import Outgoing
from novasonic.stream import Stream, open_stream

pytestmark = pytest.mark.clock("virtual")

RATE: Final = 16_000
FRAME: Final = bytes(1024)

OPENING: Final = (
    messages.SessionStart(),
    messages.PromptStart(prompt_name="p", voice="tiffany"),
    *messages.text_block("Be brief.", prompt_name="p", role="SYSTEM"),
)


class Caller:
    """Whoever owns streams, and what they tell."""

    def __init__(self) -> None:
        self.service = FakeService()
        self.sent: list[InputMessage] = []
        self.received: list[OutputMessage] = []
        self.ends: list[BaseException | None] = []
        self._streams: list[Stream] = []

    async def open(self, service: FakeService | None = None) -> Stream:
        async def received(message: OutputMessage) -> None:
            self.received.append(message)

        stream = await open_stream(
            service or self.service,
            OPENING,
            timeout=1.0,
            prompt_name="p",
            sample_rate=RATE,
            on_sent=self.sent.append,
            on_received=received,
            on_ended=self.ends.append,
        )
        self._streams.append(stream)
        return stream

    async def aclose(self) -> None:
        for stream in self._streams:
            await stream.aclose()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    caller = Caller()
    yield caller
    await caller.aclose()


@pytest.fixture
def service(caller: Caller) -> FakeService:
    return caller.service


def texts(*words: str) -> list[Sequence[InputMessage]]:
    """A run for each."""
    return [
        messages.text_block(word, prompt_name="p", role="USER", interactive=True, content_name=word)
        for word in words
    ]


def kinds(heard: Sequence[InputMessage]) -> list[str]:
    return [type(message).__name__ for message in heard]


def judge(heard: Sequence[InputMessage]) -> Judge:
    """See to it that both judges of a client accept what it said, in full."""
    lifecycle, found = Lifecycle(), Judge(lookup("amazon.nova-2-sonic-v1:0"), Behaviour(text_bytes=1000))
    for message in heard:
        lifecycle.send(message)
        found.judge(messages.encode(message))
    assert lifecycle.state is found.state
    return found


# --- before it listens ------------------------------------------------------------------------------------


async def test_a_stream_that_was_opened_waits_to_be_told_more(caller: Caller, service: FakeService) -> None:
    stream = await caller.open()
    await pass_time(30)
    assert service.heard == caller.sent == list(OPENING)
    assert not stream.ended


async def test_a_stream_that_never_listened_says_a_goodbye_without_audio(
    caller: Caller, service: FakeService
) -> None:
    """The service knows of no audio block, and rejects the end of one."""
    stream = await caller.open()
    stream.finish()
    assert await stream.wait_ended(5)
    assert kinds(service.heard[len(OPENING) :]) == ["PromptEnd", "SessionEnd"]
    judge(service.heard).judge_end()
    assert service.input_ended
    assert caller.ends == [None]


async def test_a_stream_may_be_lost_before_it_listens(caller: Caller, service: FakeService) -> None:
    stream = await caller.open()
    service.say_raw(ServiceError("not today"))
    assert await stream.wait_ended(5)
    assert stream.ended
    assert [str(failure) for failure in caller.ends] == ["not today"]


# --- beginning --------------------------------------------------------------------------------------------


async def test_a_stream_that_begins_hears_all_that_waits(caller: Caller, service: FakeService) -> None:
    stream, voice = await caller.open(), Outgoing(RATE)
    for _ in range(3):
        await voice.put(FRAME)
    stream.begin(voice)
    await service.hears(messages.AudioInput, 3)
    assert kinds(service.heard[len(OPENING) :]) == ["InputContentStart", *["AudioInput"] * 3]
    judge(service.heard)


async def test_a_stream_hears_what_was_said_before_anything_else(
    caller: Caller, service: FakeService
) -> None:
    stream, voice = await caller.open(), Outgoing(RATE)
    await voice.put(FRAME)
    history = [("USER", "Hi."), ("ASSISTANT", "Hello. " * 500), ("USER", "How are you?")]
    stream.begin(voice, messages.history_blocks(history, prompt_name="p"))  # type: ignore[arg-type]
    prompt = stream.post(texts("What else?")[0])
    await service.hears(messages.AudioInput)
    assert prompt.done()  # what is to be answered comes before the first sound, too
    assert judge(service.heard).state is State.LISTENING
    blocks = [message for message in service.all_of(messages.InputContentStart) if message.role != "SYSTEM"]
    assert [(block.type, block.role, block.interactive) for block in blocks] == [
        ("TEXT", "USER", False),
        ("TEXT", "ASSISTANT", False),
        ("TEXT", "USER", False),
        ("AUDIO", "USER", True),
        ("TEXT", "USER", True),
    ]
    said = {block.content_name: "" for block in blocks}
    for part in service.all_of(messages.TextInput)[1:]:
        said[part.content_name] += part.content
    assert list(said.values()) == ["Hi.", "Hello. " * 500, "How are you?", "", "What else?"]


_histories = st.lists(
    st.builds(Message, role=st.sampled_from(["USER", "ASSISTANT"]), text=st.text("ab é😀", max_size=12)),
    max_size=8,
)


@given(_histories, st.integers(4, 12), st.integers(0, 60), st.booleans())
def test_whatever_was_said_before_can_be_told(
    history: list[Message], limit: int, max_bytes: int, speaks: bool
) -> None:
    """By the rules of the library and by those of the emulator, from the first word to the goodbye."""

    async def tell(caller: Caller) -> None:
        stream, voice = await caller.open(), Outgoing(RATE)
        if speaks:
            await voice.put(FRAME)
        told = trimmed(alternating(history), max_bytes)
        stream.begin(voice, messages.history_blocks(told, prompt_name="p", limit=limit))
        stream.finish()
        assert await stream.wait_ended(5)
        judge(caller.service.heard).judge_end()
        assert caller.ends == [None]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_alone(tell))


async def _alone(test: Callable[[Caller], Coroutine[Any, Any, None]]) -> None:
    caller = Caller()
    try:
        await test(caller)
    finally:
        await caller.aclose()


async def test_a_stream_that_has_heard_no_sound_says_a_goodbye_with_the_shortest(
    caller: Caller, service: FakeService
) -> None:
    """The service rejects the end of a block that held nothing."""
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    stream.finish()
    assert await stream.wait_ended(5)
    assert service.audio == bytes(2)
    judge(service.heard).judge_end()


async def test_a_goodbye_waits_for_all_that_was_said(caller: Caller, service: FakeService) -> None:
    """And does not dawdle: what was late goes out at once."""
    stream, voice = await caller.open(), Outgoing(RATE)
    for _ in range(300):
        await voice.put(FRAME)
    stream.begin(voice)
    stream.post(texts("One more thing.")[0])
    stream.finish()
    start = asyncio.get_running_loop().time()
    assert await stream.wait_ended(5)
    assert asyncio.get_running_loop().time() == start
    assert service.audio == FRAME * 300
    assert service.all_of(messages.TextInput)[-1].content == "One more thing."
    judge(service.heard).judge_end()


# --- another one takes over -------------------------------------------------------------------------------


async def test_what_has_not_begun_to_go_out_is_let_go_and_nothing_else(
    caller: Caller, service: FakeService
) -> None:
    """What has begun goes out whole: half a block of text would hold up everything after it."""
    stream, voice = await caller.open(), Outgoing(RATE)
    stream.begin(voice)
    await service.hears(messages.InputContentStart, 2)
    service.taking.clear()
    first, *others = [asyncio.create_task(stream.say(run)) for run in texts("first", "second", "third")]
    await voice.put(FRAME)
    await pass_time(1)
    stream.let_go()
    stream.let_go()
    for task in others:
        with pytest.raises(LocalProtocolError, match="the conversation has moved on to another stream"):
            await task
    assert not first.done()
    service.taking.set()
    await first
    await pass_time(1)
    assert kinds(service.heard[len(OPENING) :]) == [
        "InputContentStart",  # the audio's
        "InputContentStart",
        "TextInput",
        "InputContentEnd",
    ]
    assert voice.adrift
    assert voice.pull() == FRAME
    judge(service.heard)


async def test_nobody_need_wait_for_what_is_let_go(caller: Caller, service: FakeService) -> None:
    """A caller may be gone, or never have cared."""
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    await service.hears(messages.InputContentStart, 2)
    service.taking.clear()
    first, second, third = texts("first", "second", "third")
    stream.post(first)
    tasks = [asyncio.create_task(stream.say(run)) for run in (second, third)]
    await pass_time(1)
    tasks[0].cancel()
    await pass_time(1)
    stream.let_go()
    service.taking.set()
    await asyncio.wait(tasks)
    await stream.aclose()


async def test_who_is_cancelled_has_said_it_all_the_same(caller: Caller, service: FakeService) -> None:
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    await service.hears(messages.InputContentStart, 2)
    service.taking.clear()
    tasks = [asyncio.create_task(stream.say(run)) for run in texts("first", "second")]
    await pass_time(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    service.taking.set()
    said = await service.hears(messages.TextInput, 3)
    assert [message.content for message in said] == ["Be brief.", "first", "second"]


async def test_a_voice_moves_from_one_stream_to_the_next_between_two_frames(
    caller: Caller, service: FakeService
) -> None:
    old, voice, other = await caller.open(), Outgoing(RATE), FakeService()
    new = await caller.open(other)
    frames = [bytes([number]) * 1024 for number in range(20)]
    old.begin(voice)
    for frame in frames[:10]:
        await voice.put(frame)
    await service.hears(messages.AudioInput, 10)
    for frame in frames[10:15]:
        await voice.put(frame)
    old.let_go()
    new.begin(voice)
    for frame in frames[15:]:
        await voice.put(frame)
    await other.hears(messages.AudioInput, 10)
    assert service.audio + other.audio == b"".join(frames)
    judge(service.heard)
    judge(other.heard)


async def test_a_stream_that_was_let_go_hears_another_voice_and_says_goodbye(
    caller: Caller, service: FakeService
) -> None:
    """Silence, so that it does not fall out of time while it finishes what it says."""
    stream, silence = await caller.open(), Outgoing(RATE)
    stream.begin(Outgoing(RATE))
    await service.hears(messages.InputContentStart, 2)
    stream.let_go()
    stream.listen_to(silence)
    silence.put_over(FRAME)
    await service.hears(messages.AudioInput)
    stream.finish()
    assert await stream.wait_ended(5)
    judge(service.heard).judge_end()
    assert caller.ends == [None]


async def test_a_stream_that_was_lost_can_be_let_go(caller: Caller, service: FakeService) -> None:
    """What it has not sent fails for the reason of its loss; what it would have heard waits for another."""
    stream, voice = await caller.open(), Outgoing(RATE)
    stream.begin(voice)
    await service.hears(messages.InputContentStart, 2)
    service.taking.clear()
    saying = [asyncio.create_task(stream.say(run)) for run in texts("first", "second")]
    await pass_time(1)
    service.say_raw(None)
    for task in saying:
        with pytest.raises(StreamLostError, match="in mid-conversation"):
            await task
    stream.let_go()
    assert voice.adrift
    with pytest.raises(StreamLostError):
        await stream.say(texts("third")[0])


# --- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goodbye", ["ours", "the service's", "nobody's"])
async def test_an_end_without_a_goodbye_is_a_loss(caller: Caller, service: FakeService, goodbye: str) -> None:
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    match goodbye:
        case "ours":
            stream.finish()
        case "the service's":
            service.say(messages.CompletionEnd(stop_reason="END_TURN"))
        case _:
            pass
    if goodbye != "ours":
        service.say_raw(None)
    assert await stream.wait_ended(5)
    [failure] = caller.ends
    assert (failure is None) == (goodbye != "nobody's")


async def test_after_its_goodbye_nothing_can_be_said(caller: Caller) -> None:
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    stream.finish()
    with pytest.raises(LocalProtocolError, match="the session has ended"):
        await stream.say(texts("Wait!")[0])
    assert await stream.wait_ended(5)
    with pytest.raises(LocalProtocolError, match="the session has ended"):
        await stream.say(texts("Wait!")[0])


async def test_what_may_not_be_said_now_is_refused_and_the_stream_goes_on(
    caller: Caller, service: FakeService
) -> None:
    stream, voice = await caller.open(), Outgoing(RATE)
    stream.begin(voice)
    with pytest.raises(LocalProtocolError, match="history must be complete before audio"):
        await stream.say(messages.text_block("Hi.", prompt_name="p", role="USER"))
    await stream.say(texts("Hello.")[0])
    await voice.put(FRAME)
    await service.hears(messages.AudioInput)
    judge(service.heard)


@pytest.mark.parametrize("service_knows", [True, False])
async def test_a_stream_that_cannot_be_written_ends_for_the_reason_that_the_service_gives(
    caller: Caller, *, service_knows: bool
) -> None:
    """Its last words may still be on their way."""

    class Broken(FakeService):
        async def send(self, data: bytes) -> None:
            del data
            raise StreamLostError("broken pipe")

    service = Broken()
    stream = await caller.open(service)
    stream.begin(Outgoing(RATE))
    await pass_time(0.5)
    assert not stream.ended
    if service_knows:
        service.say_raw(ServiceError("not today"))
    await pass_time(1)
    assert [str(failure) for failure in caller.ends] == ["not today" if service_knows else "broken pipe"]
    assert service.closed


async def test_what_cannot_be_read_is_handed_over(caller: Caller, service: FakeService) -> None:
    stream = await caller.open()
    service.say_raw(b"{")
    service.say(messages.CompletionEnd())
    service.say_raw(None)
    await stream.wait_ended(5)
    assert caller.received[0] == messages.UnknownMessage(name="malformed", payload="{")
    assert caller.ends == [None]


async def test_a_stream_can_be_given_up_at_any_time_and_twice(caller: Caller, service: FakeService) -> None:
    stream = await caller.open()
    stream.begin(Outgoing(RATE))
    service.taking.clear()
    saying = asyncio.create_task(stream.say(texts("Hello.")[0]))
    await pass_time(1)
    await asyncio.gather(stream.aclose(), stream.aclose())
    await stream.aclose()
    with pytest.raises(StreamLostError):
        await saying
    assert service.closed
    assert len(caller.ends) == 1
