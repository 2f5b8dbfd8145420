"""Frames and signatures: byte for byte what the AWS SDK writes, whatever the pieces they come in."""

import contextlib
import io
import struct
from binascii import crc32
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aws_sdk_bedrock_runtime.models import (
    BidirectionalInputPayloadPart,
    InvokeModelWithBidirectionalStreamInputChunk,
)
from aws_sdk_signers import AsyncEventSigner
from hypothesis import given
from hypothesis import strategies as st
from smithy_aws_core.aio.protocols import RestJsonClientProtocol
from smithy_aws_core.identity import StaticCredentialsResolver
from smithy_aws_event_stream.aio import AWSEventPublisher, SigningConfig
from smithy_aws_event_stream.events import Byte, Event, EventHeaderEncoder, EventMessage, Long, Short
from smithy_core.aio.interfaces import ProtocolSettings

from novasonic.errors import LocalProtocolError, RemoteProtocolError
from novasonic.eventstream import (
    MAX_HEADERS,
    MAX_PAYLOAD,
    ChunkSigner,
    ChunkVerifier,
    Failure,
    Frame,
    FrameDecoder,
    HeaderValue,
    decode_chunk,
    decode_failure,
    encode_chunk,
    encode_error,
    encode_exception,
    encode_frame,
)

KEYS = {"secret_key": "wJalrXUtnFEMI", "region": "us-east-1", "signature": "ab" * 32}
NOON = 1_780_000_000_000  # milliseconds since 1970

HEADER_VALUES: st.SearchStrategy[HeaderValue] = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=64),
    st.text(max_size=32),
    st.integers(-(10**12), 10**13).map(
        lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    ),
    st.uuids(),
)
HEADERS = st.dictionaries(st.text(min_size=1, max_size=40), HEADER_VALUES, max_size=6)


def decode(data: bytes) -> list[Frame]:
    """Return the frames of a whole stream."""
    decoder = FrameDecoder()
    decoder.feed(data)
    frames = list(iter(decoder.next_frame, None))
    decoder.end()
    return frames


def reframe(headers: bytes, payload: bytes = b"") -> bytes:
    """Return a frame whose checksums are right, whatever its headers are."""
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    start = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return start + struct.pack(">I", crc32(start))


class TestFrames:
    @given(HEADERS, st.binary(max_size=300))
    def test_what_is_encoded_decodes_to_itself(self, headers: dict[str, HeaderValue], payload: bytes) -> None:
        assert decode(encode_frame(headers, payload)) == [Frame(headers, payload)]

    @given(st.data())
    def test_any_pieces_of_a_stream_give_the_same_frames(self, data: st.DataObject) -> None:
        """HTTP/2 cuts where it likes: inside a length, a header, a checksum."""
        whole = b"".join(
            (encode_chunk(b"{}"), encode_frame({}), encode_exception("x", "y"), encode_chunk(b"1" * 99))
        )
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
        decoder = FrameDecoder()
        frames: list[Frame] = []
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            decoder.feed(whole[start:end])
            frames += iter(decoder.next_frame, None)
        decoder.end()
        assert frames == decode(whole)

    def test_a_stream_that_comes_byte_by_byte_gives_the_same_frames(self) -> None:
        whole = encode_chunk(b'{"event": {}}') * 3
        decoder = FrameDecoder()
        frames: list[Frame] = []
        for byte in whole:
            decoder.feed(bytes((byte,)))
            frames += iter(decoder.next_frame, None)
        assert frames == decode(whole)

    def test_no_flipped_byte_goes_unnoticed(self) -> None:
        """Damaged audio would be a click at best; a damaged length would cost the stream."""
        whole = encode_chunk(b'{"event": {"audioOutput": {}}}')
        for at in range(len(whole)):
            decoder = FrameDecoder()
            decoder.feed(whole[:at] + bytes((whole[at] ^ 0x5A,)) + whole[at + 1 :])
            with pytest.raises(RemoteProtocolError, match="checksum"):
                decoder.next_frame()

    def test_a_stream_may_end_between_frames_and_nowhere_else(self) -> None:
        whole = encode_chunk(b"{}")
        for length in range(1, len(whole)):
            decoder = FrameDecoder()
            decoder.feed(whole + whole[:length])
            assert decoder.next_frame() is not None
            assert decoder.next_frame() is None
            with pytest.raises(RemoteProtocolError, match="ended inside a frame"):
                decoder.end()

    def test_what_precedes_a_broken_frame_is_read_first(self) -> None:
        """The last words of a service must not be lost with the garbage after them."""
        decoder = FrameDecoder()
        decoder.feed(encode_chunk(b"first") + encode_chunk(b"second") + b"\0" * 16)
        assert [decode_chunk(frame) for frame in (decoder.next_frame(), decoder.next_frame()) if frame] == [
            b"first",
            b"second",
        ]
        for _ in range(2):  # and it stays broken
            with pytest.raises(RemoteProtocolError):
                decoder.next_frame()

    @pytest.mark.parametrize(
        ("total", "headers"),
        [(0, 0), (15, 0), (20, 5), (16 + MAX_PAYLOAD + 1, 0), (2**32 - 1, 0), (2**20, MAX_HEADERS + 1)],
    )
    def test_a_length_that_no_frame_can_have_is_refused_before_it_is_waited_for(
        self, total: int, headers: int
    ) -> None:
        """Otherwise a damaged or hostile length would buffer four gigabytes."""
        lengths = struct.pack(">II", total, headers)
        decoder = FrameDecoder()
        decoder.feed(lengths + struct.pack(">I", crc32(lengths)))
        with pytest.raises(RemoteProtocolError, match="no frame can have"):
            decoder.next_frame()

    def test_a_frame_as_large_as_the_format_allows_goes_through(self) -> None:
        payload = bytes(MAX_PAYLOAD)
        assert decode(encode_frame({}, payload))[0].payload == payload

    @pytest.mark.parametrize(
        ("headers", "payload"),
        [
            ({}, bytes(MAX_PAYLOAD + 1)),
            ({str(n): b"x" * 32_000 for n in range(5)}, b""),
            ({"name": b"x" * 2**15}, b""),
            ({"n" * 256: True}, b""),
            ({"": True}, b""),
            ({"number": 2**63}, b""),
        ],
    )
    def test_what_does_not_fit_into_a_frame_is_not_sent(self, headers: Any, payload: bytes) -> None:
        with pytest.raises(LocalProtocolError):
            encode_frame(headers, payload)


class TestHeaders:
    @given(HEADERS)
    def test_headers_are_written_as_the_sdk_writes_them(self, headers: dict[str, HeaderValue]) -> None:
        """For the kinds that it can tell apart: its integers have four bytes unless it is told otherwise."""
        told: dict[str, Any] = {
            name: Long(value)
            if isinstance(value, int) and not isinstance(value, bool) and not -(2**31) <= value < 2**31
            else value
            for name, value in headers.items()
            if not isinstance(value, datetime)  # it counts milliseconds in floats, and loses some
        }
        ours = {name: value for name, value in headers.items() if name in told}
        assert encode_frame(ours, b"payload") == EventMessage(headers=told, payload=b"payload").encode()

    def test_every_kind_of_header_that_the_sdk_writes_is_read(self) -> None:
        moment = datetime(2026, 7, 1, 12, 30, 15, 250_000, tzinfo=UTC)
        headers: dict[str, Any] = {
            "true": True,
            "false": False,
            "byte": Byte(-5),
            "short": Short(-500),
            "integer": -70_000,
            "long": Long(2**40),
            "bytes": b"\x00\xff",
            "text": "Grüße",
            "time": moment,
            "uuid": UUID(int=7),
        }
        (frame,) = decode(EventMessage(headers=headers).encode())
        assert frame.headers == headers

    @pytest.mark.parametrize(
        ("raw", "complaint"),
        [
            (b"\x01a\x0a", "type 10"),
            (b"\x01a", "cannot be read"),
            (b"\x05a", "cannot be read"),
            (b"\x01a\x04\x00\x00", "cannot be read"),
            (b"\x01a\x07\x00", "cannot be read"),
            (b"\x01a\x07\x00\x05abc", "cut short"),
            (b"\x01a\x09" + bytes(15), "cut short"),
            (b"\x01a\x07\x00\x01\xff", "cannot be read"),
            (b"\x01\xff\x00", "cannot be read"),
            (b"\x01a\x08" + b"\x7f" * 8, "cannot be read"),
            (b"\x01a\x00\x01a\x01", "two headers"),
        ],
    )
    def test_headers_that_make_no_sense_are_refused(self, raw: bytes, complaint: str) -> None:
        with pytest.raises(RemoteProtocolError, match=complaint):
            decode(reframe(raw))

    @given(st.binary(max_size=60))
    def test_no_headers_raise_anything_else(self, raw: bytes) -> None:
        """Nothing that the service sends may surprise the reader."""
        with contextlib.suppress(RemoteProtocolError):
            decode(reframe(raw))


class TestChunks:
    @given(st.binary(max_size=500))
    def test_a_document_comes_back_as_it_was(self, document: bytes) -> None:
        (frame,) = decode(encode_chunk(document))
        assert decode_chunk(frame) == document
        assert decode_failure(frame) is None

    @given(st.binary(max_size=500))
    def test_the_sdk_reads_our_chunks(self, document: bytes) -> None:
        event = Event.decode(io.BytesIO(encode_chunk(document)))
        assert event is not None
        assert list(event.message.headers.items()) == [
            (":message-type", "event"),
            (":event-type", "chunk"),
            (":content-type", "application/json"),
        ]

    def test_the_order_and_number_of_headers_do_not_matter(self) -> None:
        headers: dict[str, HeaderValue] = {":event-type": "chunk", "extra": 1, ":message-type": "event"}
        (frame,) = decode(encode_frame(headers, b'{"p":"padding","bytes":"e30="}'))
        assert decode_chunk(frame) == b"{}"

    @pytest.mark.parametrize("payload", [b"{}", b'{"bytes":null}', b'{"bytes":""}', b'{"p":"abc"}'])
    def test_a_chunk_without_a_document_is_empty(self, payload: bytes) -> None:
        assert decode_chunk(Frame({":event-type": "chunk"}, payload)) == b""

    @pytest.mark.parametrize(
        "payload", [b"", b"[]", b'{"bytes":"e30="', b'{"bytes":"?"}', b'{"bytes":7}', b"\xff"]
    )
    def test_a_chunk_that_cannot_be_read_is_refused(self, payload: bytes) -> None:
        with pytest.raises(RemoteProtocolError, match="chunk of"):
            decode_chunk(Frame({":event-type": "chunk"}, payload))

    def test_an_event_of_another_type_is_neither_a_chunk_nor_a_failure(self) -> None:
        frame = Frame({":message-type": "event", ":event-type": "brandNew"}, b"{}")
        assert decode_chunk(frame) is None
        assert decode_failure(frame) is None


class TestFailures:
    def test_an_exception_comes_back_with_its_text(self) -> None:
        (frame,) = decode(encode_exception("validationException", "no voice"))
        assert decode_chunk(frame) is None
        assert decode_failure(frame) == Failure(code="validationException", message="no voice", modelled=True)

    def test_the_original_text_of_a_model_is_added(self) -> None:
        (frame,) = decode(
            encode_exception("modelStreamErrorException", "failed", originalMessage="out of memory")
        )
        failure = decode_failure(frame)
        assert failure is not None
        assert failure.message == "failed (out of memory)"

    def test_an_error_comes_back_with_its_text(self) -> None:
        (frame,) = decode(encode_error("InternalError", "something broke"))
        assert decode_failure(frame) == Failure(
            code="InternalError", message="something broke", modelled=False
        )

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"", ""),
            (b"plain words", "plain words"),
            (b'{"Message":"in capitals"}', "in capitals"),
            (b'{"message":null}', ""),
            (b'{"originalMessage":"only this"}', "only this"),
            (b"[1]", "[1]"),
            (b"\xff\xfe", "\ufffd\ufffd"),
        ],
    )
    def test_a_failure_is_understood_whatever_its_payload_looks_like(
        self, payload: bytes, message: str
    ) -> None:
        """It is the last thing a service says; losing it would leave a stream that ended for no reason."""
        failure = decode_failure(Frame({":message-type": "exception"}, payload))
        assert failure == Failure(code="unknown", message=message, modelled=True)


class TestSignatures:
    async def test_what_is_signed_is_byte_for_byte_what_the_sdk_sends(self) -> None:
        """The service checks every byte of this; its own SDK is the nearest thing to it."""

        class Writer:
            def __init__(self) -> None:
                self.frames: list[bytes] = []

            async def write(self, data: bytes) -> None:
                self.frames.append(data)

        writer = Writer()
        settings = ProtocolSettings(namespace="com.amazonaws.bedrockruntime", service_target="x")
        signer: Any = AsyncEventSigner(
            initial_signature=KEYS["signature"].encode(), event_encoder_cls=EventHeaderEncoder
        )
        publisher = AWSEventPublisher[Any](
            payload_codec=RestJsonClientProtocol(settings).payload_codec,
            async_writer=writer,
            signing_config=SigningConfig(
                signer=signer,
                signing_properties={"region": KEYS["region"], "service": "bedrock"},
                identity_resolver=StaticCredentialsResolver(),
                identity_properties={"access_key_id": "AKID", "secret_access_key": KEYS["secret_key"]},
            ),
        )
        documents = [
            bytes((n % 256,)) * length for n, length in enumerate((0, 1, 2, 3, 77, 1600, 8_000, 200_000))
        ]
        for document in documents:
            part = BidirectionalInputPayloadPart(bytes_=document)
            await publisher.send(InvokeModelWithBidirectionalStreamInputChunk(value=part))
        await publisher.close()

        ours = ChunkSigner(**KEYS)
        times = [moment(frame) for frame in decode(b"".join(writer.frames))]
        assert [
            *(ours.sign(document, at=at) for document, at in zip(documents, times, strict=False)),
            ours.end(at=times[-1]),
        ] == writer.frames

    @given(st.lists(st.binary(max_size=200), max_size=6), st.integers(0, 4_000_000_000_000))
    def test_what_is_signed_verifies(self, documents: list[bytes], start: int) -> None:
        signer, verifier = ChunkSigner(**KEYS), ChunkVerifier(**KEYS)
        sealed = [signer.sign(document, at=start + n) for n, document in enumerate(documents)]
        opened = [verifier.open(frame) for frame in decode(b"".join((*sealed, signer.end(at=start))))]
        assert [frame and decode_chunk(frame) for frame in opened] == [*documents, None]
        assert verifier.ended
        assert verifier.frames == len(documents) + 1

    def test_a_stream_may_cross_midnight(self) -> None:
        """The signing key is good for one day."""
        midnight = 1_780_012_800_000
        signer, verifier = ChunkSigner(**KEYS), ChunkVerifier(**KEYS)
        for at in (midnight - 1, midnight, midnight + 1):
            (frame,) = decode(signer.sign(b"{}", at=at))
            assert verifier.open(frame) is not None

    @pytest.mark.parametrize("damage", ["lost", "repeated", "moved", "other key", "other region", "changed"])
    def test_what_does_not_follow_from_the_frame_before_is_refused(self, damage: str) -> None:
        signer = ChunkSigner(**KEYS)
        one, two, three = (decode(signer.sign(name, at=NOON))[0] for name in (b"one", b"two", b"three"))
        keys = dict(KEYS)
        frames = [one]
        match damage:
            case "lost":
                frames = [one, three]
            case "repeated":
                frames = [one, one]
            case "moved":
                frames = [two]
            case "other key":
                keys["secret_key"] = "other"
            case "other region":
                keys["region"] = "eu-north-1"
            case _:
                frames = [Frame(one.headers, encode_chunk(b"eno"))]
        verifier = ChunkVerifier(**keys)
        for frame in frames[:-1]:
            verifier.open(frame)
        with pytest.raises(RemoteProtocolError, match="does not follow"):
            verifier.open(frames[-1])

    def test_a_frame_without_a_signature_is_refused(self) -> None:
        (frame,) = decode(encode_chunk(b"{}"))
        with pytest.raises(RemoteProtocolError, match="not signed"):
            ChunkVerifier(**KEYS).open(frame)

    @pytest.mark.parametrize("inside", [encode_chunk(b"{}") * 2, encode_chunk(b"{}")[:-1], b"x"])
    def test_a_signed_frame_carries_one_frame_and_no_more(self, inside: bytes) -> None:
        verifier = ChunkVerifier(**KEYS)
        with pytest.raises(RemoteProtocolError):
            verifier.open(signed(inside))

    def test_nothing_comes_after_the_goodbye(self) -> None:
        signer, verifier = ChunkSigner(**KEYS), ChunkVerifier(**KEYS)
        (goodbye,) = decode(signer.end(at=NOON))
        with pytest.raises(LocalProtocolError):
            signer.sign(b"{}", at=NOON)
        with pytest.raises(LocalProtocolError):
            signer.end(at=NOON)
        assert verifier.open(goodbye) is None
        with pytest.raises(RemoteProtocolError, match="ends the input"):
            verifier.open(goodbye)

    def test_a_document_that_does_not_fit_leaves_the_chain_whole(self) -> None:
        """Whoever catches the error goes on with the next document."""
        signer, verifier = ChunkSigner(**KEYS), ChunkVerifier(**KEYS)
        with pytest.raises(LocalProtocolError):
            signer.sign(bytes(MAX_PAYLOAD), at=NOON)
        (frame,) = decode(signer.sign(b"{}", at=NOON))
        assert verifier.open(frame) is not None

    def test_no_attribute_of_a_signer_shows_the_secret(self) -> None:
        """Tracebacks with local variables are printed in many places."""
        signer: Any = ChunkSigner(**KEYS)
        signer.sign(b"{}", at=NOON)
        slots = [name for cls in type(signer).__mro__ for name in getattr(cls, "__slots__", ())]
        shown = " ".join(repr(getattr(signer, name)) for name in slots)
        assert "us-east-1" in shown  # these are the attributes
        assert KEYS["secret_key"] not in shown + repr(signer)


def moment(frame: Frame) -> int:
    """Return the time of a signed frame, in milliseconds since 1970."""
    date = frame.headers[":date"]
    assert isinstance(date, datetime)
    return (date - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def signed(payload: bytes) -> Frame:
    """Return a frame with a good signature over a payload that no signer would take."""

    class Reckless(ChunkSigner):
        def seal(self, payload: bytes) -> bytes:
            return self._seal(payload, NOON)

    (frame,) = decode(Reckless(**KEYS).seal(payload))
    return frame
