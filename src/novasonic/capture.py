"""Records a session while it goes on: a way to the service that writes down what goes over it.

It stands between the session and its transport, so it sees each stream by itself, with every byte as it was,
and how streams open and end. What fails here is logged, and ends no conversation.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from novasonic.recording import Acceptance, Failure, Note, Recording, Sender, Writer
from novasonic.transport import Connector, Transport

logger = logging.getLogger("novasonic.capture")

_PERIOD: Final = 0.25  # seconds between two writes: what a program that is killed may lose

# So many bytes may wait for a disk that is asleep: both directions of eight minutes, which is all that one
# stream can carry, are about 50 MB of JSON. What comes then is left out: memory is for the living.
_MAX_BYTES: Final = 64 * 2**20
_NOTE_BYTES: Final = 200  # about what a note takes, besides its document


class Capture:
    """Writes a recording of one session.

    Args:
        recording: Where, and how.
        model: The id of the session's model.
    """

    def __init__(self, recording: Recording, *, model: str) -> None:
        self._recording = recording
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._moment: float | None = None
        self._streams = 0
        self._notes = list[Note]()
        self._bytes = 0
        self._missing = 0  # notes that were left out since the last one that was not
        self._ending = asyncio.Event()
        self._writer: Writer | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Create the file.

        Raises:
            ConfigurationError: If it cannot be created.
        """
        creating = asyncio.create_task(asyncio.to_thread(Writer, self._recording, model=self._model))
        try:
            self._writer = await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._writer = await creating  # or nobody would close it
            raise
        self._task = asyncio.create_task(self._write_on(), name="novasonic-capture")

    def over(self, connect: Connector) -> Connector:
        """Return a way to the service that is recorded."""

        async def connect_recorded(first: Sequence[bytes], *, timeout: float) -> Transport:  # noqa: ASYNC109 - as in `Connector`
            if not self._streams:
                self._start = self._loop.time()  # loading the SDK is no part of a conversation
            self._streams += 1
            stream = self._streams

            def note(sender: Sender, what: bytes | Acceptance | Failure | None) -> None:
                self._note(Note(self._now(), sender, stream, what))

            for document in first:
                note("client", document)
            try:
                transport = await connect(first, timeout=timeout)
            except Exception as exc:
                note("service", Failure.of(exc))
                raise
            note("service", Acceptance(request_id=transport.request_id, expires_in=transport.expires_in))
            return _Recorded(transport, note)

        return connect_recorded

    async def aclose(self) -> None:
        """Write the rest, and close the file. Twice is fine."""
        self._ending.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        elif self._writer is not None:
            await asyncio.to_thread(self._writer.close)

    def _now(self) -> float:
        """Return the time, the same for all that passes before the event loop does anything else.

        So a replay knows between which messages the program had a turn, and between which it had not.
        """
        if self._moment is None:
            self._moment = self._loop.time() - self._start
            self._loop.call_soon(self._pass)
        return self._moment

    def _pass(self) -> None:
        self._moment = None

    def _note(self, note: Note) -> None:
        if self._writer is None:
            return
        size = _NOTE_BYTES + (len(note.what) if isinstance(note.what, bytes) else 0)
        if self._bytes + size > _MAX_BYTES:
            self._missing += 1
            return
        if self._missing:
            self._notes.append(note._replace(what=self._missing))
            self._missing = 0
        self._notes.append(note)
        self._bytes += size

    async def _write_on(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD):
                    await self._ending.wait()
            await self._write()
        await self._write()  # what has come while that was being written
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)

    async def _write(self) -> None:
        if self._missing and self._ending.is_set():
            self._notes.append(Note(self._now(), "service", 1, self._missing))
        notes, size = self._notes, self._bytes
        if self._writer is None or not notes:
            return
        self._notes = []
        try:
            await asyncio.to_thread(self._writer.write, notes)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the conversation goes on
            why = exc.strerror if isinstance(exc, OSError) else exc
            logger.error("%s cannot be written any more: %s", self._recording.path, why)  # noqa: TRY400 - no bug
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                await asyncio.to_thread(writer.close)
        self._bytes -= size


class _Recorded:
    """A stream that is recorded; see `novasonic.transport.Transport`."""

    def __init__(
        self, transport: Transport, note: Callable[[Sender, bytes | Acceptance | Failure | None], None]
    ) -> None:
        self.request_id = transport.request_id
        self.expires_in = transport.expires_in
        self._transport = transport
        self._note = note
        self._closed = False

    async def send(self, data: bytes) -> None:
        # Before it goes: what the service answers must not stand before it.
        self._note("client", data)
        await self._transport.send(data)

    async def receive(self) -> bytes | None:
        try:
            data = await self._transport.receive()
        except Exception as exc:
            if not self._closed:
                self._note("service", Failure.of(exc))
            raise
        self._note("service", data)
        return data

    async def end_input(self) -> None:
        await self._transport.end_input()

    async def aclose(self) -> None:
        self._closed = True
        await self._transport.aclose()
