"""`python -m bench.soak`: three hours of one conversation, and hundreds of faults in a hundred others.

Both take place in simulated time, against the service in memory. What is printed with a complaint, `--seed`
and `--only`, holds the conversation again.
"""

import argparse
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# The clock that jumps is the tests'.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import faults, hours
from novasonic.continuation import Renewal

_RENEWALS_AN_HOUR: Final = 22 / 3  # three hours, at most eight minutes a stream
_GROWTH: Final = 10_000_000  # bytes, after the first renewal
_FAULTS: Final = 5  # in a conversation, on average


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print what they show, and return the status for the shell."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--only", type=int, metavar="N", help="the conversation with this number alone")
    options = parser.parse_args(arguments)
    wrong = [] if options.only is not None else _three_hours(options.hours, options.seed)
    numbers = [options.only] if options.only is not None else range(1, options.conversations + 1)
    if numbers:
        wrong += _hundred(numbers, options.seed, enough=options.only is None)
    for each in wrong:
        print(f"WRONG: {each}")
    return bool(wrong)


def _three_hours(length: float, seed: int) -> list[str]:
    began = time.perf_counter()
    tracemalloc.start()  # what Python holds; the size of a process depends on what ran in it before
    result, left = hours.run(
        hours=length, seed=seed, renewal=Renewal(), memory=lambda: tracemalloc.get_traced_memory()[0]
    )
    tracemalloc.stop()
    account, growth = result.account, result.growth or 0
    print(f"one conversation of {result.seconds / 3600:.2f} h, in {time.perf_counter() - began:.0f} s")
    print(f"  asked: {dict(result.exchanges)}")
    print(f"  broken into {result.cuts} times, left alone for minutes {result.absences} times")
    print(f"  moved on: {dict(result.renewals)}; streams at once: {result.at_once}")
    print(
        f"  frames of the user: {account.given} given, {account.heard} heard, {account.replayed} heard again"
    )
    print(f"  memory after the first renewal: {growth / 1e6:+.2f} MB")
    wrong = [f"three hours, --seed {seed}: {each}" for each in (*result.complaints, *left)]
    if result.renewals.total() < int(length * _RENEWALS_AN_HOUR):
        wrong.append(f"there were only {result.renewals.total()} renewals")
    if growth > _GROWTH:
        wrong.append(f"memory grew by {growth / 1e6:.1f} MB")
    return wrong


def _hundred(numbers: Sequence[int], seed: int, *, enough: bool) -> list[str]:
    began, wrong = time.perf_counter(), list[str]()
    kinds, points, ends = Counter[str](), Counter[str](), Counter[str]()
    renewals = given = heard = again = at_once = 0
    for number in numbers:
        outcome = faults.run(number, seed=seed)
        wrong += [f"--seed {seed} --only {number}: {each}" for each in outcome.complaints]
        kinds.update(each.trouble.name for each in outcome.happened)
        points.update(each.point for each in outcome.happened)
        ends[type(outcome.error).__name__ if outcome.error else "held to its end"] += 1
        renewals += outcome.renewals
        at_once = max(at_once, outcome.at_once)
        if outcome.account is not None:
            given, heard = given + outcome.account.given, heard + outcome.account.heard
            again += outcome.account.replayed
    print(f"{len(numbers)} conversations with {kinds.total()} faults, in {time.perf_counter() - began:.0f} s")
    print(f"  kinds: {dict(kinds.most_common())}")
    print(f"  when: {dict(points.most_common())}")
    print(f"  ends: {dict(ends.most_common())}; moved on {renewals} times; streams at once: {at_once}")
    print(f"  frames of the user: {given} given, {heard} heard, {again} heard again")
    if enough and kinds.total() < _FAULTS * len(numbers):
        wrong.append(f"only {kinds.total()} faults have happened")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
