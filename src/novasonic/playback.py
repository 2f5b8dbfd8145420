"""What is still to be played, and what was heard of it. No I/O, no clock, no task, no device.

The model's speech comes several times faster than it plays, so somebody must hold it, give it to a device in
the device's own time, and drop all of it at once when the user breaks in. That is a `Player`. Loudspeakers,
files and sockets are thin layers around its `read`.
"""

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from novasonic.audio import AudioFormat, Resampler
from novasonic.errors import ConfigurationError
from novasonic.events import AudioChunk, Event, Interrupted, ToolCall, TurnEnded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Player"]

_WIDTH: Final = 2
"""Bytes of a sample."""

_LONGEST_PREBUFFER: Final = 2.0  # seconds; whoever waits longer for a voice takes it for absent


class Player:
    """Holds speech until it is played, and knows how much of it was.

    One side puts speech in (`play`, `stop`, or `handle` for both), the other takes it out (`read`), in its
    own time and as much as it needs: time passes here only by reading. The two sides may be two threads, such
    as an event loop and a sound card's callback; a lock is held for microseconds. Several threads that read
    would each get a part of the speech.

    A session asks it what was heard, once it has been told: `session.played_by(player)`.

    Args:
        sample_rate: Of what is read, in Hz. Speech of another rate is resampled.
        prebuffer: Seconds of speech that are awaited before a response begins, and again after it has run
            dry. The service sends the first 0.1 s within some 20 ms, so little is lost. A response that is
            shorter begins when it is known to have ended, or `prebuffer` seconds after it came.

    Attributes:
        sample_rate: Of what is read, in Hz.
        on_read: Called with what each read returns, and whether it is nothing but silence, in the thread that
            reads; it must be quick. None for nobody. A session that records the conversation listens here.

    Raises:
        ConfigurationError: If one of them is out of its range.
    """

    def __init__(self, sample_rate: int = 24_000, *, prebuffer: float = 0.1) -> None:
        self.sample_rate = AudioFormat(sample_rate).sample_rate
        if not 0 <= prebuffer <= _LONGEST_PREBUFFER:
            raise ConfigurationError(
                f"prebuffer is {prebuffer!r}, but must be 0 to {_LONGEST_PREBUFFER:g} seconds"
            )
        self.on_read: Callable[[bytes, bool], None] | None = None
        self._prebuffer = round(prebuffer * self.sample_rate)
        self._lock = threading.Lock()
        self._queue = deque[tuple[int, memoryview]]()  # turn and samples, in the order of playing
        self._queued = 0  # samples in it
        self._read = dict[int, int]()  # samples of each turn that were read
        self._turn = 0  # of the latest speech that came
        self._complete = True  # whether no more of that turn is awaited for now
        self._dry = False  # whether silence was read where that turn might have gone on
        self._holding = True  # whether speech that is there waits for more
        self._held = 0  # samples of silence that were read meanwhile
        self._underruns = 0
        self._resampler: Resampler | None = None

    # --- what is known ------------------------------------------------------------------------------------

    @property
    def queued(self) -> float:
        """Seconds of speech that wait to be read."""
        return self._queued / self.sample_rate

    @property
    def playing(self) -> bool:
        """Whether there is speech to read."""
        return self._queued > 0

    @property
    def underruns(self) -> int:
        """How often speech came so late that a turn went on only after some silence.

        A pause in which a tool runs is none, for whoever passes events to `handle`.
        """
        return self._underruns

    @property
    def played(self) -> float:
        """Seconds of speech that were read, of all turns."""
        with self._lock:
            return sum(self._read.values()) / self.sample_rate

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn's speech were read; None if none of it ever came."""
        samples = self._read.get(turn)
        return None if samples is None else samples / self.sample_rate

    # --- putting in ---------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Do what an event asks of a player, and nothing for most: `player.handle(event)` is all it takes."""
        match event:
            case AudioChunk():
                self.play(event)
            case Interrupted():
                self.stop()
            case TurnEnded(turn=turn) | ToolCall(turn=turn):
                self._pause(turn)
            case _:
                pass

    def play(self, chunk: AudioChunk) -> None:
        """Add a piece of speech to what is to be played."""
        with self._lock:
            self._read.setdefault(chunk.turn, 0)
            if chunk.turn != self._turn:
                self._flush()
                self._turn = chunk.turn
            elif self._dry and not self._complete:
                self._underruns += 1
            self._complete = self._dry = False
            if chunk.sample_rate == self.sample_rate:
                self._flush()
                self._put(chunk.pcm)
                return
            if self._resampler is None or self._resampler.source_rate != chunk.sample_rate:
                self._flush()
                self._resampler = Resampler(chunk.sample_rate, self.sample_rate)
            self._put(self._resampler.feed(chunk.pcm))

    def stop(self) -> None:
        """Drop all that was not read yet: the next read is silence."""
        with self._lock:
            self._resampler = None
            self._queue.clear()
            self._queued = 0
            self._complete, self._holding, self._held = True, True, 0

    def _pause(self, turn: int) -> None:
        """Take note that no more of a turn is to be awaited, or none before a tool has answered."""
        with self._lock:
            if turn == self._turn:
                self._flush()
                self._complete = True

    def _flush(self) -> None:
        """Queue what the resampler holds back: some milliseconds."""
        if self._resampler is not None:
            rest, self._resampler = self._resampler.flush(), None
            self._put(rest)

    def _put(self, pcm: bytes) -> None:
        if pcm:
            self._queue.append((self._turn, memoryview(pcm)))
            self._queued += len(pcm) // _WIDTH

    # --- taking out ---------------------------------------------------------------------------------------

    def read(self, samples: int) -> bytes:
        """Return the next samples to be heard, exactly so many: 16-bit little-endian mono.

        Where there is no speech there is silence. It never waits.
        """
        with self._lock:
            speech = self._take(samples)
        pcm = speech.ljust(_WIDTH * samples, b"\0")
        if self.on_read is not None:
            self.on_read(pcm, not speech)
        return pcm

    def _take(self, samples: int) -> bytes:
        """Take out the speech that there is, at most so many samples."""
        if self._waits(samples):
            return b""
        if self._queued < samples:
            self._flush()
        out, missing = bytearray(), samples
        while missing and self._queue:
            turn, pcm = self._queue[0]
            part = pcm[: _WIDTH * missing]
            out += part
            if len(part) < len(pcm):
                self._queue[0] = (turn, pcm[len(part) :])
            else:
                self._queue.popleft()
            taken = len(part) // _WIDTH
            self._read[turn] += taken
            self._queued -= taken
            missing -= taken
        if missing:
            self._dry = self._holding = True
            self._held = 0
        return bytes(out)

    def _waits(self, samples: int) -> bool:
        """Whether it is too early to begin with what is there."""
        if not self._holding or not self._queue:
            return False
        if self._complete or self._queued >= self._prebuffer or self._held >= self._prebuffer:
            self._holding = False
            return False
        self._held += samples
        return True
