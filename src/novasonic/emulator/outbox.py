"""What the service has to say, in the order in which it says it: documents, and how a stream goes wrong.

The outbox writes what every message of a stream has in common, and the blocks that text and sound come in.
It has no clock: whoever uses it tells the time. What belongs together leaves a fraction of a millisecond
apart, as in recorded sessions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from novasonic import messages
from novasonic.emulator.scenario import Behaviour

_STEP: Final = 0.0002
"""Seconds between messages that leave together; 0.1 to 0.5 ms were seen."""

_MARKER: Final = {"spaced": '{ "interrupted" : true }', "compact": '{"interrupted":true}'}

WireFault = Literal["reset", "goaway", "goaway_others", "cut", "stall", "garbled", "truncated"]
"""What only a wire can do; `scenario.Fault` says what each is."""

Stage = Literal["SPECULATIVE", "FINAL"]
StopReason = Literal["PARTIAL_TURN", "END_TURN", "INTERRUPTED", "TOOL_USE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The HTTP 200."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An HTTP error in place of the 200. The stream is over."""

    at: float
    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A message."""

    at: float
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The exception, or the error of the machinery, that ends the stream."""

    at: float
    code: str
    message: str
    modelled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The wire does something wrong. All but "goaway_others" and "garbled" end the stream."""

    at: float
    how: WireFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The service ends the stream in good order."""

    at: float


Output = Accepted | Refused | Document | Failed | Broken | Ended
"""Whatever a stream of the service gives. `at` is when, in seconds of the service's clock."""


class Outbox:
    """Collects the outputs of one stream.

    Args:
        behaviour: The form of what is said.
        new_id: Gives ids.

    Attributes:
        session_id: The service's name for the stream.
        prompt_name: The client's name for the prompt, once it has told it.
        said: How many messages have been said.
        closed: Whether the stream is over: nothing goes out any more.
        on_said: Called after each message.
    """

    def __init__(self, behaviour: Behaviour, new_id: Callable[[], str]) -> None:
        self.session_id = new_id()
        self.prompt_name = ""
        self.said = 0
        self.closed = False
        self.on_said: Callable[[], None] = lambda: None
        self._behaviour = behaviour
        self._new_id = new_id
        self._completion_id = new_id()
        self._completion_started = False
        self._last = float("-inf")
        self._waiting: list[Output] = []

    def take(self) -> list[Output]:
        """Return what goes out now, and forget it."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def moment(self, now: float) -> float:
        """Return when the next thing leaves: now, or a little after the last."""
        self._last = now if now > self._last else self._last + _STEP
        return self._last

    def put(self, output: Output) -> None:
        """Let something go out that is no message. What ends the stream closes the outbox."""
        if self.closed:
            return
        self._waiting.append(output)
        match output:
            case Refused() | Failed() | Ended():
                self.closed = True
            case Broken(how=how):
                self.closed = how not in {"goaway_others", "garbled"}
            case _:
                pass

    def say(self, message: messages.OutputMessage, now: float) -> None:
        """Say a message, with the ids that its kind bears."""
        if isinstance(message, messages.CompletionOutput):
            message = replace(message, completion_id=self._completion_id)
        if isinstance(message, messages.OutputBase):
            extra = {**message.extra, "emulated": True} if self._behaviour.unknown_fields else message.extra
            message = replace(message, session_id=self.session_id, prompt_name=self.prompt_name, extra=extra)
        self.document(messages.encode(message), now)

    def document(self, data: bytes, now: float) -> None:
        """Say something that is written already."""
        if self.closed:
            return
        self._waiting.append(Document(at=self.moment(now), data=data))
        self.said += 1
        self.on_said()

    # --- what belongs together ---

    def start_completion(self, now: float) -> None:
        """Say, the first time, that the one completion of the stream has started."""
        if not self._completion_started:
            self._completion_started = True
            self.say(messages.CompletionStart(), now)

    def end_completion(self, now: float) -> None:
        """Say the last message of a stream."""
        self.say(messages.CompletionEnd(stop_reason="END_TURN"), now)

    def text(
        self,
        text: str,
        now: float,
        *,
        role: Literal["USER", "ASSISTANT"],
        stage: Stage,
        stop_reason: StopReason = "PARTIAL_TURN",
        inside: Callable[[], None] | None = None,
    ) -> None:
        """Say a block of text, with what comes `inside` it after its start."""
        self.start_completion(now)
        content_id = self._new_id()
        self.say(
            messages.OutputContentStart(
                content_id=content_id, type="TEXT", role=role, **_stage(stage, self._behaviour.stage)
            ),
            now,
        )
        if inside is not None:
            inside()
        for piece in _pieces(text, self._behaviour.text_pieces):
            self.say(messages.TextOutput(content_id=content_id, role=role, content=piece), now)
        self.say(messages.OutputContentEnd(content_id=content_id, type="TEXT", stop_reason=stop_reason), now)

    def interrupted(self, now: float) -> None:
        """Say the block that marks a barge-in. It comes in one piece, whatever other texts do."""
        content_id = self._new_id()
        self.say(
            messages.OutputContentStart(content_id=content_id, type="TEXT", role="ASSISTANT", stage="FINAL"),
            now,
        )
        marker = _MARKER[self._behaviour.marker]
        self.say(messages.TextOutput(content_id=content_id, role="ASSISTANT", content=marker), now)
        self.say(
            messages.OutputContentEnd(content_id=content_id, type="TEXT", stop_reason="INTERRUPTED"), now
        )

    def start_audio(self, sample_rate: int, now: float) -> str:
        """Open a block of audio and return its id."""
        content_id = self._new_id()
        self.say(
            messages.OutputContentStart(
                content_id=content_id, type="AUDIO", role="ASSISTANT", sample_rate=sample_rate
            ),
            now,
        )
        return content_id

    def audio(self, content_id: str, pcm: bytes, now: float) -> None:
        """Say a piece of a block of audio."""
        self.say(messages.AudioOutput(content_id=content_id, content=pcm), now)

    def end_audio(self, content_id: str, stop_reason: StopReason, now: float) -> None:
        """Close a block of audio."""
        self.say(messages.OutputContentEnd(content_id=content_id, type="AUDIO", stop_reason=stop_reason), now)

    def tool_use(self, name: str, content: str, now: float, *, tool_use_id: str | None = None) -> str:
        """Call a tool, in a block of its own, and return the id of the call: a new one if none is given."""
        self.start_completion(now)
        content_id, tool_use_id = self._new_id(), tool_use_id or self._new_id()
        self.say(messages.OutputContentStart(content_id=content_id, type="TOOL", role="TOOL"), now)
        self.say(
            messages.ToolUse(content_id=content_id, tool_use_id=tool_use_id, tool_name=name, content=content),
            now,
        )
        self.say(messages.OutputContentEnd(content_id=content_id, type="TOOL", stop_reason="TOOL_USE"), now)
        return tool_use_id


def _stage(stage: Stage, form: Literal["text", "missing", "object", "odd"]) -> dict[str, Any]:
    match form:
        case "text":
            return {"stage": stage}
        case "missing":
            return {}
        case "object":
            return {"extra": {"additionalModelFields": {"generationStage": stage}}}
        case "odd":
            return {"extra": {"additionalModelFields": "{generationStage"}}


def _pieces(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)] or [text]
