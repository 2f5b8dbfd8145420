"""A stand-in for Bedrock that costs as little as it can: real streams in real time, and nothing is checked.

It speaks just enough of HTTP/2 (RFC 9113) for the clients of the benchmark, over TLS, in one thread: it
counts what comes in, and says a chunk of speech on every stream every 80 ms. Each chunk begins with the time
at which it was sent. `novasonic.emulator` is the server that knows what Bedrock would say.

`python -m bench.server CERTIFICATE` prints its port, and runs until its standard input is closed.
"""

import heapq
import selectors
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from novasonic import messages
from novasonic.eventstream import encode_chunk
from novasonic.messages import OutputMessage

CHUNK_NS: Final = 80_000_000
"""How long a chunk of speech plays, and how long it is from one to the next."""

_RATE: Final = 24_000
_SPEECH: Final = bytes(range(256)) * 15  # 80 ms of it
_SETUP: Final = 7  # messages of a client, up to its first audio: then the response begins
_SPREAD: Final = 0.618  # of `CHUNK_NS`: however their clients began, the streams take turns

_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_HEAD: Final = struct.Struct(">BHBBI")  # of a frame: its length in two parts, type, flags, stream
_SETTING: Final = struct.Struct(">HI")


class _Kind:
    """Types of frames (section 6)."""

    DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8


_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4  # flags
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 0x3, 0x4  # settings (section 6.5.2)

_WINDOW: Final = 2**16 - 1  # what every window begins with
_WIDE: Final = 2**31 - 1  # no client sends so much while it is measured: windows are never opened again
_OK: Final = b"\x88"  # RFC 7541, appendix A: ":status: 200"


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(*divmod(len(payload), 2**16), kind, flags, stream) + payload


_GREETING: Final = _frame(
    _Kind.SETTINGS,
    0,
    0,
    _SETTING.pack(_MAX_CONCURRENT_STREAMS, 1000) + _SETTING.pack(_INITIAL_WINDOW_SIZE, _WIDE),
) + _frame(_Kind.WINDOW_UPDATE, 0, 0, (_WIDE - _WINDOW).to_bytes(4))


class _Stream:
    """One stream, and what is said on it: a single response without an end."""

    def __init__(self, connection: "_Connection", id_: int, window: int) -> None:
        self.connection = connection
        self.id = id_
        self.window = window
        self.heard = 0
        self.over = False

    def open(self) -> None:
        """Accept the stream."""
        self.connection.write(_frame(_Kind.HEADERS, _END_HEADERS, self.id, _OK))

    def begin(self) -> None:
        """Begin the response."""
        role, text, audio = "ASSISTANT", f"text-{self.id}", f"audio-{self.id}"
        self._say(
            messages.OutputContentStart(content_id=text, type="TEXT", role=role, stage="SPECULATIVE"),
            messages.TextOutput(content_id=text, role=role, content="This is going to take a while."),
            messages.OutputContentEnd(content_id=text, type="TEXT", stop_reason="PARTIAL_TURN"),
            messages.OutputContentStart(content_id=audio, type="AUDIO", role=role, sample_rate=_RATE),
        )

    def speak(self) -> None:
        """Say 80 ms more."""
        pcm = time.monotonic_ns().to_bytes(8) + _SPEECH[8:]
        self._say(messages.AudioOutput(content_id=f"audio-{self.id}", content=pcm))

    def end(self) -> None:
        """End the stream, as the client has."""
        self.over = True
        self._say(messages.CompletionEnd(stop_reason="END_TURN"))
        self.connection.write(_frame(_Kind.DATA, _END_STREAM, self.id))

    def _say(self, *said: OutputMessage) -> None:
        for message in said:
            self.connection.say(self, encode_chunk(messages.encode(message)))


class _Connection:
    """One connection of a client, with any number of streams."""

    def __init__(self, server: "_Server", socket_: ssl.SSLSocket) -> None:
        self.socket = socket_
        self._server = server
        self._inbound = bytearray()
        self._outbound = bytearray()
        self._held = deque[tuple[_Stream, bytes]]()  # what the client's windows hold up
        self._streams = dict[int, _Stream]()
        self._window = self._stream_window = _WINDOW
        self._greeted = False
        self.write(_GREETING)

    def read(self) -> None:
        """Take in what has come."""
        try:
            while data := self.socket.recv(2**16):
                self._inbound += data
        except ssl.SSLWantReadError:
            for kind, flags, stream, payload in self._frames():
                self._hear(kind, flags, stream, payload)
        except OSError:
            self.close()
        else:
            self.close()

    def say(self, stream: _Stream, payload: bytes) -> None:
        """Send a piece of a stream, as soon as the client's windows allow."""
        self._held.append((stream, payload))
        self._send_held()

    def write(self, data: bytes = b"") -> None:
        """Send without regard to windows, now or when the socket takes it."""
        self._outbound += data
        try:
            while self._outbound:
                del self._outbound[: self.socket.send(self._outbound)]
        except ssl.SSLWantWriteError:
            self._server.watch(self, writing=True)
        except OSError:
            self.close()

    def close(self) -> None:
        """Forget the client, which has left."""
        for stream in self._streams.values():
            stream.over = True
        self._held.clear()
        self._outbound.clear()
        self._server.forget(self)

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer, at = self._inbound, 0
        if not self._greeted:
            if len(buffer) < _PREFACE:
                return
            self._greeted, at = True, _PREFACE
        while len(buffer) >= at + _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + _HEAD.size + (high << 16 | low)
            if len(buffer) < end:
                break
            # What clients say is counted, not read.
            yield kind, flags, stream, b"" if kind == _Kind.DATA else bytes(buffer[at + _HEAD.size : end])
            at = end
        del buffer[:at]

    def _hear(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        stream = self._streams.get(id_)
        match kind:
            case _Kind.DATA if stream is not None:
                stream.heard += 1
                if stream.heard == 1:
                    stream.open()
                elif stream.heard == _SETUP:
                    stream.begin()
                    self._server.schedule(stream)
                if flags & _END_STREAM:
                    stream.end()
                    del self._streams[id_]
            case _Kind.HEADERS:
                self._streams[id_] = _Stream(self, id_, self._stream_window)
            case _Kind.RST_STREAM if stream is not None:
                stream.over = True
                del self._streams[id_]
            case _Kind.SETTINGS if not flags & _ACK:
                self._take_settings(payload)
                self.write(_frame(_Kind.SETTINGS, _ACK, 0))
            case _Kind.PING if not flags & _ACK:
                self.write(_frame(_Kind.PING, _ACK, 0, payload))
            case _Kind.WINDOW_UPDATE:
                more = int.from_bytes(payload)
                if stream is not None:
                    stream.window += more
                elif not id_:
                    self._window += more
                self._send_held()
            case _:
                pass

    def _take_settings(self, payload: bytes) -> None:
        size = dict(_SETTING.iter_unpack(payload)).get(_INITIAL_WINDOW_SIZE, self._stream_window)
        for stream in self._streams.values():
            stream.window += size - self._stream_window
        self._stream_window = size

    def _send_held(self) -> None:
        while self._held:
            stream, payload = self._held[0]
            if len(payload) > min(self._window, stream.window):
                return
            self._held.popleft()
            self._window -= len(payload)
            stream.window -= len(payload)
            self.write(_frame(_Kind.DATA, 0, stream.id, payload))


class _Server:
    """Everything, on one thread."""

    def __init__(self, certificate: str) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._tls.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._due: list[tuple[int, int, _Stream]] = []
        self._scheduled = 0

    def run(self) -> None:
        """Serve until standard input is closed."""
        print(self._listener.getsockname()[1], flush=True)
        while True:
            for key, mask in self._selector.select(self._say_what_is_due()):
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                    continue
                connection: _Connection = key.data
                if mask & selectors.EVENT_WRITE:
                    self.watch(connection)
                    connection.write()
                if mask & selectors.EVENT_READ:
                    connection.read()

    def schedule(self, stream: _Stream) -> None:
        """Have a stream speak every 80 ms from now."""
        phase = int(self._scheduled * _SPREAD % 1 * CHUNK_NS)
        now = time.monotonic_ns()
        heapq.heappush(self._due, (now - now % CHUNK_NS + CHUNK_NS + phase, self._scheduled, stream))
        self._scheduled += 1

    def watch(self, connection: _Connection, *, writing: bool = False) -> None:
        """Wait for what a connection brings, and for room to write if it needs that."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        self._selector.modify(connection.socket, events, connection)

    def forget(self, connection: _Connection) -> None:
        """Close a connection; twice is fine."""
        if connection.socket.fileno() >= 0:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _accept(self) -> None:
        plain, _ = self._listener.accept()
        plain.settimeout(5)  # a handshake takes milliseconds, and nobody is measured while sessions open
        try:
            socket_ = self._tls.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socket_.setblocking(False)
        self._selector.register(socket_, selectors.EVENT_READ)
        connection = _Connection(self, socket_)
        self.watch(connection)
        connection.read()  # what came with the handshake wakes nobody

    def _say_what_is_due(self) -> float | None:
        """Say it, and return how many seconds there are until the next."""
        while self._due:
            due, number, stream = self._due[0]
            if (left := due - time.monotonic_ns()) > 0:
                return left / 1e9
            if stream.over:
                heapq.heappop(self._due)
            else:
                stream.speak()
                heapq.heapreplace(self._due, (due + CHUNK_NS, number, stream))
        return None


if __name__ == "__main__":
    _Server(sys.argv[1]).run()
