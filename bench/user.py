"""Somebody who talks with a session in simulated time: speaks, types, listens, and notices what is wrong."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from bench import counted
from bench.exchange import AND_SO_ON, Exchange
from novasonic import events
from novasonic.conversation import LOST
from novasonic.errors import SonicError
from novasonic.events import Event
from novasonic.session import SonicSession

_PATIENCE: Final = 45.0  # seconds for an answer, once the line is well
_REMEMBERED: Final = 64  # sentences


class UnansweredError(Exception):
    """Nobody has answered the user in time."""


class Ears:
    """Listens to the model's speech as a loudspeaker plays it: a `novasonic.conversation.Player`.

    Attributes:
        until: When all that has come will have been played.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self._before = 0.0  # seconds of the turn that were played before the latest pause
        self._since = 0.0  # and since when it has been playing

    def play(self, chunk: events.AudioChunk) -> None:
        """Play a piece of speech, once what came before has been played."""
        now = self._loop.time()
        if chunk.turn != self._turn:
            self._turn, self._before, self._since = chunk.turn, 0.0, max(now, self.until)
        elif self.until < now:
            self._before, self._since = self._before + self.until - self._since, now
        self.until = max(now, self.until) + chunk.duration

    def stop(self) -> None:
        """Play nothing more of what has come."""
        self.until = min(self.until, self._loop.time())

    def heard(self, turn: int) -> float | None:
        """Return the seconds of a turn that were played, as far as it is known."""
        if turn != self._turn:
            return None
        return self._before + max(0.0, min(self._loop.time(), self.until) - self._since)


class User:
    """A user, for the time of an `async with`.

    Args:
        session: The other side, which is open.

    Attributes:
        voice: What the user has said.
        muted: Whether the microphone is off: then nothing is given.
        holds_to_talk: Whether it is on only while the user speaks.
        ears: What plays the answers.
        seen: How many events there were of each kind.
        attempts: The number of the latest attempt to reconnect.
        losses: How often a stream was lost.
        renewals: How often the conversation has moved on, by reason.
        on_renewed: Is called when it has.
        failure: What the session has raised.
        ended: Whether nothing more comes.
    """

    def __init__(self, session: SonicSession) -> None:
        self.voice = counted.Voice()
        self.muted = False
        self.holds_to_talk = False
        self.ears = Ears()
        self.seen = Counter[str]()
        self.attempts = 0
        self.losses = 0
        self.renewals = Counter[str]()
        self.on_renewed: Callable[[events.SessionRenewed], None] = lambda _: None
        self.failure: SonicError | None = None
        self.ended = False
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._speaks_until = 0.0
        self._well_since = self._loop.time()  # since when there has been a stream that listens
        self._planned = deque[tuple[int, str]](maxlen=_REMEMBERED)  # turns, and sentences
        self._answered = deque[str](maxlen=_REMEMBERED)  # sentences of turns that have ended as they should
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Switch the microphone on, and listen."""
        for work, name in ((self._give(), "microphone"), (self._listen(), "ears")):
            self._tasks.append(asyncio.create_task(work, name=name))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Switch it off. What the session still has to tell is not listened to."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.voice.ended_at = self._loop.time()

    # --- what a user does ---------------------------------------------------------------------------------

    async def ask(self, exchange: Exchange) -> None:
        """Ask a question; return when it was asked."""
        for sentences in (self._planned, self._answered):
            sentences.clear()
        if exchange.kind == "typed":
            await self._session.send_text(exchange.question)
        else:
            stretches = 2 if exchange.pause else 1
            for stretch in range(stretches):
                await asyncio.sleep(exchange.pause * stretch)
                await self._speak(exchange.speaking / stretches)

    async def _speak(self, seconds: float) -> None:
        self.muted = False
        self._speaks_until = self._loop.time() + seconds
        await asyncio.sleep(seconds)
        self.muted = self.holds_to_talk

    async def change_mind(self) -> None:
        """Want other instructions for the model. That may fail, and then all is as it was."""
        with contextlib.suppress(SonicError):
            await self._session.update(system=f"Be as you were {self._loop.time():.0f} seconds ago.")

    async def answer(self, exchange: Exchange) -> None:
        """Wait until the question was answered, and the answer heard.

        Raises:
            UnansweredError: If there is no answer in time.
        """
        await self._until(lambda: exchange.last in self._answered or AND_SO_ON in self._answered, exchange)
        while not self.ended and (left := self.ears.until - self._loop.time()) > 0:  # noqa: ASYNC110 - it is time
            await asyncio.sleep(left)

    async def beginning(self, exchange: Exchange) -> None:
        """Wait until the answer begins to be heard.

        Raises:
            UnansweredError: If there is no answer in time.
        """
        texts = {sentence.text for sentence in exchange.sentences} | {AND_SO_ON}
        await self._until(
            lambda: any(text in texts for _, text in self._planned) and self.ears.until > self._loop.time(),
            exchange,
        )

    async def _until(self, condition: Callable[[], bool], exchange: Exchange) -> None:
        asked_at = self._loop.time()
        while not condition() and not self.ended:
            patience = max(asked_at, self._well_since) + _PATIENCE - self._loop.time()
            if patience <= 0:
                raise UnansweredError(f"exchange {exchange.number} ({exchange.kind}) was not answered")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._changed.wait()

    # --- the microphone -----------------------------------------------------------------------------------

    async def _give(self) -> None:
        due = self._loop.time()
        with contextlib.suppress(SonicError):  # whoever listens hears of it
            while True:
                due += counted.SECONDS
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not self.muted:
                    loud = due <= self._speaks_until
                    await self._session.send_audio(self.voice.next(loud=loud))
                    self.voice.given(loud=loud)

    # --- the loudspeaker ----------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            async for event in self._session:
                self._take(event)
                self._changed.set()
        except SonicError as exc:
            self.failure = exc
        self.ended = True
        self._changed.set()

    def _take(self, event: Event) -> None:
        self.seen[type(event).__name__] += 1
        match event:
            case events.AudioChunk():
                self.ears.play(event)
            case events.Interrupted():
                self.ears.stop()
            case events.Transcript(role="ASSISTANT", stage="SPECULATIVE", text=text, turn=turn):
                self._planned.append((turn, text))
            case events.TurnEnded(turn=turn, reason=reason) if reason != LOST:
                self._answered.extend(text for each, text in self._planned if each == turn)
            case events.Reconnecting(attempt=attempt):
                self.attempts = attempt
                self.losses += 1
                self._well_since = float("inf")
            case events.SessionRenewed(reason=reason):
                if reason == "error":
                    self._well_since = self._loop.time()
                self.renewals[reason] += 1
                self.on_renewed(event)
            case _:
                pass
