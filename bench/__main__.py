"""`python -m bench`: measure everything, and print it side by side.

The figures are this machine's, whatever else it is doing: compare the columns, and run it twice.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import trustme

from bench.client import Result, Side
from bench.micro import Steps, Took

_TITLES: Final[Mapping[Side, str]] = {"novasonic": "novasonic", "sdk": "plain SDK", "alone": "program alone"}

_MEASURES: Final[Sequence[tuple[str, Callable[[Result], float | None]]]] = (
    ("CPU of the main thread, ms per session and second", lambda run: run.main * 1e3),
    ("CPU of the process, ms per session and second", lambda run: run.total * 1e3),
    ("Lateness of sends, p50, ms", lambda run: run.lateness.p50 * 1e3),
    ("Lateness of sends, p99, ms", lambda run: run.lateness.p99 * 1e3),
    ("From the server to the program, p50, ms", lambda run: run.delay.p50 * 1e3 if run.delay else None),
    ("From the server to the program, p99, ms", lambda run: run.delay.p99 * 1e3 if run.delay else None),
    ("Memory of a further session, KiB", lambda run: run.memory / 1024 if run.memory is not None else None),
    ("Frames sent, % of those due", lambda run: run.carried * 100),
    ("CPU of the server, % of a core", lambda run: run.server * 100),
)

_STEPS: Final[Mapping[str, str]] = {
    "interruption": "Interrupted, with 60 s of audio queued",
    "arrival": "A chunk's arrival to its event",
    "encode": "32 ms of samples to signed bytes",
    "decode": "An 80 ms chunk's bytes to its event",
}

_HALF: Final = 0.5  # of the plain SDK's CPU
_LATE: Final = 0.010
_SOON: Final = 0.001
_MANY: Final = 50  # sessions

_Runs = Mapping[tuple[Side, int], Result]


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure novasonic and the AWS SDK.")
    parser.add_argument(
        "--sessions", type=counted, default=[1, 20, 50, 100], help="how many at once, such as 1,20,50,100"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is measured")
    parser.add_argument("--quick", action="store_true", help="only 1 and 20 sessions")
    options = parser.parse_args()
    counts = [1, 20] if options.quick else options.sessions

    print(
        f"novasonic {version('novasonic')}, and aws-sdk-bedrock-runtime {version('aws-sdk-bedrock-runtime')}"
    )
    print("as AWS's samples use it: 32 ms of audio in and 80 ms out, each in real time")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()} on {platform.system()}")
    runs: dict[tuple[Side, int], Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        certify(Path(folder))
        for count in counts:
            for side in _TITLES:
                say(f"{_TITLES[side]}: {count}")
                runs[side, count] = run(side, count, options.seconds, Path(folder))
    say("single steps")
    steps = msgspec.json.decode(python("bench.micro", env=os.environ, timeout=60), type=Steps)
    say("")
    print_runs(runs, counts)
    print_steps(steps)
    print_targets(runs, steps)


def counted(text: str) -> list[int]:
    """Read numbers of sessions, separated by commas."""
    return [int(each) for each in text.split(",")]


# --- measuring --------------------------------------------------------------------------------------------


def certify(folder: Path) -> None:
    """Write the certificate of the server, and that of its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))


def run(side: Side, sessions: int, seconds: float, folder: Path) -> Result:
    """Measure one side, in a process of its own, with a server in another."""
    command = [sys.executable, "-m", "bench.server", str(folder / "server.pem")]
    # The server ends once its standard input is closed: also if this process is killed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None  # it is a pipe
        assert server.stdout is not None
        with server.stdin:
            env = {
                **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
                "AWS_SECRET_ACCESS_KEY": "made up",
                "AWS_REGION": "us-east-1",
                "AWS_CA_BUNDLE": str(folder / "ca.pem"),
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"https://localhost:{server.stdout.readline().strip()}",
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "NO_PROXY": "localhost",
            }
            arguments = (side, str(sessions), str(seconds), str(server.pid))
            # A session takes far less than a second to open, but the machine may have much else to do.
            printed = python("bench.client", *arguments, env=env, timeout=30 + seconds + sessions)
    return msgspec.json.decode(printed, type=Result)


def python(module: str, *arguments: str, env: Mapping[str, str], timeout: float) -> str:
    """Run a module in a process of its own; return what it prints."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, env=env, timeout=timeout, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


# --- printing ---------------------------------------------------------------------------------------------


def say(what: str) -> None:
    """Say what is going on, to whoever watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def print_runs(runs: _Runs, counts: Sequence[int]) -> None:
    """Print a table for each measure."""
    for title, value in _MEASURES:
        print(f"\n{title}")
        print(f"{'sessions':>10}{''.join(f'{each:>15}' for each in _TITLES.values())}{'ratio':>9}")
        for count in counts:
            novasonic, sdk, alone = (value(runs[side, count]) for side in _TITLES)
            cells = "".join(f"{number(each):>15}" for each in (novasonic, sdk, alone))
            print(f"{count:>10}{cells}{number(novasonic / sdk if novasonic and sdk else None):>9}")


def print_steps(steps: Steps) -> None:
    """Print what single steps took."""
    print("\nSingle steps of novasonic without a network, µs")
    print(f"{'':40}{'p50':>9}{'p99':>9}{'worst':>9}")
    for name, title in _STEPS.items():
        took: Took = getattr(steps, name)
        print(f"{title:40}{took.p50 * 1e6:9.0f}{took.p99 * 1e6:9.0f}{took.worst * 1e6:9.0f}")


def print_targets(runs: _Runs, steps: Steps) -> None:
    """Print which targets were reached."""
    print("\nTargets")
    if ("sdk", _MANY) in runs:
        novasonic, sdk, alone = (runs[side, _MANY].main for side in _TITLES)
        target(
            f"at most half of the plain SDK's main thread at {_MANY} sessions",
            f"{novasonic / sdk:.2f}, or {(novasonic - alone) / (sdk - alone):.2f} without the program's",
            reached=novasonic / sdk <= _HALF,
        )
    for count in sorted(count for side, count in runs if side == "sdk"):
        ours, theirs = runs["novasonic", count].lateness.p99, runs["sdk", count].lateness.p99
        if theirs > _LATE:
            target(
                f"p99 lateness under 10 ms at {count} sessions, where the plain SDK's is over",
                f"{number(ours * 1e3)} ms against {number(theirs * 1e3)} ms",
                reached=ours < _LATE,
            )
    for name in ("arrival", "interruption"):
        p99 = getattr(steps, name).p99
        target(f"{_STEPS[name]}: p99 under 1 ms", f"{p99 * 1e3:.2f} ms", reached=p99 < _SOON)


def target(title: str, found: str, *, reached: bool) -> None:
    """Print one target."""
    print(f"  {'reached' if reached else 'MISSED'}  {title}: {found}")


def number(value: float | None) -> str:
    """Return a number with three digits that matter, or a dash for what was not measured."""
    if not value:
        return "-"
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


if __name__ == "__main__":
    main()
