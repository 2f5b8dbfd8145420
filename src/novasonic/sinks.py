"""Where a player's speech goes when there is no device to ask for it: sockets, telephone lines, files.

A device takes what it needs when it needs it. Here a clock does: the event loop's.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Final, Self

from novasonic.audio import WavWriter
from novasonic.errors import ConfigurationError
from novasonic.playback import Player

__all__ = ["Frames", "heard_in"]

_SECONDS: Final = (0.005, 1.0)  # of a frame; a longer one would play on after an interruption
_BLOCK: Final = 0.1  # seconds that are written into a file at once


class Frames:
    """What a player plays, frame after frame, each when its time has come. It never ends.

    For whoever passes speech on and must not be far ahead of what is heard, such as to a browser or a
    telephone. What was not handed out yet can still be dropped, and the player knows what was.

        async for pcm in Frames(player):
            await websocket.send(pcm)

    Args:
        player: What is to be read. Nobody else may read it meanwhile.
        seconds: Of a frame.
        silence: Whether frames without any speech are handed out, too, as a telephone line wants them.

    Raises:
        ConfigurationError: If `seconds` is out of its range.
    """

    def __init__(self, player: Player, seconds: float = 0.02, *, silence: bool = False) -> None:
        low, high = _SECONDS
        if not low <= seconds <= high:
            raise ConfigurationError(f"seconds is {seconds!r}, but must be {low:g} to {high:g}")
        self._player = player
        self._samples = round(seconds * player.sample_rate)
        self._seconds = self._samples / player.sample_rate
        self._silence = silence
        self._due: float | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next frame: 16-bit little-endian mono. Cancelling is safe: nothing is lost."""
        loop = asyncio.get_running_loop()
        if self._due is None:
            self._due = loop.time()
        while True:
            await asyncio.sleep(max(0.0, self._due - loop.time()))
            self._due += self._seconds  # no drift: a frame that is late shortens the wait for the next
            speech = self._player.playing
            pcm = self._player.read(self._samples)
            if speech or self._silence:
                return pcm


@contextlib.asynccontextmanager
async def heard_in(path: str | os.PathLike[str], player: Player) -> AsyncGenerator[None]:
    """Within `async with`, write what a player plays into a WAV file, at the speed of playing.

    So a program without a loudspeaker knows what would have been heard: with its pauses, and cut where the
    user broke in.

    Args:
        path: The file; one that is there is overwritten.
        player: What is to be read. Nobody else may read it meanwhile.

    Raises:
        ConfigurationError: If the file cannot be created.
        OSError: If it cannot be written.
    """
    file = await asyncio.to_thread(WavWriter, path, player.sample_rate)
    ended = asyncio.Event()

    async def write() -> None:
        try:
            async for pcm in Frames(player, _BLOCK, silence=True):
                if ended.is_set():
                    return
                await asyncio.to_thread(file.write, pcm)
        finally:
            await asyncio.to_thread(file.close)

    writing = asyncio.create_task(write(), name="novasonic-file-sink")
    try:
        yield
    finally:
        ended.set()
        await asyncio.wait({writing})
    await writing
