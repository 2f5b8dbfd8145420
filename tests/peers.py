"""A service on 127.0.0.1 that behaves exactly as badly as a test wants: TLS, HTTP/2 and event-stream frames.

A test says what the peer does in a few lines, a coroutine function over one `Call`; the peer does the rest:

    async def refuse(call: Call) -> None:
        await call.respond(429, {"x-amzn-errortype": "ThrottlingException"}, b"{}", end=True)

    async with Peer(refuse, ca) as peer:
        ...  # connect to peer.url

This is no emulator of Nova Sonic: it knows frames and signatures, and nothing of what they carry.
"""

import asyncio
import contextlib
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast

import h2.config
import h2.connection
import h2.events
import trustme
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

from novasonic.errors import RemoteProtocolError
from novasonic.eventstream import ChunkVerifier, FrameDecoder, decode_chunk, encode_chunk

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"

Behaviour = Callable[["Call"], Awaitable[None]]


class Call:
    """One stream, as its peer sees it."""

    def __init__(self, connection: "_Connection", stream_id: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self.stream_id = stream_id
        self.complaint: Exception | None = None  # what the client sent that could not be read
        self._connection = connection
        self._decoder = FrameDecoder()
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        signature = headers.get("authorization", "").rpartition("Signature=")[2]
        self._verifier = ChunkVerifier(secret_key=SECRET, region=REGION, signature=signature)

    async def document(self) -> bytes | None:
        """Return the client's next document, its signature checked, or None for its goodbye."""
        found = await self._frames.get()
        if self.complaint is not None:
            raise self.complaint
        return found

    async def respond(
        self,
        status: int = 200,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        end: bool = False,
    ) -> None:
        fields = [(":status", str(status)), *(headers or {"x-amzn-requestid": "request-1"}).items()]
        self._connection.h2.send_headers(self.stream_id, fields, end_stream=end and not body)
        if body:
            self._connection.h2.send_data(self.stream_id, body, end_stream=end)
        await self._connection.flush()

    async def send(self, data: bytes) -> None:
        """Send bytes, as fast as the client's window allows."""
        while data:
            while not (room := self.window()):
                await self._connection.window_opened()
            room = min(room, self._connection.h2.max_outbound_frame_size)
            self._connection.h2.send_data(self.stream_id, data[:room])
            data = data[room:]
            await self._connection.flush()

    async def say(self, document: bytes) -> None:
        await self.send(encode_chunk(document))

    def window(self) -> int:
        """Return how many bytes the client would take now."""
        return self._connection.h2.local_flow_control_window(self.stream_id)

    async def end(self) -> None:
        self._connection.h2.end_stream(self.stream_id)
        await self._connection.flush()

    async def reset(self, code: int) -> None:
        self._connection.h2.reset_stream(self.stream_id, code)
        await self._connection.flush()

    async def go_away(self, last_stream: int) -> None:
        """Say that no stream beyond `last_stream` was or will be served."""
        # Not h2's own: that would take the connection for closed, and nothing more could be sent.
        self._connection.writer.write(GoAwayFrame(last_stream_id=last_stream).serialize())
        await self._connection.writer.drain()

    def abort(self) -> None:
        """Cut the connection, without a word of TLS."""
        self._connection.writer.transport.abort()

    def stop_reading(self) -> None:
        """Leave everything that comes in the socket's buffer, and no window open."""
        cast("asyncio.Transport", self._connection.writer.transport).pause_reading()

    async def forever(self) -> None:
        """Do nothing until the connection is gone."""
        await self._connection.closed.wait()

    def take(self, data: bytes) -> None:
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                inner = self._verifier.open(frame)
                self._frames.put_nowait(None if inner is None else decode_chunk(inner))
        except RemoteProtocolError as exc:
            self.complaint = exc
            self._frames.put_nowait(None)


class _Connection:
    def __init__(self, behave: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.closed = asyncio.Event()
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._behave = behave
        self._reader = reader
        self._calls: dict[int, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._window = asyncio.Event()

    async def run(self) -> None:
        self.h2.initiate_connection()
        try:
            await self.flush()
            while data := await self._reader.read(65_536):
                for event in self.h2.receive_data(data):
                    self._handle(event)
                await self.flush()
        finally:
            self.closed.set()
            self._window.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                call = Call(self, event.stream_id, dict(cast("Any", event.headers)))
                self._calls[event.stream_id] = call
                task = asyncio.get_running_loop().create_task(self._serve(call), name="peer-call")
                self._tasks.add(task)
            case h2.events.DataReceived():
                self._calls[event.stream_id].take(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self._window.set()
            case _:
                pass

    async def _serve(self, call: Call) -> None:
        # A client that hangs up in the middle of what a peer does is what most tests are about.
        with contextlib.suppress(OSError, ProtocolError):
            await self._behave(call)

    async def window_opened(self) -> None:
        self._window.clear()
        await self._window.wait()
        if self.closed.is_set():
            raise ConnectionResetError

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.writer.write(data)
            await self.writer.drain()


class Peer:
    """A server that treats every stream with `behave`.

    Args:
        behave: What to do with a stream.
        ca: Who signs its certificate.
        alpn: What it says it speaks.
        handshake_timeout: Seconds that a client may take for TLS.
        hangs_up: Whether it does so once TLS is agreed on.

    Attributes:
        url: Its address, `https://127.0.0.1:…`.
        connections: How many were made to it.
    """

    def __init__(
        self,
        behave: Behaviour,
        ca: trustme.CA,
        *,
        alpn: tuple[str, ...] = ("h2",),
        handshake_timeout: float = 60.0,
        hangs_up: bool = False,
    ) -> None:
        self.url = ""
        self.connections = 0
        self._behave = behave
        self._handshake_timeout = handshake_timeout
        self._hangs_up = hangs_up
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.set_alpn_protocols(list(alpn))
        ca.issue_cert("127.0.0.1", "localhost").configure_cert(self._tls)
        self._open: Open = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls, ssl_handshake_timeout=self._handshake_timeout
        )
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await _end(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._hangs_up:
            writer.transport.abort()
            return
        with _listed(self._open, writer), contextlib.suppress(OSError, ProtocolError):
            await _Connection(self._behave, reader, writer).run()


Open = dict[asyncio.StreamWriter, asyncio.Task[None]]
"""The connections of a server, and the tasks that serve them."""


@contextlib.contextmanager
def _listed(connections: Open, writer: asyncio.StreamWriter) -> Iterator[None]:
    task = asyncio.current_task()
    assert task is not None
    connections[writer] = task
    try:
        yield
    finally:
        writer.transport.abort()
        del connections[writer]


async def _end(connections: Open) -> None:
    """Cut what is still open, and wait until nobody serves it any more."""
    tasks = list(connections.values())
    for writer in list(connections):
        cast(
            "asyncio.Transport", writer.transport
        ).resume_reading()  # a transport that does not read never hears that it was cut
        writer.transport.abort()
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def raw_peer(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]],
) -> AsyncIterator[int]:
    """Run a TCP server without TLS; give its port."""
    connections: Open = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _listed(connections, writer), contextlib.suppress(OSError):
            await handle(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await _end(connections)


def proxy(seen: list[str]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return what an HTTP proxy does with CONNECT; the heads of the requests go to `seen`."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        host, _, port = head.split()[1].rpartition(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    return handle


class Issuer:
    """Gives out credentials, as services of AWS do: to containers, to EC2, for roles (STS) and after SSO.

    All of them on one port of 127.0.0.1, without TLS, and each to whoever shows `PROOF`.

    Args:
        lasts: Seconds until what it gives has expired.

    Attributes:
        url: Its address, `http://127.0.0.1:…`.
        refuses: Set, it gives nothing.
        given: How many times it gave something.
    """

    PROOF = "the-session-token-that-proves-it"
    KEY = "ASIAEXAMPLE"

    def __init__(self, *, lasts: float) -> None:
        self.url = ""
        self.lasts = lasts
        self.refuses = False
        self.given = 0

    @property
    def token(self) -> str:
        """The session token that it gave last."""
        return f"the-session-token-{self.given}"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Self]:
        async with raw_peer(self._handle) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
        method, path, _ = request.split()
        said = None if self.refuses else self._answer(method, path.partition("?")[0], headers, body)
        status = "403 Forbidden" if said is None else "200 OK"  # 403 is final to those who would try again
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len(said or '')}\r\n\r\n"
        writer.write(f"{head}{said or ''}".encode())
        await writer.drain()

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: str) -> str | None:
        match method, path:
            case "PUT", "/latest/api/token":
                return self.PROOF
            case (
                "GET",
                "/latest/meta-data/iam/security-credentials" | "/latest/meta-data/iam/security-credentials/",
            ):
                return "speech"
            case "GET", "/latest/meta-data/iam/security-credentials/speech":
                return self._metadata(headers.get("x-aws-ec2-metadata-token"))
            case "GET", "/container":
                return self._metadata(headers.get("authorization"))
            case "GET", "/federation/credentials":
                return self._portal(headers.get("x-amz-sso_bearer_token"))
            case "POST", "/":
                return self._sts(dict(urllib.parse.parse_qsl(body)), headers.get("authorization", ""))
            case _:
                return None

    def _issue(self) -> datetime:
        self.given += 1
        return datetime.now(UTC) + timedelta(seconds=self.lasts)

    def _metadata(self, proof: str | None) -> str | None:
        if proof != self.PROOF:
            return None
        expires = f"{self._issue():%Y-%m-%dT%H:%M:%SZ}"
        keys = {"AccessKeyId": self.KEY, "SecretAccessKey": SECRET, "Token": self.token}
        return json.dumps({**keys, "Expiration": expires})

    def _portal(self, proof: str | None) -> str | None:
        if proof != self.PROOF:
            return None
        expires = round(self._issue().timestamp() * 1000)
        keys = {"accessKeyId": self.KEY, "secretAccessKey": SECRET, "sessionToken": self.token}
        return json.dumps({"roleCredentials": {**keys, "expiration": expires}})

    def _sts(self, asked: Mapping[str, str], authorization: str) -> str | None:
        action = asked["Action"]
        by_keys = action == "AssumeRole" and f"/{REGION}/sts/aws4_request" in authorization
        if not by_keys and asked.get("WebIdentityToken") != self.PROOF:
            return None
        expires = f"{self._issue():%Y-%m-%dT%H:%M:%SZ}"
        return f"""
            <{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>
                <AccessKeyId>{self.KEY}</AccessKeyId>
                <SecretAccessKey>{SECRET}</SecretAccessKey>
                <SessionToken>{self.token}</SessionToken>
                <Expiration>{expires}</Expiration>
            </Credentials></{action}Result></{action}Response>"""
