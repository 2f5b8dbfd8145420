"""What happened in a recorded conversation: who spoke when, what was heard of it, tools, streams and tokens.

It is told as for a listener who hears everything at once: a response plays from the moment that its first
sound comes, after what still plays, and is cut where the user broke in. No clock, no session, no I/O.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, cast

from novasonic import events, messages, models
from novasonic.conversation import Conversation, Fold, read_on
from novasonic.errors import RemoteProtocolError
from novasonic.events import Event, Latency
from novasonic.messages import InputMessage, OutputMessage
from novasonic.models import Usage
from novasonic.recording import Failure, Line, Tape

_RATE_UNLESS_TOLD: Final = 16_000
_SAME_MOMENT: Final = 0.001  # seconds
_SAME_SPEECH: Final = 0.1  # seconds; nobody begins to speak twice in so short a time


class Span(NamedTuple):
    """Some time, in seconds from the beginning of the recording."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


class Frame(NamedTuple):
    """A piece of the user's voice.

    Attributes:
        at: When it was spoken, in seconds; it may have been sent later, where a stream was lost.
        pcm: Its samples.
        again: Whether it was sent before, on another stream.
    """

    at: float
    pcm: bytes
    again: bool = False


@dataclass(slots=True, kw_only=True)
class Speech:
    """What the user said or typed.

    Attributes:
        span: When. Of no length for what was typed, or if nobody knows.
        text: What the service understood.
        typed: Whether it was typed.
    """

    span: Span
    text: str = ""
    typed: bool = False


@dataclass(slots=True, kw_only=True)
class Sentence:
    """A piece of a response, as it was planned or said.

    Attributes:
        text: The words.
        said: Whether the service says that it was spoken.
    """

    text: str
    said: bool = False


@dataclass(slots=True, kw_only=True)
class Response:
    """What the model said in one turn.

    Attributes:
        turn: Its number.
        at: When it began to come.
        sentences: What was planned, and said.
        heard: When it was heard.
        unheard: When the rest would have been heard, if the user had not broken in.
        interrupted_at: When the user did.
        latency: How long the user had to wait.
    """

    turn: int
    at: float
    sentences: list[Sentence] = field(default_factory=list[Sentence])
    heard: list[Span] = field(default_factory=list[Span])
    unheard: Span | None = None
    interrupted_at: float | None = None
    latency: Latency = field(default_factory=Latency)

    @property
    def text(self) -> str:
        """What was said of it, or is going to be."""
        said, cut = "", self.interrupted_at is not None
        for sentence in self.sentences:
            if sentence.said or not cut:
                said = read_on(said, sentence.text)
        return said.strip()

    @property
    def seconds_heard(self) -> float:
        """How much of it was heard."""
        return sum(span.seconds for span in self.heard)

    @property
    def seconds(self) -> float:
        """How long all of it is."""
        return self.seconds_heard + (self.unheard.seconds if self.unheard else 0.0)


@dataclass(slots=True, kw_only=True)
class Call:
    """A tool call.

    Attributes:
        at: When it came.
        call: What it was.
        result: What went back; None if nothing did.
    """

    at: float
    call: events.ToolCall
    result: events.ToolResult | None = None


@dataclass(slots=True, kw_only=True)
class Leg:
    """A stream of the conversation.

    Attributes:
        number: Its number.
        opened_at: When it was being opened.
        listens_at: From when on it heard the user; None if it never did.
        failure: Why it failed, if it did.
        failed_at: When.
    """

    number: int
    opened_at: float
    listens_at: float | None = None
    failure: Failure | None = None
    failed_at: float | None = None


@dataclass(slots=True, kw_only=True)
class Account:
    """What happened in a conversation.

    Attributes:
        tape: The recording.
        voice: The model's voice; empty if nobody knows.
        duration: Of the conversation, in seconds; what still plays at its end is part of it.
        speech: What the user said.
        responses: What the model said.
        tools: What it called.
        legs: The streams.
        usage: How many tokens had been counted, when.
        frames: The user's voice.
        sample_rate: Of that, in Hz.
        chunks: The model's voice, as it came.
    """

    tape: Tape
    voice: str = ""
    duration: float = 0.0
    speech: list[Speech] = field(default_factory=list[Speech])
    responses: list[Response] = field(default_factory=list[Response])
    tools: list[Call] = field(default_factory=list[Call])
    legs: list[Leg] = field(default_factory=list[Leg])
    usage: list[tuple[float, Usage]] = field(default_factory=list[tuple[float, Usage]])
    frames: list[Frame] = field(default_factory=list[Frame])
    sample_rate: int = _RATE_UNLESS_TOLD
    chunks: list[tuple[float, events.AudioChunk]] = field(
        default_factory=list[tuple[float, events.AudioChunk]]
    )

    @property
    def interrupted(self) -> list[Response]:
        """The responses into which the user broke."""
        return [response for response in self.responses if response.interrupted_at is not None]

    @property
    def tokens(self) -> Usage:
        """What was counted in all; with prices, if the model is known."""
        usage = self.usage[-1][1] if self.usage else Usage()
        model = self.tape.header.model
        return replace(usage, prices=models.lookup(model).prices if model else None)


def account(tape: Tape) -> Account:
    """Tell what happened in a recorded conversation."""
    return _Teller(tape).told()


class _Teller:
    """Goes through a recording, and takes note."""

    def __init__(self, tape: Tape) -> None:
        self._account = Account(tape=tape)
        rates = (_input_rate(line) for line in tape.lines if line.name == "contentStart")
        rate = self._account.sample_rate = next((rate for rate in rates if rate), _RATE_UNLESS_TOLD)
        self._voice = _voice(tape, rate)
        self._conversation = Conversation(sample_rate=rate)
        self._conversation.player = self
        self._folds = dict[int, Fold]()
        self._legs = dict[int, Leg]()
        self._listening = 0  # the stream that hears the user
        self._responses = dict[int, Response]()
        self._calls = dict[str, Call]()
        self._typing = dict[str, str]()  # by content name
        self._now = 0.0
        self._end = 0.0  # when what has come will have been heard

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn were heard by now: this is a `conversation.Player`, too."""
        response = self._responses.get(turn)
        if response is None or not response.heard:
            return None
        return sum(max(0.0, min(self._now, span.end) - span.start) for span in response.heard)

    def told(self) -> Account:
        """Return the whole account."""
        account = self._account
        for line in account.tape.lines:
            self._now = line.time
            self._follow(line)
        account.frames = [frame for frames in self._voice.values() for frame in frames if not frame.again]
        account.responses = list(self._responses.values())
        account.tools, account.legs = list(self._calls.values()), list(self._legs.values())
        account.duration = max(account.tape.duration, self._end)
        return account

    def _follow(self, line: Line) -> None:
        leg = self._legs.setdefault(line.stream, Leg(number=line.stream, opened_at=line.time))
        if line.failed is not None:
            leg.failure, leg.failed_at = line.failed, line.time
        elif line.event is not None:
            message = _message(self._account.tape, line)
            if line.sender == "client" and message is not None:
                self._sent(leg, cast("InputMessage", message))
            elif message is not None:
                self._received(leg, cast("OutputMessage", message))

    def _sent(self, leg: Leg, message: InputMessage) -> None:
        match message:
            case messages.PromptStart(voice=voice):
                self._account.voice = voice
            case messages.InputContentStart(type="AUDIO"):
                self._listen(leg)
            case messages.InputContentStart(type="TEXT", interactive=True, content_name=name):
                self._typing[name] = ""
            case messages.TextInput(content_name=name, content=text) if name in self._typing:
                self._typing[name] += text
            case messages.InputContentEnd(content_name=name) if name in self._typing:
                typed = Speech(span=Span(self._now, self._now), text=self._typing.pop(name), typed=True)
                self._account.speech.append(typed)
            case _:
                pass
        fold = self._folds.get(leg.number)
        if fold is None:
            return
        self._happened(leg, fold.sent(message, self._now))
        if isinstance(message, messages.SessionEnd) and leg.number != self._listening:
            fold.leave()

    def _received(self, leg: Leg, message: OutputMessage) -> None:
        fold = self._folds.get(leg.number)
        if fold is not None:
            self._happened(leg, fold.feed(message, self._now))

    def _listen(self, leg: Leg) -> None:
        """Take note that a stream hears the user from now on, and no other does."""
        conversation = self._conversation
        if leg.number == self._listening:
            return
        if self._listening:
            before = self._legs[self._listening]
            lost = before.failure is not None
            conversation.left(lost=lost)
            self._happened(before, conversation.move_on(base=0, lost=lost))
        leg.listens_at, self._listening = self._now, leg.number
        self._folds[leg.number] = conversation.fold

    def _happened(self, leg: Leg, told: Sequence[Event]) -> None:
        for event in told:
            match event:
                case events.UserSpeechStarted(source=(messages.UserSpeechStart(offset_ms=offset),)):
                    self._speech_started(self._spoken_at(leg, offset))
                case events.UserSpeechEnded(source=(messages.UserSpeechEnd(offset_ms=offset),)):
                    self._speech_ended(self._spoken_at(leg, offset))
                case events.Transcript(role="USER", text=text):
                    self._understood(text)
                case events.TurnStarted(turn=turn):
                    self._responses[turn] = Response(turn=turn, at=self._now)
                case events.Transcript(role="ASSISTANT"):
                    self._planned_or_said(event)
                case events.AudioChunk():
                    self._came(event)
                case events.Interrupted(turn=turn):
                    self._interrupted(turn)
                case events.TurnEnded(turn=turn, latency=latency):
                    self._responses[turn].latency = latency
                case events.ToolCall():
                    self._calls[event.id] = Call(at=self._now, call=event)
                case events.ToolResult():
                    self._calls[event.id].result = event
                case events.UsageUpdated(total=total):
                    self._account.usage.append((self._now, total))
                case _:
                    pass

    # --- the user -----------------------------------------------------------------------------------------

    def _spoken_at(self, leg: Leg, offset_ms: int) -> float:
        """Return when a part of the user's voice was spoken; the service names its place on the stream."""
        frames, rate = self._voice[leg.number], self._account.sample_rate
        sample = offset_ms * rate / 1000
        ends = list(accumulate(len(frame.pcm) // 2 for frame in frames))
        at = bisect_left(ends, sample)
        if at >= len(frames):
            return self._now
        return frames[at].at + (sample - (ends[at - 1] if at else 0)) / rate

    def _speech_started(self, start: float) -> None:
        speech = self._account.speech
        if speech and not speech[-1].typed and start - speech[-1].span.start < _SAME_SPEECH:
            return  # it is heard again, on another stream
        speech.append(Speech(span=Span(start, start)))

    def _speech_ended(self, end: float) -> None:
        spoken = [speech for speech in self._account.speech if not speech.typed]
        if spoken:
            spoken[-1].span = Span(spoken[-1].span.start, max(spoken[-1].span.start, end))

    def _understood(self, text: str) -> None:
        spoken = [speech for speech in self._account.speech if not speech.typed]
        if spoken:
            spoken[-1].text = read_on(spoken[-1].text, text)
        else:  # version 1 does not say when
            self._account.speech.append(Speech(span=Span(self._now, self._now), text=text))

    # --- the model ----------------------------------------------------------------------------------------

    def _planned_or_said(self, event: events.Transcript) -> None:
        response = self._responses.get(event.turn)
        if response is None:
            return
        if event.stage != "FINAL":
            response.sentences.append(Sentence(text=event.text))
            return
        waiting = [sentence for sentence in response.sentences if not sentence.said]
        same = [sentence for sentence in waiting if sentence.text.strip() == event.text.strip()]
        for sentence in (same or waiting)[:1]:
            sentence.said = True
        if not waiting:
            response.sentences.append(Sentence(text=event.text, said=True))

    def _came(self, chunk: events.AudioChunk) -> None:
        self._account.chunks.append((self._now, chunk))
        heard, start = self._responses[chunk.turn].heard, max(self._now, self._end)
        self._end = start + chunk.duration
        if heard and start - heard[-1].end < _SAME_MOMENT:
            heard[-1] = Span(heard[-1].start, self._end)
        else:
            heard.append(Span(start, self._end))

    def _interrupted(self, turn: int) -> None:
        now = self._now
        for response in self._responses.values():
            spans = response.heard
            rest = sum(max(0.0, span.end - max(now, span.start)) for span in spans)
            if rest or response.turn == turn:
                response.interrupted_at = now
                response.heard = [Span(span.start, min(now, span.end)) for span in spans if span.start < now]
                response.unheard = Span(now, now + rest) if rest else None
        self._end = min(self._end, now)


def _message(tape: Tape, line: Line) -> InputMessage | OutputMessage | None:
    """Return a message; None if it cannot be read."""
    document = tape.document(line)
    try:
        return (
            messages.decode_output(document) if line.sender == "service" else messages.decode_input(document)
        )
    except RemoteProtocolError:
        return None


def _input_rate(line: Line) -> int | None:
    match line.body():
        case {"audioInputConfiguration": {"sampleRateHertz": int(rate)}} if line.sender == "client":
            return rate
        case _:
            return None


# --- the user's voice -------------------------------------------------------------------------------------


def _voice(tape: Tape, sample_rate: int) -> dict[int, list[Frame]]:
    """Return what each stream has heard of the user.

    A stream that finishes what it says while the next one listens hears silence, which is nobody's voice.
    """
    voice, listening = dict[int, list[Frame]](), 0
    for line in tape.lines:
        if line.sender == "client" and line.name == "contentStart" and _input_rate(line):
            listening = line.stream
            voice.setdefault(listening, [])
        elif line.name == "audioInput" and line.stream == listening:
            message = _message(tape, line)
            if isinstance(message, messages.AudioInput):
                voice[listening].append(Frame(line.time, message.content))
    for before, after in pairwise(voice):
        voice[after] = _continued(voice[before], voice[after], sample_rate)
    return voice


def _continued(before: Sequence[Frame], after: Sequence[Frame], sample_rate: int) -> list[Frame]:
    """Return the frames of a stream as they were spoken.

    It begins with a burst if something is to be made up for: with what was sent before, and with what waited
    while there was no stream. All of that was spoken without a gap.
    """
    burst = 0
    for frame, following in pairwise(after):
        if following.at - frame.at > _seconds(frame, sample_rate) / 2:
            break
        burst += 1
    old, new = [frame.pcm for frame in before[-burst:]], [frame.pcm for frame in after[:burst]]
    again = next(n for n in range(min(len(old), burst), -1, -1) if old[len(old) - n :] == new[:n])
    spoken = [frame._replace(again=True) for frame in before[len(before) - again :]]
    at = before[-1].at + _seconds(before[-1], sample_rate) if before else 0.0
    for frame in after[again:burst]:
        spoken.append(frame._replace(at=at))
        at += _seconds(frame, sample_rate)
    return [*spoken, *after[burst:]]


def _seconds(frame: Frame, sample_rate: int) -> float:
    return len(frame.pcm) / 2 / sample_rate
