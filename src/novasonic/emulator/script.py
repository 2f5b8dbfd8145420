"""Where a stream is in its scenario: the turn that is next, what was heard for it, what is said to it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from novasonic.emulator.ear import Window
from novasonic.emulator.scenario import Heard, Say, ToolCall, Turn, segments


@dataclass(slots=True, eq=False)
class Cue:
    """A turn that is to come. A scenario may hold the same turn twice, and each is used once.

    Attributes:
        turn: The turn.
        held: A stream is about to answer with it: meanwhile it is no other's.
    """

    turn: Turn
    held: bool = False


class Script:
    """Where a stream, or all streams together, are in the turns of a scenario."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._cues = [Cue(turn) for turn in turns]

    @property
    def left(self) -> Sequence[Turn]:
        """The turns that were not used."""
        return [cue.turn for cue in self._cues]

    def spoken(self) -> Cue | None:
        """Return what answers speech now; it stays until it is held or taken."""
        return self._first(lambda turn: turn.typed is None)

    def typed(self, text: str) -> Cue | None:
        """Return what answers a text: the next one for speech, if it ends with these words.

        A client that has lost a stream may ask again in words, together with what was not answered before.
        """
        cue = self.spoken()
        words = " ".join(piece.text for piece in cue.turn.pieces) if cue is not None else ""
        if words and text.strip().endswith(words):
            return cue
        return self._first(lambda turn: turn.answers(text))

    def hold(self, cue: Cue | None) -> Cue | None:
        """Keep a turn from other streams until it is released or taken.

        Returns:
            It, or the next one that answers speech, if there was none or another stream was faster.
        """
        found = cue if cue in self._cues and not cue.held else self.spoken()
        if found is not None:
            found.held = True
        return found

    def release(self, cue: Cue) -> None:
        """Give a turn back that was not used after all."""
        cue.held = False

    def take(self, cue: Cue) -> None:
        """Use a turn up."""
        self._cues = [each for each in self._cues if each is not cue]

    def _first(self, fits: Callable[[Turn], bool]) -> Cue | None:
        return next((cue for cue in self._cues if not cue.held and fits(cue.turn)), None)


@dataclass(slots=True, kw_only=True)
class Utterance:
    """What the user has been saying since the last answer, in one stretch or several."""

    cue: Cue | None = None
    pieces: list[Heard] = field(default_factory=list[Heard])
    windows: list[Window] = field(default_factory=list[Window])
    told: int = 0  # pieces, of the stretch that goes on

    @property
    def turn(self) -> Turn | None:
        """The turn that answers it, if there is one."""
        return self.cue.turn if self.cue is not None else None

    def follow(self, cue: Cue | None) -> None:
        """Take note of the turn that answers it."""
        if cue is not self.cue:
            self.cue, self.pieces = cue, list(cue.turn.pieces) if cue is not None else []

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


def steps_of(turn: Turn, *, waits: bool) -> tuple[Say | ToolCall, ...]:
    """Return what a turn does, in order; a model that waits for its tools calls them last."""
    before = [call for call in turn.calls if call.when == "before" and not waits]
    after = [call for call in turn.calls if call.when == "after" or waits]
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
