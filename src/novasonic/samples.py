"""The forms in which a piece of audio may come, and what they mean in 16-bit samples. No I/O.

numpy is imported by whoever needs it, at the first sound that is not already right: importing it takes as
long as four frames of speech.
"""

import math
import operator
import sys
from collections.abc import Buffer
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from novasonic import g711
from novasonic.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    type Levels = NDArray[np.floating[Any]]
    """Samples in units of a 16-bit one, not rounded yet."""

WIDTH: Final = 2
"""Bytes of a 16-bit sample."""

CHANNELS: Final = (1, 32)
"""How many channels there may be. An axis of an array that is longer than this is time."""

RATES: Final = (8_000, 192_000)
"""Below, speech is not understood; above, no device records."""

_OVERDRIVEN: Final = 16.0
"""Floats beyond this, 24 dB too loud, are no overdriven sound but numbers of another scale."""

Encoding = Literal["pcm16", "mulaw", "alaw"]
"""What bytes mean: 16-bit little-endian PCM, or one of the laws of G.711, a byte a sample."""

ENCODINGS: Final[tuple[Encoding, ...]] = ("pcm16", *g711.LAWS)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a row of bytes means as audio. The channels are interleaved.

    Attributes:
        sample_rate: Samples of one channel in a second: 8,000 to 192,000 Hz.
        channels: 1 to 32.
        encoding: "pcm16" is 16-bit little-endian PCM; "mulaw" and "alaw" are G.711.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    sample_rate: int = 16_000
    channels: int = 1
    encoding: Encoding = "pcm16"

    def __post_init__(self) -> None:
        whole_number("sample_rate", self.sample_rate, RATES, unit=" Hz")
        whole_number("channels", self.channels, CHANNELS)
        if self.encoding not in ENCODINGS:
            allowed = ", ".join(map(repr, ENCODINGS))
            raise ConfigurationError(f"encoding is {self.encoding!r}, but must be one of {allowed}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample in every channel."""
        return self.channels * (WIDTH if self.encoding == "pcm16" else 1)

    @property
    def bytes_per_second(self) -> int:
        """Bytes of a second of sound."""
        return self.frame_bytes * self.sample_rate

    def duration(self, size: int) -> float:
        """Return the seconds that `size` bytes last."""
        return size / self.bytes_per_second


def whole_number(name: str, value: int, allowed: tuple[int, int], *, unit: str = "") -> int:
    """Return a whole number that lies where it must.

    Raises:
        ConfigurationError: If it does not; it names the parameter, what was given and what is allowed.
    """
    low, high = allowed
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ConfigurationError(f"{name} is {value!r}, but must be a whole number, {low} to {high}{unit}")
    return number


def as_array(audio: Buffer) -> "NDArray[Any] | None":
    """Return audio as an array, or None if it is plain bytes.

    Raises:
        ConfigurationError: If it is neither.
    """
    if isinstance(audio, bytes | bytearray):
        return None
    numpy = sys.modules.get("numpy")  # where it was never loaded, nobody can have made an array
    if numpy is not None and isinstance(audio, numpy.ndarray):
        return cast("NDArray[Any]", numpy.asarray(audio))  # a subclass, such as a memmap, is not for soxr
    try:
        view = memoryview(audio)
    except TypeError:
        raise ConfigurationError(
            f"audio is a {type(audio).__name__}, but must be bytes or a numpy array of samples"
        ) from None
    if view.format in {"B", "b", "c"}:
        return None
    import numpy as np  # noqa: PLC0415 - heavy, and not needed for plain bytes

    return np.asarray(view)


def kept(audio: Buffer) -> Buffer:
    """Return audio that may be kept: a copy, where its owner could fill the same memory again."""
    if isinstance(audio, bytes):
        return audio
    samples = as_array(audio)
    return memoryview(audio).tobytes() if samples is None else cast("Buffer", samples.copy())


def levels_of_array(samples: "NDArray[Any]", encoding: Encoding = "pcm16") -> "Levels":
    """Return what the samples of an array mean, in an array of the same shape.

    Raises:
        ConfigurationError: If its type or a sample is not that of audio.
    """
    import numpy as np  # noqa: PLC0415 - heavy; an array is there, so it is loaded

    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if encoding != "pcm16":
        if (kind, size) != ("u", 1):
            raise ConfigurationError(
                f"audio is an array of {samples.dtype}, but {encoding} has bytes (uint8)"
            )
        decoded: Levels = g711.levels(encoding)[samples].astype(np.float32)
        return decoded
    if kind == "f" and size in {4, 8}:
        if not np.isfinite(samples).all():
            raise ConfigurationError("audio has samples that are not numbers (NaN or infinity)")
        if (loudest := float(abs(samples).max(initial=0.0))) > _OVERDRIVEN:
            raise ConfigurationError(
                f"audio has floats of up to {loudest:g}, but they must lie between -1 and 1; divide 16-bit "
                "numbers by 32768, or pass them as int16"
            )
        # Clipped before anything is reckoned: what is far beyond would overflow.
        return cast("Levels", samples.clip(-1, 1) * 32768)
    if kind == "i" and size == WIDTH:
        return samples.astype(np.float32)
    if kind == "i" and size == 2 * WIDTH:
        return samples / 65536
    raise ConfigurationError(
        f"audio is an array of {samples.dtype}, but must be of int16, int32, float32 or float64"
    )


def levels_of_bytes(data: bytes, encoding: Encoding = "pcm16") -> "Levels":
    """Return what whole samples mean, in an array of one dimension."""
    import numpy as np  # noqa: PLC0415 - heavy, and not needed for audio that is already right

    if encoding == "pcm16":
        return np.frombuffer(data, "<i2").astype(np.float32)
    return g711.levels(encoding)[np.frombuffer(data, np.uint8)].astype(np.float32)


def mix(levels: "Levels", channels: int) -> "Levels":
    """Return interleaved channels mixed into one, by their mean."""
    if channels == 1:
        return levels.ravel()
    import numpy as np  # noqa: PLC0415 - heavy; an array is there, so it is loaded

    # Ten times faster than mean(axis=1) over an axis as short as this.
    return levels.reshape(-1, channels) @ np.ones(channels, levels.dtype) / channels


def pcm_of(levels: "Levels") -> bytes:
    """Round to 16 bits; what is beyond is held at the edge, where a cast would wrap it."""
    return levels.round().clip(-32768, 32767).astype("<i2").tobytes()


def level(audio: Buffer, *, encoding: Encoding = "pcm16") -> float:
    """Return how loud a piece of audio is: its root mean square in dBFS, minus infinity for silence.

    0 is the loudest there is, a square wave at full scale; a sine there has -3. Speech has some -25.

    Args:
        audio: Bytes or an array, as `Chunker.feed` takes them. Channels count together.
        encoding: What bytes mean.

    Raises:
        ConfigurationError: If it cannot be audio.
    """
    levels = _levels(audio, encoding)
    return _decibels(math.sqrt(float(levels @ levels) / len(levels)) if len(levels) else 0.0)


def peak(audio: Buffer, *, encoding: Encoding = "pcm16") -> float:
    """Return the largest sample of a piece of audio in dBFS, 0 where it is clipped; as `level` otherwise.

    Raises:
        ConfigurationError: If it cannot be audio.
    """
    return _decibels(float(abs(_levels(audio, encoding)).max(initial=0.0)))


def _levels(audio: Buffer, encoding: Encoding) -> "Levels":
    form = AudioFormat(encoding=encoding)
    samples = as_array(audio)
    if samples is not None:
        return levels_of_array(samples, encoding).ravel().astype("float64")
    data = bytes(audio)
    return levels_of_bytes(data[: len(data) - len(data) % form.frame_bytes], encoding).astype("float64")


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude / 32768) if amplitude else -math.inf
