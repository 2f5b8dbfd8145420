"""G.711, the audio of telephones: µ-law and A-law, one byte a sample. No I/O.

Each law has 256 levels. Decoding looks up the level of a byte, and encoding the byte of each of the 65,536
16-bit samples, in tables. They follow ITU-T G.711 and, where that leaves open to which side a sample goes
that lies right on a limit, the ITU's own reference code (G.191).

    pcm = g711.decode(packet, "mulaw")      # 160 bytes of a telephone line: 20 ms at 8 kHz
    packet = g711.encode(pcm, "mulaw")
"""

import functools
from collections.abc import Buffer
from typing import TYPE_CHECKING, Any, Final, Literal

from novasonic.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LAWS", "Law", "decode", "encode", "levels"]

Law = Literal["mulaw", "alaw"]
"""µ-law is used in North America and Japan, and by most telephony over the internet; A-law elsewhere."""

LAWS: Final[tuple[Law, ...]] = ("mulaw", "alaw")

# Both laws have a sign, eight segments, each twice as wide as the one before, and 16 steps in a segment.
_STEPS: Final = 16
_SIGN: Final = 0x80

_MULAW_BIAS: Final = 33  # added to a 14-bit magnitude, so that a segment begins at each power of two
_MULAW_LOUDEST: Final = 0x1FFF
_MULAW_FLIPPED: Final = 0xFF  # lines are kept busy by sending all bits inverted
_ALAW_FLIPPED: Final = 0x55  # and here every other bit
_ALAW_LINEAR: Final = 32  # below, A-law has a single step width


def decode(data: Buffer, law: Law) -> bytes:
    """Return 16-bit little-endian PCM for bytes of a law: as many samples as bytes.

    Raises:
        ConfigurationError: If there is no such law.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    decoded: bytes = levels(law)[np.frombuffer(data, np.uint8)].tobytes()
    return decoded


def encode(pcm: Buffer, law: Law) -> bytes:
    """Return the bytes of a law for 16-bit little-endian PCM: as many bytes as samples.

    Raises:
        ConfigurationError: If there is no such law, or if `pcm` ends within a sample.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    with memoryview(pcm) as view:
        if view.nbytes % 2:
            raise ConfigurationError(f"pcm has {view.nbytes} bytes, which is not a multiple of 2")
        coded: bytes = _codes(law)[np.frombuffer(view.tobytes(), "<u2")].tobytes()
        return coded


@functools.cache
def levels(law: Law) -> "NDArray[np.int16]":
    """Return the table of a law: the 16-bit level of each byte.

    Raises:
        ConfigurationError: If there is no such law.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    _check(law)
    flipped = _MULAW_FLIPPED if law == "mulaw" else _ALAW_FLIPPED
    code = np.arange(256) ^ flipped
    negative, segment, step = code & _SIGN, code >> 4 & 7, code & 0x0F
    if law == "mulaw":
        magnitude = 4 * (((2 * step + _MULAW_BIAS) << segment) - _MULAW_BIAS)
    else:
        # The middle of each step. The first two segments are one straight line.
        start = np.where(segment > 0, step + _STEPS, step)
        magnitude = (16 * start + 8) << np.maximum(segment - 1, 0)
        negative = ~code & _SIGN  # a set bit is a positive sample
    table = np.where(negative > 0, -magnitude, magnitude).astype("<i2")
    table.flags.writeable = False
    return table


@functools.cache
def _codes(law: Law) -> "NDArray[np.uint8]":
    """The byte of each 16-bit sample; the table begins at 0, and the negative ones follow, as unsigned."""
    import numpy as np  # noqa: PLC0415 - heavy

    _check(law)
    samples = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.where(samples < 0, ~samples, samples)
    if law == "mulaw":
        biased = np.minimum((magnitude >> 2) + _MULAW_BIAS, _MULAW_LOUDEST)
        segment = _bits(biased >> 6)
        code = segment << 4 | (biased >> segment + 1) - _STEPS
        flipped = np.where(samples < 0, _MULAW_FLIPPED ^ _SIGN, _MULAW_FLIPPED) ^ code
    else:
        steps = magnitude >> 4
        segment = _bits(steps >> 5) + 1
        curved = segment << 4 | (steps >> segment - 1) - _STEPS
        code = np.where(steps < _ALAW_LINEAR, steps, curved)
        flipped = np.where(samples < 0, code, code | _SIGN) ^ _ALAW_FLIPPED
    table: NDArray[np.uint8] = flipped.astype(np.uint8)
    table.flags.writeable = False
    return table


def _bits(numbers: "NDArray[Any]") -> "NDArray[Any]":
    """How many binary digits each number has: none for 0, and at most 7."""
    import numpy as np  # noqa: PLC0415 - heavy; an array is there, so it is loaded

    return np.sum([numbers >> digit > 0 for digit in range(8)], axis=0)


def _check(law: str) -> None:
    if law not in LAWS:
        raise ConfigurationError(f"law is {law!r}, but must be 'mulaw' or 'alaw'")
