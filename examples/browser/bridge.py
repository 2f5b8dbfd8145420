"""One socket of a page, and the session with Nova Sonic behind it. It ends with the socket, whatever happens.

Four tasks share the work: one listens to the page, one to the session, one hands out speech when it is due,
and one watches whether anybody still speaks. The first of them that is through ends the conversation.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Never
from uuid import uuid4

from starlette.websockets import WebSocket, WebSocketDisconnect

import messages
from limits import Allowance, Limits
from novasonic import (
    AudioChunk,
    ConfigurationError,
    Event,
    Interrupted,
    Reconnecting,
    SessionEnded,
    SessionLimiter,
    SessionRenewed,
    SessionState,
    SonicError,
    SonicSession,
    ThrottledError,
    ToolCall,
    ToolResult,
    Transcript,
    TransportError,
)
from novasonic.credentials import Credentials
from novasonic.errors import AccessDeniedError, CredentialsError, LocalProtocolError
from novasonic.events import UserSpeechEnded, UserSpeechStarted
from novasonic.session import SessionOptions
from pacing import Pacer

logger = logging.getLogger("browser.bridge")

INPUT_RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all bridges have in common.

    Attributes:
        limits: What a page may ask for.
        places: One for each conversation.
        session: Settings of every session, such as its tools; what a page asks for goes before.
        client_credentials: Whether pages may bring AWS credentials of their own.
        emulated: Whether an emulator answers.
    """

    limits: Limits
    places: SessionLimiter
    session: SessionOptions
    client_credentials: bool = False
    emulated: bool = False


class Ending(Exception):  # noqa: N818 - most conversations end without an error
    """How a conversation ends: why, what the page is told, and how the socket is closed."""

    def __init__(self, reason: str, *, close: int = 1000, error: messages.Error | None = None) -> None:
        super().__init__(reason)
        self.reason, self.close, self.error = reason, close, error

    @classmethod
    def refused(cls, code: str, message: str) -> "Ending":
        """Return the end of a page that does not keep to the rules."""
        return cls(code.lower(), close=1008, error=messages.Error(code=code, message=message))

    @classmethod
    def failed(cls, exc: Exception, *, own_account: bool) -> "Ending":
        """Return the end that a failure makes, in words that a page may see."""
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(exc).__name__.removesuffix("Error")).upper()
        text, retryable = str(exc), isinstance(exc, TransportError) and exc.retryable
        if not isinstance(exc, SonicError):
            logger.error("a conversation failed", exc_info=exc)
            code, text = "INTERNAL", "The server failed; its log says how."
        elif own_account and isinstance(exc, AccessDeniedError | CredentialsError | ConfigurationError):
            logger.error("%s", exc)  # AWS names account and user, which are nobody's business
            text = "The server cannot use its AWS account; its log says why."
        else:
            logger.warning("a conversation failed: %s", exc)
        error = messages.Error(code=code, message=text, retryable=retryable)
        return cls("error", close=1013 if isinstance(exc, ThrottledError) else 1011, error=error)


class Bridge:
    """Serves one socket.

    Attributes:
        id: Of the conversation, for the page and for the status.
        session: What it talks with, once that is open.
        turns: How many the model has begun.
    """

    def __init__(self, socket: WebSocket, settings: Settings) -> None:
        self.id = str(uuid4())
        self.session: SonicSession | None = None
        self.turns = 0
        self._socket = socket
        self._settings = settings
        self._limits = limits = settings.limits
        self._format: messages.AudioFormat = "base64"
        self._own_account = True
        self._loop = asyncio.get_running_loop()
        self._began = self._active = self._loop.time()
        self._messages = Allowance(limits.messages_per_second, limits.messages_at_once)
        self._audio = Allowance(limits.audio_per_second, limits.audio_at_once)
        self._pacer = Pacer(limits.ahead)
        self._sending = asyncio.Lock()  # keeps the order: no audio goes out after the word that cuts it
        self._leaving = False  # whether the page has asked for the end
        self._told_to_end: asyncio.Future[Ending] = self._loop.create_future()

    @property
    def age(self) -> float:
        """Seconds since the socket was opened."""
        return self._loop.time() - self._began

    @property
    def idle(self) -> float:
        """Seconds in which nobody has said anything."""
        return self._loop.time() - self._active

    @property
    def tokens(self) -> int:
        """How many tokens the service has counted."""
        return 0 if self.session is None else self.session.usage.total

    @property
    def talking(self) -> bool:
        """Whether its session is open, or still being closed."""
        return self.session is not None and self.session.state is not SessionState.CLOSED

    def end(self, reason: str, *, close: int = 1000) -> None:
        """Have the conversation ended; returns at once."""
        if not self._told_to_end.done():
            self._told_to_end.set_result(Ending(reason, close=close))

    async def serve(self) -> None:
        """Serve the socket until either side has had enough. Cancelling ends the session, too."""
        ending = await self._ending(self._converse())
        if ending.reason == "client_gone":
            return
        # A page that has stopped reading may have its reasons: if it reads again, it is told what it missed.
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(2 * self._limits.send_within):
                if ending.error is not None:
                    await self._socket.send_text(messages.encode(ending.error))
                if self.session is not None:
                    ended = messages.ConversationEnded(reason=ending.reason)
                    await self._socket.send_text(messages.encode(ended))
                await self._socket.close(ending.close, ending.reason)

    async def _ending(self, work: Coroutine[Any, Any, Never]) -> Ending:
        """Do some work, and return how it ended."""
        try:
            return await work
        except Ending as ending:
            return ending
        except WebSocketDisconnect:
            return Ending("client_gone")
        except Exception as exc:  # noqa: BLE001 - other conversations go on
            return Ending.failed(exc, own_account=self._own_account)

    async def _converse(self) -> Never:
        session, voice = await self._initialized()
        session.played_by(self._pacer)
        async with session:
            self.session = session
            ending = await self._ending(self._talk(voice))  # caught here, so that the session says goodbye
        raise ending

    async def _talk(self, voice: str) -> Never:
        self._active = self._loop.time()
        await self._say(
            messages.Initialized(
                session_id=self.id,
                voice_id=voice,
                audio_format=self._format,
                input_sample_rate=INPUT_RATE,
                emulated=self._settings.emulated,
            )
        )
        await _first_of(self._listen(), self._tell(), self._speak(), self._watch())

    # --- before the conversation --------------------------------------------------------------------------

    async def _initialized(self) -> tuple[SonicSession, str]:
        """Wait for `initialize`, and return the session and the voice that it asks for."""
        try:
            async with asyncio.timeout(self._limits.initialize_within):
                while True:
                    message = await self._hear()
                    if not isinstance(message, messages.Initialize):
                        await self._complain("NOT_INITIALIZED", "say initialize first")
                    elif message.asks_for_aws and not self._settings.client_credentials:
                        await self._complain(
                            "CREDENTIALS_REFUSED",
                            "this server has credentials of its own, and takes none; leave out all that "
                            "begins with aws",
                        )
                    else:
                        try:
                            return self._asked_for(message)
                        except ConfigurationError as exc:
                            await self._complain("CONFIGURATION", str(exc))
        except TimeoutError:
            raise Ending.refused(
                "NOT_INITIALIZED", f"nobody said initialize within {self._limits.initialize_within:g} s"
            ) from None

    def _asked_for(self, message: messages.Initialize) -> tuple[SonicSession, str]:
        options = SessionOptions(**self._settings.session)
        options["limiter"] = self._settings.places
        options["input_rate"] = INPUT_RATE
        if message.system_prompt:
            options["system"] = message.system_prompt
        if message.voice_id:
            options["voice"] = message.voice_id
        if message.aws_region:
            options["region"] = message.aws_region
        if message.aws_access_key_id or message.aws_secret_access_key or message.aws_session_token:
            options["credentials"] = Credentials(
                message.aws_access_key_id or "",
                message.aws_secret_access_key or "",
                message.aws_session_token,
            )
            self._own_account = False
        self._format = message.audio_format
        return SonicSession(**options), options.get("voice", "matthew")

    # --- from the page ------------------------------------------------------------------------------------

    async def _hear(self) -> messages.FromPage:
        """Return the next message; answer what is none."""
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                raise Ending("client_gone")
            if not self._messages.take(1):
                raise Ending.refused("TOO_MANY_MESSAGES", "so many messages cannot be taken; send fewer")
            data = received.get("bytes")
            try:
                message = messages.decode(received["text"] if data is None else data)
            except messages.BadMessageError as exc:
                await self._complain("BAD_MESSAGE", f"this is no message: {exc}")
                continue
            seconds = len(message.audio) / 2 / INPUT_RATE if isinstance(message, messages.AudioChunk) else 0.0
            if not self._audio.take(seconds):
                raise Ending.refused("TOO_MUCH_AUDIO", "audio comes much faster than anybody speaks")
            return message

    async def _listen(self) -> Never:
        session = self._open
        while True:
            message = await self._hear()
            if self._leaving:
                continue  # it speaks to nobody, but the socket is still to be watched
            try:
                match message:
                    case messages.AudioChunk(audio=pcm):
                        await session.send_audio(pcm)
                    case messages.TextMessage(text=text):
                        await session.send_text(text)
                        self._active = self._loop.time()
                    case messages.EndConversation():
                        self._leaving = True
                        await session.end()
                    case messages.Initialize():
                        await self._complain("ALREADY_INITIALIZED", "one socket is one conversation")
            except ConfigurationError as exc:
                await self._complain("CONFIGURATION", str(exc))
            except LocalProtocolError as exc:
                await self._complain("NOT_NOW", str(exc))

    # --- to the page --------------------------------------------------------------------------------------

    async def _tell(self) -> Never:
        async for event in self._open:
            if not isinstance(event, SessionEnded):
                await self._pass_on(event)
        raise Ending("client_request" if self._leaving else "service_ended")

    async def _pass_on(self, event: Event) -> None:
        """Tell the page what it wants to know, and keep the speech until it is due."""
        self.turns = max(self.turns, event.turn)
        match event:
            case AudioChunk():
                await self._pacer.put(event)
            case Interrupted(turn=turn, heard=heard):
                self._pacer.stop()
                await self._say(messages.Interrupted(turn=turn, heard=heard))
            case Transcript(role="USER", text=text, turn=turn, content_id=id_):
                self._active = self._loop.time()
                await self._say(messages.Transcription(text=text, is_final=True, turn=turn, content_id=id_))
            case Transcript(text=text, stage=stage, turn=turn, content_id=id_):
                final = stage == "FINAL"
                await self._say(messages.TextResponse(text=text, is_final=final, turn=turn, content_id=id_))
            case ToolCall(id=id_, name=name, arguments=arguments):
                await self._say(messages.ToolUse(id=id_, name=name, status="running", arguments=arguments))
            case ToolResult(id=id_, name=name, error=error):
                await self._say(messages.ToolUse(id=id_, name=name, status="failed" if error else "done"))
            case UserSpeechStarted():
                self._active = self._loop.time()
                await self._say(messages.State(state="hearing"))
            case UserSpeechEnded():
                await self._say(messages.State(state="heard"))
            case Reconnecting():
                await self._say(messages.State(state="reconnecting"))
            case SessionRenewed(reason="error"):
                await self._say(messages.State(state="reconnected"))
            case _:
                pass

    async def _speak(self) -> Never:
        while True:
            chunk = await self._pacer.next()
            self._active = self._loop.time()
            if self._format == "binary":
                await self._send(chunk.pcm)
            else:
                await self._say(
                    messages.AudioResponse(audio=chunk.pcm, sample_rate=chunk.sample_rate, turn=chunk.turn)
                )

    async def _watch(self) -> Never:
        while (left := self._limits.idle_after - self.idle) > 0:
            told, _ = await asyncio.wait({self._told_to_end}, timeout=left)
            if told:
                raise self._told_to_end.result()
        error = messages.Error(code="IDLE", message=f"nobody spoke for {self._limits.idle_after:g} s")
        raise Ending("idle", error=error)

    async def _complain(self, code: str, message: str) -> None:
        await self._say(messages.Error(code=code, message=message))

    async def _say(self, message: messages.ToPage) -> None:
        await self._send(messages.encode(message))

    async def _send(self, frame: str | bytes) -> None:
        """Send a frame; wait while the page is slow."""
        try:
            async with asyncio.timeout(self._limits.send_within), self._sending:
                if isinstance(frame, str):
                    await self._socket.send_text(frame)
                else:
                    await self._socket.send_bytes(frame)
        except TimeoutError:
            within = self._limits.send_within
            raise Ending.refused("TOO_SLOW", f"nobody read what was sent for {within:g} s") from None
        except RuntimeError:  # uvicorn has closed the socket, as a message was too long, or no pong came
            raise Ending("client_gone") from None

    @property
    def _open(self) -> SonicSession:
        assert self.session is not None  # noqa: S101 - nobody asks before
        return self.session


async def _first_of(*work: Coroutine[Any, Any, Never]) -> Never:
    """Run all of it at once until one raises; raise that, once the others have ended."""
    tasks: Sequence[asyncio.Task[Never]] = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    failures = [task.exception() for task in tasks if task in done]
    raise next(each for each in failures if each is not None)
