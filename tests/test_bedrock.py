"""The way to the service, over real sockets: TLS, HTTP/2 and a peer that misbehaves in every way we know of.

Each row of what can go wrong ends here, with the right exception, and leaves nothing behind.
"""

import asyncio
import contextlib
import gc
import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Never

import aws_sdk_bedrock_runtime.models as aws_models
import botocore.credentials
import botocore.tokens
import botocore.utils
import pytest
import trustme

from novasonic import bedrock, failures
from novasonic.bedrock import BedrockConnector
from novasonic.credentials import Credentials
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectError,
    CredentialsError,
    InputTimeoutError,
    InvalidRequestError,
    LocalProtocolError,
    ModelNotFoundError,
    RemoteProtocolError,
    ServiceError,
    SessionExpiredError,
    StreamLostError,
    ThrottledError,
    TransportError,
)
from novasonic.eventstream import encode_chunk, encode_error, encode_exception, encode_frame
from novasonic.failures import ERRORS, TEXTS, Meaning
from novasonic.transport import Connector, Transport
from peers import REGION, SECRET, Call, Issuer, Peer, proxy, raw_peer

MODEL = "amazon.nova-2-sonic-v1:0"
CREDENTIALS = Credentials("AKIDEXAMPLE", SECRET, "the-session-token")
FIRST = (b'{"event": {"sessionStart": {}}}', b'{"event": {"promptStart": {}}}')
TCP_TABLE = Path("/proc/net/tcp")
PATIENCE = 10.0  # seconds after which a test has hung; no test waits for it


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path) -> None:
    """Nothing of this machine's AWS configuration or proxies may show."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))


async def settled() -> None:
    """Wait until nothing runs but the caller: the peer's side of a handshake may take a moment to fail."""
    async with asyncio.timeout(PATIENCE):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


class Said(logging.Handler):
    """Keeps what the library and the SDK log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
async def leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """No task, no secret in a log, no exception that nobody retrieves, none in the CRT's thread."""
    said = Said()  # caplog's own records are those of the teardown by now
    root = logging.getLogger()
    root.addHandler(said)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "hpack")  # the peer's, which spells out every header
    yield
    await settled()
    gc.collect()
    root.removeHandler(said)
    assert [
        record.getMessage() for record in said.records if record.name == "asyncio" and record.levelno > 20
    ] == []
    text = " ".join(record.getMessage() for record in said.records)
    for secret in (SECRET, "the-session-token", "Signature="):
        assert secret not in text
    assert "Traceback" not in capfd.readouterr().err


def connector(peer: Peer | str, **settings: Any) -> BedrockConnector:
    url = peer if isinstance(peer, str) else peer.url
    given = {"region": REGION, "credentials": CREDENTIALS, "endpoint_url": url, **settings}
    return BedrockConnector(given.pop("model", MODEL), **given)


@contextlib.asynccontextmanager
async def opened(
    behave: Callable[[Call], Awaitable[None]], ca: trustme.CA, **settings: Any
) -> AsyncIterator[Transport]:
    """Give a stream to a peer that accepts it and then does what `behave` says."""

    async def accept(call: Call) -> None:
        for document in FIRST:
            assert await call.document() == document
        await call.respond()
        await behave(call)

    async with Peer(accept, ca) as peer:
        stream = await connector(peer, **settings)(FIRST, timeout=PATIENCE)
        try:
            async with asyncio.timeout(PATIENCE):
                yield stream
        finally:
            await stream.aclose()


async def echo(call: Call) -> None:
    while (document := await call.document()) is not None:
        await call.say(document)
    await call.end()


async def serve(call: Call) -> None:
    """Accept a stream after one document, and be an echo."""
    await call.document()
    await call.respond()
    await echo(call)


async def forever(call: Call) -> None:
    await call.forever()


class TestAGoodStream:
    async def test_documents_go_both_ways_and_both_sides_say_goodbye(self, ca: trustme.CA) -> None:
        async with opened(echo, ca) as stream:
            for document in (b"{}", b"x" * 100_000, b""):
                await stream.send(document)
                assert await stream.receive() == document
            await stream.end_input()
            assert await stream.receive() is None
            assert await stream.receive() is None
            assert stream.request_id == "request-1"

    async def test_the_request_is_what_the_service_expects(self, ca: trustme.CA) -> None:
        seen: list[dict[str, str]] = []

        async def look(call: Call) -> None:
            seen.append(call.headers)
            await call.end()

        async with opened(look, ca) as stream:
            assert await stream.receive() is None
        (headers,) = seen
        assert headers[":method"] == "POST"
        assert headers[":path"] == "/model/amazon.nova-2-sonic-v1%3A0/invoke-with-bidirectional-stream"
        assert headers["content-type"] == "application/vnd.amazon.eventstream"
        assert headers["x-amz-content-sha256"] == "STREAMING-AWS4-HMAC-SHA256-EVENTS"
        assert headers["x-amz-security-token"] == "the-session-token"
        assert "Credential=AKIDEXAMPLE/" in headers["authorization"]
        assert f"/{REGION}/bedrock/aws4_request" in headers["authorization"]
        assert "novasonic/" in headers["user-agent"]

    async def test_the_first_documents_are_sent_before_the_service_answers(self, ca: trustme.CA) -> None:
        """The service answers only after it has read them: whoever waited for that would wait for ever."""
        async with opened(forever, ca):  # whose peer reads them before it responds
            pass

    async def test_a_connector_opens_many_streams_each_on_a_connection_of_its_own(
        self, ca: trustme.CA
    ) -> None:
        """A shared connection that the service wants to close takes every later stream with it."""
        async with Peer(serve, ca) as peer:
            connect: Connector = connector(peer)
            streams = await asyncio.gather(*(connect(FIRST[:1], timeout=PATIENCE) for _ in range(4)))
            for number, stream in enumerate(streams):
                await stream.send(b"%d" % number)
            assert [await stream.receive() for stream in streams] == [b"0", b"1", b"2", b"3"]
            for stream in streams:
                await stream.aclose()
            assert peer.connections == 4

    async def test_end_input_twice_is_fine_and_nothing_can_be_sent_after_it(self, ca: trustme.CA) -> None:
        async with opened(echo, ca) as stream:
            await stream.end_input()
            await stream.end_input()
            with pytest.raises((LocalProtocolError, StreamLostError)):
                await stream.send(b"{}")
            assert await stream.receive() is None

    async def test_an_event_of_a_type_that_nobody_knows_is_skipped(self, ca: trustme.CA) -> None:
        async def novelty(call: Call) -> None:
            await call.send(encode_frame({":message-type": "event", ":event-type": "brandNew"}, b"{}"))
            await call.say(b"known")
            await call.forever()

        async with opened(novelty, ca) as stream:
            assert await stream.receive() == b"known"

    async def test_a_chunk_without_a_document_is_an_empty_one(self, ca: trustme.CA) -> None:
        async def empty(call: Call) -> None:
            await call.send(encode_frame({":message-type": "event", ":event-type": "chunk"}, b"{}"))
            await call.forever()

        async with opened(empty, ca) as stream:
            assert await stream.receive() == b""

    async def test_a_goaway_that_includes_our_stream_changes_nothing(self, ca: trustme.CA) -> None:
        """It means: open no others here. A conversation must not end because a load balancer is rotated."""

        async def rotate(call: Call) -> None:
            await call.go_away(last_stream=call.stream_id)
            await echo(call)

        async with opened(rotate, ca) as stream:
            for _ in range(3):
                await stream.send(b"still here")
                assert await stream.receive() == b"still here"

    async def test_everything_that_came_is_read_before_the_end(self, ca: trustme.CA) -> None:
        async def hurry(call: Call) -> None:
            for number in range(20):
                await call.say(b"%d" % number)
            await call.end()

        async with opened(hurry, ca) as stream:
            heard = [document async for document in documents(stream)]
            assert heard == [b"%d" % number for number in range(20)]


async def documents(stream: Transport) -> AsyncIterator[bytes]:
    while (document := await stream.receive()) is not None:
        yield document


class TestCancelling:
    async def test_cancelled_and_racing_sends_leave_the_chain_of_signatures_whole(
        self, ca: trustme.CA
    ) -> None:
        """One signature over a frame that never went out, and the service refuses everything after it."""
        received: list[bytes] = []

        async def check(call: Call) -> None:
            while (document := await call.document()) is not None:
                received.append(document)
            assert call.complaint is None
            await call.say(b"all verified")
            await call.end()

        async with opened(check, ca) as stream:
            tasks = [asyncio.create_task(stream.send(b"%d" % number * 2_000)) for number in range(200)]
            for number, task in enumerate(tasks):
                if number % 3 == 0:
                    await asyncio.sleep(0)
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await stream.end_input()
            assert await stream.receive() == b"all verified"
            sent = {b"%d" % number * 2_000 for number, outcome in enumerate(outcomes) if outcome is None}
            assert set(received) == sent
            assert len(received) == len(sent)

    async def test_cancelled_receives_lose_nothing(self, ca: trustme.CA) -> None:
        """A deadline on reading is an ordinary thing for a program to have."""

        async def talk(call: Call) -> None:
            while (document := await call.document()) is not None:
                await call.say(document)

        async with opened(talk, ca) as stream:
            heard: list[bytes | None] = []
            for number in range(30):
                waiting = asyncio.create_task(stream.receive())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait({waiting})
                await stream.send(b"%d" % number)
                heard.append(await stream.receive())
            assert heard == [b"%d" % number for number in range(30)]

    @pytest.mark.parametrize("when", ["at once", "while connecting", "while waiting for the answer"])
    async def test_a_cancelled_opening_hangs_up(self, ca: trustme.CA, when: str) -> None:
        reached = asyncio.Event()
        gone = asyncio.Event()

        async def never(call: Call) -> None:
            reached.set()
            try:
                await call.forever()
            finally:
                gone.set()

        async with Peer(never, ca) as peer:
            opening = asyncio.create_task(connector(peer)(FIRST, timeout=PATIENCE))
            match when:
                case "at once":
                    await asyncio.sleep(0)
                case "while connecting":
                    await until(looking_up)
                case _:
                    await reached.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            if reached.is_set():
                async with asyncio.timeout(PATIENCE):
                    await gone.wait()
            await until(lambda: not looking_up())

    async def test_a_cancelled_close_has_closed(self, ca: trustme.CA) -> None:
        gone = asyncio.Event()

        async def wait(call: Call) -> None:
            try:
                await call.forever()
            finally:
                gone.set()

        async with opened(wait, ca) as stream:
            closing = asyncio.create_task(stream.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait({closing})
            await gone.wait()

    async def test_closing_ends_those_who_wait(self, ca: trustme.CA) -> None:
        """The service may never end its side after ours; the session's deadline then closes the stream."""

        async def sit(call: Call) -> None:
            while await call.document() is not None:
                pass
            await call.forever()

        async with opened(sit, ca) as stream:
            await stream.end_input()
            reading = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            await stream.aclose()
            with pytest.raises(StreamLostError, match="closed here") as caught:
                await reading
            assert caught.value.code == "CLOSED_LOCALLY"
            await stream.aclose()


def looking_up() -> bool:
    """Return whether a thread of ours runs."""
    return any(thread.name == "novasonic-aws" for thread in threading.enumerate())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it happens in other threads
            await asyncio.sleep(0)


class TestLostStreams:
    @pytest.mark.parametrize("code", [0, 2, 8])
    async def test_a_reset_stream_is_lost(self, ca: trustme.CA, code: int) -> None:
        """Also with code 0, "no error", which is how the service ends its streams after eight minutes."""

        async def reset(call: Call) -> None:
            await call.say(b"last words")
            await call.reset(code)
            await call.forever()

        async with opened(reset, ca) as stream:
            assert await stream.receive() == b"last words"
            await assert_lost(stream, "RST_STREAM_RECEIVED")

    async def test_a_goaway_that_excludes_our_stream_loses_it(self, ca: trustme.CA) -> None:
        async def exclude(call: Call) -> None:
            await call.go_away(last_stream=0)
            await call.forever()

        async with opened(exclude, ca) as stream:
            await assert_lost(stream, "GOAWAY_RECEIVED")

    async def test_a_cut_connection_loses_the_stream(self, ca: trustme.CA) -> None:
        async def cut(call: Call) -> None:
            call.abort()

        async with opened(cut, ca) as stream:
            await assert_lost(stream, "CONNECTION_CLOSED")

    @pytest.mark.parametrize("reading", [True, False])
    async def test_a_peer_that_stops_reading_is_noticed_while_we_speak(
        self, ca: trustme.CA, reading: bool
    ) -> None:
        """A path that has vanished looks the same, and TCP itself would try for a quarter of an hour."""

        async def stop(call: Call) -> None:
            call.stop_reading()
            await call.forever()

        async with opened(stop, ca, stall_timeout=0.3) as stream:
            waiting = asyncio.create_task(stream.receive()) if reading else None
            with pytest.raises(StreamLostError) as caught:
                await speak(stream)
            assert caught.value.code == "PEER_STALLED"
            if waiting:
                with pytest.raises(StreamLostError, match="stopped reading"):
                    await waiting
            await assert_lost(stream, "PEER_STALLED")

    async def test_a_slow_peer_is_not_a_stalled_one(self, ca: trustme.CA) -> None:
        """As long as it takes something now and then, it is only slow."""

        async def slow(call: Call) -> None:
            transport: Any = call._connection.writer.transport
            for _ in range(8):
                transport.pause_reading()
                await asyncio.sleep(0.1)  # the behaviour under test is time itself
                transport.resume_reading()
                await call.document()
            await echo(call)

        async with opened(slow, ca, stall_timeout=2.0) as stream:
            for _ in range(40):
                await stream.send(bytes(30_000))
            await stream.end_input()
            assert len([document async for document in documents(stream)]) >= 30

    async def test_a_clean_end_is_no_error_but_nothing_can_be_sent_after_it(self, ca: trustme.CA) -> None:
        async def leave(call: Call) -> None:
            await call.end()
            await call.forever()

        async with opened(leave, ca) as stream:
            assert await stream.receive() is None
            with pytest.raises(StreamLostError) as caught:
                await stream.send(b"{}")
            assert caught.value.code == "ENDED_BY_SERVICE"

    @pytest.mark.skipif(not TCP_TABLE.exists(), reason="only Linux shows its timers")
    async def test_the_system_looks_after_a_silent_connection(self, ca: trustme.CA) -> None:
        """A peer that vanishes while nobody speaks is found by TCP keep-alive, asked for after 3 s."""
        async with Peer(serve, ca) as peer:
            stream = await connector(peer)(FIRST[:1], timeout=PATIENCE)
            port = int(peer.url.rpartition(":")[2])
            await until(lambda: any(0 < seconds <= 3.0 for seconds in keep_alive_timers(port)))
            await stream.aclose()


def keep_alive_timers(port: int) -> list[float]:
    """Return the seconds until the system will ask each peer on `port` whether it is there."""
    rows = [row.split() for row in TCP_TABLE.read_text().splitlines()[1:]]
    timers = [row[5].split(":") for row in rows if row[2].endswith(f":{port:04X}")]
    return [int(when, 16) / os.sysconf("SC_CLK_TCK") for kind, when in timers if kind == "02"]


async def speak(stream: Transport) -> Never:
    """Send for ever."""
    while True:
        await stream.send(bytes(100_000))


async def assert_lost(stream: Transport, code: str) -> None:
    """Reading and writing both say so, again and again."""
    for _ in range(2):
        with pytest.raises(StreamLostError) as caught:
            await stream.receive()
        assert caught.value.code == code
        assert caught.value.retryable
        with pytest.raises(StreamLostError) as caught:
            await stream.send(b"{}")
        assert caught.value.code == code


class TestWhatCannotBeRead:
    @pytest.mark.parametrize(
        ("garbage", "complaint"),
        [
            (b"\0" * 16, "checksum"),
            (encode_chunk(b"{}")[:-1] + b"\xff", "checksum"),
            (encode_frame({":event-type": "chunk"}, b"no JSON"), "cannot be read"),
            (encode_frame({":event-type": "chunk"}, b'{"bytes":"?"}'), "cannot be read"),
        ],
    )
    async def test_a_broken_frame_is_a_protocol_error(
        self, ca: trustme.CA, garbage: bytes, complaint: str
    ) -> None:
        async def garble(call: Call) -> None:
            await call.say(b"good")
            await call.send(garbage)
            await call.forever()

        async with opened(garble, ca) as stream:
            assert await stream.receive() == b"good"
            with pytest.raises(RemoteProtocolError, match=complaint):
                await stream.receive()

    async def test_a_stream_that_ends_inside_a_frame_is_a_protocol_error(self, ca: trustme.CA) -> None:
        async def cut(call: Call) -> None:
            await call.send(encode_chunk(b"{}")[:-5])
            await call.end()

        async with opened(cut, ca) as stream:
            with pytest.raises(RemoteProtocolError, match="inside a frame"):
                await stream.receive()


class TestFailuresInAStream:
    @pytest.mark.parametrize(
        ("frame", "error", "code", "text"),
        [
            (encode_exception("throttlingException", "slow"), ThrottledError, "ThrottlingException", "slow"),
            (encode_exception("validationException", "no"), InvalidRequestError, "ValidationException", "no"),
            (encode_exception("fooException", "bar"), ServiceError, "FooException", "bar"),
            (encode_error("InternalError", "broke"), ServiceError, "InternalError", "broke"),
            (encode_frame({":message-type": "exception"}, b"words"), ServiceError, "Unknown", "words"),
        ],
    )
    async def test_a_failure_is_raised_to_reader_and_writer(
        self, ca: trustme.CA, frame: bytes, error: type[TransportError], code: str, text: str
    ) -> None:
        async def fail(call: Call) -> None:
            await call.say(b"before")
            await call.send(frame)
            await call.forever()

        async with opened(fail, ca) as stream:
            assert await stream.receive() == b"before"
            for _ in range(2):
                with pytest.raises(error, match=text) as caught:
                    await stream.receive()
                assert caught.value.code == code
                assert caught.value.request_id == "request-1"
            with pytest.raises(error, match=text):
                await stream.send(b"{}")

    async def test_a_failure_is_told_although_the_stream_is_reset_after_it(self, ca: trustme.CA) -> None:
        """Its reason is worth more than the fact that it ended, to the writer as well."""

        async def fail(call: Call) -> None:
            await call.send(encode_exception("modelTimeoutException", "Model has timed out"))
            await call.reset(0)

        async with opened(fail, ca) as stream:
            with pytest.raises(SessionExpiredError):
                await stream.receive()
            with pytest.raises(SessionExpiredError):
                await stream.send(b"{}")
            with pytest.raises(SessionExpiredError):
                await stream.receive()


def http_refusal(
    status: int, headers: dict[str, str], body: bytes, *, end: bool = True
) -> Callable[[Call], Awaitable[None]]:
    async def refuse(call: Call) -> None:
        await call.respond(status, {"x-amzn-requestid": "request-2", **headers}, body, end=end)
        await call.forever()

    return refuse


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "error", "code"),
        [
            ((403, "AccessDeniedException", b'{"message":"no"}'), AccessDeniedError, "AccessDeniedException"),
            ((404, "aws#ResourceNotFoundException:x", b""), ModelNotFoundError, "ResourceNotFoundException"),
            ((429, "ThrottlingException", b'{"message":"slow"}'), ThrottledError, "ThrottlingException"),
            ((403, "ExpiredTokenException", b"{}"), CredentialsError, "ExpiredTokenException"),
            ((403, "InvalidSignatureException", b"{}"), CredentialsError, "InvalidSignatureException"),
            ((503, "ServiceUnavailableException", b""), ServiceError, "ServiceUnavailableException"),
            ((400, "", b'{"__type":"aws#ValidationException"}'), InvalidRequestError, "ValidationException"),
            ((400, "", b'{"code":"Brand_New","Message":"no"}'), InvalidRequestError, "Brand_New"),
            ((500, "", b"<html>"), ServiceError, "HTTP 500"),
            ((403, "", b"<html>"), AccessDeniedError, "HTTP 403"),
            ((418, "", b""), InvalidRequestError, "HTTP 418"),
            ((302, "", b""), ConnectError, "HTTP 302"),
            ((204, "", b""), ConnectError, "HTTP 204"),
        ],
    )
    async def test_an_answer_other_than_200_says_why(
        self, ca: trustme.CA, answer: tuple[int, str, bytes], error: type[TransportError], code: str
    ) -> None:
        status, type_, body = answer
        headers = {"x-amzn-errortype": type_} if type_ else {}
        async with Peer(http_refusal(status, headers, body), ca) as peer:
            with pytest.raises(error) as caught:
                await connector(peer)(FIRST, timeout=PATIENCE)
        assert type(caught.value) is error
        assert caught.value.code == code
        assert caught.value.request_id == "request-2"
        assert f"{MODEL} in {REGION}" in str(caught.value)

    async def test_a_refusal_whose_body_never_ends_is_still_a_refusal(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bedrock, "_REFUSAL_PATIENCE", 0.05)
        headers = {"x-amzn-errortype": "ThrottlingException"}
        async with Peer(http_refusal(429, headers, b'{"mess', end=False), ca) as peer:
            with pytest.raises(ThrottledError):
                await connector(peer)(FIRST, timeout=PATIENCE)

    async def test_a_failure_right_after_a_200_is_for_the_reader(self, ca: trustme.CA) -> None:
        async def fail(call: Call) -> None:
            await call.send(encode_exception("validationException", "Received invalid voiceId: x"))
            await call.end()

        async with opened(fail, ca) as stream:
            with pytest.raises(InvalidRequestError, match="novasonic voices"):
                await stream.receive()


class TestTheMapOfFailures:
    def test_every_error_that_aws_models_is_mapped(self) -> None:
        """A new SDK release cannot bring an exception that nobody has thought about."""
        base = aws_models.ServiceError
        modelled = {
            name
            for name, item in vars(aws_models).items()
            if isinstance(item, type) and issubclass(item, base) and item is not base
        }
        assert {"ValidationException", "ModelStreamErrorException"} <= modelled  # the walk finds them
        assert modelled <= set(ERRORS)

    @pytest.mark.parametrize(
        ("code", "text", "error", "retryable"),
        [
            ("ValidationException", "Timed out waiting for input events", InputTimeoutError, True),
            (
                "ValidationException",
                "Timed out waiting for audio bytes or interactive content. Please ensure gaps",
                InputTimeoutError,
                True,
            ),
            (
                "ValidationException",
                "InternalErrorCode=531::RST_STREAM closed stream. HTTP/2 error code: NO_ERROR",
                SessionExpiredError,
                True,
            ),
            (
                "ValidationException",
                "System instability detected. Please retry your request.",
                ServiceError,
                True,
            ),
            ("ModelTimeoutException", "Model has timed out in processing", SessionExpiredError, True),
            ("ModelStreamErrorException", "The system encountered an unexpected error", ServiceError, True),
            (
                "ValidationException",
                "This request has been blocked by our content filters.",
                InvalidRequestError,
                False,
            ),
            (
                "ModelStreamErrorException",
                "This request has been blocked by our content filters.",
                InvalidRequestError,
                False,
            ),
            ("ValidationException", "Received invalid voiceId: value", InvalidRequestError, False),
            ("ValidationException", "Chat history is over max limit.", InvalidRequestError, False),
            ("ValidationException", "Invalid input request", InvalidRequestError, False),
            ("ValidationException", "The provided model identifier is invalid.", ModelNotFoundError, False),
            ("InvalidSignatureException", "Signature expired: 2026", CredentialsError, False),
            ("ServiceQuotaExceededException", "", ThrottledError, True),
            ("SomethingNew", "", ServiceError, True),
        ],
    )
    def test_the_text_says_more_than_the_code(
        self, code: str, text: str, error: type[TransportError], retryable: bool
    ) -> None:
        """The service calls its own instability a ValidationException."""
        failure = failures.refused("here", code, text, id_=None)
        assert type(failure) is error
        assert failure.retryable is retryable
        assert failure.code == code

    def test_texts_are_compared_in_lower_case(self) -> None:
        for words, _ in TEXTS:
            assert words == words.lower()

    @pytest.mark.parametrize("meaning", [*ERRORS.values(), *(meaning for _, meaning in TEXTS)])
    def test_a_hint_is_a_sentence(self, meaning: Meaning) -> None:
        assert not meaning.hint or meaning.hint.endswith(".")

    def test_a_message_has_neither_the_request_id_nor_the_numbering(self) -> None:
        failure = failures.refused(
            "here",
            "validationException",
            "RequestId=0b1c-22 : Error(s):\nError 1 : The first.\nError 2 : The second.",
            id_="from-the-header",
        )
        assert str(failure) == "here answered ValidationException: The first.; The second."
        assert failure.request_id == "0b1c-22"

    def test_the_plain_prefix_goes_as_well(self) -> None:
        failure = failures.refused("here", "x", "RequestId=0b1c-22 : Invalid input request", id_=None)
        assert str(failure) == "here answered X: Invalid input request."


class TestNoConnection:
    async def test_a_refused_connection_says_so(self) -> None:
        with socket.socket() as free:  # bound and not listening: nobody else gets the port, nobody answers
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            with pytest.raises(ConnectError, match=r"127\.0\.0\.1 \(SOCKET_CONNECTION_REFUSED\)") as caught:
                await connector(f"https://127.0.0.1:{port}")(FIRST, timeout=PATIENCE)
        assert caught.value.code == "SOCKET_CONNECTION_REFUSED"
        assert caught.value.retryable

    async def test_a_name_that_does_not_exist_says_so(self) -> None:
        with pytest.raises(ConnectError, match=r"nowhere\.invalid") as caught:
            await connector("https://nowhere.invalid")(FIRST, timeout=PATIENCE)
        assert str(caught.value.code).startswith("DNS_")

    async def test_an_address_that_does_not_answer_is_given_up_at_the_deadline(self) -> None:
        """A listener whose queue is full drops whoever knocks, as a firewall does."""
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            knocking = [socket.socket() for _ in range(4)]
            for knock in knocking:
                knock.setblocking(False)
                knock.connect_ex(full.getsockname())
            with pytest.raises(ConnectError, match=r"no connection to 127\.0\.0\.1 within 0\.5 s"):
                await connector(f"https://127.0.0.1:{full.getsockname()[1]}")(FIRST, timeout=0.5)
            for knock in knocking:
                knock.close()

    async def test_a_server_that_never_speaks_tls_is_given_up_at_the_deadline(self) -> None:
        async def mute(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with raw_peer(mute) as port:
            with pytest.raises(ConnectError, match="AWS_CA_BUNDLE"):
                await connector(f"https://127.0.0.1:{port}")(FIRST, timeout=0.5)

    async def test_a_server_that_hangs_up_in_the_handshake_is_no_connection(self) -> None:
        async def slam(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read(1)

        async with raw_peer(slam) as port:
            with pytest.raises(ConnectError):
                await connector(f"https://127.0.0.1:{port}")(FIRST, timeout=PATIENCE)

    async def test_a_server_that_hangs_up_after_the_handshake_is_no_stream(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca, hangs_up=True) as peer:
            for _ in range(10):  # before, while or after the request goes out
                with pytest.raises((ConnectError, StreamLostError)):
                    await connector(peer)(FIRST, timeout=PATIENCE)

    async def test_a_server_that_speaks_only_http_1_is_named_as_such(self, ca: trustme.CA) -> None:
        """Proxies that read TLS often do; the SDK alone would wait for ever."""
        async with Peer(forever, ca, alpn=("http/1.1",)) as peer:
            with pytest.raises(ConnectError, match=r"HTTP/1\.1") as caught:
                await connector(peer)(FIRST, timeout=PATIENCE)
        assert caught.value.code == "UNSUPPORTED_PROTOCOL"

    async def test_a_certificate_that_nobody_vouches_for_points_to_the_ca_bundle(self) -> None:
        """The TLS library takes its time to say so: the deadline's message has the hint as well."""
        async with Peer(forever, trustme.CA(), handshake_timeout=1.0) as peer:
            with pytest.raises(ConnectError, match="AWS_CA_BUNDLE"):
                await connector(peer)(FIRST, timeout=0.5)
            await settled()

    async def test_a_server_that_never_answers_is_given_up_at_the_deadline(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(ConnectError, match=r"did not accept a stream within 0\.5 s") as caught:
                await connector(peer)(FIRST, timeout=0.5)
        assert caught.value.code == "TIMEOUT"

    async def test_a_connection_that_is_cut_before_the_answer_is_lost_at_once(self, ca: trustme.CA) -> None:
        async def cut(call: Call) -> None:
            await call.document()
            call.abort()

        async with Peer(cut, ca) as peer:
            with pytest.raises(StreamLostError) as caught:
                await connector(peer)(FIRST, timeout=PATIENCE)
        assert caught.value.code == "CONNECTION_CLOSED"

    async def test_a_stream_that_is_reset_before_the_answer_is_lost_at_once(self, ca: trustme.CA) -> None:
        async def reset(call: Call) -> None:
            await call.reset(7)
            await call.forever()

        async with Peer(reset, ca) as peer:
            with pytest.raises(StreamLostError):
                await connector(peer)(FIRST, timeout=PATIENCE)


class TestReadingSlowly:
    async def test_a_reader_that_pauses_slows_the_service_down(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise a program that stands still grows until it is killed."""
        monkeypatch.setattr(bedrock, "_WINDOW", 2**18)
        sent = 0
        full = asyncio.Event()

        async def flood(call: Call) -> None:
            nonlocal sent
            frame = encode_chunk(bytes(10_000))
            for _ in range(100):
                if call.window() < len(frame):
                    full.set()
                await call.send(frame)
                sent += len(frame)
            await call.end()

        async with opened(flood, ca) as stream:
            await full.wait()
            assert sent <= 2**18
            heard = [document async for document in documents(stream)]
            assert heard == [bytes(10_000)] * 100

    async def test_a_frame_larger_than_the_window_comes_through(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bedrock, "_WINDOW", 2**16)

        async def long(call: Call) -> None:
            await call.say(bytes(1_000_000))
            await call.end()

        async with opened(long, ca) as stream:
            assert await stream.receive() == bytes(1_000_000)


@pytest.fixture
def without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)


@pytest.fixture(params=["with botocore", "without botocore"])
def either_way(request: pytest.FixtureRequest) -> None:
    """botocore is an extra: who has it and who has not should hear and get the same."""
    if request.param == "without botocore":
        request.getfixturevalue("without_botocore")


class TestCredentials:
    async def test_none_anywhere_says_what_to_do(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID") as caught:
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)
            assert peer.connections == 0
        assert not caught.value.retryable

    @pytest.mark.usefixtures("without_botocore")
    async def test_none_anywhere_without_botocore_names_the_extra(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"novasonic\[boto3\]"):
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)

    async def test_an_api_key_is_said_to_be_of_no_use(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bearer")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="AWS_BEARER_TOKEN_BEDROCK does not help"):
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)

    @pytest.mark.usefixtures("either_way")
    @pytest.mark.parametrize("source", ["environment", "profile"])
    async def test_the_usual_places_are_looked_at(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
    ) -> None:
        if source == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            profile = None
        else:
            profile = "speech"
            (tmp_path / "config").write_text(f"[profile speech]\nregion = {REGION}\n")
            (tmp_path / "credentials").write_text(
                f"[speech]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n"
            )
        region = REGION if profile is None else None
        async with opened(echo, ca, credentials=None, profile=profile, region=region) as stream:
            await stream.send(b"verified")
            assert await stream.receive() == b"verified"

    @pytest.mark.usefixtures("either_way")
    async def test_half_a_key_pair_is_not_enough(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError):
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)

    async def test_an_unknown_profile_is_a_configuration_error(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(ConfigurationError, match="nobody"):
                await connector(peer, credentials=None, profile="nobody")(FIRST, timeout=PATIENCE)

    @pytest.mark.parametrize(
        "kind", ["function", "coroutine function", "object", "function that gives a coroutine"]
    )
    async def test_a_callable_is_asked_for_every_stream(self, ca: trustme.CA, kind: str) -> None:
        """Temporary credentials are fresh for each stream, and the same throughout it."""
        asked: list[str] = []

        def plain() -> Credentials:
            asked.append(threading.current_thread().name)
            return CREDENTIALS

        async def coroutine() -> Credentials:
            asked.append(threading.current_thread().name)
            return CREDENTIALS

        class Vault:
            async def __call__(self) -> Credentials:
                return await coroutine()

        source: Any = {
            "function": plain,
            "coroutine function": coroutine,
            "object": Vault(),
            "function that gives a coroutine": lambda *_: coroutine(),
        }[kind]

        async with Peer(serve, ca) as peer:
            connect = connector(peer, credentials=source)
            for _ in range(2):
                stream = await connect(FIRST[:1], timeout=PATIENCE)
                await stream.aclose()
        where = "novasonic-aws" if kind == "function" else threading.current_thread().name
        assert asked == [where, where]

    @pytest.mark.parametrize("asynchronous", [True, False])
    async def test_a_callable_that_hangs_is_given_up_at_the_deadline(
        self, ca: trustme.CA, asynchronous: bool
    ) -> None:
        release = threading.Event()

        def hang() -> Credentials:
            release.wait()
            return CREDENTIALS

        async def hang_politely() -> Credentials:
            await asyncio.Event().wait()
            return CREDENTIALS

        source = hang_politely if asynchronous else hang
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"within 0\.2 s: credentials=.*hang"):
                await connector(peer, credentials=source)(FIRST, timeout=0.2)
            assert peer.connections == 0
        release.set()
        await until(lambda: not looking_up())

    async def test_a_callable_that_raises_is_named(self, ca: trustme.CA) -> None:
        def broken() -> Credentials:
            raise KeyError("vault")

        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"broken raised KeyError: 'vault'") as caught:
                await connector(peer, credentials=broken)(FIRST, timeout=PATIENCE)
        assert isinstance(caught.value.__cause__, KeyError)

    async def test_a_callable_may_raise_what_it_means(self, ca: trustme.CA) -> None:
        async def careful() -> Credentials:
            raise CredentialsError("the vault is locked")

        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"^the vault is locked$"):
                await connector(peer, credentials=careful)(FIRST, timeout=PATIENCE)

    async def test_a_callable_that_returns_something_else_is_named(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="returned tuple, not Credentials"):
                await connector(peer, credentials=lambda: ("a", "b"))(FIRST, timeout=PATIENCE)

    def test_credentials_keep_their_secrets(self) -> None:
        assert repr(CREDENTIALS) == "Credentials(access_key='AKIDEXAMPLE', expires_at=None)"

    @pytest.mark.parametrize("halves", [("", "secret"), ("key", "")])
    def test_credentials_have_two_halves(self, halves: tuple[str, str]) -> None:
        with pytest.raises(ConfigurationError, match="both halves"):
            Credentials(*halves)

    def test_an_expiry_has_a_time_zone(self) -> None:
        with pytest.raises(ConfigurationError, match="time zone"):
            Credentials("key", "secret", expires_at=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


HOURS = 6 * 3600.0
SOURCES = {
    # What a program without botocore is told; None where it is not needed.
    "environment": None,
    "process": None,
    "container": "AWS_CONTAINER_CREDENTIALS_FULL_URI takes a container's role, which",
    "instance": "the role of an EC2 instance",
    "role": "profile 'speech' takes a role, which",
    "web identity": "AWS_WEB_IDENTITY_TOKEN_FILE takes a role by web identity, which",
    "web identity of a profile": "profile 'speech' takes a role by web identity, which",
    "SSO": "profile 'speech' signs in by SSO, which",
    "SSO without a session": "profile 'speech' signs in by SSO, which",
    "login": "profile 'speech' signs in by `aws login`, which",
}
NEEDS_BOTOCORE = [source for source, told in SOURCES.items() if told]
NEEDS_NOTHING = [source for source, told in SOURCES.items() if not told]


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    async with Issuer(lasts=HOURS).serve() as issuer:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", issuer.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", issuer.url)
        yield issuer


@pytest.fixture(autouse=True)
def botocore_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its attempts to reach a container's service it would sleep."""
    monkeypatch.setattr(botocore.utils.ContainerMetadataFetcher, "SLEEP_TIME", 0)


def write_profile(directory: Path, **says: str) -> str:
    """Write the profile `speech` and what it may refer to."""
    (directory / "config").write_text(
        textwrap.dedent(f"""
            [sso-session company]
            sso_region = us-east-1
            sso_start_url = https://sso.example
            [profile keys]
            aws_access_key_id = AKIDEXAMPLE
            aws_secret_access_key = {SECRET}
            [profile speech]
        """)
        + "\n".join(f"{key} = {value}" for key, value in says.items())
    )
    return "speech"


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


PACKAGE = """
from smithy_aws_core.identity import AWSCredentialsIdentity, StaticCredentialsResolver
from smithy_aws_core.identity.chain import Standard, StandardProvider

class Provider:
    name = "{slot}"
    ordering = Standard(slot=StandardProvider.{slot})

    async def setup(self, identity_type, setup):
        keys = AWSCredentialsIdentity(
            access_key_id="ASIAEXAMPLE",
            secret_access_key="{secret}",
            session_token="the-session-token-of-the-package",
        )
        setup.add_resolver(StaticCredentialsResolver(keys))
"""


class Machine:
    """Where a program runs: its environment and its `~/.aws`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, issuer: Issuer) -> None:
        self._monkeypatch = monkeypatch
        self._directory = directory
        self._issuer = issuer

    def offers(self, source: str, lasts: float = HOURS) -> str | None:
        """Have a source give credentials; return the profile to use, if it takes one."""
        setenv, issuer = self._monkeypatch.setenv, self._issuer
        issuer.lasts = lasts
        arn = "arn:aws:iam::123456789012:role/speech"
        proof = self._directory / "proof"
        proof.write_text(issuer.PROOF)
        account = {"sso_account_id": "123456789012", "sso_role_name": "speech"}
        match source:
            case "environment":
                setenv("AWS_ACCESS_KEY_ID", issuer.KEY)
                setenv("AWS_SECRET_ACCESS_KEY", SECRET)
                setenv("AWS_SESSION_TOKEN", issuer.token)
                setenv("AWS_CREDENTIAL_EXPIRATION", in_seconds(lasts))
            case "process":
                said = self._directory / "said"
                keys = {"AccessKeyId": issuer.KEY, "SecretAccessKey": SECRET, "SessionToken": issuer.token}
                said.write_text(json.dumps({"Version": 1, "Expiration": in_seconds(lasts), **keys}))
                return write_profile(self._directory, credential_process=f"cat {said}")
            case "container":
                setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/container")
                setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", issuer.PROOF)
            case "instance":
                self._monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
                setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", issuer.url)
            case "role":
                return write_profile(self._directory, role_arn=arn, source_profile="keys")
            case "web identity":
                setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(proof))
                setenv("AWS_ROLE_ARN", arn)
            case "web identity of a profile":
                return write_profile(self._directory, role_arn=arn, web_identity_token_file=str(proof))
            case "SSO":
                self._sign_in("company")
                return write_profile(self._directory, sso_session="company", **account)
            case "SSO without a session":
                url = "https://sso.example"
                self._sign_in(url)
                return write_profile(self._directory, sso_start_url=url, sso_region="us-east-1", **account)
            case _:
                return write_profile(self._directory, login_session=arn)
        return None

    def installs(self, slot: str) -> None:
        """Install a package that serves a source for the SDK, as those that AWS has published do."""
        name = f"speech_credentials_{slot.lower()}"
        info = self._directory / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[smithy_aws_core.identity.chain_providers]\n{slot} = {name}:Provider\n"
        )
        (info.parent / f"{name}.py").write_text(PACKAGE.format(slot=slot, secret=SECRET))
        self._monkeypatch.syspath_prepend(info.parent)

    def _sign_in(self, name: str) -> None:
        """Leave what `aws sso login` leaves."""
        cache = self._directory / "sso"
        cache.mkdir()
        for place in (botocore.credentials.SSOProvider, botocore.tokens.SSOTokenProvider):
            # They look for the home directory once, when they are imported.
            self._monkeypatch.setattr(place, "_SSO_TOKEN_CACHE_DIR", str(cache))
        token = {"accessToken": self._issuer.PROOF, "expiresAt": in_seconds(HOURS)}
        (cache / f"{hashlib.sha1(name.encode()).hexdigest()}.json").write_text(json.dumps(token))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, issuer: Issuer) -> Machine:
    return Machine(monkeypatch, tmp_path, issuer)


class Sightings:
    """A peer's behaviour: it is an echo, and keeps the session tokens that it was shown."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []

    async def __call__(self, call: Call) -> None:
        self.tokens.append(call.headers.get("x-amz-security-token"))
        await serve(call)


async def use(connect: Connector) -> Transport:
    """Open a stream, have its signatures checked, and close it."""
    stream = await connect(FIRST[:1], timeout=PATIENCE)
    await stream.send(b"verified")
    assert await stream.receive() == b"verified"
    await stream.aclose()
    return stream


class TestWhereCredentialsComeFrom:
    @pytest.mark.parametrize("source", [source for source in SOURCES if source != "login"])
    async def test_with_botocore_all_are_found_and_when_they_expire(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer, source: str
    ) -> None:
        await self.find(source, ca, machine, issuer)
        assert issuer.given == (1 if source in NEEDS_BOTOCORE else 0)

    @pytest.mark.usefixtures("without_botocore")
    @pytest.mark.parametrize("source", NEEDS_NOTHING)
    async def test_without_botocore_some_are_found_and_when_they_expire(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer, source: str
    ) -> None:
        await self.find(source, ca, machine, issuer)

    async def find(self, source: str, ca: trustme.CA, machine: Machine, issuer: Issuer) -> None:
        profile = machine.offers(source)
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            stream = await use(connector(peer, credentials=None, profile=profile))
        assert seen.tokens == [issuer.token]
        assert stream.expires_in is not None
        assert HOURS - 600 < stream.expires_in <= HOURS

    @pytest.mark.usefixtures("without_botocore")
    @pytest.mark.parametrize("source", NEEDS_BOTOCORE)
    async def test_without_botocore_the_others_are_named_with_what_to_install(
        self, ca: trustme.CA, machine: Machine, source: str
    ) -> None:
        profile = machine.offers(source)
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError) as caught:
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=PATIENCE)
        assert f"{SOURCES[source]} needs botocore: pip install 'novasonic[boto3]'" in str(caught.value)

    @pytest.mark.usefixtures("without_botocore")
    @pytest.mark.parametrize(
        ("slot", "source"), [("EC2_INSTANCE_METADATA", "SSO"), ("ECS_CONTAINER", "container")]
    )
    async def test_a_package_for_the_sdk_serves_what_it_is_for_and_nothing_else(
        self, ca: trustme.CA, machine: Machine, slot: str, source: str
    ) -> None:
        """Who signs in by SSO must not end up as the machine."""
        machine.installs(slot)
        profile = machine.offers(source)
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=None, profile=profile)
            if source == "SSO":
                with pytest.raises(CredentialsError, match="profile 'speech' signs in by SSO"):
                    await connect(FIRST, timeout=PATIENCE)
            else:
                await use(connect)
        assert seen.tokens == ([] if source == "SSO" else ["the-session-token-of-the-package"])

    @pytest.mark.usefixtures("either_way")
    async def test_a_program_that_fails_is_quoted(self, ca: trustme.CA, tmp_path: Path) -> None:
        script = tmp_path / "vault.py"
        script.write_text("raise SystemExit('the vault is locked')")
        profile = write_profile(tmp_path, credential_process=f"{sys.executable} {script}")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"of profile 'speech': .*the vault is locked"):
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=PATIENCE)

    @pytest.mark.usefixtures("either_way")
    async def test_a_command_that_is_none_says_why(self, ca: trustme.CA, tmp_path: Path) -> None:
        profile = write_profile(tmp_path, credential_process="vault 'speech")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="No closing quotation"):
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=PATIENCE)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    @pytest.mark.usefixtures("either_way")
    async def test_a_program_that_hangs_is_given_up_at_the_deadline(
        self, ca: trustme.CA, tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        profile = write_profile(tmp_path, credential_process=f"cat {pipe}")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"within 0\.5 s: profile 'speech' did not answer"):
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=0.5)
        (await asyncio.to_thread(pipe.open, "w")).close()  # the program ends
        await until(lambda: not looking_up())

    @pytest.mark.usefixtures("either_way")
    async def test_an_answer_that_cannot_be_read_is_not_shown(self, ca: trustme.CA, tmp_path: Path) -> None:
        """Half of it may be a secret."""
        (tmp_path / "said").write_text(f'{{"SecretAccessKey": "{SECRET}", "SessionToken": ')
        profile = write_profile(tmp_path, credential_process=f"cat {tmp_path / 'said'}")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="line 1") as caught:
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=PATIENCE)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    async def test_a_container_that_cannot_be_understood_is_not_quoted_in_logs(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What botocore logs at DEBUG is looked through after each test."""

        async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            said = f'{{"SecretAccessKey": "{SECRET}'.encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(said) + said
            )
            await writer.drain()

        async with Peer(forever, ca) as peer, raw_peer(garble) as port:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/")
            with pytest.raises(CredentialsError, match="Unable to parse JSON") as caught:
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.usefixtures("either_way")
    async def test_a_time_that_is_none_is_refused(
        self, ca: trustme.CA, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine.offers("environment")
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "soon")
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match="soon"):
                await connector(peer, credentials=None)(FIRST, timeout=PATIENCE)


def expiring(seconds: float, token: str = "") -> Credentials:
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return Credentials("ASIAEXAMPLE", SECRET, f"the-session-token-{token}", expires_at=expires_at)


class WallClock:
    """The clock on the wall, as the connector reads it. No test waits for credentials to expire."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0  # seconds
        now = bedrock._now
        monkeypatch.setattr(bedrock, "_now", lambda: now() + self.ahead * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


class TestFreshCredentials:
    """A conversation goes on in stream after stream, for longer than any credentials last."""

    @pytest.mark.usefixtures("either_way")
    async def test_a_file_is_read_again_for_each_stream(self, ca: trustme.CA, tmp_path: Path) -> None:
        """Tools that sign in write temporary keys there, and nobody knows for how long they last."""
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=None, profile="speech")
            for token in ("the-session-token-1", "the-session-token-2"):
                keys = {"aws_access_key_id": "ASIAEXAMPLE", "aws_secret_access_key": SECRET}
                write_profile(tmp_path, **keys, aws_session_token=token)
                assert (await use(connect)).expires_in is None
        assert seen.tokens == ["the-session-token-1", "the-session-token-2"]

    async def test_botocore_is_not_asked_again_while_they_outlast_a_stream(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer
    ) -> None:
        profile = machine.offers("role")
        async with Peer(Sightings(), ca) as peer:
            connect = connector(peer, credentials=None, profile=profile)
            await use(connect)
            await use(connect)
        assert issuer.given == 1

    @pytest.mark.parametrize("source", ["role", "web identity", "SSO", "SSO without a session", "container"])
    async def test_botocore_renews_those_that_would_expire_within_a_stream(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer, source: str
    ) -> None:
        profile = machine.offers(source, lasts=400)
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=None, profile=profile)
            await use(connect)
            stream = await use(connect)
        first, second = seen.tokens
        assert first != second == issuer.token
        assert stream.expires_in is not None
        assert stream.expires_in <= 400

    @pytest.mark.parametrize("source", ["role", "SSO", "container"])
    async def test_what_cannot_be_renewed_is_used_until_it_has_expired(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer, clock: WallClock, source: str
    ) -> None:
        """A conversation does not end because a service is away for a moment."""
        profile = machine.offers(source, lasts=400)
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=None, profile=profile)
            await use(connect)
            issuer.refuses = True
            await use(connect)
            assert seen.tokens[0] == seen.tokens[1]
            clock.ahead = 500
            with pytest.raises(CredentialsError):
                await connect(FIRST, timeout=PATIENCE)
            issuer.refuses = False
            issuer.lasts = HOURS
            await use(connect)
        assert seen.tokens[2] == issuer.token

    async def test_after_a_failure_all_places_are_looked_through_again(
        self, ca: trustme.CA, machine: Machine, issuer: Issuer, tmp_path: Path
    ) -> None:
        """Somebody may have mended it by changing the profile."""
        profile = machine.offers("role", lasts=400)
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=None, profile=profile)
            await use(connect)
            issuer.refuses = True
            await use(connect)
            write_profile(tmp_path, aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=SECRET)
            await use(connect)
        assert seen.tokens == ["the-session-token-1", "the-session-token-1", None]

    @pytest.mark.usefixtures("either_way")
    @pytest.mark.parametrize("source", NEEDS_NOTHING)
    @pytest.mark.parametrize("lasts", [-60, 30])
    async def test_those_that_have_expired_or_soon_will_are_not_tried(
        self, ca: trustme.CA, machine: Machine, source: str, lasts: int
    ) -> None:
        profile = machine.offers(source, lasts=lasts)
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError) as caught:
                await connector(peer, credentials=None, profile=profile)(FIRST, timeout=PATIENCE)
            assert peer.connections == 0
        when = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        said = f"expired at {when}" if lasts < 0 else f"expire at {when}, too soon to open a stream"
        assert re.match(f"the AWS credentials {said}.*aws sso login", str(caught.value))

    @pytest.mark.parametrize("lasts", [-60, 30])
    async def test_a_source_is_asked_once_more_for_better_ones(self, ca: trustme.CA, lasts: int) -> None:
        """It may have kept some that were good when it was asked last."""
        vault = iter([expiring(lasts, "old"), expiring(HOURS, "new")])
        seen = Sightings()
        async with Peer(seen, ca) as peer:
            stream = await use(connector(peer, credentials=lambda: next(vault)))
        assert seen.tokens == ["the-session-token-new"]
        assert stream.expires_in is not None
        assert HOURS - 600 < stream.expires_in <= HOURS

    async def test_a_source_that_has_only_expired_ones_is_not_asked_for_ever(self, ca: trustme.CA) -> None:
        asked: list[Credentials] = []

        def vault() -> Credentials:
            asked.append(expiring(-60))
            return asked[-1]

        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"expired at .* UTC\. Get new credentials"):
                await connector(peer, credentials=vault)(FIRST, timeout=PATIENCE)
            assert peer.connections == 0
        assert len(asked) == 2

    async def test_who_passes_expired_ones_hears_how_to_have_them_renewed(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(CredentialsError, match=r"expired at .* UTC\. Pass a callable"):
                await connector(peer, credentials=expiring(-60))(FIRST, timeout=PATIENCE)
            assert peer.connections == 0

    async def test_a_callable_that_fails_is_made_up_for_by_what_it_gave_before(
        self, ca: trustme.CA, clock: WallClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers: list[Credentials | None] = [expiring(400, "1"), None, None, expiring(HOURS, "2")]

        def vault() -> Credentials:
            if (answer := answers.pop(0)) is None:
                raise ConnectionError("the vault is away")
            return answer

        seen = Sightings()
        async with Peer(seen, ca) as peer:
            connect = connector(peer, credentials=vault)
            await use(connect)
            await use(connect)
            assert re.search("the last ones are used .*: credentials=.*the vault is away", caplog.text)
            clock.ahead = 500
            with pytest.raises(CredentialsError, match="the vault is away"):
                await connect(FIRST, timeout=PATIENCE)
            await use(connect)
        assert seen.tokens == ["the-session-token-1", "the-session-token-1", "the-session-token-2"]

    @pytest.mark.clock("fast")
    async def test_a_callable_that_hangs_is_made_up_for_in_time_to_open_a_stream(
        self, ca: trustme.CA, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked: list[str] = []

        async def vault() -> Credentials:
            asked.append("once")
            if len(asked) > 1:
                await asyncio.Event().wait()
            return CREDENTIALS

        async with Peer(serve, ca) as peer:
            connect = connector(peer, credentials=vault, stall_timeout=300.0)
            for _ in range(2):
                stream = await connect(FIRST[:1], timeout=60.0)
                await stream.aclose()
        assert asked == ["once", "once"]
        assert "did not answer" in caplog.text


class TestConfiguration:
    @pytest.mark.parametrize(
        "settings",
        [
            {"model": ""},
            {"credentials": "AKID"},
            {"endpoint_url": "http://127.0.0.1:8443"},
            {"endpoint_url": "junk"},
            {"endpoint_url": "https://"},
            {"endpoint_url": "https://host:port"},
            {"endpoint_url": "https://[::1"},
            {"endpoint_url": "https://user:pass@host"},
        ],
    )
    def test_an_argument_that_cannot_be_right_is_refused_at_once(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            connector("https://host", **settings)

    async def test_a_missing_region_says_how_to_set_it(self, ca: trustme.CA) -> None:
        async with Peer(forever, ca) as peer:
            with pytest.raises(ConfigurationError, match="set AWS_REGION"):
                await connector(peer, region=None)(FIRST, timeout=PATIENCE)

    @pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
    async def test_region_and_endpoint_come_from_the_environment(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, REGION)
        async with Peer(serve, ca) as peer:
            monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"{peer.url}/")
            stream = await BedrockConnector(MODEL, credentials=CREDENTIALS)(FIRST[:1], timeout=PATIENCE)
            await stream.send(b"verified")
            assert await stream.receive() == b"verified"
            await stream.aclose()

    async def test_an_endpoint_of_the_environment_is_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:8443")
        with pytest.raises(ConfigurationError, match="is not an endpoint"):
            await BedrockConnector(MODEL, region=REGION, credentials=CREDENTIALS)(FIRST, timeout=PATIENCE)

    def test_the_port_that_the_signer_chokes_on_is_left_out(self) -> None:
        assert bedrock._endpoint("https://host:443/base/", "endpoint_url") == "https://host/base"
        assert bedrock._endpoint("https://host:8443", "endpoint_url") == "https://host:8443"

    @pytest.mark.parametrize("host", ["ho st", "host:0", "a..b", "-"])
    async def test_an_endpoint_that_cannot_be_addressed_is_some_error_of_ours(self, host: str) -> None:
        with pytest.raises((ConfigurationError, ConnectError)):
            await connector(f"https://{host}")(FIRST, timeout=PATIENCE)

    @pytest.mark.parametrize("content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
    async def test_a_ca_bundle_that_is_none_is_a_configuration_error(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "bundle.pem"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
        async with Peer(forever, ca) as peer:
            with pytest.raises(ConfigurationError, match="AWS_CA_BUNDLE"):
                await connector(peer)(FIRST, timeout=PATIENCE)

    async def test_the_systems_certificates_count_where_no_bundle_is_named(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_CA_BUNDLE")
        async with Peer(forever, ca, handshake_timeout=1.0) as peer:
            with pytest.raises(ConnectError):  # they do not vouch for this peer
                await connector(peer)(FIRST, timeout=0.5)
            await settled()

    @pytest.mark.parametrize("user", ["", "user:p%40ss@"])
    async def test_a_proxy_is_gone_through(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, user: str
    ) -> None:
        seen: list[str] = []

        async with Peer(serve, ca) as peer, raw_peer(proxy(seen)) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{user}127.0.0.1:{port}")
            stream = await connector(peer)(FIRST[:1], timeout=PATIENCE)
            await stream.send(b"through")
            assert await stream.receive() == b"through"
            await stream.aclose()
        assert seen[0].startswith(f"CONNECT {peer.url.removeprefix('https://')} ")
        assert ("Basic dXNlcjpwQHNz" in seen[0]) is bool(user)

    async def test_no_proxy_keeps_out_of_it(self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with opened(forever, ca):
            pass

    @pytest.mark.parametrize("address", ["socks5://127.0.0.1:1", "http://", "http://host:port"])
    async def test_a_proxy_that_is_none_is_a_configuration_error(
        self, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, address: str
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", address)
        async with Peer(forever, ca) as peer:
            with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
                await connector(peer)(FIRST, timeout=PATIENCE)

    async def test_a_region_without_the_model_passes_and_is_named_by_the_error(self, ca: trustme.CA) -> None:
        headers = {"x-amzn-errortype": "ValidationException"}
        body = b'{"message":"The provided model identifier is invalid."}'
        async with Peer(http_refusal(400, headers, body), ca) as peer:
            with pytest.raises(ModelNotFoundError, match=f"{MODEL} in sa-east-1"):
                await connector(peer, region="sa-east-1")(FIRST, timeout=PATIENCE)


class TestLeaks:
    async def test_thirty_streams_leave_no_socket_thread_or_memory(self, ca: trustme.CA) -> None:
        async with Peer(serve, ca) as peer:
            connect = connector(peer)

            async def once() -> None:
                stream = await connect(FIRST[:1], timeout=PATIENCE)
                await stream.send(b"{}")
                assert await stream.receive() == b"{}"
                await stream.aclose()

            def wires() -> int:
                gc.collect()
                return sum(type(item).__name__ in {"_Wire", "Http2ClientStream"} for item in gc.get_objects())

            for _ in range(3):
                await once()
            before, sockets, threads = wires(), open_sockets(), threading.active_count()
            for _ in range(30):
                await once()
            await until(lambda: open_sockets() <= sockets and threading.active_count() <= threads)
            await until(lambda: wires() <= before)  # pytest keeps those of other tests in their tracebacks


def open_sockets() -> int:
    """Return how many sockets this process has open, where the system says so."""
    directory = Path("/proc/self/fd")
    if not directory.exists():
        return 0
    links = []
    for entry in directory.iterdir():
        with contextlib.suppress(OSError):
            links.append(entry.readlink().name)
    return sum(link.startswith("socket:") for link in links)


PROGRAM = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import trustme
from peers import REGION, SECRET, Peer
from novasonic.bedrock import BedrockConnector, Credentials
from novasonic.errors import SonicError

def seen(task):
    task.cancelled() or task.exception()

async def behave(call):
    await call.document()
    {behaviour}

async def main():
    ca = trustme.CA()
    ca.cert_pem.write_to_path({bundle!r})
    async with Peer(behave, ca) as peer:
        connect = BedrockConnector({model!r}, region=REGION, credentials=Credentials("AKID", SECRET),
                                   endpoint_url=peer.url)
        {client}

asyncio.run(main())
print("done")
"""


class TestTheProcess:
    @pytest.mark.parametrize(
        ("behaviour", "client"),
        [
            (
                "await call.forever()",
                "try: await connect([b'{}'], timeout=0.5)\n        except SonicError: pass",
            ),
            ("call.abort()", "try: await connect([b'{}'])\n        except SonicError: pass"),
            ("await call.respond()", "stream = await connect([b'{}'])"),  # and nobody closes it
            ("await call.respond(); await call.reset(0)", "stream = await connect([b'{}'])"),
            (
                "await call.respond(); await call.forever()",
                # And nobody awaits the task.
                "asyncio.create_task((await connect([b'{}'])).receive()).add_done_callback(seen)",
            ),
        ],
    )
    def test_a_program_ends_whatever_became_of_its_streams(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, client: str
    ) -> None:
        program = PROGRAM.format(
            tests=str(Path(__file__).parent),
            bundle=str(tmp_path / "ca.pem"),
            model=MODEL,
            behaviour=behaviour,
            client=client,
        )
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert run(program) == "done\n"

    def test_a_lookup_that_hangs_does_not_keep_a_program_from_ending(self) -> None:
        program = textwrap.dedent("""
            import asyncio, threading
            from novasonic.bedrock import BedrockConnector
            from novasonic.errors import CredentialsError

            connect = BedrockConnector("model", region="us-east-1", credentials=threading.Event().wait)
            try:
                asyncio.run(connect([], timeout=0.1))
            except CredentialsError:
                print("done")
        """)
        assert run(program) == "done\n"

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_a_forked_child_has_connections_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Web servers load an application, use it, and then fork; the CRT's thread does not come along."""
        program = PROGRAM.format(
            tests=str(Path(__file__).parent),
            bundle=str(tmp_path / "ca.pem"),
            model=MODEL,
            behaviour="await call.respond(); await call.forever()",
            client="await (await connect([b'{}'])).aclose()",
        ).replace('print("done")', FORK)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert run(program) == "child 0\n"


FORK = """
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons advise against what is tested here
child = os.fork()
if child == 0:
    asyncio.run(main())
    os._exit(0)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(program: str) -> str:
    """Return what a program prints; it must end by itself and complain about nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout
