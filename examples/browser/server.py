"""A browser talks with Nova Sonic: `python server.py`, and open the address that it prints.

`python server.py --emulator` needs no AWS account. What page and server say to each other is in messages.py.

It listens on this machine only, takes sockets and commands from its own page alone, and has limits for all
that a page may ask for. If others are to reach it, they need a token. It is in the environment, as everybody
on a machine sees its command lines:

    NOVASONIC_TOKEN=... python server.py --host 0.0.0.0 --origin https://voice.example.com

Programs send it as `Authorization: Bearer ...`. A browser cannot do that with a socket, and what is in an
address ends up in logs. So it goes where a socket names its protocols, in base64url without padding:
`new WebSocket(url, ["novasonic", "bearer." + token])`. The page takes it from its own address, behind a `#`,
which browsers keep to themselves: https://voice.example.com/#the-token. Browsers give a microphone only to
pages of this machine and to those that come by HTTPS: a proxy in front of this has to speak it.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

import novasonic
from bridge import Bridge, Settings
from guard import Guard
from limits import Limits
from novasonic import SessionLimiter, SonicError, tool
from novasonic.cli import emulated
from novasonic.models import MODELS
from novasonic.session import SessionOptions

LIMITS = Limits.__struct_fields__
PAGE = Path(__file__).parent / "page"
TOKEN = "NOVASONIC_TOKEN"  # noqa: S105 - the name of a variable

# What the kernel keeps for a page that does not read is memory, too, and hides that it does not read: by
# itself, it would keep a minute of speech. And it gives up on one that takes nothing at all.
SEND_BUFFER = 64 * 1024
GIVING_UP_MS = 60_000

FAREWELL = 5.0  # seconds for all conversations to end, when the server does
FAREWELL_READ = 0.5  # seconds for the pages to read that they have

SYSTEM = "You are a friendly assistant. Keep your answers short: they are spoken."


@tool
async def weather(city: str, day: Literal["today", "tomorrow"] = "today") -> dict[str, object]:
    """The weather of a city.

    Args:
        city: Its name in English.
        day: "today" or "tomorrow".
    """
    await asyncio.sleep(0.4)  # a request to a weather service: put your own tools here
    return {"city": city, "day": day, "sky": "sunny" if day == "today" else "rainy"}


class Switchboard:
    """All bridges, and what is told about them.

    Attributes:
        limits: What their pages may ask for.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self._settings = settings
        self._bridges = set[Bridge]()
        self._started = time.monotonic()

    async def stream(self, socket: WebSocket) -> None:
        """Serve a page's socket."""
        await socket.accept("novasonic" if "novasonic" in socket.scope["subprotocols"] else None)
        bridge = Bridge(socket, self._settings)
        self._bridges.add(bridge)
        try:
            await bridge.serve()
        finally:
            self._bridges.discard(bridge)

    async def status(self, _: Request) -> Response:
        """Tell what goes on. Nothing of it is secret."""
        sessions = [
            {
                "id": bridge.id,
                "age": round(bridge.age, 1),
                "idle": round(bridge.idle, 1),
                "turns": bridge.turns,
                "tokens": bridge.tokens,
            }
            for bridge in self._bridges
            if bridge.talking
        ]
        return JSONResponse(
            {
                "version": novasonic.__version__,
                "uptime": round(time.monotonic() - self._started, 1),
                "emulated": self._settings.emulated,
                "sockets": len(self._bridges),
                "sessions": sessions,
                "streams": self._settings.places.active,
                "limits": msgspec.to_builtins(self._settings.limits),
                "voices": [{"name": each.name, "language": each.language} for each in MODELS[0].voices],
            }
        )

    async def cleanup(self, request: Request) -> Response:
        """End the conversations in which nobody spoke for `idle` seconds (60); with `all=true`, all."""
        asked = request.query_params
        try:
            idle = 0.0 if asked.get("all") == "true" else float(asked.get("idle", "60"))
        except ValueError:
            return PlainTextResponse("idle is a number of seconds", status_code=400)
        ended = [each for each in self._bridges if each.talking and each.idle >= idle]
        for bridge in ended:
            bridge.end("server_cleanup")
        return JSONResponse({"ended": len(ended)})

    async def close(self) -> None:
        """End all conversations, as the server ends; takes some seconds at most."""
        if not self._bridges:
            return
        for bridge in self._bridges:
            bridge.end("server_shutdown", close=1012)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while self._bridges:  # noqa: ASYNC110 - they go one by one
                    await asyncio.sleep(0.05)
        await asyncio.sleep(FAREWELL_READ)


def make_app(board: Switchboard, *, origins: Sequence[str], token: str | None = None) -> Starlette:
    """Return the whole server, for uvicorn or whoever else runs such.

    Args:
        board: Of its conversations.
        origins: Where its page may come from, such as "https://voice.example.com".
        token: What everybody needs who is to use it; None: nothing.
    """
    # Any name may be made to lead to this machine: a page under a foreign one would count as ours.
    hosts = [urlsplit(each).hostname or "" for each in origins]
    return Starlette(
        routes=[
            WebSocketRoute("/api/nova-sonic/stream", board.stream),
            Route("/api/nova-sonic/status", board.status),
            Route("/api/nova-sonic/cleanup", board.cleanup, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(Guard, origins=origins, token=token),
        ],
    )


class Server(uvicorn.Server):
    """Runs the app. When it ends, it tells the pages before they are cut off.

    uvicorn says a word and closes; and what a page has sent meanwhile makes the kernel take that word back.
    """

    def __init__(self, config: uvicorn.Config, board: Switchboard) -> None:
        super().__init__(config)
        self._board = board

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let nobody in any more, end all conversations, and then the server."""
        for each in (*self.servers, *(sockets or ())):
            each.close()
        await self._board.close()
        await super().shutdown(sockets)


def configured(app: ASGIApp, board: Switchboard) -> Server:
    """Return the server that runs the app."""
    limits = board.limits
    return Server(
        uvicorn.Config(
            app,
            ws="websockets-sansio",  # waits while a page does not read, and reads no faster than it is asked
            ws_max_size=limits.message_bytes,
            ws_per_message_deflate=False,  # speech does not get smaller by it
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,  # a page whose phone has left the network says nothing about it
            limit_concurrency=100 + 4 * limits.sessions,
            timeout_graceful_shutdown=10,
            lifespan="off",
            log_level="warning",
        ),
        board,
    )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVING_UP_MS)
    return listener


async def serve(options: argparse.Namespace) -> None:
    """Run the server until Ctrl-C."""
    limits = msgspec.convert(dict(options.limit), Limits, strict=False)
    session = SessionOptions(system=options.system, tools=[weather])
    for name in ("model", "voice", "region", "profile"):
        if (value := getattr(options, name)) is not None:
            session[name] = value
    async with contextlib.AsyncExitStack() as stack:
        if options.emulator is not None:
            await stack.enter_async_context(emulated(options.emulator))
        listener = listening(options.host, options.port)
        port = listener.getsockname()[1]
        own = [f"http://{each}:{port}" for each in ("localhost", "127.0.0.1", "[::1]")]
        settings = Settings(
            limits=limits,
            places=SessionLimiter(limits.sessions, max_waiting=0),
            session=session,
            client_credentials=options.allow_client_credentials,
            emulated=options.emulator is not None,
        )
        origins = own + [each.rstrip("/") for each in options.origin]
        board = Switchboard(settings)
        app = make_app(board, origins=origins, token=os.environ.get(TOKEN) or None)
        print(f"http://localhost:{port}/ until Ctrl-C", flush=True)
        await configured(app, board).serve(sockets=[listener])


def _limit(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or name not in LIMITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER with one of {', '.join(LIMITS)}")
    return name, value


def main() -> int:
    """Run the command; return its status."""
    parser = argparse.ArgumentParser(description="Talk with Amazon Nova 2 Sonic in a browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for a free one")
    parser.add_argument(
        "--emulator",
        nargs="?",
        const="demo",
        metavar="SCENARIO",
        help="have an emulator answer, which needs no AWS account; with its demo, or a JSON or YAML file",
    )
    parser.add_argument("--model", help="id of the model")
    parser.add_argument("--voice", help="if the page does not choose one; see `novasonic voices`")
    parser.add_argument("--system", default=SYSTEM, help="what the model is told, if not by the page")
    parser.add_argument("--region", help="AWS region")
    parser.add_argument("--profile", help="AWS profile")
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        help="where else its page may come from, such as https://voice.example.com; may be repeated",
    )
    parser.add_argument(
        "--allow-client-credentials",
        action="store_true",
        help="take AWS credentials from pages; they travel over the network, and are kept for as long as the "
        "conversation lasts",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=NUMBER",
        help=f"change a limit, which are {', '.join(LIMITS)}; may be repeated",
    )
    options = parser.parse_args()
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    if not _is_here(options.host) and not os.environ.get(TOKEN):
        print(f"server.py: others can reach {options.host}, so set a token in {TOKEN}", file=sys.stderr)
        return 1
    try:
        asyncio.run(serve(options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (SonicError, OSError, msgspec.ValidationError) as exc:
        print(f"server.py: {exc}", file=sys.stderr)
        return 1
    return 0


def _is_here(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
