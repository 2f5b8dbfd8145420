"""`novasonic replay`: a recording as a timeline in the terminal, as a sound and as a picture."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from novasonic import mixdown, picture
from novasonic.account import Account, Call, Response, Span
from novasonic.errors import ConfigurationError
from novasonic.wav import WavWriter

_NARROWEST: Final = 40  # columns
_HEAD: Final = 14  # columns of a lane's name
_SECONDS: Final = (5, 10, 15, 30, *(60 * 2**n for n in range(20)))
_FINEST: Final = 0.25  # seconds that a column of a lane stands for, at least
_COARSEST: Final = 1.0  # and at most: a longer conversation takes several rows
_SCALE: Final = 10  # columns, at least, from one number below the lanes to the next
_STEPS: Final = "▁▂▃▄▅▆▇█"

_IN_ASCII: Final = str.maketrans(
    {"█": "#", "░": ".", "▒": "=", "✂": "X", "◆": "*", "│": "|", "→": ">", "·": "-", "…": "~"}
    | dict(zip(_STEPS[:-1], "_..::**", strict=True))
)


class Part(NamedTuple):
    """A part of a line, and how it looks, in the words of rich."""

    text: str
    style: str = ""


Shown = Sequence[Part]
"""A line."""


def story(account: Account) -> Iterator[Shown]:
    """Yield what happened, a line each, in the order in which it was heard."""
    lines: list[tuple[float, Shown]] = [
        *((each.span.start, _who("you", each.text or "...", "cyan bold")) for each in account.speech),
        *((_begin(each), _who("nova", each.text or "...", "green bold")) for each in account.responses),
        *((each.at, _who("tool", _told(each), "yellow")) for each in account.tools),
    ]
    for response in account.interrupted:
        heard = f"after {response.seconds_heard:.1f} s of {response.seconds:.1f} s"
        lines.append((response.interrupted_at or 0.0, _who("", f"interrupted {heard}", "red")))
    for leg in account.legs:
        if leg.failure is not None:
            lines.append((leg.failed_at or 0.0, _who("", f"the stream failed: {leg.failure.error}", "red")))
        if leg.number > 1 and leg.listens_at is not None:
            lines.append((leg.listens_at, _who("", f"goes on over stream {leg.number}", "magenta")))
    for at, line in sorted(lines, key=lambda each: each[0]):
        yield [Part(f"{at:7.2f}  ", "dim"), *line]


def lanes(account: Account, width: int) -> Iterator[Shown]:
    """Yield who spoke when, drawn with characters: rows of lanes, none wider than `width`."""
    room = max(_NARROWEST, width) - _HEAD
    step = min(_COARSEST, max(_FINEST, account.duration / room))
    columns = int(account.duration / step) + 1
    you, tools, nova, tokens = ([" "] * columns for _ in range(4))
    for response in account.responses:
        _fill(nova, step, "░", *([response.unheard] if response.unheard else []))
    for response in account.responses:
        _fill(nova, step, "█", *response.heard)
    for response in account.interrupted:
        _fill(nova, step, "✂", Span(response.interrupted_at or 0.0, response.interrupted_at or 0.0))
    for speech in account.speech:
        _fill(you, step, "█" if speech.span.seconds else "◆", speech.span)
    for call in account.tools:
        _fill(tools, step, "▒", Span(call.at, call.at + (call.result.elapsed if call.result else 0.0)))
    for at, usage in account.usage:
        level = usage.total * (len(_STEPS) - 1) // max(1, account.tokens.total)
        tokens[int(at / step) :] = _STEPS[level] * (columns - int(at / step))
    seconds = next(each for each in _SECONDS if each / step >= _SCALE)
    scale = [" "] * columns
    for at in range(0, int(account.duration) + 1, seconds):
        scale[int(at / step) :] = f"{at:<{columns}}"[: columns - int(at / step)]
    drawn = [
        ("you", you, "cyan"),
        ("tool", tools, "yellow"),
        ("nova", nova, "green"),
        ("tokens", tokens, "dim"),
    ]
    for start in range(0, columns, room):
        if start:
            yield [Part("")]
        for name, lane, style in [*drawn, ("s", scale, "dim")]:
            if name != "tool" or account.tools:
                yield [Part(f"       {name:<7}"), Part("".join(lane[start : start + room]).rstrip(), style)]


def sums(account: Account) -> Iterator[Shown]:
    """Yield what there is to be counted."""
    header, tokens = account.tape.header, account.tokens
    waits = [f"{each.latency.audio:.2f}" for each in account.responses if each.latency.audio is not None]
    cost = f", which would cost ${tokens.cost():.4f}" if tokens.prices else ""
    counted = f"{tokens.speech_input + tokens.text_input} in, {tokens.speech_output + tokens.text_output} out"
    for name, text in (
        ("recording", " · ".join(filter(None, (header.provenance, header.model, account.voice)))),
        ("length", f"{account.duration:.1f} s over {_counted(len(account.legs), 'stream')}"),
        ("responses", f"{len(account.responses)}, of which {len(account.interrupted)} interrupted"),
        ("waited", f"{', '.join(waits) or '-'} s from the end of speech to the first sound"),
        ("tools", _counted(len(account.tools), "call")),
        ("tokens", f"{tokens.total}: {counted}{cost}"),
    ):
        yield [Part(f"  {name:<11}", "dim"), Part(text)]


def show(account: Account, width: int) -> None:
    """Print all of it."""
    blank: Shown = [Part("")]
    encoding, shown = (
        sys.stdout.encoding,
        [*story(account), blank, *lanes(account, width), blank, *sums(account)],
    )
    lines = [[Part(_encodable(part.text, encoding), part.style) for part in line] for line in shown]
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        print(*("".join(part.text for part in line) for line in lines), sep="\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text.assemble(*line))


def write_wav(account: Account, path: Path) -> None:
    """Write what was heard into a stereo WAV file: the user on the left, the assistant on the right.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    try:
        with WavWriter(path, mixdown.sample_rate(account), 2) as wav:
            for piece in mixdown.mix(account):
                wav.write(piece)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc


def write_pictures(account: Account, *, svg: Path | None, png: Path | None) -> None:
    """Write a picture into an SVG file, a PNG file, or both.

    Raises:
        ConfigurationError: If it cannot be written.
        ImportError: If a PNG is wanted and the extra for it is missing.
    """
    drawn = picture.draw(account)
    for path, data in ((svg, drawn.encode()), (png, picture.png(drawn) if png else b"")):
        if path is not None:
            try:
                path.write_bytes(data)
            except OSError as exc:
                raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc


def _who(name: str, text: str, style: str) -> list[Part]:
    return [Part(f"{name:<5} ", style), Part(" ".join(text.split()), style)]


def _begin(response: Response) -> float:
    return response.heard[0].start if response.heard else response.at


def _told(call: Call) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.call.arguments.items())
    if call.result is None:
        return f"{call.call.name}({arguments}) was not answered"
    return f"{call.call.name}({arguments}) → {call.result.result} after {call.result.elapsed:.2f} s"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fill(lane: list[str], step: float, mark: str, *spans: Span) -> None:
    for span in spans:
        for column in range(int(span.start / step), min(len(lane) - 1, int(span.end / step)) + 1):
            lane[column] = mark


def _encodable(text: str, encoding: str) -> str:
    """Return a text for a terminal that may lack some characters."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_IN_ASCII).encode(encoding, "replace").decode(encoding)
    return text
