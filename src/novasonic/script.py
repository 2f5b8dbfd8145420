"""One stream of a recording as a script: what the service does when, and what a client has to say. No I/O.

What a client says comes in *units* that nothing comes between: a block of text, the answer to a tool call, or
a single message. Audio is none of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec

from novasonic.errors import ReplayError
from novasonic.messages import ToolUse
from novasonic.recording import Body, Line, Tape, event_of

Check = Literal["strict", "lenient", "free"]
"""What is asked of a client."""

# What was on its way when a client said goodbye comes all the same: what came within so many seconds then.
_IN_FLIGHT: Final = 0.25

_GOODBYE: Final = {"promptEnd", "sessionEnd"}
_MADE_UP: Final = {"promptName", "contentName"}  # by each client anew
_REDACTED: Final = frozenset({"event.textInput.content", "event.toolResult.content"})
_JSON_TEXTS: Final = {"event.toolResult.content"}
_SHOWN: Final = 60  # characters of a value in an error
_ABSENT: Final = object()


@dataclass(slots=True, kw_only=True)
class _Unit:
    """What a client said in one go: a block of text, the answer to a tool call, or a single message.

    Attributes:
        at: When it was complete, in seconds of the recording.
        messages: Their names and bodies.
        done_at: When it was complete now; None before that.
    """

    at: float
    messages: list[tuple[str, Body]]
    done_at: float | None = None

    @property
    def name(self) -> str:
        return self.messages[0][0]

    @property
    def tool_use_id(self) -> str | None:
        return _tool_use_id(*self.messages[0])

    @property
    def kind(self) -> str:
        return _kind(*self.messages[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What the service did.

    Attributes:
        line: In the recording.
        after: How many units the client had said before.
    """

    line: Line
    after: int


class Script:
    """One stream of a recording: what the service does when, and what the client has to say. No clock.

    Args:
        tape: The recording.
        number: Of the stream.
        speed: How much faster than it was recorded.
        check: What is asked of the client.
        patience: Seconds to wait for it.

    Attributes:
        ended: Whether the service has ended the stream in good order.
    """

    def __init__(self, tape: Tape, number: int, *, speed: float, check: Check, patience: float) -> None:
        self.ended = False
        self._tape = tape
        self._number = number
        self._speed = speed
        self._check: Check = check
        self._patience = math.inf if check == "free" else patience
        lines = [line for line in tape.lines if line.stream == number]
        self._units, self._steps = _parse(lines)
        self._start, self._end = (lines[0].time, lines[-1].time) if lines else (0.0, 0.0)
        first = self._steps[0].line if self._steps else None
        self._answers = first is not None and bool(first.accepted or first.failed)
        self._began_at = self._latest_at = 0.0
        self._taken = 0  # steps
        self._unit: _Unit | None = None  # that the client is saying
        self._said = 0  # messages of it
        self._left = False  # whether the client has said goodbye
        self._dropped = 0  # steps that its goodbye came before
        self._prompt_names: tuple[object, object] | None = None  # then, and now

    # --- what the service does ----------------------------------------------------------------------------

    @property
    def opening(self) -> bool:
        """Whether the service has yet to accept or to refuse the stream."""
        return self._answers and not self._taken

    @property
    def due(self) -> float:
        """When the service does something next; infinite if that waits for the client, or nothing is left."""
        if self._taken >= len(self._steps):
            return math.inf
        step = self._steps[self._taken]
        if self._check != "free" and any(unit.done_at is None for unit in self._units[: step.after]):
            return math.inf
        return self._now_of(step.line.time, step.after)

    @property
    def deadline(self) -> float:
        """When to wait no longer for the client, if nothing is due."""
        at = next((n for n, unit in enumerate(self._units) if unit.done_at is None), len(self._units))
        expected = self._units[at].at if at < len(self._units) else self._end
        return max(self._now_of(expected, at), self._latest_at) + self._patience

    @property
    def goes_on(self) -> bool:
        """Whether the service said what is next in one go with the latest."""
        latest = self._steps[max(0, self._taken - 1) : self._taken + 1]
        return len(latest) > 1 and latest[0].line.time == latest[1].line.time

    def begin(self, now: float) -> None:
        """The stream is being opened."""
        self._began_at = self._latest_at = now

    def take(self, now: float) -> Line:
        """Return what is due."""
        line = self._steps[self._taken].line
        self._taken += 1
        self._latest_at = now
        over = self._left or line.name == "completionEnd"  # which is the last message of a stream
        self.ended = line.ended or (over and self._taken == len(self._steps))
        return line

    def document(self, line: Line) -> bytes:
        """Return a message of the service's: as it was, but for the name that the client has made up."""
        body: Body = line.body()
        if not isinstance(body, dict):
            return self._tape.document(line)
        members = self._tape.with_audio("service", cast("dict[str, Any]", body))
        if self._prompt_names is not None and members.get("promptName") == self._prompt_names[0]:
            members = {**members, "promptName": self._prompt_names[1]}
        return msgspec.json.encode({"event": {line.name: members}})

    def _now_of(self, recorded: float, after: int) -> float:
        """Return what time it is, or was, at a time of the recording that came after so many units.

        It counts from the latest of them, or from the opening.
        """
        then, now = self._start, self._began_at
        for unit in self._units[:after]:
            if unit.done_at is not None and unit.done_at >= now:
                then, now = unit.at, unit.done_at
        return now + (recorded - then) / self._speed

    # --- what the client says -----------------------------------------------------------------------------

    def hear(self, data: bytes, now: float) -> None:
        """Take in what the client says.

        Raises:
            ReplayError: If it said something else then.
        """
        event = event_of(data)
        if event is None:
            raise ReplayError(f"the program sends {len(data)} bytes that are no message")
        ((name, raw),) = event.items()
        if name == "audioInput":
            return
        body: Body = msgspec.json.decode(raw)
        unit = self._unit or self._expected(name, body)
        if unit is None:
            done = name in _GOODBYE or name == "contentEnd"  # of a recording that breaks off
            if not done and self._check != "free":
                raise self._differs("event", None, _kind(name, body), unit=None)
        elif self._check == "free":
            unit.done_at = now
        else:
            self._compare(unit, name, body)
            self._said += 1
            whole = self._said == len(unit.messages) if self._check == "strict" else _closes(unit, name)
            self._unit = None if whole else unit
            if whole:
                self._said, unit.done_at = 0, now
        if name == "promptStart" and unit is not None:
            self._prompt_names = (_prompt_name(unit.messages[0][1]), _prompt_name(body))
        if name == "sessionEnd":
            self.leave(now)

    def leave(self, now: float) -> None:
        """The client has said goodbye: what the service has not said by now, it does not say any more."""
        if self._left:
            return
        self._left = True
        goodbye = next((n for n, unit in enumerate(self._units) if unit.name == "sessionEnd"), math.inf)
        rest = self._steps[self._taken :]
        kept = [
            step
            for step in rest
            if step.after > goodbye or self._now_of(step.line.time - _IN_FLIGHT, step.after) <= now
        ]
        self._steps[self._taken :] = kept
        self._dropped = len(rest) - len(kept)
        self.ended = self.ended or not kept

    def overdue(self) -> ReplayError:
        """Return the error for a client that is waited for in vain."""
        unit = next((unit for unit in self._units if unit.done_at is None), None)
        if unit is None:
            return ReplayError(
                f"{self._where(self._end)}: the recording has come to its end, and the program goes on; "
                "end the session, or give more patience"
            )
        return ReplayError(
            f"{self._where(unit.at)}: the program has not sent {unit.kind}, as it did when it was recorded; "
            "if it needs longer now, give more patience",
            path="event",
            recorded=unit.kind,
        )

    def assert_complete(self) -> None:
        """See to it that both sides have said everything."""
        unit = next((unit for unit in self._units if unit.done_at is None), None)
        if unit is not None and self._check != "free":
            raise AssertionError(f"{self._where(unit.at)}: the program has never sent {unit.kind}")
        unsaid = self._dropped + len(self._steps) - self._taken
        if unsaid:
            raise AssertionError(
                f"{self._where(self._end)}: the program has ended the stream before the service had said "
                f"everything; {unsaid} messages are left"
            )

    def _expected(self, name: str, body: Body) -> _Unit | None:
        """Return what the client said then where it says this now; None if it said nothing more."""
        undone = [unit for unit in self._units if unit.done_at is None]
        if self._check == "free":
            return next(
                (unit for unit in undone if unit.name == name and name in {*_GOODBYE, "promptStart"}), None
            )
        if (call := _tool_use_id(name, body)) is not None:
            answers = [unit for unit in undone if unit.tool_use_id is not None]
            if answers:
                return next((unit for unit in answers if unit.tool_use_id == call), answers[0])
        elif name not in _GOODBYE:  # by then, all tools were answered
            undone = [unit for unit in undone if unit.tool_use_id is None]
        return undone[0] if undone else None

    def _compare(self, unit: _Unit, name: str, body: Body) -> None:
        """Raise an error if the client said something else then."""
        if self._check == "lenient":
            if not self._said and unit.kind != _kind(name, body):
                raise self._differs("event", unit.kind, _kind(name, body), unit=unit)
            return
        then_name, then_body = unit.messages[self._said]
        if then_name != name or (not self._said and unit.kind != _kind(name, body)):
            raise self._differs("event", _kind(then_name, then_body), _kind(name, body), unit=unit)
        passed_over = _REDACTED if self._tape.header.redacted else frozenset[str]()
        then, now = (_leaves(each, f"event.{name}", passed_over) for each in (then_body, body))
        for path in {**then, **now}:
            if (was := then.get(path, _ABSENT)) != (is_ := now.get(path, _ABSENT)):
                raise self._differs(path, was, is_, unit=unit)

    def _differs(self, path: str, then: object, now: object, *, unit: _Unit | None) -> ReplayError:
        if path == "event":
            was = "nothing more" if unit is None else str(then)
            text = f"the program sends {now}, where it sent {was} when it was recorded"
        else:
            was, is_ = _shown(then, now)
            of = f" of {unit.kind}" if unit is not None and len(unit.messages) > 1 else ""
            text = f"{path}{of} was {was} when it was recorded, and is now {is_}"
        return ReplayError(
            f"{self._where(self._end if unit is None else unit.at)}: {text}; record it again, or replay it "
            "with another check",
            path=path,
            recorded=None if then is _ABSENT else then,
            sent=None if now is _ABSENT else now,
        )

    def _where(self, at: float) -> str:
        stream = f", stream {self._number}" if self._tape.streams > 1 else ""
        return f"{self._tape.name}{stream}, at {at:.2f} s"


def _parse(lines: Sequence[Line]) -> tuple[list[_Unit], list[_Step]]:
    """Return what the client said in one stream, in units, and what the service did."""
    units, steps, block = list[_Unit](), list[_Step](), list[tuple[str, Body]]()
    for line in lines:
        if line.sender == "service":
            if not line.missing:
                steps.append(_Step(line=line, after=len(units)))
        elif line.name and line.name != "audioInput":
            block.append((line.name, line.body()))
            if not _opens_block(*block[0]) or line.name == "contentEnd":
                units.append(_Unit(at=line.time, messages=block))
                block = []
    return units, steps


def _opens_block(name: str, body: Body) -> bool:
    """Whether a message opens a block that nothing may come between: one of audio goes on for ever."""
    match name, body:
        case "contentStart", {"type": "AUDIO"}:
            return False
        case _:
            return name == "contentStart"


def _closes(unit: _Unit, name: str) -> bool:
    return name == "contentEnd" or not _opens_block(*unit.messages[0])


def _prompt_name(body: Body) -> object:
    match body:
        case {"promptName": name}:
            return name
        case _:
            return None


def _tool_use_id(name: str, body: Body) -> str | None:
    match name, body:
        case "contentStart", {"toolResultInputConfiguration": {"toolUseId": str(id_)}}:
            return id_
        case _:
            return None


def _kind(name: str, body: Body) -> str:
    """Return what kind of message or block this is, in words."""
    match name, body:
        case "contentStart", {"type": "TOOL"}:
            return "the answer to a tool call"
        case "contentStart", {"type": "AUDIO"}:
            return "the beginning of the audio"
        case "contentStart", {"type": kind, "role": role}:
            live = " that is to be answered" if body.get("interactive") is True else ""
            return f"a {kind} block of {role}{live}"
        case _:
            return str(name)


def _leaves(value: Body, path: str, passed_over: frozenset[str]) -> dict[str, object]:
    """Return the members of a message by their paths, but for names that each client makes up."""
    if path in passed_over:
        return {}
    if path in _JSON_TEXTS or path.endswith(".inputSchema.json"):
        value = ToolUse(content=value).arguments or value
    match value:
        case dict() if value:
            members = cast("dict[str, Any]", value).items()
            inner = [(f"{path}.{key}", each) for key, each in members if key not in _MADE_UP]
        case list() if value:
            inner = [(f"{path}[{n}]", each) for n, each in enumerate(cast("Sequence[Any]", value))]
        case _:
            return {path: value}
    return {leaf: found for at, each in inner for leaf, found in _leaves(each, at, passed_over).items()}


def _shown(then: object, now: object) -> tuple[str, str]:
    """Return two values as an error shows them: of long texts, where they begin to differ."""
    skipped = 0
    if isinstance(then, str) and isinstance(now, str):
        same = next(
            (n for n, pair in enumerate(zip(then, now, strict=False)) if len({*pair}) > 1),
            min(len(then), len(now)),
        )
        if max(len(then), len(now)) > _SHOWN:
            skipped = max(0, same - _SHOWN // 3)
    return _cut(then, skipped), _cut(now, skipped)


def _cut(value: object, skipped: int) -> str:
    if value is _ABSENT:
        return "not there"
    if not isinstance(value, str):
        text = msgspec.json.encode(value).decode()
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    rest = value[skipped:]
    return f"{'...' if skipped else ''}{rest[:_SHOWN]!r}{'...' if len(rest) > _SHOWN else ''}"
