"""The loudspeaker in the microphone: how the assistant is kept from hearing itself. No I/O, no devices.

Where a loudspeaker and a microphone share a room, the service hears the model's own speech as the user's,
breaks it off, and answers it. `EchoCanceller` takes the model's speech out of what the microphone hears;
`HalfDuplex` is deaf while the model speaks; `EchoWatch` notices when neither was there.

Both are told what is played in the device's own time, and pair it with what is captured at the same moment:
an echo comes always later than what it is the echo of.
"""

import importlib
import importlib.util
import logging
import re
import threading
import warnings
from collections import deque
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

from novasonic.audio import Resampler
from novasonic.errors import ConfigurationError
from novasonic.events import Event, Transcript

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    type _Samples = NDArray[np.int16]

__all__ = ["EchoCanceller", "EchoMode", "EchoRemover", "EchoWatch", "HalfDuplex", "repeats"]

logger = logging.getLogger("novasonic.echo")

EchoMode = Literal["auto", "cancel", "half-duplex", "off"]
"""What to do about echo. "auto" cancels it with the extra `aec`, and is half-duplex without."""

ECHO_MODES: Final[tuple[EchoMode, ...]] = ("auto", "cancel", "half-duplex", "off")

# The canceller works on what the service hears: at a higher rate it would take longer and remove no more.
_RATE: Final = 16_000
_FRAME: Final = _RATE // 100  # WebRTC's unit is 10 ms
_WINDOW: Final = 1.0  # seconds: what is late for all of so long is no jitter, but two clocks drifting apart
_DRIFT: Final = 0.02  # seconds that they may be apart; a device's block is as long
_DEAD: Final = 0.2  # seconds: nothing was played for so long, so the loudspeaker is gone

_TAIL: Final = 0.3  # seconds for which a room goes on sounding

_WATCHED: Final = 40  # words: about fifteen seconds of speech, with which an echo can still come
_FEWEST: Final = 4  # words: "yes, that is right" is no echo, however often both say so
_RUN: Final = 3  # words, one after the other
_ALIKE: Final = 0.8  # the share of the user's words that must be the assistant's, as no transcript is perfect


class EchoRemover(Protocol):
    """What stands between a loudspeaker and a microphone.

    Attributes:
        sample_rate: Of what `clean` returns, in Hz.
    """

    sample_rate: int

    def played(self, pcm: bytes) -> None:
        """Take note of what the loudspeaker is given next: 16-bit mono, silence too. For its thread."""
        ...

    def clean(self, pcm: bytes) -> bytes:
        """Return what was captured without the echo; some of it may come later. For one other thread."""
        ...


def can_cancel() -> bool:
    """Whether the extra `aec` is installed."""
    return importlib.util.find_spec("pywebrtc_audio") is not None


class EchoCanceller:
    """Removes echo and noise with the audio processing of WebRTC, which browsers use as well.

    It needs the extra `aec`, and a second or two of the assistant's speech to learn the room.

    Args:
        captured_rate: Of what goes into `clean`, in Hz.
        played_rate: Of what goes into `played`, in Hz.
        delay: About how long what is played takes to come back as what is captured, in seconds. The devices'
            own delays are most of it; a good guess shortens the learning.

    Attributes:
        sample_rate: Of what `clean` returns: 16,000 Hz.

    Raises:
        ImportError: If the extra is not installed.
        ConfigurationError: If a rate is out of its range.
    """

    def __init__(self, captured_rate: int, played_rate: int, *, delay: float = 0.06) -> None:
        self.sample_rate = _RATE
        self._webrtc = _processor(delay)
        self._near = _Line(captured_rate)
        self._far = _Line(played_rate)
        self._playing = False  # whether anything was ever played
        self._lock = threading.Lock()
        self._handed = bytearray()  # played, and not paired so far
        self._played_rate = played_rate
        self._captured_rate = captured_rate
        self._spare = _Least(_RATE)  # how much was played too early, or too late, to be paired
        self._waiting = _Least(_RATE)

    def played(self, pcm: bytes) -> None:
        """Take note of what the loudspeaker is given next."""
        with self._lock:
            self._handed += pcm

    def clean(self, pcm: bytes) -> bytes:
        """Return what was captured, at 16,000 Hz, without the echo.

        Pieces are multiples of 10 ms. What was captured waits for what was played at the time, if the
        loudspeaker's thread is late.
        """
        with self._lock:
            played, self._handed = bytes(self._handed), bytearray()
        if played and not self._playing:
            self._playing = True
            # What was played before this was captured has nothing to be paired with.
            played = played[-2 * (len(pcm) // 2 * self._played_rate // self._captured_rate) :]
        self._near.feed(pcm)
        self._far.feed(played)
        self._keep_together(len(pcm) // 2 / self._captured_rate)
        samples = min(self._near.ready, self._far.ready) // _FRAME * _FRAME
        if not samples:
            return b""
        return self._webrtc.process(self._near.take(samples), self._far.take(samples)).tobytes()

    def _keep_together(self, seconds: float) -> None:
        """See to it that what is captured now is paired with what is played now."""
        apart = self._near.ready - self._far.ready
        if not self._playing or apart > _DEAD * _RATE:
            self._far.pad(max(0, apart))
            return
        late = self._waiting.over(max(0, apart - _FRAME), seconds)
        early = self._spare.over(max(0, -apart), seconds)
        if late > _DRIFT * _RATE:
            logger.debug("the loudspeaker's clock is slower: %d samples filled in", late)
            self._far.pad(late)
        elif early > _DRIFT * _RATE:
            logger.debug("the loudspeaker's clock is faster: %d samples dropped", early)
            self._far.take(early)


class _Webrtc(Protocol):
    """What is used of `pywebrtc_audio.AudioProcessor`."""

    def process(self, near: "_Samples", far: "_Samples") -> "_Samples": ...


def _processor(delay: float) -> _Webrtc:
    try:
        webrtc: Any = importlib.import_module("pywebrtc_audio")
    except ImportError as exc:
        raise ImportError(
            "cancelling echo needs pywebrtc-audio: pip install 'novasonic[aec]', or use echo='half-duplex'"
        ) from exc
    processor = webrtc.AudioProcessor(
        sample_rate=_RATE,
        echo_cancellation=True,
        noise_suppression=True,
        stream_delay_ms=round(delay * 1000),
    )
    return cast("_Webrtc", processor)


class _Line:
    """Samples that wait in line, brought to the canceller's rate."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = None if sample_rate == _RATE else Resampler(sample_rate, _RATE)
        self._pcm = bytearray()

    @property
    def ready(self) -> int:
        return len(self._pcm) // 2

    def feed(self, pcm: bytes) -> None:
        if pcm:
            self._pcm += pcm if self._resampler is None else self._resampler.feed(pcm)

    def pad(self, samples: int) -> None:
        self._pcm += bytes(2 * samples)

    def take(self, samples: int) -> "_Samples":
        import numpy as np  # noqa: PLC0415 - heavy, and loaded with the canceller

        taken = np.frombuffer(bytes(self._pcm[: 2 * samples]), np.int16)
        del self._pcm[: 2 * samples]
        return taken


class _Least:
    """The least of a number over a stretch of time."""

    def __init__(self, none: int) -> None:
        self._none = none
        self._least = none
        self._seconds = 0.0

    def over(self, number: int, seconds: float) -> int:
        """Add what it was for so many seconds; return the least once a window is full, and 0 until then."""
        self._least = min(self._least, number)
        self._seconds += seconds
        if self._seconds < _WINDOW:
            return 0
        least, self._least, self._seconds = self._least, self._none, 0.0
        return least


class HalfDuplex:
    """Makes the microphone silent while the loudspeaker sounds, and for a moment after.

    Needs nothing, works in any room, and nobody can break in by voice.

    Args:
        captured_rate: Of what goes into `clean`, in Hz.
        tail: Seconds of silence after the last sound: the devices' delay, and the room's.

    Attributes:
        sample_rate: Of what `clean` returns: `captured_rate`.
    """

    def __init__(self, captured_rate: int, *, tail: float = _TAIL) -> None:
        self.sample_rate = captured_rate
        self._tail = round(tail * captured_rate)
        self._deaf = 0  # samples to come

    def played(self, pcm: bytes) -> None:
        """Take note of what the loudspeaker is given next."""
        if pcm.strip(b"\0"):
            self._deaf = self._tail

    def clean(self, pcm: bytes) -> bytes:
        """Return what was captured, or as much silence."""
        if self._deaf <= 0:
            return pcm
        self._deaf -= len(pcm) // 2
        return bytes(len(pcm))


def remover(mode: EchoMode, captured_rate: int, played_rate: int, *, delay: float) -> EchoRemover | None:
    """Return what removes echo in a mode; None for "off".

    Raises:
        ConfigurationError: If there is no such mode.
        ImportError: If the mode is "cancel", and the extra `aec` is not installed.
    """
    check_mode(mode)
    if mode == "off":
        return None
    if mode == "cancel" or (mode == "auto" and can_cancel()):
        return EchoCanceller(captured_rate, played_rate, delay=delay)
    return HalfDuplex(captured_rate, tail=_TAIL + delay)


def check_mode(mode: str) -> None:
    """See to it that there is such a mode.

    Raises:
        ConfigurationError: If there is not.
    """
    if mode not in ECHO_MODES:
        raise ConfigurationError(f"echo is {mode!r}, but must be one of {', '.join(ECHO_MODES)}")


def repeats(user: str, assistant: str) -> bool:
    """Whether what the user is said to have said repeats what the assistant just said.

    Words count, in their order; capitals and punctuation do not. A transcript of an echo begins and ends
    anywhere and gets a word wrong now and then, so most words of `user` are enough. Fewer than four words
    are too few to tell.
    """
    said, heard = _words(assistant)[-_WATCHED:], _words(user)
    if len(heard) < _FEWEST or not said:
        return False
    runs = [each.size for each in SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()]
    # People share their small words, but not runs of them.
    return sum(runs) >= _ALIKE * len(heard) and max(runs) >= _RUN


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.casefold())  # noqa: RUF001 - transcripts have both apostrophes


class EchoWatch:
    """Warns, once, when the user's transcript repeats the assistant's last words.

    Pass it every event: `watch.handle(event)`.

    Attributes:
        heard: Whether an echo was noticed.
    """

    def __init__(self) -> None:
        self.heard = False
        self._said = deque[str](maxlen=_WATCHED)

    def handle(self, event: Event) -> None:
        """Take in what happened; issue a `UserWarning` the first time that it is an echo."""
        if not isinstance(event, Transcript) or self.heard:
            return
        if event.role != "USER":
            if event.stage == "SPECULATIVE":  # what is in the air; FINAL comes when it has passed
                self._said.extend(_words(event.text))
            return
        if repeats(event.text, " ".join(self._said)):
            self.heard = True
            message = (
                "the microphone hears the loudspeaker: the user seems to repeat what the assistant says; use "
                "headphones, echo='cancel' (pip install 'novasonic[aec]') or echo='half-duplex'"
            )
            logger.warning("%s", message)
            warnings.warn(message, stacklevel=2)
