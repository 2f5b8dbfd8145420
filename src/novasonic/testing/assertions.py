"""Assertions about a conversation that read like sentences, and fail with all that was said.

Each takes a session, or the events that were read from one, or a reply.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from novasonic import events
from novasonic.conversation import Message, read_on
from novasonic.events import Event, ToolRun
from novasonic.reply import Reply
from novasonic.session import SonicSession

Conversed = SonicSession | Reply | Iterable[Event | Message]
"""A conversation: a session, a reply, the events of a session, or its history."""

Role = Literal["USER", "ASSISTANT"]

_NAMES: Final = {"USER": "the user", "ASSISTANT": "the assistant"}


def assert_said(conversation: Conversed, role: Role, text: str | re.Pattern[str]) -> Message:
    """See to it that somebody said something: `assert_said(session, "ASSISTANT", "seven degrees")`.

    Args:
        conversation: Where. In events, what the assistant planned counts as said, unless it was interrupted.
        role: Who.
        text: What; it may be a part of all that they said at a time. Or a pattern to search for.

    Returns:
        All that they said at that time.

    Raises:
        AssertionError: If they did not; with all that was said.
    """
    __tracebackhide__ = True
    told = _told(conversation)
    for message in told:
        if message.role == role and _holds(message, text):
            return message
    raise AssertionError(f"{_NAMES[role]} did not say {_quoted(text)}{_transcript(told)}")


def assert_interrupted(conversation: Conversed, text: str | re.Pattern[str] = "") -> Message:
    """See to it that the user broke in on the assistant: `assert_interrupted(session, "Once upon a time")`.

    Args:
        conversation: Where.
        text: While it was saying what; as for `assert_said`. By default, on anything.

    Returns:
        What the assistant had said by then.

    Raises:
        AssertionError: If nobody did; with all that was said.
    """
    __tracebackhide__ = True
    told = _told(conversation)
    for message in told:
        if message.interrupted and _holds(message, text):
            return message
    what = f" while it said {_quoted(text)}" if text else ""
    raise AssertionError(f"nobody interrupted the assistant{what}{_transcript(told)}")


def assert_called(conversation: Conversed, tool: str, /, **arguments: object) -> ToolRun:
    """See to it that the model called a tool: `assert_called(session, "weather", city="Oslo")`.

    Args:
        conversation: Where.
        tool: Which.
        arguments: With which of its arguments, and maybe others; `unittest.mock.ANY` stands for any value.

    Returns:
        The call, with its answer if there is one.

    Raises:
        AssertionError: If it did not; with the calls that there were.
    """
    __tracebackhide__ = True
    calls = [call for message in _told(conversation) for call in message.tool_calls]
    for call in calls:
        given = call.arguments
        if call.name == tool and all(name in given and given[name] == arguments[name] for name in arguments):
            return call
    made = "".join(f"\n  {_call(call.name, call.arguments)}" for call in calls) or " none"
    raise AssertionError(f"{_call(tool, arguments)} was not called. There were these calls:{made}")


def assert_happened(
    happened: Iterable[Event], *expected: type[Event] | Callable[[Event], bool]
) -> list[Event]:
    """See to it that events came in an order: `assert_happened(events, UserSpeechStarted, Interrupted)`.

    Args:
        happened: The events. Others may have come in between.
        expected: Their classes; or functions that are true of them.

    Returns:
        The first events that fit.

    Raises:
        AssertionError: If they did not; with what came, audio in one word.
    """
    __tracebackhide__ = True
    came, found = list(happened), list[Event]()
    rest = iter(came)
    for fits in expected:
        each = next((one for one in rest if _is(one, fits)), None)
        if each is None:
            after = f" after {type(found[-1]).__name__}" if found else ""
            name = getattr(fits, "__qualname__", repr(fits))
            raise AssertionError(f"there came no {name}{after}. There came: {_listed(came)}")
        found.append(each)
    return found


def _is(event: Event, fits: type[Event] | Callable[[Event], bool]) -> bool:
    return isinstance(event, fits) if isinstance(fits, type) else fits(event)


def _listed(came: Iterable[Event]) -> str:
    names = list[str]()
    for event in came:
        name = type(event).__name__
        if name != "AudioChunk" or names[-1:] != [name]:
            names.append(name)
    return ", ".join(names) or "nothing"


def _holds(message: Message, text: str | re.Pattern[str]) -> bool:
    return text in message.text if isinstance(text, str) else text.search(message.text) is not None


def _quoted(text: str | re.Pattern[str]) -> str:
    return repr(text if isinstance(text, str) else text.pattern)


def _call(name: str, arguments: dict[str, object]) -> str:
    return f"{name}({', '.join(f'{each}={value!r}' for each, value in arguments.items())})"


def _transcript(told: Iterable[Message]) -> str:
    lines = [
        f"\n  {message.role}: {message.text!r}" + (" (interrupted)" if message.interrupted else "")
        for message in told
    ]
    return ". This was said:" + ("".join(lines) or " nothing")


@dataclass(slots=True, kw_only=True)
class _Part:
    """What one side said in one turn, as events tell it."""

    role: Role
    planned: str = ""
    spoken: str = ""
    interrupted: bool = False
    calls: dict[str, ToolRun] = field(default_factory=dict[str, ToolRun])

    def message(self) -> Message:
        return Message(
            role=self.role,
            text=self.spoken if self.interrupted or not self.planned else self.planned,
            interrupted=self.interrupted,
            tool_calls=tuple(self.calls.values()),
        )


def _told(conversation: Conversed) -> list[Message]:
    match conversation:
        case SonicSession(history=history):
            return list(history)
        case Reply():
            user = [Message(role="USER", text=conversation.user_text)] if conversation.user_text else []
            answer = Message(
                role="ASSISTANT",
                text=conversation.text,
                interrupted=conversation.interrupted,
                tool_calls=conversation.tool_calls,
            )
            return [*user, answer]
        case _:
            return _messages(conversation)


def _messages(conversation: Iterable[Event | Message]) -> list[Message]:
    """Put together what events tell, the way a session's history does."""
    parts, found = dict[tuple[Role, int], _Part](), list[Message]()

    def part(role: Role, turn: int) -> _Part:
        return parts.setdefault((role, turn), _Part(role=role))

    for each in conversation:
        match each:
            case Message():
                found.append(each)
            case events.Transcript(role="USER", turn=turn, text=text):
                said = part("USER", turn)
                said.spoken = read_on(said.spoken, text)
            case events.Transcript(role="ASSISTANT", turn=turn, text=text, stage="SPECULATIVE"):
                said = part("ASSISTANT", turn)
                said.planned = read_on(said.planned, text)
            case events.Transcript(role="ASSISTANT", turn=turn, text=text):
                said = part("ASSISTANT", turn)
                said.spoken = read_on(said.spoken, text)
            case events.Interrupted(turn=turn):
                part("ASSISTANT", turn).interrupted = True
            case events.ToolCall(turn=turn, id=id_):
                part("ASSISTANT", turn).calls[id_] = ToolRun.of(each)
            case events.ToolResult(turn=turn, id=id_):
                calls = part("ASSISTANT", turn).calls
                if id_ in calls:
                    calls[id_] = calls[id_].answered(each)
            case _:
                pass
    for message in (each.message() for each in parts.values()):
        if found and found[-1].role == message.role and not found[-1].interrupted:
            before = found.pop()
            message = replace(  # noqa: PLW2901 - one of the two
                message,
                text=read_on(before.text, message.text),
                tool_calls=(*before.tool_calls, *message.tool_calls),
            )
        found.append(message)
    return found
