"""Whole turns in one line: the messages of the service, in the order and the form of recorded sessions.

What is said leaves open what depends on what was said before: ids, where in the user's audio something was,
which sentence the user cut, how many tokens there are by now. A `Teller` fills that in, for one stream.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, assert_never

import msgspec

from novasonic import messages
from novasonic.conversation import Conversation
from novasonic.emulator.hum import hum
from novasonic.emulator.mouth import chunks
from novasonic.emulator.scenario import Say
from novasonic.errors import ConfigurationError
from novasonic.events import Event
from novasonic.messages import OutputMessage
from novasonic.models import Usage

type Said = OutputMessage | Iterable[Said]
"""What the service says: a message, or what one of the functions here returns, or several of these."""


class Step:
    """A step of a script, which `ScriptedTransport` plays."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Emit(Step):
    """The service says something. Iterating yields the messages."""

    said: tuple[OutputMessage, ...]

    def __iter__(self) -> Iterator[OutputMessage]:
        return iter(self.said)

    def __str__(self) -> str:
        return f"emit: {outline(self.said)}"


_MARKER: Final = '{ "interrupted" : true }'

# Of the user's audio, in ms: the service names offsets in multiples of 40, and needs some silence to tell
# that an utterance has ended. Recorded: 0 to 1,600 ms, 240 to 400 most often.
_STEP: Final = 40
_PAUSE: Final = 240
_ONSET: Final = 100  # after which it tells that one has begun
_BETWEEN: Final = 1000  # between two utterances, where nobody sends any audio


# --- what is said -----------------------------------------------------------------------------------------


def user_says(*pieces: str, seconds: float = 1.0, place: Literal["before", "after"] = "before") -> Emit:
    """Return what the service tells of something that the user says aloud.

    Args:
        pieces: The words. A long utterance comes in several, each in a block of its own.
        seconds: How long it takes to say them.
        place: Whether the words come before the end of the speech is told, or after. Both happen.
    """
    began = messages.UserSpeechStart()
    end_ms = _in_steps(seconds * 1000)
    ended = messages.UserSpeechEnd(offset_ms=end_ms, detected_at_ms=end_ms + _PAUSE)
    words = [message for piece in pieces for message in _text(piece, role="USER", stage="FINAL")]
    return Emit((began, *words, ended) if place == "before" else (began, ended, *words))


def assistant_says(
    *sentences: str,
    seconds: float | None = None,
    until: float | Literal["generated", "heard"] = "heard",
    sample_rate: int = 24_000,
) -> Emit:
    """Return a response: each sentence as text that is about to be spoken, then as sound, then as text again.

    The last is the service's word that a sentence was heard. It comes here at once; the real service lets it
    wait until it would have been played::

        assistant_says("Hello!", until="generated"), wait(2), was_heard()

    Args:
        sentences: What it says. The sound of each is a block of its own.
        seconds: How long each of them sounds; by default as long as it takes to say it. The sound is a hum.
        until: How far it gets: until it was "heard" to its end; or until all of it was "generated", so that
            it is being played; or so many seconds of speech, in the middle of generating. What comes then is
            an interruption, or a failure.
        sample_rate: Of the sound, in Hz; a session asks for its `output_rate`.
    """
    said = list[OutputMessage]()
    left = until if isinstance(until, int | float) else None
    for number, sentence in enumerate(sentences, 1):
        pcm = hum(Say(sentence, seconds=seconds), sample_rate)
        said += _text(sentence, role="ASSISTANT", stage="SPECULATIVE")
        said.append(messages.OutputContentStart(type="AUDIO", role="ASSISTANT", sample_rate=sample_rate))
        for _, chunk in chunks(pcm, sample_rate, ()):
            if left is not None and left <= 0:
                return Emit(tuple(said))
            said.append(messages.AudioOutput(content=chunk))
            left = None if left is None else left - len(chunk) / 2 / sample_rate
        reason = "END_TURN" if number == len(sentences) else "PARTIAL_TURN"
        said.append(messages.OutputContentEnd(type="AUDIO", stop_reason=reason))
    if until == "heard":
        said += [message for _ in sentences for message in was_heard()]
    return Emit(tuple(said))


def was_heard() -> Emit:
    """Return the service's word that the user has heard a sentence: the earliest that waits for it."""
    return Emit(_text("", role="ASSISTANT", stage="FINAL", reason=""))


def interrupts(*pieces: str, seconds: float = 1.0) -> Emit:
    """Return what the service tells when the user breaks in, and of what the user says then.

    The sentence that is being played counts as heard, and the rest of the response is never said::

        assistant_says("A very long story.", seconds=20, until="generated"), wait(3), interrupts("stop")
    """
    began, *rest = user_says(*pieces, seconds=seconds)
    marker = _text(_MARKER, role="ASSISTANT", stage="FINAL", reason="INTERRUPTED")
    return Emit((began, *marker, *_text("", role="ASSISTANT", stage="FINAL"), *rest))


def calls_tool(
    name: str,
    arguments: Mapping[str, Any] | str = "{}",
    *,
    id: str = "",  # noqa: A002 - what it is called in the event, too
) -> Emit:
    """Return a tool call.

    Args:
        name: Of the tool.
        arguments: An object; or text that is sent as it stands.
        id: Names the call in its answer; by default one is made up.
    """
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return Emit(
        (
            messages.OutputContentStart(type="TOOL", role="TOOL"),
            messages.ToolUse(tool_use_id=id, tool_name=name, content=text),
            messages.OutputContentEnd(type="TOOL", stop_reason="TOOL_USE"),
        )
    )


def usage(
    *, speech_input: int = 0, text_input: int = 0, speech_output: int = 0, text_output: int = 0
) -> Emit:
    """Return what the service counts: so many tokens more. A second of speech is 25 of them."""
    delta = Usage(
        speech_input=speech_input,
        text_input=text_input,
        speech_output=speech_output,
        text_output=text_output,
    )
    return Emit((messages.UsageEvent(delta=delta),))


def _text(
    text: str,
    *,
    role: Literal["USER", "ASSISTANT"],
    stage: Literal["SPECULATIVE", "FINAL"],
    reason: str = "PARTIAL_TURN",
) -> tuple[OutputMessage, ...]:
    return (
        messages.OutputContentStart(type="TEXT", role=role, stage=stage),
        messages.TextOutput(role=role, content=text),
        messages.OutputContentEnd(type="TEXT", stop_reason=reason),
    )


def _in_steps(ms: float) -> int:
    return max(0, round(ms / _STEP) * _STEP)


# --- what it becomes --------------------------------------------------------------------------------------


def stream_of(*turns: Said) -> list[OutputMessage]:
    """Return all that a service says on one stream, if this happens on it.

    Such as `stream_of(user_says("hello"), assistant_says("Hello!", "How are you?"), usage(text_output=9))`.
    The ids are made up, and the same each time. Nothing is said of the goodbye.

    Raises:
        ConfigurationError: If it cannot happen, such as an interruption of nothing.
    """
    teller = Teller()
    return [message for turn in turns for message in teller.tell(turn)]


def events_of(*turns: Said) -> list[Event]:
    """Return the events of a session in which this happens, to a program that reads them at once.

    It is for tests of what a program does with events, with no session, no event loop and no time. What has
    to do with time, such as latencies, is not known::

        for event in events_of(user_says("hello"), assistant_says("Hello to you.")):
            my_app.handle(event)

    Raises:
        ConfigurationError: If it cannot happen, such as an interruption of nothing.
    """
    conversation = Conversation()
    return [event for message in stream_of(*turns) for event in conversation.feed(message, 0.0)]


def flat(said: Said) -> Iterator[OutputMessage]:
    """Yield the messages of what is said, one by one."""
    if isinstance(said, messages.OutputBase | messages.UnknownMessage):
        yield said
    elif isinstance(said, str | bytes) or not hasattr(said, "__iter__"):
        raise ConfigurationError(f"{said!r} is nothing that the service says")
    else:
        for each in said:
            yield from flat(each)


class Teller:
    """Fills in what only a stream as a whole knows, in all that the service says on it.

    An id or a text that is there stays as it is, so what was told once can be told again. Blocks do not
    nest: one that is still open when the next begins is ended first, as sound is that the user cuts.

    Args:
        stream: Its number; it goes into all ids.

    Attributes:
        prompt_name: What the client calls its prompt.
        calls: The tools that were called, by the ids of the calls.
    """

    def __init__(self, *, stream: int = 1) -> None:
        self.prompt_name = "prompt-1"
        self.calls = dict[str, str]()
        self._stream = stream
        self._made = 0  # ids
        self._started = False
        self._block: messages.OutputContentStart | None = None  # the one that is open
        self._planned = deque[str]()  # what was not heard yet
        self._generated = False
        self._final_end = False  # a FINAL text of this response has said that the turn ended
        self._total = Usage()
        self._speech_ms = 0  # where the utterance began that goes on
        self._until_ms = 0  # where the last one ended

    def tell(self, said: Said, *, heard: float | None = None) -> list[OutputMessage]:
        """Return what is said, complete.

        Args:
            said: All that is said now.
            heard: Seconds of the user's audio that came so far. None: as much as it takes.

        Raises:
            ConfigurationError: If it cannot happen.
        """
        batch, told = list(flat(said)), list[OutputMessage]()
        for at, message in enumerate(batch):
            match message:
                case messages.UserSpeechStart():
                    told.append(self._speech_start(message, batch[at + 1 :], heard))
                case messages.UserSpeechEnd():
                    told.append(self._speech_end(message))
                case messages.OutputContentStart():
                    told += self._start(message)
                case messages.TextOutput():
                    told.append(self._text(self._in_block(message)))
                case messages.AudioOutput():
                    told.append(self._in_block(message))
                case messages.ToolUse():
                    told.append(self._call(self._in_block(message)))
                case messages.OutputContentEnd():
                    told.append(self._end(self._in_block(message)))
                case messages.UsageEvent():
                    told.append(self._usage(message))
                case messages.CompletionStart():
                    self._started = True
                    told.append(message)
                case messages.CompletionEnd() | messages.UnknownMessage():
                    told.append(message)
                case _:
                    assert_never(message)
        return [self._signed(message) for message in told]

    # --- ids ---

    def _signed(self, message: OutputMessage) -> OutputMessage:
        if isinstance(message, messages.CompletionOutput) and not message.completion_id:
            message = replace(message, completion_id=f"completion-{self._stream}")
        if isinstance(message, messages.OutputBase):
            message = replace(
                message,
                session_id=message.session_id or f"session-{self._stream}",
                prompt_name=message.prompt_name or self.prompt_name,
            )
        return message

    def _new_id(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._stream}-{self._made}"

    def _in_block[T: messages.BlockOutput](self, message: T) -> T:
        if message.content_id or self._block is None:
            return message
        return replace(message, content_id=self._block.content_id)

    # --- the user ---

    def _speech_start(
        self, message: messages.UserSpeechStart, later: Sequence[OutputMessage], heard: float | None
    ) -> OutputMessage:
        if message.offset_ms:
            self._speech_ms = 0
            return message
        ends = (each.detected_at_ms for each in later if isinstance(each, messages.UserSpeechEnd))
        before = next(ends, _ONSET)
        now = self._until_ms + _BETWEEN + before if heard is None else int(heard * 1000)
        self._speech_ms = max(self._until_ms, _in_steps(now - before))
        return replace(message, offset_ms=self._speech_ms)

    def _speech_end(self, message: messages.UserSpeechEnd) -> OutputMessage:
        shift, self._speech_ms = self._speech_ms, 0
        self._until_ms = message.detected_at_ms + shift
        return replace(message, offset_ms=message.offset_ms + shift, detected_at_ms=self._until_ms)

    # --- blocks ---

    def _start(self, message: messages.OutputContentStart) -> list[OutputMessage]:
        told = list[OutputMessage]()
        if self._block is not None:
            cut = messages.OutputContentEnd(
                content_id=self._block.content_id, type=self._block.type, stop_reason="PARTIAL_TURN"
            )
            told.append(cut)
        if not self._started:
            self._started = True
            told.append(messages.CompletionStart())
        self._block = message if message.content_id else replace(message, content_id=self._new_id("block"))
        if message.stage == "SPECULATIVE" and self._generated:
            self._planned.clear()
            self._generated = self._final_end = False
        return [*told, self._block]

    def _text(self, message: messages.TextOutput) -> OutputMessage:
        match self._block:
            case messages.OutputContentStart(role="ASSISTANT", stage="SPECULATIVE"):
                self._planned.append(message.content)
            case messages.OutputContentStart(role="ASSISTANT") if message.says_interrupted:
                self._generated = True
                while len(self._planned) > 1:
                    self._planned.pop()
            case messages.OutputContentStart(role="ASSISTANT") if message.content in self._planned:
                self._planned.remove(message.content)
            case messages.OutputContentStart(role="ASSISTANT") if not message.content:
                if not self._planned:
                    raise ConfigurationError(
                        "nothing is being said that could be interrupted or heard to its end; have something "
                        'said before, with assistant_says("...", until="generated")'
                    )
                return replace(message, content=self._planned.popleft())
            case _:
                pass
        return message

    def _call(self, message: messages.ToolUse) -> OutputMessage:
        if not message.tool_use_id:
            message = replace(message, tool_use_id=self._new_id(message.tool_name))
        self.calls[message.tool_use_id] = message.tool_name
        return message

    def _end(self, message: messages.OutputContentEnd) -> OutputMessage:
        block, self._block = self._block, None
        if message.type == "AUDIO" and message.stop_reason == "END_TURN":
            self._generated = True
        if not message.stop_reason:
            # The first text that confirms a sentence says that the turn has ended, and no other does.
            message = replace(message, stop_reason="PARTIAL_TURN" if self._final_end else "END_TURN")
        if block is not None and block.stage == "FINAL" and block.role == "ASSISTANT":
            self._final_end = self._final_end or message.stop_reason == "END_TURN"
        return message

    def _usage(self, message: messages.UsageEvent) -> OutputMessage:
        self._total = message.total if message.total.total else self._total + message.delta
        return replace(message, total=self._total)


def outline(said: Sequence[OutputMessage]) -> str:
    """Return what is said in a few words, for people."""
    parts, block = list[str](), messages.OutputContentStart()
    for message in said:
        match message:
            case messages.OutputContentStart():
                block = message
            case messages.TextOutput() if message.says_interrupted:
                parts.append("the user breaks in")
            case messages.TextOutput(content=""):
                parts.append("it is heard")
            case messages.TextOutput(content=text):
                parts.append(f"the {block.role.lower()} says {text!r}")
            case messages.ToolUse(tool_name=name, content=text):
                parts.append(f"the model calls {name}({text})")
            case messages.UsageEvent(delta=delta):
                parts.append(f"{delta.total} tokens are counted")
            case messages.UnknownMessage(name=name):
                parts.append(name)
            case _:
                pass
    return ", ".join(parts) or ", ".join(type(message).__name__ for message in said)
