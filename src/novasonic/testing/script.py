"""A scripted service: a `Connector` that tells a story step by step, and fails a test that does not follow.

It is for a program that is tested against what *this* test wants, down to the order of messages. For a
service that behaves like the real one by itself, see `novasonic.emulator`.
"""

import asyncio
import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, assert_never, cast

from novasonic import errors, failures, messages, models
from novasonic.errors import ConfigurationError
from novasonic.messages import InputMessage, OutputMessage
from novasonic.testing.patterns import Deed, Ear, Expected, Fits, Pattern, pattern
from novasonic.testing.turns import Emit, Said, Step, Teller, flat

_PATIENCE: Final = 10.0


# --- steps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expect(Step):
    """The step of `expect`."""

    patterns: tuple[Pattern, ...]
    within: float | None

    def __str__(self) -> str:
        return "expect " + ", and ".join(map(str, self.patterns))


@dataclass(frozen=True, slots=True)
class Wait(Step):
    """The step of `wait`."""

    seconds: float

    def __str__(self) -> str:
        return f"wait {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Fail(Step):
    """The step of `fail`."""

    name: str
    make: Callable[[], Exception]

    def __str__(self) -> str:
        return f"fail with {self.name}"


@dataclass(frozen=True, slots=True)
class End(Step):
    """The step of `end`."""

    def __str__(self) -> str:
        return "end the stream"


AnyStep = Expect | Emit | Wait | Fail | End
"""Every kind of step."""

type Script = Iterable[Step | Said]
"""The story of one stream, step by step. Messages may stand in it as they are, without `emit`."""


def expect(*expected: Expected, within: float | None = None) -> Expect:
    """Wait until the client does something; several things may come in any order.

    What the client says in its part of the conversation, a typed text or a tool's answer, must be what is
    expected next. All else passes until it fits: what opens and closes a stream, and audio. Silence never
    fits::

        expect(typed("What is the weather?"))
        expect(answers("weather"), answers("clock"))
        expect(messages.SessionEnd)
        expect(lambda message: isinstance(message, messages.PromptStart) and not message.tools)

    Args:
        expected: What `typed`, `answers`, `speaks` and `opens` return; or a class of client messages; or
            one to compare with, but for the names that a client makes up, and with `unittest.mock.ANY` for
            what does not matter; or a function that is true of the message.
        within: Seconds of the event loop's clock; by default the script's `patience`.
    """
    if not expected:
        raise ConfigurationError("expect() is given nothing to expect")
    return Expect(tuple(map(pattern, expected)), within)


def emit(*said: Said) -> Emit:
    """Have the service say something: messages, or what `assistant_says` and its like return."""
    return Emit(tuple(flat(said)))


def wait(seconds: float) -> Wait:
    """Let so many seconds of the event loop's clock pass. The last step of a stream need not be over."""
    if not 0 <= seconds < math.inf:
        raise ConfigurationError(f"wait() is given {seconds!r}, but time passes: it is 0 or more seconds")
    return Wait(seconds)


def fail(error: str | Exception) -> Fail:
    """Have the stream fail; the first step of a script refuses it.

    Args:
        error: The service's name for it ("ThrottlingException"), or the network's ("RST_STREAM_RECEIVED"), or
            that of one of novasonic's errors ("AccessDeniedError"); or an exception.
    """
    if isinstance(error, Exception):
        return Fail(repr(error), lambda: copy.copy(error))
    why = "as the script wants it"
    if error[:1].upper() + error[1:] in failures.ERRORS:
        return Fail(error, lambda: failures.refused("the script", error, why, id_=None))
    if error in failures.NETWORK:
        meaning = failures.NETWORK[error]
        if meaning.error is errors.ConnectError:
            return Fail(error, lambda: failures.unreachable("the script", error))
        return Fail(error, lambda: failures.lost(error))
    kind: object = getattr(errors, error, None)
    if isinstance(kind, type) and issubclass(kind, errors.SonicError):
        return Fail(error, lambda: kind(f"the script failed with {error}, {why}"))
    ours = [name for name in vars(errors) if name.endswith("Error")]
    nearest = models.suggest(error, [*failures.ERRORS, *failures.NETWORK, *ours])
    meant = f"; did you mean {nearest!r}?" if nearest else ""
    raise ConfigurationError(f"{error!r} is the name of no failure{meant}")


def end() -> End:
    """Have the service end the stream, in order but without a goodbye."""
    return End()


def _steps(script: Script) -> tuple[AnyStep, ...]:
    if isinstance(script, Step | str) or not hasattr(script, "__iter__"):
        raise ConfigurationError(
            f"{script!r} is no script; a script is a list of steps: ScriptedTransport([step, ...])"
        )
    steps = tuple(each if isinstance(each, AnyStep) else emit(cast("Said", each)) for each in script)
    last = next((n for n, each in enumerate(steps) if isinstance(each, Fail | End)), len(steps))
    if last < len(steps) - 1:
        raise ConfigurationError(
            f"step {last + 2} comes after the end of the stream; what happens on the next stream stands in a "
            "script of its own: ScriptedTransport([...], [...])"
        )
    return steps


# --- the transport ----------------------------------------------------------------------------------------


class ScriptedTransport:
    """A service that follows a script; for `SonicSession(transport=...)`.

    A script begins when the session listens to the user, and what is emitted has the ids and the form of the
    real service's. When the client says goodbye, so does the service, unless the script expects a
    `messages.SessionEnd` and goes on by itself::

        script = ScriptedTransport([
            expect(typed("How is the weather in Oslo?")),
            calls_tool("weather", {"city": "Oslo"}),
            expect(answers("weather", {"celsius": 7})),
            assistant_says("It is seven degrees in Oslo."),
        ])
        with script:
            async with SonicSession(transport=script, tools=[weather]) as session:
                reply = await session.ask("How is the weather in Oslo?")

    A client that does something else gets an `AssertionError` that says what was expected and what came: it
    comes out of the call that does it, out of reading the session, and again at the end of the `with` block,
    or of a test that has it from the fixture `sonic_script`. So does one that does nothing: no step waits for
    ever, and no client may wait for more than there is in its script.

    Args:
        scripts: One for each stream, in order. A session opens another one when it renews itself, when a
            stream is lost, and for `SonicSession.update`.
        patience: Seconds of the event loop's clock that an `expect` waits, and that a stream stays open after
            its last step with nobody speaking. None: for ever.

    Raises:
        ConfigurationError: If a script cannot be played.
    """

    def __init__(self, *scripts: Script, patience: float | None = _PATIENCE) -> None:
        if not scripts:
            raise ConfigurationError("there is no script; give one for each stream: ScriptedTransport([...])")
        if patience is not None and patience <= 0:
            raise ConfigurationError(f"patience is {patience!r}, but must be seconds above 0, or None")
        self._scripts = [_steps(script) for script in scripts]
        self._patience = math.inf if patience is None else patience
        self._streams = list[_Stream]()
        self._one_too_many = ""

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "_Stream":  # noqa: ARG002, ASYNC109 - as in `Connector`
        """Open the next stream; see `novasonic.transport.Connector`."""
        number = len(self._streams) + 1
        if number > len(self._scripts):
            self._one_too_many = f"the client opens stream {number}, and there is no script for it"
            raise AssertionError(self._one_too_many)
        stream = _Stream(number, self._scripts[number - 1], self._patience)
        self._streams.append(stream)
        stream.open(first)
        return stream

    @property
    def heard(self) -> tuple[InputMessage, ...]:
        """What the client has said so far, silence excepted; one stream after the other."""
        return tuple(message for stream in self._streams for message in stream.heard)

    def progress(self) -> str:
        """Return how far the script was played, for people: a line for each step."""
        lines = list[str]()
        for number, steps in enumerate(self._scripts, 1):
            stream = self._streams[number - 1] if number <= len(self._streams) else None
            lines.append(f"stream {number}" + ("" if stream else " was never opened"))
            for at, step in enumerate(steps):
                mark = "" if stream is None or at > stream.at else "done" if at < stream.at else "here"
                lines.append(f"  {mark:4} {at + 1}. {step}")
        return "\n".join(lines)

    def assert_complete(self) -> None:
        """See to it that everything was played, and that the client did what it should, and no more.

        Raises:
            AssertionError: If not.
        """
        __tracebackhide__ = True
        wrong = next((stream.wrong for stream in self._streams if stream.wrong), self._one_too_many)
        if wrong:
            raise AssertionError(f"{wrong}\n{self.progress()}")
        if len(self._streams) < len(self._scripts) or not all(each.complete for each in self._streams):
            raise AssertionError(f"the script was not played to its end.\n{self.progress()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """See to it that everything was played, unless the block has failed anyway."""
        __tracebackhide__ = True
        if exc is None:
            self.assert_complete()


class _Stream:
    """One stream and its script; see `novasonic.transport.Transport`.

    Attributes:
        heard: What the client has said, silence excepted.
        at: The number of the step at hand, from 0.
        wrong: What the client did wrong; empty if nothing.
    """

    def __init__(self, number: int, steps: Sequence[AnyStep], patience: float) -> None:
        self.request_id: str | None = f"request-{number}"
        self.expires_in: float | None = None
        self.heard = list[InputMessage]()
        self.at = 0
        self.wrong = ""
        self._number = number
        self._steps = steps
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._teller = Teller(stream=number)
        self._ear = Ear(self._teller.calls)
        self._listening = False  # whether the client has opened its audio
        self._deeds = deque[Deed]()  # that no step has looked at
        self._missing = list[tuple[Pattern, Fits]]()  # of the expectation at hand
        self._begun = False  # whether the step at hand is
        self._timer: asyncio.TimerHandle | None = None
        self._time_is_up = False
        self._says = deque[bytes]()
        self._failure: Exception | None = None  # that the script wants
        self._over = False
        self._closed = False
        self._own_goodbye = False  # the script looks after it
        self._changed = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether all was played."""
        return all(isinstance(step, Wait) for step in self._steps[self.at :])

    # --- for the client -----------------------------------------------------------------------------------

    def open(self, first: Sequence[bytes]) -> None:
        """Take in what opens the stream."""
        for data in first:
            self._hear(data)
        if self._steps and isinstance(refusal := self._steps[0], Fail):
            self.at, self._closed = 1, True
            raise refusal.make()

    async def send(self, data: bytes) -> None:
        """Take a message."""
        self._check()
        # As a wire would: let whoever reads have a turn, too. But first, as nobody may hear the answer to a
        # message before it knows that this was sent.
        await asyncio.sleep(0)
        self._hear(data)
        self._play()
        self._check()

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the service has ended the stream in good order."""
        while True:
            self._play()
            if self._says:
                return self._says.popleft()
            self._check()
            if self._over:
                return None
            self._changed.clear()
            await self._changed.wait()

    async def end_input(self) -> None:
        """Take note that no more messages will come."""
        if not self._own_goodbye:
            self._say_goodbye()

    async def aclose(self) -> None:
        """Give up the stream."""
        self._closed = True
        self._set_timer(None)
        self._changed.set()

    def _check(self) -> None:
        __tracebackhide__ = True
        if self.wrong:
            raise AssertionError(self.wrong)
        if self._failure is not None:
            raise copy.copy(self._failure)  # each raise has a traceback of its own
        if self._closed and not self._over:
            raise failures.lost("CLOSED_LOCALLY")

    # --- playing ------------------------------------------------------------------------------------------

    @property
    def _stopped(self) -> bool:
        return bool(self.wrong) or self._failure is not None or self._over or self._closed

    def _hear(self, data: bytes) -> None:
        message = messages.decode_input(data)
        deeds = list(self._ear.hear(message))
        if deeds or not isinstance(message, messages.AudioInput):
            self.heard.append(message)
        self._deeds += deeds
        self._listening = self._listening or any(deed.opening is not None for deed in deeds)

    def _play(self) -> None:
        """Take all the steps that can be taken now."""
        while self._listening and not self._stopped:
            if self.at == len(self._steps):
                self._linger()
                return
            if not self._take(self._steps[self.at]):
                return
            self.at += 1
            self._begun = False
            self._set_timer(None)

    def _take(self, step: AnyStep) -> bool:
        """Go on with a step; return whether it is over."""
        begins, self._begun = not self._begun, True
        match step:
            case Emit(said=said):
                return self._tell(said)
            case Wait(seconds=seconds):
                if begins:
                    self._set_timer(seconds)
                return self._time_is_up
            case Expect(patterns=patterns, within=within):
                patience = self._patience if within is None else within
                if begins:
                    self._missing = [(each, each.begin()) for each in patterns]
                    self._set_timer(patience)
                return self._is_met(patience)
            case Fail():
                self._failure = step.make()
            case End():
                self._over = True
            case _:
                assert_never(step)
        self._changed.set()
        return True

    def _is_met(self, patience: float) -> bool:
        while self._deeds and self._missing:
            deed = self._deeds.popleft()
            met = next((each for each in self._missing if each[1](deed)), None)
            if met is not None:
                self._missing.remove(met)
                self._own_goodbye |= isinstance(deed.message, messages.SessionEnd)
                continue
            judge = next((each for each, _ in self._missing if each.judges(deed)), None)
            if judge is not None or deed.is_said:
                self._disagree(judge.show(deed) if judge else str(deed))
                return False
        if self._missing and self._time_is_up:
            self._disagree(f"nothing of it in {patience:g} s")
        return not self._missing

    def _linger(self) -> None:
        """The script was played: the client may speak on, and is to say goodbye."""
        speaking = False
        for deed in self._deeds:
            speaking = speaking or deed.seconds > 0
            if deed.is_said:
                self._go_wrong(f"{self._where}: the script is at its end, but there came {deed}")
                return
        self._deeds.clear()
        if self._own_goodbye:
            self._say_goodbye()
        elif self._time_is_up:
            self._go_wrong(
                f"{self._where}: the script is at its end, and {self._patience:g} s later the client still "
                "waits for something; have it say goodbye, with `await session.end()` or by leaving its "
                "block, or go on with the script; a wait() in it is a time in which nothing need happen"
            )
        elif speaking or not self._begun:
            self._begun = True
            self._set_timer(self._patience)

    def _tell(self, said: Sequence[OutputMessage]) -> bool:
        self._teller.prompt_name = self._ear.prompt_name
        heard = self._ear.samples / self._ear.sample_rate
        try:
            told = self._teller.tell(said, heard=heard)
        except ConfigurationError as exc:
            self._go_wrong(f"{self._where} cannot be played: {exc}")
            return False
        self._says += map(messages.encode, told)
        self._changed.set()
        return True

    def _say_goodbye(self) -> None:
        if not self._stopped:
            self._tell((messages.CompletionEnd(stop_reason="END_TURN"),))
            self._over = True
            self._set_timer(None)
            self._changed.set()

    def _disagree(self, came: str) -> None:
        missing = ", and ".join(str(each) for each, _ in self._missing)
        self._go_wrong(
            f"{self._where}: the client does not do what the script expects\n"
            f"  expected: {missing}\n  came:     {came}"
        )

    def _go_wrong(self, text: str) -> None:
        self.wrong = text
        self._set_timer(None)
        self._changed.set()

    @property
    def _where(self) -> str:
        step = f", step {self.at + 1} of {len(self._steps)}" if self.at < len(self._steps) else ""
        return f"stream {self._number}{step}"

    # --- time ---------------------------------------------------------------------------------------------

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._time_is_up = seconds == 0
        if seconds is not None and 0 < seconds < math.inf:
            self._timer = self._loop.call_later(seconds, self._end_time)

    def _end_time(self) -> None:
        self._timer, self._time_is_up = None, True
        self._changed.set()
