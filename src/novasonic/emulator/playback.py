"""Plays a stream of the service in real time, or faster: the one clock of the emulator."""

import asyncio
from collections.abc import Callable

from novasonic.emulator.outbox import Output
from novasonic.emulator.service import Stream


class Playback:
    """A stream of the service, driven by the event loop's clock.

    Args:
        open_stream: Opens the stream at a time of the service's clock.
        speed: Seconds of the service in one of the clock on the wall.

    Attributes:
        stream: The stream.
    """

    def __init__(self, open_stream: Callable[[float], Stream], *, speed: float = 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._speed = speed
        self._start = self._loop.time()
        self._reached = 0.0  # the last appointment: a clock may say a rounding error less
        self._woken = asyncio.Event()
        self.stream = open_stream(0.0)

    @property
    def now(self) -> float:
        """The time of the service, in its seconds since the stream was opened."""
        return max((self._loop.time() - self._start) * self._speed, self._reached)

    def receive(self, document: bytes) -> None:
        """Let the service hear what the client says now."""
        self.stream.receive(document, self.now)
        self._woken.set()

    def end_input(self) -> None:
        """Let the service know that the client will say nothing more."""
        self.stream.end_input(self.now)
        self._woken.set()

    def wake(self) -> None:
        """Let `outputs()` look again."""
        self._woken.set()

    def _reach(self, due: float) -> None:
        self._reached = due
        self._woken.set()

    async def outputs(self) -> list[Output]:
        """Wait until the service has something to say, and return it; nothing once the stream is over.

        Cancelling is safe: nothing is lost.
        """
        while True:
            self._woken.clear()
            found = self.stream.advance(self.now)
            if found or self.stream.over:
                return found
            due = self.stream.due
            timer = None
            if due is not None:
                timer = self._loop.call_at(self._start + due / self._speed, self._reach, due)
            try:
                await self._woken.wait()
            finally:
                if timer is not None:
                    timer.cancel()
