"""The pytest plugin: four fixtures, which load what they need when a test asks for them.

It is loaded whenever pytest starts and novasonic is installed, so it imports nothing that pytest has not.
"""

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    import asyncio

    from novasonic.testing.clock import SonicClock
    from novasonic.testing.fixtures import SonicEmulator, SonicReplay, SonicScript

_PASSED: Final = pytest.StashKey[bool]()
_SCRIPT: Final = pytest.StashKey["SonicScript"]()


@pytest.fixture
def sonic_script(request: pytest.FixtureRequest) -> "Iterator[SonicScript]":
    """Scripted services in memory, which must be played to their end; see `novasonic.testing`."""
    from novasonic.testing.fixtures import SonicScript  # noqa: PLC0415 - see above

    node: pytest.Item = request.node
    script = node.stash[_SCRIPT] = SonicScript()
    yield script
    _check(node, script)


@pytest.fixture
def sonic_replay(request: pytest.FixtureRequest) -> "Iterator[SonicReplay]":
    """Recorded conversations, which must go as they went; see `novasonic.testing`."""
    from novasonic.testing.fixtures import SonicReplay  # noqa: PLC0415 - see above

    replay = SonicReplay(request.path.parent)
    yield replay
    _check(request.node, replay)


@pytest.fixture
def sonic_emulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[SonicEmulator]":
    """Bedrock on localhost, to which the environment leads; see `novasonic.testing`."""
    from novasonic.testing.fixtures import SonicEmulator  # noqa: PLC0415 - see above

    if "sonic_clock" in request.fixturenames:
        pytest.fail(
            "sonic_emulator and sonic_clock exclude each other: what goes over a real wire takes real time. "
            "For virtual time, play the scenario in memory: sonic_script(scenario)",
            pytrace=False,
        )
    emulator = SonicEmulator(monkeypatch)
    yield emulator
    emulator.close()


@pytest.fixture
def sonic_clock() -> "SonicClock":
    """Virtual time, in which an hour is over at once; see `novasonic.testing`."""
    from novasonic.testing.clock import SonicClock  # noqa: PLC0415 - see above

    return SonicClock()


def _check(test: pytest.Item, played: "SonicScript | SonicReplay") -> None:
    """Fail a test that has passed, if it left something unplayed; where it was left is in no traceback."""
    if test.stash.get(_PASSED, False):
        try:
            played.assert_complete()
        except Exception as exc:  # noqa: BLE001 - what the program did wrong may be of any kind
            pytest.fail(str(exc), pytrace=False)


class _VirtualTime:
    """Has pytest-asyncio make the loops of a test."""

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> "Mapping[str, type[asyncio.AbstractEventLoop]]":
        from novasonic.testing.clock import VirtualLoop  # noqa: PLC0415 - see above

        return {"virtual": VirtualLoop}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Put a test that asks for `sonic_clock` on virtual time, if pytest-asyncio runs it.

    Its hook for that is for all tests: once one is there, it must answer for each. So ours comes and goes.
    """
    if "sonic_clock" not in metafunc.fixturenames:
        return (yield)
    plugins, ours = metafunc.config.pluginmanager, _VirtualTime()
    plugins.register(ours)
    try:
        return (yield)
    finally:
        plugins.unregister(ours)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a test has passed; in the report of one that has not, tell how far its script got."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = call.excinfo is None
        script = item.stash.get(_SCRIPT, None)
        if report.failed and script is not None and (progress := script.progress()):
            report.sections.append(("sonic_script", progress))
    return report
