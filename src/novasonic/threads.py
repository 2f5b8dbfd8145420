"""Blocking functions, called in threads that hold up nobody: neither the event loop nor the program's end."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("novasonic.threads")


async def in_thread[T](function: Callable[[], T], *, name: str) -> T:
    """Return what `function` returns, called in a thread of its own; raise what it raises.

    An exception that would end the program comes as a `RuntimeError`.

    The thread is a daemon, unlike those of `asyncio.to_thread`: one that hangs must neither keep the process
    from exiting nor take the place of others. Cancelling stops the waiting, and not the thread.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if outcome.done():
            return
        if failure is None:
            outcome.set_result(result)  # type: ignore[arg-type]  # there is no failure, so it is a T
        else:
            outcome.set_exception(failure)

    def run() -> None:
        try:
            settled: tuple[T | None, BaseException | None] = (function(), None)
        except (StopIteration, SystemExit, KeyboardInterrupt) as exc:
            # No future takes the first. The others would end the program, which a thread cannot ask for.
            settled = (None, RuntimeError(f"{name} raised {exc!r}"))
        except BaseException as exc:  # noqa: BLE001 - it is raised where the caller waits
            settled = (None, exc)
        # The event loop may have been closed meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, *settled)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name=name, daemon=True).start()
    return await outcome
