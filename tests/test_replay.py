"""Replays: the service says what it said, in its time, and a program that does something else is told so."""

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clocks import pass_time
from fakes import FakeService
from novasonic import Message, Recording, ReplayError, events, messages, recording, replay
from novasonic.continuation import Renewal, Retry
from novasonic.emulator import Fault, MemoryConnector, Say, Scenario, ToolCall, Turn
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectError,
    LocalProtocolError,
    StreamLostError,
)
from novasonic.importing import MAPPINGS, import_capture
from novasonic.messages import ToolSpec
from novasonic.recording import Tape
from novasonic.session import SonicSession
from novasonic.tools import tool
from novasonic.transport import Connector
from running import speech
from taped import demo, demo_scenario, read, told, weather

pytestmark = pytest.mark.clock("virtual")

SESSION_1 = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "session-1.jsonl"


@pytest.fixture
async def call(tmp_path: Path) -> Path:
    """A recording of the demo."""
    await demo(MemoryConnector(await demo_scenario()), record=tmp_path / "call.jsonl")
    return tmp_path / "call.jsonl"


class TestTheDemo:
    async def test_is_replayed_with_the_same_events(self, tmp_path: Path) -> None:
        path = tmp_path / "call.jsonl"
        before = await demo(MemoryConnector(await demo_scenario()), record=path)
        again = replay(path)
        assert told(await demo(again)) == told(before)
        again.assert_complete()
        counts = [
            sum(isinstance(each, kind) for each in before) for kind in (events.Interrupted, events.ToolCall)
        ]
        assert counts == [1, 2]

    async def test_takes_the_time_that_it_took(self, call: Path) -> None:
        loop, tape = asyncio.get_running_loop(), await read(call)
        start = loop.time()
        await demo(replay(tape))
        assert loop.time() - start == pytest.approx(tape.duration, abs=0.02)

    async def test_fails_if_the_system_prompt_has_changed_and_names_what_differs(self, call: Path) -> None:
        with pytest.raises(ReplayError) as caught:
            await demo(replay(call), system="Tell the weather. Be rude.")
        assert str(caught.value) == (
            f"{call}, at 0.00 s: event.textInput.content of a TEXT block of SYSTEM was 'Tell the weather. "
            "Be brief.' when it was recorded, and is now 'Tell the weather. Be rude.'; record it again, or "
            "replay it with another check"
        )
        assert caught.value.path == "event.textInput.content"
        assert caught.value.recorded == "Tell the weather. Be brief."
        assert caught.value.sent == "Tell the weather. Be rude."
        assert isinstance(caught.value, LocalProtocolError)

    @pytest.mark.parametrize("check", ["lenient", "free"])
    async def test_may_have_another_prompt_if_nobody_looks(self, call: Path, check: Any) -> None:
        again = replay(call, check=check)
        found = await demo(again, system="Something else.", voice="amy")
        assert isinstance(found[-1], events.SessionEnded)
        again.assert_complete()

    async def test_is_replayed_without_its_texts_and_its_audio(self, tmp_path: Path) -> None:
        """What is heard is silence, as long; what is equal stays equal, so that the turns are the same."""
        path = tmp_path / "call.jsonl"
        before = await demo(MemoryConnector(await demo_scenario()), record=Recording(path, redact=True))
        again = replay(path)
        found = await demo(again)
        again.assert_complete()
        kinds = [[type(event) for event in each] for each in (before, found)]
        assert kinds[0] == kinds[1]
        sounds = [
            [each for each in found_ if isinstance(each, events.AudioChunk)] for found_ in (before, found)
        ]
        assert [len(chunk.pcm) for chunk in sounds[0]] == [len(chunk.pcm) for chunk in sounds[1]]
        assert not any(any(chunk.pcm) for chunk in sounds[1])
        texts = [each.text for each in found if isinstance(each, events.Transcript)]
        assert all(re.fullmatch(r"\s?text \d+", text) for text in texts)

    async def test_can_be_taken_up_again(self, call: Path) -> None:
        """One tape for many tests."""
        tape = await read(call)
        first, second = await demo(replay(tape)), await demo(replay(tape))
        assert told(first) == told(second)


# --- what a program does otherwise ------------------------------------------------------------------------


async def ask_twice(session: SonicSession) -> None:
    await session.ask("Hello?")
    await session.ask("And you?")


async def taped(
    path: Path, program: Callable[[SonicSession], Any], scenario: Scenario | None = None, **options: Any
) -> Path:
    async with SonicSession(transport=MemoryConnector(scenario), record=path, **options) as session:
        await program(session)
    return path


def schema(days: int) -> dict[str, Any]:
    return {"type": "object", "properties": {"days": {"enum": [1, days]}}}


@pytest.mark.parametrize(
    ("options", "path", "recorded", "sent"),
    [
        ({"voice": "amy"}, "event.promptStart.audioOutputConfiguration.voiceId", "matthew", "amy"),
        (
            {"endpointing": "LOW"},
            "event.sessionStart.turnDetectionConfiguration.endpointingSensitivity",
            None,
            "LOW",
        ),
        ({"tools": []}, "event.promptStart.toolUseOutputConfiguration.mediaType", "application/json", None),
        (
            {"tools": [ToolSpec(name="go", description="Goes.", schema=schema(3))]},
            "event.promptStart.toolConfiguration.tools[0].toolSpec.inputSchema.json.properties.days.enum[1]",
            2,
            3,
        ),
    ],
)
async def test_each_setting_that_has_changed_is_named(
    tmp_path: Path, options: dict[str, Any], path: str, recorded: Any, sent: Any
) -> None:
    tools = [ToolSpec(name="go", description="Goes.", schema=schema(2))]
    call = await taped(tmp_path / "call.jsonl", ask_twice, tools=tools)
    with pytest.raises(ReplayError, match=re.escape(path)) as caught:
        async with SonicSession(transport=replay(call), **{"tools": tools, **options}):
            pass
    assert (caught.value.path, caught.value.recorded, caught.value.sent) == (path, recorded, sent)


async def test_a_text_that_has_changed_is_told_to_whoever_sends_and_to_whoever_reads(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    async with SonicSession(transport=replay(call)) as session:
        await session.ask("Hello?")
        with pytest.raises(ReplayError, match=r"was 'And you\?' when it was recorded, and is now 'And me\?'"):
            await session.send_text("And me?")
        with pytest.raises(ReplayError, match="And me"):
            async for _ in session:
                pass


async def test_of_a_long_text_the_part_that_differs_is_shown(tmp_path: Path) -> None:
    long = "word " * 150
    call = await taped(tmp_path / "call.jsonl", ask_twice, system=f"{long}brief.")
    with pytest.raises(ReplayError) as caught:
        async with SonicSession(transport=replay(call), system=f"{long}rude."):
            pass
    assert "was ...'word word word word brief.' when" in str(caught.value)
    assert "is now ...'word word word word rude.';" in str(caught.value)


async def test_what_is_left_out_is_a_difference(tmp_path: Path) -> None:
    """The session says goodbye where it asked again; nobody reads that, but the test asks."""
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    again = replay(call)
    async with SonicSession(transport=again) as session:
        await session.ask("Hello?")
    with pytest.raises(
        ReplayError, match="sends contentEnd, where it sent a TEXT block of USER that is to be answered"
    ):
        again.assert_complete()


@pytest.mark.parametrize("check", ["strict", "lenient"])
async def test_what_is_said_beyond_the_recording_is_a_difference(tmp_path: Path, check: Any) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    async with SonicSession(transport=replay(call, check=check)) as session:
        await ask_twice(session)
        with pytest.raises(ReplayError, match=r"sends a TEXT block of USER.*, where it sent"):
            await session.send_text("One more.")


async def test_of_lenient_checks_only_kinds_and_their_order_count(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    again = replay(call, check="lenient")
    async with SonicSession(transport=again, system="Else." * 300) as session:
        await session.ask("What " * 400)
        await session.ask("And?")
    again.assert_complete()
    with pytest.raises(
        ReplayError, match="sends a TEXT block of USER, where it sent the beginning of the audio"
    ):
        async with SonicSession(
            transport=replay(call, check="lenient"),
            history=[Message(role="USER", text="Hello?"), Message(role="ASSISTANT", text="Hello.")],
        ):
            pass


# --- tools ------------------------------------------------------------------------------------------------


def two_tools(first: float, second: float, *, answer: int = 1) -> Sequence[Any]:
    @tool
    async def one() -> int:
        """One."""
        await pass_time(first)
        return answer

    @tool
    async def two() -> int:
        """Two."""
        await pass_time(second)
        return 2

    return [one, two]


TWO_CALLS = Scenario(
    turns=[Turn(typed="*", calls=[ToolCall("one"), ToolCall("two")], then="Both are there.")]
)


async def ask_once(session: SonicSession) -> None:
    reply = await session.ask("Hello?")
    assert reply.text == "Both are there."


async def test_answers_of_tools_may_come_in_another_order(tmp_path: Path) -> None:
    """Which of them is done first is a matter of time, and not what a program means to do."""
    call = await taped(tmp_path / "call.jsonl", ask_once, TWO_CALLS, tools=two_tools(0.5, 1.0))
    again = replay(call)
    async with SonicSession(transport=again, tools=two_tools(1.5, 0.1)) as session:
        await ask_once(session)
    again.assert_complete()


async def test_an_answer_of_a_tool_that_has_changed_is_named(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_once, TWO_CALLS, tools=two_tools(0.5, 1.0))
    async with SonicSession(transport=replay(call), tools=two_tools(0.5, 1.0, answer=3)) as session:
        with pytest.raises(ReplayError) as caught:
            await session.ask("Hello?")
    assert caught.value.path == "event.toolResult.content.result"
    assert (caught.value.recorded, caught.value.sent) == (1, 3)


async def test_a_tool_that_takes_longer_makes_what_follows_come_later(tmp_path: Path) -> None:
    """The model speaks about a result, and cannot do so before there is one."""
    call = await taped(tmp_path / "call.jsonl", ask_once, TWO_CALLS, tools=two_tools(0.5, 0.5))
    times = list[float]()
    for seconds in (0.5, 3.5):
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=replay(call), tools=two_tools(0.5, seconds)) as session:
            start = loop.time()
            await session.ask("Hello?")
            times.append(loop.time() - start)
    assert times[1] - times[0] == pytest.approx(3.0, abs=0.05)


# --- time -------------------------------------------------------------------------------------------------


async def listen(transport: Connector, **options: Any) -> tuple[list[events.Event], float]:
    """Type a question, and read to the end; return what happened, and how long it took."""
    loop, found = asyncio.get_running_loop(), list[events.Event]()
    start = loop.time()
    async with SonicSession(transport=transport, tools=[weather], **options) as session:
        await session.send_text("Hello?")
        async for event in session:
            found.append(event)
            if isinstance(event, events.Transcript) and event.stage == "FINAL":
                await session.end()
    return found, loop.time() - start


TYPED = Scenario(
    turns=[Turn(typed="*", calls=[ToolCall("weather", arguments={"city": "Paris"})], then="It is fine.")]
)


async def test_a_recording_is_replayed_faster_or_at_once(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    before, _ = await listen(MemoryConnector(TYPED), record=path)
    took = dict[Any, float]()
    for speed in (1.0, 4.0, None):
        again = replay(path, speed=speed)
        found, took[speed] = await listen(again)
        again.assert_complete()
        assert told(found, times=speed == 1.0) == told(before, times=speed == 1.0)
    waited = 0.4  # for the tool, which knows of no speed
    assert took[4.0] - waited == pytest.approx((took[1.0] - waited) / 4, abs=0.05)
    assert took[None] == pytest.approx(waited, abs=0.05)


async def test_at_once_the_program_gets_to_read_before_it_is_interrupted(call: Path) -> None:
    """As it did then: an interruption drops only what it has cut in the recording, too."""
    tape = await read(call)
    found = list[events.Event]()
    again = replay(tape, speed=None, check="free")
    async with SonicSession(transport=again, tools=[weather]) as session:
        async for event in session:
            found.append(event)
    sent = [line for line in tape.lines if line.name == "audioOutput"]
    assert sum(isinstance(event, events.AudioChunk) for event in found) == len(sent)
    assert sum(isinstance(event, events.Interrupted) for event in found) == 1


async def test_a_program_that_leaves_something_out_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    loop, recorded = asyncio.get_running_loop(), await read(call)
    async with SonicSession(transport=replay(call, patience=3)) as session:
        start = loop.time()
        await session.send_text("Hello?")
        with pytest.raises(
            ReplayError, match="has not sent a TEXT block of USER that is to be answered, as it did"
        ):
            async for _ in session:
                pass
        asked = [line.time for line in recorded.lines if line.name == "textInput"]
        assert loop.time() - start == pytest.approx(asked[2] - asked[1] + 3, abs=0.1)


async def test_a_program_that_goes_on_after_the_end_is_told_so(tmp_path: Path) -> None:
    """It would wait for ever for a user who has left long ago."""
    path = tmp_path / "call.jsonl"
    tape = killed(await read(await taped(path, ask_twice)))
    async with SonicSession(transport=replay(tape, patience=3)) as session:
        await ask_twice(session)
        with pytest.raises(ReplayError, match="has come to its end, and the program goes on"):
            async for _ in session:
                pass


def killed(tape: Tape) -> Tape:
    """What is left of a recording whose program was killed before it could say goodbye."""
    goodbye = [line.name for line in tape.lines].index("promptEnd") - 1
    return Tape(header=tape.header, lines=tape.lines[:goodbye])


async def test_a_recording_that_breaks_off_is_replayed_up_to_there(tmp_path: Path) -> None:
    """And the program may say goodbye, though nobody has recorded that."""
    tape = killed(await read(await taped(tmp_path / "call.jsonl", ask_twice)))
    again = replay(tape)
    async with SonicSession(transport=again) as session:
        await ask_twice(session)
        await session.end()
        found = [event async for event in session]
    assert isinstance(found[-1], events.SessionEnded)


# --- several streams --------------------------------------------------------------------------------------


async def chat(transport: Connector, **options: Any) -> list[events.Event]:
    """A conversation with two spoken questions, ten seconds apart."""
    found = list[events.Event]()
    async with SonicSession(transport=transport, **options) as session:

        async def talk() -> None:
            for _ in range(2):
                await session.send_audio(speech(1.0))
                await pass_time(10)
            await session.end()

        talking = asyncio.create_task(talk())
        try:
            found += [event async for event in session]
        finally:
            talking.cancel()
            await asyncio.wait({talking})
    return found


STEADY: dict[str, Any] = {"retry": Retry(jitter=0)}
STORY = [Turn(heard=f"question {n}", says=[Say(f"Answer {n}.", seconds=2.0)]) for n in range(4)]


@pytest.mark.parametrize(
    ("faults", "options"),
    [
        ([], {"renewal": Renewal(after=6, at_latest=8)}),
        ([Fault("cut", in_speech=1, delay=0.5, stream=1)], {}),
        (
            [Fault("cut", in_response=1, stream=1), Fault("refuse", code="ThrottlingException", stream=2)],
            STEADY,
        ),
        ([Fault("unknown", after_output=3), Fault("malformed", after_output=5)], {}),
    ],
    ids=["renewed", "lost", "lost and refused", "odd"],
)
async def test_a_conversation_over_several_streams_is_replayed_stream_by_stream(
    tmp_path: Path, faults: list[Fault], options: dict[str, Any]
) -> None:
    """With everything that has happened to them."""
    path = tmp_path / "call.jsonl"
    scenario = Scenario(turns=STORY, faults=faults, shared=True)
    before = await chat(MemoryConnector(scenario), record=path, **options)
    again = replay(path)
    found = await chat(again, **options)
    again.assert_complete()
    assert told(found) == told(before)
    assert any(isinstance(event, events.SessionRenewed | events.UnknownEvent) for event in before), (
        "nothing has happened"
    )


async def test_who_hangs_up_early_hears_no_more(tmp_path: Path) -> None:
    """The service drops what it has not said; and the test is told that something is missing."""
    path = tmp_path / "call.jsonl"
    await chat(MemoryConnector(Scenario(turns=STORY)), record=path)
    again, found = replay(path), list[events.Event]()
    async with SonicSession(transport=again) as session:
        async for each in session:
            found.append(each)
            if isinstance(each, events.TurnEnded):
                await session.end()
    assert sum(isinstance(each, events.TurnStarted) for each in found) == 1
    assert found[-1] == events.SessionEnded(turn=1, reason="END_TURN")
    with pytest.raises(
        AssertionError, match=r"before the service had said everything; \d+ messages are left"
    ):
        again.assert_complete()


async def test_a_stream_that_nobody_has_recorded_is_an_error(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    again = replay(call)
    async with SonicSession(transport=again) as session:
        await session.ask("Hello?")
        with pytest.raises(ReplayError, match=r"opens stream 2, but .* has only 1"):
            await again([messages.encode(messages.SessionStart())], timeout=10)
        await session.ask("And you?")


async def test_a_stream_that_nobody_has_opened_is_missed(tmp_path: Path) -> None:
    call = await taped(tmp_path / "call.jsonl", ask_twice)
    tape = await read(call)
    twice = Tape(
        header=tape.header,
        lines=[*tape.lines, *(msgspec.structs.replace(line, stream=2) for line in tape.lines)],
    )
    again = replay(twice)
    async with SonicSession(transport=again) as session:
        await ask_twice(session)
    with pytest.raises(AssertionError, match="the program has opened 1 of 2 recorded streams"):
        again.assert_complete()


async def test_a_refusal_is_a_refusal_again(tmp_path: Path) -> None:
    path, service = tmp_path / "call.jsonl", FakeService()
    service.refusal = AccessDeniedError("no access", code="AccessDeniedException", request_id="r-1")
    with pytest.raises(AccessDeniedError):
        async with SonicSession(transport=service, record=path):
            pass
    with pytest.raises(AccessDeniedError, match="no access") as caught:
        async with SonicSession(transport=replay(path)):
            pass
    assert (caught.value.code, caught.value.request_id) == ("AccessDeniedException", "r-1")


# --- a stream, as the seam has it -------------------------------------------------------------------------


def event(sender: str, name: str, body: Any = None, **more: Any) -> recording.Line:
    data = json.dumps({"from": sender, "event": {name: body or {}}, **more})
    return msgspec.json.decode(data, type=recording.Line)


def tape_of(*lines: recording.Line) -> Tape:
    return Tape(header=recording.Header(novasonic=1, provenance="made up"), lines=lines)


START, PROMPT, END = (
    messages.encode(message)
    for message in (
        messages.SessionStart(),
        messages.PromptStart(prompt_name="mine", voice="matthew"),
        messages.SessionEnd(),
    )
)


async def test_a_recording_by_hand_needs_no_more_than_messages() -> None:
    """Without a word about it, a stream is accepted at once, and ended after its last message."""
    tape = tape_of(
        event("client", "sessionStart", {"inferenceConfiguration": {}}),
        event("service", "completionStart", {"promptName": "theirs"}, at=2.0),
        event("client", "sessionEnd", at=3.0),
        event("service", "completionEnd", at=3.5),
    )
    loop = asyncio.get_running_loop()
    start = loop.time()
    stream = await replay(tape)([messages.encode(messages.SessionStart(inference=EMPTY))], timeout=10)
    assert (stream.request_id, stream.expires_in, loop.time() - start) == (None, None, 0)
    assert json.loads(await stream.receive() or b"")["event"] == {"completionStart": {"promptName": "theirs"}}
    assert loop.time() - start == 2.0
    await pass_time(5)
    await stream.send(END)
    assert json.loads(await stream.receive() or b"") == {"event": {"completionEnd": {}}}
    assert loop.time() - start == 7.5
    assert await stream.receive() is None
    with pytest.raises(StreamLostError):
        await stream.send(END)
    await stream.aclose()
    await stream.aclose()


EMPTY = messages.Inference(max_tokens=None, top_p=None, temperature=None)


async def test_the_service_calls_a_prompt_by_the_name_that_it_has_now() -> None:
    prompt = json.loads(PROMPT)["event"]["promptStart"]
    tape = tape_of(
        event("client", "promptStart", {**prompt, "promptName": "theirs"}),
        event("service", "completionStart", {"promptName": "theirs", "sessionId": "s"}),
        event("service", "completionStart", {"promptName": "another"}),
        event("service", "new", [1]),
    )
    stream = await replay(tape)([PROMPT], timeout=10)
    bodies = [json.loads(await stream.receive() or b"")["event"] for _ in range(3)]
    assert bodies[0] == {"completionStart": {"promptName": "mine", "sessionId": "s"}}
    assert bodies[1:] == [{"completionStart": {"promptName": "another"}}, {"new": [1]}]
    await stream.aclose()


async def test_a_cancelled_receive_loses_nothing() -> None:
    lines = [event("service", "new", n, at=float(n)) for n in range(1, 5)]
    stream = await replay(tape_of(*lines))([], timeout=10)
    found = list[Any]()
    for wait in itertools.cycle([0.0, 0.4]):
        try:
            async with asyncio.timeout(wait):
                data = await stream.receive()
        except TimeoutError:
            continue
        found.append(json.loads(data or b"")["event"]["new"])
        if len(found) == len(lines):
            break
    assert found == [1, 2, 3, 4]
    await stream.aclose()


async def test_who_waits_for_a_stream_that_is_given_up_is_told_so() -> None:
    tape = tape_of(event("client", "sessionEnd"), event("service", "new", at=100.0))
    stream = await replay(tape)([END], timeout=10)
    waiting = asyncio.create_task(stream.receive())
    await pass_time(1)
    await stream.aclose()
    for told_ in (waiting, stream.send(END), stream.receive()):
        with pytest.raises(StreamLostError, match="CLOSED_LOCALLY"):
            await told_


async def test_an_acceptance_that_took_too_long_takes_too_long_again() -> None:
    accepted = recording.Line(at=30.0, sender="service", accepted=recording.Acceptance(request_id="r"))
    tape = tape_of(event("client", "sessionStart"), accepted)
    first = [b'{"event": {"sessionStart": {}}}']
    with pytest.raises(ConnectError, match="did not answer within 10 s"):
        await replay(tape)(first, timeout=10)
    stream = await replay(tape)(first, timeout=60)
    assert stream.request_id == "r"
    await stream.aclose()


async def test_what_must_be_said_before_a_stream_is_accepted_is_missed_at_once() -> None:
    """Nothing more is said before that: waiting would only hide the reason."""
    accepted = recording.Line(sender="service", accepted=recording.Acceptance())
    prompt = json.loads(PROMPT)["event"]["promptStart"]
    tape = tape_of(event("client", "promptStart", prompt), event("client", "sessionEnd"), accepted)
    start = asyncio.get_running_loop().time()
    with pytest.raises(ReplayError, match="has not sent sessionEnd"):
        await replay(tape)([PROMPT], timeout=10)
    assert asyncio.get_running_loop().time() == start


async def test_what_is_no_message_is_a_difference() -> None:
    stream = await replay(tape_of(event("client", "sessionStart")))([], timeout=10)
    with pytest.raises(ReplayError, match="sends 5 bytes that are no message"):
        await stream.send(b"hello")
    await stream.aclose()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"speed": 0}, "speed is 0, but must be a number above 0, or None"),
        ({"speed": True}, "speed is True"),
        ({"patience": -1}, "patience is -1"),
        ({"check": "harsh"}, "check is 'harsh', but must be one of strict, lenient, free"),
        ({"source": 5}, "source is of type int, but must be a path or a Tape"),
    ],
)
def test_what_cannot_be_replayed_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        replay(**{"source": "call.jsonl", **options})


async def test_a_recording_that_is_not_there_is_named_at_the_opening(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.jsonl cannot be read"):
        async with SonicSession(transport=replay(tmp_path / "missing.jsonl")):
            pass


# --- the real service -------------------------------------------------------------------------------------


@pytest.mark.skipif(not SESSION_1.exists(), reason="the recording is no part of the package")
@pytest.mark.parametrize("speed", [1.0, None])
async def test_a_recorded_session_of_the_real_service_goes_through_a_session(speed: float | None) -> None:
    """41 s, five responses, four interruptions; what its client sent is what a session sends."""
    tape = await asyncio.to_thread(import_capture, SESSION_1, MAPPINGS["condensed"])
    again, found = replay(tape, speed=speed), list[events.Event]()
    system = next(line.body()["content"] for line in tape.lines if line.name == "textInput")
    async with SonicSession(transport=again, voice="tiffany", system=system, endpointing="MEDIUM") as session:
        async for each in session:
            found.append(each)
            if isinstance(each, events.TurnEnded) and each.turn == 5:
                await session.end()
    counts = {
        kind: sum(isinstance(each, kind) for each in found)
        for kind in (events.TurnStarted, events.Interrupted)
    }
    assert counts == {events.TurnStarted: 5, events.Interrupted: 4}
    assert session.usage.total == 1940
    assert sum(each.duration for each in found if isinstance(each, events.AudioChunk)) == pytest.approx(29.12)
    assert sum(message.interrupted for message in session.history) == 4
    if speed is None:
        again.assert_complete()
