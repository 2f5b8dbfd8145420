"""Whole conversations, told twice: in memory, and by the real SDK over the real wire to the emulator."""

import asyncio
import functools
import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clocks import pass_time
from novasonic import events, messages
from novasonic.conversation import Message
from novasonic.emulator import (
    Behaviour,
    Fault,
    Heard,
    Say,
    Scenario,
    ToolCall,
    Turn,
)
from novasonic.errors import (
    AccessDeniedError,
    CredentialsError,
    InvalidRequestError,
    ModelNotFoundError,
    ServiceError,
    StreamLostError,
    ThrottledError,
    TransportError,
)
from novasonic.session import SonicSession, ask
from novasonic.tools import ToolContext, tool
from running import Running, speech, until

pytestmark = pytest.mark.clock("fast")


async def test_a_spoken_question_is_heard_and_answered(running: Running) -> None:
    scenario = Scenario(turns=[Turn(heard="how are you?", says=[Say("Fine,", seconds=1), "thank you."])])
    async with running(scenario) as service:
        reply = await ask(speech(1.5), transport=service.connect, voice="tiffany")
        assert (reply.user_text, reply.text) == ("how are you?", "Fine, thank you.")
        assert reply.duration == pytest.approx(1.0 + 10 / 14, abs=0.1)
        assert reply.latency.audio is not None
        assert 0.5 < reply.latency.audio < 3
        assert service.log.outcome == "completed"
        assert service.log.speech_seconds == pytest.approx(1.5, abs=0.3)
        assert service.log.wrong_signatures == 0


async def test_without_a_scenario_the_service_says_what_it_has_heard(running: Running) -> None:
    """It never pretends to understand."""
    async with running(None) as service:
        reply = await ask(speech(2.0), transport=service.connect)
        assert reply.text.startswith("I heard ")
        assert float(reply.text.split()[2]) == pytest.approx(2.0, abs=0.3)


async def test_typed_text_is_answered_and_can_make_the_model_speak_first(running: Running) -> None:
    scenario = Scenario(
        turns=[Turn(typed="say hello*", says="Hello!"), Turn(typed="*", says="Anything else?")]
    )
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            hello = await session.ask("Say hello to the caller.")
            more = await session.ask("And now?")
        assert (hello.text, more.text) == ("Hello!", "Anything else?")
        assert service.log.typed == ["Say hello to the caller.", "And now?"]
        assert [each.role for each in session.history] == ["USER", "ASSISTANT"] * 2


@pytest.mark.parametrize("place", ["before", "after", "around"])
async def test_the_users_words_are_kept_wherever_they_come(running: Running, place: str) -> None:
    """The text of an utterance may stand before, after or around the report that it ended."""
    scenario = Scenario(
        turns=[Turn(heard=[Heard("one", place=place), "two"], says="Three.")],  # type: ignore[arg-type]
        behaviour=Behaviour(text_pieces=2),
    )
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.ask(speech(1.0))
            question, answer = session.history
        assert question.text == "one two"
        assert answer.role == "ASSISTANT"


async def test_three_tools_are_called_and_answered_in_any_order(running: Running, utterance: Path) -> None:
    scenario = Scenario(
        turns=[
            Turn(
                heard="how is the weather, and what time is it?",
                says="One moment.",
                calls=[
                    ToolCall("weather", arguments={"city": "Oslo"}, double_encoded=True),
                    ToolCall("clock", arguments=""),
                    ToolCall("news", arguments={}, when="after"),
                ],
                then=["It is {celsius} degrees at {time}."],
            )
        ]
    )
    tools = [
        messages.ToolSpec(name=name, description=name, schema={"type": "object"})
        for name in ("weather", "clock", "news")
    ]
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect, tools=tools) as session:
            asking = asyncio.create_task(session.play_file(utterance))
            calls: list[events.ToolCall] = []
            while len(calls) < 3:
                call = (await until(session, events.ToolCall))[-1]
                assert isinstance(call, events.ToolCall)
                calls.append(call)
            await asking
            assert {call.name: call.arguments for call in calls} == {
                "weather": {"city": "Oslo"},
                "clock": {},
                "news": {},
            }
            results = {"weather": {"celsius": 7}, "clock": {"time": "noon"}, "news": []}
            for call in reversed(calls):
                await session.send_tool_result(call, results[call.name])
            said = ""
            while "degrees" not in said:
                event = (await until(session, events.Transcript))[-1]
                said = getattr(event, "text", "")
        assert said == "It is 7 degrees at noon."
        assert len(service.log.tool_results) == 3


async def test_tools_run_side_by_side_while_the_model_talks_on(running: Running, utterance: Path) -> None:
    """One is slow, one fails, one nobody knows: each call gets one answer, as soon as there is one."""
    scenario = Scenario(
        turns=[
            Turn(
                heard="book me a table, and tell me the weather",
                calls=[
                    ToolCall("book_table", arguments={"people": 2}),
                    ToolCall("weather", arguments={"city": "Atlantis"}),
                    ToolCall("order_taxi", arguments={}),
                ],
                says=[Say("I am looking into all of that.", seconds=4)],
                then=["Your table is number {table}."],
            )
        ]
    )
    booked = asyncio.Event()

    @tool
    async def book_table(people: int) -> dict[str, int]:
        """Book a table."""
        await booked.wait()
        return {"table": people + 10}

    @tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        raise LookupError(f"no such city: {city}")

    async with running(scenario) as service:
        async with SonicSession(transport=service.connect, tools=[book_table, weather]) as session:
            asking = asyncio.create_task(session.play_file(utterance))
            seen: list[events.Event] = []
            async for event in session:
                seen.append(event)
                if isinstance(event, events.TurnEnded) and event.turn == 1:
                    booked.set()  # the model has said that it looks
                if isinstance(event, events.TurnEnded) and event.turn == 2:
                    break
            await asking
            [_, answer] = session.history
        log = service.log
    results = [each for each in seen if isinstance(each, events.ToolResult)]
    assert sorted(each.name for each in results[:2]) == ["order_taxi", "weather"]
    assert results[2].name == "book_table"
    assert {each.name: each.result for each in results} == {
        "weather": {"error": "LookupError: no such city: Atlantis"},
        "order_taxi": {"error": "there is no tool named 'order_taxi'; there are: book_table, weather"},
        "book_table": {"table": 12},
    }
    kinds = [type(each).__name__ for each in seen]
    assert kinds.index("AudioChunk") < seen.index(results[2]), "it talks on"
    assert seen.index(results[1]) < kinds.index("TurnEnded") < seen.index(results[2])
    assert list(log.tool_results) == [each.id for each in results], "in the order in which they were there"
    assert answer.text == "I am looking into all of that. Your table is number 12."
    assert [(each.name, each.error is None) for each in answer.tool_calls] == [
        ("book_table", True),
        ("weather", False),
        ("order_taxi", False),
    ]


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_barge_in_cancels_only_the_tool_that_wants_it(
    running: Running, utterance: Path, *, cancel: bool
) -> None:
    scenario = Scenario(
        turns=[
            Turn(
                heard="find me a flight",
                calls=[ToolCall("flights")],
                says=[Say("I am looking at all the airlines that there are.", seconds=30)],
                then="I have {result}.",
            ),
            Turn(heard="and a hotel", says="A hotel as well."),
        ]
    )
    found = asyncio.Event()

    @tool(cancel_on_interrupt=cancel)
    async def flights() -> str:
        """Find flights."""
        await found.wait()
        return "a flight"

    async with running(scenario) as service:
        async with SonicSession(transport=service.connect, tools=[flights]) as session:
            await session.play_file(utterance)
            await until(session, events.AudioChunk)
            breaking_in = asyncio.create_task(session.play_file(utterance))
            await until(session, events.Interrupted)
            found.set()
            result = (await until(session, events.ToolResult))[-1]
            assert isinstance(result, events.ToolResult)
            await breaking_in
            said = ""
            while "hotel" not in said:
                said = getattr((await until(session, events.Transcript))[-1], "text", "")
        assert len(service.log.tool_results) == 1
    if cancel:
        assert result.result == {"error": "the tool was cancelled, because the user broke in"}
    else:
        assert result.result == {"result": "a flight"}


async def test_a_question_that_needs_a_tool_is_answered_in_one_line(running: Running) -> None:
    def weather(city: str) -> dict[str, int]:
        """The weather of a city."""
        return {"celsius": len(city)}

    turn = Turn(
        typed="*",
        says="Let me see.",
        calls=[ToolCall("weather", arguments={"city": "Oslo"}, when="after")],
        then="It is {celsius} degrees.",
    )
    async with running(Scenario(turns=[turn])) as service:
        reply = await ask("How is the weather in Oslo?", transport=service.connect, tools=[weather])
    assert reply.text == "Let me see. It is 4 degrees."
    [call] = reply.tool_calls
    assert (call.name, call.arguments, call.result) == ("weather", {"city": "Oslo"}, {"celsius": 4})


async def test_the_same_call_twice_is_answered_once(running: Running) -> None:
    ran: list[str] = []

    @tool
    def ring(times: int) -> None:
        """Ring the bell."""
        ran.append("ding" * times)

    calls = [ToolCall("ring", arguments={"times": 1}, times=2)]
    turn = Turn(typed="*", calls=calls, then="It has rung.")
    async with running(Scenario(turns=[turn])) as service:
        reply = await ask("Ring it.", transport=service.connect, tools=[ring])
        assert service.log.outcome == "completed"
    assert (reply.text, ran, len(reply.tool_calls)) == ("It has rung.", ["ding"], 1)


async def test_a_tool_can_have_something_said_meanwhile(running: Running) -> None:
    """And what makes the model say it is none of the user's words."""

    @tool
    async def search(context: ToolContext) -> str:
        """Search."""
        await context.say("This takes a while.")
        return "nothing"

    turns = [
        Turn(typed="Search.", calls=[ToolCall("search")], then="I found {result}."),
        Turn(typed="*takes a while*", says="It takes a while, sorry."),
    ]
    async with running(Scenario(turns=turns)) as service:
        async with SonicSession(transport=service.connect, tools=[search]) as session:
            await session.send_text("Search.")
            said = list[str]()
            async for event in session:
                if isinstance(event, events.Transcript) and event.stage == "SPECULATIVE":
                    said.append(event.text)
                if len(said) == 2:
                    break
            assert sorted(said) == ["I found nothing.", "It takes a while, sorry."]
            assert [each.text for each in session.history if each.role == "USER"] == ["Search."]
        assert len(service.log.typed) == 2


class _Twenty:
    """Twenty turns, in four of which the user breaks in; what a listener saw of them."""

    BREAKS_IN = (3, 7, 12, 18)

    def __init__(self, utterance: Path) -> None:
        self._utterance = utterance
        self.turns = [
            Turn(
                heard=f"question {number}.",
                says=[
                    # Long enough that a break-in falls into it, however busy the machine is.
                    Say(f"Answer {number} begins.", seconds=6.0 if number in self.BREAKS_IN else 2.0),
                    Say(f"Answer {number} ends.", seconds=2.0),
                ],
            )
            for number in range(1, 21)
        ]
        self.seen: list[events.Event] = []

    async def talk(self, session: SonicSession) -> None:
        for number in range(1, 21):
            speaking = asyncio.create_task(session.play_file(self._utterance), name="user")
            await self._listen(session, functools.partial(_begins, number))
            await speaking
            if number in self.BREAKS_IN:
                # Into the first of two sentences, long after the service has delivered both.
                await pass_time(0.5)
            else:
                await self._listen(session, functools.partial(_is_heard, number))

    async def _listen(self, session: SonicSession, enough: Callable[[events.Event], bool]) -> None:
        async for event in session:
            self.seen.append(event)
            if enough(event):
                return


def _begins(turn: int, event: events.Event) -> bool:
    return isinstance(event, events.AudioChunk) and event.turn == turn


def _is_heard(turn: int, event: events.Event) -> bool:
    match event:
        case events.Transcript(role="ASSISTANT", stage="FINAL", text=text):
            return text == f"Answer {turn} ends."
        case _:
            return False


@pytest.mark.timeout(180)
async def test_twenty_turns_with_four_interruptions(running: Running, utterance: Path) -> None:
    """No audio after an interruption, a true history, the service's own totals, and nothing left behind."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    twenty = _Twenty(utterance)
    async with running(Scenario(turns=twenty.turns)) as service:
        async with SonicSession(transport=service.connect) as session:
            await twenty.talk(session)
        twenty.seen += [event async for event in session]
        log = service.log

    counts = Counter(type(event) for event in twenty.seen)
    assert counts[events.TurnStarted] == counts[events.TurnEnded] == 20
    assert counts[events.Interrupted] == 4
    assert counts[events.UnknownEvent] == 0
    interrupted = set[int]()
    for event in twenty.seen:
        if isinstance(event, events.Interrupted):
            interrupted.add(event.turn)
        if isinstance(event, events.AudioChunk):
            assert event.turn not in interrupted
    assert interrupted == set(twenty.BREAKS_IN)

    expected: list[Message] = []
    for number in range(1, 21):
        cut = number in twenty.BREAKS_IN
        answer = f"Answer {number} begins." if cut else f"Answer {number} begins. Answer {number} ends."
        expected.append(Message(role="USER", text=f"question {number}."))
        expected.append(Message(role="ASSISTANT", text=answer, interrupted=cut))
    assert list(session.history) == expected

    assert session.usage == log.usage
    assert log.outcome == "completed"
    assert log.wrong_signatures == 0
    assert isinstance(twenty.seen[-1], events.SessionEnded)
    del session, service
    gc.collect()
    assert complaints == []


FAULTS: list[tuple[Fault, type[TransportError]]] = [
    (Fault("refuse", code="AccessDeniedException"), AccessDeniedError),
    (Fault("refuse", code="ResourceNotFoundException"), ModelNotFoundError),
    (Fault("refuse", code="ThrottlingException"), ThrottledError),
    (Fault("refuse", code="ServiceUnavailableException"), ServiceError),
    (Fault("refuse", code="ExpiredTokenException"), CredentialsError),
    (Fault("exception", code="validationException", message="No.", after_audio=5), InvalidRequestError),
    (Fault("exception", code="modelStreamErrorException", in_response=1), ServiceError),
    (Fault("exception", code="someNewException", in_response=1), ServiceError),
    (Fault("error", code="InternalFailure", in_response=1), ServiceError),
    (Fault("reset", in_response=1), StreamLostError),
    (Fault("goaway", in_response=1), StreamLostError),
    (Fault("cut", in_response=1), StreamLostError),
    (Fault("end", in_response=1), StreamLostError),
]


@pytest.mark.parametrize(
    ("fault", "error"),
    FAULTS,
    ids=lambda value: f"{value.kind}-{value.code}" if isinstance(value, Fault) else "",
)
async def test_whatever_goes_wrong_has_its_own_error(
    running: Running, fault: Fault, error: type[TransportError]
) -> None:
    """And what was received before it can be read."""
    scenario = Scenario(turns=[Turn(typed="*", says=[Say("A long story.", seconds=4)])], faults=[fault])
    seen: list[events.Event] = []

    async def converse() -> None:
        async with (
            running(scenario) as service,
            SonicSession(transport=service.connect, retry=None) as session,
        ):
            await session.send_text("Tell me a story.")
            async for event in session:
                seen.append(event)  # noqa: PERF401 - what was seen before a failure counts

    with pytest.raises(error) as caught:
        await converse()
    assert str(caught.value)
    if fault.in_response:
        assert any(isinstance(event, events.AudioChunk) for event in seen)


async def test_twenty_sessions_at_once_and_no_more(running: Running) -> None:
    """The service allows twenty streams for an account; the next one is told so."""
    scenario = Scenario(turns=[Turn(typed="*", says="Hello!")])
    async with running(scenario) as service:
        async with asyncio.TaskGroup() as tasks:
            everybody = asyncio.Barrier(20)

            async def converse() -> None:
                patient = SonicSession(transport=service.connect, open_timeout=600, close_timeout=600)
                async with patient as session:
                    assert (await session.ask("Hello?", timeout=600)).text == "Hello!"
                    if everybody.n_waiting == 19:
                        with pytest.raises(ThrottledError):
                            await SonicSession(transport=service.connect, open_timeout=600).__aenter__()
                    await everybody.wait()

            for _ in range(20):
                tasks.create_task(converse())
        assert [log.outcome for log in service.logs() if log.accepted] == ["completed"] * 20
