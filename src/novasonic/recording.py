"""Recordings: what went over the streams of a conversation, as JSON lines. The file; no session, no asyncio.

The first line says what it is, the others who said what, and when:

    {"novasonic":1,"provenance":"recorded","library":"0.1.0","model":"amazon.nova-2-sonic-v1:0"}
    {"at":0.0,"from":"client","event":{"sessionStart":{...}}}
    {"at":0.21,"from":"service","accepted":{"request_id":"..."}}
    {"at":4.52,"from":"service","event":{"textOutput":{"role":"USER","content":"hello",...}}}

- `at` is in seconds from the beginning. Without it, a line belongs to the moment of the one before.
- `stream` is which stream of the conversation, if not the first. A renewed conversation goes over several.
- `event` is the message, as the service's protocol has it. `raw` is text that was none.
- `accepted`, `failed` and `ended` tell of a stream what no message does. They may be missing.
- `missing` counts messages that are not there, as the disk was too slow for them.

The `content` of an audio message is one of three:

- base64, as it was sent;
- `{"sample": 48000, "bytes": 3840}`: so much, from there on, of the WAV file beside the recording that holds
  what this side said: `call.client.wav` and `call.service.wav` beside `call.jsonl`;
- `{"bytes": 3840}`: it was not kept. It is replayed as silence.

A file that breaks off, as its program was killed, is read up to there.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, cast, get_args

import msgspec

from novasonic import errors
from novasonic.errors import ConfigurationError, SonicError, TransportError
from novasonic.redaction import Redactor
from novasonic.wav import WavWriter, read_wav

VERSION: Final = 1
"""Of the format."""

Sender = Literal["client", "service"]
"""Who said something: a program, or the service."""

type Body = Any
"""What stands under the name of a message: an object, if it is as the protocol has it."""

AudioKept = Literal["inline", "beside", "counts"]
"""Where the audio of a recording is: in its lines, in WAV files beside it, or nowhere."""

AUDIO: Final = {"audioInput", "audioOutput"}
"""The messages that carry audio."""

_AUDIO_KEPT: Final[tuple[AudioKept, ...]] = get_args(AudioKept)
_RATE_UNLESS_TOLD: Final[Mapping[Sender, int]] = {"client": 16_000, "service": 24_000}
_BLANK: Final = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Recording:
    """Where and how a session is recorded: `SonicSession(record=Recording("call.jsonl", redact=True))`.

    A recording never holds credentials. It holds what was said, unless that is redacted.

    Attributes:
        path: The file; one that is there is overwritten.
        audio: "inline" puts the audio into the lines, "beside" into two WAV files beside the recording, and
            "counts" keeps only how much there was. By default it is "inline"; "counts" if texts are redacted,
            as whoever hears a voice needs no text.
        redact: True puts placeholders in place of all texts and of the arguments and results of tools. Equal
            ones become equal placeholders. A function is called with each text, in a thread, and returns
            what to write.

    Raises:
        ConfigurationError: If one of them is wrong.
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    audio: AudioKept | None = None
    redact: bool | Callable[[str], str] = False

    def __post_init__(self) -> None:
        check_path("record", self.path, "a path or a Recording, or None")
        if self.audio is not None and self.audio not in _AUDIO_KEPT:
            raise ConfigurationError(
                f"audio is {self.audio!r}, but must be one of {', '.join(_AUDIO_KEPT)}, or None"
            )
        if not (isinstance(self.redact, bool) or callable(self.redact)):
            raise ConfigurationError(f"redact is {self.redact!r}, but must be True, False or a function")

    @property
    def audio_kept(self) -> AudioKept:
        """Where the audio goes."""
        return self.audio or ("counts" if self.redact else "inline")


def check_path(name: str, value: object, allowed: str) -> None:
    """See to it that `value` is a path.

    Raises:
        ConfigurationError: If it is not; it calls it `name`, and says what is allowed.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigurationError(f"{name} is of type {type(value).__name__}, but must be {allowed}")


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line of a recording.

    Attributes:
        novasonic: Version of the format.
        provenance: Where it comes from: "recorded", "imported from ...", "written by hand". What was made up
            must say so.
        library: Version of novasonic that has written it.
        model: The model's id; empty if nobody knows.
        audio: Where the audio is.
        redacted: Whether texts were replaced.
    """

    novasonic: int
    provenance: str
    library: str = ""
    model: str = ""
    audio: AudioKept = "inline"
    redacted: bool = False


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The service accepted a stream; see `novasonic.transport.Transport`."""

    request_id: str | None = None
    expires_in: float | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stream failed, or could not be opened.

    Attributes:
        error: The name of a class of `novasonic.errors`.
        message: What it said.
    """

    error: str
    message: str = ""
    code: str | None = None
    request_id: str | None = None
    retryable: bool | None = None

    @classmethod
    def of(cls, exc: BaseException) -> Self:
        """Describe an exception. What other libraries say may hold anything, and is left out."""
        if isinstance(exc, TransportError):
            return cls(
                error=type(exc).__name__,
                message=str(exc),
                code=exc.code,
                request_id=exc.request_id,
                retryable=exc.retryable,
            )
        return cls(error=type(exc).__name__, message=str(exc) if isinstance(exc, SonicError) else "")

    def exception(self) -> SonicError:
        """Return the exception again. One of another library's comes back as a `ServiceError`."""
        kind: object = getattr(errors, self.error, None)
        if not (isinstance(kind, type) and issubclass(kind, SonicError)):
            return errors.ServiceError(f"{self.error}: {self.message}".rstrip(": "), retryable=False)
        if not issubclass(kind, TransportError):
            return kind(self.message)
        return kind(self.message, code=self.code, request_id=self.request_id, retryable=self.retryable)


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one line tells; exactly one of its last six members is there.

    Attributes:
        at: When, in seconds.
        sender: Who says it; `from` in the file.
        stream: The number of the stream, from 1.
        event: A message: its name, and its body.
        raw: What was no message.
        accepted: The service has accepted the stream.
        failed: The stream failed, or was refused.
        ended: The service has ended the stream in good order.
        missing: So many messages were left out here.
    """

    at: float | None = None
    sender: Sender = msgspec.field(name="from")
    stream: int = 1
    event: dict[str, msgspec.Raw] | None = None
    raw: str | None = None
    accepted: Acceptance | None = None
    failed: Failure | None = None
    ended: bool = False
    missing: int = 0

    @property
    def time(self) -> float:
        """When, in seconds."""
        return self.at or 0.0

    @property
    def name(self) -> str:
        """The name of the message; empty if it is none."""
        return next(iter(self.event), "") if self.event else ""

    def body(self) -> Body:
        """Return what stands under the name."""
        return msgspec.json.decode(self.event[self.name]) if self.event else None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """What goes over a stream: an object with nothing but an event."""

    event: dict[str, msgspec.Raw]


_decode_document: Final = msgspec.json.Decoder(_Document).decode
_decode_line: Final = msgspec.json.Decoder(Line).decode
_decode_header: Final = msgspec.json.Decoder(Header).decode
_encode: Final = msgspec.json.Encoder().encode


def event_of(data: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the one event of a document, by its name; None if there is no such thing."""
    try:
        event = _decode_document(data).event
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return event if len(event) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """A recording that was read.

    Attributes:
        header: What it is.
        lines: What was said, in order; each has its time.
        audio: The samples of either side that stood beside it.
        name: What to call it in messages.
    """

    header: Header
    lines: Sequence[Line]
    audio: Mapping[Sender, bytes] = field(default_factory=dict[Sender, bytes], repr=False)
    name: str = "the recording"

    @property
    def streams(self) -> int:
        """How many streams it goes over."""
        return max((line.stream for line in self.lines), default=0)

    @property
    def duration(self) -> float:
        """When the last thing happened, in seconds."""
        return max((line.time for line in self.lines), default=0.0)

    def with_model(self, model: str) -> Self:
        """Return the same recording as that of a model of this id."""
        return replace(self, header=msgspec.structs.replace(self.header, model=model))

    def document(self, line: Line) -> bytes:
        """Return a message as it went over its stream. Audio that was not kept is silence."""
        if line.event is None:
            return (line.raw or "").encode()
        if line.name in AUDIO and isinstance(body := line.body(), dict):
            audible = self.with_audio(line.sender, cast("dict[str, Any]", body))
            if audible is not body:
                return _encode({"event": {line.name: audible}})
        return b'{"event":' + _encode(line.event) + b"}"

    def with_audio(self, sender: Sender, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body of an audio message with its audio in it."""
        match body.get("content"):
            case {"sample": int(sample), "bytes": int(size)}:
                pcm = self.audio.get(sender, b"")[2 * sample : 2 * sample + size]
                return {**body, "content": pcm.ljust(size, b"\0")}
            case {"bytes": int(size)}:
                return {**body, "content": bytes(size)}
            case _:
                return body

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file; one that is there is overwritten. Audio that stood beside it goes inline.

        Raises:
            ConfigurationError: If the file cannot be written.
        """
        header = msgspec.structs.replace(self.header, audio="inline") if self.audio else self.header
        with _Text(path) as text:
            text.write([header, *(self._inline(line) for line in self.lines)])

    def _inline(self, line: Line) -> Line:
        if not self.audio or line.name not in AUDIO:
            return line
        return msgspec.structs.replace(line, event=event_of(self.document(line)))


def wav_beside(path: str | os.PathLike[str], sender: Sender) -> Path:
    """Return where the audio of one side is, if it is beside a recording."""
    return Path(path).with_suffix(f".{sender}.wav")


# --- reading ----------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Tape:
    """Read a recording. What breaks off in its last line is read up to there, with a warning.

    Raises:
        ConfigurationError: If there is no such file, or it is no recording; it names the line.
    """
    path = Path(path)
    header, *rest = numbered_lines(path) or [(1, b"")]
    try:
        head = _decode_header(header[1])
    except (msgspec.DecodeError, ValueError) as exc:
        raise ConfigurationError(
            f"{path} is no recording: its first line is no header ({exc}); if it is a capture of another "
            "shape, import it with `novasonic replay --import`"
        ) from exc
    if head.novasonic > VERSION:
        raise ConfigurationError(
            f"{path} is of version {head.novasonic} of the format, and {VERSION} is the newest that is known "
            "here; update novasonic"
        )
    lines, now = list[Line](), 0.0
    for line in decoded(path, rest, _read_line):
        now = now if line.at is None else line.at
        lines.append(msgspec.structs.replace(line, at=now))
    missing = sum(line.missing for line in lines)
    if missing:
        warnings.warn(f"{path} lacks {missing} messages: the disk was too slow for them", stacklevel=2)
    return Tape(header=head, lines=lines, audio=_read_audio(path, lines), name=str(path))


def numbered_lines(path: Path) -> list[tuple[int, bytes]]:
    """Return the lines of a file that hold something, and their numbers.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc
    return [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip(_BLANK)]


def decoded[T](path: Path, lines: Sequence[tuple[int, bytes]], decode: Callable[[bytes], T]) -> list[T]:
    """Return what stands in the lines of a file. A last one that breaks off is left out, with a warning.

    Raises:
        ConfigurationError: If another cannot be decoded; it names the line.
    """
    found = list[T]()
    for number, text in lines:
        try:
            found.append(decode(text))
        except (msgspec.DecodeError, ValueError) as exc:
            if number < lines[-1][0]:
                raise ConfigurationError(f"{path}, line {number}: {exc}") from exc
            warnings.warn(f"{path} breaks off in line {number}, and is read up to there", stacklevel=2)
    return found


def _read_line(text: bytes) -> Line:
    line = _decode_line(text)
    there = sum(
        (
            bool(line.event),
            line.raw is not None,
            *map(bool, (line.accepted, line.failed, line.ended, line.missing)),
        )
    )
    if there != 1 or (line.event and len(line.event) != 1):
        raise ValueError("a line holds one event, or one of raw, accepted, failed, ended and missing")
    if line.stream < 1:
        raise ValueError(f"stream is {line.stream}, but streams are counted from 1")
    if line.time < 0:
        raise ValueError(f"at is {line.at:g}, but times are counted from 0")
    return line


def _read_audio(path: Path, lines: Sequence[Line]) -> dict[Sender, bytes]:
    """Read the WAV files beside a recording, if it needs them."""
    found = dict[Sender, bytes]()
    for line in lines:
        match line.body() if line.name in AUDIO and line.sender not in found else None:
            case {"content": {"sample": _}}:
                found[line.sender], _ = read_wav(wav_beside(path, line.sender))
            case _:
                pass
    return found


# --- writing ----------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """What happened on a stream, to be written down.

    Attributes:
        at: When, in seconds.
        sender: Who did it.
        stream: Where.
        what: A document; or what became of the stream, None for its end in good order; or how many notes are
            missing.
    """

    at: float
    sender: Sender
    stream: int
    what: bytes | Acceptance | Failure | int | None


class Writer:
    """Writes a recording piece by piece; what was written is there whatever becomes of the program.

    Args:
        recording: Where, and how.
        model: The model's id.

    Raises:
        ConfigurationError: If a file cannot be created.
    """

    def __init__(self, recording: Recording, *, model: str) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - slow, and only for this

        self._path, self._kept = Path(recording.path), recording.audio_kept
        self._redactor: Redactor | None = None
        if recording.redact:
            self._redactor = Redactor(None if recording.redact is True else recording.redact)
        self._rates = dict(_RATE_UNLESS_TOLD)
        self._beside = dict[Sender, _Beside]()
        self._text = _Text(self._path)
        header = Header(
            novasonic=VERSION,
            provenance="recorded",
            library=version("novasonic"),
            model=model,
            audio=self._kept,
            redacted=self._redactor is not None,
        )
        self._text.write([header])

    def write(self, notes: Sequence[Note]) -> None:
        """Append what happened.

        Raises:
            OSError: If it cannot be written, such as to a full disk.
        """
        self._text.write([self._line(note) for note in notes])

    def close(self) -> None:
        """Close the files. Twice is fine."""
        self._text.close()
        for beside in self._beside.values():
            beside.wav.close()

    def _line(self, note: Note) -> Line:
        at, sender, stream, what = round(note.at, 6), note.sender, note.stream, note.what
        match what:
            case bytes():
                event = event_of(what)
                if event is None:
                    raw = what.decode(errors="replace")
                    raw = self._redactor.text(raw) if self._redactor is not None else raw
                    return Line(at=at, sender=sender, stream=stream, raw=raw)
                return Line(at=at, sender=sender, stream=stream, event=self._kept_of(sender, event))
            case Acceptance():
                return Line(at=at, sender=sender, stream=stream, accepted=what)
            case Failure():
                return Line(at=at, sender=sender, stream=stream, failed=what)
            case int():
                return Line(at=at, sender=sender, stream=stream, missing=what)
            case _:
                return Line(at=at, sender=sender, stream=stream, ended=True)

    def _kept_of(self, sender: Sender, event: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        """Return what is kept of a message."""
        ((name, raw),) = event.items()
        if self._redactor is None and (self._kept == "inline" or name not in {*AUDIO, "contentStart"}):
            # A line must not be broken; JSON breaks only between its tokens.
            return {name: msgspec.Raw(msgspec.json.format(raw, indent=-1))} if b"\n" in bytes(raw) else event
        body: Body = msgspec.json.decode(raw)
        if name == "contentStart":
            self._look_at_rate(sender, body)
        audio = dict[str, object]()
        if name in AUDIO and isinstance(body, dict):
            audio["content"] = self._audio(sender, cast("dict[str, Any]", body).pop("content", ""))
        if self._redactor is not None:
            body = self._redactor.body(name, cast("object", body))
        return {name: msgspec.Raw(_encode({**body, **audio} if audio else body))}

    def _look_at_rate(self, sender: Sender, body: object) -> None:
        match body:
            case {"audioInputConfiguration": {"sampleRateHertz": int(rate)}} | {
                "audioOutputConfiguration": {"sampleRateHertz": int(rate)}
            }:
                self._rates[sender] = rate
            case _:
                pass

    def _audio(self, sender: Sender, content: object) -> object:
        """Return what is kept of audio, having put it where it is to be."""
        if self._kept == "inline":
            return content
        try:
            pcm = msgspec.convert(content, bytes)  # from base64
        except msgspec.ValidationError:
            return {"bytes": 0}  # it was no audio
        if self._kept == "counts":
            return {"bytes": len(pcm)}
        if sender not in self._beside:
            self._beside[sender] = _Beside(WavWriter(wav_beside(self._path, sender), self._rates[sender]))
        return {"sample": self._beside[sender].add(pcm), "bytes": len(pcm)}


class _Beside:
    """A WAV file beside a recording."""

    def __init__(self, wav: WavWriter) -> None:
        self.wav = wav
        self._samples = 0

    def add(self, pcm: bytes) -> int:
        """Append a piece, and return the number of its first sample."""
        start = self._samples
        self.wav.write(pcm + b"\0" * (len(pcm) % 2))  # a file holds no half samples
        self._samples += (len(pcm) + 1) // 2
        return start


class _Text:
    """A file of lines, each of them whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = Path(path).open("wb")  # noqa: SIM115 - `close` does
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc

    def write(self, lines: Sequence[Header | Line]) -> None:
        self._file.write(b"".join(_encode(line) + b"\n" for line in lines))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
