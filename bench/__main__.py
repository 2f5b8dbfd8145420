"""`python -m bench`: run everything, and print it side by side.

The figures are this machine's, and others use it, too: compare the two sides, and run it twice.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import psutil
import trustme

from bench.client import Result
from bench.micro import Steps

SIDES: Final = ("novasonic", "sdk", "alone")
"""The library, the plain SDK, and for comparison the program alone: it makes the frames and sends none."""

_PATIENCE: Final = 60.0  # seconds for opening sessions, beyond those that are measured


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure novasonic and the AWS SDK.")
    parser.add_argument("--sessions", default="1,20,50,100", help="how many at once, separated by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each run is measured")
    parser.add_argument("--quick", action="store_true", help="only 1 and 20 sessions")
    options = parser.parse_args()
    counts = [1, 20] if options.quick else [int(each) for each in options.sessions.split(",")]

    print(f"novasonic {version('novasonic')} beside aws-sdk-bedrock-runtime {_sdk()}, used as in AWS's samples")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}")
    print(f"32 ms of audio in and 80 ms out per frame and session, in real time; {options.seconds:g} s a run")
    runs: dict[tuple[str, int], Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            for side in SIDES:
                _progress(f"{count} sessions: {side}")
                runs[side, count] = _run(side, count, options.seconds, Path(folder))
    _progress("single steps")
    steps = msgspec.json.decode(_python("bench.micro", env=os.environ), type=Steps)
    _progress("")
    for measure in MEASURES:
        _print_measure(*measure, runs, counts)
    _print_steps(steps)
    _print_targets(runs, steps)
