"""What an emulated service hears, answers and does wrong: data, in Python, JSON or YAML. No I/O but files.

A scenario is a list of turns, in order. It knows nothing of wires or clocks, so the same one drives the
emulator over TLS and HTTP/2, the fake in memory, and whatever else plays the service::

    {
      "turns": [
        {"heard": "what is the weather in oslo?",
         "calls": [{"name": "weather", "arguments": {"city": "Oslo"}}],
         "says": ["One moment."],
         "then": ["It is {celsius} degrees in {city}."]},
        {"heard": ["and", "tomorrow?"], "says": [{"text": "Rain.", "seconds": 1.5}]}
      ],
      "faults": [{"kind": "reset", "in_response": 2}, {"kind": "refuse", "stream": 2}]
    }

Nobody understands anything here: the first utterance gets the first turn, whatever was said. When the turns
are used up, the service says what it has really measured.

A fault happens at a point of a stream's life, and `stream` says of which one:

- instead of the HTTP 200: "refuse" and "mute", and "reset", "goaway", "cut" and "stall", without a point;
- after the 200 and before anything was said: the other kinds without a point, all kinds with `at: 0`;
- in the user's speech: `in_speech`, and perhaps a `delay`; or `after_audio`, which counts silence, too;
- while a tool runs: `after_call`, and perhaps a `delay`;
- while the model thinks, before it answers: `after_speech`;
- while audio is sent: `in_response`; when it was sent and is still playing: the same with a `delay`;
- at a time: `at`; at a certain message: `after_audio`, `after_output`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, cast, get_args

import msgspec

from novasonic.errors import ConfigurationError
from novasonic.models import Limits

Place = Literal["before", "after", "around", "early"]
"""Where a piece of the user's text stands: before or after the end of the user's speech is reported, with
that report inside its block, or while the user is still speaking."""

FaultKind = Literal[
    "refuse",
    "mute",
    "exception",
    "error",
    "reset",
    "goaway",
    "goaway_others",
    "cut",
    "stall",
    "end",
    "garbled",
    "truncated",
    "unknown",
    "malformed",
]
"""What may go wrong; `Fault` says what each is."""

FaultPoint = Literal["after_audio", "after_output", "after_call", "in_response", "in_speech", "after_speech"]
"""What is counted on a stream, for a fault to happen at; `Fault` says what each is."""

_LIMITS: Final = Limits()


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen, by keyword, and strict: a member that is misspelled in a file is an error, not a no-op."""


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class Heard(_Text, frozen=True, kw_only=True):
    """A piece of what the user said: the service reports each in a block of its own.

    Attributes:
        text: The words, usually without capitals, as the service writes them.
        place: Where the block stands; None leaves it to `Behaviour.user_text`. Pieces keep their order.
        at: Seconds after the start of the speech, for an "early" piece. None: each `user_text_every`.
        window: In which stretch of the utterance it was said, counted from 1: the service ends a stretch at
            each pause, and answers them all when the user does not go on.
    """

    place: Place | None = None
    at: float | None = None
    window: int = 1


class Say(_Text, frozen=True, kw_only=True):
    """A segment of a response: a text, and the sound of it.

    Attributes:
        text: Reported as SPECULATIVE when it is about to be said, and as FINAL when it was heard.
        seconds: How long the sound is; None: as long as it takes.
        sound: A WAV file, from `Scenario.folder` or of the emulator's own; None: spoken or hummed.
    """

    seconds: float | None = None
    sound: str | None = None

    def __post_init__(self) -> None:
        _not_negative("seconds", self.seconds)


class _Name(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class ToolCall(_Name, frozen=True, kw_only=True):
    """A tool that the model wants to be called.

    Attributes:
        name: Of the tool. Nobody checks that the client offers it: real models err, too.
        arguments: An object; or text that is sent as it stands, to see what a client does with it: "" is
            what the service may send for a tool that takes none. Nobody checks them against a schema.
        double_encoded: The arguments are a string inside the string, as the service now and then does.
        times: So often the call comes, each time in a block of its own and with the same id: one client says
            that the service does this. It takes one result.
        when: Before the turn's `says`, or after they have been generated. A model that waits for its tools
            (version 1) calls them all after.
        then: What is said when this call's result is in, apart from the turn's own `then`.
    """

    arguments: Mapping[str, Any] | str = msgspec.field(default_factory=dict[str, Any])
    double_encoded: bool = False
    times: int = 1
    when: Literal["before", "after"] = "before"
    then: Sequence[Say | str] | str = ()

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ConfigurationError(f"times is {self.times}, but a call comes once at least")


class Turn(_Data, frozen=True, kw_only=True):
    """One exchange: what the user says or types, and what the model does about it.

    Attributes:
        heard: The text that is reported for the user's speech, in one piece or several. The same words may
            be typed instead.
        typed: The turn answers this typed text instead of speech; `*` stands for anything. A typed turn is
            used for the first text that fits, and does not hold up the spoken ones.
        says: The segments of the response. None of them, and no calls: the model keeps silent.
        calls: Tools to call, all at once. The model goes on meanwhile: it says its `says`, and answers the
            user. The client may answer in any order.
        then: What is said when the results of all calls are in, and when the model and the user have
            finished what they were saying. `{city}` becomes the argument or the member of a result that has
            this name. A result for which nothing is to be said, here or in its call, is announced.
        answer: Seconds from the end of the user's speech to the first text; None: as in `Behaviour`.
        silence: Seconds of silence that end this utterance; None: as in `Behaviour`.
    """

    heard: Sequence[Heard | str] | str = ()
    typed: str | None = None
    says: Sequence[Say | str] | str = ()
    calls: Sequence[ToolCall] = ()
    then: Sequence[Say | str] | str = ()
    answer: float | None = None
    silence: float | None = None

    def __post_init__(self) -> None:
        _not_negative("answer", self.answer)
        _not_negative("silence", self.silence)

    @property
    def pieces(self) -> tuple[Heard, ...]:
        """`heard`, each piece in full form."""
        given = [self.heard] if isinstance(self.heard, str) else self.heard
        return tuple(Heard(each) if isinstance(each, str) else each for each in given)

    def answers(self, typed: str) -> bool:
        """Whether this is the turn for a typed text. Capitals do not matter."""
        if self.typed is None:
            return False
        pattern = ".*".join(map(re.escape, self.typed.strip().split("*")))
        return re.fullmatch(pattern, typed.strip(), re.IGNORECASE | re.DOTALL) is not None


def segments(given: Sequence[Say | str] | str) -> tuple[Say, ...]:
    """Return what is to be said, each segment in full form."""
    if isinstance(given, str):
        given = (given,)
    return tuple(Say(each) if isinstance(each, str) else each for each in given)


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: FaultKind


class Fault(_Kind, frozen=True, kw_only=True):
    """Something that goes wrong, once, at a chosen point; at the opening if no point is chosen.

    The kinds: "refuse" answers the opening with an HTTP error; "mute" never answers it. "exception" ends the
    stream with an exception, modelled or not, "error" with an error of the service's machinery. "reset" is
    RST_STREAM, "goaway" a GOAWAY that gives up this stream, "goaway_others" one that lets it live and takes
    no new ones; "cut" ends the TCP connection, "stall" leaves it open and dead, "end" ends the stream in
    order but without a goodbye. "garbled" is a frame with a wrong checksum, "truncated" half a frame and the
    end. "unknown" is a message that no client knows, and "malformed" a document that is none; both change
    nothing else.

    Attributes:
        kind: What goes wrong.
        after_audio: When so many `audioInput` messages have come.
        after_output: When so many messages have been sent.
        after_call: When the n-th tool call was sent, counted from 1: the tool runs.
        in_response: In the middle of the audio of the n-th response, counted from 1.
        in_speech: When the n-th stretch of the user's speech was reported to have begun, counted from 1.
        after_speech: When it was reported to have ended, with what was heard: the model thinks.
        at: So many seconds after the stream was accepted.
        delay: So many seconds after one of these points, `at` excepted.
        code: Of "refuse", "exception" and "error", the name; of "unknown", the name of the message.
        message: The text; None: the usual one.
        status: Of "refuse", the HTTP status; None: the one that goes with the code.
        stream: Only on the n-th stream, counted from 1, those included that were refused; None: on any.
        times: On so many streams, and then no more; None: on all.
    """

    after_audio: int | None = None
    after_output: int | None = None
    after_call: int | None = None
    in_response: int | None = None
    in_speech: int | None = None
    after_speech: int | None = None
    at: float | None = None
    delay: float = 0.0
    code: str | None = None
    message: str | None = None
    status: int | None = None
    stream: int | None = None
    times: int | None = 1

    def __post_init__(self) -> None:
        given = [point for point in get_args(FaultPoint) if getattr(self, point) is not None]
        if len(given) + (self.at is not None) > 1:
            raise ConfigurationError(
                "a fault happens at one point: give one of its seven, or none for the opening"
            )
        if any(getattr(self, point) < 1 for point in given):
            raise ConfigurationError("messages, calls, responses and stretches of speech are counted from 1")
        _not_negative("at", self.at)
        _not_negative("delay", self.delay)
        if self.delay and not given:
            raise ConfigurationError("a delay follows a point; a time after the opening is `at`")

    @property
    def at_opening(self) -> bool:
        """Whether it happens before the stream is accepted."""
        return self.at is None and all(getattr(self, point) is None for point in get_args(FaultPoint))


class Behaviour(_Data, frozen=True, kw_only=True):
    """How the service behaves in time and in form. All times are seconds of the service's own clock.

    The defaults are what recorded sessions of Nova 2 Sonic show, about the middle of what was seen.

    Attributes:
        accept: From the first two messages to the HTTP 200.
        speech_start: From the onset of speech to its report.
        speech_start_from_silence: The same, when it was quiet for three seconds.
        silence: The silence that ends an utterance. The service's own choice varies from 0 to 1.6 s.
        speech_end: From the audio that shows the silence to the report.
        user_text: Where the user's text stands.
        user_text_every: Of a long utterance, a piece of its text is reported each so many seconds.
        answer: From the end of the user's speech to the first text of the response.
        first_audio: From the first text to its audio.
        next_audio: The same for later segments.
        next_text: From the end of a segment's audio to the next text.
        delivery: How much faster than it plays audio is sent; None: all at once.
        bursts: Audio is sent in bursts, one each so many seconds; 0: each piece when it is ready.
        chunk_bytes: Sizes of `audioOutput`, used in turn; empty: 80 ms each, and a longer last one.
        final: From the moment when a segment has been heard to its FINAL text.
        marker: The form of the message that says "interrupted".
        system_tokens: What the system prompt counts as, at the end of the first utterance.
        echo_typed: Typed text comes back as the user's.
        input_gap: Without audio and typed text for so long, the service gives up; None: never.
        any_input_gap: Without any message.
        silence_only: Without speech and typed text, though audio comes.
        stream: A stream is closed after so long; None: never.
        message_bytes: The longest message that is taken.
        history_bytes: The longest history, all texts together; some accounts have 200,000.
        history_message_bytes: The longest message of a history; version 1 was seen to take 1,000.
        history_messages: The most messages of a history; None: any number. Version 1 took 40.
        history_alternates: Two messages of one role after each other are refused, as AWS documents it.
        answers_history: A history that ends with the user is answered as soon as audio comes, as some say.
            A typed turn that fits it answers, or the next turn, if this is what it has heard.
        text_bytes: The longest `textInput`; None: any. AWS documents 1 KB, and nobody saw it enforced.
        unknown_fields: Every message bears a field that no client knows.
        stage: The form of the field that says SPECULATIVE or FINAL: "text" as it is, or wrong.
        text_pieces: So many `textOutput` in each block.
        audio_interrupted: An audio block that is cut says so, which was never seen.
    """

    accept: float = 0.05
    speech_start: float = 0.1
    speech_start_from_silence: float = 0.4
    silence: float = 0.5
    speech_end: float = 0.2
    user_text: Place = "before"
    user_text_every: float = 4.0
    answer: float = 0.55
    first_audio: float = 0.127
    next_audio: float = 0.12
    next_text: float = 0.0002
    delivery: float | None = 5.0
    bursts: float = 0.0
    chunk_bytes: Sequence[int] = ()
    final: float = 0.15
    marker: Literal["spaced", "compact"] = "spaced"
    system_tokens: int = 288
    echo_typed: bool = False
    input_gap: float | None = _LIMITS.input_gap
    any_input_gap: float | None = 60.0
    silence_only: float | None = 175.0
    stream: float | None = _LIMITS.stream
    message_bytes: int = _LIMITS.message_bytes
    history_bytes: int = _LIMITS.history_bytes
    history_message_bytes: int = 50_000
    history_messages: int | None = None
    history_alternates: bool = True
    answers_history: bool = False
    text_bytes: int | None = None
    unknown_fields: bool = False
    stage: Literal["text", "missing", "object", "odd"] = "text"
    text_pieces: int = 1
    audio_interrupted: bool = False

    def __post_init__(self) -> None:
        if self.delivery is not None and self.delivery <= 0:
            raise ConfigurationError(
                "delivery is how much faster than it plays audio is sent, so it is above 0"
            )
        if any(size < 2 or size % 2 for size in self.chunk_bytes):  # noqa: PLR2004 - bytes of a sample
            raise ConfigurationError("chunk_bytes are whole samples, of 2 bytes each")
        if self.text_pieces < 1:
            raise ConfigurationError("text_pieces is at least 1")


class Scenario(_Data, frozen=True, kw_only=True):
    """What the service does.

    Attributes:
        turns: In the order in which they are used.
        faults: What goes wrong.
        behaviour: How the service behaves.
        shared: All streams go through the turns together, so that a conversation goes on over a second
            stream; otherwise each begins with the first. Streams may be open at once: the next turn goes to
            the one that hears the user out, and back to the others if that one ends before it has answered.
            A response stays with the stream that has begun it, and so do its calls.
        folder: Where `Say.sound` looks first; `load()` sets it to the folder of its file.
    """

    turns: Sequence[Turn] = ()
    faults: Sequence[Fault] = ()
    behaviour: Behaviour = Behaviour()
    shared: bool = False
    folder: str | None = None

    @property
    def sayings(self) -> Sequence[Say]:
        """Everything that may be said."""
        given = [part for turn in self.turns for part in (turn.says, turn.then)]
        given += [call.then for turn in self.turns for call in turn.calls]
        return [say for part in given for say in segments(part)]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a scenario from a `.json`, `.yaml` or `.yml` file.

        Raises:
            ConfigurationError: If it cannot be read or is no scenario; the message names the place.
            ImportError: If YAML is to be read and PyYAML is not installed.
        """
        path = Path(path)
        try:
            text = path.read_bytes()
        except OSError as exc:
            raise ConfigurationError(f"the scenario {path} cannot be read: {exc.strerror}") from exc
        try:
            found = _read_yaml(text) if path.suffix in {".yaml", ".yml"} else msgspec.json.decode(text)
            scenario = cls.parse(found)
        except (ConfigurationError, msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"{path} is no scenario: {exc}") from exc
        return scenario if scenario.folder else msgspec.structs.replace(scenario, folder=str(path.parent))

    @classmethod
    def parse(cls, data: object) -> Self:
        """Return the scenario that plain data describes.

        Raises:
            ConfigurationError: If it describes none; the message names the place.
        """
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as exc:
            raise ConfigurationError(str(exc)) from exc


def _read_yaml(text: bytes) -> object:
    try:
        import yaml  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415 - need not be installed
    except ImportError as exc:
        raise ImportError("a scenario in YAML needs PyYAML: pip install pyyaml; or write it in JSON") from exc
    try:
        return cast("object", yaml.safe_load(text))
    except yaml.YAMLError as exc:
        raise ConfigurationError(str(exc)) from exc


def _not_negative(name: str, value: float | None) -> None:
    if value is not None and value < 0:
        raise ConfigurationError(f"{name} is {value}, but times are not negative")
