"""The line to the service: a conversation's stream, and the next one when it has to be replaced.

A stream is replaced before the service closes it, when its credentials are about to expire, when the program
wants other settings, and when it is lost. `continuation` decides when, and what the next one is told; here it
is done. There are never more than two streams: one that listens to the user, and one that is being opened
or that finishes what it says.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec

from novasonic import audio, continuation, events, messages
from novasonic.continuation import Budget, Carried, Plan, Renewal, Retry, Situation
from novasonic.conversation import Conversation, Fold
from novasonic.errors import (
    CredentialsError,
    LocalProtocolError,
    RemoteProtocolError,
    SonicError,
    StreamLostError,
    TransportError,
)
from novasonic.events import Event, ToolCall, ToolRun
from novasonic.limiter import SessionLimiter
from novasonic.messages import InputMessage, InputRole, OutputMessage
from novasonic.outgoing import Outgoing
from novasonic.settings import Settings
from novasonic.stream import Stream, open_stream
from novasonic.transport import Connector

logger = logging.getLogger("novasonic.line")

_LOOK: Final = 0.1  # seconds between two looks whether this is the moment to move on

# A stream that has been opened and not used: the service gives it up after 55 s without audio.
_PREPARED: Final = 30.0

# Sound that may be the beginning of speech that the service has not reported yet: it takes half a second to,
# and speech is louder than this, in dBFS.
_UNREPORTED: Final = 0.5
_LOUD: Final = -45.0

# A stream that lasted so long, in seconds, did not die at once, though nobody may have said anything: after
# three minutes of silence the service closes it.
_LASTED: Final = 60.0

_OPENING_AGAIN: Final = 5.0  # seconds after an attempt to open the next stream, while the old one still lives
_GOODBYE: Final = 3.0  # seconds for the farewell of a stream that nobody needs any more
_CONFIRMED: Final = 5.0  # seconds that a stream may take to confirm what was heard, once it was played

Reason = Literal["age", "credentials", "error", "update"]


@dataclass(slots=True, eq=False)
class _Leg:
    """A stream, and what is known about it."""

    settings: Settings
    stream: Stream = field(init=False)  # it reports to the leg, which is there before
    opened_at: float = 0.0
    fold: Fold | None = None  # None until it listens
    lost: BaseException | None = None
    let_go: bool = False

    @property
    def listens(self) -> bool:
        return self.lost is None and not self.let_go


@dataclass(slots=True)
class _Update:
    """Other settings that the program wants."""

    settings: Settings
    done: asyncio.Future[None]


class Line:
    """The streams of one session, one after the other.

    Args:
        connect: Opens them.
        settings: What they are opened with.
        conversation: What is told by them.
        voice: What they listen to.
        renewal: When to replace a stream; None for never.
        retry: How to replace one that was lost; None for never.
        limiter: Has places for the streams of a program; one is taken, by whoever has made this.
        busy: Whether a tool is at work.
        on_message: Is told every message of both directions, with its time.
        on_events: Is handed what happens.
        room: Waits until there is room for more of that; until then, nothing more is read.
        on_ended: Is told, once, that nothing more will come, and what went wrong if something did.

    Attributes:
        settings: What the current stream was opened with.
        session_id: The service's id of the current stream; None until it has heard some audio.
        end_reason: The service's word for the end; "CLOSED" if it had none.
    """

    def __init__(
        self,
        connect: Connector,
        settings: Settings,
        conversation: Conversation,
        voice: Outgoing,
        *,
        renewal: Renewal | None,
        retry: Retry | None,
        limiter: SessionLimiter | None,
        busy: Callable[[], bool],
        on_message: Callable[[InputMessage | OutputMessage, float], None],
        on_events: Callable[[Iterable[Event]], None],
        room: Callable[[], Awaitable[None]],
        on_ended: Callable[[BaseException | None], None],
    ) -> None:
        self.settings = settings
        self.session_id: str | None = None
        self.end_reason = "CLOSED"
        self._connect = connect
        self._conversation = conversation
        self._voice = voice
        self._renewal = renewal
        self._budget = Budget(retry or Retry(attempts=0))
        self._limiter = limiter
        self._busy = busy
        self._on_message = on_message
        self._on_events = on_events
        self._room = room
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._current: _Leg | None = None
        self._spare: _Leg | None = None  # one that was opened, and does not listen yet
        self._update: _Update | None = None
        self._changed = asyncio.Event()  # for the one who minds the line
        self._moved = asyncio.Event()  # for whoever waits for a stream that listens
        self._finishing = False
        self._over: BaseException | None = None  # what is raised to whoever wants something after the end
        self._calls = dict[str, tuple[ToolCall, _Leg]]()  # without an answer, and where they came from
        self._minding: asyncio.Task[None] | None = None
        self._leaving = dict[asyncio.Task[None], _Leg]()  # streams that nobody needs any more

    # --- opening and closing ------------------------------------------------------------------------------

    async def open(
        self,
        carried: Carried,
        timeout: float,  # noqa: ASYNC109 - the connector knows which of its steps took too long
    ) -> str | None:
        """Open the first stream and let it listen; return the service's id of it.

        Args:
            carried: What it is told of what was said before.
            timeout: Seconds for that.

        Raises:
            TransportError: If the service has not accepted it within `timeout` seconds.
        """
        leg = await self._open(self.settings, timeout, history=carried.history)
        leg.fold = self._conversation.fold
        leg.stream.begin(self._voice)
        self._prompt(leg, carried)
        self._current = leg
        self._moved.set()
        self._minding = asyncio.create_task(self._mind(), name="novasonic-line")
        return leg.stream.request_id

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._over is not None

    def finish(self) -> None:
        """Say goodbye once everything that waits has been sent. The service then ends the stream."""
        self._finishing = True
        if self._minding is not None:
            self._minding.cancel()
        for leg in (self._current, *self._leaving.values()):
            if leg is not None:
                leg.stream.finish()
        if self._current is None or self._current.lost is not None:
            self._end(None)

    async def wait_ended(self, timeout: float) -> None:  # noqa: ASYNC109 - running out of time is no failure here
        """Wait until nothing more comes, on no stream, at most `timeout` seconds."""
        deadline = self._loop.time() + timeout
        if self._current is not None:
            await self._current.stream.wait_ended(timeout)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=max(0.0, deadline - self._loop.time()))

    async def aclose(self) -> None:
        """Give up all streams at once, whatever their state; takes about a second at most. Twice is fine.

        Cancelling is safe: they are given up first.
        """
        self._finishing = True
        if self._minding is not None:
            self._minding.cancel()
            await asyncio.wait({self._minding})
        legs = [leg for leg in (self._current, self._spare, *self._leaving.values()) if leg is not None]
        if self._spare is not None:
            self._spare = None
            self._give_back()
        await asyncio.gather(*(leg.stream.aclose() for leg in legs))
        if self._leaving:
            await asyncio.wait(self._leaving)
        self._end(None)

    def _end(self, failure: BaseException | None) -> None:
        if self._over is not None:
            return
        self._over = failure or LocalProtocolError("the session has ended; nothing can be sent any more")
        self._moved.set()
        self._voice.close(self._over)
        if self._update is not None and not self._update.done.done():
            self._update.done.set_exception(self._over)
        self._on_ended(failure)

    # --- what is said -------------------------------------------------------------------------------------

    async def type_text(self, text: str, *, by_user: bool) -> None:
        """Send a text that is to be answered.

        Cancelling is safe: it goes out whole all the same.

        Raises:
            TransportError: If the stream has failed, and there will be no other.
            LocalProtocolError: If it may not be sent now, or the session has ended.
        """

        def block(leg: _Leg) -> Sequence[InputMessage]:
            return _typed(text, leg, by_user=by_user)

        await self._say(block)

    async def answer(self, id_: str, text: str) -> None:
        """Send the answer to a tool call, over the stream that the call came from, or in words over another.

        Cancelling is safe: it goes out whole all the same.

        Raises:
            TransportError: If the stream has failed, and there will be no other.
            LocalProtocolError: If it may not be sent now, or the session has ended.
        """
        call, origin = self._calls.pop(id_)

        def block(leg: _Leg) -> Sequence[InputMessage]:
            if leg is origin:
                return messages.tool_block(text, prompt_name=leg.stream.prompt_name, tool_use_id=id_)
            # A call is known on its own stream only.
            if not self._conversation.awaits(id_):
                return ()  # it went out, and then its stream was lost: the next one was told of it at once
            run = replace(ToolRun.of(call), result=msgspec.json.decode(text))
            return _typed(continuation.told(run), leg, by_user=False, answer=(id_, text))

        await self._say(block)

    async def _say(self, block: Callable[[_Leg], Sequence[InputMessage]]) -> None:
        """Send what belongs together on the stream that listens, whichever that is by then."""
        while True:
            await self._moved.wait()
            if self._over is not None:
                raise self._over
            leg = self._current
            assert leg is not None  # noqa: S101 - it has moved
            try:
                await leg.stream.say(block(leg))
            except SonicError:
                if self._over is None and leg is self._current and leg.listens:
                    raise
            else:
                return

    # --- what comes ---------------------------------------------------------------------------------------

    def _sent(self, leg: _Leg, message: InputMessage) -> None:
        now = self._loop.time()
        self._on_message(message, now)
        if leg.fold is not None:
            self._on_events(leg.fold.sent(message, now))

    async def _received(self, leg: _Leg, message: OutputMessage) -> None:
        now = self._loop.time()
        self._on_message(message, now)
        if leg.fold is None:
            return  # it has not been told anything yet
        if leg is self._current:
            if isinstance(message, messages.OutputBase) and message.session_id:
                self.session_id = message.session_id
            if isinstance(message, messages.CompletionEnd):
                self.end_reason = message.stop_reason or self.end_reason
            elif self._budget.attempt and isinstance(message, messages.TextOutput | messages.AudioOutput):
                self._budget.refill()
        told = leg.fold.feed(message, now)
        for event in told:
            if isinstance(event, ToolCall):
                self._calls[event.id] = (event, leg)
        self._on_events(told)
        await self._room()

    def _stream_ended(self, leg: _Leg, failure: BaseException | None) -> None:
        leg.lost = failure or StreamLostError(
            "the service has ended the stream", request_id=leg.stream.request_id
        )
        if leg is not self._current or leg.let_go:
            logger.debug("a stream that does not listen has ended: %s", failure)
        elif failure is None or self._finishing or not _may_pass(failure, opened=True):
            self._end(failure)
        else:
            self._let_go(leg)
            self._changed.set()

    # --- moving on ----------------------------------------------------------------------------------------

    async def update(self, settings: Settings) -> None:
        """Go on over another stream with other settings, as soon as the user does not speak.

        Cancelling is safe: the conversation goes on, and may or may not have the other settings.

        Raises:
            SonicError: If the other stream cannot be opened; the conversation goes on as it was. Or what has
                ended the conversation.
            LocalProtocolError: If another update is under way.
        """
        if self._over is not None:
            raise self._over
        if self._update is not None:
            raise LocalProtocolError("another update is under way; wait for it")
        self._update = _Update(settings, self._loop.create_future())
        self._changed.set()
        await asyncio.shield(self._update.done)

    async def _open(
        self,
        settings: Settings,
        timeout: float,  # noqa: ASYNC109 - as in `open`
        history: Sequence[tuple[InputRole, str]] = (),
    ) -> _Leg:
        leg, prompt_name = _Leg(settings), str(uuid4())
        leg.stream = await open_stream(
            self._connect,
            settings.opening(prompt_name, history),
            timeout=timeout,
            prompt_name=prompt_name,
            sample_rate=settings.input_rate,
            on_sent=functools.partial(self._sent, leg),
            on_received=functools.partial(self._received, leg),
            on_ended=functools.partial(self._stream_ended, leg),
        )
        leg.opened_at = self._loop.time()
        return leg

    async def _mind(self) -> None:
        """See to it that there is a stream."""
        try:
            while self._over is None:
                leg = self._current
                assert leg is not None  # noqa: S101 - the first was there before
                if leg.lost is not None:
                    await self._recover(leg)
                elif self._update is not None:
                    await self._renew(leg, continuation.NOW, since=self._loop.time())
                elif self._renewal is None:
                    await self._change(None)
                else:
                    limits = leg.settings.model.limits
                    plan = Plan.of(
                        self._renewal, stream=limits.stream, credentials=leg.stream.credentials_last
                    )
                    wait = leg.opened_at + plan.after - self._loop.time()
                    if wait > 0:
                        await self._change(wait)
                    else:
                        await self._renew(leg, plan, since=leg.opened_at)
        except Exception as exc:
            logger.exception("the line to the service is not minded any more")
            self._end(exc)

    async def _change(self, timeout: float | None) -> None:  # noqa: ASYNC109 - running out of time is no failure here
        """Wait until something has changed, or so long, in seconds."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    async def _renew(self, leg: _Leg, plan: Plan, *, since: float) -> None:
        """Replace a stream that still listens, at a good moment; or return if it is to be thought of anew."""
        update, loop = self._update, self._loop

        def ready() -> bool:
            # While the one before is still finishing what it says, another would be a third.
            return not self._leaving and plan.ready(loop.time() - since, self._situation(leg))

        while not ready():
            await self._change(_LOOK)
            if leg.lost is not None or self._update is not update:
                return
        if self._limiter is not None and not self._limiter.try_acquire():
            # There is no place for two: this one has to go before the next one comes.
            self._let_go(leg)
            await self._dismiss(leg)
            await self._recover(leg, plan.reason)
            return
        settings = self.settings if update is None else update.settings
        try:
            spare = self._spare = await self._open(settings, settings.open_timeout)
        except BaseException as exc:
            self._give_back()
            if not isinstance(exc, SonicError):
                raise
            await self._cannot_move(exc)
            return
        prepared_at = loop.time()
        while spare.lost is None and leg.lost is None and not ready():
            if loop.time() - prepared_at > _PREPARED:
                break
            await self._change(_LOOK)
        self._spare = None
        if leg.lost is not None:
            self._switch(spare, "error", lost_at=loop.time())
            self._part(leg, self._drop(leg))
        elif spare.lost is None and ready():
            self._switch(spare, plan.reason)
            self._part(leg, self._retire(leg))
        else:
            self._part(spare, self._drop(spare))
            if isinstance(spare.lost, Exception):
                await self._cannot_move(spare.lost)

    async def _cannot_move(self, failure: Exception) -> None:
        """Stay on the stream that there is, as the next one failed."""
        if self._update is not None:
            self._updated(failure)
        else:
            logger.warning("the next stream could not be opened: %s", failure)
            await self._change(_OPENING_AGAIN)

    async def _recover(self, leg: _Leg, reason: Reason = "error") -> None:
        """Open another stream in place of one that is gone; or end, if there is no hope of that."""
        lost_at, opened = self._loop.time(), True
        failure = leg.lost if reason == "error" else None  # a stream that was let go has said goodbye
        if lost_at - leg.opened_at >= _LASTED:
            self._budget.refill()
        if reason == "error":
            self._part(leg, leg.stream.aclose())
        while True:
            if failure is not None:
                delay = self._budget.spend() if _may_pass(failure, opened=opened) else None
                if delay is None or not isinstance(failure, SonicError):
                    self._end(failure)
                    return
                logger.warning("the stream was lost; another is tried in %.1f s: %s", delay, failure)
                self._on_events(
                    [
                        events.Reconnecting(
                            turn=self._conversation.turns,
                            attempt=self._budget.attempt,
                            delay=delay,
                            error=failure,
                        )
                    ]
                )
                await asyncio.sleep(delay)
            settings = self.settings if self._update is None else self._update.settings
            try:
                spare = await self._open(settings, settings.open_timeout)
            except SonicError as exc:
                failure, opened = exc, False
            else:
                self._switch(spare, reason, lost_at=lost_at)
                return

    def _switch(self, leg: _Leg, reason: Reason, *, lost_at: float | None = None) -> None:
        """Let another stream listen, from the next frame on. Nothing can come between."""
        old, conversation, voice, now = self._current, self._conversation, self._voice, self._loop.time()
        assert old is not None  # noqa: S101 - the first was there before
        assert old.fold is not None  # noqa: S101 - it listens
        renewal, model, lost = self._renewal or Renewal(), leg.settings.model, lost_at is not None
        owed = lost or old.fold.owes(now)
        again = self._again_from(old.fold, now, lost_at)
        if again is not None:
            voice.rewind(again)
        carried = continuation.carry(
            conversation.left(lost=lost),
            owed=owed,
            again=again is not None and old.fold.untold is not None and self._speaks(voice.waiting),
            answers_typed_text=model.answers_typed_text,
            max_bytes=renewal.history_bytes,
        )
        happened = conversation.move_on(base=voice.next, lost=lost)
        leg.fold = conversation.fold
        if not lost:
            old.stream.let_go()
        history = messages.history_blocks(
            carried.history, prompt_name=leg.stream.prompt_name, limit=renewal.message_bytes
        )
        leg.stream.begin(voice, history)
        self._prompt(leg, carried)
        self._current, self.settings, self.session_id = leg, leg.settings, None
        self._moved.set()
        self._updated(None)
        gap = 0.0 if lost_at is None else now - lost_at
        renewed = events.SessionRenewed(
            turn=conversation.turns, reason=reason, gap=gap, request_id=leg.stream.request_id
        )
        self._on_events([*happened, renewed])

    def _prompt(self, leg: _Leg, carried: Carried) -> None:
        for prompt in carried.prompts:
            leg.stream.post(_typed(prompt, leg, by_user=False, again=True))

    def _situation(self, leg: _Leg) -> Situation:
        fold, now = leg.fold, self._loop.time()
        assert fold is not None  # noqa: S101 - it listens
        return Situation(
            user_speaks=fold.user_speaks or self._loud(now),
            owed=fold.owes(now),
            generating=fold.generating,
            audible=self._conversation.audible(now),
            busy=self._busy(),
        )

    def _loud(self, now: float) -> bool:
        """Whether the user may have begun to speak, which the service has not reported yet."""
        return now - self._voice.sent_at < _UNREPORTED and self._speaks(self._voice.latest(_UNREPORTED))

    def _speaks(self, pcm: bytes) -> bool:
        """Whether there is sound in some audio that may be speech."""
        size = 2 * round(_UNREPORTED * self.settings.input_rate)
        return any(audio.level(pcm[start : start + size]) > _LOUD for start in range(0, len(pcm), size))

    def _again_from(self, fold: Fold, now: float, lost_at: float | None) -> int | None:
        """Return the first sample that another stream must hear again; None if there is none."""
        rate, sent = self.settings.input_rate, self._voice.next
        if fold.untold is not None and (fold.user_speaks or fold.owes(now if lost_at is None else lost_at)):
            # All of it may be text by now, and only its end not reported: nobody would answer the silence.
            rest = self._voice.latest((sent - fold.untold) / rate) + self._voice.waiting
            return fold.untold if self._speaks(rest) else None
        if lost_at is not None:
            seconds = (self._renewal or Renewal()).carry
            if self._speaks(self._voice.latest(seconds)):
                return max(fold.heard, sent - round(seconds * rate))
        elif self._loud(now):
            return max(fold.heard, sent - round(_UNREPORTED * rate))
        return None

    def _let_go(self, leg: _Leg) -> None:
        leg.let_go = True
        leg.stream.let_go()
        self._moved.clear()

    def _updated(self, failure: Exception | None) -> None:
        """Let whoever wanted other settings know what has become of it."""
        update, self._update = self._update, None
        if update is not None and not update.done.done():
            if failure is None:
                update.done.set_result(None)
            else:
                update.done.set_exception(failure)

    def _give_back(self) -> None:
        if self._limiter is not None:
            self._limiter.release()

    # --- leaving ------------------------------------------------------------------------------------------

    def _part(self, leg: _Leg, farewell: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(farewell, name="novasonic-farewell")
        self._leaving[task] = leg
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _retire(self, leg: _Leg) -> None:
        """Let a stream finish what it says, and confirm what was heard; then say goodbye."""
        fold, stream = leg.fold, leg.stream
        assert fold is not None  # noqa: S101 - it has listened
        # As long as it counts what is heard it may want to hear something: no recorded client fell silent.
        rate, samples = leg.settings.input_rate, leg.settings.chunk_samples
        silence, seconds = Outgoing(rate), samples / rate
        stream.listen_to(silence)
        patience, end = self._loop.time() + _CONFIRMED, leg.opened_at + leg.settings.model.limits.stream
        while not fold.over and leg.lost is None and self._loop.time() < min(patience, end):
            if self._conversation.audible(self._loop.time()):
                patience = self._loop.time() + _CONFIRMED
            silence.put_over(bytes(2 * samples))
            await asyncio.sleep(seconds)
        self._on_events(fold.leave())
        await self._drop(leg)

    async def _drop(self, leg: _Leg) -> None:
        await self._dismiss(leg)
        self._give_back()

    async def _dismiss(self, leg: _Leg) -> None:
        """Say goodbye on a stream, and close it."""
        if not leg.stream.ended:
            leg.stream.finish()
            await leg.stream.wait_ended(_GOODBYE)
        await leg.stream.aclose()


def _may_pass(failure: BaseException, *, opened: bool) -> bool:
    """Whether another stream may fare better than one that failed, once it was opened or before."""
    match failure:
        case CredentialsError():
            return opened  # they were good, and have expired: there may be new ones
        case TransportError():
            return failure.retryable
        case _:
            return isinstance(failure, RemoteProtocolError)


def _typed(
    text: str, leg: _Leg, *, by_user: bool, answer: tuple[str, str] | None = None, again: bool = False
) -> Sequence[InputMessage]:
    """Return the messages of a text that is to be answered; see `Fold.prompted`."""
    name = str(uuid4())
    if not by_user and leg.fold is not None:
        leg.fold.prompted(name, answer=answer, again=again)
    return messages.text_block(
        text, prompt_name=leg.stream.prompt_name, role="USER", interactive=True, content_name=name
    )
