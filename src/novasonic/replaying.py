"""Replays a recording: a `Connector` that says what the service said then, and judges what a client says now.

    async with SonicSession(transport=replay("call.jsonl"), system="Be brief.") as session:
        ...

Audio is never compared, and nothing waits for it: how much of it goes out before something happens is a
matter of time. All else that a client said is compared, and what the service said after it waits for it.
"""

import asyncio
import contextlib
import copy
import math
import os
from collections.abc import Sequence
from typing import Final, cast, get_args

from novasonic import failures, recording
from novasonic.errors import ConfigurationError, ConnectError, ReplayError, SonicError
from novasonic.recording import Line, Tape
from novasonic.script import Check, Script

_CHECKS: Final[tuple[Check, ...]] = get_args(Check)

_PATIENCE: Final = 10.0  # seconds


def replay(
    source: str | os.PathLike[str] | Tape,
    *,
    speed: float | None = 1.0,
    check: Check = "strict",
    patience: float | None = _PATIENCE,
) -> "Replay":
    """Return a way to a recorded service, for `SonicSession(transport=...)`.

    Each stream that a session opens is the next one of the recording. Time is that of the event loop, real or
    not. What the service said after a message of the client's comes as long after it as it did then, so a
    tool that takes longer now makes all that follows come later.

    Args:
        source: A recording, or one that was read.
        speed: How much faster than it was recorded; None for at once. Then an interruption may come before a
            program has read the audio that it cuts, which is dropped as ever. A session renews its streams by
            its own clock: a conversation that was renewed is replayed as it was on a clock that the test
            commands.
        check: "strict" compares each message of the client's but for audio, ids and what was redacted;
            answers to tools may come in another order. "lenient" compares only which kinds of messages come
            in which order. "free" compares nothing, and the service says everything in its time.
        patience: Seconds to wait, beyond the recorded time, for what the client did then; None for ever.

    Raises:
        ConfigurationError: If an argument is wrong. Opening a session raises it if the file cannot be read.
    """
    return Replay(source, speed=speed, check=check, patience=patience)


class Replay:
    """A recorded service; `replay` explains the arguments.

    What a program does otherwise than it was recorded is a `ReplayError`: opening the session raises it, or
    reading it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Tape,
        *,
        speed: float | None = 1.0,
        check: Check = "strict",
        patience: float | None = _PATIENCE,
    ) -> None:
        if not isinstance(source, Tape):
            recording.check_path("source", source, "a path or a Tape")
        if check not in _CHECKS:
            raise ConfigurationError(f"check is {check!r}, but must be one of {', '.join(_CHECKS)}")
        _check_number("speed", speed)
        _check_number("patience", patience)
        self._source = source
        self._speed = math.inf if speed is None else float(speed)
        self._check: Check = check
        self._patience = math.inf if patience is None else float(patience)
        self._tape = source if isinstance(source, Tape) else None
        self._streams = list[ReplayedStream]()

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "ReplayedStream":  # noqa: ASYNC109 - as in `Connector`
        """Open the next stream of the recording; see `novasonic.transport.Connector`."""
        if self._tape is None:
            self._tape = await asyncio.to_thread(recording.read, cast("str | os.PathLike[str]", self._source))
        tape, number = self._tape, len(self._streams) + 1
        if number > tape.streams:
            raise ReplayError(
                f"the program opens stream {number}, but {tape.name} has only {tape.streams}: fewer were "
                "renewed or lost then"
            )
        script = Script(tape, number, speed=self._speed, check=self._check, patience=self._patience)
        stream = ReplayedStream(script)
        self._streams.append(stream)
        try:
            async with asyncio.timeout(timeout):
                await stream.open(first)
        except TimeoutError as exc:
            raise ConnectError(f"the recorded service did not answer within {timeout:g} s") from exc
        return stream

    def assert_complete(self) -> None:
        """See to it that the whole recording was replayed, and that the program did what was done then.

        Raises:
            ReplayError: If a program did something else, even if nobody has read the session since.
            AssertionError: If streams were not opened, or not all of one was said.
        """
        for stream in self._streams:
            stream.assert_complete()
        streams = self._tape.streams if self._tape is not None else 1
        if len(self._streams) < streams:
            raise AssertionError(f"the program has opened {len(self._streams)} of {streams} recorded streams")


class ReplayedStream:
    """A stream of a recording; see `novasonic.transport.Transport`.

    Attributes:
        request_id: The service's id of the stream that was recorded.
        expires_in: As it was then.
    """

    def __init__(self, script: Script) -> None:
        self.request_id: str | None = None
        self.expires_in: float | None = None
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        self._failure: SonicError | None = None

    async def open(self, first: Sequence[bytes]) -> None:
        """Say `first`, and wait until the stream is accepted, as it was then.

        Raises:
            TransportError: If it was refused then.
            ReplayError: If something else was said then.
        """
        self._script.begin(self._loop.time())
        for document in first:
            self._hear(document)
        if self._script.opening and self._script.due == math.inf:
            self._failure = self._script.overdue()  # nothing more is said before it is accepted
        while self._script.opening:
            line = await self._next()
            if line is not None and line.accepted is not None:
                self.request_id, self.expires_in = line.accepted.request_id, line.accepted.expires_in

    async def send(self, data: bytes) -> None:
        """Say one message."""
        if self._closed:
            raise failures.lost("CLOSED_LOCALLY")
        if self._failure is not None:
            raise copy.copy(self._failure)
        if self._script.ended:
            raise failures.lost("ENDED_BY_SERVICE")
        self._hear(data)
        # As a wire would: let whoever reads have a turn, too.
        await asyncio.sleep(0)

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the service has ended the stream in good order."""
        # A program gets to read what came before, if it did then: at once does not mean in one go.
        if not self._script.goes_on:
            await asyncio.sleep(0)
        while (line := await self._next()) is not None:
            if line.event is not None or line.raw is not None:
                return self._script.document(line)
        return None

    async def end_input(self) -> None:
        """Say that no more messages will come."""
        self._script.leave(self._loop.time())
        self._changed.set()

    async def aclose(self) -> None:
        """Give up the stream."""
        self._closed = True
        self._changed.set()

    def assert_complete(self) -> None:
        """See to it that the stream was replayed to its end; see `Replay.assert_complete`."""
        if isinstance(self._failure, ReplayError):
            raise copy.copy(self._failure)
        self._script.assert_complete()

    def _hear(self, data: bytes) -> None:
        try:
            self._script.hear(data, self._loop.time())
        except ReplayError as exc:
            self._failure = exc
            raise
        finally:
            self._changed.set()

    async def _next(self) -> Line | None:
        """Return the next line of the service's when it is time for it; None once it has ended the stream."""
        script = self._script
        while True:
            if self._failure is not None:
                raise copy.copy(self._failure)
            if self._closed:
                raise failures.lost("CLOSED_LOCALLY")
            if script.ended:
                return None
            now, due = self._loop.time(), script.due
            until = script.deadline if due == math.inf else due
            if due <= now:
                line = script.take(now)
                if line.failed is None:
                    return None if line.ended else line
                self._failure = line.failed.exception()
            elif until <= now:
                self._failure = script.overdue()
            else:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(None if until == math.inf else until):
                        await self._changed.wait()


def _check_number(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    if value is not None and not number:
        raise ConfigurationError(f"{name} is {value!r}, but must be a number above 0, or None")
