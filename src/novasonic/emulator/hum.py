"""What the emulated model says when it has no voice: tones of about the right length. No I/O."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from novasonic.emulator.scenario import Say

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHARACTERS_A_SECOND: Final = 14.0
_SHORTEST: Final = 0.4


def length(say: Say) -> float:
    """Return how many seconds something takes to say, when nothing else tells."""
    if say.seconds is not None:
        return say.seconds
    return max(len(say.text) / _CHARACTERS_A_SECOND, _SHORTEST)


@lru_cache(maxsize=32)
def hum(say: Say, sample_rate: int) -> bytes:
    """Return a soft tone, as long as it would take to say the text, that rises and falls by its syllables.

    The same text always gives the same sound.
    """
    import numpy as np  # noqa: PLC0415 - a scenario can be read without it

    count = round(length(say) * sample_rate)
    time: NDArray[np.float64] = np.arange(count, dtype=np.float64) / sample_rate
    pitch = 150 + 40 * np.sin(2 * math.pi * 0.4 * time)
    phase = 2 * math.pi * np.cumsum(pitch) / sample_rate
    syllables = 0.55 - 0.45 * np.cos(2 * math.pi * 4 * time)
    tone = (np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)) * syllables * 0.1
    return (tone * 32767).astype("<i2").tobytes()
