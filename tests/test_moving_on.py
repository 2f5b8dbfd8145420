"""Conversations that outlive their streams, in memory; `test_moving_on_wire` tells them again."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clocks import pass_time
from novasonic import events, messages, models
from novasonic.continuation import Renewal, Retry
from novasonic.conversation import Message
from novasonic.emulator import Behaviour, Fault, MemoryConnector, Say, Scenario, ToolCall, Turn
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidRequestError,
    LocalProtocolError,
    StreamLostError,
    ThrottledError,
)
from novasonic.limiter import SessionLimiter
from novasonic.session import SonicSession
from novasonic.tools import tool
from running import Running, in_memory, speech

pytestmark = pytest.mark.clock("virtual")

SOON = Renewal(after=0.5, at_latest=2.5)
LONG = Say("This is a long story.", seconds=8)


@pytest.fixture(name="running")
def _running() -> Running:
    return in_memory


@dataclass
class Ear:
    """What went over all streams of a session, seen from the client."""

    audio: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    def __call__(self, message: object, _now: float) -> None:
        if isinstance(message, messages.AudioInput):
            self.audio.append((message.content_name, message.content))

    @property
    def streams(self) -> Sequence[str]:
        """The streams that heard something of the user, in order."""
        return list(dict.fromkeys(name for name, _ in self.audio))

    def heard(self, stream: int) -> bytes:
        name = self.streams[stream]
        return b"".join(pcm for each, pcm in self.audio if each == name)


async def read_until(session: SonicSession, *wanted: type[events.EventBase] | str) -> list[events.Event]:
    """Read until each of these has happened: a kind of event, or the text that the model is about to say."""
    left, found = list(wanted), list[events.Event]()
    async with asyncio.timeout(300):
        async for event in session:
            found.append(event)
            text = (
                event.text if isinstance(event, events.Transcript) and event.stage == "SPECULATIVE" else None
            )
            left = [
                each
                for each in left
                if each != text and not (isinstance(each, type) and isinstance(event, each))
            ]
            if not left:
                return found
    raise AssertionError(f"the session ended without {left}")


def kinds(found: Sequence[events.Event]) -> list[str]:
    """What happened, without the many of a kind."""
    names = (
        f"{type(each).__name__} {each.stage}" if isinstance(each, events.Transcript) else type(each).__name__
        for each in found
        if not isinstance(each, events.UsageUpdated)
    )
    return [name for name, _ in itertools.groupby(names)]


def said(session: SonicSession) -> list[tuple[str, str]]:
    return [(each.role, each.text) for each in session.history]


# --- renewal ----------------------------------------------------------------------------------------------


async def test_a_stream_is_renewed_when_nobody_has_spoken_at_all(running: Running) -> None:
    """The service would close it after eight minutes, whoever is silent."""
    async with running(None) as service:
        async with SonicSession(transport=service.connect, renewal=SOON) as session:
            ear = Ear()
            session.on_message(ear)
            renewed = (await read_until(session, events.SessionRenewed))[-1]
            assert isinstance(renewed, events.SessionRenewed)
            assert (renewed.reason, renewed.gap) == ("age", 0.0)
            await pass_time(0.3)
        first, second = service.logs()[:2]
        assert first.outcome == second.outcome == "completed"
        assert renewed.request_id == second.request_id
        assert second.history == []
        assert len(ear.streams) >= 2


async def test_a_stream_is_renewed_between_two_turns_and_the_next_knows_what_was_said(
    running: Running, utterance: Path
) -> None:
    turns = [Turn(heard="how are you?", says="Fine."), Turn(heard="and now?", says="Fine still.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, renewal=Renewal(after=3, at_latest=60)) as session:
            await session.play_file(utterance)
            found = await read_until(session, "Fine.", events.SessionRenewed)
            assert kinds(found)[-2:] == ["Transcript FINAL", "SessionRenewed"], "once it was heard to its end"
            await session.play_file(utterance)
            found = await read_until(session, "Fine still.")
            started = next(each for each in found if isinstance(each, events.UserSpeechStarted))
            assert started.offset > 2, "in all that was sent, over both streams"
        old, new = service.logs()[:2]
        assert old.outcome == "completed"
        assert new.system == old.system
        assert new.history == [("USER", "how are you?"), ("ASSISTANT", "Fine.")]
        assert said(session) == [
            ("USER", "how are you?"),
            ("ASSISTANT", "Fine."),
            ("USER", "and now?"),
            ("ASSISTANT", "Fine still."),
        ]


async def test_while_the_assistant_speaks_the_old_stream_finishes_and_the_new_one_listens(
    running: Running, utterance: Path
) -> None:
    turns = [Turn(heard="a story", says=[LONG]), Turn(heard="another", says="No.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, renewal=SOON) as session:
            ear = Ear()
            session.on_message(ear)
            await session.play_file(utterance)
            found = await read_until(session, events.SessionRenewed)
            assert "Transcript FINAL" not in kinds(found)[3:], "it is still being heard"
            found += await read_until(session, events.Transcript)
            final = found[-1]
            assert isinstance(final, events.Transcript)
            assert (final.text, final.stage, final.turn) == (LONG.text, "FINAL", 1), "and then confirmed"
            chunks = [each for each in found if isinstance(each, events.AudioChunk)]
            assert sum(each.duration for each in chunks) == pytest.approx(8, abs=0.1)
            await session.play_file(utterance)
            await read_until(session, "No.")
        assert service.logs()[1].history == [("USER", "a story"), ("ASSISTANT", LONG.text)]
        assert said(session)[:2] == [("USER", "a story"), ("ASSISTANT", LONG.text)]
        assert service.logs()[0].outcome == "completed"


async def test_while_the_user_speaks_it_is_waited_for_the_end(running: Running) -> None:
    turns = [Turn(heard="a long question", says="A short answer.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(
            transport=service.connect, renewal=Renewal(after=0.5, at_latest=1)
        ) as session:
            question = asyncio.create_task(session.ask(speech(3)))
            reply = await question
            assert (reply.user_text, reply.text) == ("a long question", "A short answer.")
            await read_until(session, events.SessionRenewed)
        assert service.logs()[0].speech_seconds == pytest.approx(3, abs=0.3)


def limited(seconds: float) -> models.Model:
    """A model whose service closes streams after so many seconds, as far as the client knows."""
    model = models.lookup("amazon.nova-2-sonic-v1:0")
    return replace(model, limits=replace(model.limits, stream=seconds))


async def test_if_the_user_never_ends_the_new_stream_hears_all_of_it_again(running: Running) -> None:
    """Eight minutes are eight minutes. What was not turned into text yet is heard once more, in full."""
    turns = [Turn(heard="a very long question", says="An answer.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, model=limited(8)) as session:
            ear = Ear()
            session.on_message(ear)
            question = asyncio.create_task(session.ask(speech(10)))
            reply = await question
            assert (reply.user_text, reply.text) == ("a very long question", "An answer.")
        old, new = service.logs()[:2]
        assert new.speech_seconds == pytest.approx(10, abs=0.3)
        assert old.audio_seconds < 10, "it has not heard the end"
        assert said(session) == [("USER", "a very long question"), ("ASSISTANT", "An answer.")]
        spoken = speech(10)
        assert spoken in ear.heard(1), "from the first sample to the last, without a gap"


async def test_while_a_tool_runs_its_result_reaches_the_new_stream_in_words(
    running: Running, utterance: Path
) -> None:
    """A call is known on its own stream only."""
    turns = [
        Turn(heard="the weather?", calls=[ToolCall("weather", arguments={"city": "Oslo"})]),
        Turn(typed="*weather*7*", says="It is seven degrees."),
    ]
    renewed = asyncio.Event()

    @tool
    async def weather(city: str) -> dict[str, object]:
        """The weather of a city."""
        await renewed.wait()
        return {"city": city, "celsius": 7}

    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, renewal=SOON, tools=[weather]) as session:
            await session.play_file(utterance)
            await read_until(session, events.SessionRenewed)
            renewed.set()
            found = await read_until(session, "It is seven degrees.")
            [result] = [each for each in found if isinstance(each, events.ToolResult)]
            assert result.result == {"city": "Oslo", "celsius": 7}
        old, new = service.logs()[:2]
        assert old.tool_results == {}
        assert old.outcome == "completed"
        assert new.history[0] == ("USER", "the weather?")
        assert len(new.typed) == 1
        history = said(session)
        assert history == [("USER", "the weather?"), ("ASSISTANT", "It is seven degrees.")]
        assert session.history[1].tool_calls[0].result == result.result


async def test_a_barge_in_right_after_the_hand_over_stops_what_the_old_stream_says(
    running: Running, utterance: Path
) -> None:
    turns = [Turn(heard="a story", says=[LONG, "It goes on."]), Turn(heard="stop", says="I am silent.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, renewal=SOON) as session:
            await session.play_file(utterance)
            await read_until(session, events.SessionRenewed)
            breaking_in = asyncio.create_task(session.play_file(utterance))
            found = await read_until(session, "I am silent.")
            await breaking_in
            at = [type(each) for each in found].index(events.Interrupted)
            assert kinds(found).count("Interrupted") == 1
            later = [each for each in found[at:] if isinstance(each, events.AudioChunk)]
            assert all(each.turn > 1 for each in later), "nothing of what was cut"
        assert [(each.text, each.interrupted) for each in session.history[:2]] == [
            ("a story", False),
            (LONG.text, True),
        ]
        assert service.logs()[0].outcome == "completed"


@pytest.mark.parametrize("ahead", [0.2, 0.05, 0.0])
async def test_a_barge_in_at_the_very_moment_of_the_hand_over_is_heard(
    running: Running, utterance: Path, ahead: float
) -> None:
    """Its first sounds went to the old stream, which has not reported them: the new one hears them again."""
    turns = [Turn(heard="a story", says=[LONG]), Turn(heard="stop", says="I am silent.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        started = asyncio.get_running_loop().time()
        # Streams of ten seconds: the ninth is the last chance to move on.
        renewal = Renewal(after=100, at_latest=100)
        async with SonicSession(transport=service.connect, model=limited(10), renewal=renewal) as session:
            await pass_time(max(0.0, started + 3 - asyncio.get_running_loop().time()))
            await session.play_file(utterance)
            await read_until(session, events.TurnEnded)
            await pass_time(max(0.0, started + 9 - ahead - asyncio.get_running_loop().time()))
            breaking_in = asyncio.create_task(session.play_file(utterance))
            found = await read_until(session, "I am silent.", events.SessionRenewed)
            await breaking_in
        assert kinds(found).count("Interrupted") == 1
        assert said(session)[:3] == [("USER", "a story"), ("ASSISTANT", LONG.text), ("USER", "stop")]
        assert session.history[1].interrupted


async def test_credentials_that_expire_renew_a_stream_ahead_of_time() -> None:
    connector = MemoryConnector(credentials_last=121)
    async with SonicSession(transport=connector) as session:
        found = await read_until(session, events.SessionRenewed)
    renewed = found[-1]
    assert isinstance(renewed, events.SessionRenewed)
    assert renewed.reason == "credentials"


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut", at=0.3),
        Fault("reset", at=0.3),
        Fault("goaway", at=0.3),
        Fault("end", at=0.3),
        Fault("garbled", at=0.3),
        Fault("exception", code="ModelStreamErrorException", at=0.3),
        Fault("exception", code="ThrottlingException", at=0.3),
        Fault("exception", code="ValidationException", message="System instability detected.", at=0.3),
        Fault("exception", code="ModelTimeoutException", at=0.3),
    ],
    ids=lambda fault: f"{fault.kind} {fault.code or ''}",
)
async def test_a_stream_that_is_lost_before_anything_was_said_is_replaced(
    running: Running, utterance: Path, fault: Fault
) -> None:
    scenario = Scenario(turns=[Turn(heard="hello", says="Hello.")], faults=[fault], shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            found = await read_until(session, events.SessionRenewed)
            assert kinds(found) == ["SessionStarted", "Reconnecting", "SessionRenewed"]
            [reconnecting] = [each for each in found if isinstance(each, events.Reconnecting)]
            assert (reconnecting.attempt, reconnecting.delay) == (1, 0)
            assert str(reconnecting.error)
            renewed = found[-1]
            assert isinstance(renewed, events.SessionRenewed)
            assert renewed.reason == "error"
            await session.play_file(utterance)
            await read_until(session, "Hello.")
        assert service.log.outcome == "completed"


async def test_a_stream_that_is_lost_while_the_user_speaks_loses_none_of_it(running: Running) -> None:
    fault = Fault("cut", in_speech=1, delay=1)
    scenario = Scenario(turns=[Turn(heard="a question", says="An answer.")], faults=[fault], shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            ear = Ear()
            session.on_message(ear)
            reply = await session.ask(speech(4))
        assert (reply.user_text, reply.text) == ("a question", "An answer.")
        assert speech(4) in ear.heard(1)
        assert service.log.speech_seconds == pytest.approx(4, abs=0.3)
        assert said(session) == [("USER", "a question"), ("ASSISTANT", "An answer.")]


async def test_a_stream_that_is_lost_while_the_model_thinks_is_asked_again(
    running: Running, utterance: Path
) -> None:
    fault = Fault("reset", after_speech=1)
    scenario = Scenario(turns=[Turn(heard="a question", says="An answer.")], faults=[fault], shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.play_file(utterance)
            await read_until(session, "An answer.")
            assert said(session) == [("USER", "a question"), ("ASSISTANT", "An answer.")]
        assert service.log.typed == ["a question"]
        assert service.log.history == []


async def test_a_typed_question_is_asked_again(running: Running) -> None:
    fault = Fault("cut", after_audio=12)
    behaviour = Behaviour(answer=2)
    scenario = Scenario(
        turns=[Turn(typed="a question", says="An answer.")], faults=[fault], behaviour=behaviour, shared=True
    )
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            reply = await session.ask("a question")
        assert reply.text == "An answer."
        assert said(session) == [("USER", "a question"), ("ASSISTANT", "An answer.")]
        assert [log.typed for log in service.logs()] == [["a question"], ["a question"]]


async def test_what_the_program_has_asked_for_is_asked_for_again_until_it_is_answered(
    running: Running, utterance: Path
) -> None:
    """No word of it is in the history, which is all that another stream is told otherwise."""
    turns = [Turn(typed="Greet the caller.", says="Hello!"), Turn(heard="hello", says="Who is there?")]
    faults = [
        Fault("cut", after_audio=12),
        Fault("cut", after_audio=12, stream=2),
        Fault("cut", stream=3, at=20),
    ]
    scenario = Scenario(turns=turns, faults=faults, behaviour=Behaviour(answer=2), shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.send_text("Greet the caller.", in_history=False)
            await read_until(session, "Hello!")
            await read_until(session, events.SessionRenewed)
            await session.play_file(utterance)
            await read_until(session, "Who is there?")
            assert said(session) == [
                ("ASSISTANT", "Hello!"),
                ("USER", "hello"),
                ("ASSISTANT", "Who is there?"),
            ]
        assert [log.typed for log in service.logs()] == [["Greet the caller."]] * 3 + [[]]


async def test_a_stream_that_is_lost_in_mid_answer_goes_on_with_the_sentence(
    running: Running, utterance: Path
) -> None:
    """What was said in full stays; what broke off is said again; nothing is in the transcript twice."""
    turns = [
        Turn(heard="a story", says=["Once upon a time.", LONG]),
        Turn(typed="*lost*long story*", says=[LONG, "The end."]),
    ]
    scenario = Scenario(turns=turns, faults=[Fault("cut", in_response=1)], shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.play_file(utterance)
            found = await read_until(session, "The end.")
            lost = next(each for each in found if isinstance(each, events.TurnEnded))
            assert (lost.reason, lost.interrupted) == ("LOST", False)
            assert said(session) == [
                ("USER", "a story"),
                ("ASSISTANT", f"Once upon a time. {LONG.text} The end."),
            ]
        assert service.log.history == [("USER", "a story"), ("ASSISTANT", "Once upon a time.")]


async def test_a_stream_that_is_lost_while_it_is_only_being_heard_needs_nothing(
    running: Running, utterance: Path
) -> None:
    turns = [Turn(heard="a story", says=[LONG]), Turn(heard="another", says="No.")]
    scenario = Scenario(turns=turns, faults=[Fault("cut", in_response=1, delay=2)], shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.play_file(utterance)
            await read_until(session, events.SessionRenewed)
            await session.play_file(utterance)
            found = await read_until(session, "No.")
            assert "Interrupted" in kinds(found), "it was still being played"
        assert service.log.typed == []
        assert service.log.history == [("USER", "a story"), ("ASSISTANT", LONG.text)]


@pytest.mark.parametrize("answered", ["before", "after"])
async def test_a_stream_that_is_lost_during_a_tool_call_hears_of_its_result_in_words(
    running: Running, utterance: Path, answered: str
) -> None:
    turns = [
        Turn(heard="the weather?", calls=[ToolCall("weather")], then="It is {celsius}.", answer=1.0),
        Turn(typed="*weather*7*", says="It is seven degrees."),
    ]
    fault = Fault("cut", after_call=1, delay=0.3)
    renewed = asyncio.Event()
    ran: list[int] = []

    @tool
    async def weather() -> dict[str, int]:
        """The weather."""
        ran.append(1)
        if answered == "after":
            await renewed.wait()
        return {"celsius": 7}

    async with running(Scenario(turns=turns, faults=[fault], shared=True)) as service:
        async with SonicSession(transport=service.connect, tools=[weather]) as session:
            await session.play_file(utterance)
            await read_until(session, events.SessionRenewed)
            renewed.set()
            await read_until(session, "It is seven degrees.")
            assert said(session) == [("USER", "the weather?"), ("ASSISTANT", "It is seven degrees.")]
            assert [each.result for each in session.history[1].tool_calls] == [{"celsius": 7}]
        assert len(ran) == 1
        assert len(service.log.typed) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("exception", code="AccessDeniedException", at=0.3), AccessDeniedError),
        (
            Fault("exception", code="ValidationException", message="Invalid input request", at=0.3),
            InvalidRequestError,
        ),
        (
            Fault(
                "exception",
                code="ValidationException",
                message="This request has been blocked by our content filters.",
                at=0.3,
            ),
            InvalidRequestError,
        ),
    ],
    ids=["403", "wrong", "filtered"],
)
async def test_what_is_hopeless_is_raised_at_once(
    running: Running, fault: Fault, error: type[Exception]
) -> None:
    async with running(Scenario(faults=[fault])) as service:
        with pytest.raises(error):
            async with SonicSession(transport=service.connect) as session:
                await read_until(session, events.SessionEnded)
        assert len(service.logs()) == 1


async def test_what_becomes_hopeless_on_the_way_is_raised(running: Running) -> None:
    faults = [Fault("cut", at=0.3), Fault("refuse", code="AccessDeniedException", stream=2)]
    async with running(Scenario(faults=faults)) as service:
        with pytest.raises(AccessDeniedError):
            async with SonicSession(transport=service.connect) as session:
                await read_until(session, events.SessionEnded)
        assert len(service.logs()) == 2


async def test_a_storm_is_given_up(running: Running) -> None:
    """Streams that open and die at once are no progress."""
    async with running(Scenario(faults=[Fault("cut", at=0.2, times=None)])) as service:
        seen = list[events.Event]()
        with pytest.raises(StreamLostError):  # noqa: PT012 - opening is part of it
            async with SonicSession(transport=service.connect, retry=Retry(attempts=3, delay=0.1)) as session:
                async for event in session:
                    seen.append(event)
        attempts = [each.attempt for each in seen if isinstance(each, events.Reconnecting)]
        assert attempts == [1, 2, 3]
        assert len(service.logs()) == 4


async def test_a_service_that_is_down_for_a_while_is_waited_for(running: Running) -> None:
    """And what the user says meanwhile is heard in the end."""
    faults = [
        Fault("cut", at=0.5),
        Fault("refuse", code="ThrottlingException", stream=2),
        Fault("refuse", code="ServiceUnavailableException", stream=3),
    ]
    scenario = Scenario(turns=[Turn(heard="hello", says="Hello.")], faults=faults, shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            ear = Ear()
            session.on_message(ear)
            await read_until(session, events.Reconnecting)
            await session.send_audio(speech(1))
            found = await read_until(session, "Hello.")
            [renewed] = [each for each in found if isinstance(each, events.SessionRenewed)]
            assert renewed.gap > 0.5
        assert service.log.speech_seconds == pytest.approx(1, abs=0.3)
        assert speech(1) in ear.heard(1)


async def test_what_is_typed_while_there_is_no_stream_is_sent_later(running: Running) -> None:
    faults = [Fault("cut", at=0.3), Fault("refuse", code="ThrottlingException", stream=2)]
    scenario = Scenario(turns=[Turn(typed="hello", says="Hello.")], faults=faults, shared=True)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            await read_until(session, events.Reconnecting)
            reply = await session.ask("hello")
            assert reply.text == "Hello."
        assert service.log.typed == ["hello"]


async def test_a_session_can_be_closed_while_it_reconnects(running: Running) -> None:
    faults = [Fault("cut", at=0.3), Fault("refuse", code="ThrottlingException", stream=2)]
    async with running(Scenario(faults=faults)) as service:
        async with SonicSession(
            transport=service.connect, retry=Retry(delay=1000, longest=1000, jitter=0)
        ) as session:
            await read_until(session, events.Reconnecting)
            found = await read_until(session, events.Reconnecting)
            assert found[-1].turn == 0
        assert [event async for event in session][-1:] != []


async def test_without_retry_a_loss_is_raised(running: Running) -> None:
    async with running(Scenario(faults=[Fault("cut", at=0.3)])) as service:
        with pytest.raises(StreamLostError):
            async with SonicSession(transport=service.connect, retry=None) as session:
                await read_until(session, events.SessionEnded)


# --- other settings in mid-conversation -------------------------------------------------------------------


async def test_instructions_voice_and_tools_change_in_mid_conversation(
    running: Running, utterance: Path
) -> None:
    turns = [
        Turn(heard="hello", says="Hello."),
        Turn(heard="and now?", calls=[ToolCall("clock")], then="{result}."),
    ]

    def clock() -> str:
        """The time."""
        return "Noon"

    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect, system="Be brief.") as session:
            await session.play_file(utterance)
            await read_until(session, "Hello.")
            await session.update(system="Be verbose.", voice="tiffany", tools=[clock])
            found = await read_until(session, events.SessionRenewed)
            renewed = found[-1]
            assert isinstance(renewed, events.SessionRenewed)
            assert (renewed.reason, renewed.gap) == ("update", 0.0)
            await session.play_file(utterance)
            await read_until(session, "Noon.")
        old, new = service.logs()[:2]
        assert (old.system, new.system) == ("Be brief.", "Be verbose.")
        [prompt] = [each for each in new.messages if isinstance(each, messages.PromptStart)]
        assert prompt.voice == "tiffany"
        assert [each.name for each in prompt.tools] == ["clock"]
        assert new.history == [("USER", "hello"), ("ASSISTANT", "Hello.")]


async def test_an_update_that_cannot_be_had_leaves_everything_as_it_was(
    running: Running, utterance: Path
) -> None:
    faults = [Fault("refuse", code="AccessDeniedException", stream=2)]
    scenario = Scenario(turns=[Turn(heard="hello", says="Hello.")], faults=faults)
    async with running(scenario) as service:
        async with SonicSession(transport=service.connect) as session:
            with pytest.raises(ConfigurationError, match="voice is empty"):
                await session.update(voice="")
            with pytest.raises(AccessDeniedError):
                await session.update(system="Be verbose.")
            await session.play_file(utterance)
            await read_until(session, "Hello.")
        assert len(service.logs()) == 2


async def test_one_update_at_a_time(running: Running) -> None:
    async with running(None) as service, SonicSession(transport=service.connect) as session:
        first = asyncio.create_task(session.update(system="One."))
        await pass_time(0.01)
        with pytest.raises(LocalProtocolError, match="another update"):
            await session.update(system="Two.")
        await first


async def test_an_update_of_a_conversation_that_was_lost_says_what_has_lost_it(running: Running) -> None:
    scenario = Scenario(faults=[Fault("cut", at=0.3)])
    async with running(scenario) as service, SonicSession(transport=service.connect, retry=None) as session:
        await pass_time(1)
        with pytest.raises(StreamLostError):
            await session.update(system="Be brief.")


# --- in another process -----------------------------------------------------------------------------------


async def test_a_conversation_goes_on_in_another_session(running: Running, utterance: Path) -> None:
    turns = [Turn(heard="hello", says="Hello."), Turn(heard="and now?", says="Still here.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.play_file(utterance)
            await read_until(session, "Hello.", events.TurnEnded)
        exported = session.export()
        assert json.loads(exported)["novasonic"] == 1
        async with SonicSession(transport=service.connect, resume=exported) as resumed:
            assert said(resumed) == said(session)
            assert resumed.usage == session.usage
            await resumed.play_file(utterance)
            found = await read_until(resumed, "Still here.")
            assert [each.turn for each in found if isinstance(each, events.TurnStarted)] == [2]
        assert service.log.history == [("USER", "hello"), ("ASSISTANT", "Hello.")]


async def test_a_question_that_was_not_answered_yet_is_answered_by_the_other_session(
    running: Running,
) -> None:
    turns = [Turn(typed="hello", says="Hello.")]
    async with running(Scenario(turns=turns, behaviour=Behaviour(answer=5), shared=True)) as service:
        async with SonicSession(transport=service.connect) as session:
            await session.send_text("hello")
            await pass_time(0.2)
        async with SonicSession(transport=service.connect, resume=session.export()) as resumed:
            await read_until(resumed, "Hello.")
            assert said(resumed) == [("USER", "hello"), ("ASSISTANT", "Hello.")]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"novasonic": 2}', '{"history": [{"role": "GOD", "text": ""}]}']
)
def test_what_no_session_has_exported_cannot_be_resumed(text: str) -> None:
    with pytest.raises(ConfigurationError, match="export"):
        SonicSession(resume=text)


def test_history_and_resume_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="history cannot be given together with resume"):
        SonicSession(resume=SonicSession().export(), history=[Message(role="USER", text="Hi.")])


# --- many sessions ----------------------------------------------------------------------------------------


async def test_sessions_wait_for_a_place_and_give_it_back(running: Running) -> None:
    limiter = SessionLimiter(1)
    async with running(None) as service:
        async with SonicSession(transport=service.connect, limiter=limiter):
            assert limiter.active == 1
            with pytest.raises(ThrottledError):
                await SonicSession(transport=service.connect, limiter=limiter, open_timeout=0.5).__aenter__()
        assert limiter.active == 0
        async with SonicSession(transport=service.connect, limiter=limiter):
            pass
        assert limiter.active == 0


async def test_a_renewal_takes_a_second_place_only_as_long_as_it_needs_it(running: Running) -> None:
    limiter = SessionLimiter(2)
    async with running(None) as service:
        async with SonicSession(transport=service.connect, limiter=limiter, renewal=SOON) as session:
            await read_until(session, events.SessionRenewed)
            assert limiter.active == 2
            while limiter.active > 1:  # until the old stream has said goodbye
                await pass_time(0.1)
        assert limiter.active == 0


async def test_without_a_second_place_the_old_stream_goes_before_the_new_one_comes(
    running: Running, utterance: Path
) -> None:
    limiter = SessionLimiter(1)
    turns = [Turn(heard="hello", says="Hello."), Turn(heard="and now?", says="Still here.")]
    async with running(Scenario(turns=turns, shared=True)) as service:
        async with SonicSession(
            transport=service.connect, limiter=limiter, renewal=Renewal(after=3, at_latest=60)
        ) as session:
            await session.play_file(utterance)
            found = await read_until(session, "Hello.", events.SessionRenewed)
            renewed = found[-1]
            assert isinstance(renewed, events.SessionRenewed)
            assert (renewed.reason, limiter.active) == ("age", 1)
            assert renewed.gap > 0
            await session.play_file(utterance)
            await read_until(session, "Still here.")
        assert limiter.active == 0
        assert [log.outcome for log in service.logs()[:2]] == ["completed", "completed"]
