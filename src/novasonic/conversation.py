"""Folds the service's messages into events, and keeps what was said. No I/O, no clock, no task.

One message in, some events out. What belongs together is told by `content_id`, never by what came last:
the user's blocks may stand before, after or around the end of the user's speech, and the text of what was
heard comes long after the audio.

Terms: a *segment* is one or two sentences, planned as a SPECULATIVE text, spoken as an audio block, and
confirmed as a FINAL text once it has been heard. A *response* is the segments up to the audio block that
ends with END_TURN. What follows was learned from recorded sessions of Nova 2 Sonic.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, Protocol, assert_never

import msgspec

from novasonic import events, messages
from novasonic.events import Event, Latency, ToolCall, ToolResult, ToolRun
from novasonic.messages import InputMessage, OutputMessage
from novasonic.models import Prices, Usage

_RATE_UNLESS_TOLD: Final = 24_000
_TIMES_KEPT: Final = 4096  # sends whose time is remembered: two minutes of 32 ms frames
_NO_WORD: Final = 0.02  # seconds in which nothing is said, but sums of seconds may differ
_CONFIRMING: Final = 1.5  # seconds after a segment was heard; its FINAL text comes 0.1 to 0.2 s after that
_ANSWER_COMES: Final = 8.0  # seconds; it takes half a second, and a tool call may come in its place
_SOONEST: Final = 0.2  # seconds from what is said to the first text that is about it; no less was seen
_BEFORE_SPEECH: Final = 300  # ms: what is reported as the start of speech may be in the middle of a sound
_PROMPTS_KEPT: Final = 8  # that an echo is looked for in, or that wait for what the model says to them
_UNSETTLED_KEPT: Final = 8  # responses that wait for their FINAL texts; more than two were never seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one side said, in full: consecutive pieces of one role are one message.

    Attributes:
        role: Who said it.
        text: The user's words; or the words of the model that were spoken, never those that were only
            planned. The service counts a sentence as spoken once it was begun.
        interrupted: Whether the user broke in. What the model says next is a message of its own.
        heard: Seconds of speech that were heard of an interrupted message; None if no player tells.
        heard_text: The part of `text` that `heard` covers: an estimate, cut in proportion.
        tool_calls: The tools that the model called meanwhile, each with its answer. A message may consist of
            nothing else.
    """

    role: Literal["USER", "ASSISTANT"]
    text: str = field(repr=False)
    interrupted: bool = False
    heard: float | None = None
    heard_text: str | None = field(default=None, repr=False)
    tool_calls: tuple[ToolRun, ...] = ()


LOST: Final = "LOST"
"""Why a turn ended of which the rest never came, as its stream was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What one stream leaves to the next.

    Attributes:
        history: What was said so far.
        unanswered: Whether it ends with the user, who was not answered yet.
        unfinished: The sentence in which a response broke off, empty if it was between two; None if none did.
        calls: The tools that the model waits for, and those whose results it has said nothing about.
        prompts: What was typed, but not by the user, and the model has said nothing about.
    """

    history: tuple[Message, ...]
    unanswered: bool = False
    unfinished: str | None = field(default=None, repr=False)
    calls: tuple[ToolRun, ...] = ()
    prompts: tuple[str, ...] = field(default=(), repr=False)


class Player(Protocol):
    """Whatever plays the model's speech and knows how much of it was heard."""

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of the turn's speech were played, or None if that is not known."""
        ...


@dataclass(slots=True, kw_only=True)
class _Segment:
    """One or two sentences of a response."""

    planned: str = ""
    spoken: str = ""
    confirmed: bool = False
    complete: bool = False  # all of its audio has come
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Response:
    """What the model says in one turn."""

    turn: int
    stream: int  # the number of the one that it comes over: all that was known of it is forgotten before
    asked_at: float | None
    segments: list[_Segment] = field(default_factory=list[_Segment])
    calls: dict[str, ToolRun] = field(default_factory=dict[str, ToolRun])
    text_at: float | None = None
    audio_at: float | None = None
    heard_at: float | None = None
    calling: bool = False  # the latest that came of it was a tool call
    ended: bool = False
    played: bool = False  # to its end, as one can tell from what followed
    interrupted: bool = False
    heard: float | None = None

    @property
    def latency(self) -> Latency:
        return Latency(
            text=_seconds(self.asked_at, self.text_at),
            audio=_seconds(self.asked_at, self.audio_at),
            heard=_seconds(self.asked_at, self.heard_at),
        )

    @property
    def settled(self) -> bool:
        """Whether no FINAL text of it will come any more."""
        return self.ended and all(segment.confirmed for segment in self.segments)

    @property
    def mute(self) -> bool:
        """Whether nothing has come of it: no word and no tool call."""
        return not self.calls and not any(segment.planned or segment.spoken for segment in self.segments)

    @property
    def seconds(self) -> float:
        """How long its speech is, as far as it came."""
        return sum(segment.seconds for segment in self.segments)

    def played_until(self, player: Player | None, now: float) -> float:
        """Seconds of it that were heard: as a player tells, or as if it was played when it came."""
        heard = player.heard(self.turn) if player else None
        if heard is None:
            heard = 0.0 if self.audio_at is None else now - self.audio_at
        return min(heard, self.seconds)

    def audible(self, player: Player | None, now: float) -> bool:
        """Whether somebody is listening to it, or will be."""
        if self.played or self.interrupted:
            return False
        coming = not (self.ended or self.calling)
        return coming or self.played_until(player, now) < self.seconds - _NO_WORD

    def drop_unfinished(self) -> str:
        """Forget the words of the segment of which not all has come, if there is one, and return them.

        What has come of its sound is heard all the same.
        """
        broken = [each for each in self.segments if not (each.complete or each.confirmed)]
        words = "".join(each.planned for each in broken).strip()
        for each in broken:
            each.planned, each.confirmed = "", True
        return words

    def cut(self, heard: float) -> None:
        """Take for spoken what was begun within so many seconds, as the service does."""
        start = 0.0
        for segment in self.segments:
            if not segment.confirmed and start < heard:
                segment.confirmed, segment.spoken = True, segment.planned
            start += segment.seconds


@dataclass(slots=True, kw_only=True)
class _OpenCall:
    """A tool call that has no answer yet."""

    call: ToolCall
    response: _Response
    at: float


@dataclass(slots=True, kw_only=True)
class _Piece:
    """What the user said in one block, or typed at once."""

    text: str = ""
    typed: bool = False
    echoed: bool = False  # by the service, if it should do that


@dataclass(slots=True, kw_only=True)
class _Utterance:
    """What the user said and typed before a response."""

    pieces: list[_Piece] = field(default_factory=list[_Piece])

    @property
    def text(self) -> str:
        text = ""
        for piece in self.pieces:
            text = read_on(text, piece.text)
        return text

    @property
    def spoken(self) -> bool:
        return any(piece.text and not piece.typed for piece in self.pieces)

    def typed(self, text: str) -> _Piece | None:
        """The first piece that was typed in these words and is not echoed so far."""
        waiting = (piece for piece in self.pieces if piece.typed and not piece.echoed)
        words = text.strip().casefold()  # the service writes what the user said without capitals
        return next((piece for piece in waiting if piece.text.strip().casefold() == words), None)


class _Prompt(NamedTuple):
    """What is typed, but not by the user; see `Fold.prompted`."""

    answer: tuple[str, str] | None
    again: bool


@dataclass(slots=True, kw_only=True)
class _Block:
    """A block that the service has opened."""

    type: str
    role: str
    stage: str | None
    sample_rate: int
    response: _Response | None = None
    segment: _Segment | None = None
    utterance: _Utterance | None = None
    piece: _Piece = field(default_factory=_Piece)
    begins: bool = False  # it is the first of a response, or the first after a tool call
    odd: bytes = b""  # half a sample, until its other half comes


@dataclass(slots=True, kw_only=True)
class _Record:
    """What is common to all streams that a conversation goes over."""

    usage: Usage
    player: Player | None = None
    streams: int = 0
    said: list[_Utterance | _Response] = field(default_factory=list["_Utterance | _Response"])
    responses: int = 0
    unsettled: deque[_Response] = field(default_factory=lambda: deque[_Response](maxlen=_UNSETTLED_KEPT))
    cut: int = 0  # the latest turn that was interrupted
    calls: set[str] = field(default_factory=set[str])
    open_calls: dict[str, _OpenCall] = field(default_factory=dict[str, "_OpenCall"])
    unfinished: str | None = None  # the sentence in which a stream was lost, until the model speaks again
    unspoken: dict[str, tuple[ToolRun, float]] = field(  # answered, and when, and not spoken about
        default_factory=dict[str, tuple[ToolRun, float]]
    )
    prompts: deque[tuple[str, float]] = field(  # of the program, and when, and not spoken about
        default_factory=lambda: deque[tuple[str, float]](maxlen=_PROMPTS_KEPT)
    )

    def utterance(self) -> _Utterance:
        if not self.said or not isinstance(self.said[-1], _Utterance):
            self.said.append(_Utterance())
        latest = self.said[-1]
        assert isinstance(latest, _Utterance)  # noqa: S101 - for the type checkers
        return latest

    def latest(self, *, lost: bool) -> "_Utterance | _Response | None":
        """What was said last. A response that broke off before its first word is nothing."""
        for said in reversed(self.said):
            if isinstance(said, _Utterance) or not (said.mute and (lost or said.ended)) or self.unfinished:
                return said
        return None

    def audible(self, now: float) -> bool:
        """Whether something is being heard, or was a moment ago and is not confirmed yet."""
        return any(
            response.audible(self.player, now)
            or (not response.settled and response.audible(None, now - _CONFIRMING))
            for response in self.unsettled
            if not response.interrupted
        )


class Conversation:
    """One conversation so far, over one stream after the other.

    Args:
        history: What was said before it began.
        prices: What the model's tokens cost.
        sample_rate: Of the audio that is sent, in Hz.
        turns: How many turns there were before.
        usage: What was counted before.
    """

    def __init__(
        self,
        *,
        history: Sequence[Message] = (),
        prices: Prices | None = None,
        sample_rate: int = 16_000,
        turns: int = 0,
        usage: Usage = Usage(),  # noqa: B008 - frozen
    ) -> None:
        self._before = tuple(history)
        self._sample_rate = sample_rate
        self._record = _Record(usage=replace(usage, prices=prices), responses=turns)
        self._fold = Fold(self._record, sample_rate)

    @property
    def turns(self) -> int:
        """How many responses there were."""
        return self._record.responses

    @property
    def usage(self) -> Usage:
        """The tokens that were counted, on all streams together."""
        return self._record.usage

    @property
    def player(self) -> Player | None:
        """What plays the model's speech, if it tells."""
        return self._record.player

    @player.setter
    def player(self, player: Player | None) -> None:
        self._record.player = player

    @property
    def fold(self) -> "Fold":
        """What the stream tells that listens to the user."""
        return self._fold

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said so far, in order."""
        merged: list[Message] = []
        for message in (*self._before, *self._messages()):
            if merged and merged[-1].role == message.role and not merged[-1].interrupted:
                merged[-1] = _joined(merged[-1], message)
            else:
                merged.append(message)
        return tuple(merged)

    def sent(self, message: InputMessage, now: float) -> list[Event]:
        """Take note of what was sent on the stream that listens to the user; see `Fold.sent`."""
        return self._fold.sent(message, now)

    def feed(self, message: OutputMessage, now: float) -> list[Event]:
        """Take in what that stream tells; see `Fold.feed`."""
        return self._fold.feed(message, now)

    def audible(self, now: float) -> bool:
        """Whether the model's speech is being heard, or was a moment ago and is not confirmed yet."""
        return self._record.audible(now)

    def left(self, *, lost: bool) -> Left:
        """Return what another stream must know and do, so that the conversation can go on over it.

        A sentence in the middle of which the stream was lost is forgotten here: it will be said again.

        Args:
            lost: Whether this stream is gone; otherwise it finishes what it says.
        """
        record = self._record
        if lost:
            self._fold.break_off()
        latest = record.latest(lost=lost)
        awaited = latest.calls.values() if isinstance(latest, _Response) and latest.calling else ()
        return Left(
            history=self.history,
            unanswered=isinstance(latest, _Utterance) and bool(latest.text.strip()),
            unfinished=record.unfinished,
            calls=(
                *(run for run, _ in record.unspoken.values()),
                *(run for run in awaited if run.result is None),
            ),
            prompts=tuple(text for text, _ in record.prompts),
        )

    def awaits(self, id_: str) -> bool:
        """Whether a tool call has no answer yet."""
        return id_ in self._record.open_calls

    def move_on(self, *, base: int, lost: bool) -> list[Event]:
        """Go on over another stream, the audio of which begins with the user's sample number `base`.

        What the old one still tells is heard only as far as it belongs to what it has begun to say.
        """
        ended = self._fold.retire(lost=lost)
        self._fold = Fold(self._record, self._sample_rate, base=base)
        return ended

    def _messages(self) -> Iterator[Message]:
        for said in self._record.said:
            match said:
                case _Utterance(text=text) if text.strip():
                    yield Message(role="USER", text=text)
                case _Response():
                    message = _spoken(said)
                    if message.text.strip() or message.tool_calls:
                        yield message
                case _:
                    pass


class Fold:
    """What one stream of a conversation tells.

    Args:
        record: What is common to all of them.
        sample_rate: Of the audio that is sent, in Hz.
        base: The number of its first sample, of all that the user has said.
    """

    def __init__(self, record: _Record, sample_rate: int, *, base: int = 0) -> None:
        self.response: _Response | None = None  # the latest one that it has begun
        record.streams += 1
        self._number = record.streams
        self._record = record
        self._retired = False
        self._left = False
        self._ignored = set[str]()  # blocks, by content id
        self._blocks: dict[str, _Block] = {}
        self._answering: dict[str, str] = {}  # tool use ids, by content name
        self._typing: dict[str, str] = {}  # by content name
        self._prompts: dict[str, _Prompt] = {}  # what is typed, but not by the user, by content name
        self._prompted = deque[str](maxlen=_PROMPTS_KEPT)
        self._asked_at: float | None = None
        self._speech_began_at: float | None = None
        self._samples_per_ms = sample_rate / 1000
        self._base = base
        self._sent_audio = _SentAudio(sample_rate)
        self._speaking = False
        self._told = False  # whether a text came of what the user is saying
        self._untold: int | None = None
        self._heard = base
        self._expecting_since: float | None = None

    # --- what can be known of it --------------------------------------------------------------------------

    @property
    def user_speaks(self) -> bool:
        """Whether the user is speaking, as the service reports it."""
        return self._speaking

    @property
    def untold(self) -> int | None:
        """The number of the first sample of speech that was not turned into text; None if all was."""
        return self._untold

    @property
    def heard(self) -> int:
        """The number of the first sample that the service may not have heard yet, as far as it has told."""
        return self._heard

    @property
    def generating(self) -> bool:
        """Whether a response is coming."""
        response = self.response
        return response is not None and not response.ended and not response.calling

    def owes(self, now: float) -> bool:
        """Whether an answer is about to come, or what is to be answered is on its way."""
        if self._typing or self._answering:
            return True
        if self._record.unspoken and self._record.audible(now):
            return True  # once this was heard, the model speaks about the results
        return self._expecting_since is not None and now - self._expecting_since < _ANSWER_COMES

    @property
    def over(self) -> bool:
        """Whether nothing more is to be expected of what it has begun to say."""
        return self._left or all(response.settled for response in self._mine())

    def break_off(self) -> None:
        """Take note that the stream is gone: the sentence that it was saying is none."""
        response = self.response
        if response is not None and not response.ended:
            words = response.drop_unfinished()
            if words or not (response.calling or response.mute):
                self._record.unfinished = words

    def retire(self, *, lost: bool) -> list[Event]:
        """Let another stream hear the user; this one only finishes what it says, unless it is lost."""
        self._retired = True
        self._sent_audio.forget()  # what it still says of the user is not told; and its responses live on
        self._ignored.update(id_ for id_, block in self._blocks.items() if block.role == "USER")
        response = self.response
        return self._given_up() if lost or (response is not None and response.calling) else []

    def leave(self) -> list[Event]:
        """Expect nothing more of it: what it has not confirmed counts as heard, unless the user breaks in."""
        self._left = True
        if self.response is not None and not self.response.ended:
            self.response.drop_unfinished()
        return self._given_up()

    def _given_up(self) -> list[Event]:
        """End a response of which no more comes."""
        response = self.response
        if response is None:
            return []
        return self._ended(response, "TOOL_USE" if response.calling else LOST)

    def _mine(self) -> list[_Response]:
        """What it has said, as far as that may still be confirmed."""
        return [response for response in self._record.unsettled if response.stream == self._number]

    def _planned(self, text: str) -> tuple[_Response, _Segment] | None:
        """The earliest segment that waits to be confirmed and has these words."""
        found = self._unconfirmed()
        return next((each for each in found if each[1].planned.strip() == text.strip()), None)

    def _unconfirmed(self) -> Iterator[tuple[_Response, _Segment]]:
        """What waits to be confirmed, in the order in which that should happen."""
        for response in self._mine():
            for segment in response.segments:
                if not segment.confirmed:
                    yield response, segment

    # --- what passes over it ------------------------------------------------------------------------------

    def prompted(
        self, content_name: str, *, answer: tuple[str, str] | None = None, again: bool = False
    ) -> None:
        """Take note that the text that will be sent under this name is none of the user's words.

        Args:
            content_name: That.
            answer: The id of the tool call that it answers, and the answer.
            again: Whether it is only what the stream before has left.
        """
        self._prompts[content_name] = _Prompt(answer=answer, again=again)

    def sent(self, message: InputMessage, now: float) -> list[Event]:
        """Take note of what was sent, at the time `now` in seconds of any clock; return what that means."""
        match message:
            case messages.AudioInput(content=pcm):
                if not self._retired:
                    self._sent_audio.add(len(pcm) // 2, now)
            case messages.InputContentStart(type="TEXT", interactive=True, content_name=name):
                self._typing[name] = ""
            case messages.TextInput(content_name=name, content=text) if name in self._typing:
                self._typing[name] += text
            case messages.InputContentEnd(content_name=name) if name in self._typing:
                text = self._typing.pop(name)
                self._asked_at = self._expecting_since = now
                if name not in self._prompts:
                    self._record.utterance().pieces.append(_Piece(text=text, typed=True))
                    return []
                self._prompted.append(text)
                prompt = self._prompts.pop(name)
                if prompt.answer is not None:
                    return self.answered(*prompt.answer, now)
                if not prompt.again:
                    self._record.prompts.append((text, now))
            case messages.InputContentStart(tool_use_id=str(id_), content_name=name):
                self._answering[name] = id_
            case messages.ToolResult(content_name=name, content=text):
                self._expecting_since = now
                return self.answered(self._answering.pop(name, ""), text, now)
            case _:
                pass
        return []

    def feed(self, message: OutputMessage, now: float) -> list[Event]:
        """Take in what the service said, at the time `now`, and return what that means to a listener."""
        if self._retired and self._is_late(message):
            return []
        match message:
            case messages.AudioOutput():
                return self._audio(message, now)
            case messages.OutputContentStart():
                return self._block_started(message, now)
            case messages.TextOutput():
                return self._text(message, now)
            case messages.OutputContentEnd():
                return self._block_ended(message, now)
            case messages.ToolUse():
                return self._tool_use(message, now)
            case messages.UsageEvent():
                self._record.usage += message.delta
                return [
                    events.UsageUpdated(
                        turn=self._record.responses,
                        delta=replace(message.delta, prices=self._record.usage.prices),
                        total=self._record.usage,
                        source=(message,),
                    )
                ]
            case messages.UserSpeechStart(offset_ms=offset):
                self._speech_began_at = self._sent_audio.time_of(offset)
                if self._untold is None or not (self._speaking or self.owes(now)):  # a cough of long ago
                    self._untold = max(self._base, self._sample(offset - _BEFORE_SPEECH))
                self._speaking, self._told, self._expecting_since = True, False, None
                self._heard = self._sample(offset)
                started = events.UserSpeechStarted(
                    turn=self._record.responses + 1, offset=self._offset(offset), source=(message,)
                )
                return [started, *self._break_in(message, now)]
            case messages.UserSpeechEnd(offset_ms=offset):
                self._asked_at = self._sent_audio.time_of(offset)
                self._speaking, self._expecting_since = False, now
                self._heard = self._sample(message.detected_at_ms)
                if self._told:
                    self._untold = None
                return [
                    events.UserSpeechEnded(
                        turn=self._record.responses + 1,
                        offset=self._offset(offset),
                        detected_at=self._offset(message.detected_at_ms),
                        source=(message,),
                    )
                ]
            case messages.UnknownMessage(name=name, payload=payload):
                return [
                    events.UnknownEvent(
                        turn=self._record.responses, name=name, payload=payload, source=(message,)
                    )
                ]
            case messages.CompletionStart() | messages.CompletionEnd():
                return []  # they stand around the whole stream, and say nothing of turns
            case _:
                assert_never(message)

    def _sample(self, offset_ms: int) -> int:
        return self._base + round(offset_ms * self._samples_per_ms)

    def _offset(self, offset_ms: int) -> float:
        return (self._base / self._samples_per_ms + offset_ms) / 1000

    def _is_late(self, message: OutputMessage) -> bool:
        """Whether something is about what another stream takes care of by now."""
        goes_on = self.response is not None and not self.response.ended
        match message:
            case messages.UserSpeechStart() | messages.UserSpeechEnd() | messages.TextOutput(role="USER"):
                return True
            case messages.OutputContentStart(content_id=id_, role=role, stage=stage):
                confirms = role == "ASSISTANT" and stage == "FINAL"
                if role == "USER" or not (goes_on or (confirms and not self.over)):
                    self._ignored.add(id_)
                return id_ in self._ignored
            case messages.BlockOutput(content_id=id_):
                return self._left or id_ in self._ignored or not (goes_on or id_ in self._blocks)
            case _:
                return False

    def _break_in(self, message: OutputMessage, now: float) -> list[Event]:
        """End what is still heard of other streams: those do not hear the user break in."""
        return self._cut(message, now) if self._others(now) else []

    # --- blocks -------------------------------------------------------------------------------------------

    def _block_started(self, message: messages.OutputContentStart, now: float) -> list[Event]:
        block = self._blocks[message.content_id] = _Block(
            type=message.type,
            role=message.role,
            stage=message.stage,
            sample_rate=message.sample_rate or _RATE_UNLESS_TOLD,
        )
        return self._place(block, message, now)

    def _block(
        self, message: messages.TextOutput | messages.AudioOutput | messages.ToolUse, kind: str, now: float
    ) -> tuple[_Block, list[Event]]:
        """The block that a message belongs to: a new one, where the service did not open one of its kind."""
        found = self._blocks.get(message.content_id)
        if found is not None and found.type == kind:
            return found, []
        block = self._blocks[message.content_id] = _Block(
            type=kind,
            role=found.role if found else message.role,
            stage=found.stage if found else None,
            sample_rate=found.sample_rate if found else _RATE_UNLESS_TOLD,
        )
        return block, self._place(block, message, now)

    def _place(self, block: _Block, message: OutputMessage, now: float) -> list[Event]:
        """Find the response that a block belongs to; a planned text, audio or a tool may begin one."""
        match block:
            case _Block(type="TEXT", role="ASSISTANT", stage="SPECULATIVE"):
                started = self._speak(block, message)
                response = self._current()
                block.segment = _Segment()
                response.segments.append(block.segment)
                if response.text_at is None:
                    response.text_at = now
            case _Block(type="AUDIO"):
                # A response begins with its text: audio without one is late audio of the response before,
                # if that was interrupted.
                late = self.response is not None and self.response.interrupted
                started = [] if late else self._speak(block, message)
                response = self._current()
                block.segment = response.segments[-1] if response.segments else None
            case _Block(type="TOOL"):
                started = self._respond(message)
                response = self._current()
                response.calling = True
            case _:
                return []
        block.response = response
        return started

    def _block_ended(self, message: messages.OutputContentEnd, now: float) -> list[Event]:
        block = self._blocks.pop(message.content_id, None)
        kind = message.type or (block.type if block else "")
        match kind, message.stop_reason:
            case "TEXT" | "AUDIO", "INTERRUPTED":
                return self._interrupted(message, now)
            case ("AUDIO", "PARTIAL_TURN") | ("AUDIO", ""):
                self._complete(block)
                return []
            case "AUDIO", reason:
                self._complete(block)
                response = block.response if block else self.response
                if response is not None:
                    self._look_at_player(response, now)
                return self._ended(response, reason, message)
            case _:
                return []

    def _complete(self, block: _Block | None) -> None:
        if block is not None and block.segment is not None:
            block.segment.complete = True

    # --- responses ----------------------------------------------------------------------------------------

    def _current(self) -> _Response:
        assert self.response is not None  # noqa: S101 - _place() has just seen to it
        return self.response

    def _speak(self, block: _Block, message: OutputMessage) -> list[Event]:
        """Begin a response or go on with one, in words."""
        block.begins = not self.generating
        started = self._respond(message)
        self._current().calling = False
        return started

    def _respond(self, message: OutputMessage) -> list[Event]:
        """Begin a response, unless one is being generated."""
        produced = self._stop_waiting(message)
        self._expecting_since = None
        if not self._speaking:
            self._untold = None
        if self.response is not None and not self.response.ended:
            return []
        if self._record.said and isinstance(latest := self._record.said[-1], _Utterance) and latest.spoken:
            for earlier in self._record.unsettled:  # whoever speaks while one still plays, interrupts it
                earlier.played = True
        self._record.responses += 1
        self.response = _Response(turn=self._record.responses, stream=self._number, asked_at=self._asked_at)
        self._asked_at = None
        self._record.said.append(self.response)
        for earlier in [each for each in self._record.unsettled if each.interrupted]:
            self._record.unsettled.remove(earlier)  # what is not confirmed by now was not heard
        self._record.unsettled.append(self.response)
        return [*produced, events.TurnStarted(turn=self._record.responses, source=(message,))]

    def _stop_waiting(self, message: OutputMessage) -> list[Event]:
        """End a response that waits for a tool, if the user has gone on: what comes now is new."""
        response = self.response
        waits = response is not None and response.calling and not self._retired
        if response is None or not waits or self._record.said[-1] is response:
            return []
        return self._ended(response, "TOOL_USE", message)

    def _ended(
        self, response: _Response | None, reason: str, message: OutputMessage | None = None
    ) -> list[Event]:
        if response is None or response.ended:
            return []
        response.ended = True
        return [
            events.TurnEnded(
                turn=response.turn,
                interrupted=response.interrupted,
                reason=reason,
                latency=response.latency,
                tool_calls=tuple(response.calls.values()),
                source=() if message is None else (message,),
            )
        ]

    def _look_at_player(self, response: _Response, now: float) -> None:
        """Take note of when a response began to be heard; chunks come often enough to tell."""
        if self._record.player is not None and response.heard_at is None:
            heard = self._record.player.heard(response.turn)
            response.heard_at = now - heard if heard else None

    def _interrupted(self, message: OutputMessage, now: float) -> list[Event]:
        """The user broke in. The service says so in two ways, a text and a stop reason: one is enough."""
        if self.response is None or self.response.interrupted:
            return []
        return self._cut(message, now)

    def _others(self, now: float) -> list[_Response]:
        """What is still heard of the streams before."""
        record, own = self._record, self.response
        return [
            each
            for each in record.unsettled
            if each.stream != self._number
            and (own is None or each.turn < own.turn)
            and each.audible(record.player, now)
        ]

    def _cut(self, message: OutputMessage, now: float) -> list[Event]:
        """Interrupt all that is heard: one answer may still play while the next is being generated."""
        record, own, others = self._record, self.response, self._others(now)
        mine = list[_Response]()
        if own is not None and not own.interrupted:
            self._look_at_player(own, now)
            mine = [*(each for each in self._mine() if each is not own and not each.played), own]
        for each in others:  # no stream will say how much of it was begun
            each.cut(each.played_until(record.player, now))
            record.unsettled.remove(each)
        cut = [*others, *mine]
        for each in cut:
            each.interrupted = True
            each.heard = record.player.heard(each.turn) if record.player else None
        latest = cut[-1]
        record.cut, record.unfinished = max(record.cut, latest.turn), None
        return [
            events.Interrupted(
                turn=latest.turn,
                heard=latest.heard,
                latency=_seconds(self._speech_began_at, now),
                source=(message,),
            ),
            *(event for each in cut for event in self._ended(each, "INTERRUPTED", message)),
        ]

    # --- what is said -------------------------------------------------------------------------------------

    def _text(self, message: messages.TextOutput, now: float) -> list[Event]:
        block, produced = self._block(message, "TEXT", now)
        if not block.role:
            block.role = message.role
            produced += self._place(block, message, now)
        role = block.role
        if role != "USER" and message.says_interrupted:
            return [*produced, *self._interrupted(message, now)]
        turn = self._record.responses
        match role:
            case "USER":
                block.stage = "FINAL"
                produced += self._user_said(block, message, now)
                turn = self._record.responses + 1
            case "ASSISTANT":
                produced += self._model_said(block, message, now)
                turn = block.response.turn if block.response else turn
            case _:
                pass  # newer than this library: the listener may know it
        transcript = events.Transcript(
            turn=turn,
            role=role,
            text=message.content,
            stage=block.stage or "FINAL",
            content_id=message.content_id,
            source=(message,),
        )
        return [*produced, transcript]

    def _model_said(self, block: _Block, message: messages.TextOutput, now: float) -> list[Event]:
        produced = list[Event]()
        if block.stage is None:  # the service did not say: what was planned before is now confirmed
            block.stage = "FINAL" if self._planned(message.content) else "SPECULATIVE"
            produced += self._place(block, message, now)
        match block.stage:
            case "SPECULATIVE" if block.segment is not None:
                block.segment.planned += message.content
                self._has_spoken(block, now)
            case "FINAL":
                if block.segment is None:
                    produced += self._confirm(block, message, now)
                if block.segment is not None:
                    block.segment.spoken += message.content
            case _:
                pass  # a stage that is newer than this library
        return produced

    def _user_said(self, block: _Block, message: messages.TextOutput, now: float) -> list[Event]:
        if block.utterance is None:
            if message.content in self._prompted:
                return []  # an echo, if the service should do that
            block.utterance = self._record.utterance()
            block.utterance.pieces.append(block.piece)
        block.piece.text += message.content
        if typed := block.utterance.typed(block.piece.text):
            block.piece.text, typed.echoed = "", True
        if self._asked_at is None:
            self._asked_at = now  # version 1 does not say when the user's speech ended
        if self._speaking:
            self._told, self._untold = True, self._base + self._sent_audio.samples
        else:
            self._untold, self._expecting_since = None, now
        return self._stop_waiting(message)

    def _has_spoken(self, block: _Block, now: float) -> None:
        """Take note that words have come; with the first it goes on, or speaks about what it was told."""
        record = self._record
        if record.unfinished is not None:
            record.unfinished = None  # it was asked for that first
        elif block.begins:
            found = record.unspoken.items()
            record.unspoken = {id_: (run, at) for id_, (run, at) in found if now - at < _SOONEST}
            while record.prompts and now - record.prompts[0][1] >= _SOONEST:
                record.prompts.popleft()
        block.begins = False

    def _confirm(self, block: _Block, message: messages.TextOutput, now: float) -> list[Event]:
        """File a text that was heard under the segment that was planned."""
        produced = list[Event]()
        found = self._planned(message.content) or next(self._unconfirmed(), None)
        if found is None:  # heard, but never planned
            if self._retired and (self.response is None or self.response.interrupted):
                return []  # it was cut meanwhile, and what was begun of it is filed; or it has begun nothing
            if self.response is None:
                produced += self._respond(message)
            found = (self._current(), _Segment())
            found[0].segments.append(found[1])
        block.response, block.segment = found
        block.segment.confirmed = True
        if self._record.unspoken:
            self._expecting_since = now
        for earlier in self._mine():  # each stream has a clock of its own
            if earlier.turn < block.response.turn:
                earlier.played = True
        if block.response in self._record.unsettled and (
            block.response.settled or block.response.interrupted
        ):
            self._record.unsettled.remove(block.response)  # after an interruption, only one more is confirmed
        return produced

    def _audio(self, message: messages.AudioOutput, now: float) -> list[Event]:
        block, started = self._block(message, "AUDIO", now)
        response = block.response
        if response is None or response.turn <= self._record.cut:
            return started
        pcm = block.odd + message.content
        block.odd = pcm[len(pcm) & ~1 :]
        pcm = pcm[: len(pcm) & ~1]
        if not pcm:
            return started
        if response.audio_at is None:
            response.audio_at = now
        self._look_at_player(response, now)
        if block.segment is not None:
            block.segment.seconds += len(pcm) / 2 / block.sample_rate
        chunk = events.AudioChunk(
            turn=response.turn,
            pcm=pcm,
            sample_rate=block.sample_rate,
            content_id=message.content_id,
            source=(message,),
        )
        return [*started, chunk]

    def _tool_use(self, message: messages.ToolUse, now: float) -> list[Event]:
        block, started = self._block(message, "TOOL", now)
        if message.tool_use_id in self._record.calls:
            return started
        self._record.calls.add(message.tool_use_id)
        arguments = message.arguments
        call = events.ToolCall(
            turn=block.response.turn if block.response else self._record.responses,
            id=message.tool_use_id,
            name=message.tool_name,
            arguments={} if arguments is None else arguments,
            error=None if arguments is not None else "the arguments are no JSON object",
            source=(message,),
        )
        response = block.response or self._current()
        response.calls[call.id] = ToolRun.of(call)
        self._record.open_calls[call.id] = _OpenCall(call=call, response=response, at=now)
        return [*started, call]

    def answered(self, id_: str, text: str, now: float) -> list[Event]:
        """Take note of the answer to a tool call, which went out as a result or in words."""
        answered = self._record.open_calls.pop(id_, None)
        if answered is None:
            return []
        call, response = answered.call, answered.response
        result: dict[str, Any] = msgspec.json.decode(text)
        error = result.get("error")
        answer = ToolResult(
            turn=response.turn,
            id=id_,
            name=call.name,
            result=result,
            error=error if isinstance(error, str) else None,
            elapsed=now - answered.at,
        )
        run = response.calls[id_] = response.calls[id_].answered(answer)
        self._record.unspoken[id_] = run, now
        return [answer]


class _SentAudio:
    """When which part of the audio was sent: the service names offsets in it, and no times."""

    def __init__(self, sample_rate: int) -> None:
        self.samples = 0
        self._samples_per_ms = sample_rate / 1000
        self._offsets = deque[int](maxlen=_TIMES_KEPT)  # samples sent before and with each frame
        self._times = deque[float](maxlen=_TIMES_KEPT)

    def add(self, samples: int, now: float) -> None:
        self.samples += samples
        self._offsets.append(self.samples)
        self._times.append(now)

    def forget(self) -> None:
        """Keep no times any more."""
        self._offsets.clear()
        self._times.clear()

    def time_of(self, offset_ms: int) -> float | None:
        at = bisect_left(self._offsets, offset_ms * self._samples_per_ms)
        forgotten = at == 0 and len(self._times) == _TIMES_KEPT
        return self._times[at] if at < len(self._times) and not forgotten else None


def _seconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _spoken(response: _Response) -> Message:
    """What was heard of a response, as far as one can know."""
    text, heard_text, left = "", "", response.heard
    for segment in response.segments:
        if segment.confirmed:
            words = segment.spoken
        elif response.interrupted:
            continue  # the one segment that was begun is confirmed right after the interruption
        else:
            words = segment.planned  # its confirmation is due only once it has been played
        if left is not None:
            heard_text = read_on(heard_text, _share(words, left, segment.seconds))
            left = max(0.0, left - segment.seconds)
        text = read_on(text, words)
    return Message(
        role="ASSISTANT",
        text=text,
        interrupted=response.interrupted,
        heard=response.heard,
        heard_text=heard_text if response.heard is not None else None,
        tool_calls=tuple(response.calls.values()),
    )


def _share(text: str, heard: float, seconds: float) -> str:
    """The words of `text` that fit into `heard` seconds, if all of it takes `seconds`."""
    if heard <= 0:
        return ""
    if heard >= seconds - _NO_WORD:
        return text
    end = int(len(text) * heard / seconds)
    return text[:end] if text[end : end + 1].isspace() else text[: text.rfind(" ", 0, end) + 1].rstrip()


def read_on(text: str, more: str) -> str:
    """Return one piece of a transcript after the other, with a blank in between if neither has one."""
    gap = text and more and not text[-1].isspace() and not more[0].isspace()
    return f"{text} {more}" if gap else text + more


def _joined(first: Message, second: Message) -> Message:
    heard_text = None if second.heard_text is None else read_on(first.text, second.heard_text)
    return replace(
        second,
        text=read_on(first.text, second.text),
        heard_text=heard_text,
        tool_calls=(*first.tool_calls, *second.tool_calls),
    )
