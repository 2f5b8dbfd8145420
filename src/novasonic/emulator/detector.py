"""Where speech begins and ends in the audio that was received, by its energy. No I/O, no clock.

It measures and understands nothing: a cough is speech, and a whisper below the noise is not. What it must
get right is real speech over a real microphone: pauses inside sentences, weak ends of words, and a noise
that is there all the time.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAME: Final = 20  # ms, in which loudness is measured
_GRID: Final = 40  # ms: all offsets of the service are multiples of it
_ONSET: Final = 4  # frames that are looked at for an onset ...
_LOUD: Final = 3  # ... of which so many must be loud: a click is one
_LOOK_BACK: Final = 10  # frames before the onset that may belong to it: a soft consonant
_NOISE: Final = 100  # frames: noise is what was quietest in them. No word lasts two seconds
_STEADY: Final = 3  # frames, the mean of which must be quiet

# Loudness in decibels below full scale (dBFS). Speech into a microphone has -30 to -10.
_SILENT: Final = -60.0  # nothing counts as quieter
_NOISY: Final = -35.0  # a noise counts as no louder, so that a tone of any length is "speech"
_LOUD_AT_LEAST: Final = -38.0
_QUIET_AT_MOST: Final = -44.0
_LOUD_OVER_NOISE: Final = 12.0
_QUIET_OVER_NOISE: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Onset:
    """Speech began, `offset_ms` into the audio."""

    offset_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """Speech ended.

    Attributes:
        offset_ms: Where it ended.
        detected_at_ms: How much audio it took to tell.
        loudness: Of the speech, in dBFS.
    """

    offset_ms: int
    detected_at_ms: int
    loudness: float


class SpeechDetector:
    """Hears the beginnings and the ends of speech.

    Attributes:
        silence: Seconds of silence that end speech.
        heard_ms: How much audio was heard.
        speaking_since: The offset at which the speech began that has not ended; None in silence.
    """

    def __init__(self, silence: float = 0.5) -> None:
        self.silence = silence
        self.heard_ms = 0.0
        self.speaking_since: int | None = None
        self._frames_ms = 0  # up to where frames have been looked at
        self._rate = 0
        self._rest = b""
        self._levels: deque[float] = deque([_SILENT] * _LOOK_BACK, maxlen=_NOISE)
        self._means: deque[float] = deque([_SILENT], maxlen=_NOISE)
        self._last_active_ms = 0
        self._recent: deque[float] = deque(maxlen=_ONSET)  # powers, before speech
        self._power = 0.0  # of the speech, all frames together
        self._frames = 0

    def feed(self, pcm: bytes, sample_rate: int) -> list[Onset | Offset]:
        """Hear a piece of audio and return what it shows.

        Args:
            pcm: 16-bit little-endian samples, mono.
            sample_rate: In Hz. When it changes, less than a frame of the old rate is lost.
        """
        if sample_rate != self._rate:
            self._rate, self._rest = sample_rate, b""
            self._frames_ms = int(self.heard_ms)
        self.heard_ms += len(pcm) / 2 / sample_rate * 1000
        data = self._rest + pcm
        size = sample_rate * _FRAME // 1000 * 2
        whole = len(data) // size * size
        self._rest = data[whole:]
        found: list[Onset | Offset] = []
        for power in _powers(data[:whole], size // 2):
            self._frames_ms += _FRAME
            self._look_at(power, found)
        return found

    def _look_at(self, power: float, found: list[Onset | Offset]) -> None:
        level = _decibels(power)
        self._levels.append(level)
        recent = list(self._levels)[-_STEADY:]
        self._means.append(sum(recent) / _STEADY)
        noise = min(max(min(self._means), _SILENT), _NOISY)
        quiet = max(_QUIET_AT_MOST, noise + _QUIET_OVER_NOISE)
        if self.speaking_since is None:
            loud = max(_LOUD_AT_LEAST, noise + _LOUD_OVER_NOISE)
            self._recent.append(power)
            if level > loud and self._is_onset(loud):
                self._begin(quiet, found)
            return
        if level > quiet:
            self._last_active_ms = self._frames_ms
            self._power += power
            self._frames += 1
        elif self._frames_ms - self._last_active_ms >= self.silence * 1000:
            self._end(found)

    def _is_onset(self, loud: float) -> bool:
        recent = list(self._levels)[-_ONSET:]
        return sum(level > loud for level in recent) >= _LOUD

    def _begin(self, quiet: float, found: list[Onset | Offset]) -> None:
        levels = list(self._levels)
        frames = _ONSET
        while frames < _LOOK_BACK and levels[-frames - 1] > quiet:
            frames += 1
        while levels[-frames] <= quiet:
            frames -= 1
        start = max(self._frames_ms - frames * _FRAME, 0)
        self.speaking_since = max(start // _GRID * _GRID, self._last_active_ms // _GRID * _GRID)
        self._last_active_ms = self._frames_ms
        self._power, self._frames = sum(self._recent), len(self._recent)
        self._recent.clear()
        found.append(Onset(offset_ms=self.speaking_since))

    def _end(self, found: list[Onset | Offset]) -> None:
        end = -(-self._last_active_ms // _GRID) * _GRID
        self._last_active_ms = end
        self.speaking_since = None
        loudness = _decibels(self._power / self._frames)
        found.append(
            Offset(
                offset_ms=end, detected_at_ms=max(self._frames_ms // _GRID * _GRID, end), loudness=loudness
            )
        )


def _powers(pcm: bytes, samples: int) -> list[float]:
    """Return the mean power of each frame, 1.0 being full scale."""
    if not pcm:
        return []
    import numpy as np  # noqa: PLC0415 - a scenario can be read without it

    levels: NDArray[np.float64] = np.frombuffer(pcm, dtype="<i2").astype(np.float64).reshape(-1, samples)
    return [float(power) for power in np.mean(levels * levels, axis=1) / 2.0**30]


def _decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 1e-10 else -100.0  # noqa: PLR2004 - below the last bit
