"""Where a stream is in its scenario: the turn that is next, what was heard for it, what is said to it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from novasonic.emulator.ear import Window
from novasonic.emulator.scenario import Heard, Say, ToolCall, Turn, segments


class Script:
    """Where a stream, or all streams together, are in the turns of a scenario."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._spoken = [turn for turn in turns if turn.typed is None]
        self._typed = [turn for turn in turns if turn.typed is not None]

    @property
    def left(self) -> Sequence[Turn]:
        """The turns that were not used."""
        return [*self._spoken, *self._typed]

    def spoken(self) -> Turn | None:
        """Return the turn that answers speech now; it stays until it is taken."""
        return self._spoken[0] if self._spoken else None

    def typed(self, text: str) -> Turn | None:
        """Return the turn that answers a typed text, and take it."""
        found = next((turn for turn in self._typed if turn.answers(text)), None)
        if found is not None:
            self.take(found)
        return found

    def take(self, turn: Turn) -> None:
        """Use a turn up."""
        for turns in (self._spoken, self._typed):
            turns[:] = [each for each in turns if each is not turn]


@dataclass(slots=True, kw_only=True)
class Utterance:
    """What the user has been saying since the last answer, in one stretch or several."""

    turn: Turn | None
    pieces: list[Heard]
    windows: list[Window] = field(default_factory=list[Window])
    told: int = 0  # pieces, of the stretch that goes on

    def pieces_now(self) -> Sequence[Heard]:
        """Return the pieces of this stretch that were not told yet."""
        return [piece for piece in self.pieces if piece.window == len(self.windows) + 1]

    def tell(self, piece: Heard) -> None:
        """Take note that a piece was told before the stretch has ended."""
        self.told += 1
        self.pieces = [each for each in self.pieces if each is not piece]

    @property
    def seconds(self) -> float:
        """From the first onset to the last end."""
        return (self.windows[-1].end_ms - self.windows[0].start_ms) / 1000 if self.windows else 0.0


def steps_of(turn: Turn) -> tuple[Say | ToolCall, ...]:
    """Return what a turn does, in order."""
    before = [call for call in turn.calls if call.when == "before"]
    after = [call for call in turn.calls if call.when == "after"]
    return (*before, *segments(turn.says), *after)


def measure_window(window: Window) -> Heard:
    """Return what can be said of a stretch of speech in place of its text."""
    seconds = (window.end_ms - window.start_ms) / 1000
    return Heard(f"({seconds:.1f} seconds of speech)")


def measured(utterance: Utterance) -> Say:
    """Return what can be answered to an utterance that no turn is for."""
    seconds = utterance.seconds
    text = f"I heard {seconds:.1f} seconds of speech."
    quiet = max((window.loudness for window in utterance.windows), default=0.0) < -35  # noqa: PLR2004 - dBFS
    return Say(f"{text} It was very quiet." if quiet else text)


def filled(then: Sequence[Say | str] | str, facts: Mapping[str, Any]) -> tuple[Say, ...]:
    """Put what is known in the place of `{names}`; what is not known stays as it is."""

    def fill(say: Say) -> Say:
        text = re.sub(r"\{(\w+)\}", lambda m: str(facts.get(m[1], m[0])), say.text)
        return msgspec.structs.replace(say, text=text)

    return tuple(fill(say) for say in segments(then))
