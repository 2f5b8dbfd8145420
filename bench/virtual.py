"""Runs work in simulated time, in an event loop of its own, and looks at what it leaves behind."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from clocks import VirtualLoop


def run[T](work: Callable[[], Coroutine[Any, Any, T]], *, within: float) -> tuple[T, list[str]]:
    """Do some work, and return its result and what is wrong with what it has left behind.

    Args:
        work: The work.
        within: Seconds of simulated time that it may take.

    Raises:
        TimeoutError: If it takes longer.
    """
    threads, files = set(threading.enumerate()), _open_files()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result, complaints = runner.run(_watched(work, within))
    gc.collect()
    left = [each.name for each in set(threading.enumerate()) - threads]
    complaints += [f"the thread {name} is left" for name in left]
    if (more := _open_files() - files) > 0:
        complaints.append(f"{more} files or sockets are left open")
    return result, complaints


async def _watched[T](work: Callable[[], Coroutine[Any, Any, T]], within: float) -> tuple[T, list[str]]:
    complaints, loop = list[str](), asyncio.get_running_loop()

    def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        complaints.append(f"{context['message']}: {context.get('exception')!r}")

    loop.set_exception_handler(complain)
    async with asyncio.timeout(within):
        result = await work()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    complaints += [f"the task {task.get_name()} is left" for task in left]
    gc.collect()  # what nobody has looked at complains now
    return result, complaints


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - only their number counts
