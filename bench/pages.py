"""The pages of `bench.load`, in a process of their own: sockets that speak and listen in real time.

`python -m bench.pages URL SESSIONS SECONDS` prints a list of `Page` as JSON.
"""

import asyncio
import base64
import sys
import time
import zlib
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect

FRAME: Final = 0.032  # seconds
ALONE: Final = 3.0  # seconds that the first has the server for itself: what the next ones take is seen then
_DIGITS: Final = (
    4  # the number of a frame is written into so many samples, of which none is loud enough to hear
)


class Page(msgspec.Struct, kw_only=True):
    """What a page has sent, and got.

    Attributes:
        session: Its id.
        sent: Frames of audio.
        late: Seconds by which the latest of them was sent too late.
        chunks: Pieces of speech that came.
        checksum: Of all of them, in order.
    """

    session: str
    sent: int
    late: float
    chunks: int
    checksum: int


def numbered(number: int) -> bytes:
    """Return a frame of silence that tells its number."""
    digits = [number >> 4 * place & 15 for place in range(_DIGITS)]
    return b"".join(digit.to_bytes(2, "little") for digit in digits).ljust(1024, b"\0")


def number_in(frame: bytes) -> int:
    """Return the number of a frame."""
    return sum(frame[2 * place] << 4 * place for place in range(_DIGITS))


async def converse(url: str, seconds: float, delay: float) -> Page:
    """Have the server talk for so long, and talk meanwhile."""
    await asyncio.sleep(delay)
    async with connect(url, proxy=None, max_size=None, compression=None) as socket:
        await socket.send('{"type": "initialize"}')
        page = Page(session="", sent=0, late=0.0, chunks=0, checksum=0)
        async for frame in socket:
            message: dict[str, Any] = msgspec.json.decode(frame)
            match message["type"]:
                case "initialized":
                    page.session = message["sessionId"]
                    await socket.send('{"type": "text_message", "text": "Talk to me."}')
                    speaking = asyncio.create_task(speak(socket, page, seconds))
                case "audio_response":
                    page.chunks += 1
                    page.checksum = zlib.crc32(base64.b64decode(message["audio"]), page.checksum)
                case "text_response" if message["isFinal"]:  # all was heard
                    await speaking
                    await socket.send('{"type": "end_conversation"}')
                case "error":
                    raise RuntimeError(message["message"])
                case _:
                    pass
        return page


async def speak(socket: ClientConnection, page: Page, seconds: float) -> None:
    """Send frames for so long, each when it is due."""
    due = time.monotonic()
    for number in range(1, round(seconds / FRAME) + 1):
        due += FRAME
        await asyncio.sleep(due - time.monotonic())
        page.late = max(page.late, time.monotonic() - due)
        audio = base64.b64encode(numbered(number)).decode()
        await socket.send(f'{{"type": "audio_chunk", "audio": "{audio}"}}')
        page.sent += 1


async def main(url: str, sessions: str, seconds: str) -> None:
    """Run the pages, and print what became of them."""
    count = int(sessions)
    phases = [0.0] + [ALONE + FRAME * number * 1.61 for number in range(1, count)]
    pages = await asyncio.gather(*(converse(url, float(seconds), phase) for phase in phases))
    print(msgspec.json.encode(pages).decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
