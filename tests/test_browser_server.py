"""The server of examples/browser, run as users run it: a process, a real socket, the emulator behind it."""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clocks import pass_time
from novasonic import AudioChunk
from novasonic.emulator import Behaviour, Emulator, Fault, Say, Scenario, ToolCall, Turn
from pacing import ROOM, Pacer
from running import speech
from serving import BARE, PROGRAM, Server, deaf_socket, emulator, server

SCENARIO = Scenario(
    turns=[
        Turn(heard="hello there", says=[Say("Hello!", seconds=1), Say("How are you?", seconds=1)]),
        Turn(typed="*story*", says=[Say("Once upon a time.", seconds=20), Say("The end.", seconds=20)]),
        Turn(
            typed="*weather*",
            calls=[ToolCall("weather", arguments={"city": "Oslo"})],
            then="In {city}: {sky}.",
        ),
        Turn(typed="*bicycle*", calls=[ToolCall("bicycle", arguments={})], then="I cannot."),
        Turn(typed="*", says=[Say("Hello!", seconds=0.5)]),
    ],
    behaviour=Behaviour(answer=0.1, speech_start_from_silence=0.1),
)

HELLO = speech(0.6)


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Emulator]:
    with emulator(SCENARIO) as running:
        yield running


@pytest.fixture(scope="module")
def shared(bedrock: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server"), **bedrock.env) as running:
        yield running


@pytest.fixture
async def served(shared: Server) -> AsyncIterator[Server]:
    """A server that nobody else uses; whatever a test has done, no session is left."""
    yield shared
    await shared.is_quiet()
    assert "Traceback" not in shared.log.read_text()


LIMITS = {
    "sessions": 2,
    "message_bytes": 10_000,
    "messages_at_once": 300,
    "audio_at_once": 5,
    "initialize_within": 2,
    "idle_after": 3,
    "send_within": 1,
}


@pytest.fixture(scope="module")
def limited(bedrock: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
    with server(tmp_path_factory.mktemp("strict"), *arguments, **bedrock.env) as running:
        yield running


@pytest.fixture
async def strict(limited: Server) -> AsyncIterator[Server]:
    """A server with low limits."""
    yield limited
    await limited.is_quiet()
    assert "Traceback" not in limited.log.read_text()


# --- the conversation ---


async def test_a_page_speaks_is_answered_and_leaves(served: Server, bedrock: Emulator) -> None:
    async with served.client() as page:
        await page.send("initialize")
        opened = await page.until("initialized")
        assert opened["sessionId"]
        await page.speak(HELLO)
        assert (await page.until("transcription"))["text"] == "hello there"
        planned = await page.until("text_response")
        assert (planned["text"], planned["isFinal"]) == ("Hello!", False)
        sound = await page.until("audio_response")
        assert sound["sampleRate"] == 24_000
        assert any(base64.b64decode(sound["audio"]))
        status = await served.status()
        [session] = status["sessions"]
        assert (session["id"], session["turns"]) == (opened["sessionId"], 1)
        assert session["tokens"] > 0
        await page.until("text_response", isFinal=True)
        await page.send("end_conversation")
        assert (await page.until("conversation_ended"))["reason"] == "client_request"
        assert await page.close_reason() == (1000, "client_request")
    await served.is_quiet()
    assert bedrock.sessions[-1].outcome == "completed"


async def test_what_is_typed_is_answered(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="Good morning.")
        await page.until("text_response", text="Hello!", isFinal=True)


async def test_the_whole_of_an_answer_arrives(served: Server) -> None:
    """Two seconds of speech, as it was sent."""
    async with served.client() as page:
        await page.send("initialize")
        await page.speak(HELLO)
        await page.until("text_response", text="How are you?", isFinal=True)
    sound = [
        each["audio"] for each in page.seen if isinstance(each, dict) and each["type"] == "audio_response"
    ]
    assert sum(len(base64.b64decode(each)) for each in sound) / 48_000 == pytest.approx(2.0, abs=0.05)


async def test_audio_goes_as_binary_frames_both_ways(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize", audioFormat="binary")
        assert (await page.until("initialized"))["audioFormat"] == "binary"
        await page.connection.send(HELLO)
        await page.until("text_response", text="How are you?", isFinal=True)
    sound = b"".join(each for each in page.seen if isinstance(each, bytes))
    assert len(sound) / 48_000 == pytest.approx(2.0, abs=0.05)
    assert any(sound)
    assert not any(isinstance(each, dict) and each["type"] == "audio_response" for each in page.seen)


async def test_after_an_interruption_comes_no_more_of_what_it_cut(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="Tell me a story.")
        for _ in range(15):  # more than a second; by now the service has sent three, and the rest waits
            turn = (await page.until("audio_response"))["turn"]
        await page.speak(HELLO)
        cut = await page.until("interrupted")
        assert cut["turn"] == turn
        assert 0.5 < cut["heard"] < 10, "and nothing like the twenty seconds"
        at = len(page.seen)
        await page.until("text_response", text="How are you?", isFinal=True)
        after = [
            each for each in page.seen[at:] if isinstance(each, dict) and each["type"] == "audio_response"
        ]
        assert after
        assert all(each["turn"] > turn for each in after)


async def test_a_tool_is_seen_at_work(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="And the weather?")
        running = await page.until("tool_use")
        assert (running["name"], running["status"], running["arguments"]) == (
            "weather",
            "running",
            {"city": "Oslo"},
        )
        done = await page.until("tool_use")
        assert (done["id"], done["status"]) == (running["id"], "done")
        await page.until("text_response", text="In Oslo: sunny.")


async def test_a_tool_that_is_not_there_is_seen_to_fail(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="Fetch my bicycle.")
        await page.until("tool_use", status="failed")
        await page.until("text_response", text="I cannot.")


async def test_voice_and_instructions_are_the_pages_choice(served: Server, bedrock: Emulator) -> None:
    async with served.client() as page:
        await page.send("initialize", voiceId="tiffany", systemPrompt="You are a tour guide.")
        assert (await page.until("initialized"))["voiceId"] == "tiffany"
        assert bedrock.sessions[-1].system == "You are a tour guide."


async def test_a_stream_that_is_lost_is_mended_and_the_page_is_told(tmp_path: Path) -> None:
    scenario = Scenario(
        turns=[Turn(typed="*", says=[Say("A story.", seconds=3)])], faults=[Fault("reset", in_response=1)]
    )
    with emulator(scenario) as bedrock, server(tmp_path, **bedrock.env) as served:
        async with served.client() as page:
            await page.send("initialize")
            await page.send("text_message", text="Tell me a story.")
            await page.until("state", state="reconnecting")
            await page.until("state", state="reconnected")


# --- bad input ---

BAD: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("hello", "BAD_MESSAGE"),
    "half of an object": ('{"type": "text_message"', "BAD_MESSAGE"),
    "no object": ("[1, 2]", "BAD_MESSAGE"),
    "no type": ("{}", "BAD_MESSAGE"),
    "an unknown type": ('{"type": "dance"}', "BAD_MESSAGE"),
    "a type of another type": ('{"type": 7}', "BAD_MESSAGE"),
    "no text": ('{"type": "text_message"}', "BAD_MESSAGE"),
    "a number for a text": ('{"type": "text_message", "text": 7}', "BAD_MESSAGE"),
    "an empty text": ('{"type": "text_message", "text": " "}', "CONFIGURATION"),
    "a long text": (json.dumps({"type": "text_message", "text": "word " * 9000}), "CONFIGURATION"),
    "no base64": ('{"type": "audio_chunk", "audio": "***"}', "BAD_MESSAGE"),
    "half a sample": ('{"type": "audio_chunk", "audio": "AAAA"}', "BAD_MESSAGE"),
    "half a sample as it is": (b"\0\0\0", "BAD_MESSAGE"),
    "a deep nest": ('{"type": "initialize", "x": ' + "[" * 50_000 + "]" * 50_000 + "}", "BAD_MESSAGE"),
    "a region that is none": ('{"type": "initialize", "awsRegion": "evil.example/"}', "BAD_MESSAGE"),
    "initialize again": ('{"type": "initialize"}', "ALREADY_INITIALIZED"),
}


async def test_what_is_no_message_is_refused_in_words_and_the_conversation_goes_on(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.until("initialized")
        for what, (frame, code) in BAD.items():
            await page.connection.send(frame)
            error = await page.until("error")
            assert (what, error["code"]) == (what, code)
            assert error["message"]
        await page.send("text_message", text="Still there?")
        await page.until("text_response", text="Hello!")


async def test_before_initialize_everything_else_is_refused(served: Server) -> None:
    async with served.client() as page:
        for type_, fields in (
            ("audio_chunk", {"audio": ""}),
            ("text_message", {"text": "Hi"}),
            ("end_conversation", {}),
        ):
            await page.send(type_, **fields)
            assert (await page.until("error"))["code"] == "NOT_INITIALIZED"
        await page.send("initialize")
        await page.until("initialized")


@pytest.mark.parametrize("wish", [{"audioFormat": "mp3"}, {"voiceId": 7}, {"systemPrompt": []}], ids=str)
async def test_a_wrong_wish_can_be_corrected(served: Server, wish: dict[str, object]) -> None:
    async with served.client() as page:
        await page.send("initialize", **wish)
        assert (await page.until("error"))["code"] == "BAD_MESSAGE"
        await page.send("initialize")
        await page.until("initialized")


async def test_a_voice_that_the_service_does_not_have_ends_it_with_the_likely_one(served: Server) -> None:
    async with served.client() as page:
        await page.send("initialize", voiceId="tifany")
        error = await page.until("error")
        assert (error["code"], error["retryable"]) == ("INVALID_REQUEST", False)
        assert "did you mean 'tiffany'" in error["message"]
        assert (await page.close_reason())[0] == 1011


async def test_a_message_over_size_closes_the_socket(strict: Server, bedrock: Emulator) -> None:
    async with strict.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="Tell me a story.")
        await page.until("audio_response")
        await page.connection.send("x" * 10_001)
        assert (await page.close_reason())[0] == 1009
    await strict.is_quiet()
    assert bedrock.sessions[-1].outcome is not None


@pytest.mark.parametrize(
    ("frame", "code"),
    [('{"type": "dance"}', "TOO_MANY_MESSAGES"), (bytes(9_000), "TOO_MUCH_AUDIO")],
    ids=["messages", "audio"],
)
async def test_a_flood_closes_the_socket(
    strict: Server, bedrock: Emulator, frame: str | bytes, code: str
) -> None:
    async with strict.client() as page:
        await page.send("initialize")

        async def flood() -> None:
            while True:
                await page.connection.send(frame)
                await asyncio.sleep(0)

        flooding = asyncio.create_task(flood())
        await page.until("error", code=code)
        assert await page.close_reason() == (1008, code.lower())
        with pytest.raises(ConnectionClosed):
            await flooding
    await strict.is_quiet()
    assert bedrock.sessions[-1].outcome is not None


async def test_a_page_that_stops_reading_is_closed_with_a_reason_and_others_do_not_notice(
    strict: Server, bedrock: Emulator
) -> None:
    """What it was sent may wait in kernels for a while; then one second is all it has."""
    options: dict[str, Any] = {"sock": deaf_socket(strict.url), "max_queue": 1}
    async with strict.client(**options) as deaf, strict.client() as page:
        await deaf.send("initialize")
        await deaf.until("initialized")
        log = bedrock.sessions[-1]
        await page.send("initialize")
        await deaf.send("text_message", text="Tell me a story.")
        await page.send("text_message", text="Tell me a story.")
        async with asyncio.timeout(40):
            while log.outcome is None:  # the other page reads all the time
                await page.until("audio_response")
        await page.until("audio_response")
        await deaf.until("error", code="TOO_SLOW")
        assert await deaf.close_reason() == (1008, "too_slow")


async def test_a_socket_that_vanishes_ends_its_session(served: Server, bedrock: Emulator) -> None:
    async with served.client() as page:
        await page.send("initialize")
        await page.send("text_message", text="Tell me a story.")
        await page.until("audio_response")
        page.connection.transport.abort()
    await served.is_quiet()
    assert bedrock.sessions[-1].outcome == "completed", "it said goodbye to the service all the same"


async def test_a_socket_that_vanishes_while_its_session_opens_leaves_none(
    served: Server, bedrock: Emulator
) -> None:
    async with served.client() as page:
        await page.send("initialize")
        page.connection.transport.abort()
    await served.is_quiet()
    assert bedrock.sessions[-1].outcome is not None


JUNK = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    ).map(json.dumps),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["initialize", "audio_chunk", "text_message", "end_conversation", "initialized"]
            )
        },
        optional={
            "text": st.text(max_size=20) | st.integers(),
            "audio": st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode())
            | st.text(max_size=8),
            "isComplete": st.booleans() | st.text(max_size=3),
            "voiceId": st.sampled_from(["", "tiffany", "nobody"]) | st.integers(),
            "systemPrompt": st.text(max_size=20),
            "audioFormat": st.sampled_from(["binary", "base64", "mp3"]),
            "awsRegion": st.sampled_from(["", "us-east-1", "evil.example/"]),
        },
    ).map(json.dumps),
)


def test_two_thousand_messages_of_junk_do_no_harm(shared: Server, bedrock: Emulator) -> None:
    """To the server, to other sessions, or to the account: none of the sessions that they open is left."""
    thrown = 0

    async def throw(frames: Sequence[str | bytes]) -> None:
        nonlocal thrown
        while thrown < len(
            frames
        ):  # some of it is a goodbye, or a voice that nobody has: the next page goes on
            async with shared.client() as page:
                await page.send("initialize")
                with contextlib.suppress(ConnectionClosed):
                    for frame in frames[thrown:]:
                        thrown += 1
                        await page.connection.send(frame)

    @settings(max_examples=40, database=None, derandomize=True)
    @given(st.lists(JUNK, min_size=50, max_size=50))
    def run(frames: list[str | bytes]) -> None:
        nonlocal thrown
        thrown = 0
        asyncio.run(throw(frames))

    run()

    async def look() -> None:
        async with asyncio.timeout(30):
            await shared.is_quiet()
        async with shared.client() as page:
            await page.send("initialize")
            await page.send("text_message", text="Still there?")
            await page.until("text_response", text="Hello!")

    asyncio.run(look())
    assert shared.process.poll() is None
    assert all(log.outcome is not None for log in bedrock.sessions[:-1])
    assert "Traceback" not in shared.log.read_text()


# --- limits ---


async def test_who_says_nothing_at_first_is_shown_out(strict: Server) -> None:
    async with strict.client() as page:
        await page.until("error", code="NOT_INITIALIZED")
        assert await page.close_reason() == (1008, "not_initialized")


async def test_when_all_places_are_taken_the_next_page_is_told_so(strict: Server) -> None:
    async with strict.client() as one, strict.client() as two, strict.client() as three:
        for page in (one, two):
            await page.send("initialize")
            await page.until("initialized")
        await three.send("initialize")
        error = await three.until("error")
        assert (error["code"], error["retryable"]) == ("THROTTLED", True)
        assert (await three.close_reason())[0] == 1013
        await one.send("end_conversation")
        await one.close_reason()
        async with strict.client() as four:
            await four.send("initialize")
            await four.until("initialized")


async def test_a_conversation_in_which_nobody_speaks_ends(strict: Server, bedrock: Emulator) -> None:
    """Silence is sent all the time, as a microphone does, and that is no talk."""
    async with strict.client() as page:
        await page.send("initialize")
        await page.until("initialized")

        async def listen() -> None:
            while True:
                await page.speak(bytes(1024))

        listening = asyncio.create_task(listen())
        await page.until("conversation_ended", reason="idle")
        assert await page.close_reason() == (1000, "idle")
        with pytest.raises(ConnectionClosed):
            await listening
    await strict.is_quiet()
    assert bedrock.sessions[-1].outcome == "completed"


async def test_a_cleanup_ends_what_is_idle_or_all_and_says_how_much(served: Server) -> None:
    async with served.client() as one, served.client() as two:
        for page in (one, two):
            await page.send("initialize")
            await page.until("initialized")
        assert (await served.ask("api/nova-sonic/cleanup", "POST")).json == {"ended": 0}
        assert (await served.ask("api/nova-sonic/cleanup?idle=soon", "POST")).status == 400
        assert (await served.ask("api/nova-sonic/cleanup?all=true")).status == 404, (
            "to look is to end nothing"
        )
        assert (await served.ask("api/nova-sonic/cleanup?all=true", "POST")).json == {"ended": 2}
        for page in (one, two):
            await page.until("conversation_ended", reason="server_cleanup")
            assert (await page.close_reason())[0] == 1000
    await served.is_quiet()


async def test_a_server_that_is_stopped_ends_its_sessions(bedrock: Emulator, tmp_path: Path) -> None:
    with server(tmp_path, **bedrock.env) as served:
        async with served.client() as page:
            await page.send("initialize")
            await page.until("initialized")
            served.process.terminate()
            await page.until("conversation_ended", reason="server_shutdown")
            assert (await page.close_reason())[0] == 1012
        await asyncio.to_thread(served.process.wait, 20)
    assert bedrock.sessions[-1].outcome == "completed"
    assert served.log.read_text() == ""


# --- who may come in ---


async def test_the_status_says_what_goes_on_and_nothing_secret(served: Server, bedrock: Emulator) -> None:
    answer = await served.ask("api/nova-sonic/status")
    assert answer.json["version"]
    assert answer.json["uptime"] > 0
    assert answer.json["limits"]["sessions"] == 20
    assert answer.json["emulated"] is False
    assert bedrock.credentials.access_key not in answer.text
    assert bedrock.credentials.secret_key not in answer.text


async def test_the_page_comes_with_what_it_needs_and_may_load_nothing_else(served: Server) -> None:
    page = await served.ask("")
    assert "<h1>" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("talk.js", "audio.worklet.js", "style.css"):
        assert (await served.ask(name)).status == 200
    for name in ("server.py", "../server.py", "%2e%2e/server.py", "..%2fserver.py"):
        assert (await served.ask(name)).status == 404


async def test_a_socket_that_leads_nowhere_is_refused(served: Server) -> None:
    served = Server(served.url + "elsewhere/", served.process, served.log)
    with pytest.raises(InvalidStatus):
        async with served.client():
            pass
    assert "Traceback" not in served.log.read_text()


async def test_pages_from_elsewhere_are_refused(served: Server) -> None:
    """A page of anybody's that the user happens to visit could use the account otherwise."""
    elsewhere = "https://evil.example"
    with pytest.raises(InvalidStatus, match="403"):
        async with served.client(origin=elsewhere):
            pass
    assert (await served.ask("api/nova-sonic/cleanup?all=true", "POST", Origin=elsewhere)).status == 403
    assert (await served.ask("api/nova-sonic/status", Origin=elsewhere)).status == 403
    async with served.client(origin=served.url.rstrip("/")) as page:
        await page.send("initialize")
        await page.until("initialized")


async def test_a_foreign_name_that_leads_here_is_refused(served: Server) -> None:
    """Whoever owns a name can make it lead to any machine; then a page of theirs is of the same origin."""
    assert (await served.ask("api/nova-sonic/status", Host="evil.example")).status == 400
    with pytest.raises(InvalidStatus, match="400"):
        async with served.client(additional_headers={"Host": "evil.example"}):
            pass


async def test_with_a_token_nobody_comes_in_without_it(bedrock: Emulator, tmp_path: Path) -> None:
    token = "a secret: 100 % ünïcode"
    in_protocol = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    arguments = ("--host", "0.0.0.0", "--origin", "https://voice.example.com")
    with server(tmp_path, *arguments, NOVASONIC_TOKEN=token, **bedrock.env) as served:
        for protocols in ([], ["novasonic"], ["novasonic", "bearer.d3Jvbmc"], ["novasonic", "bearer.*"]):
            with pytest.raises(InvalidStatus, match="401"):
                async with served.client(subprotocols=protocols or None):
                    pass
        assert (await served.ask("api/nova-sonic/status")).status == 401
        assert (await served.ask("api/nova-sonic/cleanup", "POST")).status == 401
        assert (await served.ask("")).status == 200, "the page has to ask for it"
        headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
        assert (await served.ask("api/nova-sonic/status", **headers)).status == 200
        origin = "https://voice.example.com"
        async with served.client(subprotocols=["novasonic", f"bearer.{in_protocol}"], origin=origin) as page:
            assert page.connection.subprotocol == "novasonic"
            await page.send("initialize")
            await page.until("initialized")
        assert token not in served.log.read_text()


def test_it_is_not_open_to_others_without_a_token() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--host", "0.0.0.0", "--port", "0"],
        env=BARE,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "NOVASONIC_TOKEN" in done.stderr


SECRETS = {"awsAccessKeyId": "AKIAMADEUPMADEUP", "awsSecretAccessKey": "s3cr3t-of-the-page"}


@pytest.mark.parametrize(
    "given", [SECRETS, {"awsSessionToken": "t0ken"}, {"awsRegion": "eu-west-1"}], ids=str
)
async def test_credentials_of_a_page_are_refused_and_shown_nowhere(
    served: Server, given: dict[str, str]
) -> None:
    async with served.client() as page:
        await page.send("initialize", **given)
        error = await page.until("error", code="CREDENTIALS_REFUSED")
        for secret in given.values():
            assert secret not in error["message"]
            assert secret not in served.log.read_text()
        await page.send("initialize")
        await page.until("initialized")


async def test_where_credentials_of_a_page_are_allowed_they_are_used_and_shown_nowhere(
    bedrock: Emulator, tmp_path: Path
) -> None:
    env = {name: value for name, value in bedrock.env.items() if "KEY" not in name}
    with server(tmp_path, "--allow-client-credentials", **env) as served:
        keys = bedrock.credentials
        async with served.client() as page:
            await page.send(
                "initialize",
                awsAccessKeyId=keys.access_key,
                awsSecretAccessKey=keys.secret_key,
                awsRegion="us-east-1",
            )
            await page.until("initialized")
        async with served.client() as page:
            await page.send("initialize", **SECRETS)
            error = await page.until("error")
            assert error["code"] == "CREDENTIALS"
            assert (await page.close_reason())[0] == 1011
        async with served.client() as page:
            await page.send("initialize", awsSecretAccessKey="s3cr3t-of-the-page")
            assert (await page.until("error"))["code"] == "CONFIGURATION"
        status = await served.ask("api/nova-sonic/status")
        for secret in (keys.secret_key, "s3cr3t-of-the-page"):
            assert secret not in f"{page.seen}{error}{status.text}{served.log.read_text()}"


async def test_what_aws_says_of_the_servers_own_account_stays_in_its_log(
    bedrock: Emulator, tmp_path: Path
) -> None:
    with server(tmp_path, **bedrock.env | {"AWS_SECRET_ACCESS_KEY": "wrong"}) as served:
        async with served.client() as page:
            await page.send("initialize")
            error = await page.until("error")
            assert error["message"] == "The server cannot use its AWS account; its log says why."
            assert "secret key" in served.log.read_text()


# --- pacing ---


AHEAD = 0.5


def piece(seconds: float, turn: int = 1) -> AudioChunk:
    return AudioChunk(turn=turn, pcm=bytes(2 * round(24_000 * seconds)), sample_rate=24_000)


@pytest.mark.clock("virtual")
async def test_speech_is_half_a_second_ahead_and_then_in_time() -> None:
    pacer, loop = Pacer(AHEAD), asyncio.get_running_loop()
    for _ in range(100):
        await pacer.put(piece(0.1))
    began, at = loop.time(), list[float]()
    for _ in range(100):
        await pacer.next()
        at.append(round(loop.time() - began, 3))
    assert at[:6] == [0.0] * 6
    assert at[6:] == pytest.approx([0.1 * number for number in range(1, 95)], abs=0.002)


@pytest.mark.clock("virtual")
async def test_what_was_heard_is_what_was_handed_out_and_had_its_time() -> None:
    pacer = Pacer(AHEAD)
    assert pacer.heard(1) is None
    for _ in range(20):
        await pacer.put(piece(0.1))
    for _ in range(8):
        await pacer.next()  # the eighth waits: then so much is ahead as may be, and itself
    assert pacer.heard(1) == pytest.approx(0.8 - AHEAD - 0.1)
    await pass_time(0.1)
    pacer.stop()
    assert pacer.heard(1) == pytest.approx(0.8 - AHEAD)
    await pacer.put(piece(0.3, turn=2))
    assert (await pacer.next()).turn == 2, "at once, and nothing is left of what was cut"
    await pass_time(1)
    assert pacer.heard(1) == pytest.approx(0.8 - AHEAD)
    assert pacer.heard(2) == pytest.approx(0.3)


@pytest.mark.clock("virtual")
async def test_a_full_queue_waits_and_an_interruption_makes_room() -> None:
    pacer = Pacer(AHEAD)
    for _ in range(round(ROOM)):
        await pacer.put(piece(1.0))
    waiting = asyncio.create_task(pacer.put(piece(1.0)))
    await pass_time(1)
    assert not waiting.done()
    pacer.stop()
    await waiting
    assert (await pacer.next()).duration == 1.0


@pytest.mark.clock("virtual")
async def test_whoever_waits_for_speech_may_give_up_without_losing_any() -> None:
    pacer = Pacer(AHEAD)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pacer.next(), 1)
    await pacer.put(piece(0.1))
    assert (await pacer.next()).turn == 1
