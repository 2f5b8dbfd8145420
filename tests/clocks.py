"""Event loops whose time the tests command, so that no test waits for a second to pass.

- On a *virtual* clock, time jumps to the next timer as soon as nothing else is left to do. It is for what
  runs in one loop and memory; a thread that works for the loop holds time still.
- On a *fast* clock, all seconds of the loop are shorter. It is for what waits for real sockets.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

_GLANCE = 0.01  # real seconds: how often a virtual clock looks whether a thread is done


class _Selector(selectors.DefaultSelector):
    """A selector that asks its loop how long it may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: Callable[[float | None], float | None] = lambda timeout: timeout

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(0)
        return found or super().select(self.wait(timeout))


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps over the time in which nothing would happen."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.wait = self._pass
        self._now = 1000.0
        self._threads = 0
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1

        def done(_: object) -> None:
            self._threads -= 1

        future.add_done_callback(done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's
        self._threads += 1
        await super().shutdown_default_executor(timeout)
        self._threads -= 1

    def _pass(self, timeout: float | None) -> float | None:
        if self._threads:
            return _GLANCE
        self._now += timeout or 0.0
        return 0


class FastLoop(asyncio.SelectorEventLoop):
    """Lets every second pass in a twelfth of one."""

    speed = 12.0

    def __init__(self) -> None:
        selector = _Selector()
        selector.wait = lambda timeout: None if timeout is None else timeout / self.speed
        super().__init__(selector)

    def time(self) -> float:
        return super().time() * self.speed


class BriskLoop(FastLoop):
    """Lets every second pass in a quarter of one: a machine that is a moment late is not late by a word."""

    speed = 4.0


CLOCKS: dict[str, type[asyncio.SelectorEventLoop]] = {
    "real": asyncio.SelectorEventLoop,
    "virtual": VirtualLoop,
    "fast": FastLoop,
    "brisk": BriskLoop,
}


async def pass_time(seconds: float) -> None:
    """Let so many seconds of the loop pass: at once on a virtual clock, and quickly on a fast one."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop | FastLoop), "no test waits for real seconds"
    await asyncio.sleep(seconds)
