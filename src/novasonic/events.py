"""What iterating over a session yields: things that happened, told to a listener. No I/O, no behaviour.

Failure is no event: the iterator raises it.

Turns are counted by the model's responses. What the user says carries the number of the response that it
is going to get; 0 stands on what has to do with no turn.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from novasonic.errors import SonicError
from novasonic.messages import OutputMessage
from novasonic.models import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBase:
    """What every event has.

    Attributes:
        turn: The turn that it belongs to, from 1; 0 for none.
        source: The service's messages that it was made of, for whoever needs all there is.
    """

    turn: int = 0
    source: tuple[OutputMessage, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long the user had to wait, in seconds, as seen from here; None for what cannot be told.

    Attributes:
        text: From the end of what the user said to the first text that the model plans to say.
        audio: From there to the first sound of it, as it came.
        heard: From there to the first sound of it that was played, if a player tells.
    """

    text: float | None = None
    audio: float | None = None
    heard: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted(EventBase):
    """The service has accepted the session.

    Attributes:
        session_id: The service's id of it; None, as it tells only once it has heard some audio. Later it
            is `SonicSession.session_id`.
        request_id: What AWS's support asks for.
    """

    model: str
    voice: str
    session_id: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpeechStarted(EventBase):
    """The service heard the user begin to speak. Nova 2 and later.

    Attributes:
        offset: Where in the audio that was sent, in seconds.
    """

    offset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpeechEnded(EventBase):
    """The service heard the user stop. Nova 2 and later.

    Attributes:
        offset: Where in the audio that was sent, in seconds.
        detected_at: How much audio it took to tell, in seconds.
    """

    offset: float
    detected_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript(EventBase):
    """What the user said, or what the model is about to say or has said.

    Attributes:
        role: "USER" or "ASSISTANT".
        text: A piece of it. Pieces of one block follow one another as they are; between blocks belongs a
            blank, where neither side has one.
        stage: "SPECULATIVE" is about to be spoken: show it. "FINAL" was spoken: keep it. What the user says
            is always FINAL; each piece of the model's speech comes first SPECULATIVE and then, unless
            somebody broke in, FINAL with the same text.
        content_id: The service's id of the block.
    """

    role: str
    text: str = field(repr=False)
    stage: str
    content_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk(EventBase):
    """A piece of the model's speech; it comes several times faster than it plays.

    Attributes:
        pcm: Samples: 16-bit little-endian mono, no header.
        sample_rate: In Hz.
        content_id: The service's id of the block: one or two sentences.
    """

    pcm: bytes = field(repr=False)
    sample_rate: int
    content_id: str = ""

    @property
    def duration(self) -> float:
        """How long it plays, in seconds."""
        return len(self.pcm) / 2 / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(EventBase):
    """The user broke in: stop playing now. No more audio of this turn will come.

    Attributes:
        heard: Seconds of the turn's speech that were played before it; None if no player tells.
        latency: Seconds from the user's first sound to this event; None if it cannot be told.
    """

    heard: float | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(EventBase):
    """The model wants a tool to be run.

    A tool that was given as a function runs already; another is the program's to run, and to answer with
    `SonicSession.send_tool_result`. A `ToolResult` follows.

    Attributes:
        id: Names the call in its answer.
        name: The tool, as it was offered.
        arguments: What to run it with.
        error: What is wrong with the arguments, where they cannot be read; then they are empty here.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(repr=False)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(EventBase):
    """A tool call was answered: by a tool that the session ran, or by the program.

    Attributes:
        id: The call that it answers.
        name: The tool.
        result: What went back to the model: a JSON object.
        error: What the model was told of a failure; None if there was none.
        elapsed: Seconds from the call to its answer.
    """

    id: str
    name: str
    result: dict[str, Any] = field(repr=False)
    error: str | None = field(default=None, repr=False)
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A tool call, and what has become of it.

    Attributes:
        id: Names the call.
        name: The tool.
        arguments: What it was called with.
        result: What went back to the model; None as long as nothing did.
        error: What the model was told of a failure; None if there was none.
        elapsed: Seconds from the call to its answer; None as long as there is none.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(repr=False)
    result: dict[str, Any] | None = field(default=None, repr=False)
    error: str | None = field(default=None, repr=False)
    elapsed: float | None = None

    @classmethod
    def of(cls, call: ToolCall) -> Self:
        """Return a call that has no answer yet."""
        return cls(id=call.id, name=call.name, arguments=call.arguments)

    def answered(self, answer: ToolResult) -> Self:
        """Return the same call with its answer."""
        return replace(self, result=answer.result, error=answer.error, elapsed=answer.elapsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(EventBase):
    """The model begins to respond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(EventBase):
    """All of a response has been generated, or it was cut. It may play on for a long time.

    Attributes:
        interrupted: Whether the user cut it while it was being generated. A user who breaks in later, while
            it plays, causes an `Interrupted` after this.
        reason: The service's word: "END_TURN", "INTERRUPTED", "TOOL_USE", or something newer. Or
            "LOST": the stream was lost before all of it had come, and the conversation goes on over another.
        latency: How long the user had to wait for it.
        tool_calls: The tools that it called, each with its answer if there is one yet.
    """

    interrupted: bool
    reason: str
    latency: Latency
    tool_calls: tuple[ToolRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageUpdated(EventBase):
    """The service counted tokens.

    Attributes:
        delta: Since the last time.
        total: In the session so far.
    """

    delta: Usage
    total: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(EventBase):
    """The stream was lost; another is about to be opened. What the user says meanwhile is kept.

    Attributes:
        attempt: Which attempt this is, from 1. It counts on until the conversation has really gone on.
        delay: Seconds until then.
        error: What went wrong.
    """

    attempt: int
    delay: float
    error: SonicError


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRenewed(EventBase):
    """The conversation goes on over a new stream. Nothing need be done.

    Attributes:
        reason: Why: "age" (the service closes each stream after eight minutes), "credentials" (they are
            about to expire), "error" (the one before was lost) or "update" (see `SonicSession.update`).
        gap: Seconds in which no stream listened to the user; what was said then is heard late, and not lost.
        request_id: What AWS's support asks for, of the new one.
    """

    reason: Literal["age", "credentials", "error", "update"]
    gap: float = 0.0
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(EventBase):
    """The last event: all went well.

    Attributes:
        reason: The service's word, "END_TURN"; "CLOSED" where it ended the stream without one.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(EventBase):
    """Something newer than this library, or a document that cannot be read (`name` is "malformed").

    Attributes:
        name: The service's name for it.
        payload: All that came with it.
    """

    name: str
    payload: Any = field(repr=False)


Event = (
    SessionStarted
    | UserSpeechStarted
    | UserSpeechEnded
    | Transcript
    | AudioChunk
    | Interrupted
    | ToolCall
    | ToolResult
    | TurnStarted
    | TurnEnded
    | UsageUpdated
    | Reconnecting
    | SessionRenewed
    | SessionEnded
    | UnknownEvent
)
"""Whatever iterating over a session may yield."""
