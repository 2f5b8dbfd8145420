"""The soaks of `make soak`, in short: conversations that go on for long, and through whatever goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import faults


@pytest.mark.timeout(600)  # half a minute, and many times as long on a busy machine
def test_half_an_hour_is_one_conversation_to_whoever_holds_it() -> None:
    """No sample is lost or sent twice, no word is missing or there twice, and nothing is left behind.

    In a process of its own: the memory of one that has run other tests says nothing. And without coverage,
    which would take four times as long.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "bench.soak", "--hours", "0.5", "--seed", "4", "--conversations", "0"]
    soak = subprocess.run(
        command, cwd=Path(__file__).parent.parent, env=env, capture_output=True, text=True, check=False
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "one conversation of 0.5" in soak.stdout


@pytest.mark.parametrize("number", range(1, 16))
def test_whatever_goes_wrong_the_conversation_goes_on_or_says_why(number: int) -> None:
    outcome = faults.run(number, seed=1)
    assert outcome.complaints == [], f"python -m bench.soak --seed 1 --only {number}"
    assert outcome.happened
