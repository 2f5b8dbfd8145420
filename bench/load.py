"""`python -m bench.load`: many pages of examples/browser at once, and whether the server keeps up with them.

The server runs here, unchanged, and is watched at its two ends: where messages come from the service, and
where frames go to the sockets. The emulator is a process, and so are the pages. The status is 1 if anything
was lost on the way.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import psutil
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.client import Spread
from bench.pages import Page, number_in
from novasonic import messages
from novasonic.bedrock import BedrockConnector
from novasonic.cli import emulated
from novasonic.limiter import SessionLimiter
from novasonic.session import SessionOptions
from novasonic.transport import Connector, Transport

ROOT: Final = Path(__file__).resolve().parents[1]
SOON: Final = 0.020  # seconds that the server may add
TICK: Final = 0.010  # seconds


@dataclass
class Socket:
    """What was seen of one socket and its session.

    Attributes:
        session: Its id.
        arrived: When each piece of speech came that was not sent on yet.
        chunks: How many came.
        checksum: Of all of them, in order.
        frames: The numbers of the frames that went to the service.
        delays: Nanoseconds from the arrival of a piece until its frame was sent.
    """

    session: str = ""
    arrived: deque[int] = field(default_factory=deque[int])
    chunks: int = 0
    checksum: int = 0
    frames: set[int] = field(default_factory=set[int])
    delays: list[int] = field(default_factory=list[int])


_socket: ContextVar[Socket] = ContextVar("_socket")


class Watched:
    """A stream to the service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._socket = _socket.get()

    @property
    def request_id(self) -> str | None:
        """See `Transport`."""
        return self._transport.request_id

    @property
    def expires_in(self) -> float | None:
        """See `Transport`."""
        return self._transport.expires_in

    async def send(self, data: bytes) -> None:
        """Note a frame of the user's."""
        message = messages.decode_input(data)
        if isinstance(message, messages.AudioInput) and (number := number_in(message.content)):
            self._socket.frames.add(number)
        await self._transport.send(data)

    async def receive(self) -> bytes | None:
        """Note a piece of speech."""
        data = await self._transport.receive()
        arrived = time.monotonic_ns()
        message = None if data is None else messages.decode_output(data)
        if isinstance(message, messages.AudioOutput):
            self._socket.arrived.append(arrived)
            self._socket.chunks += 1
            self._socket.checksum = zlib.crc32(message.content, self._socket.checksum)
        return data

    async def end_input(self) -> None:
        """See `Transport`."""
        await self._transport.end_input()

    async def aclose(self) -> None:
        """See `Transport`."""
        await self._transport.aclose()


class WatchedConnector:
    """Opens streams that are watched."""

    def __init__(self, connect: Connector) -> None:
        self._connect = connect

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> Transport:  # noqa: ASYNC109 - as in `Connector`
        """See `Connector`."""
        return Watched(await self._connect(first, timeout=timeout))


class WatchedApp:
    """The server, and what it sends to its sockets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.sockets: list[Socket] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a socket."""
        socket = Socket()
        self.sockets.append(socket)
        _socket.set(socket)

        async def send_on(message: Message) -> None:
            await send(message)
            text = message.get("text") or ""
            if text.startswith('{"type":"audio_response"'):
                socket.delays.append(time.monotonic_ns() - socket.arrived.popleft())
            elif text.startswith('{"type":"initialized"'):
                socket.session = msgspec.json.decode(text)["sessionId"]

        await self._app(scope, receive, send_on)


class Samples:
    """What the process takes, while it runs."""

    def __init__(self, watched: WatchedApp) -> None:
        self._watched = watched
        self.memory: dict[int, int] = {}  # by how many sessions there are: the most
        self.lateness: list[int] = []  # nanoseconds, of a timer of the event loop
        self.cpu = 0.0

    async def take(self) -> None:
        """Take them for ever."""
        process = psutil.Process()
        for number in itertools.count():
            due = time.monotonic_ns() + round(TICK * 1e9)
            await asyncio.sleep(TICK)
            self.lateness.append(time.monotonic_ns() - due)
            if number % 50 == 0:
                count = sum(bool(each.delays) for each in self._watched.sockets)
                self.memory[count] = max(self.memory.get(count, 0), process.memory_info().rss)


async def measure(sessions: int, seconds: float, folder: Path) -> tuple[list[Page], WatchedApp, Samples]:
    """Run all of it."""
    sys.path.insert(0, str(ROOT / "examples" / "browser"))
    from bridge import Settings  # an example, and no package
    from limits import Limits
    from server import Switchboard, configured, listening, make_app

    says = [{"text": "This goes on for a while.", "seconds": seconds}]
    told = {"turns": [{"typed": "*", "says": says}], "behaviour": {"delivery": 1.0}}  # in real time
    scenario = folder / "scenario.json"
    await asyncio.to_thread(scenario.write_bytes, msgspec.json.encode(told))
    async with emulated(str(scenario)):
        connector = WatchedConnector(BedrockConnector("amazon.nova-2-sonic-v1:0"))
        # Where this machine was busy elsewhere, speech comes in a burst, of which some would wait to be due.
        limits = Limits(sessions=sessions, ahead=seconds)
        settings = Settings(
            limits=limits,
            places=SessionLimiter(sessions),
            session=SessionOptions(system="Be brief.", transport=connector),
        )
        listener = listening("127.0.0.1", 0)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        board = Switchboard(settings)
        watched = WatchedApp(make_app(board, origins=[f"http://{address}"]))
        server = configured(watched, board)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        samples = Samples(watched)
        sampling = asyncio.create_task(samples.take())
        cpu, began = time.process_time(), time.monotonic()
        arguments = (f"ws://{address}/api/nova-sonic/stream", str(sessions), str(seconds))
        pages = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.pages", *arguments, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await pages.communicate()
        samples.cpu = (time.process_time() - cpu) / (time.monotonic() - began)
        sampling.cancel()
        server.should_exit = True
        await serving
    return msgspec.json.decode(printed, type=list[Page]), watched, samples


def report(pages: Sequence[Page], watched: WatchedApp, samples: Samples) -> int:
    """Print the figures; return the status: 1 if something was lost."""
    sockets = {each.session: each for each in watched.sockets}
    lost = wrong = missing = 0
    for page in pages:
        socket = sockets[page.session]
        lost += socket.chunks - page.chunks
        wrong += socket.checksum != page.checksum
        missing += page.sent - len(socket.frames)
    delay = Spread.of([each for socket in watched.sockets for each in socket.delays])
    loop = Spread.of(samples.lateness)
    memory = (samples.memory[len(pages)] - samples.memory[1]) / (len(pages) - 1) if len(pages) > 1 else None
    print(f"pieces of speech, from the service to {len(pages)} pages: {sum(each.chunks for each in pages)}")
    print(f"  lost {lost}; {wrong} pages got them otherwise than they came")
    print(f"frames of the microphone, from the pages to the service: {sum(each.sent for each in pages)}")
    print(f"  lost {missing}; the latest was sent {max(each.late for each in pages) * 1e3:.1f} ms late")
    print(f"added, from service to socket: p50 {delay.p50 * 1e3:.2f} ms, p99 {delay.p99 * 1e3:.2f} ms")
    print(f"  target, p99 under {SOON * 1e3:g} ms: {'reached' if delay.p99 < SOON else 'MISSED'}")
    print(f"lateness of the event loop: p50 {loop.p50 * 1e3:.2f} ms, p99 {loop.p99 * 1e3:.2f} ms")
    print(f"CPU of the server: {samples.cpu * 100:.0f} % of a core")
    if memory is not None:
        print(f"memory of a further session: {memory / 1024:.0f} KiB")
    return int(bool(lost or wrong or missing))


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.load",
        description="Have many pages talk at once with the server of examples/browser.",
    )
    parser.add_argument("--sessions", type=int, default=20, help="how many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long (%(default)g)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return report(*asyncio.run(measure(options.sessions, options.seconds, Path(folder))))


if __name__ == "__main__":
    sys.exit(main())
