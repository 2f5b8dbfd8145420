"""What single steps of novasonic take, without a network: `python -m bench.micro` prints `Steps` as JSON."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from novasonic import SonicSession, messages
from novasonic.audio import Chunker
from novasonic.conversation import Conversation
from novasonic.events import AudioChunk, Interrupted
from novasonic.eventstream import ChunkSigner, FrameDecoder, decode_chunk, encode_chunk
from novasonic.messages import OutputMessage

_QUEUED: Final = 60.0  # seconds of speech that wait when the user breaks in
_CHUNK: Final = 0.080
_SPEECH: Final = bytes(range(256)) * 15  # that long at 24 kHz
_FRAME: Final = bytes(range(256)) * 4  # 32 ms at 16 kHz
_INTERRUPTIONS: Final = 200
_MESSAGES: Final = 5_000
_FRAMES: Final = 5_000


class Took(msgspec.Struct):
    """How long something took, in seconds."""

    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, nanoseconds: list[int]) -> "Took":
        """Return what stands for all that was measured."""
        ordered = sorted(nanoseconds)
        half, most = len(ordered) // 2, len(ordered) * 99 // 100
        return cls(ordered[half] / 1e9, ordered[most] / 1e9, ordered[-1] / 1e9)


class Steps(msgspec.Struct, kw_only=True):
    """What was measured.

    Attributes:
        interruption: From the transport's handing over the service's sign of a barge-in, while 60 s of audio
            wait to be read, to the program's having `Interrupted`.
        arrival: From the transport's handing over a chunk of speech to the program's having it.
        encode: From the samples of a frame to the signed bytes for the network.
        decode: From the network's bytes of a chunk to its event.
    """

    interruption: Took
    arrival: Took
    encode: Took
    decode: Took


class Memory:
    """A transport whose service is in memory, and remembers when it handed over the latest message."""

    request_id: str | None = None
    expires_in: float | None = None

    def __init__(self) -> None:
        self.handed_over = 0
        self._said = asyncio.Queue[bytes | None]()

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> "Memory":  # noqa: ARG002, ASYNC109
        """Open at once."""
        return self

    async def send(self, data: bytes) -> None:
        """Drop what the client says."""

    async def receive(self) -> bytes | None:
        """Return what the service says next."""
        said = await self._said.get()
        self.handed_over = time.perf_counter_ns()
        return said

    async def end_input(self) -> None:
        """End the stream, as the client has."""
        self._said.put_nowait(None)

    async def aclose(self) -> None:
        """End the stream."""
        self._said.put_nowait(None)

    def say(self, *said: OutputMessage, times: int = 1) -> None:
        """Have the session receive what the service says."""
        for document in [messages.encode(message) for message in said]:
            for _ in range(times):
                self._said.put_nowait(document)

    async def all_taken(self) -> None:
        """Wait until the session has received all of it."""
        while not self._said.empty():  # noqa: ASYNC110 - a pass of the loop at a time
            await asyncio.sleep(0)

    def since(self) -> int:
        """Return the nanoseconds since the latest message was handed over."""
        return time.perf_counter_ns() - self.handed_over


def _planned(turn: int) -> Iterator[OutputMessage]:
    """What comes before the speech of a response."""
    text, role = f"text-{turn}", "ASSISTANT"
    yield messages.OutputContentStart(content_id=text, type="TEXT", role=role, stage="SPECULATIVE")
    yield messages.TextOutput(content_id=text, role=role, content="This is going to take a while.")
    yield messages.OutputContentEnd(content_id=text, type="TEXT", stop_reason="PARTIAL_TURN")
    yield messages.OutputContentStart(content_id=f"audio-{turn}", type="AUDIO", role=role, sample_rate=24_000)


def _spoken(turn: int) -> OutputMessage:
    return messages.AudioOutput(content_id=f"audio-{turn}", content=_SPEECH)


async def interruptions() -> list[int]:
    """Let the user break into a long answer, time and again."""
    service, took = Memory(), list[int]()
    async with SonicSession(transport=service, silence=False) as session:
        for turn in range(_INTERRUPTIONS):
            service.say(*_planned(turn))
            service.say(_spoken(turn), times=round(_QUEUED / _CHUNK))
            await service.all_taken()
            service.say(
                messages.OutputContentEnd(content_id=f"audio-{turn}", type="AUDIO", stop_reason="INTERRUPTED")
            )
            while not isinstance(await anext(session), Interrupted):  # noqa: ASYNC110 - as a program that plays
                await asyncio.sleep(0)
            took.append(service.since())
    return took


async def arrivals() -> list[int]:
    """Let a chunk come now and then, while the program waits for it."""
    service, took = Memory(), list[int]()
    async with SonicSession(transport=service, silence=False) as session:
        service.say(*_planned(0))
        while len(took) < _MESSAGES:
            asyncio.get_running_loop().call_soon(service.say, _spoken(0))
            while not isinstance(await anext(session), AudioChunk):
                pass
            took.append(service.since())
    return took


def encodings() -> list[int]:
    """Make frames of samples, ready for the network."""
    chunker = Chunker(16_000, 512)
    signer = ChunkSigner(secret_key="made up", region="us-east-1", signature="0" * 64)  # noqa: S106

    def encode() -> None:
        for pcm in chunker.feed(_FRAME):
            message = messages.AudioInput(prompt_name="prompt", content_name="audio", content=pcm)
            signer.sign(messages.encode(message), at=time.time_ns() // 1_000_000)

    return _timed(encode)


def decodings() -> list[int]:
    """Make events of what the network brings."""
    decoder, conversation = FrameDecoder(), Conversation()
    for message in _planned(0):
        conversation.feed(message, 0.0)
    data = encode_chunk(messages.encode(_spoken(0)))

    def decode() -> None:
        decoder.feed(data)
        while frame := decoder.next_frame():
            conversation.feed(messages.decode_output(decode_chunk(frame) or b""), 0.0)

    return _timed(decode)


def _timed(step: Callable[[], None]) -> list[int]:
    took = list[int]()
    for _ in range(_FRAMES):
        began = time.perf_counter_ns()
        step()
        took.append(time.perf_counter_ns() - began)
    return took


if __name__ == "__main__":
    steps = Steps(
        interruption=Took.of(asyncio.run(interruptions())),
        arrival=Took.of(asyncio.run(arrivals())),
        encode=Took.of(encodings()),
        decode=Took.of(decodings()),
    )
    print(msgspec.json.encode(steps).decode())
