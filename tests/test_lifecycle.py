"""What may be sent when: the tables, all that they leave out, and the names of what is open."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from novasonic import messages
from novasonic.errors import LocalProtocolError
from novasonic.lifecycle import (
    BLOCK,
    CARRIES,
    TRANSITIONS,
    Block,
    Lifecycle,
    Reason,
    RefusedError,
    State,
    Step,
)
from novasonic.messages import BlockType, InputMessage, InputRole

PROMPT: Final = "prompt"
AUDIO: Final = "audio"


def start(name: str, kind: BlockType, role: InputRole, *, interactive: bool = False) -> InputMessage:
    return messages.InputContentStart(
        prompt_name=PROMPT,
        content_name=name,
        type=kind,
        role=role,
        interactive=interactive,
        sample_rate=16_000 if kind == "AUDIO" else None,
        tool_use_id="call" if kind == "TOOL" else None,
    )


def text(name: str) -> InputMessage:
    return messages.TextInput(prompt_name=PROMPT, content_name=name, content="words")


def audio(name: str = AUDIO) -> InputMessage:
    return messages.AudioInput(prompt_name=PROMPT, content_name=name, content=bytes(1024))


def result(name: str) -> InputMessage:
    return messages.ToolResult(prompt_name=PROMPT, content_name=name, content="{}")


def end(name: str) -> InputMessage:
    return messages.InputContentEnd(prompt_name=PROMPT, content_name=name)


SESSION_START: Final = messages.SessionStart()
PROMPT_START: Final = messages.PromptStart(prompt_name=PROMPT, voice="amy")
PROMPT_END: Final = messages.PromptEnd(prompt_name=PROMPT)
SESSION_END: Final = messages.SessionEnd()

PAYLOADS: Final[Mapping[BlockType, Callable[[str], InputMessage]]] = {
    "TEXT": text,
    "AUDIO": audio,
    "TOOL": result,
}

# One message that takes each step; the name of its block, where it has one, is to be new.
STEPS: Final[Mapping[Step, Callable[[str], InputMessage]]] = {
    Step.SESSION_START: lambda _: SESSION_START,
    Step.PROMPT_START: lambda _: PROMPT_START,
    Step.SYSTEM: lambda name: start(name, "TEXT", "SYSTEM"),
    Step.SYSTEM_SPEECH: lambda name: start(name, "TEXT", "SYSTEM_SPEECH"),
    Step.HISTORY: lambda name: start(name, "TEXT", "USER"),
    Step.AUDIO: lambda name: start(name, "AUDIO", "USER", interactive=True),
    Step.TYPED: lambda name: start(name, "TEXT", "USER", interactive=True),
    Step.TOOL_RESULT: lambda name: start(name, "TOOL", "TOOL"),
    Step.AUDIO_END: end,
    Step.PROMPT_END: lambda _: PROMPT_END,
    Step.SESSION_END: lambda _: SESSION_END,
}

ROUTES: Final[Mapping[State, tuple[Step, ...]]] = {
    State.NEW: (),
    State.SESSION: (Step.SESSION_START,),
    State.PROMPT: (Step.SESSION_START, Step.PROMPT_START),
    State.INSTRUCTED: (Step.SESSION_START, Step.PROMPT_START, Step.SYSTEM),
    State.TRANSCRIBING: (Step.SESSION_START, Step.PROMPT_START, Step.SYSTEM, Step.SYSTEM_SPEECH),
    State.REMEMBERING: (Step.SESSION_START, Step.PROMPT_START, Step.SYSTEM, Step.HISTORY),
    State.LISTENING: (Step.SESSION_START, Step.PROMPT_START, Step.SYSTEM, Step.AUDIO),
    State.DEAF: (Step.SESSION_START, Step.PROMPT_START, Step.SYSTEM, Step.AUDIO, Step.AUDIO_END),
    State.ENDING: (Step.SESSION_START, Step.PROMPT_START, Step.PROMPT_END),
    State.ENDED: (Step.SESSION_START, Step.PROMPT_START, Step.PROMPT_END, Step.SESSION_END),
}

LEGAL: Final = [(state, step) for state in State for step in TRANSITIONS[state]]
ILLEGAL: Final = [(state, step) for state in State for step in Step if step not in TRANSITIONS[state]]


class Client:
    """Takes steps: completes the blocks that it begins, except for audio."""

    def __init__(self) -> None:
        self.lifecycle = Lifecycle()
        self._audio = ""
        self._blocks = 0

    def take(self, step: Step) -> None:
        self._blocks += 1
        name = f"block {self._blocks}"
        if step is Step.AUDIO_END:
            name = self._audio
        message = STEPS[step](name)
        self.lifecycle.send(message)
        if isinstance(message, messages.InputContentStart):
            self.lifecycle.send(PAYLOADS[message.type](name))
            if message.type == "AUDIO":
                self._audio = name
            else:
                self.lifecycle.send(end(name))


def client_in(state: State) -> Client:
    client = Client()
    for step in ROUTES[state]:
        client.take(step)
    assert client.lifecycle.state is state
    return client


def listening() -> Lifecycle:
    """A stream whose audio is open, in the block "audio", and holds some."""
    lifecycle = Lifecycle()
    for message in (
        SESSION_START,
        PROMPT_START,
        *(start("system", "TEXT", "SYSTEM"), text("system"), end("system")),
        *(start(AUDIO, "AUDIO", "USER", interactive=True), audio()),
    ):
        lifecycle.send(message)
    return lifecycle


def seen(lifecycle: Lifecycle) -> Any:
    """All that one can see of it."""
    names = ["system", AUDIO, "x", "new", *(f"block {at}" for at in range(30))]
    return lifecycle.state, dict(lifecycle.open_blocks), [lifecycle.block(name) for name in names]


def assert_refused(lifecycle: Lifecycle, message: InputMessage, reason: Reason) -> None:
    """It is refused for that reason, and nothing has changed."""
    before = seen(lifecycle)
    with pytest.raises(LocalProtocolError, match=reason.value) as caught:
        lifecycle.send(message)
    assert isinstance(caught.value, RefusedError)
    assert caught.value.reason is reason
    assert seen(lifecycle) == before


# --- the stream's table -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "step"), LEGAL)
def test_whatever_the_table_allows_leads_where_it_says(state: State, step: Step) -> None:
    client = client_in(state)
    client.take(step)
    assert client.lifecycle.state is TRANSITIONS[state][step]


@pytest.mark.parametrize(("state", "step"), ILLEGAL)
def test_whatever_the_table_leaves_out_is_refused_and_changes_nothing(state: State, step: Step) -> None:
    client = client_in(state)
    before = seen(client.lifecycle)
    name = type(STEPS[step]("new")).__name__
    with pytest.raises(LocalProtocolError, match=f"cannot send {name} while {state.name} "):
        client.take(step)
    assert seen(client.lifecycle) == before
    for allowed in TRANSITIONS[state]:
        again = client_in(state)
        with pytest.raises(LocalProtocolError):
            again.take(step)
        again.take(allowed)
        assert again.lifecycle.state is TRANSITIONS[state][allowed]


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_a_walk_over_the_table_goes_where_the_table_says_and_nowhere_else(steps: list[Step]) -> None:
    client, state = Client(), State.NEW
    for step in steps:
        following = TRANSITIONS[state].get(step)
        if following is None:
            with pytest.raises(RefusedError):
                client.take(step)
        else:
            client.take(step)
            state = following
        assert client.lifecycle.state is state


@given(st.data())
def test_every_walk_that_the_table_allows_is_allowed(data: st.DataObject) -> None:
    client = Client()
    for _ in range(data.draw(st.integers(0, 25))):
        allowed = sorted(TRANSITIONS[client.lifecycle.state])
        if not allowed:
            break
        step = data.draw(st.sampled_from(allowed))
        expected = TRANSITIONS[client.lifecycle.state][step]
        client.take(step)
        assert client.lifecycle.state is expected


def test_from_everywhere_there_is_a_way_to_say_goodbye() -> None:
    """A stream that ends with an open prompt is an error to the service."""
    reached = {State.ENDED}
    while more := {
        state for state in State if state not in reached and reached & set(TRANSITIONS[state].values())
    }:
        reached |= more
    assert reached == set(State)


# --- any order of any messages ----------------------------------------------------------------------------

_pool = st.sampled_from(["a", "b", "c"])
_prompts = st.sampled_from([PROMPT, PROMPT, PROMPT, "another"])
_any_message = st.one_of(
    st.sampled_from([SESSION_START, PROMPT_START, PROMPT_END, SESSION_END]),
    st.builds(
        messages.InputContentStart,
        prompt_name=_prompts,
        content_name=_pool,
        type=st.sampled_from(messages.BLOCK_TYPES),
        role=st.sampled_from(messages.INPUT_ROLES),
        interactive=st.booleans(),
    ),
    st.builds(messages.TextInput, prompt_name=_prompts, content_name=_pool, content=st.just("words")),
    st.builds(messages.AudioInput, prompt_name=_prompts, content_name=_pool, content=st.just(b"\0\0")),
    st.builds(messages.ToolResult, prompt_name=_prompts, content_name=_pool, content=st.just("{}")),
    st.builds(messages.InputContentEnd, prompt_name=_prompts, content_name=_pool),
)


@given(st.integers(0, 5), st.lists(_any_message | strategies.input_messages(), max_size=30))
def test_any_message_at_any_time_is_allowed_or_refused_and_a_refusal_changes_nothing(
    beginning: int, said: list[InputMessage]
) -> None:
    """The emulator is told whatever its clients like."""
    lifecycle = Lifecycle()
    opening = (SESSION_START, PROMPT_START, start("system", "TEXT", "SYSTEM"), text("system"), end("system"))
    for message in (*opening[:beginning], *said):
        names = [*lifecycle.open_blocks, "a", "b", "c", "system"]
        before = lifecycle.state, dict(lifecycle.open_blocks), [lifecycle.block(name) for name in names]
        try:
            lifecycle.send(message)
        except RefusedError:
            after = lifecycle.state, dict(lifecycle.open_blocks), [lifecycle.block(name) for name in names]
            assert after == before
        kinds = list(lifecycle.open_blocks.values())
        assert kinds.count("AUDIO") <= 1
        assert len(kinds) - kinds.count("AUDIO") <= 1
        assert ("AUDIO" in kinds) == (lifecycle.state is State.LISTENING)


# --- blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", messages.BLOCK_TYPES)
def test_a_block_goes_from_empty_to_filled_to_ended(kind: BlockType) -> None:
    lifecycle = Lifecycle()
    if kind == "TEXT":
        for message in (SESSION_START, PROMPT_START, start("x", "TEXT", "SYSTEM")):
            lifecycle.send(message)
    else:
        lifecycle = listening()
        if kind == "AUDIO":
            lifecycle.send(end(AUDIO))
            lifecycle.send(start("x", "AUDIO", "USER", interactive=True))
        else:
            lifecycle.send(start("x", "TOOL", "TOOL"))
    assert lifecycle.block("x") is Block.EMPTY
    lifecycle.send(PAYLOADS[kind]("x"))
    assert lifecycle.block("x") is Block.FILLED
    assert lifecycle.open_blocks["x"] == kind
    lifecycle.send(end("x"))
    assert lifecycle.block("x") is Block.ENDED
    assert "x" not in lifecycle.open_blocks


def test_a_block_that_was_never_opened_is_nowhere() -> None:
    assert listening().block("x") is None


@pytest.mark.parametrize("kind", messages.BLOCK_TYPES)
@pytest.mark.parametrize("wrong", messages.BLOCK_TYPES)
def test_a_block_holds_only_what_it_is_for(kind: BlockType, wrong: BlockType) -> None:
    if kind == wrong:
        assert type(PAYLOADS[wrong]("x")) is CARRIES[kind]
        return
    lifecycle = listening()
    if kind == "AUDIO":
        lifecycle.send(end(AUDIO))
    lifecycle.send(start("x", kind, "TOOL" if kind == "TOOL" else "USER", interactive=kind != "TOOL"))
    assert_refused(lifecycle, PAYLOADS[wrong]("x"), Reason.WRONG_CONTENT)


def test_every_type_of_block_has_a_table() -> None:
    assert set(BLOCK) == set(CARRIES) == set(messages.BLOCK_TYPES)


def test_an_empty_block_cannot_be_ended() -> None:
    """The service: "Cannot end content as no content data was received." """
    lifecycle = listening()
    lifecycle.send(start("x", "TEXT", "USER", interactive=True))
    assert_refused(lifecycle, end("x"), Reason.EMPTY_CONTENT)
    lifecycle.send(text("x"))
    lifecycle.send(end("x"))


def test_an_audio_block_without_audio_cannot_be_ended() -> None:
    lifecycle = listening()
    lifecycle.send(end(AUDIO))
    lifecycle.send(start("x", "AUDIO", "USER", interactive=True))
    assert_refused(lifecycle, end("x"), Reason.EMPTY_CONTENT)
    assert lifecycle.state is State.LISTENING
    lifecycle.send(audio("x"))
    lifecycle.send(end("x"))
    assert lifecycle.block("x") is Block.ENDED


def test_a_text_may_come_in_several_parts() -> None:
    """One part holds a kilobyte at most."""
    lifecycle = listening()
    lifecycle.send(start("x", "TEXT", "USER", interactive=True))
    for _ in range(5):
        lifecycle.send(text("x"))
    lifecycle.send(end("x"))


def test_a_tool_block_holds_one_result() -> None:
    lifecycle = listening()
    lifecycle.send(start("x", "TOOL", "TOOL"))
    lifecycle.send(result("x"))
    assert_refused(lifecycle, result("x"), Reason.WRONG_CONTENT)
    lifecycle.send(end("x"))


@pytest.mark.parametrize("kind", ["TEXT", "TOOL"])
def test_audio_waits_until_an_open_text_or_result_is_complete(kind: BlockType) -> None:
    """The service rejects it: "Chat history should be sent completely before streaming audio." """
    lifecycle = listening()
    lifecycle.send(start("x", kind, "TOOL" if kind == "TOOL" else "USER", interactive=kind == "TEXT"))
    assert_refused(lifecycle, audio(), Reason.TEXT_OPEN)
    lifecycle.send(PAYLOADS[kind]("x"))
    assert_refused(lifecycle, audio(), Reason.TEXT_OPEN)
    lifecycle.send(end("x"))
    lifecycle.send(audio())


def test_no_block_begins_inside_another_that_must_not_be_cut() -> None:
    lifecycle = listening()
    lifecycle.send(start("x", "TEXT", "USER", interactive=True))
    for other in (start("y", "TEXT", "USER", interactive=True), start("y", "TOOL", "TOOL")):
        assert_refused(lifecycle, other, Reason.TEXT_OPEN)


def test_the_end_of_audio_waits_for_an_open_text() -> None:
    lifecycle = listening()
    lifecycle.send(start("x", "TEXT", "USER", interactive=True))
    assert_refused(lifecycle, end(AUDIO), Reason.TEXT_OPEN)


@pytest.mark.parametrize("state", [State.LISTENING, State.DEAF, State.INSTRUCTED])
def test_the_name_of_a_block_is_not_used_again(state: State) -> None:
    """Neither of one that is open nor of one that has ended, whatever it held."""
    client = client_in(state)
    for name in ("block 3", "block 4") if state is not State.INSTRUCTED else ("block 3",):
        for message in (
            start(name, "AUDIO", "USER", interactive=True),
            start(name, "TEXT", "USER", interactive=True),
            start(name, "TEXT", "USER"),
        ):
            assert_refused(client.lifecycle, message, Reason.REUSED_NAME)


@pytest.mark.parametrize("message", [text("x"), audio("x"), result("x"), end("x")])
def test_a_block_that_was_not_opened_cannot_be_filled_or_ended(message: InputMessage) -> None:
    assert_refused(listening(), message, Reason.UNKNOWN_CONTENT)


@pytest.mark.parametrize("message", [text("system"), end("system")])
def test_a_block_that_has_ended_cannot_be_filled_or_ended(message: InputMessage) -> None:
    assert_refused(listening(), message, Reason.UNKNOWN_CONTENT)


@pytest.mark.parametrize(
    "message",
    [
        messages.InputContentStart(
            prompt_name="another", content_name="x", type="TEXT", role="USER", interactive=True
        ),
        messages.AudioInput(prompt_name="another", content_name=AUDIO, content=b"\0\0"),
        messages.TextInput(prompt_name="another", content_name="x", content="words"),
        messages.ToolResult(prompt_name="another", content_name="x", content="{}"),
        messages.InputContentEnd(prompt_name="another", content_name=AUDIO),
        messages.PromptEnd(prompt_name="another"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_prompt_that_was_not_started_cannot_be_meant(message: InputMessage) -> None:
    lifecycle = listening()
    assert_refused(lifecycle, message, Reason.UNKNOWN_PROMPT)


def test_a_second_prompt_changes_nothing_not_even_the_name_of_the_first() -> None:
    lifecycle = listening()
    assert_refused(lifecycle, messages.PromptStart(prompt_name="another", voice="amy"), Reason.ORDER)
    lifecycle.send(audio())


# --- system prompt, history, farewell ---------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.INSTRUCTED, State.TRANSCRIBING, State.REMEMBERING, State.LISTENING])
def test_a_second_system_prompt_is_refused(state: State) -> None:
    """It aborts the stream."""
    lifecycle = client_in(state).lifecycle
    assert_refused(lifecycle, start("new", "TEXT", "SYSTEM"), Reason.SECOND_SYSTEM)


@pytest.mark.parametrize("state", [State.LISTENING, State.DEAF])
@pytest.mark.parametrize("role", ["USER", "ASSISTANT"])
def test_history_comes_before_audio(state: State, role: InputRole) -> None:
    lifecycle = client_in(state).lifecycle
    assert_refused(lifecycle, start("new", "TEXT", role), Reason.LATE_HISTORY)


def test_history_does_not_begin_with_the_assistant() -> None:
    """The service: "First message in chat history should not be Assistant." """
    client = client_in(State.INSTRUCTED)
    assert_refused(client.lifecycle, start("new", "TEXT", "ASSISTANT"), Reason.ASSISTANT_FIRST)
    client.take(Step.HISTORY)
    client.lifecycle.send(start("new", "TEXT", "ASSISTANT"))


@pytest.mark.parametrize("kind", messages.BLOCK_TYPES)
def test_a_prompt_with_an_open_block_cannot_be_ended(kind: BlockType) -> None:
    """The service: "All contents must be closed before ending prompt." """
    lifecycle = listening()
    if kind != "AUDIO":
        lifecycle.send(start("x", kind, "TOOL" if kind == "TOOL" else "USER", interactive=kind == "TEXT"))
        lifecycle.send(PAYLOADS[kind]("x"))
    assert_refused(lifecycle, PROMPT_END, Reason.CONTENT_OPEN)


@given(strategies.input_messages() | _any_message)
def test_nothing_may_follow_the_end_of_the_session(message: InputMessage) -> None:
    lifecycle = client_in(State.ENDED).lifecycle
    with pytest.raises(RefusedError):
        lifecycle.send(message)
    assert lifecycle.state is State.ENDED


def test_several_audio_blocks_may_follow_one_another() -> None:
    lifecycle = listening()
    for name in ("second", "third"):
        lifecycle.send(end(AUDIO if name == "second" else "second"))
        lifecycle.send(start(name, "AUDIO", "USER", interactive=True))
        lifecycle.send(audio(name))
    assert lifecycle.open_blocks == {"third": "AUDIO"}


@given(
    st.text(max_size=3000).filter(lambda said: bool(said.strip())),
    st.lists(st.sampled_from(["text", "tool", "audio"]), max_size=12),
)
def test_what_the_helpers_write_is_always_allowed(words: str, what: list[str]) -> None:
    lifecycle = Lifecycle()
    lifecycle.send(SESSION_START)
    lifecycle.send(PROMPT_START)
    opening = (
        *messages.text_block(words, prompt_name=PROMPT, role="SYSTEM"),
        *messages.text_block(words, prompt_name=PROMPT, role="USER"),
        *messages.text_block(words, prompt_name=PROMPT, role="ASSISTANT"),
        start(AUDIO, "AUDIO", "USER", interactive=True),
        audio(),
    )
    for message in opening:
        lifecycle.send(message)
    for each in what:
        match each:
            case "text":
                run = messages.text_block(words, prompt_name=PROMPT, role="USER", interactive=True)
            case "tool":
                run = messages.tool_block("{}", prompt_name=PROMPT, tool_use_id="call")
            case _:
                run = (audio(),)
        for message in run:
            lifecycle.send(message)
    for message in (end(AUDIO), PROMPT_END, SESSION_END):
        lifecycle.send(message)
    assert lifecycle.state is State.ENDED


def test_an_error_says_what_was_refused_and_why() -> None:
    lifecycle = listening()
    lifecycle.send(start("x", "TEXT", "USER", interactive=True))
    with pytest.raises(LocalProtocolError) as caught:
        lifecycle.send(audio())
    said = str(caught.value)
    assert said == (
        "cannot send AudioInput while LISTENING (audio open): a block that must not be cut is open"
    )
