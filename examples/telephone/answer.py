"""A telephone number that Nova Sonic answers: a server for Twilio, `python answer.py`.

Twilio asks `POST /voice` what to do with a call, and is told to connect it to the WebSocket `/stream`. Put a
proxy with a certificate before it, and give Twilio `https://your.host/voice` as the webhook of a number. What
is not signed with the account's auth token, from `TWILIO_AUTH_TOKEN`, is refused.

Without Twilio and without AWS, in two terminals:

    python answer.py --emulator --unsigned
    python caller.py question.wav --out heard.wav
"""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Unpack
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import mediastream
from call import GONE, Call, CallError
from novasonic import SessionLimiter, SonicError, ThrottledError
from novasonic.cli import emulated
from novasonic.session import SessionOptions

logger = logging.getLogger("telephone")

SYSTEM: Final = (
    "You answer the telephone. Keep your answers short, as they are spoken, and never use formatting. "
    "The caller may press keys of the telephone; you are told which."
)
GREETING: Final = "A caller is on the line. Greet them in one short sentence, and ask how you can help."

_BUSY: Final = "All lines are busy. Please call again in a few minutes."
_FAREWELL: Final = "This call has to end here. Please call again. Goodbye."
_LONGEST_FORM: Final = 64 * 2**10  # bytes; Twilio posts one or two thousand
_LONGEST_MESSAGE: Final = 16 * 2**10  # 20 ms of audio are 400 bytes
_REASON: Final = 120  # bytes of a reason that closes a WebSocket: what the protocol has room for


class Telephone:
    """Takes calls.

    Args:
        token: The auth token of the Twilio account; None takes whatever comes, signed or not.
        public_url: Where Twilio finds this server; by default "https://" and the host that it asked for.
        most: How many calls there may be at once.
        idle: Seconds after which a call ends in which neither side says anything.
        quiet: Seconds after which a line is dead on which Twilio sends nothing, not even silence.
        greeting: What the model is told to do first; nothing if it is empty.
        options: The settings of the sessions.

    Attributes:
        app: The server, for any that speaks ASGI.
        calls: Those that go on.
    """

    def __init__(
        self,
        *,
        token: str | None,
        public_url: str | None = None,
        most: int = 20,
        idle: float = 120.0,
        quiet: float = 15.0,
        greeting: str = GREETING,
        **options: Unpack[SessionOptions],
    ) -> None:
        self.app = Starlette(
            routes=[
                Route("/voice", self._voice, methods=["POST"]),
                WebSocketRoute("/stream", self._stream),
            ]
        )
        self.calls = set[Call]()
        self._token = token
        self._public_url = public_url
        self._limiter = SessionLimiter(most, max_waiting=0)
        self._idle = idle
        self._quiet = quiet
        self._greeting = greeting
        self._options: SessionOptions = {**options, "limiter": self._limiter}

    async def _voice(self, request: Request) -> Response:
        """Say what is to be done with a call."""
        form = b""
        async for part in request.stream():
            form += part
            if len(form) > _LONGEST_FORM:
                return Response("the form is too long", 413)
        parameters = parse_qsl(form.decode(errors="replace"), keep_blank_values=True)
        query = f"?{request.url.query}" if request.url.query else ""
        if not self._is_signed(request, f"{self._public(request)}/voice{query}", parameters):
            return Response("the signature is missing or wrong", 403)
        if self._limiter.active >= self._limiter.max_sessions:
            logger.warning("a call is refused, as there are %d already", self._limiter.active)
            twiml = mediastream.refuse(_BUSY)
        else:
            caller = {"caller": dict(parameters).get("From", "")}
            twiml = mediastream.connect(self._stream_url(request), caller, _FAREWELL)
        return Response(twiml, media_type="application/xml")

    async def _stream(self, websocket: WebSocket) -> None:
        """Take a call."""
        if not self._is_signed(websocket, self._stream_url(websocket)):
            await websocket.close()  # before it was accepted: HTTP 403
            return
        await websocket.accept()
        call = Call(
            websocket, idle=self._idle, quiet=self._quiet, greeting=self._greeting, options=self._options
        )
        self.calls.add(call)
        try:
            code, reason = 1000, await call.converse()
        except CallError as exc:
            code, reason = exc.code, exc.reason
            logger.warning("a call is ended: %s", reason)
        except ThrottledError as exc:
            code, reason = 1013, _BUSY
            logger.warning("a call is refused: %s", exc)
        except SonicError as exc:
            code, reason = 1011, "the assistant has failed"
            logger.error("a call is lost: %s", exc)  # noqa: TRY400 - the sentence says it all
        finally:
            self.calls.discard(call)
        with contextlib.suppress(*GONE):
            await websocket.close(code, reason.encode()[:_REASON].decode(errors="ignore"))

    def _public(self, connection: HTTPConnection) -> str:
        """Return the address by which Twilio knows this server: there may be proxies in between."""
        return (self._public_url or f"https://{connection.headers.get('Host', '')}").rstrip("/")

    def _stream_url(self, connection: HTTPConnection) -> str:
        _, _, host = self._public(connection).partition("://")
        return f"wss://{host}/stream"  # Twilio takes no other scheme, and no query

    def _is_signed(
        self, connection: HTTPConnection, url: str, parameters: Iterable[tuple[str, str]] = ()
    ) -> bool:
        if self._token is None:
            return True
        given = connection.headers.get("X-Twilio-Signature", "")
        if mediastream.is_signed(given, self._token, url, parameters):
            return True
        logger.warning("a request for %s is refused: its signature is missing or wrong", connection.url.path)
        return False


def server_of(telephone: Telephone) -> uvicorn.Server:
    """Return a server for a telephone. When it is to end, it hangs up, and the sessions end in good order."""
    return uvicorn.Server(
        uvicorn.Config(
            telephone.app,
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=_LONGEST_MESSAGE,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=10,
        )
    )


async def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    token = None if options.unsigned else os.environ.get("TWILIO_AUTH_TOKEN")
    if not token and not options.unsigned:
        sys.exit("TWILIO_AUTH_TOKEN is not set; it tells Twilio's requests from others. Or: --unsigned")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logger.setLevel(logging.INFO)
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as exc:
        sys.exit(f"cannot listen on {options.host}, port {options.port}: {exc.strerror}")
    telephone = Telephone(
        token=token,
        public_url=options.public_url,
        most=options.calls,
        idle=options.idle,
        greeting=options.greeting,
        system=options.system,
        voice=options.voice,
    )
    if options.unsigned:
        logger.warning("anybody may call: signatures are not looked at")
    # Loading the AWS SDK takes half a second and more: not while the first caller waits.
    await asyncio.to_thread(importlib.import_module, "novasonic.bedrock")
    async with contextlib.AsyncExitStack() as stack:
        if options.emulator:
            await stack.enter_async_context(emulated())
        print(f"The webhook for calls is http://{options.host}:{listener.getsockname()[1]}/voice", flush=True)
        await server_of(telephone).serve(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Have Nova Sonic answer a telephone number of Twilio's.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for a free one")
    parser.add_argument(
        "--public-url", metavar="URL", help="where Twilio finds this server, if not by its host"
    )
    parser.add_argument(
        "--unsigned", action="store_true", help="take calls that nobody signed: for trying out"
    )
    parser.add_argument("--emulator", action="store_true", help="talk with an emulator of Bedrock, not AWS")
    parser.add_argument("--calls", type=int, default=20, help="how many there may be at once (%(default)s)")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of mutual silence (%(default)g)")
    parser.add_argument("--greeting", default=GREETING, help="what the model is to do first; '' for nothing")
    parser.add_argument("--system", default=SYSTEM, help="what the model is told about its task")
    parser.add_argument("--voice", default="matthew", help="see `novasonic voices`")
    return parser


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
    except SonicError as exc:
        sys.exit(f"answer: {exc}")
