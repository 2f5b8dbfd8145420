"""The server of examples/browser in a process of its own, the emulator in a thread, and a client."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from novasonic.emulator import Emulator, Scenario
from novasonic.emulator.hum import hum

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "examples" / "browser" / "server.py"

# Whoever runs the tests may have an account, and none of them is to see it.
BARE = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NOVASONIC_"))}
BARE |= {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@contextmanager
def emulator(scenario: Scenario) -> Iterator[Emulator]:
    """Run an emulator in a thread."""
    started, stop = threading.Event(), threading.Event()
    bedrock = Emulator(scenario, voice=hum)

    async def run() -> None:
        async with bedrock:
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert started.wait(30)
        yield bedrock
    finally:
        stop.set()
        thread.join()


@dataclass
class Answer:
    """What a request got."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Where its page is.
        process: What runs it.
        log: The file that its standard error goes to.
    """

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def stream(self) -> str:
        return self.url.replace("http", "ws") + "api/nova-sonic/stream"

    def request(self, path: str, method: str = "GET", **headers: str) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(self.url + path, method=method, headers=headers)
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=20) as response:
                return Answer(response.status, response.read().decode(), dict(response.headers))
        except HTTPError as exc:
            with exc:
                return Answer(exc.code, exc.read().decode(), dict(exc.headers))

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return await asyncio.to_thread(self.request, path, method, **headers)

    async def status(self) -> Any:
        return (await self.ask("api/nova-sonic/status")).json

    async def is_quiet(self) -> None:
        """Wait until nobody talks any more, with the server or with AWS."""
        while (status := await self.status())["sessions"] or status["streams"] or status["sockets"]:  # noqa: ASYNC110 - it has no other way to tell
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator["Client"]:
        """Connect to it; `options` are those of `websockets.connect`."""
        async with connect(self.stream, proxy=None, max_size=None, **options) as connection:
            yield Client(connection)


@contextmanager
def server(folder: Path, *arguments: str, **env: str) -> Iterator[Server]:
    """Run the server, its log in a folder."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, PROGRAM, "--port", "0", *arguments],
            env=BARE | env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                assert "until Ctrl-C" in line, Path(log.name).read_text()
                yield Server(line.split()[0], process, Path(log.name))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


class Client:
    """What a page does, one thing after the other.

    Attributes:
        connection: The socket.
        seen: All that came: messages, and binary frames as they are.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any] | bytes] = []

    async def send(self, type_: str, **fields: object) -> None:
        await self.connection.send(json.dumps({"type": type_, **fields}))

    async def speak(self, pcm: bytes) -> None:
        """Send audio at speaking speed."""
        for start in range(0, len(pcm), 1024):
            audio = base64.b64encode(pcm[start : start + 1024]).decode()
            await self.send("audio_chunk", audio=audio, isComplete=start + 1024 >= len(pcm))
            await asyncio.sleep(0.032)

    async def next(self) -> dict[str, Any] | bytes:
        frame = await self.connection.recv()
        self.seen.append(frame if isinstance(frame, bytes) else json.loads(frame))
        return self.seen[-1]

    async def until(self, type_: str, **fields: object) -> dict[str, Any]:
        """Read up to a message of a type, with these fields."""
        async with asyncio.timeout(30):
            while True:
                message = await self.next()
                if (
                    not isinstance(message, bytes)
                    and message["type"] == type_
                    and fields.items() <= message.items()
                ):
                    return message

    async def close_reason(self) -> tuple[int | None, str | None]:
        """Read to the end, and return how the socket was closed."""
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.next()
        return self.connection.close_code, self.connection.close_reason

    def texts(self, type_: str, **fields: object) -> list[str]:
        """Return the texts of what came of a type."""
        found = [each for each in self.seen if not isinstance(each, bytes)]
        return [each["text"] for each in found if each["type"] == type_ and fields.items() <= each.items()]


def deaf_socket(url: str) -> socket.socket:
    """Return a socket to a server that keeps little of what nobody reads."""
    host, port = url.split("/")[2].split(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect((host, int(port)))
    found.setblocking(False)
    return found
