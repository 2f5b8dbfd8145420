"""One side of the benchmark: so many live sessions, and what they cost this process.

`python -m bench.client SIDE SESSIONS SECONDS SERVER` prints a `Result` as JSON. It finds the server in the
environment, as any program finds AWS; `SERVER` is the id of its process.
"""

import asyncio
import base64
import functools
import json
import os
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

import msgspec
import psutil

if TYPE_CHECKING:
    from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
    from smithy_http.aio.crt import AWSCRTHTTPClient

FRAME_NS: Final = 32_000_000
"""How long a frame of the user's audio is."""

_MODEL: Final = "amazon.nova-2-sonic-v1:0"
_WARM_UP: Final = 2.0  # seconds for caches, windows and the allocator to settle
_SPEECH: Final = bytes(range(256)) * 4  # 32 ms at 16 kHz


Side = Literal["novasonic", "sdk", "alone"]
"""The library; the SDK alone; and the program alone, which makes the same frames and sends them to nobody."""


class Spread(msgspec.Struct):
    """How something is spread, in seconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, nanoseconds: Collection[int]) -> "Spread":
        """Return the spread of what was measured."""
        ordered = sorted(nanoseconds)
        return cls(ordered[len(ordered) // 2] / 1e9, ordered[len(ordered) * 99 // 100] / 1e9)


class Result(msgspec.Struct, kw_only=True):
    """What a run has measured; None where there was nothing to measure.

    Attributes:
        main: Seconds of CPU of the main thread, per session and second.
        total: The same of the whole process.
        server: Seconds of CPU of the server, per second.
        lateness: How late frames were handed to the network.
        delay: From the server's sending a chunk of speech to the program's having it.
        carried: The share of the frames due that were sent.
        memory: Bytes that each session after the first takes.
    """

    main: float
    total: float
    server: float
    lateness: Spread
    delay: Spread | None
    carried: float
    memory: float | None


class Meter:
    """What all sessions of a run report to."""

    def __init__(self) -> None:
        self.recording = False
        self.lateness = array("q")  # nanoseconds
        self.delay = array("q")

    def sent(self, frame: bytes) -> None:
        """Take note that a frame was handed to the network."""
        due = int.from_bytes(frame[:8])
        if self.recording and due:  # a session may add silence, which nobody waits for
            self.lateness.append(time.monotonic_ns() - due)

    def heard(self, pcm: bytes) -> None:
        """Take note that the program has a chunk of speech."""
        if self.recording:
            self.delay.append(time.monotonic_ns() - int.from_bytes(pcm[:8]))


async def speak(send: Callable[[bytes], Awaitable[None]], phase: float) -> None:
    """Speak for ever: a frame every 32 ms, which begins with the time at which it is due."""
    due = time.monotonic_ns() + int(phase * FRAME_NS)
    while True:
        await asyncio.sleep((due - time.monotonic_ns()) / 1e9)
        await send(due.to_bytes(8) + _SPEECH[8:])
        due += FRAME_NS


# --- novasonic --------------------------------------------------------------------------------------------


async def converse(meter: Meter, phase: float, opened: Callable[[], None]) -> None:
    """Hold a session with novasonic."""
    from novasonic import SonicSession  # each side loads only what it needs
    from novasonic.events import AudioChunk
    from novasonic.messages import AudioInput, InputMessage, OutputMessage

    def on_message(message: InputMessage | OutputMessage, _: float) -> None:
        if isinstance(message, AudioInput):
            meter.sent(message.content)

    session = SonicSession(system="Be brief.")
    session.on_message(on_message)
    async with session, asyncio.TaskGroup() as tasks:
        tasks.create_task(speak(session.send_audio, phase))
        opened()
        async for event in session:
            if isinstance(event, AudioChunk):
                meter.heard(event.pcm)


# --- the plain SDK ----------------------------------------------------------------------------------------


def local_transport() -> "AWSCRTHTTPClient":
    """Return the SDK's duplex transport, made to trust the benchmark's server: it has no setting for that."""
    from awscrt import io as crt
    from smithy_http.aio.crt import AWSCRTHTTPClient

    class LocalTransport(AWSCRTHTTPClient):
        def __init__(self, ca: bytes) -> None:
            super().__init__()
            options = crt.TlsContextOptions()
            options.override_default_trust_store(ca)
            self._tls_ctx = crt.ClientTlsContext(options)  # private: there is no other way

        def __deepcopy__(self, memo: object) -> "LocalTransport":
            return self  # the client copies its configuration, and would get a transport without our CA

    return LocalTransport(Path(os.environ["AWS_CA_BUNDLE"]).read_bytes())


async def make_client() -> "AsyncBedrockRuntimeClient":
    """Return the SDK's client as AWS's samples configure it: one for all sessions, on one connection."""
    from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
    from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
    from smithy_aws_core.identity import EnvironmentCredentialsResolver

    config = await AsyncBedrockRuntimeConfig.resolve(
        transport=local_transport(),
        aws_credentials_identity_resolver=EnvironmentCredentialsResolver(),  # type: ignore[no-untyped-call]
    )
    return AsyncBedrockRuntimeClient(config)


class PlainSession:
    """A session as AWS's samples hold it: dicts, `json` and `base64`, and the SDK for the rest."""

    def __init__(self, client: "AsyncBedrockRuntimeClient") -> None:
        from aws_sdk_bedrock_runtime import models

        self.speech = asyncio.Queue[bytes]()
        self._client = client
        self._models = models
        self._stream: Any = None
        self._prompt, self._system, self._audio = str(uuid4()), str(uuid4()), str(uuid4())

    async def open(self) -> None:
        """Open the stream, up to the user's audio."""
        self._stream = await self._client.invoke_model_with_bidirectional_stream(
            self._models.InvokeModelWithBidirectionalStreamOperationInput(model_id=_MODEL)
        )
        pcm = {"mediaType": "audio/lpcm", "sampleSizeBits": 16, "channelCount": 1, "encoding": "base64"}
        prompt, system, audio = (
            {"promptName": self._prompt, **names}
            for names in ({}, {"contentName": self._system}, {"contentName": self._audio})
        )
        speech = {**pcm, "sampleRateHertz": 24_000, "voiceId": "matthew", "audioType": "SPEECH"}
        listening = {**pcm, "sampleRateHertz": 16_000, "audioType": "SPEECH"}
        await self._send("sessionStart", {"inferenceConfiguration": {"maxTokens": 1024, "topP": 0.9}})
        await self._send("promptStart", {**prompt, "audioOutputConfiguration": speech})
        await self._send("contentStart", {**system, "type": "TEXT", "role": "SYSTEM", "interactive": False})
        await self._send("textInput", {**system, "content": "Be brief."})
        await self._send("contentEnd", system)
        opening = {"type": "AUDIO", "role": "USER", "interactive": True, "audioInputConfiguration": listening}
        await self._send("contentStart", {**audio, **opening})
        await self._stream.await_output()

    async def send_audio(self, pcm: bytes) -> None:
        """Send a piece of the user's speech."""
        names = {"promptName": self._prompt, "contentName": self._audio}
        await self._send("audioInput", {**names, "content": base64.b64encode(pcm).decode()})

    async def receive(self) -> None:
        """Put what the model says into `speech`."""
        while True:
            _, output_stream = await self._stream.await_output()
            result = await output_stream.receive()
            if result is None:
                raise EOFError("the stream has ended")
            event = json.loads(result.value.bytes_.decode())["event"]
            if "audioOutput" in event:
                await self.speech.put(base64.b64decode(event["audioOutput"]["content"]))

    async def _send(self, name: str, body: Mapping[str, object]) -> None:
        document = json.dumps({"event": {name: body}}).encode()
        await self._stream.input_stream.send(
            self._models.InvokeModelWithBidirectionalStreamInputChunk(
                value=self._models.BidirectionalInputPayloadPart(bytes_=document)
            )
        )


async def converse_plainly(
    client: "AsyncBedrockRuntimeClient", meter: Meter, phase: float, opened: Callable[[], None]
) -> None:
    """Hold a session with the SDK alone."""
    session = PlainSession(client)
    await session.open()

    async def send(frame: bytes) -> None:
        await session.send_audio(frame)
        meter.sent(frame)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(session.receive())
        tasks.create_task(speak(send, phase))
        opened()
        while True:
            meter.heard(await session.speech.get())


# --- the program alone ------------------------------------------------------------------------------------


async def stay_alone(meter: Meter, phase: float, opened: Callable[[], None]) -> None:
    """Make the frames of a session, and send them to nobody."""

    async def send(frame: bytes) -> None:
        meter.sent(frame)

    opened()
    await speak(send, phase)


# --- a run ------------------------------------------------------------------------------------------------


async def run(side: Side, sessions: int, seconds: float, server: int) -> Result:
    """Hold so many sessions, and measure them once all are open and warm."""
    meter, process, served_by = Meter(), psutil.Process(), psutil.Process(server)
    talk: Callable[[Meter, float, Callable[[], None]], Coroutine[Any, Any, None]]
    match side:
        case "novasonic":
            talk = converse
        case "sdk":
            talk = functools.partial(converse_plainly, await make_client())
        case "alone":
            talk = stay_alone
    running, first = list[asyncio.Task[None]](), 0
    for number in range(sessions):
        opened = asyncio.Event()
        running.append(asyncio.create_task(talk(meter, number / sessions, opened.set)))
        waiting = asyncio.create_task(opened.wait())
        await asyncio.wait({waiting, running[-1]}, return_when=asyncio.FIRST_COMPLETED)
        first = first or process.memory_info().rss
    await asyncio.sleep(_WARM_UP)
    memory = process.memory_info().rss - first

    meter.recording = True
    began, main, total, serving = time.monotonic(), time.thread_time(), time.process_time(), _cpu(served_by)
    failed, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    main, total, serving = (
        time.thread_time() - main,
        time.process_time() - total,
        _cpu(served_by) - serving,
    )
    took = time.monotonic() - began
    meter.recording = False
    for task in failed:
        task.result()
    return Result(
        main=main / took / sessions,
        total=total / took / sessions,
        server=serving / took,
        lateness=Spread.of(meter.lateness),
        delay=Spread.of(meter.delay) if meter.delay else None,
        carried=len(meter.lateness) * FRAME_NS / 1e9 / took / sessions,
        memory=memory / (sessions - 1) if sessions > 1 else None,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def main(side: str, sessions: str, seconds: str, server: str) -> None:
    """Print what a run has measured, and leave."""
    result = await run(msgspec.convert(side, Side), int(sessions), float(seconds), int(server))
    print(msgspec.json.encode(result).decode(), flush=True)
    os._exit(0)  # how sessions end is not measured, and the SDK may wait for ever for that


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
