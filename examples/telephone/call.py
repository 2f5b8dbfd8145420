"""One telephone call: Twilio's socket on one side, a session with Nova Sonic on the other.

Both speak 8 kHz, so nothing is resampled. What is left to do is to pass on what the caller says and keys, to
let them hear what the model says, and to know how much of that they have heard.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Self

from starlette.websockets import WebSocket, WebSocketDisconnect

import mediastream
from mediastream import (
    SAMPLE_RATE,
    Beginning,
    Clear,
    Connected,
    Dtmf,
    FromTwilio,
    Label,
    Mark,
    Media,
    MediaFormat,
    Sound,
    Start,
    Stop,
    ToTwilio,
)
from novasonic import AudioChunk, Interrupted, SonicSession, Transcript, UserSpeechStarted, g711
from novasonic.session import SessionOptions

logger = logging.getLogger("telephone")

# Seconds of speech that Twilio is given ahead of what it has played. So long the network may hang without
# anybody hearing it. More would be of no use, and stand in the way of the "clear" that is to stop it.
_AHEAD: Final = 0.5
_PIECE: Final = 0.1  # seconds, at most, that a mark stands for: so exactly is known what was heard

# Seconds of speech that may wait for the caller: longer than any answer, so beyond that nobody is listening.
_UNHEARD: Final = 300.0

# And seconds that may wait for the model: what is said while its session is opened. A session that has lost
# its stream keeps as much again, and gives up before both are full.
_UNSAID: Final = 30.0

# Twilio sends audio as fast as it is spoken, in fifty messages a second, whether anybody speaks or not. Marks
# and keys are few. While a session is being opened nobody takes them: those of some seconds may come at once.
_FRAME: Final = 0.02  # seconds of audio in a message; any other counts as much
_FASTEST: Final = 4.0  # seconds of audio in a second
_AT_ONCE: Final = 20.0  # seconds of audio

_BETWEEN_KEYS: Final = 1.5  # seconds after which no other key is expected; "#" ends a number at once
_MOST_KEYS: Final = 32
_KEYED: Final = "I have pressed these keys on my telephone: {}"


GONE: Final = (WebSocketDisconnect, RuntimeError)
"""What sending on a socket raises that is gone; uvicorn raises the latter while it is closing one itself."""


class CallError(Exception):
    """Why we end a call: the code and the reason that close its WebSocket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Mouth:
    """What Twilio says, message by message, until the caller hangs up.

    Whatever Twilio would never do ends the call: messages out of order or that cannot be read, too many of
    them, or none at all. What it may do one day, such as a message of a new kind, is passed over.
    """

    def __init__(self, websocket: WebSocket, quiet: float) -> None:
        self._websocket = websocket
        self._quiet = quiet
        self._loop = asyncio.get_running_loop()
        self._level = 0.0  # of a bucket that leaks, in seconds of audio
        self._levelled_at = self._loop.time()

    async def begin(self) -> Beginning | None:
        """Return what is known of the call; None if it is over before it began.

        Raises:
            CallError: If that is not what comes first.
        """
        expected = "connected"
        async for message in self:
            match message:
                case Connected() if expected == "connected":
                    expected = "start"
                case Start(start=beginning) if expected == "start":
                    if beginning.media_format != MediaFormat():
                        raise CallError(1003, "the audio is not one channel of audio/x-mulaw at 8000 Hz")
                    return beginning
                case _:
                    raise CallError(1008, f"{_name(message)} came where {expected!r} belongs")
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FromTwilio:
        """Return the next message.

        Raises:
            StopAsyncIteration: If the caller has hung up, or the socket is gone.
            CallError: If it is nothing that Twilio would send.
        """
        try:
            async with asyncio.timeout(self._quiet):
                while (message := self._read(await self._websocket.receive())) is None:
                    pass
        except TimeoutError:
            raise CallError(1008, f"nothing came for {self._quiet:g} seconds") from None
        if isinstance(message, Stop):
            raise StopAsyncIteration
        return message

    def _read(self, received: Mapping[str, Any]) -> FromTwilio | None:
        """Return what was received; None if that is nothing we know of."""
        if received["type"] == "websocket.disconnect":
            return Stop()
        if received.get("text") is None:
            raise CallError(1003, "a message is binary, but must be text")
        try:
            message = mediastream.read(received["text"])
        except ValueError as exc:
            raise CallError(1007, f"a message cannot be read: {exc}") from exc
        self._count(len(message.media.payload) / SAMPLE_RATE if isinstance(message, Media) else _FRAME)
        return message

    def _count(self, seconds: float) -> None:
        now = self._loop.time()
        leaked = (now - self._levelled_at) * _FASTEST
        self._level, self._levelled_at = max(0.0, self._level - leaked) + max(seconds, _FRAME), now
        if self._level > _AT_ONCE:
            raise CallError(1008, f"more comes than anybody can say: {_FASTEST:g} times as fast")


class Ear:
    """What the caller hears: speech on its way to Twilio, which plays it in its own time.

    The model speaks several times faster than anybody listens. A mark follows each piece of its speech, and
    Twilio sends that back when it has played all before it. So the caller's own line sets the pace at which
    we send, and a session that is `played_by` this ear knows what was heard, give or take a piece.
    """

    def __init__(self, stream_sid: str) -> None:
        self._stream = stream_sid
        self._waiting = deque[tuple[int, bytes]]()  # turn, and µ-law
        self._unheard = 0.0  # seconds of that
        self._sent = dict[str, tuple[int, float]]()  # mark, and the turn and the seconds before it
        self._heard = dict[int, float]()  # seconds of each turn
        self._marks = 0
        self._mark = ""  # that is to follow what was sent
        self._clear = False
        self._changed = asyncio.Event()

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn's speech the caller has heard; None if none of it came."""
        return self._heard.get(turn)

    def play(self, chunk: AudioChunk) -> None:
        """Add to what the caller is to hear.

        Raises:
            CallError: If nothing of it is heard any more.
        """
        self._heard.setdefault(chunk.turn, 0.0)
        mulaw, size = g711.encode(chunk.pcm, "mulaw"), round(_PIECE * SAMPLE_RATE)
        self._waiting.extend((chunk.turn, mulaw[at : at + size]) for at in range(0, len(mulaw), size))
        self._unheard += len(mulaw) / SAMPLE_RATE
        if self._unheard > _UNHEARD:
            raise CallError(1008, f"{_UNHEARD:g} seconds of speech wait, and nobody listens")
        self._changed.set()

    def stop(self) -> None:
        """Fall silent, here and at Twilio, until there is something new to play."""
        self._waiting.clear()
        self._sent.clear()  # their marks come back all the same, and mean nothing
        self._unheard, self._mark, self._clear = 0.0, "", True
        self._changed.set()

    def played(self, mark: str) -> None:
        """Take note that the caller has heard what was sent before a mark."""
        if mark in self._sent:
            turn, seconds = self._sent.pop(mark)
            self._heard[turn] += seconds
            self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToTwilio:
        """Return what is to be sent next, once it is time for it."""
        while True:
            if self._clear:
                self._clear = False
                return Clear(stream_sid=self._stream)
            if self._mark:
                mark, self._mark = self._mark, ""
                return Mark(stream_sid=self._stream, mark=Label(name=mark))
            if self._waiting and sum(seconds for _, seconds in self._sent.values()) < _AHEAD:
                return Media(stream_sid=self._stream, media=Sound(payload=self._take()))
            self._changed.clear()
            await self._changed.wait()

    def _take(self) -> bytes:
        turn, mulaw = self._waiting.popleft()
        seconds = len(mulaw) / SAMPLE_RATE
        self._unheard -= seconds
        self._marks += 1
        self._mark = str(self._marks)
        self._sent[self._mark] = (turn, seconds)
        return mulaw


class Call:
    """A call that was taken.

    Args:
        websocket: Twilio's, accepted.
        idle: Seconds after which a call ends in which neither side says anything.
        quiet: Seconds after which a line is dead on which Twilio sends nothing, not even silence.
        greeting: What the model is told to do first; nothing if it is empty.
        options: The settings of the session. The TwiML's parameters `voice` and `system` stand before them.

    Attributes:
        session: The session, once the stream has begun.
    """

    def __init__(
        self, websocket: WebSocket, *, idle: float, quiet: float, greeting: str, options: SessionOptions
    ) -> None:
        self.session: SonicSession | None = None
        self._websocket = websocket
        self._mouth = Mouth(websocket, quiet)
        self._idle = idle
        self._patience: asyncio.Timeout
        self._greeting = greeting
        self._options = options
        self._said = asyncio.Queue[bytes](round(_UNSAID / _FRAME))
        self._keys = asyncio.Queue[str]()

    async def converse(self) -> str:
        """Hold the conversation to its end, and return why it has ended. The session is closed then.

        Raises:
            CallError: If Twilio does what it never would.
            SonicError: If the session fails.
        """
        beginning = await self._mouth.begin()
        if beginning is None:
            return "the caller hung up before it began"
        given = beginning.custom_parameters
        logger.info("%s: a call from %s", beginning.call_sid, shortened(given.get("caller", "")))
        options: SessionOptions = {
            **self._options,
            "input_rate": SAMPLE_RATE,
            "output_rate": SAMPLE_RATE,
            "chunk_samples": round(_FRAME * SAMPLE_RATE),  # so that what comes does not wait for more
            "silence": False,  # Twilio sends it; none is to be put in where some audio is late
        }
        if "voice" in given:
            options["voice"] = given["voice"]
        if "system" in given:
            options["system"] = given["system"]
        self.session = SonicSession(**options)
        async with self.session:
            reason = await self._talk(self.session, Ear(beginning.stream_sid))
        logger.info("%s: %s; %d tokens", beginning.call_sid, reason, self.session.usage.total)
        return reason

    async def _talk(self, session: SonicSession, ear: Ear) -> str:
        session.played_by(ear)
        if self._greeting:
            await session.send_text(self._greeting, in_history=False)
        try:
            async with asyncio.timeout(self._idle) as self._patience:
                return await _first(
                    self._listen(ear),
                    self._speak(ear),
                    self._follow(session, ear),
                    self._pass_on(session),
                    self._type(session),
                )
        except TimeoutError:
            return f"nobody has said anything for {self._idle:g} seconds"

    async def _listen(self, ear: Ear) -> str:
        """Take in what Twilio says. It waits for nobody else: a caller who hangs up is noticed at once."""
        async for message in self._mouth:
            match message:
                case Media(media=sound):
                    if self._said.full():
                        raise CallError(1011, "the assistant does not listen")
                    self._said.put_nowait(sound.payload)
                case Mark(mark=mark):
                    ear.played(mark.name)
                    self._stay()
                case Dtmf(dtmf=key):
                    self._keys.put_nowait(key.digit)
                    self._stay()
                case _:
                    raise CallError(1008, f"{_name(message)} came a second time")
        return "the caller has hung up"

    async def _speak(self, ear: Ear) -> str:
        """Let the caller hear the model."""
        with contextlib.suppress(*GONE):
            async for message in ear:
                await self._websocket.send_text(mediastream.write(message))
        return "the line is gone"

    async def _follow(self, session: SonicSession, ear: Ear) -> str:
        """Do what the session tells."""
        async for event in session:
            match event:
                case AudioChunk():
                    ear.play(event)
                case Interrupted():
                    ear.stop()
                case UserSpeechStarted() | Transcript(role="USER"):
                    self._stay()
                case _:
                    pass
        return "the service has ended the session"

    async def _pass_on(self, session: SonicSession) -> str:
        """Let the model hear the caller."""
        while True:
            mulaw = await self._said.get()
            await session.send_audio(mulaw, sample_rate=SAMPLE_RATE, encoding="mulaw")

    async def _type(self, session: SonicSession) -> str:
        """Tell the model what the caller keys, a number at a time: it does not know the tones of keys."""
        while True:
            keys = await self._keys.get()
            with contextlib.suppress(TimeoutError):
                while not keys.endswith("#") and len(keys) < _MOST_KEYS:
                    async with asyncio.timeout(_BETWEEN_KEYS):
                        keys += await self._keys.get()
            # As the caller's own words: a number that was keyed must outlive the stream that has heard it.
            await session.send_text(_KEYED.format(" ".join(keys)))

    def _stay(self) -> None:
        """Wait once more for so long as somebody may say nothing."""
        self._patience.reschedule(asyncio.get_running_loop().time() + self._idle)


async def _first(*parts: Coroutine[Any, Any, str]) -> str:
    """Do several things at once until one of them is done; return what it returns, or raise its error."""
    tasks = [asyncio.create_task(part, name="telephone-call") for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    # When a session ends, one part may return and another fail, both in the same moment.
    for result in results:
        if isinstance(result, str):
            return result
    raise next(result for result in results if isinstance(result, Exception))


def _name(message: FromTwilio) -> str:
    return repr(type(message).__name__.lower())


def shortened(number: str) -> str:
    """Return what a log may hold of a telephone number."""
    digits = [character for character in number if character.isdigit()]
    return f"…{''.join(digits[-3:])}" if digits else "nobody knows whom"
