"""One side of the benchmark: so many live sessions, and what they cost this process.

`python -m bench.client SIDE SESSIONS SECONDS` finds the server in the environment, as any program finds AWS,
and prints a `Result` as JSON.
"""

import asyncio
import base64
import json
import os
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
import psutil

FRAME_NS: Final = 32_000_000
"""How long a frame of the user's audio is."""

_MODEL: Final = "amazon.nova-2-sonic-v1:0"
_WARM_UP: Final = 2.0  # seconds for caches, windows and the allocator to settle
_SPEECH: Final = bytes(range(256)) * 4  # 32 ms at 16 kHz


class Result(msgspec.Struct, kw_only=True):
    """What a run has measured.

    Attributes:
        main: Seconds of CPU of the main thread, per session and second.
        total: The same of the whole process.
        lateness: By how many seconds frames were sent too late: the median and the 99th percentile.
        delay: Seconds from the server's sending a chunk of speech to the program's having it: the same two.
        carried: The share of the frames due that were sent.
        memory: Bytes that each session after the first takes; None if there was no other.
    """

    main: float
    total: float
    lateness: tuple[float, float]
    delay: tuple[float, float]
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
    from novasonic import SonicSession  # noqa: PLC0415 - each side loads only what it needs
    from novasonic.events import AudioChunk  # noqa: PLC0415
    from novasonic.messages import AudioInput, InputMessage, OutputMessage  # noqa: PLC0415

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


async def make_client() -> Any:
    """Make the SDK's client, one for all sessions, as AWS's samples configure it."""
    from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient  # noqa: PLC0415
    from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig  # noqa: PLC0415
    from awscrt import io as crt  # noqa: PLC0415
    from smithy_aws_core.identity import EnvironmentCredentialsResolver  # noqa: PLC0415
    from smithy_http.aio.crt import AWSCRTHTTPClient  # noqa: PLC0415

    class LocalTransport(AWSCRTHTTPClient):
        """The SDK's duplex transport, which trusts the benchmark's server: it has no setting for that."""

        def __init__(self, ca: bytes) -> None:
            super().__init__()
            options = crt.TlsContextOptions()
            options.override_default_trust_store(ca)
            self._tls_ctx = crt.ClientTlsContext(options)  # private: there is no other way

        def __deepcopy__(self, memo: object) -> "LocalTransport":
            return self  # the client copies its configuration, and would get a transport without our CA

    transport = LocalTransport(Path(os.environ["AWS_CA_BUNDLE"]).read_bytes())
    resolver = EnvironmentCredentialsResolver()
    return AsyncBedrockRuntimeClient(
        await AsyncBedrockRuntimeConfig.resolve(
            transport=transport, aws_credentials_identity_resolver=resolver
        )
    )


class PlainSession:
    """A session as AWS's samples hold it: dicts, `json` and `base64`, the SDK for the rest."""

    def __init__(self, client: Any) -> None:
        self.speech = asyncio.Queue[bytes]()
        self._client = client
        self._stream: Any = None
        self._prompt, self._system, self._audio = str(uuid4()), str(uuid4()), str(uuid4())

    async def open(self) -> None:
        from aws_sdk_bedrock_runtime import models  # noqa: PLC0415

        self._models = models
        self._stream = await self._client.invoke_model_with_bidirectional_stream(
            models.InvokeModelWithBidirectionalStreamOperationInput(model_id=_MODEL)
        )
        system = {"promptName": self._prompt, "contentName": self._system}
        speech = {"mediaType": "audio/lpcm", "sampleSizeBits": 16, "channelCount": 1, "encoding": "base64"}
        await self._send("sessionStart", {"inferenceConfiguration": {"maxTokens": 1024, "topP": 0.9}})
        await self._send(
            "promptStart",
            {
                "promptName": self._prompt,
                "textOutputConfiguration": {"mediaType": "text/plain"},
                "audioOutputConfiguration": {**speech, "sampleRateHertz": 24_000, "voiceId": "matthew"},
            },
        )
        await self._send("contentStart", {**system, "type": "TEXT", "role": "SYSTEM", "interactive": False})
        await self._send("textInput", {**system, "content": "Be brief."})
        await self._send("contentEnd", system)
        await self._send(
            "contentStart",
            {
                "promptName": self._prompt,
                "contentName": self._audio,
                "type": "AUDIO",
                "interactive": True,
                "role": "USER",
                "audioInputConfiguration": {**speech, "sampleRateHertz": 16_000, "audioType": "SPEECH"},
            },
        )
        await self._stream.await_output()

    async def send_audio(self, pcm: bytes) -> None:
        content = base64.b64encode(pcm).decode()
        names = {"promptName": self._prompt, "contentName": self._audio}
        await self._send("audioInput", {**names, "content": content})

    async def _send(self, name: str, body: dict[str, Any]) -> None:
        data = json.dumps({"event": {name: body}}).encode()
        await self._stream.input_stream.send(
            self._models.InvokeModelWithBidirectionalStreamInputChunk(
                value=self._models.BidirectionalInputPayloadPart(bytes_=data)
            )
        )

    async def receive(self) -> None:
        while True:
            _, output_stream = await self._stream.await_output()
            result = await output_stream.receive()
            if result is None:
                raise EOFError("the stream has ended")
            event = json.loads(result.value.bytes_.decode())["event"]
            if "audioOutput" in event:
                await self.speech.put(base64.b64decode(event["audioOutput"]["content"]))


async def converse_plainly(client: Any, meter: Meter, phase: float, opened: Callable[[], None]) -> None:
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


# --- a run ------------------------------------------------------------------------------------------------


async def run(side: str, sessions: int, seconds: float) -> Result:
    """Hold so many sessions, and measure them once all are open and warm."""
    meter, process = Meter(), psutil.Process()
    loop = asyncio.get_running_loop()
    client = await make_client() if side == "sdk" else None
    memory = 0
    running = []
    for number in range(sessions):
        opened = loop.create_future()
        phase = number / sessions
        if client is None:
            talk = converse(meter, phase, lambda: opened.set_result(None))
        else:
            talk = converse_plainly(client, meter, phase, lambda: opened.set_result(None))
        running.append(asyncio.create_task(talk))
        await asyncio.wait({opened, running[-1]}, return_when=asyncio.FIRST_COMPLETED)
        if not number:
            memory = process.memory_info().rss
    await asyncio.sleep(_WARM_UP)
    taken = process.memory_info().rss - memory
    meter.recording = True
    began, main, total = time.monotonic(), time.thread_time(), time.process_time()
    done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    main, total = time.thread_time() - main, time.process_time() - total
    took = (time.monotonic() - began) * sessions
    meter.recording = False
    for task in done:
        task.result()
    return Result(
        main=main / took,
        total=total / took,
        lateness=percentiles(meter.lateness),
        delay=percentiles(meter.delay),
        carried=len(meter.lateness) * FRAME_NS / 1e9 / took,
        memory=taken / (sessions - 1) if sessions > 1 else None,
    )


def percentiles(nanoseconds: array[int]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in seconds."""
    ordered = sorted(nanoseconds)
    return ordered[len(ordered) // 2] / 1e9, ordered[len(ordered) * 99 // 100] / 1e9


async def main(side: str, sessions: str, seconds: str) -> None:
    """Print what a run has measured, and leave."""
    print(msgspec.json.encode(await run(side, int(sessions), float(seconds))).decode(), flush=True)
    os._exit(0)  # how sessions end is not measured, and the SDK may wait for ever for that


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
