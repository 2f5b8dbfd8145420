"""The emulated service, running in memory and behind the real wire, for stories that are told over both."""

import asyncio
import contextlib
import math
import shlex
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from novasonic import events
from novasonic.audio import load, write_wav
from novasonic.bedrock import BedrockConnector
from novasonic.credentials import Credentials
from novasonic.emulator import Emulator, MemoryConnector, Scenario, SessionLog
from novasonic.emulator.hum import hum
from novasonic.session import SonicSession
from novasonic.transport import Connector

load()  # on a fast clock, the half second that it takes would be ten


@dataclass
class Service:
    """A running service: how to reach it, and what it noticed."""

    connect: Connector
    logs: Callable[[], list[SessionLog]]

    @property
    def log(self) -> SessionLog:
        return self.logs()[-1]


@asynccontextmanager
async def in_memory(scenario: Scenario | None) -> AsyncIterator[Service]:
    connector = MemoryConnector(scenario)
    yield Service(connector, lambda: list(connector.sessions))


@asynccontextmanager
async def over_the_wire(scenario: Scenario | None) -> AsyncIterator[Service]:
    async with Emulator(scenario, voice=hum) as bedrock:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_CA_BUNDLE", bedrock.ca_file)
            connector = BedrockConnector(
                "amazon.nova-2-sonic-v1:0",
                region=bedrock.region,
                endpoint_url=bedrock.endpoint_url,
                stall_timeout=100.0,  # five real seconds: the clock is fast, and the machine may be busy
                credentials=Credentials(
                    access_key=bedrock.credentials.access_key,
                    secret_key=bedrock.credentials.secret_key,
                ),
            )
            yield Service(connector, lambda: list(bedrock.sessions))


type Running = Callable[[Scenario | None], AbstractAsyncContextManager[Service]]


@pytest.fixture(
    params=[
        pytest.param(in_memory, id="memory"),
        pytest.param(over_the_wire, id="wire"),
    ]
)
def running(request: pytest.FixtureRequest) -> Running:
    return request.param  # type: ignore[no-any-return]


def speech(seconds: float) -> bytes:
    """Something as loud as speech, at 16 kHz."""
    wave = (math.sin(2 * math.pi * 220 * at / 16_000) for at in range(round(seconds * 16_000)))
    return b"".join(round(8000 * each).to_bytes(2, "little", signed=True) for each in wave)


@pytest.fixture
def utterance(tmp_path: Path) -> Path:
    """A short one, in a file: the session sends it without a gap, however busy the machine is."""
    write_wav(tmp_path / "utterance.wav", speech(0.8), 16_000)
    return tmp_path / "utterance.wav"


async def until(session: SonicSession, kind: type[events.EventBase]) -> list[events.Event]:
    """Read up to and including the next event of a kind."""
    found: list[events.Event] = []
    async for event in session:
        found.append(event)
        if isinstance(event, kind):
            return found
    raise AssertionError(f"the session ended without {kind.__name__}")


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[Process, Mapping[str, str]]]:
    """Run the command `novasonic emulator`, and give it together with the environment that leads there."""
    command = [sys.executable, "-m", "novasonic", "emulator", *arguments]
    running = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert running.stdout is not None
        env = dict[str, str]()
        async with asyncio.timeout(30):
            while (line := (await running.stdout.readline()).decode()).startswith("export "):
                name, _, value = shlex.split(line)[1].partition("=")
                env[name] = value
        yield running, env
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()
