"""Places for the sessions of a program: whoever comes when all are taken waits in line. Knows no session.

AWS counts the open streams of an account, and refuses those beyond its quota. Waiting here is kinder than
being refused there.
"""

import asyncio
from collections import deque

from novasonic.errors import ConcurrencyError, ConfigurationError, LocalProtocolError, ThrottledError
from novasonic.models import Limits


class SessionLimiter:
    """Places for sessions, shared by the tasks of one event loop, and given in the order of asking.

    Example::

        limiter = SessionLimiter(max_waiting=100)


        async def answer(phone):
            async with limiter, SonicSession() as session: ...

    It may be made at import time, and serve one event loop after the other: with a loop that was closed, what
    was taken in it is free again.

    A session that goes on in its next stream, before the eight minutes of the first are over, has two streams
    for some seconds, and AWS counts both. So it needs a second place until the first stream is closed. It
    asks for that with `try_acquire()`, which never waits: behind a line of new sessions it could miss its
    time. Where it gets none, it has to close the first stream before it opens the next. In this way all
    streams together are never more than `max_sessions`.

    Args:
        max_sessions: How many places there are. An account may have twenty streams, all of its programs
            together, until AWS raises its quota.
        max_waiting: How many may wait in line; who comes then is refused at once. None: any number.

    Raises:
        ConfigurationError: If a number is too small.
    """

    def __init__(self, max_sessions: int = Limits().streams, *, max_waiting: int | None = None) -> None:
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions is {max_sessions!r}, but must be at least 1")
        if max_waiting is not None and max_waiting < 0:
            raise ConfigurationError(f"max_waiting is {max_waiting!r}, but must be at least 0, or None")
        self._max_sessions = max_sessions
        self._max_waiting = max_waiting
        self._active = 0
        self._line = deque[asyncio.Future[bool]]()  # True: a place is handed over; False: the time is up
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def max_sessions(self) -> int:
        """How many places there are."""
        return self._max_sessions

    @property
    def active(self) -> int:
        """How many places are taken."""
        return self._active

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not turn.done() for turn in self._line)  # who was cancelled is gone a moment later

    async def acquire(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the message says how long
        """Take a place; wait in line for it.

        Cancelling is safe: no place is lost, nobody else loses theirs in the line.

        Args:
            timeout: Seconds to wait. 0 refuses at once; None waits for as long as it takes.

        Raises:
            ThrottledError: If there was no place in time, or too many wait already.
            ConcurrencyError: If another event loop uses this limiter.
        """
        if self.try_acquire():
            return
        if timeout is not None and timeout <= 0:
            raise self._full()
        if self._max_waiting is not None and self.waiting >= self._max_waiting:
            raise self._full(", as many as may")
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._line.append(turn)
        timer = None if timeout is None else loop.call_later(timeout, self._give_up, turn)
        try:
            placed = await turn
        except BaseException:
            if turn in self._line:
                self._line.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.result():  # handed over in this very moment
                self.release()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not placed:
            raise self._full(f", and none has become free within {timeout:g} s")

    def try_acquire(self) -> bool:
        """Take a place if there is one that nobody waits for; return whether that is so.

        Raises:
            ConcurrencyError: If another event loop uses this limiter.
        """
        self._enter_loop()
        # Whoever waits is handed the next place that becomes free: as long as there is a line, none is.
        if self._active >= self._max_sessions:
            return False
        self._active += 1
        return True

    def release(self) -> None:
        """Give a place back, to the first in the line.

        Raises:
            LocalProtocolError: If none is taken.
        """
        if not self._active:
            raise LocalProtocolError(
                "release() without a place: each place that is acquired is released once"
            )
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._active -= 1

    async def __aenter__(self) -> None:
        """Take a place; wait in line for it."""
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Give the place back."""
        self.release()

    def _give_up(self, turn: asyncio.Future[bool]) -> None:
        if not turn.done():
            self._line.remove(turn)
            turn.set_result(False)

    def _full(self, more: str = "") -> ThrottledError:
        return ThrottledError(
            f"no place for another session: all {self._max_sessions} are taken, "
            f"and {self.waiting} wait for one{more}. "
            "Close a session, or raise max_sessions if the account's quota allows for it."
        )

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed() and self._active:
            raise ConcurrencyError(
                "another event loop has sessions from this SessionLimiter; make one for each loop"
            )
        self._loop, self._active = loop, 0
        self._line.clear()
