"""Audio that says where it belongs, and a way to the service that reads it: was any lost, or sent twice?

Each frame of the user's voice bears its number and whether it is loud, and can be made again from these two:
a frame that arrives is either one of the user's, whole, or is found out.
"""

import asyncio
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from novasonic import messages
from novasonic.emulator import MemoryConnector, SessionLog
from novasonic.errors import SonicError, StreamLostError
from novasonic.transport import Transport

RATE: Final = 16_000
SAMPLES: Final = 512
SECONDS: Final = SAMPLES / RATE

_SILENCE: Final = bytes(2 * SAMPLES)  # what a session sends while nobody speaks
_HUSH: Final = bytes(2)  # and at the end of a stream that has heard nothing: it must hold something

# The number is in the first samples, a byte in each, which leaves a frame at -60 dBFS: quiet for any ear.
_MARK: Final = struct.Struct("<5h")
_TONE: Final = b"".join(
    round(6500 * math.sin(2 * math.pi * 220 * at / RATE)).to_bytes(2, "little", signed=True)
    for at in range(SAMPLES)
)
_REST: Final = {True: _TONE[_MARK.size :], False: _SILENCE[_MARK.size :]}


def frame(number: int, *, loud: bool) -> bytes:
    """Return a frame of the user's voice. The first one is number 1: 0 would be mere silence."""
    return _MARK.pack(*number.to_bytes(4, "little"), loud) + _REST[loud]


def number_of(pcm: bytes) -> int:
    """Return the number of a frame that has arrived; 0 for silence that the session has added.

    Raises:
        ValueError: If it is no frame, or none that the user has given.
    """
    if pcm in {_SILENCE, _HUSH}:
        return 0
    if len(pcm) != len(_SILENCE):
        raise ValueError(f"a frame of {len(pcm)} bytes")
    *digits, loud = _MARK.unpack_from(pcm)
    number: int = sum(digit << 8 * place for place, digit in enumerate(digits))
    if loud not in {0, 1} or not 0 < number < 2**32 or frame(number, loud=bool(loud)) != pcm:
        raise ValueError("a frame that is not whole")
    return number


Run = list[int]
"""Frames that follow one another: the number of the first, and the one after the last."""


def _note(runs: list[Run], number: int) -> None:
    """Add a frame to runs."""
    if runs and runs[-1][1] == number:
        runs[-1][1] += 1
    else:
        runs.append([number, number + 1])


@dataclass(slots=True)
class Voice:
    """What a user has given.

    Attributes:
        frames: How many.
        loud: Those in which the user speaks.
        ended_at: When the user stopped, by the loop's clock.
    """

    frames: int = 0
    loud: list[Run] = field(default_factory=list[Run])
    ended_at: float = math.inf

    def next(self, *, loud: bool) -> bytes:
        """Return the next frame; `given` tells that it was given."""
        return frame(self.frames + 1, loud=loud)

    def given(self, *, loud: bool) -> None:
        """Take note that the next frame was given."""
        self.frames += 1
        if loud:
            _note(self.loud, self.frames)

    def words(self, first: int, after: int) -> int:
        """Return in how many of these frames the user speaks."""
        return sum(max(0, min(after, end) - max(first, begin)) for begin, end in self.loud)


@dataclass(slots=True, kw_only=True)
class Leg:
    """One stream of a conversation, as the service has heard it.

    Attributes:
        opened_at: When somebody began to open it, by the loop's clock.
        beside: How many others there were then, of which the client did not know that they had ended.
        log: What the service noticed.
        begun_at: When it first heard something; None if it never has.
        over_at: When the client let go of it, or learned that it had ended; None before.
        failure: Why it ended, if the client did not end it.
        runs: The user's frames that the service has heard.
        silence: Frames of silence that the session has added.
        odd: What was heard that is none of the user's.
    """

    opened_at: float
    beside: int
    log: SessionLog
    begun_at: float | None = None
    over_at: float | None = None
    failure: SonicError | None = None
    runs: list[Run] = field(default_factory=list[Run])
    silence: int = 0
    odd: list[str] = field(default_factory=list[str])

    def heard(self, pcm: bytes, now: float) -> None:
        """Take note of a frame."""
        if self.begun_at is None:
            self.begun_at = now
        try:
            number = number_of(pcm)
        except ValueError as exc:
            self.odd.append(str(exc))
            return
        if number:
            _note(self.runs, number)
        else:
            self.silence += 1

    def is_over(self, now: float, failure: SonicError | None = None) -> None:
        """Take note of its end. Only the first one counts."""
        if self.over_at is None:
            self.over_at, self.failure = now, failure


class Eavesdropper:
    """A way to an emulated service that listens in: a `novasonic.transport.Connector`.

    Attributes:
        legs: The streams, in the order in which they were opened.
    """

    def __init__(self, connector: MemoryConnector) -> None:
        self.legs: list[Leg] = []
        self._connector = connector
        self._loop = asyncio.get_running_loop()

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> Transport:  # noqa: ASYNC109 - as in `Connector`
        """Open a stream."""
        opened_at, beside = self._loop.time(), sum(leg.over_at is None for leg in self.legs)
        failure: SonicError | None = None
        try:
            transport = await self._connector(first, timeout=timeout)
        except SonicError as exc:
            failure = exc
            raise
        finally:
            leg = Leg(opened_at=opened_at, beside=beside, log=self._connector.sessions[-1])
            self.legs.append(leg)
            if failure is not None:
                leg.is_over(self._loop.time(), failure)
        return _Overheard(transport, leg)


class _Overheard:
    """A stream that is listened in to."""

    def __init__(self, transport: Transport, leg: Leg) -> None:
        self.request_id = transport.request_id
        self.expires_in = transport.expires_in
        self._transport = transport
        self._leg = leg
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        leg, before = self._leg, self._leg.log.audio_messages
        try:
            await self._transport.send(data)
        finally:
            # A stream that has ended takes what is sent, and hears nothing.
            if leg.log.audio_messages > before:
                message = messages.decode_input(data)
                assert isinstance(message, messages.AudioInput)  # the service has counted one
                leg.heard(message.content, self._loop.time())

    async def receive(self) -> bytes | None:
        try:
            data = await self._transport.receive()
        except SonicError as exc:
            self._leg.is_over(self._loop.time(), exc)
            raise
        if data is None:
            hung_up = self._leg.log.outcome == "ended"
            failure = StreamLostError("the service has ended it, and said nothing") if hung_up else None
            self._leg.is_over(self._loop.time(), failure)
        return data

    async def end_input(self) -> None:
        await self._transport.end_input()

    async def aclose(self) -> None:
        self._leg.is_over(self._loop.time())
        await self._transport.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the user's audio, in frames.

    Attributes:
        given: What the user has said, or kept silent.
        heard: What some stream has heard.
        replayed: What a stream has heard that another had heard before.
        hushed: What no stream has heard: silence, while no stream listened.
        silence: What the session has added.
        complaints: What is wrong.
    """

    given: int
    heard: int
    replayed: int
    hushed: int
    silence: int
    complaints: Sequence[str]


def account_for(legs: Sequence[Leg], voice: Voice) -> Account:
    """Return what became of a user's audio, in a conversation that was held to its end."""
    complaints, expected, replayed, hushed = list[str](), 1, 0, 0

    def lost(after: int, where: str, *, excused: bool) -> None:
        nonlocal hushed
        words = voice.words(expected, after)
        hushed += after - expected - words
        if words or not excused:
            frames = f"frames {expected} to {after - 1}, {words} of them speech"
            complaints.append(f"{frames}, were lost {where}")

    broken = False  # whether a stream was lost since the latest frame was heard
    deaf_since = 0.0  # when the latest stream that has heard something was over
    for number, leg in enumerate(legs, 1):
        complaints += [f"stream {number} heard {odd}" for odd in leg.odd]
        for first, after in leg.runs:
            if first > expected:
                lost(first, f"before stream {number}", excused=broken)
            elif first < expected and [first, after] != leg.runs[0]:
                complaints.append(f"stream {number} heard frame {first} for a second time")
            replayed += max(0, min(expected, after) - first)
            expected, broken = max(expected, after), False
        broken = broken or leg.failure is not None
        deaf_since = leg.over_at or 0.0 if leg.begun_at is not None else deaf_since
    if expected <= voice.frames:
        lost(voice.frames + 1, "at the end", excused=deaf_since < voice.ended_at)
    return Account(
        given=voice.frames,
        heard=voice.frames - hushed,
        replayed=replayed,
        hushed=hushed,
        silence=sum(leg.silence for leg in legs),
        complaints=complaints,
    )
