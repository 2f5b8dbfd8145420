"""SonicSession: a spoken conversation with Amazon Nova 2 Sonic.

A session holds together a stream to the service, the user's voice that goes out on it, the conversation that
is told by what comes back, and the events that wait for the program.
"""

import asyncio
import contextlib
import logging
import os
import warnings
from collections.abc import AsyncIterable, Buffer, Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, Unpack

import msgspec

from novasonic import audio, events, models, playback
from novasonic.audio import Encoding
from novasonic.capture import Capture
from novasonic.continuation import Carried, Renewal, Retry, alternating, carry
from novasonic.conversation import Conversation, Left, Message, Player
from novasonic.credentials import CredentialsSource
from novasonic.errors import (
    ConcurrencyError,
    ConfigurationError,
    InvalidRequestError,
    LocalProtocolError,
    ModelNotFoundError,
    ServiceError,
    StreamLostError,
    TransportError,
)
from novasonic.events import Event
from novasonic.files import SUFFIXES
from novasonic.inbox import Inbox
from novasonic.limiter import SessionLimiter
from novasonic.line import Line
from novasonic.messages import Endpointing, Inference, InputMessage, OutputMessage
from novasonic.models import Usage
from novasonic.outgoing import Outgoing
from novasonic.recorder import Recorder
from novasonic.recording import Recording
from novasonic.reply import Answer, Reply
from novasonic.runner import ToolRunner
from novasonic.settings import Settings, check_text, check_type
from novasonic.speech import Form, Speech
from novasonic.tools import AnyTool, Tool, ToolContext, offered, result_text
from novasonic.transport import Connector

logger = logging.getLogger("novasonic.session")

_DEFAULT_MODEL: Final = "amazon.nova-2-sonic-v1:0"
_DEFAULT_SYSTEM: Final = "You are a friendly assistant. Keep your answers short: they are spoken."

# What is left, in seconds, of `close_timeout` for giving up a stream whose goodbye nobody answered.
_GIVING_UP: Final = 1.0

# And for tools that do not end when they are cancelled.
_GIVING_UP_TOOLS: Final = 1.0

# A recording may hold pauses, and each may be answered. Once all of it was sent and so long, in seconds, no
# more speech was heard in it, the last answer is the answer.
_SETTLING: Final = 0.5


class _Export(msgspec.Struct, frozen=True, kw_only=True):
    """What `export` writes and `resume` reads."""

    novasonic: Literal[1] = 1
    history: tuple[Message, ...] = ()
    turns: int = 0
    usage: Usage = Usage()


def _read_export(text: str) -> _Export:
    try:
        return msgspec.json.decode(text, type=_Export)
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"resume is nothing that export() has returned: {exc}") from exc


class SessionState(Enum):
    """Where a session is."""

    NEW = "new"
    OPENING = "opening"
    OPEN = "open"
    ENDING = "ending"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What went over a session so far.

    Attributes:
        speech_sent: Seconds of audio that the program gave.
        silence_sent: Seconds of silence that the session added.
        audio_dropped: Seconds of audio that `feed_audio` had no room for.
        audio_received: Seconds of the model's speech.
        unread_bytes: About how much memory the events take that the program has not read yet.
    """

    speech_sent: float = 0.0
    silence_sent: float = 0.0
    audio_dropped: float = 0.0
    audio_received: float = 0.0
    unread_bytes: int = 0


class _AwsOptions(TypedDict):
    region: str | None
    profile: str | None
    credentials: CredentialsSource | None
    endpoint_url: str | None


class SonicSession:
    """A spoken conversation.

    The constructor only stores and checks; `async with` opens and closes. A session is used once, in one
    event loop, and read by one task at a time:

        async with SonicSession(voice="tiffany", system="Be brief.") as session:
            await session.send_text("Hello!")
            async for event in session:
                ...

    Iterating ends when all went well and raises when it did not. Leaving the block by an exception skips
    the goodbye to the service.

    Args:
        model: Id of a model or an inference profile, or an ARN; or a `models.Model` with facts of your own.
        voice: One of the model's voices.
        system: What the model is told about itself and its task.
        tools: What the model may call: functions, decorated with `tool` or not, which the session runs beside
            the conversation; or `ToolSpec`s, whose calls the program answers with `send_tool_result`.
        tool_choice: "auto", "any", or the name of the tool that each response must begin with.
        history: What was said before; the user first.
        inference: How the model chooses its words.
        endpointing: How soon a pause of the user's ends a turn: sensitivity "HIGH", "MEDIUM" or "LOW". None
            leaves it to the service.
        input_rate: Of the audio that goes to the service: 8,000, 16,000 or 24,000 Hz. `send_audio` takes
            others and converts them.
        output_rate: Of the speech that comes back: 8,000, 16,000 or 24,000 Hz.
        chunk_samples: Samples of a frame of audio that goes to the service, 1 to 4,096. AWS advises 32 ms.
        region: AWS region; by default that of the environment or the profile.
        profile: Profile of the AWS configuration files.
        credentials: AWS credentials, or a callable that returns them, in place of the usual sources.
        endpoint_url: Where the service is, if not where AWS says.
        silence: Whether silence is sent while the program sends nothing. The service finds the end of what
            the user says in the audio itself, and drops a session that goes quiet.
        renewal: When the conversation moves on to another stream, before the service closes the one that it
            has, after eight minutes; None for never.
        retry: How it goes on when a stream was lost; None: iterating raises what went wrong.
        limiter: Places for the sessions of a program: opening waits for one, `open_timeout` at most.
        resume: What `export` returned, here or in another process: the conversation goes on.
        record_audio: A WAV file into which the conversation is recorded while it goes on: the user on the
            left, the assistant on the right, as they were heard. With a `novasonic.playback.Player` (see
            `played_by`), the assistant is what that has played; without one, what would have been heard if
            each response was played at once, and cut where the user broke in.
        record: A file into which everything that goes over the session's streams is written while it goes on,
            as JSON lines: a path, or a `Recording`, which can leave out audio and texts. `novasonic.replay`
            plays it to another session, and the command `novasonic replay` shows it.
        open_timeout: Seconds within which the session opens, or raises.
        close_timeout: Seconds within which it closes.
        transport: Another way to the service than AWS, such as a fake for tests.

    Raises:
        ConfigurationError: If a setting is wrong; it names the setting.
    """

    def __init__(
        self,
        *,
        model: str | models.Model = _DEFAULT_MODEL,
        voice: str = "matthew",
        system: str = _DEFAULT_SYSTEM,
        tools: Sequence[AnyTool] = (),
        tool_choice: str | None = None,
        history: Sequence[Message] = (),
        inference: Inference = Inference(),  # noqa: B008 - frozen
        endpointing: Endpointing | None = None,
        input_rate: int = 16_000,
        output_rate: int = 24_000,
        chunk_samples: int = 512,
        region: str | None = None,
        profile: str | None = None,
        credentials: CredentialsSource | None = None,
        endpoint_url: str | None = None,
        silence: bool = True,
        renewal: Renewal | None = Renewal(),  # noqa: B008 - frozen
        retry: Retry | None = Retry(),  # noqa: B008 - frozen
        limiter: SessionLimiter | None = None,
        resume: str | None = None,
        record_audio: str | os.PathLike[str] | None = None,
        record: str | os.PathLike[str] | Recording | None = None,
        open_timeout: float = 10.0,
        close_timeout: float = 5.0,
        transport: Connector | None = None,
    ) -> None:
        tools = offered(tools)
        self._settings = Settings(
            model=models.lookup(model),
            voice=voice,
            system=system,
            tools=tuple(each.spec if isinstance(each, Tool) else each for each in tools),
            tool_choice=tool_choice,
            history=tuple(history),
            inference=inference,
            endpointing=endpointing,
            input_rate=input_rate,
            output_rate=output_rate,
            chunk_samples=chunk_samples,
            silence=silence,
            record_audio=record_audio,
            open_timeout=open_timeout,
            close_timeout=close_timeout,
        )
        self._aws = _AwsOptions(
            region=region, profile=profile, credentials=credentials, endpoint_url=endpoint_url
        )
        given = [name for name, value in self._aws.items() if value is not None]
        if transport is not None and given:
            raise ConfigurationError(
                f"{', '.join(given)} cannot be given together with transport, which replaces AWS"
            )
        self._connect = transport
        self._oddities = self._settings.oddities(datetime.now(UTC).date())
        for oddity in self._oddities:
            warnings.warn(oddity, stacklevel=2)

        check_type("renewal", renewal, Renewal, or_none=True)
        check_type("retry", retry, Retry, or_none=True)
        check_type("limiter", limiter, SessionLimiter, or_none=True)
        if resume is not None and history:
            raise ConfigurationError("history cannot be given together with resume, which has its own")
        self._renewal, self._retry, self._limiter = renewal, retry, limiter
        self._record = record if record is None or isinstance(record, Recording) else Recording(record)
        self._resumed = None if resume is None else _read_export(resume)
        before = self._resumed or _Export(history=tuple(history))
        self._state = SessionState.NEW
        self._conversation = Conversation(
            history=before.history,
            prices=self._settings.model.prices,
            sample_rate=input_rate,
            turns=before.turns,
            usage=before.usage,
        )
        self._listeners: list[Callable[[InputMessage | OutputMessage, float], None]] = []
        self._runner = ToolRunner(
            tools, answer=self._answer_call, context=lambda call: ToolContext(session=self, call=call)
        )
        self._received_seconds = 0.0
        self._reading = False
        self._tasks = set[asyncio.Task[None]]()  # sources and silence
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: Inbox | None = None
        self._line: Line | None = None
        self._placed = False  # whether the limiter has given us a place
        self._speech: Speech | None = None
        self._recorder: Recorder | None = None
        self._capture: Capture | None = None

    # --- what is known ------------------------------------------------------------------------------------

    @property
    def model(self) -> models.Model:
        """The model, and what is known of it."""
        return self._settings.model

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        return self._state

    @property
    def session_id(self) -> str | None:
        """The service's id of the session, or of its current stream; None until that has heard some audio."""
        return None if self._line is None else self._line.session_id

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said and heard so far, in order. Never what was planned and not spoken."""
        return self._conversation.history

    @property
    def usage(self) -> Usage:
        """The tokens that the service has counted so far; `usage.cost()` is their price in US dollars."""
        return self._conversation.usage

    @property
    def stats(self) -> Stats:
        """What went over the session so far."""
        if self._speech is None or self._inbox is None:
            return Stats()
        return Stats(
            speech_sent=self._speech.sent,
            silence_sent=self._speech.silence,
            audio_dropped=self._speech.dropped,
            audio_received=self._received_seconds,
            unread_bytes=self._inbox.unread_bytes,
        )

    def on_message(self, callback: Callable[[InputMessage | OutputMessage, float], None]) -> None:
        """Have `callback(message, time)` called with every message of both directions, as it passes.

        The time is the event loop's, in seconds. The callback runs in the event loop and must not wait; if
        it fails, that is logged and changes nothing.
        """
        self._listeners.append(callback)

    def played_by(self, player: Player) -> None:
        """Let `player` tell how much of the model's speech was heard, and when.

        `Interrupted.heard`, `Latency.heard` and the history then know it. A recording takes the assistant's
        voice from it, if it is a `novasonic.playback.Player` or a `novasonic.devices.Speaker`.
        """
        inner: object = getattr(player, "player", None)  # a loudspeaker's own
        player = inner if isinstance(inner, playback.Player) else player
        self._conversation.player = player
        if self._recorder is not None and isinstance(player, playback.Player):
            self._recorder.follow(player)

    def export(self) -> str:
        """Return the conversation so far as JSON text, for `resume=`, in this process or another.

        It holds the transcript, the tool calls, the number of turns and the tokens that were counted; no
        audio, no settings and nothing secret besides what was said. It can be had at any time, also after
        the end.
        """
        state = _Export(history=self.history, turns=self._conversation.turns, usage=self.usage)
        return msgspec.json.encode(state).decode()

    # --- opening and closing ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the session. Cancelling is safe: nothing is left behind.

        Raises:
            ConfigurationError: If AWS is not configured as it must be.
            TransportError: If the service cannot be reached, or refuses.
            LocalProtocolError: If the session was used before.
        """
        if self._state is not SessionState.NEW:
            raise LocalProtocolError(f"a session is used once, and this one is {self._state.value}")
        self._state = SessionState.OPENING
        try:
            await self._open()
        except BaseException:
            self._state = SessionState.CLOSED
            await self._leave()
            raise
        self._state = SessionState.OPEN
        return self

    async def _open(self) -> None:
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        self._inbox = inbox = Inbox()
        deadline = self._loop.time() + settings.open_timeout
        if settings.record_audio is not None:
            rate = max(settings.input_rate, settings.output_rate)
            self._recorder = Recorder(settings.record_audio, sample_rate=rate)
            await self._recorder.open()
        if self._record is not None:
            self._capture = Capture(self._record, model=settings.model.id)
            await self._capture.open()
        if self._limiter is not None:
            await self._limiter.acquire(max(0.0, deadline - self._loop.time()))
            self._placed = True
        # In a thread: loading the SDK takes half a second, in which nobody's audio would flow.
        connect = await asyncio.to_thread(self._load)
        if self._capture is not None:
            connect = self._capture.over(connect)
        voice = Outgoing(settings.input_rate, on_new=self._spoken)
        self._line = line = Line(
            connect,
            settings,
            self._conversation,
            voice,
            renewal=self._renewal,
            retry=self._retry,
            limiter=self._limiter,
            busy=lambda: self._runner.busy,
            on_message=self._tell,
            on_events=self._happened,
            room=inbox.room,
            on_ended=self._ended,
        )
        try:
            request_id = await line.open(self._carried(), max(0.0, deadline - self._loop.time()))
        except TransportError as exc:
            raise self._explained(exc) from exc
        inbox.put(events.SessionStarted(model=settings.model.id, voice=settings.voice, request_id=request_id))
        if self._recorder is not None:
            self._recorder.start()
            if isinstance(self._conversation.player, playback.Player):
                self._recorder.follow(self._conversation.player)
        self._speech = Speech(voice, sample_rate=settings.input_rate, chunk_samples=settings.chunk_samples)
        if settings.silence:
            self._spawn(self._speech.keep_silence(), "novasonic-silence")

    def _carried(self) -> Carried:
        """Return what the first stream is told."""
        if self._resumed is None:
            return Carried(history=alternating(self._settings.history))
        said = alternating(self._resumed.history)
        return carry(
            Left(history=self._resumed.history, unanswered=bool(said) and said[-1][0] == "USER"),
            owed=True,
            again=False,
            answers_typed_text=self.model.answers_typed_text,
            max_bytes=(self._renewal or Renewal()).history_bytes,
        )

    def _load(self) -> Connector:
        audio.load()
        if self._connect is not None:
            return self._connect
        from novasonic.bedrock import BedrockConnector  # noqa: PLC0415 - loads the AWS SDK

        return BedrockConnector(self._settings.model.id, **self._aws)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the session; say goodbye first, unless the block failed."""
        await self._close(polite=exc is None)

    async def end(self) -> None:
        """Say goodbye: nothing more can be sent, and iterating ends once the service has ended the session.

        Returns at once. The service drops what it has not said yet.
        """
        if self._state is SessionState.OPEN:
            self._close_soon(polite=True)

    async def aclose(self) -> None:
        """Say goodbye and close the session, within `close_timeout` seconds. Twice is fine.

        What was received can be read afterwards. Cancelling is safe: the session is then closed without
        waiting for the service.
        """
        await self._close(polite=True)

    async def _close(self, *, polite: bool) -> None:
        if self._state is SessionState.NEW or self._line is None:
            self._state = SessionState.CLOSED
            return
        closing = self._close_soon(polite=polite)
        task = asyncio.current_task()
        if task in self._tasks or self._runner.owns(task):
            return  # a source or a tool ends the session, which does not end before they have
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await self._line.aclose()
            await asyncio.wait({closing})
            raise

    def _close_soon(self, *, polite: bool) -> asyncio.Task[None]:
        if self._closing is None:
            self._state = SessionState.ENDING
            self._closing = asyncio.create_task(self._say_goodbye(polite=polite), name="novasonic-goodbye")
        return self._closing

    async def _say_goodbye(self, *, polite: bool) -> None:
        line, inbox, speech = self._line, self._inbox, self._speech
        assert line is not None  # noqa: S101 - only an open session is closed
        assert inbox is not None  # noqa: S101
        assert speech is not None  # noqa: S101
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        patience = self._settings.close_timeout
        await self._runner.aclose(
            answer=polite and not line.ended, timeout=min(_GIVING_UP_TOOLS, patience / 4)
        )
        if polite and not line.ended:
            speech.finish()
            line.finish()
            await line.wait_ended(patience - min(_GIVING_UP + _GIVING_UP_TOOLS, patience / 2))
        inbox.close()  # if the service has not ended by now, all that can come has come
        await line.aclose()
        await self._leave()
        self._state = SessionState.CLOSED

    async def _leave(self) -> None:
        """Let go of what others may want."""
        if self._placed and self._limiter is not None:
            self._placed = False
            self._limiter.release()
        if self._recorder is not None:
            await self._recorder.aclose()
        if self._capture is not None:
            await self._capture.aclose()

    # --- speaking -----------------------------------------------------------------------------------------

    async def send_audio(
        self,
        data: Buffer,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        encoding: Encoding = "pcm16",
    ) -> None:
        """Send a piece of the user's speech; wait while more than two seconds of it are waiting already.

        It goes out as it comes, not at speaking speed: this is for live audio, and `play_file` for
        recordings. Cancelling is safe: what was not taken yet is dropped, and no frame is cut.

        Args:
            data: Of any length: bytes of 16-bit little-endian samples or of G.711; or an array of int16,
                int32, or floats between -1 and 1, of the shape (samples,) or (samples, channels).
            sample_rate: In Hz, 8,000 to 192,000; by default `input_rate`.
            channels: How many are interleaved; they are mixed into one.
            encoding: What bytes mean: "pcm16", or "mulaw" or "alaw" for those of a telephone line.

        Raises:
            ConfigurationError: If `data` cannot be audio. Nothing of it is sent.
            LocalProtocolError: If the session is not open.
            TransportError: If it has failed.
        """
        _, speech = self._opened()
        await speech.send(data, sample_rate=sample_rate, channels=channels, encoding=encoding)

    def feed_audio(
        self,
        data: Buffer,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        encoding: Encoding = "pcm16",
    ) -> None:
        """Do as `send_audio`, but from any thread and without waiting, as a sound card's callback must.

        Beyond two seconds that wait to be sent, the oldest are dropped, and `stats.audio_dropped` counts
        them. After the end of the session all is dropped. What cannot be audio ends the session: iterating
        raises the `ConfigurationError`.

        Raises:
            LocalProtocolError: If the session was not opened yet.
        """
        if self._loop is None:
            raise LocalProtocolError("the session is not open yet; use it inside its `async with`")
        piece, form = audio.kept(data), Form(sample_rate=sample_rate, channels=channels, encoding=encoding)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the session ended long ago
            self._loop.call_soon_threadsafe(self._take_in, piece, form)

    def _take_in(self, data: Buffer, form: Form) -> None:
        if self._state is SessionState.OPEN and self._speech is not None:
            try:
                self._speech.send_over(data, **form)
            except ConfigurationError as exc:
                self._fail(exc)

    async def send_text(self, text: str, *, in_history: bool = True) -> None:
        """Send what the user typed; the model answers aloud. Also how the model is made to speak first.

        Nova 2 and later. Cancelling is safe: the text goes out whole all the same.

        Args:
            text: What to answer.
            in_history: False for what the user did not say, such as an instruction of the program's: the
                model answers it just the same, but it is no part of `history`.

        Raises:
            ConfigurationError: If the text is empty or too long.
            LocalProtocolError: If the model does not answer typed text, or the session is not open.
            TransportError: If it has failed.
        """
        check_text("text", text, limit=self.model.limits.history_bytes)
        if not self.model.answers_typed_text:
            raise LocalProtocolError(f"{self.model.id} does not answer typed text; send speech instead")
        line, _ = self._opened()
        await line.type_text(text, by_user=in_history)

    async def send_tool_result(self, call: events.ToolCall | str, result: object) -> None:
        """Answer a tool call. The model wants an answer to every call, and takes only one.

        For calls of a `ToolSpec`. Given for a tool that the session runs, it is the answer: the tool is
        cancelled. Cancelling is safe: the answer goes out whole all the same.

        Args:
            call: The call, or its id.
            result: Any value that JSON can hold, and what becomes one: dataclasses, pydantic models, dates,
                enums and so on. One that is too long is cut, and the model is told so. `{"error": "..."}`
                tells the model what went wrong.

        Raises:
            ConfigurationError: If `result` is nothing that JSON can hold.
            LocalProtocolError: If the call is not known or was answered, or the session is not open.
            TransportError: If it has failed.
        """
        id_, text = call if isinstance(call, str) else call.id, result_text(result)
        self._opened()
        if not self._runner.claim(id_):
            raise LocalProtocolError(f"no tool call {id_!r} waits for an answer")
        await self._answer_call(id_, text)

    async def _answer_call(self, id_: str, text: str) -> None:
        assert self._line is not None  # noqa: S101 - only an open session has calls
        await self._line.answer(id_, text)

    async def update(
        self,
        *,
        system: str | None = None,
        voice: str | None = None,
        tools: Sequence[AnyTool] | None = None,
        tool_choice: str | None = None,
    ) -> None:
        """Change instructions, voice or tools in mid-conversation. What is not given stays as it is.

        The service takes such settings only when a stream opens, so the conversation moves on to another one:
        as soon as the user does not speak, and while the assistant finishes its sentence. Returns when it
        has. A `SessionRenewed` tells of it.

        Cancelling is safe: the conversation goes on; whether with the new settings, `SessionRenewed` tells.

        Raises:
            ConfigurationError: If a setting is wrong. The conversation goes on as it was.
            LocalProtocolError: If another update is under way, or the session is not open.
            TransportError: If no other stream can be opened. The conversation goes on as it was, if it can.
        """
        line, _ = self._opened()
        offer = offered(tools) if tools is not None else None
        given: dict[str, Any] = {"system": system, "voice": voice, "tool_choice": tool_choice}
        if offer is not None:
            given["tools"] = tuple(each.spec if isinstance(each, Tool) else each for each in offer)
            given["tool_choice"] = tool_choice or "auto"
        settings = replace(
            line.settings, **{name: value for name, value in given.items() if value is not None}
        )
        with self._runner.offering(offer):
            await line.update(settings)
        self._settings = settings

    def listen_to(
        self,
        source: AsyncIterable[Buffer],
        *,
        sample_rate: int | None = None,
        channels: int | None = None,
        encoding: Encoding = "pcm16",
    ) -> asyncio.Task[None]:
        """Make a microphone, a socket or whatever yields audio the user's voice.

        The task that does it belongs to the session and ends with it. It may be awaited, to wait for the end
        of the source, or cancelled. If the source fails, iterating raises what it raised.

        Args:
            source: Yields pieces of audio as `send_audio` takes them.
            sample_rate: As for `send_audio`; by default what the source itself has as its `sample_rate`,
                as a `devices.Microphone` does.
            channels: As for `send_audio`; by default the source's own `channels`.
            encoding: As for `send_audio`.

        Raises:
            LocalProtocolError: If the session is not open.
        """
        _, speech = self._opened()
        if sample_rate is None:
            sample_rate = getattr(source, "sample_rate", None)
        own_channels: int = getattr(source, "channels", 1) if channels is None else channels
        relay = speech.relay(source, sample_rate=sample_rate, channels=own_channels, encoding=encoding)
        return self._spawn(relay, "novasonic-source")

    async def play_file(self, path: str | os.PathLike[str]) -> None:
        """Send a recording as the user's voice, at speaking speed, and return once all of it was sent.

        Cancelling is safe: the rest is not sent.

        Args:
            path: A WAV file of any rate from 8,000 to 192,000 Hz; or FLAC, Ogg, MP3 or AIFF, if
                `novasonic[files]` is installed.

        Raises:
            ConfigurationError: If it is missing, empty, cut off, or not to be read. Nothing is sent then.
            LocalProtocolError: If the session is not open.
            TransportError: If it has failed.
        """
        _, speech = self._opened()
        await speech.play_file(path)

    def _opened(self) -> tuple[Line, Speech]:
        if self._state is SessionState.OPEN and self._line is not None and self._speech is not None:
            return self._line, self._speech
        if self._state in {SessionState.NEW, SessionState.OPENING}:
            raise LocalProtocolError("the session is not open yet; use it inside its `async with`")
        raise LocalProtocolError("the session has ended; nothing can be sent any more")

    # --- listening ----------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        """Iterate over what happens. A loop that is left can be taken up by another, where it stopped."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; wait for it. Cancelling is safe: no event is lost.

        Raises:
            StopAsyncIteration: If the session has ended, and all went well.
            TransportError: If the service failed or refused, or the connection was lost.
            ConcurrencyError: If another task is reading the session.
        """
        with self._only_reader() as inbox:
            return await inbox.get()

    @contextlib.contextmanager
    def _only_reader(self) -> Generator[Inbox]:
        if self._inbox is None:
            raise LocalProtocolError("the session is not open yet; read it inside its `async with`")
        if self._reading:
            raise ConcurrencyError("another task reads this session; let one read, and pass events on")
        self._reading = True
        try:
            yield self._inbox
        finally:
            self._reading = False

    async def ask(self, prompt: str | os.PathLike[str] | Buffer, *, timeout: float = 60.0) -> Reply:  # noqa: ASYNC109
        """Say one thing, and return the answer in full. Only while nobody else reads the session.

        Other events of the turn are passed over. Tools that are functions run meanwhile, and the answer is
        what the model says in the end. A call of a `ToolSpec` is the program's to answer: then the reply
        comes at once, with that call in its `tool_calls`. Cancelling is safe: the conversation goes on.

        Args:
            prompt: What the user types; or a recording (a path, or a text that ends as those of recordings
                do, such as in ".wav"); or audio at `input_rate`, in any form that `send_audio` takes.
            timeout: Seconds to wait for the answer, once all of the prompt was sent.

        Raises:
            ConfigurationError: If the prompt cannot be sent.
            ConcurrencyError: If another task is reading the session.
            LocalProtocolError: If the session is not open.
            ServiceError: If no answer came in time.
            TransportError: If the session has failed.
        """
        with self._only_reader() as inbox:
            answer = Answer(
                after_turn=self._conversation.turns,
                sample_rate=self._settings.output_rate,
                runs_tool=self._runner.runs,
            )
            await self._say(prompt)
            loop = asyncio.get_running_loop()
            settled_at = loop.time() + _SETTLING
            try:
                async with asyncio.timeout(timeout):
                    while not answer.complete or not inbox.empty or loop.time() < settled_at:
                        if answer.complete and inbox.empty:
                            await inbox.arrival(settled_at - loop.time())
                            continue
                        answer.feed(await inbox.get())
                        if self._settings.tools and answer.complete:
                            settled_at = loop.time() + _SETTLING  # the model may speak first, and then call
            except TimeoutError:
                raise ServiceError(
                    f"no answer came within {timeout:g} s; wait longer, or ask again"
                ) from None
            except StopAsyncIteration:
                raise StreamLostError("the session ended before the answer had come") from None
            return answer.reply()

    async def _say(self, prompt: str | os.PathLike[str] | Buffer) -> None:
        if isinstance(prompt, str) and not prompt.lower().endswith(SUFFIXES):
            await self.send_text(prompt)
        elif isinstance(prompt, str | os.PathLike):
            await self.play_file(prompt)
        else:
            _, speech = self._opened()
            await speech.play(prompt)

    # --- what the stream tells ----------------------------------------------------------------------------

    def _spoken(self, frame: bytes) -> None:
        if self._recorder is not None:
            self._recorder.sent(frame, self._settings.input_rate)

    def _happened(self, told: Iterable[Event]) -> None:
        for event in told:
            match event:
                case events.AudioChunk(duration=duration):
                    self._received_seconds += duration
                case events.ToolCall():
                    self._runner.take_up(event)
                case events.Interrupted():
                    self._runner.interrupted()
                case _:
                    pass
            if self._recorder is not None:
                self._recorder.happened(event)
            assert self._inbox is not None  # noqa: S101 - it was there before the stream
            self._inbox.put(event)

    def _tell(self, message: InputMessage | OutputMessage, now: float) -> None:
        for listener in self._listeners:
            try:
                listener(message, now)
            except Exception:
                logger.exception("a callback of on_message() failed")

    def _ended(self, failure: BaseException | None) -> None:
        assert self._inbox is not None  # noqa: S101 - it was there before the stream
        if failure is None:
            reason = self._line.end_reason if self._line else ""
            self._inbox.put(events.SessionEnded(turn=self._conversation.turns, reason=reason))
            self._inbox.close()
        else:
            self._inbox.close(self._explained(failure) if isinstance(failure, TransportError) else failure)

    def _fail(self, failure: BaseException) -> None:
        """End the session for a reason that the service has nothing to do with."""
        if self._inbox is not None:
            self._inbox.close(failure)
        self._close_soon(polite=True)

    def _explained(self, failure: TransportError) -> TransportError:
        """Add to a failure what the session knows about its likely cause."""
        hints: list[str] = []
        if isinstance(failure, InvalidRequestError | ModelNotFoundError):
            hints = self._oddities
        elif isinstance(failure, StreamLostError) and self.session_id is None:
            # A model at the end of its life accepts a stream, and ends it without a word.
            hints = [oddity for oddity in self._oddities if "end of life" in oddity]
        if not hints:
            return failure
        explained = type(failure)(
            f"{failure} ({'; '.join(hints)})",
            code=failure.code,
            request_id=failure.request_id,
            retryable=failure.retryable,
        )
        explained.__cause__ = failure
        return explained

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that belongs to the session: it ends with it, and its failure is the session's."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            failure = None if task.cancelled() else task.exception()
            # What the stream raises on whoever sends, it also tells whoever reads.
            if failure is not None and not isinstance(failure, TransportError | LocalProtocolError):
                self._fail(failure)

        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(done)
        return task


class SessionOptions(TypedDict, total=False):
    """The settings of a `SonicSession`, for functions that open one themselves."""

    model: str | models.Model
    voice: str
    system: str
    tools: Sequence[AnyTool]
    tool_choice: str | None
    history: Sequence[Message]
    inference: Inference
    endpointing: Endpointing | None
    input_rate: int
    output_rate: int
    chunk_samples: int
    region: str | None
    profile: str | None
    credentials: CredentialsSource | None
    endpoint_url: str | None
    silence: bool
    renewal: Renewal | None
    retry: Retry | None
    limiter: SessionLimiter | None
    resume: str | None
    record_audio: str | os.PathLike[str] | None
    record: str | os.PathLike[str] | Recording | None
    open_timeout: float
    close_timeout: float
    transport: Connector | None


async def ask(
    prompt: str | os.PathLike[str] | Buffer,
    *,
    timeout: float = 60.0,  # noqa: ASYNC109 - as for SonicSession.ask
    **options: Unpack[SessionOptions],
) -> Reply:
    """Open a session, say one thing, and return the answer in full.

    Args:
        prompt: What the user types; or a recording (a path, or a text that ends as those of recordings do,
            such as in ".wav"); or audio at `input_rate`, in any form that `SonicSession.send_audio` takes.
        timeout: Seconds to wait for the answer, once all of the prompt was sent.
        options: The settings of a `SonicSession`.

    Raises:
        SonicError: As `SonicSession` and `SonicSession.ask` do.
    """
    async with SonicSession(**options) as session:
        return await session.ask(prompt, timeout=timeout)
