"""Who may come in: this server's own page, programs that are no browser's, and whoever has the token."""

import base64
import contextlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Lets nobody in but its own page, programs that are no browser's, and whoever has the token."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], token: str | None) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        await (self._app if refusal is None else refusal)(scope, receive, send_on)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        # Browsers say where a socket or a command comes from, and a page cannot make them lie. Other programs
        # say nothing, and could lie: against them there is the token.
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            return PlainTextResponse("This origin is not allowed; see --origin.", status_code=403)
        if path.startswith("/api/") and self._token is not None:
            given = _token_in(headers)
            if given is None or not hmac.compare_digest(given, self._token.encode()):
                return PlainTextResponse("This needs the right token.", status_code=401)
        return None


def _token_in(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip().encode("latin-1")  # the bytes as they came
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        name, _, encoded = protocol.strip().partition(".")
        if name == "bearer":
            with contextlib.suppress(ValueError):
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    return None
