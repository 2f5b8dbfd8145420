"""The model's speech on its way to a page that plays it: a little ahead of what is heard, and no more.

The service speaks five times faster than anybody listens. What is sent at once can neither be held back when
the user breaks in, nor does a slow network have room for it; what is sent just in time stutters. A page holds
half a second; the rest waits here, and what finds no room here waits in the session. No socket, no page.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final

from novasonic import AudioChunk

ROOM: Final = 30.0  # seconds: 1.4 MB. Few answers are longer


class Pacer:
    """Hands out speech when it is due, and knows how much of it was heard, by the clock.

    Args:
        ahead: Seconds before it is heard.
    """

    def __init__(self, ahead: float) -> None:
        self._most_ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._waiting = deque[AudioChunk]()
        self._queued = 0.0  # seconds of it
        self._turn = 0  # of what was handed out last
        self._given = dict[int, float]()  # seconds of each turn that were handed out
        self._played_at = 0.0  # when all of that will have been heard
        self._changed = asyncio.Event()

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn were heard; None if none of it was handed out.

        `SonicSession.played_by` asks this.
        """
        given = self._given.get(turn)
        return given if given is None or turn != self._turn else given - self._ahead

    @property
    def _ahead(self) -> float:
        return max(0.0, self._played_at - self._loop.time())

    async def put(self, chunk: AudioChunk) -> None:
        """Add a piece of speech; wait while there is no room, which takes no longer than a piece plays."""
        while self._queued >= ROOM:
            await self._change()
        self._waiting.append(chunk)
        self._queued += chunk.duration
        self._changed.set()

    def stop(self) -> None:
        """Drop what was not handed out; what was handed out and not heard will be dropped by the page."""
        if self._turn in self._given:
            self._given[self._turn] -= self._ahead
        self._played_at = 0.0
        self._waiting.clear()
        self._queued = 0.0
        self._changed.set()

    async def next(self) -> AudioChunk:
        """Return the next piece when it is due; wait for it. Cancelling is safe: nothing is lost."""
        while not self._waiting or self._ahead > self._most_ahead:
            await self._change(self._ahead - self._most_ahead if self._waiting else None)
        chunk = self._waiting.popleft()
        self._queued -= chunk.duration
        self._turn = chunk.turn
        self._given[chunk.turn] = self._given.get(chunk.turn, 0.0) + chunk.duration
        self._played_at = max(self._played_at, self._loop.time()) + chunk.duration
        self._changed.set()
        return chunk

    async def _change(self, within: float | None = None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()
