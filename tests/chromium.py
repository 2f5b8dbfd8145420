"""Drives Chromium by its DevTools protocol: as much of it as the tests of the page need, and no more."""

import asyncio
import base64
import contextlib
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

# Off is what makes noise on the network or needs a desktop. The microphone is a file, and nobody is asked.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)


def found() -> str | None:
    """Return where Chromium is, if anywhere."""
    return shutil.which("chromium")


class Page:
    """A page in Chromium.

    Attributes:
        complaints: What its scripts threw, and what they or the browser logged as an error.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(), name="chromium")

    async def open(self) -> None:
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def command(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command of the protocol, and return its result."""
        number = len(self._waiting)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        message = {"id": number, "method": method, "params": params}
        await self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        async with asyncio.timeout(30):
            return await future

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame)
            params = message.get("params", {})
            if "error" in message:
                self._waiting[message["id"]].set_exception(RuntimeError(message["error"]["message"]))
            elif "id" in message:
                self._waiting[message["id"]].set_result(message["result"])
            elif message["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            elif message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    # --- what a user does ---

    async def go(self, url: str) -> None:
        await self.command("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does: only that counts as the user's wish."""
        x, y = await self.run(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text
            )

    async def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        await self.command("Input.insertText", text=text)

    async def resize(self, width: int, height: int, *, mobile: bool = False, dark: bool = False) -> None:
        """Become a window, or a telephone."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.command("Emulation.setEmulatedMedia", features=features)

    # --- what a user sees, and more ---

    async def run(self, expression: str) -> Any:
        """Return what an expression gives in the page; wait for it, if it is a promise."""
        done = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"]["description"])
        return done["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until an expression is true in the page, and return what it gives then."""
        return await self.run(
            f"new Promise((found) => {{ const look = () => {{ const it = ({condition});"
            " it ? found(it) : setTimeout(look, 10) }; look() })"
        )

    async def text(self, selector: str) -> str:
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def screenshot(self, path: Path) -> None:
        taken = await self.command("Page.captureScreenshot")
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))


@asynccontextmanager
async def chromium(folder: Path, *flags: str) -> AsyncIterator[Page]:
    """Run Chromium with an empty profile in a folder, and give a page of it."""
    program = found()
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={folder}", *flags, stdout=DEVNULL, stderr=PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while not (line := await process.stderr.readline()).startswith(b"DevTools listening on "):
                assert line, "Chromium has ended"
        drained = asyncio.create_task(process.stderr.read(), name="chromium-stderr")
        try:
            async with connect(line.split()[-1].decode(), max_size=None) as socket:
                page = Page(socket)
                try:
                    await page.open()
                    yield page
                finally:
                    await page.aclose()
        finally:
            drained.cancel()
            await asyncio.wait({drained})
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
