"""Draws the order of messages as an SVG, from the tables in `novasonic.lifecycle` and from nothing else.

    python tools/draw_protocol.py docs/protocol.svg

States stand below one another, in the order of their table. A step from a state to the next is an arrow, one
that leads back to where it began a loop; the same step from several states is a line that they all join.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from novasonic import lifecycle

BOX, HIGH, ROW = 220, 40, 92  # of a state: width, height, and from one to the next
LANE, MARGIN, HEAD = 40, 24, 76
LETTER = 7.5  # about how wide one is
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 } text.title { font-weight: 600; font-size: 16px }
text.step { fill: #0550ae } rect.paper { fill: #ffffff } rect.state { fill: #f0f4f8; stroke: #57606a }
path { fill: none; stroke: #57606a; stroke-width: 1.4 } path.arrow { marker-end: url(#head) }
marker path { fill: #57606a; stroke: none }
"""


@dataclass(frozen=True)
class Machine:
    """A table: its title, its states, and from each of them the steps that lead on."""

    title: str
    steps: Mapping[str, Mapping[str, str]]


def machines() -> list[Machine]:
    """Return the tables that are the law: the stream's, and those of its blocks, alike ones together."""
    stream = {
        state.value: {step.value: to.value for step, to in steps.items()}
        for state, steps in lifecycle.TRANSITIONS.items()
    }
    found = [Machine("The stream", stream)]
    by_table = sorted(lifecycle.BLOCK, key=lambda kind: repr(lifecycle.BLOCK[kind]))
    for _, kinds in groupby(by_table, key=lambda kind: lifecycle.BLOCK[kind]):
        names = sorted(kinds)
        block = {
            state.value: {step: to.value for step, to in steps.items()}
            for state, steps in lifecycle.BLOCK[names[0]].items()
        }
        noun = "block" if len(names) == 1 else "blocks"
        found.append(Machine(f"{' and '.join(names)} {noun}", block))
    return found


class Drawing:
    """One machine, at a place of its own."""

    def __init__(self, machine: Machine, left: int, top: int) -> None:
        self.parts: list[str] = []
        self.left = left
        self._rows = {name: top + HEAD + ROW * at for at, name in enumerate(machine.steps)}
        self.parts.append(f'<text class="title" x="{left}" y="{top + 40}">{escape(machine.title)}</text>')
        for name, y in self._rows.items():
            self.parts += [
                f'<rect class="state" x="{left}" y="{y}" width="{BOX}" height="{HIGH}" rx="8"/>',
                self._text(name, left + BOX / 2, y + HIGH / 2 + 5, "middle", ""),
            ]
        self.right = left + BOX
        self.bottom = max(self._rows.values()) + HIGH
        lines = dict[tuple[str, str], list[str]]()  # by the step and where it leads: where from
        for name, steps in machine.steps.items():
            self._loop(name, [step for step, to in steps.items() if to == name])
            following = next((each for each in self._rows if self._rows[each] == self._rows[name] + ROW), "")
            self._arrow(name, [step for step, to in steps.items() if to == following])
            for step, to in steps.items():
                if to not in {name, following}:
                    lines.setdefault((step, to), []).append(name)
        for lane, ((step, to), names) in enumerate(sorted(lines.items(), key=self._length)):
            self._line(step, names, to, lane)

    def _length(self, line: tuple[tuple[str, str], Sequence[str]]) -> int:
        (_, to), names = line
        return max(abs(self._rows[to] - self._rows[name]) for name in names)

    def _text(self, text: str, x: float, y: float, anchor: str, kind: str = "step") -> str:
        return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'

    def _arrow(self, name: str, steps: Sequence[str]) -> None:
        """From a state to the one below."""
        if not steps:
            return
        x, top = self.left + BOX / 2, self._rows[name] + HIGH
        self.parts.append(f'<path class="arrow" d="M {x:g} {top} V {top + ROW - HIGH - 2}"/>')
        self.parts += [
            self._text(step, x + 10, top + 30 + 18 * at - 9 * (len(steps) - 1), "start")
            for at, step in enumerate(steps)
        ]

    def _loop(self, name: str, steps: Sequence[str]) -> None:
        """From a state to itself."""
        if not steps:
            return
        x, y = self.left, self._rows[name] + HIGH / 2
        self.parts.append(f'<path class="arrow" d="M {x} {y - 12:g} h -26 v 24 h 24"/>')
        self.parts += [
            self._text(step, x - 34, y + 5 + 18 * at - 9 * (len(steps) - 1), "end")
            for at, step in enumerate(steps)
        ]

    def _line(self, step: str, names: Sequence[str], to: str, lane: int) -> None:
        """From several states, or past some, to another."""
        side, x = self.left + BOX, self.left + BOX + 160 + LANE * lane
        enters = self._rows[to] + HIGH / 2
        for name in names:
            leaves = self._rows[name] + HIGH / 2 + 9 * (lane - 1)  # so that lines can be told apart
            self.parts.append(f'<path d="M {side} {leaves:g} H {x} V {enters:g}"/>')
        self.parts.append(f'<path class="arrow" d="M {x} {enters:g} H {side + 2}"/>')
        self.parts.append(self._text(step, side + 14, enters - 6, "start"))
        self.right = max(self.right, x)


def svg(drawn: Sequence[Machine]) -> str:
    """Return the picture of some machines: the first, and the others in a column beside it."""
    parts, left, width, top, bottom = list[str](), MARGIN, 0, 0, 0
    for machine in drawn:
        table = machine.steps.items()
        loops = [len(step) for name, steps in table for step, to in steps.items() if to == name]
        drawing = Drawing(machine, left + (round(LETTER * max(loops)) + 34 if loops else 0), top)
        parts += drawing.parts
        width, bottom = max(width, drawing.right + MARGIN), max(bottom, drawing.bottom)
        if machine is drawn[0]:
            left = drawing.right + 2 * MARGIN
        else:
            top = drawing.bottom
    height = bottom + MARGIN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = 'id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        "<title>The order of messages on a stream, and inside its blocks</title>",
        f"<style>{STYLE}</style>",
        f'<defs><marker {head}><path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>',
        f'<rect class="paper" width="{width}" height="{height}" rx="12"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(machines()))
