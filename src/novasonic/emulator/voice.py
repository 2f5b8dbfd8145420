"""What the emulated model says, as sound: WAV files, `espeak-ng` where it is installed, and else a hum."""

import asyncio
import logging
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from novasonic import audio
from novasonic.emulator.hum import hum
from novasonic.emulator.scenario import Say
from novasonic.errors import ConfigurationError

logger = logging.getLogger("novasonic.emulator.voice")

SOUNDS: Final = Path(__file__).parent / "sounds"
"""The emulator's own sounds."""

_PATIENCE: Final = 5.0  # seconds for espeak-ng: after that it hums
_SILENT: Final = b"\0\0"


class Speaker:
    """Makes sounds in threads, and keeps the last ones: a `novasonic.emulator.mouth.Voice`.

    Args:
        folders: Where sounds are looked for, before the emulator's own.
        speaks: Whether `espeak-ng` is used where it is installed; otherwise what has no sound is hummed.
        most: How many bytes of sounds are kept. Twenty minutes, unless told otherwise: far more than all
            streams together are about to say.
    """

    def __init__(self, folders: Sequence[Path] = (), *, speaks: bool = True, most: int = 64 * 2**20) -> None:
        self._folders = [*folders, SOUNDS]
        self._speaks = speaks
        self._most = most
        self._made: dict[tuple[Say, int], bytes] = {}  # the one that was used last comes last
        self._making: dict[tuple[Say, int], asyncio.Task[None]] = {}

    def __call__(self, say: Say, sample_rate: int) -> bytes | None:
        """Return a sound, or None and begin to make it."""
        if say.sound is None and (not self._speaks or say.seconds is not None):
            return hum(say, sample_rate)
        key = (say, sample_rate)
        pcm = self._made.pop(key, None)
        if pcm is not None:
            self._made[key] = pcm
        elif key not in self._making:
            self._making[key] = asyncio.get_running_loop().create_task(
                self._make(key), name="novasonic-emulator-voice"
            )
        return pcm

    def find(self, sound: str) -> Path:
        """Return the file of a sound.

        Raises:
            ConfigurationError: If there is none.
        """
        for folder in self._folders:
            if (path := folder / sound).is_file():
                return path
        raise ConfigurationError(
            f"there is no sound {sound!r} in {', '.join(str(folder) for folder in self._folders)}"
        )

    def check(self, says: Sequence[Say]) -> None:
        """Look for the sounds that will be needed. Blocks, on files.

        Raises:
            ConfigurationError: If one is not there.
        """
        for say in says:
            if say.sound is not None:
                self.find(say.sound)

    @property
    def kept(self) -> int:
        """How many bytes of sounds are kept."""
        return sum(map(len, self._made.values()))

    @property
    def making(self) -> Sequence[asyncio.Task[None]]:
        """The sounds that are being made."""
        return list(self._making.values())

    async def aclose(self) -> None:
        """Stop making sounds."""
        tasks = self.making
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, key: tuple[Say, int]) -> None:
        try:
            self._made[key] = await asyncio.to_thread(self._render, *key)
            while self.kept > self._most and len(self._made) > 1:
                del self._made[next(iter(self._made))]
        finally:
            del self._making[key]

    def _render(self, say: Say, sample_rate: int) -> bytes:
        """Make a sound; whatever goes wrong, there is one. Blocks."""
        try:
            if say.sound is not None:
                pcm, source = audio.read_wav(self.find(say.sound))
            else:
                pcm, source = _speak(say.text)
            return _cut(_resampled(pcm, source, sample_rate), say, sample_rate)
        except FileNotFoundError as exc:
            logger.debug("humming: %s", exc)
            return hum(say, sample_rate)
        except (ConfigurationError, OSError, ValueError, subprocess.SubprocessError, struct.error) as exc:
            logger.warning("humming, as a sound could not be made: %s", exc)
            return hum(say, sample_rate)


def _speak(text: str) -> tuple[bytes, audio.AudioFormat]:
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("espeak-ng is not installed")
    done = subprocess.run(  # noqa: S603 - the program of that name, with text on its standard input
        [program, "-v", "en-us", "-s", "165", "--stdin", "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=_PATIENCE,
    )
    # It writes to a pipe, so the lengths in its header are made up: the samples go up to the end.
    wav = done.stdout
    (rate,) = struct.unpack_from("<I", wav, 24)
    pcm = wav[wav.index(b"data") + 8 :]
    return pcm[: len(pcm) // 2 * 2], audio.AudioFormat(rate)


def _resampled(pcm: bytes, source: audio.AudioFormat, sample_rate: int) -> bytes:
    chunker = audio.Chunker(sample_rate)
    made = chunker.feed(pcm, sample_rate=source.sample_rate, channels=source.channels)
    samples = len(pcm) // (2 * source.channels) * sample_rate // source.sample_rate
    return b"".join((*made, *chunker.flush()))[: samples * 2]  # the last chunk is filled up


def _cut(pcm: bytes, say: Say, sample_rate: int) -> bytes:
    """Make a sound as long as a scenario wants it."""
    if say.seconds is None:
        return pcm
    samples = round(say.seconds * sample_rate)
    return pcm[: samples * 2] + _SILENT * (samples - len(pcm) // 2)
