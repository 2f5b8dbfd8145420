"""The user's voice on its way to the service: audio of any form in, frames out, and silence in between."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Buffer, Iterable
from typing import Final, TypedDict, Unpack

from novasonic.audio import Chunker, Encoding, open_audio
from novasonic.outgoing import Outgoing

# Sound cards, browsers and networks deliver late by some tens of milliseconds. Only a longer gap, in seconds,
# is a pause; the session then fills all of it, so that the service hears no gap.
_PATIENCE: Final = 0.1

# Whoever sends more audio at once than this, in seconds, sends a recording and no live speech: silence must
# not wait until all of it would have been spoken.
_AHEAD: Final = 1.0

_FILE_BLOCK: Final = 1.0  # seconds that are read from a file at once


class Form(TypedDict):
    """What a program says of the audio that it gives; `Chunker.feed` explains it."""

    sample_rate: int | None
    channels: int
    encoding: Encoding


class Speech:
    """Takes the user's voice in, whatever form it has.

    Args:
        voice: Where it goes.
        sample_rate: Of the frames, in Hz.
        chunk_samples: Samples of a frame.

    Attributes:
        sent: Seconds of audio that the program gave.
        silence: Seconds of silence that were added.
        dropped: Seconds of audio that there was no room for.
    """

    def __init__(self, voice: Outgoing, *, sample_rate: int, chunk_samples: int) -> None:
        self.sent = 0.0
        self.silence = 0.0
        self.dropped = 0.0
        self._voice = voice
        self._sample_rate = sample_rate
        self._chunk_samples = chunk_samples
        self._loop = asyncio.get_running_loop()
        self._chunker = self._new_chunker()  # for what comes in pieces from nobody in particular
        self._until = self._loop.time()  # until when the service has audio
        self._silent = False  # whether the latest audio was added silence
        self._recordings = 0  # that are being played

    async def send(self, data: Buffer, **form: Unpack[Form]) -> None:
        """Send a piece of audio as it comes; wait while the service is slow."""
        await self._put(self._chunker.feed(data, **form))

    def send_over(self, data: Buffer, **form: Unpack[Form]) -> None:
        """Send a piece of audio without waiting; the oldest makes room for it."""
        self._put_over(self._chunker.feed(data, **form))

    async def relay(self, source: AsyncIterable[Buffer], **form: Unpack[Form]) -> None:
        """Send whatever `source` yields, as it comes."""
        chunker = self._new_chunker()
        async for piece in source:
            await self._put(chunker.feed(piece, **form))
        await self._put(chunker.flush())

    async def play(self, data: Buffer) -> None:
        """Send audio at the right rate, at speaking speed."""
        chunker = self._new_chunker()
        async with self._playing() as pace:
            await self._put([*chunker.feed(data), *chunker.flush()], pace)

    async def play_file(self, path: str | os.PathLike[str]) -> None:
        """Send a recording, at speaking speed."""
        file = await asyncio.to_thread(open_audio, path)
        chunker, form = self._new_chunker(), file.format
        try:
            async with self._playing() as pace:
                while piece := await asyncio.to_thread(file.read, round(_FILE_BLOCK * form.sample_rate)):
                    frames = chunker.feed(piece, sample_rate=form.sample_rate, channels=form.channels)
                    await self._put(frames, pace)
                await self._put(chunker.flush(), pace)
        finally:
            file.close()

    @contextlib.asynccontextmanager
    async def _playing(self) -> AsyncGenerator["_Pace"]:
        """While a recording is sent no silence is added: a disk that is slow for once must tear no word."""
        self._recordings += 1
        try:
            yield _Pace(self._loop)
        finally:
            self._recordings -= 1

    async def keep_silence(self) -> None:
        """Send silence at speaking speed while nobody else sends anything. Never returns."""
        silence = [bytes(2 * self._chunk_samples)]
        seconds = self._chunk_samples / self._sample_rate
        while True:
            if self._voice.adrift:  # silence is to fill the time of a stream, and there is none
                self._until = self._loop.time()
                await asyncio.sleep(_PATIENCE)
                continue
            due = self._until + (0.0 if self._silent else _PATIENCE)
            wait = due - self._loop.time()
            if self._recordings or wait > 0:
                await asyncio.sleep(max(wait, _PATIENCE) if self._recordings else wait)
                continue
            self._silent = True
            rest = self._chunker.flush()  # the end of what was said, less than a frame
            for frame in rest or silence:
                await self._voice.put(frame)
                self._until += seconds
            if rest:
                self.sent += seconds * len(rest)
            else:
                self.silence += seconds

    def finish(self) -> None:
        """Send what is left of the last piece."""
        self._put_over(self._chunker.flush())

    def _new_chunker(self) -> Chunker:
        return Chunker(self._sample_rate, self._chunk_samples)

    async def _put(self, frames: Iterable[bytes], pace: "_Pace | None" = None) -> None:
        for frame in frames:
            await self._voice.put(frame)
            seconds = self._count(frame)
            if pace is not None:
                await pace.after(seconds)

    def _put_over(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self.dropped += self._voice.put_over(frame) / 2 / self._sample_rate
            self._count(frame)

    def _count(self, frame: bytes) -> float:
        seconds, now = len(frame) / 2 / self._sample_rate, self._loop.time()
        self._until = min(max(self._until, now) + seconds, now + _AHEAD)
        self._silent = False
        self.sent += seconds
        return seconds


class _Pace:
    """Keeps to speaking speed without drifting."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = loop.time()

    async def after(self, seconds: float) -> None:
        """Wait until so many seconds after the last time."""
        self._due += seconds
        await asyncio.sleep(max(0.0, self._due - self._loop.time()))
