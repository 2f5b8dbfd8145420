"""The testing kit, as its users' tests see it: scripts, turns, time and assertions."""

import asyncio
import contextlib
import dataclasses
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings

import novasonic.testing
from novasonic import events, messages, tool
from novasonic.continuation import Renewal, Retry
from novasonic.conversation import Message
from novasonic.emulator import MemoryConnector, Say, Scenario, ToolCall, Turn
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectError,
    ServiceError,
    SonicError,
    StreamLostError,
    ThrottledError,
)
from novasonic.messages import OutputMessage
from novasonic.models import Usage
from novasonic.reply import Reply
from novasonic.session import SonicSession, ask
from novasonic.testing import (
    ScriptedTransport,
    SonicClock,
    SonicEmulator,
    SonicScript,
    VirtualLoop,
    answers,
    assert_called,
    assert_happened,
    assert_interrupted,
    assert_said,
    assistant_says,
    calls_tool,
    conversations,
    emit,
    end,
    events_of,
    expect,
    fail,
    interrupts,
    opens,
    speaks,
    stream_of,
    typed,
    usage,
    user_says,
    wait,
    was_heard,
)
from novasonic.tools import AnyTool
from running import speech

virtual = pytest.mark.usefixtures("sonic_clock")

STORY = ("Once upon a time there was a king.", "He had a daughter.")


@tool
def weather(city: str) -> dict[str, object]:
    """The weather of a city."""
    return {"city": city, "celsius": 7}


@tool
async def clock() -> str:
    """The time."""
    return "noon"


async def read(session: SonicSession) -> list[events.Event]:
    """Read to the end."""
    return [event async for event in session]


async def converse(script: ScriptedTransport, *texts: str, tools: Sequence[AnyTool] = ()) -> None:
    """Type some texts, and wait for an answer to each."""
    with script:
        async with SonicSession(transport=script, tools=tools) as session:
            for text in texts:
                await session.ask(text)


# --- scripts ----------------------------------------------------------------------------------------------


@virtual
class TestScripts:
    async def test_a_story_is_told_and_followed(self, sonic_script: SonicScript) -> None:
        script = sonic_script(
            [
                expect(opens(voice="tiffany", tools=["weather"], system="Be *.", history=[("USER", "Hi.")])),
                expect(typed("How is the weather in Oslo?")),
                assistant_says("Let me see."),
                calls_tool("weather", {"city": "Oslo"}),
                expect(answers("weather", {"city": "Oslo", "celsius": ANY})),
                assistant_says("It is seven degrees."),
                usage(speech_output=40),
            ]
        )
        session = SonicSession(
            transport=script,
            tools=[weather],
            voice="tiffany",
            system="Be brief.",
            history=[Message(role="USER", text="Hi.")],
        )
        async with session:
            reply = await session.ask("How is the weather in Oslo?")
        assert reply.text == "Let me see. It is seven degrees."
        assert reply.user_text == ""
        assert [call.result for call in reply.tool_calls] == [{"city": "Oslo", "celsius": 7}]
        assert session.usage == Usage(speech_output=40)
        assert session.session_id == "session-1"

    async def test_a_client_that_says_something_else_hears_of_it_where_it_does(self) -> None:
        script = ScriptedTransport([expect(typed("Hello, *!")), assistant_says("Hello.")])
        async with SonicSession(transport=script) as session:
            with pytest.raises(AssertionError) as caught:
                await session.send_text("Goodbye, world!")
            with pytest.raises(AssertionError, match="expected"):
                await read(session)
        assert str(caught.value) == (
            "stream 1, step 1 of 2: the client does not do what the script expects\n"
            "  expected: typed text 'Hello, *!'\n"
            "  came:     typed text 'Goodbye, world!'"
        )
        with pytest.raises(
            AssertionError, match=r"(?s)came:     typed text 'Goodbye.*here 1\. expect typed text"
        ):
            script.assert_complete()

    async def test_an_answer_that_is_wrong_is_one_that_was_not_expected(self) -> None:
        script = ScriptedTransport(
            [calls_tool("weather", {"city": "Oslo"}), expect(answers("weather", {"celsius": 8}))]
        )
        async with SonicSession(transport=script, tools=[weather]) as session:
            with pytest.raises(AssertionError, match=r"answer of weather: \{'celsius': 8\}\n.*\"celsius\":7"):
                await read(session)

    async def test_what_is_expected_together_may_come_in_any_order(self) -> None:
        waiting = asyncio.Event()

        async def slow() -> str:
            """Wait."""
            await waiting.wait()
            return "done"

        async def fast() -> str:
            """Hurry."""
            waiting.set()
            return "done"

        script = ScriptedTransport(
            [
                expect(typed()),
                calls_tool("slow"),
                calls_tool("fast"),
                expect(answers("slow"), answers("fast", {"result": "done"})),
                assistant_says("Both are done."),
            ]
        )
        with script:
            reply = await ask("Do both.", transport=script, tools=[tool(slow), tool(fast)])
        assert [call.result for call in reply.tool_calls] == [{"result": "done"}] * 2

    async def test_what_never_comes_is_missed_after_some_seconds_of_the_clock(
        self, sonic_clock: SonicClock
    ) -> None:
        """On virtual time a script that waits in vain costs nothing; without a limit it would hang."""
        for step, patience in ((expect(typed("Hi!")), 10.0), (expect(typed("Hi!"), within=3), 3.0)):
            start = sonic_clock.now
            async with SonicSession(transport=ScriptedTransport([step])) as session:
                with pytest.raises(
                    AssertionError, match=rf"(?s)expected: typed text .*nothing of it in {patience:g} s"
                ):
                    await read(session)
            assert sonic_clock.now - start == pytest.approx(patience, abs=0.5)

    async def test_patience_can_be_without_end(self, sonic_clock: SonicClock) -> None:
        script = ScriptedTransport([expect(typed("Hi!")), assistant_says("Hello!")], patience=None)
        with script:
            async with SonicSession(transport=script) as session:
                await sonic_clock.advance(100)
                await session.ask("Hi!")
                await sonic_clock.advance(100)

    async def test_a_client_says_no_more_than_is_expected(self) -> None:
        script = ScriptedTransport([expect(typed("Hi!"))])
        async with SonicSession(transport=script) as session:
            await session.send_text("Hi!")
            with pytest.raises(AssertionError, match="at its end, but there came typed text 'Hello\\?'"):
                await session.send_text("Hello?")
        with pytest.raises(AssertionError, match="there came typed text"):
            script.assert_complete()

    async def test_an_answer_that_nobody_expects_is_more_than_is_expected(self) -> None:
        """Without an expectation, what is said about it would come before it."""
        script = ScriptedTransport([calls_tool("clock")])
        async with SonicSession(transport=script, tools=[clock]) as session:
            with pytest.raises(AssertionError, match=r'there came answer of clock \{"result":"noon"\}'):
                await read(session)

    async def test_a_session_that_is_left_in_the_middle_ends_at_once(self, sonic_clock: SonicClock) -> None:
        script = ScriptedTransport([wait(5), assistant_says("Hello!")])
        start, session = sonic_clock.now, SonicSession(transport=script)
        with pytest.raises(ZeroDivisionError):
            async with session:
                raise ZeroDivisionError
        assert sonic_clock.now == start
        with pytest.raises(AssertionError, match=r"here 1\. wait 5 s"):
            script.assert_complete()

    def test_every_step_says_what_it_is(self) -> None:
        steps = [
            expect(typed("Hi!"), answers("clock"), opens()),
            expect(speaks(0.5)),
            emit(
                user_says("hello"),
                calls_tool("clock"),
                usage(text_input=3),
                messages.UnknownMessage(name="x", payload=1),
            ),
            interrupts("stop"),
            emit(messages.UserSpeechStart()),
            wait(0.5),
            fail("ThrottlingException"),
        ]
        assert ScriptedTransport(steps).progress().splitlines() == [
            "stream 1 was never opened",
            "       1. expect typed text 'Hi!', and answer of clock, and a stream opened",
            "       2. expect 0.5 s of the user's voice",
            "       3. emit: the user says 'hello', the model calls clock({}), 3 tokens are counted, x",
            "       4. emit: the user breaks in, it is heard, the user says 'stop'",
            "       5. emit: UserSpeechStart",
            "       6. wait 0.5 s",
            "       7. fail with ThrottlingException",
        ]

    async def test_a_client_does_not_wait_for_what_is_in_no_script(self, sonic_clock: SonicClock) -> None:
        """Or its test would hang."""
        start = sonic_clock.now
        async with SonicSession(transport=ScriptedTransport([assistant_says("Hello!")])) as session:
            with pytest.raises(AssertionError, match=r"at its end, and 10 s later .*session\.end\(\)"):
                await read(session)
        assert sonic_clock.now - start == pytest.approx(10, abs=0.5)

    async def test_a_client_may_listen_as_long_as_the_script_waits(self, sonic_clock: SonicClock) -> None:
        with ScriptedTransport([assistant_says("Hello!"), wait(100)]) as script:
            async with SonicSession(transport=script) as session:
                await sonic_clock.advance(99)
                await session.end()
                assert_happened(await read(session), events.AudioChunk, events.SessionEnded)

    async def test_a_script_that_was_left_in_the_middle_says_where(self) -> None:
        script = ScriptedTransport([user_says("hello"), wait(1), expect(typed("Hi!")), assistant_says("Ah!")])

        async def hang_up() -> None:
            with script:
                async with SonicSession(transport=script) as session:
                    assert_happened([await anext(session) for _ in range(4)], events.UserSpeechEnded)

        with pytest.raises(AssertionError) as caught:
            await hang_up()
        assert str(caught.value).splitlines() == [
            "the script was not played to its end.",
            "stream 1",
            "  done 1. emit: the user says 'hello'",
            "  here 2. wait 1 s",
            "       3. expect typed text 'Hi!'",
            "       4. emit: the assistant says 'Ah!', it is heard",
        ]

    async def test_a_block_that_fails_is_not_also_told_that_the_script_was_left(self) -> None:
        with pytest.raises(ZeroDivisionError), ScriptedTransport([assistant_says("Hello!")]):
            raise ZeroDivisionError

    async def test_a_script_that_nobody_plays_is_left(self) -> None:
        with pytest.raises(AssertionError, match="stream 1 was never opened"):
            ScriptedTransport([assistant_says("Hello!")]).assert_complete()

    async def test_silence_disturbs_nothing_and_speech_is_counted(self, sonic_clock: SonicClock) -> None:
        """A session sends silence while nobody speaks; what anybody expects are words."""
        script = ScriptedTransport(
            [
                expect(speaks(0.8)),
                user_says("hello", seconds=0.8),
                expect(messages.AudioInput, within=60),
                expect(typed("Hi!"), within=60),
                assistant_says("Hello!"),
            ]
        )
        with script:
            async with SonicSession(transport=script) as session:
                await sonic_clock.advance(5)
                await session.send_audio(speech(0.5))
                await sonic_clock.advance(2)
                await session.send_audio(speech(0.5))
                heard = [await anext(session) for _ in range(4)]
                await sonic_clock.advance(20)
                await session.send_audio(speech(0.1))
                await sonic_clock.advance(20)
                await session.ask("Hi!")
        assert_happened(heard, events.UserSpeechStarted, events.Transcript, events.UserSpeechEnded)
        assert (
            sum(len(each.content) for each in script.heard if isinstance(each, messages.AudioInput)) > 32_000
        )

    async def test_where_the_user_spoke_is_where_the_audio_is(self, sonic_clock: SonicClock) -> None:
        """So that latencies, and what another stream hears again, are what they would be."""
        script = ScriptedTransport([wait(5), user_says("hello", seconds=2), assistant_says("Hello!")])
        with script:
            async with SonicSession(transport=script) as session:
                await sonic_clock.advance(6)
                await session.end()
                seen = await read(session)
        [began] = [each for each in seen if isinstance(each, events.UserSpeechStarted)]
        [ended] = [each for each in seen if isinstance(each, events.UserSpeechEnded)]
        [turn] = [each for each in seen if isinstance(each, events.TurnEnded)]
        assert began.offset == pytest.approx(5 - 2 - 0.24, abs=0.2)
        assert ended.offset == pytest.approx(began.offset + 2)
        assert turn.latency.audio == pytest.approx(0.24, abs=0.2)

    @pytest.mark.parametrize(
        "expected",
        [
            messages.TextInput,
            messages.TextInput(prompt_name="any", content_name="any", content="Hi!"),
            messages.TextInput(prompt_name="any", content_name="any", content=ANY),
            lambda message: isinstance(message, messages.TextInput) and message.content == "Hi!",
            messages.InputContentStart(
                prompt_name="", content_name="", type="TEXT", role="USER", interactive=True
            ),
        ],
        ids=["kind", "example", "wildcard", "predicate", "a part of it"],
    )
    async def test_messages_are_expected_by_kind_by_example_and_by_what_is_true_of_them(
        self, expected: type[messages.TextInput] | messages.TextInput
    ) -> None:
        steps = [expect(expected), assistant_says("Hello!")]
        if isinstance(expected, messages.InputContentStart):
            steps.insert(1, expect(typed()))
        await converse(ScriptedTransport(steps), "Hi!")

    @pytest.mark.parametrize(
        ("expected", "shown"),
        [
            (opens(voice="tiffany", tools=()), r"opened with voice='tiffany', tools=\[\]\n.*voice='matthew'"),
            (opens(system="*pirate*"), r"system='\*pirate\*'\n.*system='You are a friendly assistant"),
            (
                messages.PromptStart(prompt_name="", voice="tiffany", sample_rate=ANY),
                "PromptStart.*voice='tiffany'.*\n.*PromptStart.*voice='matthew'",
            ),
            (lambda _: False, r"what .*<lambda> is true of\n.*typed text 'Hi!'"),
            (messages.ToolResult, "ToolResult\n.*typed text 'Hi!'"),
            (speaks(1), "1 s of the user's voice\n.*typed text 'Hi!'"),
        ],
    )
    async def test_what_does_not_fit_is_shown_beside_what_was_expected(
        self, expected: Callable[[object], bool], shown: str
    ) -> None:
        script = ScriptedTransport([expect(expected)])
        async with SonicSession(transport=script) as session:
            with contextlib.suppress(AssertionError):
                await session.send_text("Hi!")
            with pytest.raises(AssertionError, match=shown):
                await read(session)

    async def test_a_long_text_is_expected_in_one_piece(self) -> None:
        """The session sends it in several."""
        text = "word " * 500
        script = ScriptedTransport([expect(typed(text)), assistant_says("That was long.")])
        await converse(script, text)
        assert sum(isinstance(each, messages.TextInput) for each in script.heard) > 2

    async def test_a_script_can_be_played_again(self) -> None:
        """It may stand at the top of a file, for several tests."""
        steps = [expect(speaks(0.2)), user_says("hello"), assistant_says("Hello!")]
        for _ in range(2):
            with ScriptedTransport(steps) as script:
                async with SonicSession(transport=script) as session:
                    await session.ask(speech(0.3))

    async def test_tools_are_named_by_their_names_or_by_their_calls(self) -> None:
        script = ScriptedTransport(
            [
                expect(typed()),
                calls_tool("clock", id="call-1"),
                expect(answers("call-1", {"result": "noon"})),
                calls_tool("clock"),
                expect(answers("clock")),
                assistant_says("It is noon."),
            ]
        )
        await converse(script, "What time is it?", tools=[clock])

    async def test_the_service_says_goodbye_when_the_client_does(self) -> None:
        with ScriptedTransport([assistant_says("Hello!"), wait(1)]) as script:
            async with SonicSession(transport=script) as session:
                assert isinstance(await anext(session), events.SessionStarted)
            assert (await read(session))[-1] == events.SessionEnded(turn=1, reason="END_TURN")
        assert isinstance(script.heard[-1], messages.SessionEnd)

    async def test_a_script_may_look_after_the_goodbye_itself(self, sonic_clock: SonicClock) -> None:
        start = sonic_clock.now
        script = ScriptedTransport([expect(messages.SessionEnd), wait(2), usage(text_output=2), wait(0)])
        with script:
            async with SonicSession(transport=script) as session:
                await session.end()
                seen = await read(session)
        assert_happened(seen, events.UsageUpdated, events.SessionEnded)
        assert sonic_clock.now - start == pytest.approx(2, abs=0.1)

    async def test_what_is_interrupted_must_have_been_said(self) -> None:
        script = ScriptedTransport([interrupts("stop")])
        async with SonicSession(transport=script) as session:
            with pytest.raises(AssertionError, match=r"step 1 of 1 cannot be played: nothing is being said"):
                await read(session)

    async def test_messages_of_any_kind_are_emitted(self) -> None:
        odd = messages.UnknownMessage(name="weatherReport", payload={"sky": "blue"})
        with ScriptedTransport([emit(odd, user_says("hello")), odd]) as script:
            async with SonicSession(transport=script) as session:
                seen = [await anext(session) for _ in range(6)]
        found = [each.payload for each in seen if isinstance(each, events.UnknownEvent)]
        assert found == [{"sky": "blue"}] * 2

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (ScriptedTransport, "there is no script"),
            (lambda: ScriptedTransport(expect(typed())), r"a script is a list of steps"),  # type: ignore[arg-type]
            (lambda: ScriptedTransport("hello"), r"'hello' is no script; a script is a list of steps"),
            (lambda: ScriptedTransport(["hello"]), "'hello' is nothing that the service says"),
            (lambda: ScriptedTransport([end(), wait(1)]), "step 2 comes after the end of the stream"),
            (lambda: ScriptedTransport([], patience=0), "patience is 0"),
            (lambda: wait(-1), "wait\\(\\) is given -1"),
            (expect, "nothing to expect"),
            (lambda: expect("hello"), "'hello' is nothing to expect of a client"),  # type: ignore[arg-type]
            (lambda: fail("ThrotlingException"), "name of no failure; did you mean 'ThrottlingException'"),
            (lambda: fail("x"), "'x' is the name of no failure$"),
        ],
    )
    async def test_what_cannot_be_played_is_said_at_once(self, make: Callable[[], object], text: str) -> None:
        with pytest.raises(ConfigurationError, match=text):
            make()


@virtual
class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "error"),
        [
            ("ThrottlingException", ThrottledError),
            ("modelStreamErrorException", ServiceError),
            ("RST_STREAM_RECEIVED", StreamLostError),
            ("SOCKET_TIMEOUT", ConnectError),
            ("AccessDeniedError", AccessDeniedError),
            (AccessDeniedError("no"), AccessDeniedError),
        ],
    )
    async def test_a_stream_fails_by_name_at_its_opening_or_later(
        self, failure: str | SonicError, error: type[SonicError]
    ) -> None:
        refusal = ScriptedTransport([fail(failure)])
        with refusal, pytest.raises(error):
            await SonicSession(transport=refusal).__aenter__()
        with ScriptedTransport([assistant_says("Well,", until="generated"), fail(failure)]) as script:
            async with SonicSession(transport=script, retry=None) as session:
                seen = list[events.Event]()
                with pytest.raises(error):
                    seen += [event async for event in session]
                with pytest.raises(error):
                    await session.send_text("Hello?")

    async def test_a_conversation_goes_on_over_the_next_stream(self) -> None:
        script = ScriptedTransport(
            [expect(typed("Hi!")), assistant_says("Hello!"), wait(1), end()],
            [
                expect(opens(history=[("USER", "Hi!"), ("ASSISTANT", "Hello!")])),
                expect(typed("Are you there?")),
                assistant_says("Yes."),
            ],
        )
        with script:
            async with SonicSession(transport=script, retry=Retry(attempts=2)) as session:
                await session.ask("Hi!")
                async for event in session:
                    if isinstance(event, events.SessionRenewed):
                        break
                assert (await session.ask("Are you there?")).text == "Yes."
            assert [message.text for message in session.history] == [
                "Hi!",
                "Hello!",
                "Are you there?",
                "Yes.",
            ]

    async def test_a_stream_that_is_in_no_script_is_one_too_many(self) -> None:
        script = ScriptedTransport([end()])
        async with SonicSession(transport=script) as session:
            with pytest.raises(AssertionError, match="opens stream 2, and there is no script for it"):
                await read(session)
        with pytest.raises(AssertionError, match=r"opens stream 2.*\nstream 1\n  done 1\. end the stream"):
            script.assert_complete()

    async def test_a_stream_that_is_never_opened_is_missed(self) -> None:
        script = ScriptedTransport([assistant_says("Hello!")], [assistant_says("Hello again!")])
        with pytest.raises(AssertionError, match="stream 2 was never opened"), script:
            async with SonicSession(transport=script):
                await asyncio.sleep(1)


@virtual
async def test_settings_are_changed_over_another_stream(sonic_script: SonicScript) -> None:
    script = sonic_script(
        [expect(opens(voice="matthew")), expect(typed()), assistant_says("Hello!"), wait(60)],
        [expect(opens(voice="amy", output_rate=24_000)), assistant_says("Hello again!")],
    )
    async with SonicSession(transport=script) as session:
        await session.ask("Hi!")
        await session.update(voice="amy")
        await asyncio.sleep(1)
    assert_said(session, "ASSISTANT", "Hello! Hello again!")


@virtual
async def test_a_stream_is_renewed_in_no_time(sonic_script: SonicScript, sonic_clock: SonicClock) -> None:
    script = sonic_script([assistant_says("Hello!"), wait(480)], [wait(480)])
    async with SonicSession(transport=script, renewal=Renewal(after=360)) as session:
        await sonic_clock.advance(400)
        await session.end()
        assert_happened(await read(session), events.AudioChunk, events.SessionRenewed, events.SessionEnded)


@virtual
async def test_a_scenario_is_a_script_too(sonic_script: SonicScript) -> None:
    """One format for both players: in memory here, over the wire with the emulator."""
    script = sonic_script(
        Scenario(turns=[Turn(typed="Hi!", says=["Hello!"]), Turn(heard="bye", says="Bye!")])
    )
    async with SonicSession(transport=script) as session:
        assert (await session.ask("Hi!")).text == "Hello!"
        with pytest.raises(AssertionError, match="these turns are left: heard 'bye'"):
            sonic_script.assert_complete()
        assert (await session.ask(speech(1))).text == "Bye!"
    assert isinstance(script, MemoryConnector)
    assert sonic_script.progress() == ""


# --- the emulator -----------------------------------------------------------------------------------------


async def test_the_environment_leads_to_the_emulator_while_the_test_lasts(
    sonic_emulator: SonicEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And to the last one that was asked for; keys of somebody else's are none of its business."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody's")
    first = sonic_emulator(Scenario(turns=[Turn(typed="*", says="Hello!")]), speed=20)
    assert (await ask("Hi!")).text == "Hello!"
    second = sonic_emulator([Scenario(turns=[Turn(typed="*", says="Welcome!")])], speed=20)
    assert (await ask("Hi!")).text == "Welcome!"
    assert [len(first.sessions), len(second.sessions)] == [1, 1]
    assert os.environ["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] == second.endpoint_url
    assert "AWS_SESSION_TOKEN" not in os.environ


def test_an_emulator_that_cannot_start_says_why(sonic_emulator: SonicEmulator) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no sound 'missing\.wav'"):
        sonic_emulator(Scenario(turns=[Turn(typed="*", says=[Say("Hello!", sound="missing.wav")])]))
    with pytest.raises(ConfigurationError, match="speed is 0"):
        sonic_emulator(speed=0)


# --- turns ------------------------------------------------------------------------------------------------


def shape(said: Sequence[OutputMessage]) -> list[object]:
    """What messages say, without ids, offsets, counts and the sound."""
    found = list[object]()
    for message in said:
        match message:
            case messages.OutputContentStart(type=kind, role=role, stage=stage, sample_rate=rate):
                found.append((kind, role, stage, rate))
            case messages.TextOutput(role=role, content=text):
                found.append((role, text))
            case messages.AudioOutput(content=pcm):
                found.append(len(pcm))
            case messages.ToolUse(tool_name=name, arguments=arguments):
                found.append((name, arguments))
            case messages.OutputContentEnd(type=kind, stop_reason=reason):
                found.append((kind, reason))
            case messages.UsageEvent():
                pass
            case _:
                found.append(type(message).__name__)
    return found


async def emulated(
    scenario: Scenario, story: Callable[[SonicSession], Awaitable[None]]
) -> list[OutputMessage]:
    """What the emulated service says in a conversation, but for the goodbye."""
    said = list[OutputMessage]()
    async with SonicSession(transport=MemoryConnector(scenario)) as session:
        session.on_message(
            lambda message, _: said.append(message) if isinstance(message, messages.OutputBase) else None
        )
        await story(session)
        await asyncio.sleep(30)
    return [each for each in said if not isinstance(each, messages.CompletionEnd)]


@virtual
class TestTurns:
    async def test_what_is_said_has_the_order_and_the_form_of_the_service(self) -> None:
        """The emulator's are those of recorded sessions; its tests see to that."""
        says = [Say(sentence, seconds=2) for sentence in STORY]
        turn = Turn(heard="a story please", calls=[ToolCall("clock")], says=says)

        async def talk(session: SonicSession) -> None:
            await session.send_audio(speech(1))

        said = await emulated(Scenario(turns=[turn]), talk)
        told = stream_of(user_says("a story please"), calls_tool("clock"), assistant_says(*STORY, seconds=2))
        assert shape(told) == shape(said)[: len(shape(told))]

    @pytest.mark.parametrize("generating", [False, True])
    async def test_so_has_an_interruption(self, generating: bool) -> None:
        seconds = 8.0 if generating else 3.0
        says = [Say(sentence, seconds=seconds) for sentence in STORY]
        turns = [Turn(heard="a story please", says=says), Turn(heard="stop", says=["All right."])]

        async def talk(session: SonicSession) -> None:
            await session.send_audio(speech(1))
            async for event in session:
                if isinstance(event, events.AudioChunk):
                    break
            await asyncio.sleep(0.5 if generating else 2.0)
            await session.send_audio(speech(1))

        said = await emulated(Scenario(turns=turns), talk)
        heard, until = iter(said), 0.0
        for message in heard:
            if isinstance(message, messages.OutputContentEnd) and message.type == "AUDIO":
                break
            if isinstance(message, messages.AudioOutput):
                until += len(message.content) / 48_000
        assert (until < seconds - 0.1) == generating
        told = stream_of(
            user_says("a story please"),
            assistant_says(*STORY, seconds=seconds, until=until if generating else "generated"),
            interrupts("stop"),
            assistant_says("All right."),
        )
        assert shape(told) == shape(said)

    def test_what_the_user_says_comes_before_or_after_the_end_of_the_speech(self) -> None:
        """Programs that count on either were seen to fail."""
        before = stream_of(user_says("and", "tomorrow?"))
        after = stream_of(user_says("and", "tomorrow?", place="after"))
        assert [type(each).__name__ for each in before][::8] == ["UserSpeechStart", "UserSpeechEnd"]
        assert [type(each).__name__ for each in after][:2] == ["UserSpeechStart", "UserSpeechEnd"]

    def test_every_block_has_an_id_of_its_own_and_ends_before_the_next(self) -> None:
        said = stream_of(
            user_says("a story please"),
            calls_tool("clock"),
            calls_tool("clock"),
            assistant_says(*STORY, seconds=3, until=1),
            interrupts("stop"),
            assistant_says("All right."),
        )
        assert_whole(said)
        ids = [each.tool_use_id for each in said if isinstance(each, messages.ToolUse)]
        assert len(set(ids)) == 2

    def test_what_was_told_once_can_be_told_again(self) -> None:
        """Ids are made up where there are none, and stay where there are."""
        said = stream_of(
            user_says("a story please"),
            assistant_says(*STORY, until="generated"),
            usage(text_output=5),
            interrupts("stop"),
            calls_tool("clock", id="call-1"),
        )
        assert stream_of(said) == said
        own = messages.TextOutput(content_id="own", session_id="own", completion_id="own", content="?")
        assert stream_of(own) == [messages.TextOutput(**{**fields(own), "prompt_name": "prompt-1"})]
        assert stream_of(messages.UserSpeechStart(offset_ms=40), messages.UserSpeechEnd(offset_ms=80)) == [
            messages.UserSpeechStart(offset_ms=40, session_id="session-1", prompt_name="prompt-1"),
            messages.UserSpeechEnd(offset_ms=80, session_id="session-1", prompt_name="prompt-1"),
        ]

    def test_tokens_add_up(self) -> None:
        counted = [
            each.total
            for each in stream_of(
                usage(text_input=22), usage(speech_output=20, text_output=3, speech_input=5)
            )
            if isinstance(each, messages.UsageEvent)
        ]
        assert counted == [
            Usage(text_input=22),
            Usage(text_input=22, speech_output=20, text_output=3, speech_input=5),
        ]

    def test_a_sentence_is_heard_when_somebody_says_so(self) -> None:
        said = stream_of(assistant_says(*STORY, until="generated"), was_heard(), was_heard())
        assert shape(said) == shape(stream_of(assistant_says(*STORY)))
        assert shape(said)[-6:] == [
            ("TEXT", "ASSISTANT", "FINAL", None),
            ("ASSISTANT", STORY[0]),
            ("TEXT", "END_TURN"),
            ("TEXT", "ASSISTANT", "FINAL", None),
            ("ASSISTANT", STORY[1]),
            ("TEXT", "PARTIAL_TURN"),
        ]

    def test_what_was_said_before_is_not_what_is_interrupted_now(self) -> None:
        said = stream_of(
            assistant_says("Hello.", until="generated"),
            user_says("hi"),
            assistant_says("How are you?", until="generated"),
            interrupts("fine"),
        )
        finals = [each for each in events_of(said) if isinstance(each, events.Transcript)]
        assert [each.text for each in finals if each.stage == "FINAL"] == ["hi", "How are you?", "fine"]
        with pytest.raises(ConfigurationError, match="nothing is being said"):
            stream_of(said, was_heard())

    def test_arguments_are_sent_as_an_object_or_as_they_stand(self) -> None:
        """The service was seen to send none, and to encode them twice."""
        calls = events_of(
            calls_tool("clock"), calls_tool("clock", ""), calls_tool("weather", {"city": "Oslo"})
        )
        found = [each.arguments for each in calls if isinstance(each, events.ToolCall)]
        assert found == [{}, {}, {"city": "Oslo"}]

    def test_events_are_had_without_a_session(self) -> None:
        seen = events_of(user_says("hello"), assistant_says(*STORY, seconds=0.5))
        assert_happened(
            seen,
            events.UserSpeechStarted,
            lambda event: isinstance(event, events.Transcript) and event.role == "USER",
            events.UserSpeechEnded,
            events.TurnStarted,
            events.Transcript,
            events.AudioChunk,
            events.Transcript,
            events.AudioChunk,
            events.TurnEnded,
            lambda event: isinstance(event, events.Transcript) and event.stage == "FINAL",
        )
        assert sum(each.duration for each in seen if isinstance(each, events.AudioChunk)) == pytest.approx(
            1, abs=0.1
        )


def fields(message: object) -> dict[str, Any]:
    return {each.name: getattr(message, each.name) for each in dataclasses.fields(message)}  # type: ignore[arg-type]


def assert_whole(said: Sequence[OutputMessage]) -> None:
    """One block after the other, each with one end; and one completion around them all."""
    opened, ids = "", set[str]()
    for message in said:
        match message:
            case messages.OutputContentStart(content_id=id_):
                assert opened == ""
                assert id_
                assert id_ not in ids
                opened = id_
                ids.add(id_)
            case messages.OutputContentEnd(content_id=id_):
                assert opened == id_
                opened = ""
            case messages.BlockOutput(content_id=id_):
                assert opened == id_
            case _:
                pass
    started = [type(each) for each in said].count(messages.CompletionStart)
    assert started == (1 if ids else 0)


class TestConversations:
    @settings(max_examples=50)
    @given(conversations())
    def test_what_is_made_up_is_whole(self, said: list[OutputMessage]) -> None:
        assert_whole(said[:-1] if said and isinstance(said[-1], messages.AudioOutput) else said)
        assert stream_of(said) == said

    @settings(max_examples=20)
    @given(conversations(tools=(), interruptions=False, max_turns=2))
    def test_one_can_have_fewer_things_in_them(self, said: list[OutputMessage]) -> None:
        seen = events_of(said)
        assert not any(isinstance(each, events.Interrupted | events.ToolCall) for each in seen)
        assert max((each.turn for each in seen), default=0) <= 2

    @settings(max_examples=20)
    @given(conversations(tools=()))
    def test_a_session_tells_the_same_events(self, said: list[OutputMessage]) -> None:
        """But for the audio that an interruption cuts before the program has read it."""

        async def main() -> list[events.Event]:
            with ScriptedTransport([said, wait(1)]) as script:
                async with SonicSession(transport=script) as session:
                    await asyncio.sleep(1)
                    await session.end()
                    return await read(session)

        def kinds(seen: Sequence[events.Event]) -> list[str]:
            left_out = events.AudioChunk | events.Interrupted | events.SessionStarted | events.SessionEnded
            return [repr(each) for each in seen if not isinstance(each, left_out | events.TurnEnded)]

        seen = asyncio.run(main(), loop_factory=VirtualLoop)
        assert [type(each) for each in seen].count(events.Interrupted) == [
            type(each) for each in events_of(said)
        ].count(events.Interrupted)
        assert [each for each in kinds(seen) if "UserSpeech" not in each] == [
            each for each in kinds(events_of(said)) if "UserSpeech" not in each
        ]


# --- time -------------------------------------------------------------------------------------------------


class TestClock:
    async def test_an_hour_passes_at_once(self, sonic_clock: SonicClock) -> None:
        happened = list[str]()

        async def later(seconds: float, what: str) -> None:
            await asyncio.sleep(seconds)
            happened.append(what)

        start = sonic_clock.now
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(later(1800, "half"))
            tasks.create_task(later(900, "a quarter"))
            await sonic_clock.advance(3600)
            happened.append("an hour")
        assert sonic_clock.now - start == pytest.approx(3600)
        assert happened == ["a quarter", "half", "an hour"]

    @virtual
    async def test_time_waits_for_a_thread(self) -> None:
        """Or every deadline would pass while one works."""
        async with asyncio.timeout(0.001):
            assert await asyncio.to_thread(sum, range(1_000_000)) == 499_999_500_000

    async def test_a_tool_that_runs_in_a_thread_is_not_outrun(
        self, sonic_script: SonicScript, sonic_clock: SonicClock
    ) -> None:
        """Its deadline of thirty seconds would pass in a few milliseconds."""

        @tool
        def add_up() -> int:
            """Add up."""
            return sum(range(2_000_000))

        script = sonic_script(
            [
                expect(typed()),
                calls_tool("add_up"),
                expect(answers("add_up", {"result": ANY})),
                assistant_says("Many."),
            ]
        )
        start = sonic_clock.now
        async with SonicSession(transport=script, tools=[add_up]) as session:
            await session.ask("How many?")
        assert sonic_clock.now - start < 30

    def test_a_test_that_is_no_coroutine_function_runs_one(self, sonic_clock: SonicClock) -> None:
        async def main() -> float:
            start = sonic_clock.now
            await sonic_clock.advance(60)
            return sonic_clock.now - start

        assert sonic_clock.run(main()) == pytest.approx(60)

    async def test_a_loop_of_another_kind_says_what_to_do(self) -> None:
        for use in (lambda: SonicClock().now, lambda: SonicClock().advance(1).send(None)):
            with pytest.raises(
                ConfigurationError, match=r"not on virtual time.*anyio_backend.*sonic_clock\.run"
            ):
                use()


# --- assertions -------------------------------------------------------------------------------------------

TOLD = (
    user_says("what is the weather", "in oslo?"),
    assistant_says("One moment."),
    calls_tool("weather", {"city": "Oslo", "days": 2}, id="call-1"),
    assistant_says("It is seven degrees.", "It rains.", until="generated"),
    interrupts("thank you"),
    assistant_says("You are welcome."),
)


class TestAssertions:
    @pytest.fixture(params=["session", "history", "events"])
    def conversation(self, request: pytest.FixtureRequest, sonic_clock: SonicClock) -> Any:
        async def main() -> SonicSession:
            with ScriptedTransport([*TOLD, expect(answers("call-1")), wait(1)]) as script:
                async with SonicSession(transport=script, tools=[weather]) as session:
                    await asyncio.sleep(1)
            return session

        if request.param == "events":
            return iter(events_of(*TOLD))
        session = sonic_clock.run(main())
        return session if request.param == "session" else session.history

    def test_what_was_said_is_found(self, conversation: Any) -> None:
        said = assert_said(conversation, "USER", "weather in oslo")
        assert (said.role, said.text) == ("USER", "what is the weather in oslo?")

    def test_a_pattern_is_searched_for(self, conversation: Any) -> None:
        said = assert_said(conversation, "ASSISTANT", re.compile("seven|eight"))
        assert said.interrupted
        assert "It rains" not in said.text

    def test_what_was_not_said_is_told_beside_what_was(self, conversation: Any) -> None:
        with pytest.raises(AssertionError) as caught:
            assert_said(conversation, "ASSISTANT", "It rains.")
        assert str(caught.value).splitlines() == [
            "the assistant did not say 'It rains.'. This was said:",
            "  USER: 'what is the weather in oslo?'",
            "  ASSISTANT: 'One moment. It is seven degrees.' (interrupted)",
            "  USER: 'thank you'",
            "  ASSISTANT: 'You are welcome.'",
        ]

    def test_who_was_interrupted_is_found(self, conversation: Any) -> None:
        assert "seven degrees" in assert_interrupted(conversation).text

    def test_nobody_was_interrupted_while_he_said_something_else(self, conversation: Any) -> None:
        with pytest.raises(AssertionError, match="nobody interrupted the assistant while it said 'welcome'"):
            assert_interrupted(conversation, "welcome")

    def test_a_call_is_found_by_what_matters_of_its_arguments(self, conversation: Any) -> None:
        call = assert_called(conversation, "weather", city="Oslo", days=ANY)
        assert (call.id, call.arguments) == ("call-1", {"city": "Oslo", "days": 2})

    @pytest.mark.parametrize("arguments", [{"city": "Rome"}, {"hour": 3}])
    def test_a_call_that_was_not_made_is_told_beside_those_that_were(
        self, conversation: Any, arguments: dict[str, object]
    ) -> None:
        with pytest.raises(AssertionError, match=r"(?s)was not called.*weather\(city='Oslo', days=2\)"):
            assert_called(conversation, "weather", **arguments)

    def test_a_call_is_found_with_its_answer(self, sonic_clock: SonicClock) -> None:
        async def main() -> list[events.Event]:
            script = ScriptedTransport([calls_tool("clock"), expect(answers("clock")), wait(1)])
            async with SonicSession(transport=script, tools=[clock]) as session:
                await asyncio.sleep(0.5)
                await session.end()
                return await read(session)

        assert assert_called(sonic_clock.run(main()), "clock").result == {"result": "noon"}

    def test_a_reply_is_a_conversation(self, sonic_clock: SonicClock) -> None:
        async def main() -> Reply:
            turn = Turn(
                heard="hello",
                says="Hello!",
                calls=[ToolCall("weather", arguments={"city": "Oslo"})],
                then="7.",
            )
            connector = MemoryConnector(Scenario(turns=[turn]))
            return await ask(speech(1), transport=connector, tools=[weather])

        reply = sonic_clock.run(main())
        assert_said(reply, "USER", "hello")
        assert_said(reply, "ASSISTANT", "7.")
        assert assert_called(reply, "weather", city="Oslo").result == {"city": "Oslo", "celsius": 7}
        with pytest.raises(AssertionError, match=r"nobody interrupted the assistant\. This was said"):
            assert_interrupted(reply)
        with pytest.raises(AssertionError, match="did not say"):
            assert_said(dataclasses.replace(reply, user_text=""), "USER", "")

    def test_nothing_is_said_to_be_nothing(self) -> None:
        with pytest.raises(AssertionError, match="This was said: nothing"):
            assert_said([], "USER", "hello")
        with pytest.raises(AssertionError, match="There were these calls: none"):
            assert_called([], "weather")
        with pytest.raises(AssertionError, match="There came: nothing"):
            assert_happened([], events.AudioChunk)

    def test_events_come_in_order(self) -> None:
        seen = events_of(*TOLD)
        found = assert_happened(seen, events.Interrupted, events.TurnStarted)
        assert [each.turn for each in found] == [2, 3]
        with pytest.raises(
            AssertionError, match=r"no Interrupted after Interrupted\. There came: UserSpeechStarted, "
        ):
            assert_happened(seen, events.Interrupted, events.Interrupted)
        with pytest.raises(AssertionError, match=r"no .*<lambda>\. There came: "):
            assert_happened(seen, lambda _: False)


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", novasonic.testing.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    found: Any = getattr(novasonic.testing, name)
    assert found.__name__ == name
    assert found.__doc__


def test_the_kit_exports_what_it_means_to() -> None:
    assert sorted(novasonic.testing.__all__) == dir(novasonic.testing)
    with pytest.raises(AttributeError, match="has no attribute 'ScriptedTransports'"):
        _ = novasonic.testing.ScriptedTransports
    assert "testing" not in novasonic.__all__
