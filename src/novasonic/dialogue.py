"""A whole dialogue: a microphone, a loudspeaker, and a session between them.

`converse` is the short way. `Dialogue` is what it is made of, for programs that open the parts themselves.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Buffer, Callable, Generator
from typing import Final, Protocol, Unpack

from novasonic import events
from novasonic.conversation import Message
from novasonic.devices import Microphone, Speaker
from novasonic.echo import EchoMode, EchoWatch, check_mode
from novasonic.errors import ConfigurationError
from novasonic.events import Event
from novasonic.session import SessionOptions, SonicSession

__all__ = ["Dialogue", "Sink", "converse", "ctrl_c", "open_devices"]

# Once the microphone has ended, so many seconds without anything are the end: the first while a tool is at
# work, which has 30 s unless it was given more; the second where an answer may still come, as the user has
# spoken; the third elsewhere. The service takes two seconds at most to find the end of what was said.
_TOOL_MAY_END: Final = 60.0
_ANSWER_MAY_COME: Final = 10.0
_NOTHING_COMES: Final = 3.0


class Sink(Protocol):
    """Whatever plays the model's speech: a `devices.Speaker`, or a `playback.Player` that something reads."""

    @property
    def queued(self) -> float:
        """Seconds of speech that wait to be played."""
        ...

    def handle(self, event: Event) -> None:
        """Do what an event asks of a player."""
        ...

    def stop(self) -> None:
        """Play nothing more of what waits."""
        ...

    def heard(self, turn: int) -> float | None:
        """Return how many seconds of a turn's speech were played, or None if that is not known."""
        ...


class Dialogue:
    """Passes sound on between an open session and what captures and plays, until one of them ends.

    Args:
        session: An open session that nobody else reads.
        microphone: Yields the user's voice, as for `SonicSession.listen_to`.
        speaker: Plays the model's.
        on_event: Is told every event, after the speaker was.
    """

    def __init__(
        self,
        session: SonicSession,
        microphone: AsyncIterable[Buffer],
        speaker: Sink,
        *,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._session = session
        self._microphone = microphone
        self._speaker = speaker
        self._on_event = on_event
        self._watch = EchoWatch()
        self._ended = asyncio.Event()
        self._owed = False  # whether the service is to answer something
        self._calls = set[str]()  # tools that are at work
        self._latest = 0.0  # when anything happened

    def end(self) -> None:
        """End it now: what is being said is broken off. For the event loop's thread."""
        self._ended.set()

    async def run(self) -> None:
        """Hold the dialogue, and return when it has ended.

        It ends when the microphone has, and the last answer to it was played; when the service ends it; or
        by `end()`. Cancelling is safe: the session can go on with something else.

        Raises:
            SonicError: What the session, the microphone or the loudspeaker raise.
        """
        loop = asyncio.get_running_loop()
        self._latest = loop.time()
        self._session.played_by(self._speaker)
        source = self._session.listen_to(self._microphone)
        ending = asyncio.create_task(self._say_goodbye(source), name="novasonic-dialogue")
        try:
            async for event in self._session:
                self._latest = loop.time()
                self._note(event)
                if not self._ended.is_set():
                    self._speaker.handle(event)
                self._watch.handle(event)
                if self._on_event is not None:
                    self._on_event(event)
            await self._play_out()
        finally:
            ending.cancel()
            source.cancel()
            await asyncio.wait({ending, source})

    def _note(self, event: Event) -> None:
        match event:
            case events.UserSpeechStarted() | events.UserSpeechEnded():
                self._owed = True
            case events.ToolCall(id=id_):
                self._calls.add(id_)
            case events.ToolResult(id=id_):
                self._calls.discard(id_)
                self._owed = True  # the model always speaks about a result
            case events.Transcript(role="USER"):
                self._owed = True
            case events.TurnEnded(reason=reason):
                self._owed = reason == "TOOL_USE"
            case _:
                pass

    @property
    def _patience(self) -> float:
        if self._calls:
            return _TOOL_MAY_END
        return _ANSWER_MAY_COME if self._owed else _NOTHING_COMES

    async def _say_goodbye(self, source: asyncio.Task[None]) -> None:
        """Wait for the end of the microphone, or of everything; then end the session."""
        told = asyncio.create_task(self._ended.wait(), name="novasonic-dialogue-end")
        try:
            await asyncio.wait({source, told}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                await self._answered(told)
        finally:
            told.cancel()
            await asyncio.wait({told})
        if self._ended.is_set():
            self._speaker.stop()
        await self._session.end()

    async def _answered(self, told: asyncio.Task[bool]) -> None:
        """Wait until nothing more is to be heard."""
        loop, queued = asyncio.get_running_loop(), self._speaker.queued
        while not told.done():
            if self._speaker.queued < queued:
                self._latest = loop.time()  # it plays
            queued = self._speaker.queued
            wait = self._latest + self._patience - loop.time()
            if wait <= 0:
                return
            await asyncio.wait({told}, timeout=min(wait, _NOTHING_COMES / 2))

    async def _play_out(self) -> None:
        """Wait until what the service has said to its end was played; not for a loudspeaker that is stuck."""
        loop, queued, since = asyncio.get_running_loop(), self._speaker.queued, self._latest
        while queued and not self._ended.is_set() and loop.time() - since < _NOTHING_COMES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(queued, _NOTHING_COMES / 2)):
                    await self._ended.wait()
            if self._speaker.queued < queued:
                since = loop.time()
            queued = self._speaker.queued


async def converse(
    *,
    microphone: AsyncIterable[Buffer] | str | int | None = None,
    speaker: Sink | str | int | None = None,
    echo: EchoMode = "auto",
    on_event: Callable[[Event], None] | None = None,
    **options: Unpack[SessionOptions],
) -> tuple[Message, ...]:
    """Hold a spoken conversation, from microphone to loudspeaker, and return what was said.

    It ends with Ctrl-C, which then raises nothing; when the microphone ends, and the last answer to it was
    heard; or when the service ends it. Cancelling is safe: everything is closed.

    Args:
        microphone: The name or index of a device, None for the default one; or whatever yields audio, as for
            `SonicSession.listen_to`.
        speaker: The name or index of a device, None for the default one; or what plays in its place.
        echo: What to do about the loudspeaker in the microphone: "cancel" needs the extra `aec`,
            "half-duplex" makes the microphone silent while the assistant speaks, "off" is for headphones.
            "auto" is the first of them that can be had. A microphone of your own knows for itself.
        on_event: Is told every event, such as to print transcripts.
        options: The settings of a `SonicSession`.

    Raises:
        ImportError: If devices are needed, and the extra `devices` is not installed.
        SonicError: As `SonicSession`, `Microphone` and `Speaker` do.
    """
    dialogue: Dialogue | None = None
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    given_up = False

    def interrupted() -> None:
        nonlocal given_up
        if dialogue is not None:
            dialogue.end()
        else:
            given_up = task.cancel()

    session = SonicSession(**options)
    with ctrl_c(interrupted):
        try:
            async with open_devices(microphone, speaker, echo) as (source, sink), session:
                dialogue = Dialogue(session, source, sink, on_event=on_event)
                await dialogue.run()
        except asyncio.CancelledError:
            if not given_up or task.uncancel():
                raise
    return session.history


@contextlib.asynccontextmanager
async def open_devices(
    microphone: AsyncIterable[Buffer] | str | int | None, speaker: Sink | str | int | None, echo: EchoMode
) -> AsyncGenerator[tuple[AsyncIterable[Buffer], Sink]]:
    """Open the devices that are named, within `async with`; let through what is no name.

    Raises:
        ConfigurationError: If `echo` asks for something that these two cannot do.
        SonicError: As `Microphone` and `Speaker` do.
    """
    check_mode(echo)
    async with contextlib.AsyncExitStack() as stack:
        if speaker is None or isinstance(speaker, str | int):
            speaker = await stack.enter_async_context(Speaker(speaker))
        played = speaker if isinstance(speaker, Speaker) else None
        own = microphone is None or isinstance(microphone, str | int)
        if echo in ("cancel", "half-duplex") and (played is None or not own):
            raise ConfigurationError(
                f"echo is {echo!r}, which needs a devices.Speaker, and a microphone that is opened for it; "
                "give a microphone of your own its echo_of"
            )
        if microphone is None or isinstance(microphone, str | int):
            device = Microphone(microphone, echo_of=played, echo=echo)
            microphone = await stack.enter_async_context(device)
        yield microphone, speaker


@contextlib.contextmanager
def ctrl_c(callback: Callable[[], None]) -> Generator[None]:
    """Have the first Ctrl-C call `callback`, in the event loop; the next one interrupts as ever.

    Only a program's main thread hears of Ctrl-C; elsewhere nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()

    def pressed(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(callback)

    signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is pressed:
            signal.signal(signal.SIGINT, before)
