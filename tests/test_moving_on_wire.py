"""The stories of `test_moving_on` once more: by the real SDK, over the real wire, to the emulator."""

import pytest

from running import Running, over_the_wire
from test_moving_on import *  # noqa: F403 - all of them

pytestmark = pytest.mark.clock("brisk")


@pytest.fixture(name="running")
def _running() -> Running:
    return over_the_wire
