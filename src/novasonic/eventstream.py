"""AWS event-stream frames and the chain of signatures over them: bytes in, bytes out, no I/O and no clock.

A stream of `InvokeModelWithBidirectionalStream` is a row of frames, each a few typed headers and a payload:

- A *chunk* carries one document, the JSON text of one Nova Sonic event, as base64 inside a JSON object.
- A *signed* frame, as the client sends it, carries a whole chunk frame as its payload; its signature covers
  the signature before it, so nothing can be left out, repeated or moved. An empty one says goodbye.
- A *failure* ends the service's side: an exception of its model, or an error of its machinery.

The client signs and the service does not, so `ChunkSigner` is what a client sends through and `ChunkVerifier`
what an emulated service reads through. Both directions share the frames.
"""

import hashlib
import hmac
import struct
import time
from binascii import crc32
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec

from novasonic.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "MAX_HEADERS",
    "MAX_PAYLOAD",
    "ChunkSigner",
    "ChunkVerifier",
    "Failure",
    "Frame",
    "FrameDecoder",
    "HeaderValue",
    "decode_chunk",
    "decode_failure",
    "encode_chunk",
    "encode_error",
    "encode_exception",
    "encode_frame",
]

# The format's own limits. They also keep a damaged length from buffering gigabytes that never come.
MAX_HEADERS: Final = 128 * 2**10
"""Bytes that the headers of one frame may take."""
MAX_PAYLOAD: Final = 16 * 2**20
"""Bytes that the payload of one frame may take."""

HeaderValue = bool | int | bytes | str | datetime | UUID
"""What a header may hold. Integers lose their width; a time is aware, and exact to the millisecond."""

_PRELUDE: Final = struct.Struct(">III")  # length of the frame, length of the headers, CRC of these two
_CRC: Final = struct.Struct(">I")
_OVERHEAD: Final = _PRELUDE.size + _CRC.size
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MAX_VALUE: Final = 2**15 - 1  # of a header, in bytes: the format writes a signed 16-bit length


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came: what it is, in the headers, and its payload."""

    headers: Mapping[str, HeaderValue]
    payload: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The service's reason for ending a stream."""

    code: str
    """`validationException` and the like, or whatever code an error of the machinery bears."""
    message: str
    modelled: bool
    """Whether it is an exception that the service declares; False for an error of its machinery."""


# --- Frames ------------------------------------------------------------------------------------------------


def encode_frame(headers: Mapping[str, HeaderValue], payload: bytes = b"") -> bytes:
    """Return one frame.

    Args:
        headers: Written in their order. An integer takes 4 bytes, or 8 where it does not fit.
        payload: Up to `MAX_PAYLOAD` bytes.

    Raises:
        LocalProtocolError: If a header or the payload is longer than the format allows.
    """
    return _frame(b"".join(_encode_header(name, value) for name, value in headers.items()), payload)


class FrameDecoder:
    """Cuts a stream of bytes, in pieces of any size, into frames.

    Frames come out one by one, so whatever precedes a broken frame is still read, and only what has been
    asked for has been decoded. After a broken frame nothing can be read any more: the error repeats.
    """

    __slots__ = ("_buffer", "_known", "_need")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = _PRELUDE.size  # bytes without which it makes no sense to look again
        # The chunks of a stream bear the same headers, frame after frame: parse them once.
        self._known: tuple[bytes, Mapping[str, HeaderValue]] = (b"", MappingProxyType({}))

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece of the stream."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None if it has not come in full yet.

        Raises:
            RemoteProtocolError: If what came is no frame: a wrong checksum, an impossible length, or headers
                that cannot be read.
        """
        buffer = self._buffer
        if len(buffer) < self._need:
            return None
        total, headers_length, prelude_crc = _PRELUDE.unpack_from(buffer)
        if self._need == _PRELUDE.size:
            _check_prelude(bytes(buffer[:8]), total, headers_length, prelude_crc)
            self._need = total
            if len(buffer) < total:
                return None
        raw = memoryview(bytes(buffer[:total]))
        if crc32(raw[:-4]) != _CRC.unpack_from(raw, total - 4)[0]:
            raise RemoteProtocolError(f"a frame of {total} bytes is damaged: its checksum is wrong")
        payload_at = _PRELUDE.size + headers_length
        frame = Frame(self._headers(bytes(raw[_PRELUDE.size : payload_at])), bytes(raw[payload_at:-4]))
        del buffer[:total]
        self._need = _PRELUDE.size
        return frame

    def end(self) -> None:
        """Check that the stream did not end inside a frame.

        Raises:
            RemoteProtocolError: If it did.
        """
        if self._buffer:
            raise RemoteProtocolError(f"the stream ended inside a frame, {len(self._buffer)} bytes into it")

    def _headers(self, raw: bytes) -> Mapping[str, HeaderValue]:
        if raw != self._known[0]:
            self._known = (raw, MappingProxyType(_decode_headers(raw)))
        return self._known[1]


def _frame(headers: bytes, payload: bytes) -> bytes:
    if len(headers) > MAX_HEADERS or len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(
            f"{len(headers)} bytes of headers and {len(payload)} of payload do not fit into one frame, "
            f"which takes {MAX_HEADERS} and {MAX_PAYLOAD}"
        )
    lengths = struct.pack(">II", _OVERHEAD + len(headers) + len(payload), len(headers))
    start = b"".join((lengths, _CRC.pack(crc32(lengths)), headers))
    return b"".join((start, payload, _CRC.pack(crc32(payload, crc32(start)))))


def _check_prelude(lengths: bytes, total: int, headers_length: int, crc: int) -> None:
    # The checksum first: damaged lengths would make up a reason that misleads.
    if crc32(lengths) != crc:
        raise RemoteProtocolError("a frame's lengths are damaged: their checksum is wrong")
    payload_length = total - _OVERHEAD - headers_length
    if not (0 <= payload_length <= MAX_PAYLOAD and headers_length <= MAX_HEADERS):
        raise RemoteProtocolError(
            f"a frame claims {total} bytes with {headers_length} of headers, which no frame can have"
        )


# --- Headers -----------------------------------------------------------------------------------------------

# A header is a length and a name, a byte for the type, and the value. The types, by number:
_TRUE, _FALSE, _BYTE, _SHORT, _INTEGER, _LONG, _BYTES, _STRING, _TIMESTAMP, _UUID = range(10)
_INTEGERS: Final = {
    _BYTE: struct.Struct(">b"),
    _SHORT: struct.Struct(">h"),
    _INTEGER: struct.Struct(">i"),
    _LONG: struct.Struct(">q"),
    _TIMESTAMP: struct.Struct(">q"),  # milliseconds since 1970
}
_SHORT_LENGTH: Final = struct.Struct(">H")


def _encode_header(name: str, value: HeaderValue) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= 255:  # noqa: PLR2004 - its length is written in one byte
        raise LocalProtocolError(f"a header's name takes 1 to 255 bytes, not {len(encoded)}")
    try:
        return bytes((len(encoded),)) + encoded + _encode_value(value)
    except struct.error as exc:
        raise LocalProtocolError(f"{value!r} is too large for header {name!r}") from exc


def _encode_value(value: HeaderValue) -> bytes:
    match value:
        case bool():
            return bytes((_TRUE if value else _FALSE,))
        case int():
            kind = _INTEGER if -(2**31) <= value < 2**31 else _LONG
            return bytes((kind,)) + _INTEGERS[kind].pack(value)
        case bytes():
            return bytes((_BYTES,)) + _with_length(value)
        case str():
            return bytes((_STRING,)) + _with_length(value.encode())
        case datetime():
            return bytes((_TIMESTAMP,)) + _INTEGERS[_TIMESTAMP].pack(_milliseconds(value))
        case UUID():
            return bytes((_UUID,)) + value.bytes


def _with_length(value: bytes) -> bytes:
    if len(value) > _MAX_VALUE:
        raise LocalProtocolError(f"a header's value takes up to {_MAX_VALUE} bytes, not {len(value)}")
    return _SHORT_LENGTH.pack(len(value)) + value


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND  # whole numbers: a float loses one now and then


def _decode_headers(raw: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(raw):
            name_ends = at + 1 + raw[at]
            name, kind = raw[at + 1 : name_ends].decode(), raw[name_ends]
            value, at = _decode_value(kind, raw, name_ends + 1)
            if name in headers:
                raise RemoteProtocolError(f"a frame has two headers {name!r}")
            headers[name] = value
    # Too short for a length or a number, no UTF-8, a date beyond the year 9999.
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError) as exc:
        raise RemoteProtocolError(f"a frame's headers cannot be read: {exc}") from exc
    return headers


def _decode_value(kind: int, raw: bytes, at: int) -> tuple[HeaderValue, int]:
    """Return the value that starts at `at`, and where it ends."""
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if number := _INTEGERS.get(kind):
        value: int = number.unpack_from(raw, at)[0]
        return (_EPOCH + value * _MILLISECOND if kind == _TIMESTAMP else value), at + number.size
    if kind in (_BYTES, _STRING):
        length: int = _SHORT_LENGTH.unpack_from(raw, at)[0]
        at += _SHORT_LENGTH.size
    elif kind == _UUID:
        length = 16
    else:
        raise RemoteProtocolError(f"a frame has a header of type {kind}, which the format does not know")
    content = raw[at : at + length]
    if len(content) < length:
        raise RemoteProtocolError("a frame's headers cannot be read: the last value is cut short")
    at += length
    if kind == _STRING:
        return content.decode(), at
    return (UUID(bytes=content) if kind == _UUID else content), at


# --- Chunks and failures -----------------------------------------------------------------------------------


class _Envelope(msgspec.Struct):
    """The JSON object of a chunk. AWS pads some streams with further members: they are ignored."""

    document: bytes | None = msgspec.field(name="bytes", default=None)


_encode_json: Final = msgspec.json.Encoder().encode
_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode


def _typed(kind: str, **headers: str) -> dict[str, HeaderValue]:
    named = {f":{name.replace('_', '-')}": value for name, value in headers.items()}
    return {":message-type": kind, **named, ":content-type": "application/json"}


_CHUNK_HEADERS: Final = b"".join(
    _encode_header(name, value) for name, value in _typed("event", event_type="chunk").items()
)


def encode_chunk(document: bytes) -> bytes:
    """Return the frame that carries one document: as the service sends it, and as a client signs it.

    Raises:
        LocalProtocolError: If the document does not fit into a frame. The service's own limit of 1,000,000
            bytes comes first.
    """
    return _frame(_CHUNK_HEADERS, _encode_json(_Envelope(document)))


def decode_chunk(frame: Frame) -> bytes | None:
    """Return the document that a frame carries, or None if the frame is no chunk.

    A chunk without a document gives `b""`.

    Raises:
        RemoteProtocolError: If the frame is a chunk and its payload cannot be read.
    """
    if frame.headers.get(":event-type") != "chunk":
        return None
    try:
        return _decode_envelope(frame.payload).document or b""
    except msgspec.DecodeError as exc:
        raise RemoteProtocolError(f"a chunk of {len(frame.payload)} bytes cannot be read: {exc}") from exc


def encode_exception(code: str, message: str, **members: object) -> bytes:
    """Return the frame with which the service ends a stream for a reason of its model.

    Args:
        code: The name of the member in the model, `validationException`.
        message: The text.
        members: Further members, such as `originalStatusCode=500`.
    """
    body = _encode_json({"message": message, **members})
    return encode_frame(_typed("exception", exception_type=code), body)


def encode_error(code: str, message: str) -> bytes:
    """Return the frame with which the service's machinery ends a stream."""
    return encode_frame({":message-type": "error", ":error-code": code, ":error-message": message})


def decode_failure(frame: Frame) -> Failure | None:
    """Return why the service ends the stream with this frame, or None if it does not. Never raises.

    A text that is not where it should be is looked for in the payload, whatever that looks like.
    """
    headers = frame.headers
    match headers.get(":message-type"):
        case "exception":
            code = str(headers.get(":exception-type", "unknown"))
            return Failure(code=code, message=_message(frame.payload), modelled=True)
        case "error":
            code = str(headers.get(":error-code", "unknown"))
            message = str(headers.get(":error-message") or _message(frame.payload))
            return Failure(code=code, message=message, modelled=False)
        case _:
            return None


def _message(payload: bytes) -> str:
    """Return the text of a failure: the member `message`, else what there is."""
    try:
        body = msgspec.json.decode(payload, type=dict[str, object])
    except msgspec.DecodeError:
        return payload[:300].decode(errors="replace")
    folded = {name.lower(): value for name, value in body.items()}
    message, original = str(folded.get("message") or ""), str(folded.get("originalmessage") or "")
    return f"{message} ({original})" if message and original not in message else message or original


# --- Signatures --------------------------------------------------------------------------------------------


class _Chain:
    """The signatures of one stream, each over the one before (SigV4, "AWS4-HMAC-SHA256-PAYLOAD")."""

    __slots__ = ("_day", "_derive", "_mac", "_place", "_prior", "_second", "_stamp")

    def __init__(self, *, secret_key: str, region: str, signature: str, service: str = "bedrock") -> None:
        # A closure, so that no attribute holds the secret for somebody to print.
        self._derive: Callable[[str], bytes] = lambda day: _signing_key(secret_key, day, region, service)
        self._place = f"{region}/{service}/aws4_request"
        self._prior = signature
        self._second = -1
        self._day = self._stamp = ""
        self._mac = hmac.new(b"", digestmod="sha256")

    def _sign(self, date: bytes, at: int, payload: bytes) -> bytes:
        if at // 1000 != self._second:
            self._second = at // 1000
            self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._second))
            if (
                self._stamp[:8] != self._day
            ):  # a signing key lives for one day, and a stream may cross midnight
                self._day = self._stamp[:8]
                self._mac = hmac.new(self._derive(self._day), digestmod="sha256")
        covered = "\n".join(
            (
                "AWS4-HMAC-SHA256-PAYLOAD",
                self._stamp,
                f"{self._day}/{self._place}",
                self._prior,
                hashlib.sha256(date).hexdigest(),
                _sha256(payload),
            )
        )
        mac = self._mac.copy()  # hmac.digest() lets go of the GIL, see `_sha256`
        mac.update(covered.encode())
        return mac.digest()


class ChunkSigner(_Chain):
    """Signs what a client sends, frame by frame. What is signed must be sent, in this order and only once.

    Args:
        secret_key: The secret half of the credentials that signed the request.
        region: Where the service is.
        signature: The request's own signature, in hex: the first link of the chain.
        service: The service's name for signing.
    """

    __slots__ = ("ended",)

    def __init__(self, *, secret_key: str, region: str, signature: str, service: str = "bedrock") -> None:
        super().__init__(secret_key=secret_key, region=region, signature=signature, service=service)
        self.ended = False

    def sign(self, document: bytes, *, at: int) -> bytes:
        """Return the signed frame that carries `document`.

        Args:
            document: The JSON text of one event.
            at: Now, in whole milliseconds since 1970.

        Raises:
            LocalProtocolError: After `end()`, or if the document does not fit into a frame.
        """
        return self._seal(encode_chunk(document), at)

    def end(self, *, at: int) -> bytes:
        """Return the frame that says goodbye; nothing can be signed after it.

        Raises:
            LocalProtocolError: If goodbye has been said.
        """
        sealed = self._seal(b"", at)
        self.ended = True
        return sealed

    def _seal(self, payload: bytes, at: int) -> bytes:
        if self.ended:
            raise LocalProtocolError("nothing can be sent after the end of the input")
        date = _DATE_HEADER + _INTEGERS[_TIMESTAMP].pack(at)
        signature = self._sign(date, at, payload)
        sealed = _frame(date + _SIGNATURE_HEADER + signature, payload)
        self._prior = signature.hex()  # last: a frame that could not be built leaves the chain as it was
        return sealed


class ChunkVerifier(_Chain):
    """Opens what a client has signed, and refuses what does not follow from the frame before.

    Takes what `ChunkSigner` takes. The attributes say what was opened.

    Attributes:
        frames: How many frames were opened, the goodbye included.
        ended: Whether the client said goodbye.
    """

    __slots__ = ("_decoder", "ended", "frames")

    def __init__(self, *, secret_key: str, region: str, signature: str, service: str = "bedrock") -> None:
        super().__init__(secret_key=secret_key, region=region, signature=signature, service=service)
        self._decoder = FrameDecoder()  # kept, because it knows the headers of the chunks already
        self.frames = 0
        self.ended = False

    def open(self, frame: Frame) -> Frame | None:
        """Return the frame that a signed frame carries, or None for the goodbye.

        Raises:
            RemoteProtocolError: If the frame is not signed, its signature does not follow from the one
                before, it carries anything but one frame, or it comes after the goodbye.
        """
        date, signature = frame.headers.get(":date"), frame.headers.get(":chunk-signature")
        if self.ended:
            raise RemoteProtocolError("a frame came after the empty frame that ends the input")
        if not isinstance(date, datetime) or not isinstance(signature, bytes):
            raise RemoteProtocolError("a frame is not signed: it lacks :date or :chunk-signature")
        at = _milliseconds(date)
        expected = self._sign(_DATE_HEADER + _INTEGERS[_TIMESTAMP].pack(at), at, frame.payload)
        if not hmac.compare_digest(expected, signature):
            raise RemoteProtocolError(
                f"the signature of frame {self.frames + 1} does not follow from the one before it: "
                "the keys differ, or a frame was lost, changed, repeated or moved"
            )
        inner = self._unwrap(frame.payload) if frame.payload else None
        self._prior = signature.hex()
        self.frames += 1
        self.ended = inner is None
        return inner

    def _unwrap(self, payload: bytes) -> Frame:
        self._decoder.feed(payload)
        inner = self._decoder.next_frame()
        self._decoder.end()
        if inner is None:  # `end()` has spoken already unless the payload was empty
            raise RemoteProtocolError("a signed frame carries nothing")
        return inner


_DATE_HEADER: Final = b"\x05:date" + bytes((_TIMESTAMP,))
_SIGNATURE_HEADER: Final = b"\x10:chunk-signature" + bytes((_BYTES,)) + _SHORT_LENGTH.pack(32)


def _signing_key(secret_key: str, *scope: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


# hashlib lets go of the GIL for inputs of 2 KiB and more. The network thread waits for just that, and to get
# it back takes many times as long as the hash.
_HASHED_AT_ONCE: Final = 2**11 - 1


def _sha256(data: bytes) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(data), _HASHED_AT_ONCE):
        digest.update(data[at : at + _HASHED_AT_ONCE])
    return digest.hexdigest()
