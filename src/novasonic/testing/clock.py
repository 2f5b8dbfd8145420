"""Time that a test commands: an event loop that jumps over the seconds in which nothing would happen.

It is for what runs in one loop and in memory. Sockets and subprocesses take real time, of which such a loop
knows nothing: its deadlines pass before they have done anything.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Final

from novasonic.errors import ConfigurationError

_START: Final = 1000.0  # seconds; whoever takes a time for a truth value is not to be found out by a 0

# Real seconds before each jump, as long as a thread may be at work. A session sends silence thirty times a
# second, so time then goes by thirty times faster than on the wall, and not a thousand times.
_GLANCE: Final = 0.001


class _Selector(selectors.DefaultSelector):
    """A selector whose loop jumps instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.glance: Callable[[], float] = float
        self.jump: Callable[[float], object] = float

    def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - as the class above has it
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(self.glance())
        if not found:
            self.jump(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: as soon as nothing else is left to do, it is the next timer's turn.

    An hour of `asyncio.sleep` is over at once, and all that happens in it happens in order::

        asyncio.run(main(), loop_factory=VirtualLoop)

    Time stands still while a call of `asyncio.to_thread` is at work. It cannot be known of other threads
    whether they are: while one lives that was started since, such as that of a tool that is no coroutine
    function, time goes by more slowly.
    """

    def __init__(self) -> None:
        selector = _Selector()
        selector.glance, selector.jump = self._glance, self._jump
        self._now = _START
        self._working = 0  # calls in the threads of an executor
        self._known = set(threading.enumerate())
        super().__init__(selector)

    def time(self) -> float:
        """Return the time, in seconds."""
        return self._now

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call a function in a thread; time stands still meanwhile. See `asyncio.loop.run_in_executor`."""
        future = super().run_in_executor(executor, func, *args)
        self._working += 1
        future.add_done_callback(self._returned)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's
        """Wait for the threads of `asyncio.to_thread`; time stands still meanwhile."""
        self._working += 1
        await super().shutdown_default_executor(timeout)
        self._working -= 1

    def _returned(self, _: object) -> None:
        self._working -= 1

    def _glance(self) -> float:
        return _GLANCE if self._working or any(map(self._may_work, threading.enumerate())) else 0.0

    def _may_work(self, thread: threading.Thread) -> bool:
        idle = thread.name.startswith("asyncio_")  # of to_thread(): those at work are counted
        return not idle and thread not in self._known

    def _jump(self, seconds: float) -> None:
        if not self._working:
            self._now += seconds


class SonicClock:
    """What the fixture `sonic_clock` gives: the time of a test that is on virtual time.

    A test that asks for it waits for nothing, if pytest-asyncio 1.4 or newer runs it::

        async def test_the_conversation_outlives_its_stream(sonic_clock):
            async with SonicSession(transport=MemoryConnector()) as session:
                await sonic_clock.advance(600)
                assert session.state is SessionState.OPEN

    With anyio, a fixture of yours says the same of all tests around it::

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": novasonic.testing.VirtualLoop}

    A test that is no coroutine function runs one with `run()`. What `time.time()` and `datetime.now()` tell
    is not changed.
    """

    @property
    def now(self) -> float:
        """The time of the event loop, in seconds; only differences mean something.

        Raises:
            ConfigurationError: If the test is not on virtual time.
        """
        return _virtual_loop().time()

    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass, with all that happens in them.

        Raises:
            ConfigurationError: If the test is not on virtual time.
        """
        _virtual_loop()
        await asyncio.sleep(seconds)

    def run[T](self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on virtual time, to its end, and return what it returns."""
        return asyncio.run(main, loop_factory=VirtualLoop)


def _virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise ConfigurationError(
            "this test is not on virtual time. pytest-asyncio sees to it from 1.4 on; with anyio, let your "
            "fixture anyio_backend return ('asyncio', {'loop_factory': novasonic.testing.VirtualLoop}); "
            "in a test that is no coroutine function, use sonic_clock.run()"
        )
    return loop
