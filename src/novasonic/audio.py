"""Audio as samples: formats, cutting into frames, resampling, WAV files. No I/O but files, no devices.

Everything the service hears and says is 16-bit little-endian PCM, mono. A program may have anything else:
other rates, stereo, floats, buffers of any length. `Chunker` stands between the two.

numpy and soxr are imported by whoever needs them, at the first sound that is not already right: bytes at
the right rate pass without them.
"""

import importlib
import operator
import os
import stat
import sys
import wave
from collections.abc import Buffer, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, Self, cast

from novasonic.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    type _Samples = NDArray[np.floating[Any]]

__all__ = [
    "AudioFormat",
    "Chunker",
    "WavReader",
    "WavWriter",
    "kept",
    "load",
    "read_wav",
    "silence",
    "write_wav",
]

_WIDTH: Final = 2
"""Bytes of a sample."""

_RATES: Final = (8_000, 192_000)
"""Below, speech is not understood; above, no device records."""

_CHANNELS: Final = (1, 32)
"""A second axis beyond this is time, not channels."""

_CHUNK_SAMPLES: Final = (1, 4096)
"""The longest is a quarter of a second at 16 kHz; longer ones only make the service hear later."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """16-bit PCM, little-endian, the channels interleaved.

    Attributes:
        sample_rate: Samples of one channel in a second: 8,000 to 192,000 Hz.
        channels: 1 to 32.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    sample_rate: int = 16_000
    channels: int = 1

    def __post_init__(self) -> None:
        _whole("sample_rate", self.sample_rate, _RATES, unit=" Hz")
        _whole("channels", self.channels, _CHANNELS)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample in every channel."""
        return _WIDTH * self.channels

    @property
    def bytes_per_second(self) -> int:
        """Bytes of a second of sound."""
        return self.frame_bytes * self.sample_rate

    def duration(self, size: int) -> float:
        """Return the seconds that `size` bytes last."""
        return size / self.bytes_per_second


def load() -> None:
    """Import what converting audio needs, which takes a fifth of a second: in a thread, and beforehand."""
    importlib.import_module("soxr")


def kept(audio: Buffer) -> Buffer:
    """Return audio that may be kept: a copy, where its owner could fill the same memory again."""
    if isinstance(audio, bytes):
        return audio
    samples = _array(audio)
    return memoryview(audio).tobytes() if samples is None else cast("Buffer", samples.copy())


def silence(samples: int) -> bytes:
    """Return `samples` samples of silence: 16-bit, one channel."""
    return bytes(_WIDTH * samples)


class Chunker:
    """Turns audio of any form, in pieces of any length, into frames of one length.

    What goes in may be bytes (16-bit little-endian PCM, channels interleaved), an array of int16, float32
    or float64, or whatever lends its memory as one of these. Arrays have the shape (samples,) or
    (samples, channels); floats lie between -1 and 1, and what is beyond is clipped. Channels are mixed
    into one by their mean. What comes out are frames of `chunk_samples` samples: 16-bit little-endian PCM,
    mono, at `sample_rate`.

    A piece may end anywhere, even within a sample: the rest waits for the next piece. The form may change
    from piece to piece; what was heard in the old form goes out first. A piece that is refused changes
    nothing. One thread at a time may use it.

    Args:
        sample_rate: The rate of what comes out, in Hz.
        chunk_samples: The length of a frame, 1 to 4,096 samples.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    def __init__(self, sample_rate: int = 16_000, chunk_samples: int = 512) -> None:
        self._target = AudioFormat(sample_rate)
        self._frame = _WIDTH * _whole("chunk_samples", chunk_samples, _CHUNK_SAMPLES)
        self._source = self._target  # the form of the piece before
        self._split = b""  # the beginning of a sample whose end has not come yet, in that form
        self._resampler: _Resampler | None = None  # from that rate, where it is another
        self._ready = bytearray()  # less than a frame, as it will go out

    def feed(self, audio: Buffer, *, sample_rate: int | None = None, channels: int = 1) -> list[bytes]:
        """Take a piece of audio, and return the frames that it completes, which may be none.

        Args:
            audio: Bytes or an array, of any length.
            sample_rate: Its rate in Hz, 8,000 to 192,000; by default the rate of what comes out.
            channels: How many are interleaved in bytes, or in an array of one dimension. An array of two
                dimensions knows for itself: one that was declared mono, or not at all, is taken as it is.

        Raises:
            ConfigurationError: If it cannot be audio: of another type, shape or rate, or with samples that
                are not numbers (NaN, infinity). Nothing of it was taken, and nothing from before is lost.
        """
        source = self._target
        if channels != 1 or (sample_rate is not None and sample_rate != source.sample_rate):
            source = AudioFormat(source.sample_rate if sample_rate is None else sample_rate, channels)
        samples = _array(audio)
        if samples is not None:
            source, mono = _mono_of_array(samples, source)
            frames = self._change_to(source)
            return frames + self._push(mono)
        # A copy, as the caller may fill the same buffer again.
        data = self._split + bytes(audio) if source == self._source else bytes(audio)
        whole = len(data) - len(data) % source.frame_bytes
        if source == self._target:
            frames = self._change_to(source)
            self._ready += data[:whole]
            frames += self._cut()
        else:
            frames = self._change_to(source)
            frames += self._push(_mono_of_bytes(data[:whole], source))
        self._split = data[whole:]
        return frames

    def flush(self) -> list[bytes]:
        """Return all that is left, the last frame filled up with silence; then be as new.

        For the end of an utterance or of a source: a resampler holds back some 20 ms, and up to a frame
        may be waiting to be filled. Half a sample at the very end is dropped.
        """
        frames = self._change_to(self._target)
        self._split = b""
        if self._ready:
            frames.append(bytes(self._ready).ljust(self._frame, b"\0"))
            self._ready.clear()
        return frames

    def _change_to(self, source: AudioFormat) -> list[bytes]:
        """Prepare for pieces of that form; return the frames that the end of the old form completes."""
        if source == self._source:
            return []
        self._split = b""
        tail: list[bytes] = []
        if source.sample_rate != self._source.sample_rate:
            if self._resampler is not None:
                import numpy as np  # noqa: PLC0415 - heavy; a resampler is there, so it is loaded

                self._ready += _pcm(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
                tail = self._cut()
            self._resampler = None
            if source.sample_rate != self._target.sample_rate:
                self._resampler = _resampler(source.sample_rate, self._target.sample_rate)
        self._source = source
        return tail

    def _push(self, mono: "_Samples") -> list[bytes]:
        """Take samples of one channel, at the rate of the source."""
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono.astype("float32"))
        self._ready += _pcm(mono)
        return self._cut()

    def _cut(self) -> list[bytes]:
        """Take the whole frames out of what is ready."""
        end = len(self._ready) - len(self._ready) % self._frame
        if not end:
            return []
        with memoryview(self._ready) as view:
            frames = [bytes(view[at : at + self._frame]) for at in range(0, end, self._frame)]
        del self._ready[:end]
        return frames


class _Resampler(Protocol):
    """What is used of `soxr.ResampleStream`, which has no types of its own."""

    def resample_chunk(self, x: "_Samples", last: bool = False) -> "_Samples": ...


def _resampler(source_rate: int, target_rate: int) -> _Resampler:
    import soxr  # pyright: ignore[reportMissingTypeStubs]  # noqa: PLC0415 - heavy, and only for other rates

    # HQ keeps 20 bits. From 48 to 16 kHz it holds back 21 ms; the next lower quality would, 15.
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
    return cast("_Resampler", stream)


def _whole(name: str, value: int, allowed: tuple[int, int], *, unit: str = "") -> int:
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


def _array(audio: Buffer) -> "NDArray[Any] | None":
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


def _mono_of_array(samples: "NDArray[Any]", declared: AudioFormat) -> "tuple[AudioFormat, _Samples]":
    """Return the form of an array, and its channels mixed into one, in units of a 16-bit sample.

    Raises:
        ConfigurationError: If its type, its shape or a sample is not that of audio.
    """
    import numpy as np  # noqa: PLC0415 - heavy; an array is there, so it is loaded

    channels = declared.channels
    match samples.shape:
        case (length,):
            if length % channels:
                raise ConfigurationError(
                    f"audio has {length} samples, which cannot be {channels} channels of equal length"
                )
        case (length, own) if own > _CHANNELS[1]:
            raise ConfigurationError(
                f"audio has the shape ({length}, {own}), which is (samples, channels) and would be {own} "
                f"channels, but at most {_CHANNELS[1]} are allowed; for (channels, samples) pass audio.T"
            )
        case (length, own) if own == 0 or channels not in {1, own}:
            raise ConfigurationError(
                f"audio has the shape ({length}, {own}), which is {own} channels, but channels is {channels}"
            )
        case (_, own):
            channels = own
        case shape:
            raise ConfigurationError(
                f"audio has the shape {shape}, but must have (samples,) or (samples, channels)"
            )
    if samples.dtype.kind == "f" and samples.dtype.itemsize in {4, 8}:
        if not np.isfinite(samples).all():
            raise ConfigurationError("audio has samples that are not numbers (NaN or infinity)")
        # Clipped before anything is reckoned: what is far beyond would overflow.
        levels: _Samples = samples.clip(-1, 1) * 32768
    elif samples.dtype.kind == "i" and samples.dtype.itemsize == _WIDTH:
        levels = samples.astype(np.float32)
    else:
        raise ConfigurationError(
            f"audio is an array of {samples.dtype}, but must be of int16, float32 or float64"
        )
    return AudioFormat(declared.sample_rate, channels), _mix(levels, channels)


def _mono_of_bytes(data: bytes, source: AudioFormat) -> "_Samples":
    """Return the channels of PCM mixed into one, in units of a 16-bit sample."""
    import numpy as np  # noqa: PLC0415 - heavy, and not needed for audio that is already right

    return _mix(np.frombuffer(data, "<i2").astype(np.float32), source.channels)


def _mix(levels: "_Samples", channels: int) -> "_Samples":
    return levels.ravel() if channels == 1 else levels.reshape(-1, channels).mean(axis=1)


def _pcm(levels: "_Samples") -> bytes:
    """Round to 16 bits; what a resampler overshoots is held at the edge, where a cast would wrap it."""
    return levels.round().clip(-32768, 32767).astype("<i2").tobytes()


# The format tags of WAV files (RFC 2361, Microsoft's mmreg.h) that people have lying about.
_PCM: Final = 1
_EXTENSIBLE: Final = 0xFFFE
_TAGS: Final = {
    2: "ADPCM",
    3: "floating point",
    6: "A-law",
    7: "mu-law",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x55: "MP3",
}

# How other files begin that are taken for a WAV.
_MAGIC: Final = {
    b"ID3": "an MP3 file",
    b"\xff\xfb": "an MP3 file",
    b"OggS": "an Ogg file",
    b"fLaC": "a FLAC file",
    b"FORM": "an AIFF file",
    b"RF64": "a 64-bit WAV file",
    b"RIFX": "a big-endian WAV file",
    b"RIFF": "a RIFF file, but of another kind",
    b"\x1aE\xdf\xa3": "a WebM or Matroska file",
}

# What programs write as a length that they do not know, as they cannot go back in a pipe: ffmpeg 0xFFFFFFFF,
# sox 0x7FFFF000 and a little more. Such a length would be a day of speech.
_UNKNOWN_LENGTH: Final = 0x7FFF_0000


class WavReader:
    """A WAV file, read piece by piece. Opens it at once; `with` closes it.

    It reads 16-bit PCM of any rate from 8,000 to 192,000 Hz and of up to 32 channels. Where a program
    that wrote into a pipe left the length open, it reads to the end of the file.

    Args:
        path: The file.

    Attributes:
        format: The rate and the channels.
        duration: Seconds; None where the length was left open.

    Raises:
        ConfigurationError: If there is no such file, if it is no WAV file or not of 16-bit PCM, or if it
            is shorter than it says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = _open(self._path, "rb")
        try:
            self.format, self._left = _read_header(self._file)
        except ConfigurationError as exc:
            self._file.close()
            raise ConfigurationError(f"{self._path} {exc}") from exc
        except OSError as exc:
            self._file.close()
            raise ConfigurationError(f"{self._path} cannot be read: {exc.strerror}") from exc
        self.duration = None if self._left is None else self.format.duration(self._left)

    def read(self, samples: int) -> bytes:
        """Return the next samples of all channels as PCM, at most so many; empty at the end.

        Raises:
            ConfigurationError: If the file has become shorter since it was opened.
        """
        size = samples * self.format.frame_bytes
        size = size if self._left is None else min(size, self._left)
        data = self._file.read(size)
        if self._left is None:
            return data[: len(data) - len(data) % self.format.frame_bytes]
        if len(data) < size:
            raise ConfigurationError(f"{self._path} has become shorter while it was read")
        self._left -= size
        return data

    def blocks(self, seconds: float = 1.0) -> Iterator[bytes]:
        """Iterate over what is left, in pieces of so many seconds; the last may be shorter."""
        samples = max(1, round(seconds * self.format.sample_rate))
        while block := self.read(samples):
            yield block

    def close(self) -> None:
        """Close the file. Twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def read_wav(path: str | os.PathLike[str]) -> tuple[bytes, AudioFormat]:
    """Return all samples of a WAV file as PCM, and their form.

    Raises:
        ConfigurationError: As `WavReader` does.
    """
    with WavReader(path) as wav:
        return b"".join(wav.blocks()), wav.format


class WavWriter:
    """A WAV file of 16-bit PCM, written piece by piece. Creates it at once; `with` finishes it.

    The length is written at the end. A file whose program died before that has none, and `WavReader` reads
    it to its end.

    Args:
        path: The file; one that is there is overwritten.
        sample_rate: In Hz.
        channels: How many are interleaved.

    Raises:
        ConfigurationError: If the file cannot be created, or a number is out of its range.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int = 24_000, channels: int = 1) -> None:
        self.format = AudioFormat(sample_rate, channels)
        self._file = _open(Path(path), "wb")
        self._wav = wave.Wave_write(self._file)
        self._wav.setparams((channels, _WIDTH, sample_rate, 0, "NONE", "not compressed"))

    def write(self, pcm: Buffer) -> None:
        """Append samples: 16-bit little-endian PCM.

        Raises:
            ConfigurationError: If it ends within a sample.
        """
        with memoryview(pcm) as view:
            if view.nbytes % self.format.frame_bytes:
                raise ConfigurationError(
                    f"pcm has {view.nbytes} bytes, which is not a multiple of {self.format.frame_bytes}"
                )
            self._wav.writeframesraw(view)

    def close(self) -> None:
        """Write the length and close the file. Twice is fine."""
        if self._file.closed:
            return
        with self._file:
            self._wav.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def write_wav(
    path: str | os.PathLike[str], pcm: Buffer, sample_rate: int = 24_000, channels: int = 1
) -> None:
    """Write samples into a WAV file.

    Args:
        path: The file; one that is there is overwritten.
        pcm: 16-bit little-endian PCM.
        sample_rate: In Hz.
        channels: How many are interleaved.

    Raises:
        ConfigurationError: If the file cannot be created, a number is out of its range, or `pcm` ends
            within a sample.
    """
    with WavWriter(path, sample_rate, channels) as wav:
        wav.write(pcm)


def _open(path: Path, mode: str) -> BinaryIO:
    """Open a file.

    Raises:
        ConfigurationError: If it cannot be opened; it says why in words.
    """
    try:
        return cast("BinaryIO", path.open(mode))
    except IsADirectoryError as exc:
        raise ConfigurationError(f"{path} is a directory, not a WAV file") from exc
    except FileNotFoundError as exc:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        missing = path if mode == "rb" else path.parent
        raise ConfigurationError(f"{missing} does not exist{where}") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be opened: {exc.strerror}") from exc


def _read_header(file: BinaryIO) -> tuple[AudioFormat, int | None]:
    """Read up to the samples; return their form, and their length in bytes where it is known.

    Raises:
        ConfigurationError: If this is no WAV file of 16-bit PCM, or not all of it; a sentence whose subject,
            the file, is for the caller to put before it.
    """
    info = os.fstat(file.fileno())
    size = info.st_size if stat.S_ISREG(info.st_mode) else None  # a pipe has none
    head = file.read(12)
    if not head:
        raise ConfigurationError("is empty")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "not a WAV file")
        raise ConfigurationError(f"is {kind}; convert it, such as with ffmpeg or sox, to a WAV of 16-bit PCM")
    outer = int.from_bytes(head[4:8], "little")
    at = len(head)
    form: AudioFormat | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:  # noqa: PLR2004 - the name of a chunk and its length
            raise ConfigurationError("has no samples: it ends before its data begins")
        name, length = head[:4], int.from_bytes(head[4:], "little")
        at += len(head)
        if name == b"data":
            break
        length += length % 2  # chunks begin at even places
        body = file.read(min(length, 40))  # as long as a 'fmt ' chunk gets
        rest = length - len(body)
        if size is None:
            file.read(rest)
        else:
            file.seek(rest, os.SEEK_CUR)
        at += length
        if name == b"fmt ":
            form = _read_format(body)
    if form is None:
        raise ConfigurationError("does not say what its samples are: it has no 'fmt ' chunk")
    # A program that died while it wrote left the lengths at 0, or as they were with no samples.
    unfinished = length == 0 and outer + 8 <= at
    if length >= _UNKNOWN_LENGTH or unfinished:
        return form, None
    if size is not None and at + length > size:
        raise ConfigurationError(
            f"is cut off: {form.duration(size - at):.2f} s of its {form.duration(length):.2f} s are there"
        )
    return form, length - length % form.frame_bytes


def _read_format(body: bytes) -> AudioFormat:
    """Read a 'fmt ' chunk.

    Raises:
        ConfigurationError: If it is not that of 16-bit PCM.
    """
    if len(body) < 16:  # noqa: PLR2004 - tag, channels, rate, two sizes, bits
        raise ConfigurationError("is damaged: its 'fmt ' chunk is too short")
    tag, channels = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:4], "little")
    rate, bits = int.from_bytes(body[4:8], "little"), int.from_bytes(body[14:16], "little")
    if tag == _EXTENSIBLE and len(body) >= 26:  # noqa: PLR2004 - the true tag begins a GUID at 24
        tag = int.from_bytes(body[24:26], "little")
    if tag != _PCM or bits != 8 * _WIDTH:
        kind = f"{bits}-bit PCM" if tag == _PCM else _TAGS.get(tag, f"format {tag:#06x}")
        raise ConfigurationError(f"has samples of {kind}; convert it to 16-bit PCM, such as with sox -b 16")
    try:
        return AudioFormat(rate, channels)
    except ConfigurationError as exc:
        raise ConfigurationError(f"is of a form that is not taken: {exc}") from exc
