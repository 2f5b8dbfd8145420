"""The emulated service without a wire: a `Connector` that a session can be given in place of Bedrock.

The same scenarios, rules and times as over TLS and HTTP/2, in one process and without a socket or a task::

    connector = MemoryConnector(Scenario(turns=[Turn(heard="hello", says=["Hello!"])]), speed=20)
"""

import asyncio
import copy
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never

from novasonic import errors, failures
from novasonic.emulator.hum import hum
from novasonic.emulator.log import SessionLog
from novasonic.emulator.mouth import Voice
from novasonic.emulator.outbox import Accepted, Broken, Document, Ended, Failed, Output, Refused, WireFault
from novasonic.emulator.playback import Playback
from novasonic.emulator.scenario import Fault, Scenario, Turn
from novasonic.emulator.service import Service
from novasonic.models import Limits

_NAMES: Final = {"reset": "RST_STREAM_RECEIVED", "goaway": "GOAWAY_RECEIVED", "cut": "CONNECTION_CLOSED"}
"""What the real way to the service calls these."""

# A service that has stopped reading shows as on the real way: there is room for so many bytes, little more
# than a second of speech, and when it has taken no more for so many seconds, it is missed.
_ROOM: Final = 2**16
_MISSED: Final = 3.0


class MemoryConnector:
    """Opens streams of an emulated service, in memory.

    Args:
        scenario: What is heard and answered; one for all streams, or one for each in order.
        model: What the client asks for.
        speed: Seconds of the service in one of the clock. The audio of a client does not run faster with it:
            the client sends it faster.
        max_streams: How many streams may be open at once.
        voice: Gives the sounds; tones unless told otherwise, as nobody listens.
        credentials_last: Seconds of the service, from its acceptance, after which a stream's credentials have
            expired; what is sent then is refused. None: they do not expire.

    Attributes:
        sessions: What the service noticed about each stream, in the order in which they were opened.
    """

    def __init__(
        self,
        scenario: Scenario | Sequence[Scenario] | None = None,
        *,
        model: str = "amazon.nova-2-sonic-v1:0",
        speed: float = 1.0,
        max_streams: int = Limits().streams,
        voice: Voice = hum,
        credentials_last: float | None = None,
    ) -> None:
        self._service = Service(scenario, voice=voice, max_streams=max_streams)
        self._model = model
        self._speed = speed
        self._expires_in = None if credentials_last is None else credentials_last / speed

    @property
    def sessions(self) -> Sequence[SessionLog]:
        """What the service noticed about each stream."""
        return self._service.sessions

    def unused(self) -> Sequence[Turn]:
        """Return the turns of a shared scenario that no stream has used."""
        return self._service.unused()

    def happened(self, fault: Fault) -> int:
        """Return how often a fault of a scenario has happened: this one, not another that is like it."""
        return self._service.happened(fault)

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "MemoryTransport":  # noqa: ASYNC109 - as in `Connector`
        """Open a stream; see `novasonic.transport.Connector`."""
        playback = Playback(lambda now: self._service.open(self._model, now), speed=self._speed)
        transport = MemoryTransport(playback, expires_in=self._expires_in)
        try:
            async with asyncio.timeout(timeout):
                await transport.open(first)
        except TimeoutError as exc:
            playback.stream.abandon(playback.now)
            raise errors.ConnectError(
                f"the service heard what was sent, and did not answer within {timeout:g} s; try again"
            ) from exc
        except BaseException:
            playback.stream.abandon(playback.now)
            raise
        return transport


class MemoryTransport:
    """A stream of an emulated service; see `novasonic.transport.Transport`.

    Attributes:
        request_id: The service's id of the stream.
        expires_in: Seconds of the clock, from the stream's acceptance, until its credentials expire.
    """

    def __init__(self, playback: Playback, *, expires_in: float | None = None) -> None:
        self.request_id: str | None = playback.stream.request_id
        self.expires_in = expires_in
        self._expires_at = math.inf
        self._playback = playback
        self._received: deque[bytes] = deque()
        self._ended = False  # in good order
        self._failure: errors.SonicError | None = None
        self._stalled = False
        self._room = _ROOM  # for what a stalled service does not read
        self._closed = asyncio.Event()
        self._over = asyncio.Event()  # closed, or missed

    async def open(self, first: Sequence[bytes]) -> None:
        """Send `first` and wait until the service has accepted the stream.

        Raises:
            TransportError: If it has not.
        """
        for document in first:
            self._playback.receive(document)
        while True:
            outputs = await self._playback.outputs()
            self._take(outputs)
            if any(isinstance(each, Accepted) for each in outputs):
                break
            if self._failure is not None:
                raise copy.copy(self._failure)  # each raise has a traceback of its own
            if self._stalled:
                await self._closed.wait()
        if self.expires_in is not None:
            self._expires_at = asyncio.get_running_loop().time() + self.expires_in

    async def send(self, data: bytes) -> None:
        """Send one message."""
        if self._stalled:
            self._room -= len(data)
            if self._room < 0:
                await self._miss()
        self._check()
        if asyncio.get_running_loop().time() < self._expires_at:
            self._playback.receive(data)
        else:
            self._fail_expired()
        # As a wire would: let whoever reads have a turn, too.
        await asyncio.sleep(0)

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the service has ended the stream in good order."""
        while not self._received:
            if self._failure is not None:
                raise copy.copy(self._failure)
            if self._ended:
                return None
            if self._closed.is_set():
                raise failures.lost("CLOSED_LOCALLY")
            if self._stalled:
                await self._over.wait()
            else:
                self._take(await self._playback.outputs())
        return self._received.popleft()

    async def end_input(self) -> None:
        """Tell the service that no more messages will come."""
        self._playback.end_input()

    async def aclose(self) -> None:
        """Give up the stream."""
        self._closed.set()
        self._over.set()
        self._playback.stream.abandon(self._playback.now)
        self._playback.wake()

    def _fail_expired(self) -> None:
        """The service checks each message, whose signature rests on the credentials of the stream."""
        self._failure = failures.refused(
            "the service",
            "ExpiredTokenException",
            "The security token included in the request is expired",
            id_=self.request_id,
        )
        self._playback.stream.abandon(self._playback.now)
        self._playback.wake()

    def _check(self) -> None:
        # As over a wire, a stream that has ended takes what is sent until its end has been read.
        if self._failure is not None:
            raise copy.copy(self._failure)
        if self._ended:
            raise failures.lost("ENDED_BY_SERVICE")

    def _take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Document(data=data):
                    self._received.append(data)
                case Ended():
                    self._ended = True
                case Refused(code=code, message=message) | Failed(code=code, message=message):
                    self._failure = failures.refused("the service", code, message, id_=self.request_id)
                case Broken(how=how):
                    self._break(how)
                case Accepted():
                    pass

    def _break(self, how: WireFault) -> None:
        match how:
            case "stall":
                self._stalled = True
            case "goaway_others":
                pass
            case "garbled" | "truncated":
                self._failure = errors.RemoteProtocolError(f"what the service sent cannot be read: {how}")
            case "reset" | "goaway" | "cut":
                self._failure = failures.lost(_NAMES[how])
            case _:
                assert_never(how)

    async def _miss(self) -> None:
        """Wait until it shows that the service has stopped reading, or the stream is given up."""
        try:
            async with asyncio.timeout(_MISSED):
                await self._over.wait()
        except TimeoutError:
            self._failure = failures.lost("PEER_STALLED")
            self._over.set()
