"""Recordings of any kind, opened for reading: WAV by itself, other containers through soundfile."""

import os
from pathlib import Path
from typing import Any, Final, Protocol

from novasonic.errors import ConfigurationError
from novasonic.samples import AudioFormat, levels_of_array, pcm_of
from novasonic.wav import WavReader, kind_of

__all__ = ["SUFFIXES", "AudioReader", "SoundFileReader", "open_audio"]

SUFFIXES: Final = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
"""How the names of files end that are taken for recordings, where a text might be meant as well."""

# What libsndfile reads, of what can be told by the first bytes; by others, such as MP4, it is defeated.
_READ: Final = frozenset(
    (
        "an MP3 file",
        "an Ogg file",
        "a FLAC file",
        "an AIFF file",
        "a 64-bit WAV file",
        "a big-endian WAV file",
    )
)


class AudioReader(Protocol):
    """A recording that is read piece by piece, as 16-bit PCM with its channels interleaved."""

    @property
    def format(self) -> AudioFormat:
        """The rate and the channels of what is read."""
        ...

    @property
    def duration(self) -> float | None:
        """Seconds; None where the file does not tell."""
        ...

    def read(self, samples: int) -> bytes:
        """Return the next samples of all channels, at most so many; empty at the end."""
        ...

    def close(self) -> None:
        """Close the file. Twice is fine."""
        ...


def open_audio(path: str | os.PathLike[str]) -> AudioReader:
    """Open a recording: a WAV file; or FLAC, Ogg, MP3 or AIFF, if `novasonic[files]` is installed.

    What it is, is told by what is in it; its name does not matter.

    Raises:
        ConfigurationError: If there is no such file, or it cannot be read; it says what it is.
    """
    path = Path(path)
    kind = None
    if path.is_file():  # from a pipe, nothing can be read twice
        try:
            with path.open("rb") as file:
                kind = kind_of(file.read(12))
        except OSError:
            pass  # WavReader meets the same, and says it in words
    return SoundFileReader(path) if kind in _READ else WavReader(path)


class SoundFileReader:
    """A recording in whatever container libsndfile reads, as `WavReader` is for WAV.

    Args:
        path: The file.

    Attributes:
        format: The rate and the channels of what is read.
        duration: Seconds.

    Raises:
        ConfigurationError: If the soundfile package is not installed, or it cannot read the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            import soundfile  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs] - an extra
        except (ImportError, OSError) as exc:  # OSError: it is there, but its library is not
            raise ConfigurationError(
                f"{self._path} is no WAV file, and reading others needs soundfile: "
                "pip install 'novasonic[files]'; or convert it to a WAV file"
            ) from exc
        self._soundfile: Any = soundfile
        try:
            self._file: Any = soundfile.SoundFile(self._path)
        except (soundfile.SoundFileError, OSError) as exc:
            raise ConfigurationError(f"{self._path} cannot be read: {exc}") from exc
        try:
            self.format = AudioFormat(self._file.samplerate, self._file.channels)
        except ConfigurationError as exc:
            self._file.close()
            raise ConfigurationError(f"{self._path} is of a form that is not taken: {exc}") from exc
        self.duration: float | None = self._file.frames / self.format.sample_rate

    def read(self, samples: int) -> bytes:
        """Return the next samples of all channels as 16-bit PCM, at most so many; empty at the end.

        Raises:
            ConfigurationError: If the file is damaged there.
        """
        try:
            # As floats: what a decoder overshoots is wrapped around where libsndfile makes integers of it.
            return pcm_of(levels_of_array(self._file.read(samples, dtype="float32")))
        except (self._soundfile.SoundFileError, OSError, ConfigurationError) as exc:
            raise ConfigurationError(f"{self._path} cannot be read: {exc}") from exc

    def close(self) -> None:
        """Close the file. Twice is fine."""
        self._file.close()
