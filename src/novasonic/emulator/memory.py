"""The emulated service without a wire: a `Connector` that a session can be given in place of Bedrock.

The same scenarios, rules and times as over TLS and HTTP/2, in one process and without a socket or a task::

    connector = MemoryConnector(Scenario(turns=[Turn(heard="hello", says=["Hello!"])]), speed=20)
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from novasonic import errors
from novasonic.emulator.hum import hum
from novasonic.emulator.log import SessionLog
from novasonic.emulator.mouth import Voice
from novasonic.emulator.outbox import Accepted, Broken, Document, Ended, Failed, Output, Refused
from novasonic.emulator.playback import Playback
from novasonic.emulator.scenario import Scenario, Turn
from novasonic.emulator.service import Service
from novasonic.errors import TransportError
from novasonic.models import Limits

_ERRORS: Final[dict[str, type[TransportError]]] = {
    "AccessDeniedException": errors.AccessDeniedError,
    "ExpiredTokenException": errors.CredentialsError,
    "InvalidSignatureException": errors.CredentialsError,
    "ModelTimeoutException": errors.SessionExpiredError,
    "ResourceNotFoundException": errors.ModelNotFoundError,
    "ServiceQuotaExceededException": errors.ThrottledError,
    "ThrottlingException": errors.ThrottledError,
    "UnrecognizedClientException": errors.CredentialsError,
}
_TEXTS: Final[tuple[tuple[str, type[TransportError]], ...]] = (
    ("Timed out waiting", errors.InputTimeoutError),
    ("InternalErrorCode=531", errors.SessionExpiredError),
    ("System instability", errors.ServiceError),
    ("model identifier is invalid", errors.ModelNotFoundError),
    ("end of its life", errors.ModelNotFoundError),
)
"""A ValidationException may be anything: its text tells."""


class MemoryConnector:
    """Opens streams of an emulated service, in memory.

    Args:
        scenario: What is heard and answered; one for all streams, or one for each in order.
        model: What the client asks for.
        speed: Seconds of the service in one of the clock. The audio of a client does not run faster with it:
            the client sends it faster.
        max_streams: How many streams may be open at once.
        voice: Gives the sounds; tones unless told otherwise, as nobody listens.

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
    ) -> None:
        self._service = Service(scenario, voice=voice, max_streams=max_streams)
        self._model = model
        self._speed = speed

    @property
    def sessions(self) -> Sequence[SessionLog]:
        """What the service noticed about each stream."""
        return self._service.sessions

    def unused(self) -> Sequence[Turn]:
        """Return the turns of a shared scenario that no stream has used."""
        return self._service.unused()

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "MemoryTransport":  # noqa: ASYNC109 - as in `Connector`
        """Open a stream; see `novasonic.transport.Connector`."""
        playback = Playback(lambda now: self._service.open(self._model, now), speed=self._speed)
        transport = MemoryTransport(playback)
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
    """

    def __init__(self, playback: Playback) -> None:
        self.request_id: str | None = playback.stream.request_id
        self._playback = playback
        self._received: deque[bytes] = deque()
        self._ended = False  # in good order
        self._failure: errors.SonicError | None = None
        self._stalled = False
        self._closed = asyncio.Event()

    async def open(self, first: Sequence[bytes]) -> None:
        """Send `first` and wait until the service has accepted the stream.

        Raises:
            TransportError: If it has not.
        """
        for document in first:
            self._playback.receive(document)
        accepted = False
        while not accepted:
            outputs = await self._playback.outputs()
            accepted = any(isinstance(each, Accepted) for each in outputs)
            self._take(outputs)
            if not accepted and self._failure is not None:
                raise self._failure
            if self._stalled:
                await self._closed.wait()

    async def send(self, data: bytes) -> None:
        """Send one message."""
        if self._stalled:
            await self._closed.wait()
        self._check()
        self._playback.receive(data)
        # As a wire would: let whoever reads have a turn, too.
        await asyncio.sleep(0)

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the service has ended the stream in good order."""
        while not self._received:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            if self._closed.is_set():
                raise errors.StreamLostError("the stream was closed on this side")
            if self._stalled:
                await self._closed.wait()
            else:
                self._take(await self._playback.outputs())
        return self._received.popleft()

    async def end_input(self) -> None:
        """Tell the service that no more messages will come."""
        self._playback.end_input()

    async def aclose(self) -> None:
        """Give up the stream."""
        self._closed.set()
        self._playback.stream.abandon(self._playback.now)
        self._playback.wake()

    def _check(self) -> None:
        # As over a wire, a stream that has ended takes what is sent until its end has been read.
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise errors.StreamLostError(
                "the service has ended the stream: nothing can be sent any more",
                request_id=self.request_id,
            )

    def _take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Document(data=data):
                    self._received.append(data)
                case Ended():
                    self._ended = True
                case Refused(code=code, message=message) | Failed(code=code, message=message):
                    self._failure = _error(code, message, self.request_id)
                case Broken(how=how):
                    self._break(how)
                case Accepted():
                    pass

    def _break(self, how: str) -> None:
        match how:
            case "stall":
                self._stalled = True
            case "goaway_others":
                pass
            case "garbled" | "truncated":
                self._failure = errors.RemoteProtocolError(f"what the service sent cannot be read: {how}")
            case _:
                self._failure = errors.StreamLostError(
                    f"the stream ended without a goodbye: {how}", code=how, request_id=self.request_id
                )


def _error(code: str, message: str, request_id: str | None) -> TransportError:
    name = code[0].upper() + code[1:]
    kind = _ERRORS.get(name, errors.ServiceError)
    if name == "ValidationException":
        kind = next((kind for text, kind in _TEXTS if text in message), errors.InvalidRequestError)
    return kind(f"{name}: {message}", code=name, request_id=request_id)
