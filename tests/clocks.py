"""Event loops whose time the tests command, so that no test waits for a second to pass.

- On a *virtual* clock, time jumps to the next timer as soon as nothing else is left to do: the product's own,
  `novasonic.testing.VirtualLoop`. It is for what runs in one loop and memory.
- On a *fast* clock, the seconds for which the loop waits are shorter. It is for what waits for real sockets.
"""

import asyncio
import math
import selectors
import time
from typing import Any

from novasonic.testing import VirtualLoop

__all__ = ["CLOCKS", "FastLoop", "VirtualLoop", "pass_time"]


class _Selector(selectors.DefaultSelector):
    """A selector that waits for a part of the time, and knows how long it has waited."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        limit = math.inf if timeout is None else max(0.0, timeout) / self._speed
        since = time.monotonic()
        found = super().select(None if timeout is None else limit)
        self.waited += min(time.monotonic() - since, limit)
        return found


class FastLoop(asyncio.SelectorEventLoop):
    """Lets every second that it waits pass in a twelfth of one.

    What it works passes as it does: a busy machine, which works longer and wakes late, is late by seconds of
    its own and not by twelve times as many.
    """

    speed = 12.0

    def __init__(self) -> None:
        self._waits = _Selector(self.speed)
        super().__init__(self._waits)

    def time(self) -> float:
        return super().time() + (self.speed - 1) * self._waits.waited


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
