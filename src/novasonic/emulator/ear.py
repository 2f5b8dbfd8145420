"""From audio that comes in to what the service says about it: when speech starts and ends, and what it costs.

The detector measures in the audio, the service talks in time: the ear turns one into the other. It reports
in the order start, end, start, end, whatever the pace at which the audio comes.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from novasonic.emulator.agenda import Agenda
from novasonic.emulator.detector import Offset, Onset, SpeechDetector
from novasonic.emulator.scenario import Behaviour
from novasonic.emulator.usage import TOKENS_A_SECOND

_TOKEN_MS: Final = 1000 // TOKENS_A_SECOND
_LEAD_IN_MS: Final = 1000  # of audio before the onset are counted, too
_MOST_TOKENS: Final = 100  # that are told at once
_QUIET_MS: Final = 3000  # after so long, speech is found more slowly
_TOLD_AHEAD: Final = 0.1  # seconds between what was counted and the text that it gave


@dataclass(slots=True, kw_only=True)
class Window:
    """A stretch of the user's speech, offsets in ms of audio."""

    start_ms: int
    end_ms: int = 0
    detected_ms: int = 0
    loudness: float = -100.0


class Listener(Protocol):
    """Whoever wants to know."""

    def speech_found(self) -> None:
        """Somebody speaks; `speech_started` follows."""
        ...

    def speech_started(self, window: Window) -> None:
        """The service reports the start."""
        ...

    def speech_goes_on(self, seconds: float) -> None:
        """The speech is so long by now."""
        ...

    def speech_counted(self, tokens: int) -> None:
        """So many tokens were spoken."""
        ...

    def speech_ended(self, window: Window) -> None:
        """The service reports the end."""
        ...


class Ear:
    """Hears the user.

    Args:
        agenda: When to report.
        behaviour: How soon.
        listener: To whom.
        prompt: Whether a start is reported promptly although it was quiet: while the model speaks.

    Attributes:
        silence: Seconds of silence that end an utterance.
    """

    def __init__(
        self, agenda: Agenda, behaviour: Behaviour, listener: Listener, *, prompt: Callable[[], bool]
    ) -> None:
        self.silence = behaviour.silence
        self._agenda = agenda
        self._behaviour = behaviour
        self._listener = listener
        self._prompt = prompt
        self._detector = SpeechDetector()
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=64)  # ms heard, and when
        self._window: Window | None = None
        self._ended_ms = -_QUIET_MS
        self._counted_ms = 0
        self._reported = 0.0  # when the last report is due: the next is not before it

    @property
    def heard(self) -> float:
        """Seconds of audio that came."""
        return self._detector.heard_ms / 1000

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """Take a piece of audio that comes now."""
        self._detector.silence = self.silence
        found = self._detector.feed(pcm, sample_rate)
        self._arrivals.append((self._detector.heard_ms, self._agenda.now))
        for each in found:
            if isinstance(each, Onset):
                self._start(each)
            else:
                self._end(each)
        if self._window is not None:
            self._go_on(self._window)

    def _arrival(self, offset_ms: int) -> float:
        return next((at for heard, at in self._arrivals if heard >= offset_ms), self._agenda.now)

    def _report(self, when: float, what: Callable[[], None]) -> None:
        self._reported = max(when, self._agenda.now, self._reported)
        self._agenda.at(self._reported, what)

    def _start(self, onset: Onset) -> None:
        window = self._window = Window(start_ms=onset.offset_ms)
        quiet = onset.offset_ms - self._ended_ms >= _QUIET_MS and not self._prompt()
        delay = self._behaviour.speech_start_from_silence if quiet else self._behaviour.speech_start
        self._counted_ms = max(onset.offset_ms - _LEAD_IN_MS, self._counted_ms)
        self._listener.speech_found()
        self._report(self._arrival(onset.offset_ms) + delay, lambda: self._listener.speech_started(window))

    def _go_on(self, window: Window) -> None:
        heard_ms = int(self._detector.heard_ms)
        self._count(heard_ms, whole=True)
        seconds = (heard_ms - window.start_ms) / 1000
        self._report(self._agenda.now, lambda: self._listener.speech_goes_on(seconds))

    def _end(self, offset: Offset) -> None:
        window, self._window = self._window, None
        if window is None:
            return
        window.end_ms, window.detected_ms = offset.offset_ms, offset.detected_at_ms
        window.loudness = offset.loudness
        self._ended_ms = offset.offset_ms
        when = self._agenda.now + self._behaviour.speech_end
        self._report(when - _TOLD_AHEAD, lambda: None)
        self._count(offset.detected_at_ms, whole=False)
        self._report(when, lambda: self._listener.speech_ended(window))

    def _count(self, until_ms: int, *, whole: bool) -> None:
        """Count what was heard up to there: in full portions only while the user goes on."""
        while (tokens := (until_ms - self._counted_ms) // _TOKEN_MS) > 0:
            if whole and tokens < _MOST_TOKENS:
                return
            tokens = min(tokens, _MOST_TOKENS)
            self._counted_ms += tokens * _TOKEN_MS
            self._report(self._agenda.now, partial(self._listener.speech_counted, tokens))
