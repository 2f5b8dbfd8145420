"""A conversation as a stereo recording: the user on the left, the assistant on the right, as they were heard.

`Timeline` lays both voices out in time and knows nothing of files and clocks; `Recorder` gives it the time,
and writes what is settled, in a thread, while the conversation goes on.
"""

import asyncio
import contextlib
import logging
import os
from collections import deque
from pathlib import Path
from typing import Final

from novasonic.audio import Resampler, WavWriter
from novasonic.events import AudioChunk, Event, Interrupted
from novasonic.playback import Player

__all__ = ["Recorder", "Timeline"]

logger = logging.getLogger("novasonic.recorder")

_WIDTH: Final = 2
"""Bytes of a sample."""

# Pieces that follow one another come late by some tens of milliseconds, and what was late is made up for by
# those that come sooner. Only a longer gap, in seconds, is silence: longer than what the session waits for
# before it fills a gap with silence of its own.
_LATE: Final = 0.15

# What is this old, in seconds, is settled: no piece that comes now belongs there, no interruption cuts it.
_SETTLED: Final = 0.5

# So many seconds may wait to be written, such as for a disk that is asleep, or because a program sends a
# recording faster than it is spoken. What comes then is left out: memory is for the living.
_MOST_WAITING: Final = 120.0

_PERIOD: Final = 0.25  # seconds between two writes
_MOST_READS: Final = 10_000  # of a player that may wait: minutes, at 20 ms each


class Timeline:
    """Two voices, laid out in time. Times are in seconds, of any clock; the recording begins at `start`.

    The user's voice goes on from piece to piece, in the order of sending. The assistant's is played from the
    moment that its first piece comes, one response after the other, and cut where the user breaks in; or it
    is what a player has read, when there is one.

    Args:
        sample_rate: Of the recording, in Hz.
        start: When it begins.

    Attributes:
        sample_rate: Of the recording, in Hz.
        missing: Seconds of sound that were left out, as too much waited to be taken.
    """

    def __init__(self, sample_rate: int = 24_000, *, start: float) -> None:
        self.sample_rate = sample_rate
        self.missing = 0.0
        self._start = start
        self._taken = 0
        self._user = _Voice(sample_rate)
        self._assistant = _Voice(sample_rate)
        self._paused = True  # whether the player has read nothing but silence

    def user(self, pcm: bytes, sample_rate: int, now: float) -> None:
        """The user has said this much more."""
        at = self._at(now)
        late = at - self._user.end > _LATE * self.sample_rate
        self._add(self._user, pcm, sample_rate, at if late else self._user.end)

    def assistant(self, chunk: AudioChunk, now: float) -> None:
        """A piece of speech came, and is played at once, or after what is still playing."""
        self._add(self._assistant, chunk.pcm, chunk.sample_rate, max(self._at(now), self._assistant.end))

    def interrupted(self, now: float) -> None:
        """The user broke in: what has not been played by now will never be."""
        self._assistant.cut(self._at(now))

    def played(self, pcm: bytes, sample_rate: int, now: float, *, silent: bool) -> None:
        """A player read this much; nothing but silence, if `silent`."""
        if silent:
            self._paused = True
            return
        at, end = self._at(now), self._assistant.end
        late = self._paused or at - end > _LATE * self.sample_rate
        self._paused = False
        self._add(self._assistant, pcm, sample_rate, max(at, end) if late else end)

    def take(self, now: float) -> bytes:
        """Return what is settled and was not taken yet: 16-bit PCM, two channels interleaved."""
        return self._take(self._at(now - _SETTLED))

    def finish(self, now: float) -> bytes:
        """Return all the rest: up to now, or to the end of what is still being played."""
        return self._take(max(self._at(now), self._user.end, self._assistant.end))

    def _at(self, now: float) -> int:
        return round((now - self._start) * self.sample_rate)

    def _add(self, voice: "_Voice", pcm: bytes, sample_rate: int, at: int) -> None:
        if at - self._taken > _MOST_WAITING * self.sample_rate:
            self.missing += len(pcm) / _WIDTH / sample_rate
        else:
            voice.add(pcm, sample_rate, at)

    def _take(self, end: int) -> bytes:
        if end <= self._taken:
            return b""
        import numpy as np  # noqa: PLC0415 - heavy; a session has loaded it

        samples = np.empty((end - self._taken, 2), "<i2")
        for channel, voice in enumerate((self._user, self._assistant)):
            samples[:, channel] = np.frombuffer(voice.take(self._taken, end), "<i2")
        self._taken = end
        return samples.tobytes()


class _Voice:
    """One voice: pieces of sound, in order, with silence between them.

    Attributes:
        end: Where the last one ends, in samples from the beginning.
    """

    def __init__(self, sample_rate: int) -> None:
        self.end = 0
        self._sample_rate = sample_rate
        self._pieces = deque[tuple[int, bytes]]()  # from where on
        self._next = 0  # where the next sample goes: `end`, less what the resampler holds back
        self._resampler: Resampler | None = None
        self._fraction = 0.0  # of a sample, by which what came is longer than `end` says

    def add(self, pcm: bytes, sample_rate: int, at: int) -> None:
        """Append a piece; `at` is not before the end."""
        if at > self.end or (self._resampler and self._resampler.source_rate != sample_rate):
            self._flush()
            self.end = self._next = at
        if sample_rate == self._sample_rate:
            self._flush()
            self._put(pcm)
        else:
            if self._resampler is None:
                self._resampler = Resampler(sample_rate, self._sample_rate)
            self._put(self._resampler.feed(pcm))
        length = len(pcm) / _WIDTH * self._sample_rate / sample_rate + self._fraction
        self.end += int(length)
        self._fraction = length - int(length)

    def cut(self, at: int) -> None:
        """Drop what lies beyond `at`."""
        if at >= self.end:
            return
        self._resampler = None
        while self._pieces and self._pieces[-1][0] >= at:
            self._pieces.pop()
        if self._pieces:
            start, pcm = self._pieces[-1]
            self._pieces[-1] = (start, pcm[: _WIDTH * (at - start)])
        self.end = self._next = at
        self._fraction = 0.0

    def take(self, start: int, end: int) -> bytes:
        """Take out what lies between two places, with silence where there is nothing."""
        if self._next < min(end, self.end):
            self._flush()
        out = bytearray(_WIDTH * (end - start))
        while self._pieces and self._pieces[0][0] < end:
            at, pcm = self._pieces.popleft()
            begin = _WIDTH * max(0, at - start)
            part = pcm[: len(out) - begin]
            out[begin : begin + len(part)] = part
            if len(part) < len(pcm):
                self._pieces.appendleft((end, pcm[len(part) :]))
                break
        if self.end < end:
            self.end = self._next = end
        return bytes(out)

    def _flush(self) -> None:
        if self._resampler is not None:
            rest, self._resampler = self._resampler.flush(), None
            self._put(rest)

    def _put(self, pcm: bytes) -> None:
        if pcm:
            self._pieces.append((self._next, pcm))
            self._next += len(pcm) // _WIDTH


class Recorder:
    """Writes a conversation into a WAV file while it goes on. What fails is logged, and ends no conversation.

    The file is valid at every moment. A thread waits for the disk; how much waits for the thread is bounded.

    Args:
        path: The file; one that is there is overwritten.
        sample_rate: Of the recording, in Hz.
    """

    def __init__(self, path: str | os.PathLike[str], *, sample_rate: int = 24_000) -> None:
        self._path = Path(path)
        self._sample_rate = sample_rate
        self._loop = asyncio.get_running_loop()
        self._timeline = Timeline(sample_rate, start=self._loop.time())
        self._file: WavWriter | None = None
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._player: Player | None = None
        # What the player's thread has read, and when; emptied at every write.
        self._reads = deque[tuple[float, bytes, bool]](maxlen=_MOST_READS)

    async def open(self) -> None:
        """Create the file.

        Raises:
            ConfigurationError: If it cannot be created.
        """
        creating = asyncio.create_task(asyncio.to_thread(WavWriter, self._path, self._sample_rate, 2))
        try:
            self._file = await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._file = await creating  # or nobody would close it
            raise

    def start(self) -> None:
        """Begin: the recording's time is counted from now."""
        self._timeline = Timeline(self._sample_rate, start=self._loop.time())
        self._task = asyncio.create_task(self._write_on(), name="novasonic-recorder")

    def follow(self, player: Player) -> None:
        """Take the assistant's voice from what a player reads, and no longer from what comes."""
        if player is self._player:
            return
        if self._player is None:
            self._timeline.interrupted(self._loop.time())
        else:
            self._player.on_read = None
        self._player = player
        player.on_read = self._read

    def _read(self, pcm: bytes, silent: bool) -> None:
        """Take note of what was read; in the thread that reads."""
        self._reads.append((self._loop.time(), pcm, silent))

    def sent(self, pcm: bytes, sample_rate: int) -> None:
        """The user has said this much more."""
        self._timeline.user(pcm, sample_rate, self._loop.time())

    def happened(self, event: Event) -> None:
        """Take note of what the assistant says, and of interruptions."""
        if self._player is not None:
            return  # it knows of both
        match event:
            case AudioChunk():
                self._timeline.assistant(event, self._loop.time())
            case Interrupted():
                self._timeline.interrupted(self._loop.time())
            case _:
                pass

    async def aclose(self) -> None:
        """Write the rest, and close the file. Twice is fine."""
        if self._player is not None:
            self._player.on_read = None
        self._ending.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        elif self._file is not None:
            await asyncio.to_thread(self._file.close)

    async def _write_on(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD):
                    await self._ending.wait()
            self._take_reads()
            await self._write(self._timeline.take(self._loop.time()))
        await self._write(self._timeline.finish(self._loop.time()))
        if self._timeline.missing:
            logger.warning("%s lacks %.1f s: there was too much to write", self._path, self._timeline.missing)
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    def _take_reads(self) -> None:
        rate = self._player.sample_rate if self._player is not None else self._sample_rate
        while self._reads:
            now, pcm, silent = self._reads.popleft()
            self._timeline.played(pcm, rate, now, silent=silent)

    async def _write(self, pcm: bytes) -> None:
        if self._file is None or not pcm:
            return
        try:
            await asyncio.to_thread(self._file.write, pcm)
        except OSError as exc:
            logger.error("%s cannot be written any more: %s", self._path, exc.strerror)  # noqa: TRY400 - no bug
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._file.close)
            self._file = None
