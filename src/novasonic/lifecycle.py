"""Which message may be sent when: two tables, and the names of what is open. No I/O, no clock.

One table is the stream's, one each content block's. What they leave out is refused, and a refusal changes
nothing. The session asks before it sends; the emulator judges its clients by the same tables.

The order is the one of the Nova 2 user guide ("Input events", "Chat history"): session, prompt, one system
prompt, history, then audio and whatever comes while it is open, then the two farewells.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final, assert_never

from novasonic import messages
from novasonic.errors import LocalProtocolError
from novasonic.messages import BlockType, InputMessage


class State(Enum):
    """Where a stream is."""

    NEW = "new"
    SESSION = "session started"
    PROMPT = "prompt started"
    INSTRUCTED = "system prompt given"
    TRANSCRIBING = "transcription controls given"
    REMEMBERING = "history given"
    LISTENING = "audio open"
    DEAF = "audio closed"
    ENDING = "prompt ended"
    ENDED = "session ended"


class Step(StrEnum):
    """What a message is to a stream. Most are the start of a block of a certain kind."""

    SESSION_START = "sessionStart"
    PROMPT_START = "promptStart"
    SYSTEM = "a SYSTEM block"
    SYSTEM_SPEECH = "a SYSTEM_SPEECH block"
    HISTORY = "a block of history"
    AUDIO = "an AUDIO block"
    TYPED = "an interactive TEXT block"
    TOOL_RESULT = "a TOOL block"
    AUDIO_END = "the end of the AUDIO block"
    PROMPT_END = "promptEnd"
    SESSION_END = "sessionEnd"


_TO_AUDIO: Final = {Step.AUDIO: State.LISTENING, Step.PROMPT_END: State.ENDING}
_TO_HISTORY: Final = {Step.HISTORY: State.REMEMBERING, **_TO_AUDIO}

TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    State.NEW: {Step.SESSION_START: State.SESSION},
    State.SESSION: {Step.PROMPT_START: State.PROMPT},
    State.PROMPT: {Step.SYSTEM: State.INSTRUCTED, Step.PROMPT_END: State.ENDING},
    State.INSTRUCTED: {Step.SYSTEM_SPEECH: State.TRANSCRIBING, **_TO_HISTORY},
    State.TRANSCRIBING: _TO_HISTORY,
    State.REMEMBERING: _TO_HISTORY,
    State.LISTENING: {
        Step.TYPED: State.LISTENING,
        Step.TOOL_RESULT: State.LISTENING,
        Step.AUDIO_END: State.DEAF,
    },
    State.DEAF: _TO_AUDIO,
    State.ENDING: {Step.SESSION_END: State.ENDED},
    State.ENDED: {},
}
"""From each state, the steps that are allowed and where they lead."""


class Block(Enum):
    """Where a content block is."""

    EMPTY = "empty"
    FILLED = "filled"
    ENDED = "ended"


Payload = messages.TextInput | messages.AudioInput | messages.ToolResult
"""What fills a block."""

PAYLOAD: Final = "payload"
END: Final = "end"

_MANY: Final[Mapping[Block, Mapping[str, Block]]] = {
    Block.EMPTY: {PAYLOAD: Block.FILLED},  # "Cannot end content as no content data was received."
    Block.FILLED: {PAYLOAD: Block.FILLED, END: Block.ENDED},
    Block.ENDED: {},
}
_ONE: Final = {**_MANY, Block.FILLED: {END: Block.ENDED}}

BLOCK: Final[Mapping[BlockType, Mapping[Block, Mapping[str, Block]]]] = {
    "TEXT": _MANY,
    "AUDIO": _MANY,
    "TOOL": _ONE,
}
"""The same for a content block, by its type."""

CARRIES: Final[Mapping[BlockType, type[Payload]]] = {
    "TEXT": messages.TextInput,
    "AUDIO": messages.AudioInput,
    "TOOL": messages.ToolResult,
}
"""What a block of each type may hold."""


class Reason(Enum):
    """Why a message was refused. The service has a text of its own for most of these."""

    ORDER = "it may not be sent now"
    SECOND_SYSTEM = "the system prompt has been given"
    LATE_HISTORY = "history must be complete before audio"
    UNKNOWN_PROMPT = "no such prompt is open"
    UNKNOWN_CONTENT = "no such block is open"
    REUSED_NAME = "a block of this name was there before"
    WRONG_CONTENT = "the block holds something else, or all it may"
    EMPTY_CONTENT = "the block is empty"
    TEXT_OPEN = "a block that must not be cut is open"
    CONTENT_OPEN = "a block is still open"
    ASSISTANT_FIRST = "history must begin with the user"


class RefusedError(LocalProtocolError):
    """A message that may not be sent now. `reason` says why in one word."""

    def __init__(self, message: InputMessage, state: State, reason: Reason) -> None:
        super().__init__(
            f"cannot send {type(message).__name__} while {state.name} ({state.value}): {reason.value}"
        )
        self.reason = reason


class Lifecycle:
    """What one stream has sent so far, as far as it decides what may be sent next."""

    def __init__(self, state: State = State.NEW) -> None:
        self.state = state
        self._prompt_name: str | None = None
        self._blocks: dict[str, Block] = {}  # by content name, the ended ones too: names are not reused
        self._types: dict[str, BlockType] = {}  # of the open ones

    @property
    def open_blocks(self) -> Mapping[str, BlockType]:
        """The blocks that are open now, by content name: at most one AUDIO and one other."""
        return self._types

    def block(self, content_name: str) -> Block | None:
        """Where a block is; None if none of that name was ever opened."""
        return self._blocks.get(content_name)

    def send(self, message: InputMessage) -> None:
        """Take note that `message` goes out now.

        Raises:
            RefusedError: If it may not. Then nothing has changed.
        """
        match message:
            case messages.AudioInput() | messages.TextInput() | messages.ToolResult():  # thirty a second
                self._fill(message)
            case messages.SessionStart():
                self._step(message, Step.SESSION_START)
            case messages.PromptStart():
                self._step(message, Step.PROMPT_START)
                self._prompt_name = message.prompt_name
            case messages.InputContentStart():
                self._start(message)
            case messages.InputContentEnd():
                self._end(message)
            case messages.PromptEnd():
                self._check_prompt(message, message.prompt_name)
                if self._types:
                    raise RefusedError(message, self.state, Reason.CONTENT_OPEN)
                self._step(message, Step.PROMPT_END)
            case messages.SessionEnd():
                self._step(message, Step.SESSION_END)
            case _:
                assert_never(message)

    def _step(self, message: InputMessage, step: Step) -> None:
        following = TRANSITIONS[self.state].get(step)
        if following is None:
            raise RefusedError(message, self.state, _why(self.state, step))
        self.state = following

    def _start(self, message: messages.InputContentStart) -> None:
        self._check_prompt(message, message.prompt_name)
        if message.content_name in self._blocks:
            raise RefusedError(message, self.state, Reason.REUSED_NAME)
        self._check_nothing_is_cut(message)
        step = _block_step(message)
        first = step in TRANSITIONS[self.state] and self.state is not State.REMEMBERING
        if step is Step.HISTORY and message.role == "ASSISTANT" and first:
            raise RefusedError(message, self.state, Reason.ASSISTANT_FIRST)
        self._step(message, step)
        self._blocks[message.content_name] = Block.EMPTY
        self._types[message.content_name] = message.type

    def _fill(self, message: Payload) -> None:
        self._check_prompt(message, message.prompt_name)
        kind = self._open(message, message.content_name)
        if kind == "AUDIO":
            self._check_nothing_is_cut(message)
        following = BLOCK[kind][self._blocks[message.content_name]].get(PAYLOAD)
        if following is None or type(message) is not CARRIES[kind]:
            raise RefusedError(message, self.state, Reason.WRONG_CONTENT)
        self._blocks[message.content_name] = following

    def _end(self, message: messages.InputContentEnd) -> None:
        self._check_prompt(message, message.prompt_name)
        kind = self._open(message, message.content_name)
        following = BLOCK[kind][self._blocks[message.content_name]].get(END)
        if following is None:
            raise RefusedError(message, self.state, Reason.EMPTY_CONTENT)
        if kind == "AUDIO":
            self._check_nothing_is_cut(message)
            self._step(message, Step.AUDIO_END)
        self._blocks[message.content_name] = following
        del self._types[message.content_name]

    def _open(self, message: InputMessage, content_name: str) -> BlockType:
        kind = self._types.get(content_name)
        if kind is None:
            raise RefusedError(message, self.state, Reason.UNKNOWN_CONTENT)
        return kind

    def _check_prompt(self, message: InputMessage, prompt_name: str) -> None:
        if prompt_name != self._prompt_name:
            raise RefusedError(message, self.state, Reason.UNKNOWN_PROMPT)

    def _check_nothing_is_cut(self, message: InputMessage) -> None:
        """Text and tool results go out in one piece: audio between their parts is rejected."""
        if any(kind != "AUDIO" for kind in self._types.values()):
            raise RefusedError(message, self.state, Reason.TEXT_OPEN)


def _block_step(message: messages.InputContentStart) -> Step:
    match message.type:
        case "AUDIO":
            return Step.AUDIO
        case "TOOL":
            return Step.TOOL_RESULT
        case "TEXT" if message.role == "SYSTEM":
            return Step.SYSTEM
        case "TEXT" if message.role == "SYSTEM_SPEECH":
            return Step.SYSTEM_SPEECH
        case "TEXT":
            return Step.TYPED if message.interactive else Step.HISTORY
        case _:
            assert_never(message.type)


def _why(state: State, step: Step) -> Reason:
    match step:
        case Step.SYSTEM if state not in {State.NEW, State.SESSION}:
            return Reason.SECOND_SYSTEM
        case Step.HISTORY if state in {State.LISTENING, State.DEAF}:
            return Reason.LATE_HISTORY
        case _:
            return Reason.ORDER
