import asyncio

import pytest


@pytest.mark.clock("virtual")
async def test_an_hour_passes_at_once_on_a_virtual_clock() -> None:
    """And a thread holds it still, or every deadline would pass while one works."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(7200):
        await asyncio.sleep(3600)
    assert loop.time() - start == pytest.approx(3600)
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(sum, range(1_000_000))
