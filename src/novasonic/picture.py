"""Draws a recorded conversation: who spoke when, what was cut, which tools ran, what it cost. SVG, or PNG.

An SVG is text, and takes nothing but this module. A PNG takes the extra `picture`, and fonts on the machine.
"""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from novasonic import mixdown
from novasonic.account import Account, Call, Leg, Response, Span, Speech
from novasonic.errors import ConfigurationError
from novasonic.models import Usage

_WIDTH: Final = 1280
_LEFT: Final = 92
_RIGHT: Final = 36
_TOP: Final = 146
_LANE: Final = 38
_LINE: Final = 17  # of text
_TOOL: Final = 18
_TOKENS: Final = 52
_ROW_SECONDS: Final = 60  # a longer conversation is drawn in several rows
_MOST_TICKS: Final = 13

# One of them is on nearly every machine; what draws PNGs knows no other way to find one.
_FONT: Final = (
    "Inter, 'Helvetica Neue', Arial, 'Segoe UI', Roboto, 'Liberation Sans', 'Noto Sans', 'DejaVu Sans', "
    "sans-serif"
)
_SIZE: Final = 11  # of the font of most words
_SMALL: Final = 10
_SHORTEST: Final = 3  # characters that are worth writing
_BIN: Final = 3  # pixels of a wave
_QUIET: Final = 0.002  # what is never louder was silence, such as audio that was not kept

_INK: Final = "#0f172a"
_MUTED: Final = "#64748b"
_GRID: Final = "#e2e8f0"
_PAPER: Final = "#ffffff"
_USER: Final = "#2563eb"
_NOVA: Final = "#059669"
_CUT: Final = "#dc2626"
_TOOLS: Final = "#d97706"
_STREAM: Final = "#7c3aed"
_IN: Final = "#cbd5e1"
_OUT: Final = "#64748b"

_ROOT: Final = f'<svg xmlns="http://www.w3.org/2000/svg" font-family="{_FONT}"'

_HATCH: Final = (
    '<defs><pattern id="unheard" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" fill="#f0fdf4"/>'
    f'<rect width="1.5" height="6" fill="{_NOVA}" opacity="0.45"/></pattern></defs>'
)

# What XML cannot hold.
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def draw(account: Account) -> str:
    """Return a picture of a conversation, as the text of an SVG."""
    return _Drawing(account).svg()


def png(svg: str) -> bytes:
    """Return a picture as a PNG, twice as large, for sharp screens.

    Raises:
        ImportError: If the extra is missing.
        ConfigurationError: If there are no fonts here to write words with.
    """
    try:
        import resvg_py  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ImportError("a PNG needs resvg-py: pip install 'novasonic[picture]'") from exc
    blank, written = (
        resvg_py.svg_to_bytes(svg_string=f'{_ROOT} width="9" height="9"><text y="9">{text}</text></svg>')
        for text in (" ", "M")
    )
    if blank == written:
        raise ConfigurationError(
            "this machine has no fonts to write words into a PNG with; install some, or take the SVG"
        )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2))


class _Row(NamedTuple):
    """A part of the time, and where it is drawn."""

    start: float
    end: float
    top: float


class _Words(NamedTuple):
    """What is written at a moment."""

    at: float
    text: str


class _Drawing:
    """One picture: elements, in the order in which they are painted."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._levels = mixdown.levels(account)
        self._paint = list[str]()
        seconds = max(1.0, account.duration)
        count = math.ceil(seconds / _ROW_SECONDS)
        self._row_seconds = math.ceil(seconds) if count == 1 else math.ceil(seconds / count / 5) * 5
        self._scale = (_WIDTH - _LEFT - _RIGHT) / self._row_seconds
        # Where the lanes are, from the top of a row.
        self._user = 24 + 2 * _LINE
        self._nova = self._user + _LANE + 6
        self._tools = self._nova + _LANE + 2 * _LINE + 12
        self._tokens = self._tools + (_TOOL + 14 if account.tools else 0)
        self._bottom = self._tokens + _TOKENS
        height = self._bottom + 36
        self._rows = [
            _Row(n * self._row_seconds, (n + 1) * self._row_seconds, _TOP + n * height) for n in range(count)
        ]
        self._height = _TOP + count * height + 24

    def svg(self) -> str:
        account = self._account
        self._head()
        for row in self._rows:
            self._grid(row)
            self._draw_tokens(row)
        for leg, after in pairwise([*account.legs, None]):
            self._mark_stream(leg, after)
        for speech in account.speech:
            self._draw_speech(speech)
        for number, line in enumerate(
            self._in_two_lines([_Words(each.span.start, each.text) for each in account.speech])
        ):
            self._write(line, self._user - 7 - number * _LINE)
        for response, following in pairwise([*account.responses, None]):
            self._draw_unheard(response, None if following is None else _begin(following))
        for response in account.responses:
            self._draw_wait(response)
        for response in account.responses:
            for row, span in self._parts(*response.heard):
                self._voice(row, span, self._nova, _NOVA, channel=1, tip=response.text)
        below = self._nova + _LANE + _LINE - 2
        self._write([_Words(_begin(each), each.text) for each in account.responses], below)
        facts = [_Words(_begin(each), _facts(each)) for each in account.responses]
        self._write(facts, below + _LINE - 1, _MUTED, _SMALL)
        for call in account.tools:
            self._draw_call(call)
        self._write(
            [_Words(_end(call) + 5 / self._scale, call.call.name) for call in account.tools], self._tools + 13
        )
        for response in account.interrupted:
            self._draw_cut(response)
        self._legend()
        title = _clean(f"{account.tape.name}: a conversation of {account.duration:.1f} s")
        return (
            f'{_ROOT} width="{_WIDTH}" height="{self._height}" viewBox="0 0 {_WIDTH} {self._height}">\n'
            f"<title>{title}</title>\n"
            f'{_HATCH}\n<rect width="{_WIDTH}" height="{self._height}" fill="{_PAPER}"/>\n'
            + "\n".join(self._paint)
            + "\n</svg>\n"
        )

    # --- around the conversation --------------------------------------------------------------------------

    def _head(self) -> None:
        account, header = self._account, self._account.tape.header
        self._text(24, 40, Path(account.tape.name).name, size=20, weight=700)
        facts = [
            header.provenance,
            header.model,
            f"voice {account.voice}" if account.voice else "",
            "texts redacted" if header.redacted else "",
        ]
        self._text(24, 62, "  ·  ".join(fact for fact in facts if fact), size=12, fill=_MUTED)
        tokens, waits = (
            account.tokens,
            [each.latency.audio for each in account.responses if each.latency.audio],
        )
        tiles = [
            (f"{account.duration:.1f} s", "of conversation", _INK),
            (str(len(account.responses)), _counted("response", account.responses), _NOVA),
            (str(len(account.interrupted)), _counted("interruption", account.interrupted), _CUT),
            (f"{median(waits):.2f} s" if waits else "?", "median wait for speech", _INK),
            (f"{tokens.total:,}", f"tokens: ${tokens.cost():.4f}" if tokens.prices else "tokens", _INK),
        ]
        if account.tools:
            tiles.append((str(len(account.tools)), _counted("tool call", account.tools), _TOOLS))
        if len(account.legs) > 1:
            tiles.append((str(len(account.legs)), "streams", _STREAM))
        for n, (number, what, colour) in enumerate(tiles):
            self._text(24 + n * 160, 100, number, size=22, weight=700, fill=colour)
            self._text(24 + n * 160, 118, what, size=11, fill=_MUTED)

    def _grid(self, row: _Row) -> None:
        steps = (1, 2, 5, 10, 15)
        step = next((step for step in steps if self._row_seconds / step <= _MOST_TICKS), steps[-1])
        for n in range(self._row_seconds // step + 1):
            x = self._x(row.start + n * step, row)
            self._line(x, row.top + 14, x, row.top + self._bottom, _GRID)
            self._text(x, row.top + 8, _clock(row.start + n * step), size=11, fill=_MUTED, anchor="middle")
        lanes = [(self._user, _LANE, "User"), (self._nova, _LANE, "Nova"), (self._tokens, _TOKENS, "Tokens")]
        if self._account.tools:
            lanes.append((self._tools, _TOOL, "Tools"))
        for top, height, name in lanes:
            self._text(24, row.top + top + height / 2 + 4, name, size=12, weight=600)
            if height == _LANE:
                y = row.top + top + height / 2
                self._line(_LEFT, y, _WIDTH - _RIGHT, y, _GRID)

    def _legend(self) -> None:
        y, x = self._height - 26, float(_LEFT)
        typed = any(not speech.span.seconds for speech in self._account.speech)
        swatches = {
            "the user speaks": _USER,
            "typed": "typed" if typed else None,
            "heard of the answer": _NOVA,
            "never heard": "url(#unheard)",
            "the user waits": "wait",
            "interruption": "cross",
            "tool": _TOOLS if self._account.tools else None,
            "tokens in": _IN,
            "tokens out": _OUT,
        }
        for words, fill in swatches.items():
            match fill:
                case None:
                    continue
                case "typed":
                    self._diamond(x + 9, y, words)
                case "wait":
                    self._wait(x, x + 18, y)
                case "cross":
                    self._cross(x + 9, y)
                case _:
                    self._rect(x, y - 6, 18, 12, fill, stroke=_NOVA if fill.startswith("url") else "")
            self._text(x + 25, y + 4, words, size=11, fill=_MUTED)
            x += 25 + _width(words) + 20

    # --- what happened ------------------------------------------------------------------------------------

    def _draw_speech(self, speech: Speech) -> None:
        for row, span in self._parts(speech.span):
            if speech.span.seconds:
                self._voice(row, span, self._user, _USER, channel=0, tip=speech.text)
            else:  # typed; or nobody knows when it was spoken
                self._diamond(self._x(span.start, row), row.top + self._user + _LANE / 2, speech.text)

    def _draw_unheard(self, response: Response | None, until: float | None) -> None:
        if response is None or response.unheard is None:
            return
        start, end = response.unheard
        for row, span in self._parts(Span(start, end if until is None else min(end, until))):
            x, width = self._x(span.start, row), max(1.0, self._scale * span.seconds)
            tip = f"{response.unheard.seconds:.2f} s were never heard"
            self._rect(x, row.top + self._nova + 1, width, _LANE - 2, "url(#unheard)", stroke=_NOVA, tip=tip)

    def _draw_wait(self, response: Response) -> None:
        start, wait = _begin(response), response.latency.audio
        for row, span in self._parts(*([Span(start - wait, start)] if wait else [])):
            y = row.top + self._nova + _LANE / 2
            self._wait(self._x(span.start, row), self._x(span.end, row) - 2, y)

    def _draw_call(self, call: Call) -> None:
        for row, span in self._parts(Span(call.at, _end(call))):
            arguments = ", ".join(f"{name}={value!r}" for name, value in call.call.arguments.items())
            answer = "no answer" if call.result is None else f"{call.result.result}"
            tip = f"{call.call.name}({arguments}): {answer}"
            x, width = self._x(span.start, row), max(3.0, self._scale * span.seconds)
            self._rect(x, row.top + self._tools, width, _TOOL, _TOOLS, opacity=0.55, tip=tip)

    def _draw_cut(self, response: Response) -> None:
        at = response.interrupted_at or 0.0
        for row, _ in self._parts(Span(at, at)):
            x = self._x(at, row)
            self._line(x, row.top + self._user - 2, x, row.top + self._nova + _LANE + 2, _CUT, width=1.5)
            tip = (
                f"interrupted at {at:.2f} s, after {response.seconds_heard:.2f} s of {response.seconds:.2f} s"
            )
            self._cross(x, row.top + self._nova + _LANE / 2, tip=tip)

    def _mark_stream(self, leg: Leg | None, after: Leg | None) -> None:
        """Mark where another stream goes on, or where the last one failed."""
        assert leg is not None  # noqa: S101 - only what follows the last one is None
        failed = f" after {leg.failure.error}" if leg.failure else ""
        at, what, colour = leg.failed_at, f"the end{failed}", _CUT
        if after is not None:
            at, what, colour = after.listens_at, f"stream {after.number}{failed}", _STREAM
        for row, _ in self._parts(*([] if at is None else [Span(at, at)])):
            x = self._x(at or 0.0, row)
            self._line(x, row.top + 14, x, row.top + self._bottom, colour, dash="5 4")
            self._text(x + 4, row.top + 22, what, size=11, fill=colour)

    def _draw_tokens(self, row: _Row) -> None:
        usage, total = self._account.usage, self._account.tokens.total
        base = row.top + self._bottom
        self._line(_LEFT, base, _WIDTH - _RIGHT, base, _GRID)
        if not total:
            return
        end = min(row.end, self._account.duration)
        before = bisect_right(usage, row.start, key=lambda each: each[0])
        first = usage[before - 1][1] if before else Usage()
        steps = [(row.start, first), *(each for each in usage[before:] if each[0] <= end)]
        steps.append((end, steps[-1][1]))
        for colour, count in ((_IN, _input), (_OUT, _output)):
            floor = _nothing if colour == _IN else _input
            outline = [(at, floor(tokens) + count(tokens)) for at, tokens in steps]
            ground = [(at, floor(tokens)) for at, tokens in steps]
            points = [*_stairs(outline), *reversed(list(_stairs(ground)))]
            path = " ".join(
                f"{self._x(at, row):.1f},{base - height / total * _TOKENS:.1f}" for at, height in points
            )
            self._paint.append(f'<polygon points="{path}" fill="{colour}"/>')
        x = self._x(end, row)
        self._text(
            min(x + 4, _WIDTH - _RIGHT + 4),
            base - steps[-1][1].total / total * _TOKENS + 4,
            f"{steps[-1][1].total:,}",
            size=10,
            fill=_MUTED,
        )

    # --- shapes -------------------------------------------------------------------------------------------

    def _x(self, at: float, row: _Row) -> float:
        return _LEFT + (at - row.start) * self._scale

    def _parts(self, *spans: Span) -> Iterator[tuple[_Row, Span]]:
        """Yield the rows that spans lie in, and which part of them does."""
        for span in spans:
            for row in self._rows:
                if span.start < row.end and (span.end > row.start or span.start == span.end >= row.start):
                    yield row, Span(max(span.start, row.start), min(span.end, row.end))

    def _voice(self, row: _Row, span: Span, top: float, colour: str, *, channel: int, tip: str) -> None:
        """Draw speech as a bar, with its wave if there is one."""
        x, y, width = self._x(span.start, row), row.top + top, max(2.0, self._scale * span.seconds)
        per_second = mixdown.LEVELS_PER_SECOND
        loud = self._levels[int(span.start * per_second) : int(span.end * per_second) + 1, channel]
        audible = len(loud) > 0 and loud.max() > _QUIET
        self._rect(x, y, width, _LANE, _PAPER)
        self._rect(x, y, width, _LANE, colour, opacity=0.18 if audible else 0.85, tip=tip)
        if not audible:
            return
        count, middle = max(1, int(width / _BIN)), y + _LANE / 2
        strokes = list[str]()
        for n in range(count):
            part = loud[
                len(loud) * n // count : max(len(loud) * (n + 1) // count, len(loud) * n // count + 1)
            ]
            half = max(0.5, float(part.max()) ** 0.6 * (_LANE / 2 - 2))
            strokes.append(f"M{x + (n + 0.5) * width / count:.1f} {middle - half:.1f}v{2 * half:.1f}")
        self._paint.append(f'<path d="{"".join(strokes)}" stroke="{colour}" stroke-width="1.8"/>')

    def _in_two_lines(self, words: Sequence[_Words]) -> tuple[list[_Words], list[_Words]]:
        """Return in which line to write what, so that as much as can be has room."""
        lines, ends = (list[_Words](), list[_Words]()), [-math.inf, -math.inf]
        for each in sorted(words):
            line = ends[0] > each.at and ends[1] < ends[0]
            lines[line].append(each)
            ends[line] = each.at + (_width(each.text) + 8) / self._scale
        return lines

    def _write(self, words: Sequence[_Words], below: float, fill: str = _INK, size: int = _SIZE) -> None:
        """Write texts in a line, each up to where the next one begins."""
        ordered = sorted(words)
        next_ones = [*(each.at for each in ordered[1:]), math.inf]
        for each, next_one in zip(ordered, next_ones, strict=False):
            row = next((row for row in self._rows if row.start <= each.at < row.end), self._rows[-1])
            limit = min(row.end + _RIGHT / self._scale, next_one)
            text = " ".join(each.text.split())
            shown = _cut(text, (limit - each.at) * self._scale - 5, size)
            self._text(self._x(each.at, row), row.top + below, shown, size=size, fill=fill, tip=text)

    def _rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        opacity: float = 1,
        stroke: str = "",
        tip: str = "",
    ) -> None:
        edge = f' stroke="{stroke}" stroke-dasharray="3 2"' if stroke else ""
        self._paint.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{fill}" '
            f'opacity="{opacity:g}"{edge}>{_tip(tip)}</rect>'
        )

    def _line(
        self, x: float, y: float, to_x: float, to_y: float, colour: str, *, width: float = 1, dash: str = ""
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._paint.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashes}/>'
        )

    def _wait(self, x: float, to_x: float, y: float) -> None:
        self._line(x, y, to_x, y, _MUTED, width=1.5, dash="2 3")
        self._line(x, y - 5, x, y + 5, _MUTED, width=1.5)

    def _diamond(self, x: float, y: float, tip: str) -> None:
        self._paint.append(
            f'<path d="M{x:.1f} {y - 9:.1f} l9 9 l-9 9 l-9 -9 z" fill="{_USER}">{_tip(tip)}</path>'
        )

    def _cross(self, x: float, y: float, *, tip: str = "") -> None:
        self._paint.append(
            f'<g stroke="{_PAPER}" stroke-width="1.8"><circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="{_CUT}"/>'
            f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>{_tip(tip)}</g>'
        )

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int,
        weight: int = 400,
        fill: str = _INK,
        anchor: str = "start",
        tip: str = "",
    ) -> None:
        if not text:
            return
        self._paint.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
            f'text-anchor="{anchor}">{_tip(tip)}{_clean(text)}</text>'
        )


def _begin(response: Response) -> float:
    return response.heard[0].start if response.heard else response.at


def _end(call: Call) -> float:
    return call.at if call.result is None else call.at + call.result.elapsed


def _facts(response: Response) -> str:
    """Return what is said of a response below its words."""
    text = f"#{response.turn}: {response.seconds:.1f} s"
    if response.interrupted_at is not None:
        text = f"#{response.turn}: {response.seconds_heard:.1f} of {response.seconds:.1f} s"
    wait = response.latency.audio
    return text if wait is None else f"{text}, after {wait:.2f} s"


def _counted(noun: str, found: Sequence[object]) -> str:
    return noun if len(found) == 1 else f"{noun}s"


def _clock(at: float) -> str:
    return f"{at:g} s" if at < 60 else f"{int(at) // 60}:{int(at) % 60:02}"  # noqa: PLR2004 - seconds


def _stairs(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the corners of a line that rises only at its points."""
    latest = points[0][1]
    for at, height in points:
        yield at, latest
        yield at, height
        latest = height


def _nothing(_: Usage) -> int:
    return 0


def _input(tokens: Usage) -> int:
    return tokens.speech_input + tokens.text_input


def _output(tokens: Usage) -> int:
    return tokens.speech_output + tokens.text_output


def _width(text: str, size: int = _SIZE) -> float:
    """Return about how wide a text is; the characters of East Asia are squares."""
    return size * sum(1.0 if unicodedata.east_asian_width(each) in "WF" else 0.52 for each in text)


def _cut(text: str, room: float, size: int) -> str:
    """Return a text as far as there is room for it; nothing if that is next to nothing."""
    if _width(text, size) <= room:
        return text
    fits = bisect_right(range(len(text)), room - size, key=lambda end: _width(text[:end], size)) - 1
    return f"{text[:fits].rstrip()}…" if fits >= _SHORTEST else ""


def _tip(text: str) -> str:
    return f"<title>{_clean(text)}</title>" if text else ""


def _clean(text: str) -> str:
    return escape(_FORBIDDEN.sub("", text), quote=False)
