"""The user's voice on its way to a stream: what waits, and what was sent and may have to be said again.

Frames wait here and nowhere else, so that another stream can take over between two of them. They are counted
in samples, from the first that was ever sent.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from novasonic.errors import LocalProtocolError

# How far, in seconds, a program may speak ahead of what the network takes: nobody wants an answer to older
# audio than that. While there is no stream nothing must be lost, and a stream may take long to come.
_AHEAD: Final = 2.0
_ADRIFT: Final = 30.0

# Seconds of audio that are kept after they were sent: longer than anybody speaks without any of it becoming
# text, which happens every four seconds.
_KEPT: Final = 30.0

# How much faster than it was spoken audio is sent that is late. Faster would be a burst that no client of the
# service is known to send for long; slower, and the user waits.
_CATCHING_UP: Final = 4.0


class _Sent(NamedTuple):
    """A frame that was sent; `start` is the number of its first sample."""

    pcm: bytes
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.pcm) // 2


def _silently(_: bytes) -> None:
    pass


class Outgoing:
    """A queue of frames of 16-bit mono samples.

    Args:
        sample_rate: In Hz.
        on_new: Is told every frame as it is sent for the first time.

    Attributes:
        sent_at: When the latest frame was sent, by the event loop's clock.
    """

    def __init__(self, sample_rate: int, *, on_new: Callable[[bytes], None] = _silently) -> None:
        self._rate = sample_rate
        self._on_new = on_new
        self._loop = asyncio.get_running_loop()
        self._again = deque[_Sent]()  # goes before all that waits, and is no part of its bound
        self._waiting = deque[bytes]()
        self._waiting_bytes = 0
        self._kept = deque[_Sent]()
        self._kept_bytes = 0
        self._sent = 0  # samples that were sent for the first time
        self.sent_at = -math.inf
        self._room = asyncio.Event()
        self._wake: Callable[[], None] | None = None  # whoever listens
        self._late = False  # whether there is something to catch up with
        self._due = 0.0  # when the next late frame may go
        self._timer: asyncio.TimerHandle | None = None
        self._closed: BaseException | None = None

    @property
    def empty(self) -> bool:
        """Whether everything was sent."""
        return not (self._again or self._waiting)

    @property
    def adrift(self) -> bool:
        """Whether nobody listens."""
        return self._wake is None

    @property
    def next(self) -> int:
        """The number of the first sample of the frame that goes next."""
        return self._again[0].start if self._again else self._sent

    @property
    def waiting(self) -> bytes:
        """All that goes next."""
        return b"".join([*(frame.pcm for frame in self._again), *self._waiting])

    def latest(self, seconds: float) -> bytes:
        """Return what was sent last, about so much of it."""
        size, frames = round(2 * seconds * self._rate), deque[bytes]()
        for frame in reversed(self._kept):
            if size <= 0:
                break
            frames.appendleft(frame.pcm)
            size -= len(frame.pcm)
        return b"".join(frames)

    # --- for whoever speaks -------------------------------------------------------------------------------

    async def put(self, pcm: bytes) -> None:
        """Add a frame; wait while too much waits already.

        Cancelling is safe: the frame is added whole or not at all.

        Raises:
            TransportError: If the stream has failed, and there will be no other.
            LocalProtocolError: If the session has ended.
        """
        self._check()
        while self._waiting_bytes >= self._limit:
            self._room.clear()
            await self._room.wait()
            self._check()
        self._add(pcm)

    def put_over(self, pcm: bytes) -> int:
        """Add a frame without waiting; the oldest ones make room for it.

        Returns:
            How many bytes were dropped; `pcm` itself, once nothing is taken any more.
        """
        if self._closed is not None:
            return len(pcm)
        dropped = 0
        while self._waiting and self._waiting_bytes >= self._limit:
            dropped += len(self._take())
        self._add(pcm)
        return dropped

    @property
    def _limit(self) -> int:
        return int(2 * self._rate * (_ADRIFT if self.adrift or self._late else _AHEAD))

    def _check(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _add(self, pcm: bytes) -> None:
        self._waiting.append(pcm)
        self._waiting_bytes += len(pcm)
        if self._wake is not None:
            self._wake()

    def _take(self) -> bytes:
        pcm = self._waiting.popleft()
        self._waiting_bytes -= len(pcm)
        return pcm

    # --- for the stream that listens ----------------------------------------------------------------------

    def attach(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever a frame can be pulled."""
        self._wake = wake
        self._late = not self.empty
        self._due = self._loop.time()
        wake()

    def detach(self) -> None:
        """Let frames wait until somebody listens again."""
        self._wake = None
        self._room.set()  # there is room for more now
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pull(self) -> bytes | None:
        """Return the next frame, to be sent now; None if there is none, or it may not go yet."""
        if self.empty:
            self._late = False
            return None
        now = self._loop.time()
        if self._late and now < self._due:
            if self._timer is None:
                self._timer = self._loop.call_at(self._due, self._go_on)
            return None
        self.sent_at = now
        frame = self._again.popleft() if self._again else self._first_sent(self._take())
        seconds = len(frame.pcm) / 2 / self._rate
        # A loop that was busy may make up for a second of audio at most.
        self._due = max(self._due, now - 1 / _CATCHING_UP) + seconds / _CATCHING_UP
        self._keep(frame)
        self._room.set()
        return frame.pcm

    def _first_sent(self, pcm: bytes) -> _Sent:
        frame = _Sent(pcm, self._sent)
        self._sent = frame.end
        self._on_new(pcm)
        return frame

    def _go_on(self) -> None:
        self._timer = None
        if self._wake is not None:
            self._wake()

    def _keep(self, frame: _Sent) -> None:
        self._kept.append(frame)
        self._kept_bytes += len(frame.pcm)
        while self._kept_bytes > 2 * self._rate * _KEPT:
            self._kept_bytes -= len(self._kept.popleft().pcm)

    # --- for whoever moves on to another stream -----------------------------------------------------------

    def rewind(self, sample: int) -> None:
        """Have sample number `sample` and all that follow sent again, as far as they are kept."""
        while self._kept and self._kept[-1].end > sample:
            frame = self._kept.pop()
            self._kept_bytes -= len(frame.pcm)
            self._again.appendleft(frame)

    def hurry(self) -> None:
        """Let all that waits go at once: the session ends."""
        self._late = False
        if self._wake is not None:
            self._wake()

    def close(self, failure: BaseException | None = None) -> None:
        """Take nothing more."""
        if self._closed is None:
            self._closed = failure or LocalProtocolError(
                "the session has ended; nothing can be sent any more"
            )
        self._room.set()
