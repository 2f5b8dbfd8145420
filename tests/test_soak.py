"""The soaks of `make soak`, in short: conversations that go on for long, and through whatever goes wrong."""

import tracemalloc

import pytest

from bench import faults, hours
from novasonic.continuation import Renewal


def test_half_an_hour_is_one_conversation_to_whoever_holds_it() -> None:
    """No sample is lost or sent twice, no word is missing or there twice, and nothing is left behind."""
    tracemalloc.start()
    result, left = hours.run(
        hours=0.5, seed=4, renewal=Renewal(), memory=lambda: tracemalloc.get_traced_memory()[0]
    )
    tracemalloc.stop()
    assert [*result.complaints, *left] == []
    assert result.renewals.total() >= 3
    assert result.at_once <= 2
    assert result.account.given == result.account.heard > 10_000
    assert result.growth is not None
    assert result.growth < 10_000_000


@pytest.mark.parametrize("number", range(1, 16))
def test_whatever_goes_wrong_the_conversation_goes_on_or_says_why(number: int) -> None:
    outcome = faults.run(number, seed=1)
    assert outcome.complaints == [], f"python -m bench.soak --seed 1 --only {number}"
    assert outcome.happened
