"""A session on the real wire and a real clock, where deadlines matter, and with what the AWS SDK finds."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from novasonic.audio import load
from novasonic.credentials import Credentials
from novasonic.emulator import Emulator, Fault, Say, Scenario, ToolCall, Turn
from novasonic.emulator.hum import hum
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectError,
    CredentialsError,
    InvalidRequestError,
    StreamLostError,
)
from novasonic.events import AudioChunk, Event, SessionRenewed, Transcript
from novasonic.messages import AudioInput
from novasonic.session import SessionState, SonicSession
from novasonic.tools import tool
from running import process

load()

STORY = Turn(typed="*", says=[Say("A long story.", seconds=20)])


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have an account, and none of them is to see it."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def point_at(monkeypatch: pytest.MonkeyPatch, bedrock: Emulator) -> None:
    """Do what a user does to run a program against the emulator."""
    for name, value in bedrock.env.items():
        monkeypatch.setenv(name, value)


async def read(session: SonicSession, seen: list[Event]) -> None:
    """Read to the end, and keep what was seen before a failure."""
    async with asyncio.timeout(30):
        async for event in session:
            seen.append(event)  # noqa: PERF401 - see above


async def test_the_environment_alone_leads_to_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator(Scenario(turns=[Turn(typed="*", says="Hello!")]), voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        async with SonicSession() as session:
            assert (await session.ask("Hello?")).text == "Hello!"
            assert session.session_id
        assert bedrock.sessions[0].model_id == "amazon.nova-2-sonic-v1:0"


async def test_without_credentials_it_says_so_within_its_deadline() -> None:
    """The SDK itself would wait for them for ever."""
    async with asyncio.timeout(30):
        with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
            await SonicSession(region="us-east-1", open_timeout=10).__aenter__()


async def test_credentials_that_never_come_are_not_waited_for() -> None:
    async def never() -> Credentials:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(CredentialsError, match="did not answer"):
        await SonicSession(region="us-east-1", credentials=never, open_timeout=0.5).__aenter__()


async def test_a_wrong_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator(voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        wrong = Credentials(bedrock.credentials.access_key, "wrong")
        with pytest.raises(CredentialsError, match="secret key"):
            await SonicSession(credentials=wrong).__aenter__()


async def test_expired_credentials_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator(voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        expired = Credentials(
            bedrock.expired.access_key, bedrock.expired.secret_key, bedrock.expired.session_token
        )
        with pytest.raises(CredentialsError, match="expired"):
            await SonicSession(credentials=expired).__aenter__()


async def test_a_wrong_address_names_it() -> None:
    """Nothing listens on port 1."""
    session = SonicSession(
        region="us-east-1", endpoint_url="https://localhost:1", credentials=Credentials("id", "secret")
    )
    with pytest.raises(ConnectError, match=r"localhost.*check the endpoint"):
        await session.__aenter__()


async def test_an_address_that_is_none_is_refused() -> None:
    session = SonicSession(region="us-east-1", endpoint_url="localhost:8443")
    with pytest.raises(ConfigurationError, match="is not an endpoint"):
        await session.__aenter__()


async def test_no_region_is_a_sentence_that_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        await SonicSession(credentials=Credentials("id", "secret")).__aenter__()


async def test_a_region_without_the_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(
        faults=[Fault("refuse", code="AccessDeniedException", message="no access to the model")]
    )
    async with Emulator(scenario, voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        with pytest.raises(AccessDeniedError, match=r"amazon\.nova-2-sonic-v1:0 in us-east-1"):
            await SonicSession().__aenter__()


async def test_a_wrong_authority_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Emulator(voice=hum) as bedrock, Emulator(voice=hum) as other:
        point_at(monkeypatch, bedrock)
        monkeypatch.setenv("AWS_CA_BUNDLE", other.ca_file)
        with pytest.raises(ConnectError, match="AWS_CA_BUNDLE"):
            await SonicSession(open_timeout=2).__aenter__()


async def test_a_voice_that_the_service_does_not_have_is_refused_with_the_likely_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Emulator(voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        with pytest.warns(UserWarning, match="tiffany"):
            session = SonicSession(voice="tifany")
        with pytest.raises(InvalidRequestError, match="did you mean 'tiffany'"):
            async with session:
                await session.ask("Hello?")


@pytest.mark.parametrize("kind", ["cut", "stall", "reset", "goaway", "end"])
async def test_a_peer_that_is_gone_in_mid_sentence_is_missed(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """By the iterator, within five seconds: a player would play on, and then nothing would ever come."""
    scenario = Scenario(turns=[STORY], faults=[Fault(kind, in_response=1)])  # type: ignore[arg-type]
    async with Emulator(scenario, voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        async with SonicSession(retry=None) as session:
            await session.send_text("Tell me a story.")
            seen: list[Event] = []
            with pytest.raises(StreamLostError):
                await read(session, seen)
            assert any(isinstance(event, AudioChunk) for event in seen)


@pytest.mark.parametrize("kind", ["mute", "cut", "stall", "reset", "goaway", "end", "garbled", "truncated"])
async def test_closing_ends_in_time_whatever_has_gone_wrong(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody reads the session, so nobody has heard of it yet."""
    at: dict[str, int] = {} if kind == "mute" else {"after_audio": 3}
    scenario = Scenario(turns=[STORY], faults=[Fault(kind, **at)])  # type: ignore[arg-type]
    async with Emulator(scenario, voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        session = SonicSession(open_timeout=3, close_timeout=1)
        if kind == "mute":
            with pytest.raises(ConnectError, match="did not accept a stream"):
                await session.__aenter__()
        else:
            heard = asyncio.Event()
            session.on_message(lambda message, _: heard.set() if isinstance(message, AudioInput) else None)
            await session.__aenter__()
            await heard.wait()
            async with asyncio.timeout(10):
                await session.aclose()
        assert session.state is SessionState.CLOSED


PROGRAM = """
import asyncio, os
from novasonic import SonicSession, SonicError
from novasonic.emulator import Emulator, Fault, Scenario

async def main():
    async with Emulator(Scenario(faults=[Fault({kind!r}, after_audio=3)])) as bedrock:
        os.environ.update(bedrock.env)
        async with SonicSession(close_timeout=1, retry=None) as session:
            try:
                async for event in session:
                    pass
            except SonicError as exc:
                print(type(exc).__name__)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kind", "error"),
    [("reset", "StreamLostError"), ("stall", "StreamLostError"), ("garbled", "RemoteProtocolError")],
)
def test_a_program_ends_and_says_nothing_that_it_was_not_asked_for(kind: str, error: str) -> None:
    """No thread of the SDK keeps it alive, and no task complains that nobody asked for its exception."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM.format(kind=kind)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.strip() == error
    assert done.stderr == ""


class _Lateness:
    """How late the machine itself is, seen from a thread that does nothing but wait."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.01):
            now = time.monotonic()
            self.worst, before = max(self.worst, now - before - 0.01), now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


async def test_a_tool_that_blocks_its_thread_delays_no_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds of it: a program may call what was never made for asyncio."""

    @tool
    def block() -> str:
        """Block the thread."""
        threading.Event().wait(10)
        return "awake"

    turn = Turn(typed="*", calls=[ToolCall("block")], then="It is {result}.")
    async with Emulator(Scenario(turns=[turn]), voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        async with SonicSession(tools=[block]) as session:
            sent: list[float] = []
            session.on_message(
                lambda message, now: sent.append(now) if isinstance(message, AudioInput) else None
            )
            with _Lateness() as machine:
                reply = await session.ask("Sleep.")
    [call] = reply.tool_calls
    assert reply.text == "It is awake."
    assert call.elapsed is not None
    assert call.elapsed >= 10
    assert len(sent) > 300, "silence flowed all the time"
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    assert max(gaps) < 0.1 + machine.worst


async def test_a_service_that_is_killed_and_started_again_goes_on_with_the_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed in mid-sentence: the sentence is begun again, and nothing is in the transcript twice."""
    says = [{"text": "There was a king.", "seconds": 2}, {"text": "He had a daughter.", "seconds": 9}]
    first = {"turns": [{"typed": "*", "says": says}]}
    second = {"turns": [{"typed": "*lost*daughter*", "says": [says[1], {"text": "The end."}]}]}
    (tmp_path / "first.json").write_text(json.dumps(first))
    (tmp_path / "second.json").write_text(json.dumps(second))
    state = ("--state", str(tmp_path / "state"), "--scenario")
    async with process("--port", "0", *state, str(tmp_path / "first.json")) as (running, env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        async with SonicSession() as session, asyncio.timeout(60):
            await session.send_text("Tell me a story.")
            async for event in session:
                if isinstance(event, Transcript) and event.text == "He had a daughter.":
                    break
            async for event in session:
                if isinstance(event, AudioChunk):
                    break
            running.kill()
            port = env["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"].rpartition(":")[2]
            async with process("--port", port, *state, str(tmp_path / "second.json")):
                seen = list[Event]()
                async for event in session:
                    seen.append(event)
                    if isinstance(event, Transcript) and event.text == "The end.":
                        break
                assert any(isinstance(event, SessionRenewed) for event in seen)
                assert [(each.role, each.text) for each in session.history] == [
                    ("USER", "Tell me a story."),
                    ("ASSISTANT", "There was a king. He had a daughter. The end."),
                ]


async def test_keys_that_expire_in_mid_conversation_are_replaced_by_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Emulator(Scenario(turns=[Turn(typed="*", says="Hello!")]), voice=hum) as bedrock:
        point_at(monkeypatch, bedrock)
        given = list[Credentials]()

        def keys() -> Credentials:
            given.append(bedrock.issue(3600))
            return given[-1]

        async with SonicSession(credentials=keys) as session:
            bedrock.expire(given[0])
            seen = list[SessionRenewed]()
            async with asyncio.timeout(30):
                while not seen:
                    event = await anext(session)
                    seen += [event] if isinstance(event, SessionRenewed) else []
            assert seen[0].reason == "error"
            assert (await session.ask("Hello?")).text == "Hello!"
        assert len(given) == 2
