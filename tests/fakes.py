"""A service in memory that says what a test tells it to, and a way to it that can get stuck or break."""

import asyncio
from collections.abc import Sequence

from novasonic import messages
from novasonic.messages import InputMessage, OutputMessage


class FakeService:
    """Both ends of a transport: a session's connector, and the test's hand on the other side.

    Args:
        ends: Whether it ends the stream once the client has said its last word, as the real one does.
    """

    request_id = "request-1"
    expires_in: float | None = None

    def __init__(self, *, ends: bool = True) -> None:
        self.heard: list[InputMessage] = []
        self.opened = 0
        self.closed = False
        self.input_ended = False
        self.taking = asyncio.Event()  # cleared, it takes nothing more
        self.taking.set()
        self.accepting = asyncio.Event()  # cleared, it leaves a client waiting for its acceptance
        self.accepting.set()
        self.refusal: Exception | None = None
        self._ends = ends
        self._says = asyncio.Queue[bytes | Exception | None]()
        self._something_heard = asyncio.Event()

    # --- what a session sees ------------------------------------------------------------------------------

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "FakeService":  # noqa: ASYNC109
        async with asyncio.timeout(timeout):
            await self.accepting.wait()
        if self.refusal is not None:
            raise self.refusal
        self.opened += 1
        self._hear(*first)
        return self

    async def send(self, data: bytes) -> None:
        await self.taking.wait()
        self._hear(data)

    async def receive(self) -> bytes | None:
        said = await self._says.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def end_input(self) -> None:
        self.input_ended = True
        if self._ends:
            self.say(messages.CompletionEnd(stop_reason="END_TURN"))
            self.say_raw(None)

    async def aclose(self) -> None:
        self.closed = True
        self.taking.set()
        self.say_raw(None)

    # --- what a test does ---------------------------------------------------------------------------------

    def say(self, *said: OutputMessage) -> None:
        for message in said:
            self.say_raw(messages.encode(message))

    def say_raw(self, said: bytes | Exception | None) -> None:
        self._says.put_nowait(said)

    def _hear(self, *documents: bytes) -> None:
        self.heard += [messages.decode_input(document) for document in documents]
        self._something_heard.set()

    async def hears[T: InputMessage](self, kind: type[T], count: int = 1) -> list[T]:
        """Wait until so many messages of a kind have been heard."""
        while len(self.all_of(kind)) < count:
            self._something_heard.clear()
            await self._something_heard.wait()
        return self.all_of(kind)

    def all_of[T: InputMessage](self, kind: type[T]) -> list[T]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def audio(self) -> bytes:
        return b"".join(message.content for message in self.all_of(messages.AudioInput))
