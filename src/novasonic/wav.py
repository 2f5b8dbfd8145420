"""WAV files, read and written piece by piece: what the world's programs write into them, as 16-bit PCM.

A file is read in constant memory, and is valid at every moment while it is written.
"""

import os
import stat
import struct
from collections.abc import Buffer, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from novasonic import g711
from novasonic.errors import ConfigurationError
from novasonic.samples import ENCODINGS, WIDTH, AudioFormat, levels_of_array, pcm_of

__all__ = ["WavReader", "WavWriter", "read_wav", "write_wav"]

# The format tags of WAV files (RFC 2361, Microsoft's mmreg.h) that people have lying about.
_EXTENSIBLE: Final = 0xFFFE
_TAGS: Final = {
    1: "PCM",
    2: "ADPCM",
    3: "floating point",
    6: "A-law",
    7: "mu-law",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x55: "MP3",
}

_UNSIGNED: Final = "unsigned"
_WIDE: Final = "24-bit"

# What is read: by the kind of the samples and their width in bits, the type that numpy has for them. It has
# none of 24 bits; and WAV's 8 bits count from 0 to 255.
_READ: Final = {
    ("PCM", 8): _UNSIGNED,
    ("PCM", 16): "<i2",
    ("PCM", 24): _WIDE,
    ("PCM", 32): "<i4",
    ("floating point", 32): "<f4",
    ("floating point", 64): "<f8",
    ("mu-law", 8): "mulaw",
    ("A-law", 8): "alaw",
}

# How other files begin that are taken for a WAV.
_MAGIC: Final = {
    b"ID3": "an MP3 file",
    b"\xff\xfa": "an MP3 file",
    b"\xff\xfb": "an MP3 file",
    b"\xff\xf2": "an MP3 file",
    b"\xff\xf3": "an MP3 file",
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
_LONGEST: Final = 0xFFFF_FFFF  # the greatest length that can be written, and so the one for "to the end"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the samples lie in a file."""

    sample_rate: int
    channels: int
    kind: str  # one of the values of _READ
    width: int  # bytes of a sample

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.width

    def duration(self, size: int) -> float:
        return size / self.frame_bytes / self.sample_rate

    def pcm(self, data: bytes) -> bytes:
        """Return samples as 16-bit PCM.

        Raises:
            ConfigurationError: If one is no number.
        """
        if self.kind == "<i2":
            return data
        if self.kind in ENCODINGS:
            return g711.decode(data, cast("g711.Law", self.kind))
        import numpy as np  # noqa: PLC0415 - heavy, and not needed for 16 bits

        if self.kind == _UNSIGNED:
            return ((np.frombuffer(data, np.uint8).astype("<i2") - 128) * 256).tobytes()
        if self.kind == _WIDE:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)  # the loudest bytes of four
            return pcm_of(levels_of_array(wide.view("<i4").ravel()))
        return pcm_of(levels_of_array(np.frombuffer(data, self.kind)))


class WavReader:
    """A WAV file, read piece by piece as 16-bit PCM. Opens it at once; `with` closes it.

    It reads PCM of 8, 16, 24 and 32 bits, floats of 32 and 64, and G.711, of any rate from 8,000 to 192,000
    Hz and of up to 32 channels. Where a program that wrote into a pipe left the length open, it reads to the
    end of the file.

    Args:
        path: The file.

    Attributes:
        format: The rate and the channels of what is read.
        duration: Seconds; None where the length was left open.

    Raises:
        ConfigurationError: If there is no such file, if it is no WAV file or of another kind, or if it is
            shorter than it says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = open_file(self._path, "rb")
        try:
            self._layout, self._left = _read_header(self._file)
        except ConfigurationError as exc:
            self._file.close()
            raise ConfigurationError(f"{self._path} {exc}") from exc
        except OSError as exc:
            self._file.close()
            raise ConfigurationError(f"{self._path} cannot be read: {exc.strerror}") from exc
        self.format = AudioFormat(self._layout.sample_rate, self._layout.channels)
        self.duration = None if self._left is None else self._layout.duration(self._left)

    def read(self, samples: int) -> bytes:
        """Return the next samples of all channels as 16-bit PCM, at most so many; empty at the end.

        Raises:
            ConfigurationError: If the file has become shorter since it was opened, or holds samples that are
                not numbers.
        """
        size = samples * self._layout.frame_bytes
        size = size if self._left is None else min(size, self._left)
        data = self._file.read(size)
        if self._left is None:
            data = data[: len(data) - len(data) % self._layout.frame_bytes]
        elif len(data) < size:
            raise ConfigurationError(f"{self._path} has become shorter while it was read")
        else:
            self._left -= size
        try:
            return self._layout.pcm(data)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{self._path} cannot be read: {exc}") from exc

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

    It is a valid file at every moment: the length is put right after each piece. So a program that dies
    leaves all that it wrote. Into a pipe, where nothing can be put right, the length is left open.

    Args:
        path: The file; one that is there is overwritten.
        sample_rate: In Hz.
        channels: How many are interleaved.

    Raises:
        ConfigurationError: If the file cannot be created, or a number is out of its range.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int = 24_000, channels: int = 1) -> None:
        self.format = AudioFormat(sample_rate, channels)
        self._file = open_file(Path(path), "wb")
        self._size = 0
        self._seekable = self._file.seekable()
        self._file.write(_header(self.format, 0 if self._seekable else _LONGEST))
        self._file.flush()

    def write(self, pcm: Buffer) -> None:
        """Append samples: 16-bit little-endian PCM.

        Raises:
            ConfigurationError: If it ends within a sample.
            OSError: If it cannot be written, such as to a full disk.
        """
        with memoryview(pcm) as view:
            if view.nbytes % self.format.frame_bytes:
                raise ConfigurationError(
                    f"pcm has {view.nbytes} bytes, which is not a multiple of {self.format.frame_bytes}"
                )
            self._file.write(view)
            self._size += view.nbytes
        if self._seekable:
            # Seeking writes the samples first: the header never promises what is not there.
            self._file.seek(0)
            self._file.write(_header(self.format, self._size))
            self._file.seek(0, os.SEEK_END)
        self._file.flush()

    def close(self) -> None:
        """Close the file. Twice is fine."""
        self._file.close()

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


def open_file(path: Path, mode: str) -> BinaryIO:
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


def kind_of(head: bytes) -> str | None:
    """Return what a file that begins like this is, with its article; None for nothing that is known.

    A WAV file is "a RIFF file, but of another kind" by its first bytes; look for WAVE at the eighth.
    """
    if head[4:8] == b"ftyp":
        return "an MP4 file"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _header(form: AudioFormat, size: int) -> bytes:
    """The 44 bytes before so many bytes of samples."""
    size = min(size, _LONGEST)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        min(size + 36, _LONGEST),  # all that follows
        b"WAVE",
        b"fmt ",
        16,
        1,
        form.channels,
        form.sample_rate,
        form.bytes_per_second,
        form.frame_bytes,
        8 * WIDTH,
        b"data",
        size,
    )


def _read_header(file: BinaryIO) -> tuple[_Layout, int | None]:
    """Read up to the samples; return their layout, and their length in bytes where it is known.

    Raises:
        ConfigurationError: If this is no WAV file that can be read, or not all of it; a sentence whose
            subject, the file, is for the caller to put before it.
    """
    info = os.fstat(file.fileno())
    size = info.st_size if stat.S_ISREG(info.st_mode) else None  # a pipe has none
    head = file.read(12)
    if not head:
        raise ConfigurationError("is empty")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        kind = kind_of(head) or "not a WAV file"
        raise ConfigurationError(f"is {kind}; convert it to a WAV file, such as with ffmpeg or sox")
    outer = int.from_bytes(head[4:8], "little")
    at = len(head)
    layout: _Layout | None = None
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
            layout = _read_format(body)
    if layout is None:
        raise ConfigurationError("does not say what its samples are: it has no 'fmt ' chunk")
    if length >= _UNKNOWN_LENGTH or (length == 0 and _is_unfinished(file, at, outer, size)):
        return layout, None
    if size is not None and at + length > size:
        raise ConfigurationError(
            f"is cut off: {layout.duration(size - at):.2f} s of its {layout.duration(length):.2f} s are there"
        )
    return layout, length - length % layout.frame_bytes


def _is_unfinished(file: BinaryIO, at: int, outer: int, size: int | None) -> bool:
    """Whether samples follow where the length says that there are none.

    A program that died while it wrote left the lengths at 0, or as they were with no samples; one that wrote
    into a pipe may have put 0 for a length that it did not know. Else, other chunks may follow.
    """
    if size is None or outer + 8 <= at or outer >= _UNKNOWN_LENGTH:
        return True
    start = at
    while at < size:
        file.seek(at)
        head = file.read(8)
        if not head[:4].isascii() or not head[:4].decode("ascii").isprintable():
            break
        length = int.from_bytes(head[4:], "little")
        at += len(head) + length + length % 2
    file.seek(start)
    return at not in {size, size + 1}  # chunks would fill the rest of the file


def _read_format(body: bytes) -> _Layout:
    """Read a 'fmt ' chunk.

    Raises:
        ConfigurationError: If it is not that of samples that can be read.
    """
    if len(body) < 16:  # noqa: PLR2004 - tag, channels, rate, two sizes, bits
        raise ConfigurationError("is damaged: its 'fmt ' chunk is too short")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:  # noqa: PLR2004 - the true tag begins a GUID at 24
        tag = int.from_bytes(body[24:26], "little")
    kind = _TAGS.get(tag, f"format {tag:#06x}")
    # Samples of an odd number of bits fill whole bytes, the highest bits first.
    width = (bits + 7) // 8
    read_as = _READ.get((kind, 8 * width))
    if read_as is None:
        raise ConfigurationError(
            f"has samples of {bits}-bit {kind}, which is not read; convert it, such as with sox -b 16"
        )
    try:
        AudioFormat(rate, channels)
    except ConfigurationError as exc:
        raise ConfigurationError(f"is of a form that is not taken: {exc}") from exc
    if block != channels * width:
        raise ConfigurationError(
            f"is damaged: its 'fmt ' chunk has {block} bytes for {channels} channels of {bits} bits"
        )
    return _Layout(sample_rate=rate, channels=channels, kind=read_as, width=width)
