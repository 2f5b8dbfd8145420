"""What every test is held to: the loop is never blocked, and nothing is left behind."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from clocks import CLOCKS
from running import running, utterance  # noqa: F401 - fixtures

# A busy machine is slow, and that is no failure.
settings.register_profile("novasonic", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("novasonic")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'clock(name): the loop\'s clock: "real", "virtual", "fast" or "brisk"')


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - pytest passes it
    item: pytest.Item,
) -> Mapping[str, type[asyncio.SelectorEventLoop]]:
    marker = item.get_closest_marker("clock")
    name = marker.args[0] if marker else "real"
    return {name: CLOCKS[name]}


@pytest.fixture(autouse=True)
def _never_blocks() -> Iterator[None]:
    """A session shares its event loop with others: what blocks it is late audio for all of them."""
    with blockbuster_ctx("novasonic") as watch:
        for function in watch.functions.values():
            # The SDK runs a loop of its own there, in a thread.
            function.can_block_in("novasonic/threads.py", "run")
            # A test may wait for its emulator: its loop is nobody else's.
            function.can_block_in("novasonic/testing/fixtures.py", "__call__")
            # What takes too long is to say so.
            function.can_block_in("pytest_timeout.py", "timeout_sigalrm")
        yield


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = set(threading.enumerate())
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_ends_its_tasks")
    yield
    left = {each.name for each in set(threading.enumerate()) - threads if not each.daemon}
    assert {name for name in left if not name.startswith("asyncio_")} == set(), "threads are left"


@pytest.fixture
async def _ends_its_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert {task.get_name() for task in left} == set(), "tasks are left"
