"""What waits between the reader of a stream and the program: events, in order, but for one thing.

An interruption overtakes: whoever plays speech must hear of it before more speech, and never get what it
cut.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final

from novasonic.events import AudioChunk, Event, Interrupted

# Speech comes five times faster than it plays. All that the service can say in the eight minutes of a
# stream is 23 MB at 24 kHz, so this holds back only a program that does not read at all.
_MAX_BYTES: Final = 64 * 2**20
_EVENT_BYTES: Final = 512  # about what an event takes, besides its audio


class Inbox:
    """A queue of events with one reader, bounded in bytes."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._events = deque[Event]()
        self._bytes = 0
        self._changed = asyncio.Event()  # something arrived, or the end
        self._taken = asyncio.Event()
        self._closed = False
        self._failure: BaseException | None = None

    @property
    def unread_bytes(self) -> int:
        """About how much memory the waiting events take."""
        return self._bytes

    @property
    def empty(self) -> bool:
        """Whether everything was read."""
        return not self._events

    def put(self, event: Event) -> None:
        """Add an event. After the end, nothing is added any more."""
        if self._closed:
            return
        if isinstance(event, Interrupted):
            self._overtake(event)
        else:
            self._events.append(event)
            self._bytes += _size(event)
        self._changed.set()

    def _overtake(self, interruption: Interrupted) -> None:
        kept = [
            event
            for event in self._events
            if not (isinstance(event, AudioChunk) and event.turn <= interruption.turn)
        ]
        ahead = next((n for n, event in enumerate(kept) if not isinstance(event, Interrupted)), len(kept))
        kept.insert(ahead, interruption)
        cut, self._events = self._events, deque(kept)
        self._bytes = sum(map(_size, kept))
        # Freeing a minute of speech takes longer than all of this: the program is to hear of it first.
        asyncio.get_running_loop().call_soon(cut.clear)
        self._taken.set()

    async def room(self) -> None:
        """Wait until there is room for more. Cancelling is safe."""
        while self._bytes >= self._max_bytes and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    async def get(self) -> Event:
        """Return the next event; wait for it. Cancelling is safe: no event is lost.

        Raises:
            StopAsyncIteration: If the end was reached.
            BaseException: What the inbox was closed with.
        """
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        self._bytes -= _size(event)
        self._taken.set()
        return event

    async def arrival(self, timeout: float) -> None:  # noqa: ASYNC109 - running out of time is no failure here
        """Wait until there is something to read, or the end, for at most `timeout` seconds."""
        if not self._events and not self._closed:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()

    def close(self, failure: BaseException | None = None) -> None:
        """Let the reader come to the end once it has read what is there. Only the first close counts."""
        if not self._closed:
            self._closed, self._failure = True, failure
            self._changed.set()
            self._taken.set()


def _size(event: Event) -> int:
    return _EVENT_BYTES + (len(event.pcm) if isinstance(event, AudioChunk) else 0)
