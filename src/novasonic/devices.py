"""Microphones and loudspeakers of this machine, through PortAudio. Needs the extra `devices`.

    async with Speaker() as speaker, Microphone(echo_of=speaker) as microphone, SonicSession() as session:
        session.played_by(speaker)
        session.listen_to(microphone)
        async for event in session:
            speaker.handle(event)

A device's own thread captures and plays; the event loop is only told when it waits for sound. What can be
said about sound without a device is in `novasonic.playback` and `novasonic.echo`.
"""

import asyncio
import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self

from novasonic.audio import AudioFormat, load
from novasonic.echo import EchoMode, EchoRemover, HalfDuplex, check_mode, remover
from novasonic.errors import ConcurrencyError, ConfigurationError, DeviceError, LocalProtocolError
from novasonic.events import AudioChunk, Event
from novasonic.playback import Player
from novasonic.portaudio import (
    NAMES,
    Device,
    DeviceKind,
    DeviceStream,
    PortAudio,
    explained,
    find_device,
    leave_at_exit,
    list_devices,
    portaudio_library,
)
from novasonic.threads import in_thread

__all__ = ["Device", "Microphone", "Speaker", "list_devices"]

logger = logging.getLogger("novasonic.devices")

_SPEECH_RATE: Final = 24_000  # what the model speaks at, unless a session asks for another

# Beyond this, in seconds, a program that does not read loses the oldest sound: nobody answers it any more.
_CAPTURED: Final = 2.0

_OPENING: Final = 10.0  # seconds; a Bluetooth headset takes some
_CLOSING: Final = 2.0
_SILENT: Final = 5.0  # seconds without a block: no driver is so late, so the device is gone
_BLOCKS: Final = (0.002, 0.5)  # seconds


# PortAudio's streams may not be opened or closed by two threads at once.
_one_at_a_time = threading.Lock()


class _OpenDevice(ABC):
    """A device, and its stream while it is open.

    Everything that talks to a driver runs in a thread that nobody has to wait for: a driver that hangs must
    not hold up the program, nor its end.
    """

    _kind: DeviceKind

    def __init__(self, device: str | int | None, sample_rate: int | None, block: float) -> None:
        _check_device(device)
        _check_block(block)
        self._device = device
        self._wanted_rate = None if sample_rate is None else AudioFormat(sample_rate).sample_rate
        self._block = block
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: DeviceStream | None = None
        self._found: Device | None = None
        self._rate = 0
        self._blocks = 0  # that the device has asked for or given
        self._watch: asyncio.TimerHandle | None = None
        self._closing = False
        self._failure: DeviceError | None = None
        self._taps: list[Callable[[bytes], None]] = []

    @property
    def name(self) -> str:
        """The device's name, once it is open."""
        return self._opened().name

    def tap(self, callback: Callable[[bytes], None]) -> Callable[[], None]:
        """Have `callback(pcm)` called with each block that is captured or played: 16-bit mono, silence too.

        It is called in the device's thread, and must neither wait nor fail.

        Returns:
            What ends it.
        """
        self._taps.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._taps.remove(callback)

        return end

    async def __aenter__(self) -> Self:
        """Open the device. Cancelling is safe: it is closed again.

        Raises:
            ImportError: If the extra `devices` is not installed.
            ConfigurationError: If there is no such device.
            DeviceError: If there is none at all, or it cannot be opened.
            LocalProtocolError: If it was open before.
        """
        if self._loop is not None:
            raise LocalProtocolError(f"a {self._what} is opened once; make another")
        self._loop = asyncio.get_running_loop()
        try:
            await _in_thread(self._open, _OPENING)
        except BaseException as exc:
            self._closing = True
            # The thread may be opening it still, and then closes it itself.
            threading.Thread(target=self._close, name="novasonic-device", daemon=True).start()
            if not isinstance(exc, TimeoutError):
                raise
            leave_at_exit()
            raise DeviceError(
                f"the {self._what} does not open within {_OPENING:g} s; another program may hold it"
            ) from exc
        self._keep_watch(-1)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the device, within two seconds."""
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        self._ended()
        try:
            await _in_thread(self._close, _CLOSING)
        except TimeoutError:
            logger.warning("the %s does not close; it is left alone", self._what)
            leave_at_exit()

    @property
    def _what(self) -> str:
        return NAMES[self._kind]

    def _opened(self) -> Device:
        if self._found is None:
            raise LocalProtocolError(f"the {self._what} is not open yet; use it inside its `async with`")
        return self._found

    def _open(self) -> None:
        load()
        portaudio = portaudio_library()
        with _one_at_a_time:
            found = find_device(self._device, self._kind)
            with explained(portaudio, f"the {self._what} {found.name!r} cannot be opened"):
                stream = self._start(portaudio, found)
            self._found, self._stream = found, stream
        logger.debug("%s: %s, %d Hz", self._what, found.name, self._rate)
        if self._closing:  # nobody waits for it any more
            self._close()

    @abstractmethod
    def _start(self, portaudio: PortAudio, found: Device) -> DeviceStream:
        """Start a stream, and know its rate."""

    def _close(self) -> None:
        with _one_at_a_time:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()  # unlike stop(), does not wait until all was played; but may hang all the same
            with _one_at_a_time:
                stream.close()

    def _keep_watch(self, before: int) -> None:
        """Look now and then whether the device is alive: not every driver tells when it was unplugged."""
        if self._closing or self._loop is None:
            return
        if self._blocks == before:
            self._fail(f"has been dead for {_SILENT:g} s")
            return
        self._watch = self._loop.call_later(_SILENT, self._keep_watch, self._blocks)

    def _finished(self) -> None:
        """The stream has ended, as a thread of PortAudio's tells."""
        if not self._closing:
            self._fail("is gone")

    def _fail(self, how: str) -> None:
        name = "" if self._found is None else f" {self._found.name!r}"
        if self._failure is None:
            self._failure = DeviceError(f"the {self._what}{name} {how}; was it unplugged?")
        self._ended()

    @abstractmethod
    def _ended(self) -> None:
        """Nothing more will come; in any thread."""


def _check_device(device: object) -> None:
    if isinstance(device, bool) or not isinstance(device, str | int | None):
        raise ConfigurationError(f"device is {device!r}, but must be a name, an index or None")


def _check_block(block: object) -> None:
    low, high = _BLOCKS
    if isinstance(block, bool) or not isinstance(block, int | float) or not low <= block <= high:
        raise ConfigurationError(f"block is {block!r}, but must be {low:g} to {high:g} seconds")


async def _in_thread(work: Callable[[], None], seconds: float) -> None:
    """Run something in a thread that is left alone where it takes longer.

    Raises:
        TimeoutError: If it does.
    """
    async with asyncio.timeout(seconds):
        await in_thread(work, name="novasonic-device")


# --- the two kinds ----------------------------------------------------------------------------------------


class Speaker(_OpenDevice):
    """A loudspeaker that plays the model's speech, and stops when the user breaks in.

    `speaker.handle(event)` with every event of a session is all it takes; `session.played_by(speaker)` lets
    the session know what was heard. It is opened once, with `async with`.

    Args:
        device: Name, part of a name, or index; None for the default one.
        sample_rate: Of the device, in Hz. None: the speech's own 24,000, or the device's own where it cannot
            do that; the speech is then resampled.
        block: Seconds of sound that are on their way to the device, and play on after `stop()`. Shorter
            blocks stop sooner, and crackle sooner on a busy machine. Some drivers hold more.

    Raises:
        ConfigurationError: If one of them cannot be right.
    """

    _kind = "output"

    def __init__(
        self, device: str | int | None = None, *, sample_rate: int | None = None, block: float = 0.02
    ) -> None:
        super().__init__(device, sample_rate, block)
        self._player: Player | None = None
        self._late = 0

    @property
    def sample_rate(self) -> int:
        """Of what is given to the device, in Hz."""
        self._opened()
        return self._rate

    @property
    def player(self) -> Player:
        """What waits to be played, and what was heard."""
        if self._player is None:
            raise LocalProtocolError("the loudspeaker is not open yet; use it inside its `async with`")
        return self._player

    @property
    def delay(self) -> float:
        """Seconds from what is given to the device to what it sounds, as the device says."""
        return self._stream.latency if self._stream is not None else self._block

    @property
    def queued(self) -> float:
        """Seconds of speech that wait to be played."""
        return self.player.queued

    @property
    def playing(self) -> bool:
        """Whether there is speech to play."""
        return self.player.playing

    @property
    def played(self) -> float:
        """Seconds of speech that were played."""
        return self.player.played

    @property
    def underruns(self) -> int:
        """How often speech was torn: it came too late, or this machine was too busy to play it."""
        return self.player.underruns + self._late

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn's speech were played; None if none of it ever came."""
        return None if self._player is None else self._player.heard(turn)

    def play(self, chunk: AudioChunk) -> None:
        """Add a piece of speech to what is to be played.

        Raises:
            DeviceError: If the device was unplugged.
        """
        self._check()
        self.player.play(chunk)

    def stop(self) -> None:
        """Play nothing more of what is there. What is in the device already, a block, is heard."""
        self.player.stop()

    def handle(self, event: Event) -> None:
        """Do what an event asks of a loudspeaker: play, stop, or nothing.

        Raises:
            DeviceError: If the device was unplugged.
        """
        self._check()
        self.player.handle(event)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _start(self, portaudio: PortAudio, found: Device) -> DeviceStream:
        self._rate = self._wanted_rate or _playable(portaudio, found)
        self._player = Player(self._rate)
        info = portaudio.query_devices(found.index)
        stream: DeviceStream = portaudio.RawOutputStream(
            device=found.index,
            samplerate=self._rate,
            channels=1,
            dtype="int16",
            # PortAudio keeps two of these in the device; together they are the block that plays on.
            blocksize=max(1, round(self._block * self._rate / 2)),
            # MME says 90 ms, and does no better: less would only crackle.
            latency=max(self._block, info["default_low_output_latency"]),
            callback=self._fill,
            finished_callback=self._finished,
        )
        stream.start()
        return stream

    def _fill(self, out: Any, frames: int, _time: object, status: Any) -> None:  # noqa: ANN401 - sounddevice's
        player = self._player
        assert player is not None  # noqa: S101 - it was there before the stream
        self._blocks += 1
        if status and player.playing:  # an underrun in silence is not heard
            self._late += 1
        pcm = player.read(frames)
        out[:] = pcm
        for tap in self._taps:
            tap(pcm)

    def _ended(self) -> None:
        pass  # the next event tells


def _playable(portaudio: PortAudio, found: Device) -> int:
    try:
        portaudio.check_output_settings(
            device=found.index, channels=1, dtype="int16", samplerate=_SPEECH_RATE
        )
    except portaudio.PortAudioError:
        return found.sample_rate
    return _SPEECH_RATE


class Microphone(_OpenDevice):
    """A microphone: an async iterable of what it hears, in 16-bit mono, for `session.listen_to`.

    It is opened once, with `async with`, and read by one task. Iterating ends when it is closed, and raises
    `DeviceError` when it was unplugged.

    Args:
        device: Name, part of a name, or index; None for the default one.
        sample_rate: Of the device, in Hz; None for the device's own, which the session converts.
        block: Seconds of sound in a piece.
        echo_of: The loudspeaker in the same room, which must be open first: its sound is kept out.
        echo: How: "cancel" needs the extra `aec`; "half-duplex" makes the microphone silent while the
            loudspeaker sounds; "auto" is the first where it can be had, and the second elsewhere.

    Attributes:
        mute: Whether silence is heard instead. May be set at any time.

    Raises:
        ConfigurationError: If one of them cannot be right.
    """

    _kind = "input"
    channels: Final = 1

    def __init__(
        self,
        device: str | int | None = None,
        *,
        sample_rate: int | None = None,
        block: float = 0.02,
        echo_of: Speaker | None = None,
        echo: EchoMode = "auto",
    ) -> None:
        super().__init__(device, sample_rate, block)
        check_mode(echo)
        self.mute = False
        self._speaker = echo_of
        self._echo: EchoMode = echo
        self._remover: EchoRemover | None = None
        self._untap: Callable[[], None] | None = None
        self._pieces = deque[bytes]()
        self._most = 0
        self._waiter: asyncio.Future[None] | None = None
        self._captured = 0  # samples
        self._overruns = 0

    @property
    def sample_rate(self) -> int:
        """Of what is heard, in Hz: the device's, or the canceller's 16,000."""
        self._opened()
        return self._rate if self._remover is None else self._remover.sample_rate

    @property
    def captured(self) -> float:
        """Seconds of sound that the device has given so far."""
        return self._captured / self._rate if self._rate else 0.0

    @property
    def overruns(self) -> int:
        """How often sound was lost, as the device's thread or the program was late."""
        return self._overruns

    @property
    def echo(self) -> Literal["cancel", "half-duplex", "off"]:
        """What is done about echo, once it is open."""
        match self._remover:
            case None:
                return "off"
            case HalfDuplex():
                return "half-duplex"
            case _:
                return "cancel"

    def __aiter__(self) -> Self:
        """Iterate over what is heard. A loop that is left can be taken up by another."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece; wait for it. Cancelling is safe: nothing is lost.

        Raises:
            StopAsyncIteration: If the microphone was closed.
            DeviceError: If it was unplugged.
            ConcurrencyError: If another task is reading it.
        """
        self._opened()
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise ConcurrencyError("another task reads this microphone; let one read, and pass sound on")
            await self._wait()
        return self._pieces.popleft()

    async def _wait(self) -> None:
        assert self._loop is not None  # noqa: S101 - it is open
        self._waiter = self._loop.create_future()
        try:
            # What came between the caller's look and the line above has woken nobody.
            if not self._pieces and self._failure is None and not self._closing:
                await self._waiter
        finally:
            self._waiter = None

    def _start(self, portaudio: PortAudio, found: Device) -> DeviceStream:
        self._rate = self._wanted_rate or found.sample_rate
        info = portaudio.query_devices(found.index)
        latency = max(2 * self._block, info["default_low_input_latency"])
        if self._speaker is not None:
            delay = latency + self._speaker.delay
            self._remover = remover(self._echo, self._rate, self._speaker.sample_rate, delay=delay)
        if self._speaker is not None and self._remover is not None:
            self._untap = self._speaker.tap(self._remover.played)
        size = max(1, round(self._block * self._rate))
        self._most = max(1, round(_CAPTURED * self._rate / size))
        stream: DeviceStream = portaudio.RawInputStream(
            device=found.index,
            samplerate=self._rate,
            channels=1,
            dtype="int16",
            blocksize=size,
            latency=latency,
            callback=self._hear,
            finished_callback=self._finished,
        )
        stream.start()
        return stream

    def _close(self) -> None:
        if self._untap is not None:
            self._untap()
        super()._close()

    def _hear(self, data: Any, frames: int, _time: object, status: Any) -> None:  # noqa: ANN401 - sounddevice's
        self._blocks += 1
        self._captured += frames
        if status:
            self._overruns += 1
        pcm = bytes(data)
        if self._remover is not None:
            pcm = self._remover.clean(pcm)
        if not pcm:
            return  # it waits for the loudspeaker
        if self.mute:
            pcm = bytes(len(pcm))
        for tap in self._taps:
            tap(pcm)
        if len(self._pieces) >= self._most:
            with contextlib.suppress(IndexError):  # it was read just now
                self._pieces.popleft()
            self._overruns += 1
        self._pieces.append(pcm)
        self._wake()

    def _wake(self) -> None:
        """Wake whoever waits. Nobody does while there is more to read, and then the loop is left alone."""
        waiter, loop = self._waiter, self._loop
        if waiter is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_set, waiter)

    def _ended(self) -> None:
        self._wake()


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
