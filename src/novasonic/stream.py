"""One stream to the service: its order, its one writer, its one reader, its goodbye.

What goes out are *runs*: messages that nothing may come between, such as a text block. Runs overtake audio,
and a run is never cut. Only the writer sends and only the reader receives, and nothing cancels them there:
a caller who is cancelled stops waiting, and what was handed over goes out whole.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import uuid4

from novasonic import messages
from novasonic.errors import LocalProtocolError, RemoteProtocolError, StreamLostError
from novasonic.lifecycle import Block, Lifecycle, State
from novasonic.messages import InputMessage, OutputMessage
from novasonic.outgoing import Outgoing
from novasonic.transport import Connector, Transport

logger = logging.getLogger("novasonic.stream")

# A stream that cannot be written any more has this long, in seconds, to tell its reader why.
_LAST_WORDS: Final = 1.0

# The transport gives up within about a second; the reader then ends by itself.
_GIVING_UP: Final = 1.0


class Stream:
    """An open stream. It listens to nobody until `begin`.

    Args:
        transport: The way to the service, which has accepted the stream.
        lifecycle: What was said on it so far.
        prompt_name: The name of its prompt.
        sample_rate: Of the user's audio, in Hz.
        on_sent: Is told every message once it is on its way.
        on_received: Is handed every message that comes; the next is read once it has returned.
        on_ended: Is told, once, that nothing more will come, and what went wrong if something did.
    """

    def __init__(
        self,
        transport: Transport,
        lifecycle: Lifecycle,
        *,
        prompt_name: str,
        sample_rate: int,
        on_sent: Callable[[InputMessage], None],
        on_received: Callable[[OutputMessage], Awaitable[None]],
        on_ended: Callable[[BaseException | None], None],
    ) -> None:
        self.request_id = transport.request_id
        self.credentials_last = transport.expires_in
        self.prompt_name = prompt_name
        self._transport = transport
        self._lifecycle = lifecycle
        self._on_sent = on_sent
        self._on_received = on_received
        self._on_ended = on_ended
        self._sample_rate = sample_rate
        self._runs = deque[tuple[Sequence[InputMessage], asyncio.Future[None]]]()
        self._voice: Outgoing | None = None
        self._audio_name = str(uuid4())
        self._work = asyncio.Event()  # for the writer
        self._writing = 0  # runs that have begun to go out
        self._finishing = False
        self._over = False
        self._failure: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._read(), name="novasonic-reader")
        self._writer = asyncio.create_task(self._write(), name="novasonic-writer")

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    # --- sending ------------------------------------------------------------------------------------------

    def begin(self, voice: Outgoing, history: Sequence[InputMessage] = ()) -> None:
        """Say what was said before, and listen to `voice` from now on.

        Args:
            voice: The user's. No other stream may listen to it.
            history: Blocks of text, if they were not said at the opening.
        """
        if history:
            self.post(history)
        opening = messages.InputContentStart(
            prompt_name=self.prompt_name,
            content_name=self._audio_name,
            type="AUDIO",
            role="USER",
            interactive=True,
            sample_rate=self._sample_rate,
        )
        self.post((opening,))
        self.listen_to(voice)

    def listen_to(self, voice: Outgoing) -> None:
        """Listen to another voice from the next frame on."""
        self._voice = voice
        voice.attach(self._work.set)

    def let_go(self) -> None:
        """Listen no more, and send nothing that has not begun to go out: another stream takes it over."""
        if self._voice is not None:
            self._voice.detach()
            self._voice = None
        while len(self._runs) > self._writing:
            _, sent = self._runs.pop()
            _settle(sent, LocalProtocolError("the conversation has moved on to another stream"))

    async def say(self, run: Sequence[InputMessage]) -> None:
        """Send messages that belong together, and return once they are on their way.

        Cancelling is safe: they go out whole all the same.

        Raises:
            TransportError: If the stream has failed.
            LocalProtocolError: If they may not be sent now, or the session has ended.
        """
        self._check_open()
        await self.post(run)

    def post(self, run: Sequence[InputMessage]) -> asyncio.Future[None]:
        """Have messages sent that belong together; the future tells when they are on their way."""
        sent = asyncio.get_running_loop().create_future()
        self._runs.append((run, sent))
        self._work.set()
        return sent

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._finishing or self.ended:
            raise LocalProtocolError("the session has ended; nothing can be sent any more")

    async def _write(self) -> None:
        try:
            while True:
                self._work.clear()
                if self._runs:
                    await self._write_run(*self._runs[0])
                elif (frame := self._voice.pull() if self._voice else None) is not None:
                    await self._send(self._audio_input(frame))
                elif self._finishing and (self._voice is None or self._voice.empty):
                    break
                else:
                    await self._work.wait()
            for message in self._farewell():
                await self._send(message)
            await self._transport.end_input()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it ends the conversation and must not hang it
            await self._write_failed(exc)

    async def _write_run(self, run: Sequence[InputMessage], sent: asyncio.Future[None]) -> None:
        self._writing = 1
        try:
            for message in run:
                await self._send(message)
        except LocalProtocolError as exc:
            _settle(sent, exc)
        else:
            _settle(sent)
        self._writing = 0
        self._runs.popleft()

    async def _send(self, message: InputMessage) -> None:
        self._lifecycle.send(message)
        data = messages.encode(message)
        if not isinstance(message, messages.AudioInput):
            logger.debug("> %s (%d bytes)", type(message).__name__, len(data))
        await self._transport.send(data)
        self._on_sent(message)

    def _audio_input(self, frame: bytes) -> messages.AudioInput:
        return messages.AudioInput(prompt_name=self.prompt_name, content_name=self._audio_name, content=frame)

    def _audio_end(self) -> messages.InputContentEnd:
        return messages.InputContentEnd(prompt_name=self.prompt_name, content_name=self._audio_name)

    def _farewell(self) -> Sequence[InputMessage]:
        audio = list[InputMessage]()
        match self._lifecycle.block(self._audio_name):
            case Block.EMPTY:
                # The service rejects the end of a block that held nothing: a sample is something.
                audio = [self._audio_input(bytes(2)), self._audio_end()]
            case Block.FILLED:
                audio = [self._audio_end()]
            case _:
                pass  # it has never begun
        return (
            *audio,
            messages.PromptEnd(prompt_name=self.prompt_name),
            messages.SessionEnd(),
        )

    async def _write_failed(self, failure: Exception) -> None:
        """The reader knows better why: an error that the service sent may still be on its way."""
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS)
        self._end(failure)
        await self._transport.aclose()

    # --- receiving ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        failure: BaseException | None = None
        message: OutputMessage | None = None
        try:
            while (data := await self._transport.receive()) is not None:
                message = _decode(data)
                await self._on_received(message)
            asked = self._lifecycle.state is State.ENDED
            if not asked and not isinstance(message, messages.CompletionEnd):
                failure = StreamLostError(
                    "the service ended the stream in mid-conversation and gave no reason; open a new session",
                    request_id=self.request_id,
                )
        except asyncio.CancelledError:
            failure = StreamLostError("the session was closed", request_id=self.request_id)
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it ends the conversation and must not hang it
            failure = exc
        finally:
            self._end(failure)

    def _end(self, failure: BaseException | None) -> None:
        if self._over:
            return
        self._over, self._failure = True, failure
        for _, sent in self._runs:
            _settle(sent, failure or LocalProtocolError("the session ended before this was sent"))
        self._on_ended(failure)

    # --- the end ------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Say goodbye once everything that waits has been sent. The service then ends the stream."""
        self._finishing = True
        if self._voice is not None:
            self._voice.hurry()
        self._work.set()

    async def wait_ended(self, timeout: float) -> bool:  # noqa: ASYNC109 - running out of time is no failure here
        """Wait until nothing more comes, at most `timeout` seconds; return whether that is so."""
        done, _ = await asyncio.wait({self._reader}, timeout=timeout)
        return bool(done)

    async def aclose(self) -> None:
        """Give up the stream at once, whatever its state; takes about a second at most. Twice is fine.

        Cancelling is safe: the stream is given up first.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._give_up(), name="novasonic-closing")
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            await asyncio.wait({self._closing})
            raise

    async def _give_up(self) -> None:
        self._writer.cancel()
        await self._transport.aclose()
        if not await self.wait_ended(_GIVING_UP):
            self._reader.cancel()
        await asyncio.wait({self._reader, self._writer})


def _settle(sent: asyncio.Future[None], failure: BaseException | None = None) -> None:
    if sent.done():
        return
    if failure is None:
        sent.set_result(None)
    else:
        sent.set_exception(failure)
        sent.exception()  # whoever waited may have been cancelled


def _decode(data: bytes) -> OutputMessage:
    try:
        message = messages.decode_output(data)
    except RemoteProtocolError as exc:
        logger.warning("cannot read what the service sent: %s", exc)
        return messages.UnknownMessage(name="malformed", payload=data.decode(errors="replace"))
    if not isinstance(message, messages.AudioOutput):
        logger.debug("< %s (%d bytes)", type(message).__name__, len(data))
    return message


async def open_stream(
    connect: Connector,
    opening: Sequence[InputMessage],
    *,
    timeout: float,  # noqa: ASYNC109 - the connector knows which of its steps took too long
    prompt_name: str,
    sample_rate: int,
    on_sent: Callable[[InputMessage], None],
    on_received: Callable[[OutputMessage], Awaitable[None]],
    on_ended: Callable[[BaseException | None], None],
) -> Stream:
    """Open a stream and say `opening` on it: all that comes before the user's audio.

    The rest is as in `Stream`. A cancelled or failed call leaves nothing behind.

    Raises:
        TransportError: If the service has not accepted the stream within `timeout` seconds.
    """
    lifecycle = Lifecycle()
    for message in opening:
        lifecycle.send(message)
    transport = await connect([messages.encode(message) for message in opening], timeout=timeout)
    for message in opening:
        on_sent(message)
    return Stream(
        transport,
        lifecycle,
        prompt_name=prompt_name,
        sample_rate=sample_rate,
        on_sent=on_sent,
        on_received=on_received,
        on_ended=on_ended,
    )
