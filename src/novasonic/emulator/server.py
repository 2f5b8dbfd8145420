"""Bedrock Runtime on localhost: TLS, HTTP/2, event-stream frames and signatures around the emulated service.

`POST /model/{id}/invoke-with-bidirectional-stream`, and nothing else. Any AWS SDK is its client, and a
program runs against it unchanged when its environment says so::

    async with Emulator(scenario) as bedrock:
        os.environ.update(bedrock.env)

What `h2` does is HTTP/2, what `service` does is Nova Sonic; here is what connects them.
"""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import ssl
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, assert_never, cast
from urllib.parse import unquote

import msgspec

from novasonic.credentials import Credentials
from novasonic.emulator import rules, signature
from novasonic.emulator.log import SessionLog
from novasonic.emulator.mouth import Voice
from novasonic.emulator.outbox import Accepted, Broken, Document, Ended, Failed, Output, Refused
from novasonic.emulator.playback import Playback
from novasonic.emulator.scenario import Scenario, Turn
from novasonic.emulator.service import Service
from novasonic.emulator.signature import Keyring, Signed, UnsignedError
from novasonic.emulator.voice import Speaker
from novasonic.errors import ConfigurationError, RemoteProtocolError
from novasonic.eventstream import (
    ChunkVerifier,
    FrameDecoder,
    decode_chunk,
    encode_chunk,
    encode_error,
    encode_exception,
)
from novasonic.models import Limits

try:
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.errors import ErrorCodes
    from h2.events import (
        DataReceived,
        Event,
        RemoteSettingsChanged,
        RequestReceived,
        StreamEnded,
        StreamReset,
        WindowUpdated,
    )
    from h2.exceptions import ProtocolError
    from hyperframe.frame import GoAwayFrame

    from novasonic.emulator.identity import MADE_UP, Identity
except ImportError as exc:
    raise ImportError("the emulator needs h2 and trustme: pip install 'novasonic[emulator]'") from exc

logger = logging.getLogger("novasonic.emulator.server")

_PATH: Final = ("/model/", "/invoke-with-bidirectional-stream")
_HTTP_1: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"This emulates a service that is spoken to over HTTP/2; offer it as h2 in the TLS handshake.\n"
)
_PREFACE: Final = b"PRI * HTTP/2.0"
_HANDSHAKE_PATIENCE: Final = 5.0
_CLOSE_PATIENCE: Final = 1.0
_NOT_RUNNING: Final = "the emulator is not running: use it with `async with`"
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Emulator:
    """Bedrock with Nova Sonic on localhost.

    Args:
        scenario: What is heard and answered; one for all streams, or one for each in order, the last of them
            for all that follow. None: it says what it has heard, in seconds.
        host: The address to listen on. "0.0.0.0" lets other machines in; its certificate is for localhost.
        port: The port; 0 for any that is free.
        speed: Seconds of the service in one of the clock. The audio of a client does not run faster with it:
            the client sends it faster.
        max_sessions: How many streams may be open at once; one more is throttled.
        region: The region that requests must be signed for.
        credentials: The keys that they must be signed with; of temporary ones, until they expire. None: keys
            that it makes up. `issue()` gives more.
        state: A folder in which the certificate to trust and the keys are kept. An emulator that is killed
            and started again is the same to its clients, if it also listens on the same port. None: each
            start makes a certificate of its own.
        voice: Gives the sounds. None: sound files, `espeak-ng` where it is installed, and else tones.

    Raises:
        ConfigurationError: If an argument cannot be right.

    Attributes:
        credentials: The keys that `env` tells. Those that are kept in a folder are known once it runs.
        expired: Credentials that it refuses as expired.
    """

    def __init__(
        self,
        scenario: Scenario | Sequence[Scenario] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        max_sessions: int = Limits().streams,
        region: str = "us-east-1",
        credentials: Credentials | None = None,
        state: str | os.PathLike[str] | None = None,
        voice: Voice | None = None,
    ) -> None:
        if speed <= 0:
            raise ConfigurationError(f"speed is {speed}, but time passes: it is above 0")
        given = [scenario] if isinstance(scenario, Scenario) else list(scenario or ())
        self.credentials = credentials or MADE_UP
        self.region = region
        self.speed = speed
        self._given = credentials
        self._state = Path(state) if state is not None else None
        self._identity: Identity | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = 0.0
        self._keys = Keyring()
        self.expired = self.issue(0)
        self._scenarios = given
        self._speaker = Speaker([Path(each.folder) for each in given if each.folder])
        self._service = Service(given, voice=voice or self._speaker, max_streams=max_sessions)
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()

    # --- what a program needs to know ---

    @property
    def sessions(self) -> Sequence[SessionLog]:
        """What was noticed about each stream, in the order in which they were opened."""
        return self._service.sessions

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._server is None or not self._server.sockets:
            raise ConfigurationError(_NOT_RUNNING)
        return cast("int", self._server.sockets[0].getsockname()[1])

    @property
    def endpoint_url(self) -> str:
        """Its address, `https://127.0.0.1:…`."""
        host = _reachable(self._address[0])
        return f"https://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def ca_file(self) -> str:
        """The file with the certificate to trust. It is gone when the emulator is, unless that keeps it."""
        return str(self._running.ca_file)

    @property
    def env(self) -> dict[str, str]:
        """The environment that leads any AWS SDK here."""
        found = {
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.endpoint_url,
            "AWS_CA_BUNDLE": self.ca_file,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name in ("NO_PROXY", "no_proxy"):  # whatever proxy is set does not lead here
            others = [each for each in os.environ.get(name, "").split(",") if each]
            found[name] = ",".join(dict.fromkeys([*others, _reachable(self._address[0])]))
        if self.credentials.session_token is not None:
            found["AWS_SESSION_TOKEN"] = self.credentials.session_token
        return found

    def unused(self) -> Sequence[Turn]:
        """Return the turns of a shared scenario that no stream has used."""
        return self._service.unused()

    def issue(self, lasts: float) -> Credentials:
        """Return temporary credentials that are accepted from now on, beside all others. From any thread.

        When they have expired, requests that they sign are refused (ExpiredTokenException), and a stream that
        they opened ends with the next message that its client sends.

        Args:
            lasts: Seconds of the service's clock until then. Their `expires_at` is when so much time will
                have passed at the emulator's `speed`.
        """
        credentials = Credentials(
            f"novasonic-{secrets.token_hex(4)}",
            secrets.token_hex(20),
            secrets.token_hex(20),
            expires_at=datetime.now(UTC) + timedelta(seconds=lasts / self.speed),
        )
        self._keys.add(credentials, until=self._now + lasts)
        return credentials

    def expire(self, credentials: Credentials) -> None:
        """Let credentials that were accepted so far expire now."""
        self._keys.add(credentials, until=self._now)

    # --- running ---

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigurationError: If a sound of a scenario is missing, or the state cannot be kept.
            OSError: If the port is taken.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._started = loop.time()
        for scenario in self._scenarios:
            await asyncio.to_thread(self._speaker.check, scenario.sayings)
        self._identity = identity = await asyncio.to_thread(self._identify)
        try:
            names = {"localhost", "127.0.0.1", "::1", _reachable(self._address[0])}
            tls = await asyncio.to_thread(identity.tls, *sorted(names))
            self._accept(self._given or identity.credentials)
            self._server = await loop.create_server(lambda: _Arrival(self, tls), *self._address)
        except BaseException:
            await asyncio.to_thread(identity.forget)
            raise
        return self

    def _identify(self) -> Identity:
        return Identity.make() if self._state is None else Identity.keep(self._state)

    def _accept(self, credentials: Credentials) -> None:
        """Accept the keys that are the emulator's own."""
        self.credentials, until = credentials, math.inf
        if credentials.expires_at is not None:
            left = (credentials.expires_at - datetime.now(UTC)).total_seconds()
            until = self._now + left * self.speed
        self._keys.add(credentials, until=until)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what is open. Takes about a second at most."""
        if self._server is not None:
            self._server.close()
        for task in self._handshakes:
            task.cancel()
        try:
            await asyncio.gather(*self._handshakes, return_exceptions=True)
            await asyncio.gather(*(connection.aclose() for connection in list(self._connections)))
            await self._speaker.aclose()
        finally:
            await asyncio.to_thread(self._running.forget)

    @property
    def _running(self) -> Identity:
        if self._identity is None:
            raise ConfigurationError(_NOT_RUNNING)
        return self._identity

    @property
    def _now(self) -> float:
        """The time of the service, in its seconds since it was started. In any thread."""
        return (self._loop.time() - self._started) * self.speed if self._loop is not None else 0.0

    # --- for its connections ---

    def arrived(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Shake hands with a client that has just come."""
        task = asyncio.get_running_loop().create_task(
            self._shake_hands(transport, tls), name="novasonic-emulator-handshake"
        )
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        connection = _Connection(self)
        secured: asyncio.Transport | None = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                connection,
                tls,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_PATIENCE,
                ssl_shutdown_timeout=_CLOSE_PATIENCE,
            )
        except OSError as exc:  # ssl.SSLError is one
            logger.info("a client does not agree on TLS: %s", exc)
        finally:
            if secured is None:
                transport.abort()
        if secured is not None:
            connection.connection_made(secured)

    def connected(self, connection: "_Connection") -> None:
        """Take note of a connection."""
        self._connections.add(connection)

    def disconnected(self, connection: "_Connection") -> None:
        """Forget it."""
        self._connections.discard(connection)

    def open(self, model_id: str) -> Playback:
        """Open a stream."""
        return Playback(lambda now: self._service.open(model_id, now), speed=self.speed)

    def has_expired(self, credentials: Credentials) -> bool:
        """Whether credentials that were accepted are so no longer."""
        return self._keys.has_expired(credentials, self._now)

    def check(self, headers: Sequence[tuple[str, str]]) -> Signed:
        """Check the signature of a request; see `signature.check()`."""
        values = dict(headers)
        return signature.check(
            method=values[":method"],
            path=values[":path"],
            headers=headers,
            find=partial(self._keys.find, now=self._now),
            region=self.region,
            now=datetime.now(UTC),
        )


def _reachable(host: str) -> str:
    """Return under which address a client on this machine finds what listens on `host`."""
    return "localhost" if host in {"", "0.0.0.0", "::"} else host  # noqa: S104 - compared


class _Arrival(asyncio.Protocol):
    """A client's TCP connection until TLS begins.

    asyncio's own TLS servers shake hands in tasks of their own, which nobody can wait for.
    """

    def __init__(self, emulator: Emulator, tls: ssl.SSLContext) -> None:
        self._emulator = emulator
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        transport.pause_reading()
        self._emulator.arrived(transport, self._tls)


class _Connection(asyncio.Protocol):
    """One client's HTTP/2 connection, with any number of streams."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.writable = asyncio.Event()
        self.writable.set()
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()
        self._speaks_h2 = False
        self._stalled = False
        self._gone = asyncio.Event()
        self._calls: dict[int, _Call] = {}

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._gone.is_set():
            return
        self.emulator.connected(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._begin()
        if self._early:
            self.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        if self._transport is None:  # it came with the end of the handshake
            self._early += data
            return
        if self._stalled:
            return
        if not self._speaks_h2:
            if not data.startswith(_PREFACE):
                self._transport.write(_HTTP_1)
                self._transport.close()
                return
            self._begin()
        try:
            for event in self.h2.receive_data(data):
                self._handle(event)
            self.flush()
        except ProtocolError as exc:
            logger.info("a client broke HTTP/2: %s", exc)
            self.flush()
            self._transport.close()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        self._gone.set()
        self.writable.set()
        for call in list(self._calls.values()):
            call.lose()
        self.emulator.disconnected(self)

    # --- for its calls ---

    def flush(self) -> None:
        """Write what h2 has to say."""
        self.write(self.h2.data_to_send())

    def write(self, data: bytes) -> None:
        """Write bytes, if that is still possible."""
        if data and not self._stalled and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def forget(self, stream_id: int) -> None:
        """Pay no more attention to a stream: what still comes in is passed over."""
        self._calls.pop(stream_id, None)

    def stall(self) -> None:
        """Neither read nor write any more, and keep the connection open."""
        self._stalled = True

    def cut(self) -> None:
        """End the TCP connection without a word of TLS or HTTP/2."""
        if self._transport is None:
            return
        found: socket.socket | None = self._transport.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._transport.abort()

    async def aclose(self) -> None:
        """End the connection, and what is served on it, in about a second at most."""
        tasks = [call.stop() for call in self._calls.values()]
        await asyncio.gather(*tasks, return_exceptions=True)
        transport = self._transport
        if transport is None:
            return
        if self._speaks_h2 and not self._stalled:
            with contextlib.suppress(ProtocolError):
                self.h2.close_connection()
            self.flush()
        transport.close()
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._gone.wait()
        except TimeoutError:
            transport.abort()
            await self._gone.wait()

    # --- HTTP/2 ---

    def _begin(self) -> None:
        self._speaks_h2 = True
        self.h2.initiate_connection()
        self.flush()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream_id), headers=headers):
                fields = cast("Sequence[tuple[str, str]]", headers)  # text, by h2's configuration
                new = _Call(self, stream_id, fields)
                if new.serves:
                    self._calls[stream_id] = new
            case DataReceived(stream_id=int(stream_id), data=data, flow_controlled_length=int(length)):
                call = self._calls.get(stream_id)
                if call is not None and data:
                    call.take(data)
                # A stream that has stalled opens no window; that is how its client notices.
                if length and not self._stalled:
                    self.h2.acknowledge_received_data(length, stream_id)
            case StreamEnded(stream_id=int(stream_id)):
                if (call := self._calls.get(stream_id)) is not None:
                    call.take_end()
            case StreamReset(stream_id=int(stream_id)):
                if (call := self._calls.pop(stream_id, None)) is not None:
                    call.lose()
            case WindowUpdated() | RemoteSettingsChanged():
                for call in self._calls.values():
                    call.window_opened.set()
            case _:
                pass


class _Call:
    """One request, and the stream of the service that answers it."""

    def __init__(self, connection: _Connection, stream_id: int, headers: Sequence[tuple[str, str]]) -> None:
        self.window_opened = asyncio.Event()
        self._connection = connection
        self._stream_id = stream_id
        self._decoder = FrameDecoder()
        self._playback: Playback | None = None
        self._verifier: ChunkVerifier | None = None
        self._signed: Signed | None = None
        self._task: asyncio.Task[None] | None = None
        emulator = connection.emulator
        model_id = _model_of(headers)
        if isinstance(model_id, Refused):
            self._refuse(model_id, None)
            return
        try:
            signed = self._signed = emulator.check(headers)
        except UnsignedError as exc:
            status = rules.STATUS.get(exc.code, 403)
            self._refuse(Refused(at=0.0, status=status, code=exc.code, message=str(exc)), None)
            return
        self._verifier = ChunkVerifier(
            secret_key=signed.credentials.secret_key, region=emulator.region, signature=signed.signature
        )
        self._playback = emulator.open(model_id)
        self._task = asyncio.get_running_loop().create_task(
            self._serve(self._playback), name=f"novasonic-emulator-{self._playback.stream.request_id}"
        )

    @property
    def serves(self) -> bool:
        """Whether the request was not refused at once."""
        return self._playback is not None

    # --- what the client does ---

    def take(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        playback, verifier, signed = self._playback, self._verifier, self._signed
        if playback is None or verifier is None or signed is None or playback.stream.over:
            return
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                if self._connection.emulator.has_expired(signed.credentials):
                    logger.info("a client goes on with credentials that have expired")
                    self._reject_signature(playback)
                    return
                try:
                    inner = verifier.open(frame)
                except RemoteProtocolError as exc:
                    logger.info("a client broke the chain of signatures: %s", exc)
                    playback.stream.log.wrong_signatures += 1
                    self._reject_signature(playback)
                    return
                if inner is None:
                    playback.end_input()
                elif (document := decode_chunk(inner)) is not None:
                    playback.receive(document)
        except RemoteProtocolError as exc:
            logger.info("a client sent a frame that cannot be read: %s", exc)
            playback.stream.reject(rules.UNREADABLE)
            playback.wake()

    def take_end(self) -> None:
        """Take the end of the request's body; not all clients say goodbye with an empty frame before."""
        if self._playback is not None and self._verifier is not None and not self._verifier.ended:
            self._playback.end_input()

    def lose(self) -> None:
        """Take note that the client has gone."""
        if self._playback is not None:
            self._playback.stream.abandon(self._playback.now)
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> "asyncio.Future[None]":
        """Stop serving, and return what to wait for."""
        self.lose()
        if self._task is not None:
            return self._task
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _reject_signature(self, playback: Playback) -> None:
        # Nobody has recorded what the service says to this, or to credentials that expire while a stream is
        # open; clients report a ValidationException for both. The text is that of a request's signature.
        playback.stream.reject(signature.WRONG)
        playback.wake()

    # --- what the service does ---

    async def _serve(self, playback: Playback) -> None:
        try:
            while outputs := await playback.outputs():
                frames = bytearray()
                for output in outputs:
                    if isinstance(output, Document):
                        frames += encode_chunk(output.data)
                        continue
                    await self._send(frames)
                    frames.clear()
                    await self._act(output, playback)
                await self._send(frames)
        except ProtocolError as exc:
            logger.info("a client does not take what it asked for: %s", exc)
            playback.stream.abandon(playback.now)
        finally:
            self._connection.forget(self._stream_id)

    async def _act(self, output: Output, playback: Playback) -> None:
        match output:
            case Document():
                pass
            case Accepted():
                self._respond(200, "application/vnd.amazon.eventstream", playback.stream.request_id)
            case Refused():
                self._refuse(output, playback.stream.request_id)
            case Failed(code=code, message=message, modelled=modelled):
                await self._send((encode_exception if modelled else encode_error)(code, message))
                self._end()
            case Ended():
                self._end()
            case Broken():
                await self._break(output)
            case _:
                assert_never(output)

    async def _break(self, output: Broken) -> None:
        connection, stream_id = self._connection, self._stream_id
        match output.how:
            case "reset":
                connection.h2.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
                connection.flush()
            case "goaway" | "goaway_others":
                # Not h2's own: that would take the whole connection for closed.
                last = stream_id if output.how == "goaway_others" else max(stream_id - 2, 0)
                connection.write(GoAwayFrame(last_stream_id=last).serialize())
            case "cut":
                connection.cut()
            case "stall":
                connection.stall()
            case "garbled":
                frame = bytearray(encode_chunk(b'{"event":{}}'))
                frame[-1] ^= 0xFF
                await self._send(frame)
            case "truncated":
                await self._send(encode_chunk(b'{"event":{}}')[:-5])
                self._end()
            case _:
                assert_never(output.how)

    def _respond(self, status: int, content_type: str, request_id: str | None, error: str = "") -> None:
        headers = [
            (":status", str(status)),
            ("content-type", content_type),
            ("date", formatdate(usegmt=True)),
        ]
        if request_id is not None:
            headers.append(("x-amzn-requestid", request_id))
        if error:
            headers.append(
                ("x-amzn-errortype", f"{error}:http://internal.amazon.com/coral/com.amazon.bedrock/")
            )
        self._connection.h2.send_headers(self._stream_id, headers)
        self._connection.flush()

    def _refuse(self, refused: Refused, request_id: str | None) -> None:
        self._respond(refused.status, "application/json", request_id, refused.code)
        body = msgspec.json.encode({"message": refused.message})
        self._connection.h2.send_data(self._stream_id, body)
        self._connection.flush()
        self._end()

    def _end(self) -> None:
        # Apart from the data: a client that is told of the end with its last piece must not lose that.
        self._connection.h2.end_stream(self._stream_id)
        self._connection.flush()

    async def _send(self, data: bytes | bytearray) -> None:
        """Send bytes of the response, as fast as the client takes them."""
        h2 = self._connection.h2
        rest = memoryview(bytes(data))
        while rest:
            room = min(h2.local_flow_control_window(self._stream_id), h2.max_outbound_frame_size)
            if room <= 0:
                self.window_opened.clear()
                await self.window_opened.wait()
                continue
            h2.send_data(self._stream_id, bytes(rest[:room]))
            rest = rest[room:]
            self._connection.flush()
            await self._connection.writable.wait()


def _model_of(headers: Sequence[tuple[str, str]]) -> str | Refused:
    """Return the model that a request asks for, or the answer to a request for something else."""
    values = dict(headers)
    path = values.get(":path", "").partition("?")[0]
    start, end = _PATH
    if not (path.startswith(start) and path.endswith(end) and len(path) > len(start) + len(end)):
        text = f"nothing is served at {path}; this is POST {start}(id){end}"
        return Refused(at=0.0, status=404, code="UnknownOperationException", message=text)
    if values.get(":method") != "POST":
        text = f"{values.get(':method')} is not allowed here; this is POST {start}(id){end}"
        return Refused(at=0.0, status=405, code="UnknownOperationException", message=text)
    return unquote(path[len(start) : -len(end)])
