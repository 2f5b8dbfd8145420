"""Audio of any form: cutting it into frames, resampling it, G.711, files. No I/O but files, no devices.

Everything the service hears and says is 16-bit little-endian PCM, mono. A program may have anything else:
other rates, stereo, floats, a telephone's bytes, buffers of any length. `Chunker` stands between the two.

numpy and soxr are imported by whoever needs them, at the first sound that is not already right: bytes at
the right rate pass without them.
"""

import importlib
from collections.abc import Buffer
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from novasonic.errors import ConfigurationError
from novasonic.files import open_audio
from novasonic.samples import (
    CHANNELS,
    WIDTH,
    AudioFormat,
    Encoding,
    as_array,
    kept,
    level,
    levels_of_array,
    levels_of_bytes,
    mix,
    pcm_of,
    peak,
    whole_number,
)
from novasonic.wav import WavReader, WavWriter, read_wav, write_wav

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from novasonic.samples import Levels

__all__ = [
    "AudioFormat",
    "Chunker",
    "Encoding",
    "Resampler",
    "WavReader",
    "WavWriter",
    "kept",
    "level",
    "load",
    "open_audio",
    "peak",
    "read_wav",
    "silence",
    "write_wav",
]

_CHUNK_SAMPLES: Final = (1, 4096)
"""The longest is a quarter of a second at 16 kHz; longer ones only make the service hear later."""


def load() -> None:
    """Import what converting audio needs, which takes a fifth of a second: in a thread, and beforehand."""
    importlib.import_module("soxr")


def silence(samples: int) -> bytes:
    """Return `samples` samples of silence: 16-bit, one channel."""
    return bytes(WIDTH * samples)


class Chunker:
    """Turns audio of any form, in pieces of any length, into frames of one length.

    What goes in may be bytes (16-bit little-endian PCM, or G.711 with `encoding`; channels interleaved), an
    array of int16, int32, float32 or float64, or whatever lends its memory as one of these. Floats lie
    between -1 and 1; what is a little beyond is clipped. Arrays have the shape (samples,), (samples,
    channels) or (channels, samples); see `feed` for how they are told apart. Channels are mixed into one by
    their mean.
    What comes out are frames of `chunk_samples` samples: 16-bit little-endian PCM, mono, at `sample_rate`.

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
        self._frame = WIDTH * whole_number("chunk_samples", chunk_samples, _CHUNK_SAMPLES)
        self._source = self._target  # the form of the piece before
        self._split = b""  # the beginning of a sample whose end has not come yet, in that form
        self._planes = 0  # channels of the array before, if it was (channels, samples)
        self._resampler: _Stream | None = None  # from that rate, where it is another
        self._ready = bytearray()  # less than a frame, as it will go out

    def feed(
        self,
        audio: Buffer,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        encoding: Encoding = "pcm16",
    ) -> list[bytes]:
        """Take a piece of audio, and return the frames that it completes, which may be none.

        An array of two dimensions knows its channels for itself, even if it was declared mono. Its first axis
        is the channels only where the second is longer than 32, or where `channels` or the piece before says
        so: a short last piece is understood as those before it.

        Args:
            audio: Bytes or an array, of any length.
            sample_rate: Its rate in Hz, 8,000 to 192,000; by default the rate of what comes out.
            channels: How many are interleaved in bytes, or in an array of one dimension.
            encoding: What bytes, or an array of them, mean: "pcm16", or "mulaw" or "alaw" for a telephone's.

        Raises:
            ConfigurationError: If it cannot be audio: of another type, shape or rate, or with samples that
                are not numbers (NaN, infinity). Nothing of it was taken, and nothing from before is lost.
        """
        source = self._target
        if channels != 1 or encoding != "pcm16" or sample_rate not in {None, source.sample_rate}:
            rate = source.sample_rate if sample_rate is None else sample_rate
            source = AudioFormat(rate, channels, encoding)
        samples = as_array(audio)
        if samples is not None:
            source, samples, planes = _interleaved(samples, source, self._planes)
            mono = mix(levels_of_array(samples, encoding), source.channels)
            self._planes = planes
            return self._change_to(source) + self._push(mono)
        # A copy, as the caller may fill the same buffer again.
        data = self._split + bytes(audio) if source == self._source else bytes(audio)
        whole = len(data) - len(data) % source.frame_bytes
        frames = self._change_to(source)
        if source == self._target:
            self._ready += data[:whole]
            frames += self._cut()
        else:
            frames += self._push(mix(levels_of_bytes(data[:whole], encoding), source.channels))
        self._split = data[whole:]
        return frames

    def flush(self) -> list[bytes]:
        """Return all that is left, the last frame filled up with silence; then be as new.

        For the end of an utterance or of a source: a resampler holds back some 20 ms, and up to a frame
        may be waiting to be filled. Half a sample at the very end is dropped.
        """
        frames = self._change_to(self._target)
        self._split, self._planes = b"", 0
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
                self._ready += pcm_of(_rest(self._resampler))
                tail = self._cut()
            self._resampler = None
            if source.sample_rate != self._target.sample_rate:
                self._resampler = _stream(source.sample_rate, self._target.sample_rate)
        self._source = source
        return tail

    def _push(self, mono: "Levels") -> list[bytes]:
        """Take samples of one channel, at the rate of the source."""
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono.astype("float32"))
        self._ready += pcm_of(mono)
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


def _interleaved(
    samples: "NDArray[Any]", declared: AudioFormat, planes: int
) -> "tuple[AudioFormat, NDArray[Any], int]":
    """Return the form of an array, its samples one after the other, and its channels if they were apart.

    Raises:
        ConfigurationError: If its shape is not that of audio.
    """
    channels, most = declared.channels, CHANNELS[1]
    if samples.ndim == 1:
        if len(samples) % channels:
            raise ConfigurationError(
                f"audio has {len(samples)} samples, which cannot be {channels} channels of equal length"
            )
        return declared, samples, 0
    if samples.ndim != 2 or min(samples.shape) > most:  # noqa: PLR2004 - samples and channels
        raise ConfigurationError(
            f"audio has the shape {samples.shape}, but must have (samples,), (samples, channels) or "
            f"(channels, samples), and at most {most} channels"
        )
    first, second = samples.shape
    as_before = first > 0 and first == planes and channels in {1, first}
    apart = second > most or as_before or (first == channels and channels not in {1, second})
    if apart:
        samples = samples.T
    own = samples.shape[1]
    if own == 0 or channels not in {1, own}:
        raise ConfigurationError(
            f"audio has the shape {(first, second)}, which is {own} channels, but channels is {channels}"
        )
    return replace(declared, channels=own), samples, own if apart else 0


class Resampler:
    """Brings a stream of 16-bit mono PCM from one rate to another, piece by piece.

    It holds back some 20 ms, until more has come or `flush` ends the stream. One thread at a time may use it.

    Args:
        source_rate: Of what goes in, in Hz.
        target_rate: Of what comes out, in Hz.

    Attributes:
        source_rate: Of what goes in, in Hz.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self.source_rate = AudioFormat(source_rate).sample_rate
        self._stream = _stream(source_rate, AudioFormat(target_rate).sample_rate)

    def feed(self, pcm: Buffer) -> bytes:
        """Take a piece of whole samples, and return what it completes."""
        return pcm_of(self._stream.resample_chunk(levels_of_bytes(bytes(pcm))))

    def flush(self) -> bytes:
        """Return what was held back. Nothing can be fed any more."""
        return pcm_of(_rest(self._stream))


class _Stream(Protocol):
    """What is used of `soxr.ResampleStream`, which has no types of its own."""

    def resample_chunk(self, x: "Levels", last: bool = False) -> "Levels": ...


def _stream(source_rate: int, target_rate: int) -> _Stream:
    import soxr  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs] - heavy, and often not needed

    # HQ keeps 20 bits. From 48 to 16 kHz it holds back 21 ms; the next lower quality would, 15.
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")
    return cast("_Stream", stream)


def _rest(stream: _Stream) -> "Levels":
    import numpy as np  # noqa: PLC0415 - heavy; a resampler is there, so it is loaded

    return stream.resample_chunk(np.empty(0, np.float32), last=True)
