"""Runs `novasonic demo` and draws what it has shown in the terminal as an SVG.

    python tools/draw_demo.py docs/demo.svg

The picture is of a real run: times and latencies are those of this machine.
"""

import os
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS: Final = 112


def draw(shown: str) -> str:
    """Return the picture of a terminal with this text, which may have ANSI's colours."""
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(Text.from_ansi(shown.rstrip()), soft_wrap=True)
    drawn = console.export_svg(title="novasonic demo", theme=MONOKAI, unique_id="demo")
    # Rich would have a font fetched from the network; whoever reads has a font of their own.
    head, _, rest = drawn.partition("<style>")
    _, _, rest = rest.partition(".demo-matrix {")
    return f"{head}<style>\n    .demo-matrix {{{rest}".replace(
        "Fira Code, monospace", "ui-monospace, monospace"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        demo = subprocess.run(
            [sys.executable, "-m", "novasonic", "demo"],
            cwd=folder,
            env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
            capture_output=True,
            text=True,
            check=True,
        )
    Path(sys.argv[1]).write_text(draw(demo.stdout))
