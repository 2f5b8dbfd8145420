"""The emulator over the real wire, and the same stories without one."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes

from clocks import pass_time
from emulated import GOODBYE, MODEL, PROMPT, audio, audio_start, setup, silence, tone, typed
from novasonic import bedrock, errors, messages
from novasonic.credentials import Credentials
from novasonic.emulator import (
    Behaviour,
    Emulator,
    Fault,
    MemoryConnector,
    Say,
    Scenario,
    SessionLog,
    ToolCall,
    Turn,
    rules,
    signature,
)
from novasonic.emulator.voice import Speaker
from novasonic.eventstream import ChunkSigner, FrameDecoder, decode_failure, encode_chunk
from novasonic.messages import InputMessage, OutputMessage
from novasonic.transport import Connector, Transport
from running import process

SPEED = 25.0
HELLO = Turn(heard="hello.", says=[Say("Hello to you.", seconds=1.0), Say("How are you?", seconds=3.0)])
DONE = Turn(heard="sorry?", says=[Say("Never mind.", seconds=0.4)])


# --- a caller, and the two services that it may call ---


class Caller:
    """What a session does with a transport, by hand."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.told: list[OutputMessage] = []

    async def say(self, *said: InputMessage | bytes) -> None:
        async with asyncio.timeout(10):
            for each in said:
                await self.transport.send(each if isinstance(each, bytes) else messages.encode(each))

    async def speak(self, seconds: float) -> None:
        """Send speech, and the silence that ends it, at once."""
        await self.say(audio(silence(0.4) + tone(seconds) + silence(0.8)))

    async def until[T: OutputMessage](self, kind: type[T], holds: Callable[[T], bool] = lambda _: True) -> T:
        """Read up to the next message of that kind."""
        async with asyncio.timeout(10):
            while (data := await self.transport.receive()) is not None:
                message = messages.decode_output(data)
                self.told.append(message)
                if isinstance(message, kind) and holds(message):
                    return message
        raise AssertionError(f"the stream ended without {kind.__name__}")

    async def until_end(self, timeout: float = 10) -> None:  # noqa: ASYNC109 - it is one
        async with asyncio.timeout(timeout):
            while (data := await self.transport.receive()) is not None:
                self.told.append(messages.decode_output(data))

    async def bye(self) -> None:
        await self.say(*GOODBYE)
        await self.transport.end_input()
        await self.until_end()

    def texts(self) -> list[str]:
        return [each.content for each in self.told if isinstance(each, messages.TextOutput)]


class Line:
    """A service under test, and the way to it."""

    def __init__(self, connector: Connector, sessions: Callable[[], list[SessionLog]]) -> None:
        self.connector = connector
        self.sessions = sessions

    @contextlib.asynccontextmanager
    async def call(self, *more: InputMessage) -> AsyncIterator[Caller]:
        transport = await self.connector([messages.encode(each) for each in setup()], timeout=10)
        try:
            caller = Caller(transport)
            await caller.say(audio_start(), *more)
            yield caller
        finally:
            await transport.aclose()


def says(content: str) -> Callable[[messages.TextOutput], bool]:
    return lambda text: text.content == content


Dial = Callable[..., Awaitable[Line]]


@pytest.fixture(params=["memory", "wire"])
async def dial(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dial]:
    """Gives services with a scenario: in memory, and over TLS and HTTP/2 with the AWS SDK in between."""
    async with contextlib.AsyncExitStack() as stack:

        async def dial(scenario: Any = None, *, speed: float = SPEED) -> Line:
            if request.param == "memory":
                connector = MemoryConnector(scenario, speed=speed)
                return Line(connector, lambda: list(connector.sessions))
            emulator = await stack.enter_async_context(Emulator(scenario, speed=speed))
            for name, value in emulator.env.items():
                monkeypatch.setenv(name, value)
            return Line(bedrock.BedrockConnector(MODEL), lambda: list(emulator.sessions))

        yield dial


# --- stories ---


async def test_a_conversation_from_hello_to_goodbye(dial: Dial) -> None:
    """What is said in memory is said over the wire, and the service has heard all of it."""
    line = await dial(Scenario(turns=[HELLO]))
    async with line.call() as caller:
        await caller.speak(1.0)
        await caller.until(messages.OutputContentEnd, lambda end: end.stop_reason == "END_TURN")
        await caller.bye()
    assert caller.texts()[:3] == ["hello.", "Hello to you.", "How are you?"]
    sound = sum(len(each.content) for each in caller.told if isinstance(each, messages.AudioOutput))
    assert sound == 4.0 * 48_000
    assert isinstance(caller.told[-1], messages.CompletionEnd)
    (log,) = line.sessions()
    assert log.outcome == "completed"
    assert log.speech_seconds == pytest.approx(1.0, abs=0.08)
    assert log.wrong_signatures == 0
    assert caller.transport.request_id == log.request_id


async def test_an_interruption(dial: Dial) -> None:
    line = await dial(Scenario(turns=[HELLO, DONE]), speed=5.0)
    async with line.call() as caller:
        await caller.speak(1.0)
        await caller.until(messages.AudioOutput)
        await caller.say(audio(tone(0.5) + silence(0.8)))
        await caller.until(messages.TextOutput, lambda text: text.says_interrupted)
        final = await caller.until(messages.TextOutput)
        assert final.content == "Hello to you."
        await caller.until(messages.TextOutput, says("Never mind."))
        await caller.bye()


async def test_a_tool(dial: Dial) -> None:
    turn = Turn(heard="weather?", calls=[ToolCall("weather")], then="{celsius} degrees.")
    line = await dial(Scenario(turns=[turn]))
    async with line.call() as caller:
        await caller.speak(1.0)
        call = await caller.until(messages.ToolUse)
        await caller.say(
            *messages.tool_block('{"celsius": 7}', prompt_name=PROMPT, tool_use_id=call.tool_use_id)
        )
        await caller.until(messages.TextOutput, says("7 degrees."))
        await caller.bye()


async def test_tools_are_answered_in_any_order_while_the_model_talks(dial: Dial) -> None:
    """Three calls at once, one of them twice, one with arguments that are none."""
    turn = Turn(
        heard="all three.",
        calls=[
            ToolCall("a", times=2, then="A is {n}."),
            ToolCall("b", arguments="", double_encoded=True),
            ToolCall("c", arguments={"x": 1}, double_encoded=True),
        ],
        says=[Say("One moment.", seconds=3.0)],
        then="B is {m}.",
    )
    line = await dial(Scenario(turns=[turn]))
    async with line.call() as caller:
        await caller.speak(1.0)
        calls = [await caller.until(messages.ToolUse) for _ in range(4)]
        assert [call.tool_name for call in calls] == ["a", "a", "b", "c"]
        assert [call.arguments for call in calls] == [{}, {}, {}, {"x": 1}]
        results = {"c": "{}", "b": '{"m": 2}', "a": '{"n": 1}'}
        for name, result in results.items():
            id_ = next(call.tool_use_id for call in calls if call.tool_name == name)
            await caller.say(*messages.tool_block(result, prompt_name=PROMPT, tool_use_id=id_))
        await caller.until(messages.TextOutput, says("B is 2."))
        await caller.bye()
    said = [text for text in caller.texts() if text != "all three."]
    assert list(dict.fromkeys(said)) == ["One moment.", "A is 1.", "B is 2."]
    assert len(line.sessions()[0].tool_results) == 3


async def test_a_result_that_is_no_object_ends_the_stream(dial: Dial) -> None:
    line = await dial(Scenario(turns=[Turn(heard="weather?", calls=[ToolCall("weather")])]))
    async with line.call() as caller:
        await caller.speak(1.0)
        call = await caller.until(messages.ToolUse)
        await caller.say(*messages.tool_block("[7]", prompt_name=PROMPT, tool_use_id=call.tool_use_id))
        with pytest.raises(errors.InvalidRequestError, match="Tool Response parsing error"):
            await caller.until_end()


async def test_a_conversation_moves_to_its_next_stream(dial: Dial) -> None:
    """Both are open for a while: the old one says what it has begun, the new one hears what comes."""
    line = await dial(Scenario(turns=[HELLO, DONE], shared=True))
    async with line.call() as old, line.call() as new:
        await old.speak(1.0)
        await old.until(messages.AudioOutput)
        await new.speak(1.0)
        await new.until(messages.TextOutput, says("Never mind."))
        for content in ("How are you?", "Hello to you.", "How are you?"):  # planned, and then heard
            await old.until(messages.TextOutput, says(content))
        await old.bye()
        await new.bye()
    assert [log.outcome for log in line.sessions()] == ["completed", "completed"]


async def test_typed_text(dial: Dial) -> None:
    line = await dial()
    async with line.call() as caller:
        await caller.say(audio(silence(0.1)), *typed("Hello there"))
        await caller.until(messages.TextOutput, says("You typed 2 words."))
        await caller.bye()


async def test_several_conversations_at_once(dial: Dial) -> None:
    line = await dial(Scenario(turns=[HELLO]))

    async def converse() -> list[str]:
        async with line.call() as caller:
            await caller.speak(1.0)
            await caller.until(messages.OutputContentEnd, lambda end: end.stop_reason == "END_TURN")
            await caller.bye()
        return caller.texts()[:3]

    texts = await asyncio.gather(*(converse() for _ in range(8)))
    assert texts == [["hello.", "Hello to you.", "How are you?"]] * 8
    assert len({log.request_id for log in line.sessions()}) == 8


REFUSALS = [
    ("AccessDeniedException", errors.AccessDeniedError),
    ("ResourceNotFoundException", errors.ModelNotFoundError),
    ("ThrottlingException", errors.ThrottledError),
    ("ServiceUnavailableException", errors.ServiceError),
    ("ModelNotReadyException", errors.ServiceError),
]


@pytest.mark.parametrize(("code", "error"), REFUSALS)
async def test_a_refused_opening(dial: Dial, code: str, error: type[Exception]) -> None:
    line = await dial(Scenario(faults=[Fault("refuse", code=code)]))
    with pytest.raises(error) as raised:
        await line.connector([messages.encode(each) for each in setup()], timeout=10)
    assert isinstance(raised.value, errors.TransportError)
    assert raised.value.code == code
    async with line.call() as caller:  # once only
        await caller.say(audio(silence(0.1)))
        await caller.bye()


async def test_an_opening_that_is_never_answered(dial: Dial) -> None:
    line = await dial(Scenario(faults=[Fault("mute")]))
    with pytest.raises(errors.ConnectError):
        await line.connector([messages.encode(each) for each in setup()], timeout=0.5)
    assert line.sessions()[0].accepted is False


async def test_a_bad_message_is_answered_with_an_exception(dial: Dial) -> None:
    line = await dial()
    async with line.call() as caller:
        await caller.say(b"nonsense")
        with pytest.raises(errors.InvalidRequestError, match="Unable to parse input chunk"):
            await caller.until_end()


BREAKS = [
    ("reset", errors.StreamLostError),
    ("goaway", errors.StreamLostError),
    ("cut", errors.StreamLostError),
    ("garbled", errors.RemoteProtocolError),
    ("truncated", errors.RemoteProtocolError),
    ("exception", errors.ServiceError),
    ("error", errors.ServiceError),
]


@pytest.mark.parametrize(("kind", "error"), BREAKS)
async def test_what_breaks_in_the_middle_of_a_response(dial: Dial, kind: Any, error: type[Exception]) -> None:
    """What was said before still arrives; then the error, in place of an end."""
    line = await dial(Scenario(turns=[HELLO], faults=[Fault(kind, in_response=1)]))
    async with line.call() as caller:
        await caller.speak(1.0)
        with pytest.raises(error):
            await caller.until_end()
    assert "How are you?" in caller.texts()


async def test_a_silent_end(dial: Dial) -> None:
    """A stream may end in good order without completionEnd."""
    line = await dial(Scenario(faults=[Fault("end", after_output=4)]))
    async with line.call() as caller:
        await caller.say(audio(silence(0.1)))
        await caller.until_end()
    assert len(caller.told) == 4


async def test_a_goaway_for_others_ends_nothing(dial: Dial) -> None:
    line = await dial(Scenario(turns=[DONE], faults=[Fault("goaway_others", after_output=2)]))
    async with line.call() as caller:
        await caller.speak(1.0)
        await caller.until(messages.OutputContentEnd, lambda end: end.stop_reason == "END_TURN")
        await caller.bye()


async def test_a_stall_says_nothing_more(dial: Dial) -> None:
    """The connection stays, and nothing comes: only a client's own deadline helps."""
    line = await dial(Scenario(faults=[Fault("stall", after_output=4)]))
    async with line.call() as caller:
        await caller.say(audio(silence(0.1)))
        for _ in range(4):
            await caller.until(messages.UsageEvent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await caller.until_end()


ENDLESS = Behaviour(input_gap=None, any_input_gap=None, silence_only=None, stream=None)
LIMITS = [
    ({"stream": 5.0}, errors.SessionExpiredError, "timed out in processing"),
    ({"input_gap": 5.0}, errors.InputTimeoutError, "less than 5 seconds"),
    ({"any_input_gap": 5.0}, errors.InputTimeoutError, "waiting for input events"),
    ({"silence_only": 5.0}, errors.SessionExpiredError, "InternalErrorCode=531"),
]


@pytest.mark.parametrize(("limit", "error", "text"), LIMITS)
async def test_a_limit_ends_the_stream_with_its_own_error(
    dial: Dial, limit: Any, error: type[Exception], text: str
) -> None:
    """The eight minutes, and three kinds of quiet."""
    line = await dial(Scenario(behaviour=Behaviour(**limit)))

    async def converse() -> None:
        async with line.call() as caller:
            await caller.say(audio(silence(0.1)))
            await caller.until_end()

    with pytest.raises(error, match=text):
        await converse()


async def test_a_stream_too_many_is_refused_until_another_has_ended(dial: Dial) -> None:
    line = await dial(Scenario(behaviour=ENDLESS))
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(line.call()) for _ in range(20)]
        with pytest.raises(errors.ThrottledError):
            await stack.enter_async_context(line.call())
        await callers[7].say(audio(silence(0.1)))
        await callers[7].bye()
        await stack.enter_async_context(line.call())


async def test_a_fault_while_a_tool_runs(dial: Dial) -> None:
    turn = Turn(heard="weather?", calls=[ToolCall("weather")])
    line = await dial(Scenario(turns=[turn], faults=[Fault("cut", after_call=1, delay=5.0)]))
    async with line.call() as caller:
        await caller.speak(1.0)
        with pytest.raises(errors.StreamLostError):
            await caller.until_end()
    assert any(isinstance(each, messages.ToolUse) for each in caller.told)


async def test_a_client_that_goes_away_is_forgotten(dial: Dial) -> None:
    """Its place is free for another."""
    line = await dial()
    async with line.call() as caller:
        await caller.say(audio(silence(0.1)))
        await caller.until(messages.UsageEvent)
    async with asyncio.timeout(5):
        while line.sessions()[0].outcome is None:  # noqa: ASYNC110 - the log is no event
            await asyncio.sleep(0)
    assert line.sessions()[0].outcome == "abandoned"


# --- signatures ---


async def connect(emulator: Emulator, **credentials: Any) -> None:
    """Open a stream with these credentials, and go."""
    keys = {
        "access_key": emulator.credentials.access_key,
        "secret_key": emulator.credentials.secret_key,
        **credentials,
    }
    connector = bedrock.BedrockConnector(
        MODEL,
        region=keys.pop("region", emulator.region),
        endpoint_url=emulator.endpoint_url,
        credentials=bedrock.Credentials(**keys),
    )
    transport = await connector([messages.encode(each) for each in setup()], timeout=10)
    await transport.aclose()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"access_key": "somebody-else"}, "UnrecognizedClientException"),
        ({"secret_key": "guessed"}, "InvalidSignatureException"),
        ({"session_token": "unheard-of"}, "UnrecognizedClientException"),
        ({"region": "eu-north-1"}, "InvalidSignatureException"),
    ],
)
async def test_who_is_not_known_is_refused(
    wrong: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Emulator() as emulator:
        monkeypatch.setenv("AWS_CA_BUNDLE", emulator.ca_file)
        with pytest.raises(errors.CredentialsError) as raised:
            await connect(emulator, **wrong)
        assert raised.value.code == code
        await connect(emulator)
        assert [log.accepted for log in emulator.sessions] == [True]


async def test_temporary_credentials_come_with_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Credentials("temporary", "s", "t")
    async with Emulator(credentials=keys) as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        assert os.environ["AWS_SESSION_TOKEN"] == "t"
        await connect(emulator, session_token="t")
        with pytest.raises(errors.CredentialsError):
            await connect(emulator)


def keys_of(credentials: Credentials) -> dict[str, Any]:
    """Without the time at which they expire: the client is not to know, and the service is."""
    names = ("access_key", "secret_key", "session_token")
    return {name: getattr(credentials, name) for name in names}


@pytest.mark.clock("fast")
async def test_credentials_expire_and_others_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do for who has assumed a role: several are good at a time, each to its own end."""
    async with Emulator(speed=1000) as emulator:
        monkeypatch.setenv("AWS_CA_BUNDLE", emulator.ca_file)
        hour, year = emulator.issue(3600.0), emulator.issue(365 * 24 * 3600.0)
        await connect(emulator, **keys_of(year))
        await pass_time(3.6)
        for each in (hour, emulator.expired):
            with pytest.raises(
                errors.CredentialsError, match="token included in the request is expired"
            ) as no:
                await connect(emulator, **keys_of(each))
            assert no.value.code == "ExpiredTokenException"
        for each in (year, emulator.credentials, emulator.issue(365 * 24 * 3600.0)):
            await connect(emulator, **keys_of(each))


async def test_a_stream_ends_when_its_credentials_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the conversation goes on over the next one, with the credentials that a callable gets for it."""
    async with Emulator() as emulator:
        monkeypatch.setenv("AWS_CA_BUNDLE", emulator.ca_file)
        given: list[Credentials] = []

        def credentials() -> Credentials:  # in a thread
            given.append(emulator.issue(3600.0))
            return given[-1]

        connector = bedrock.BedrockConnector(
            MODEL, region=emulator.region, endpoint_url=emulator.endpoint_url, credentials=credentials
        )
        line = Line(connector, lambda: list(emulator.sessions))
        async with line.call() as caller, line.call() as other:
            await caller.say(audio(silence(0.1)))
            await caller.until(messages.UsageEvent)
            emulator.expire(given[0])
            await caller.say(audio(silence(0.1)))
            with pytest.raises(errors.TransportError, match="signature") as raised:
                await caller.until_end()
            assert raised.value.code == "ValidationException"
            await other.say(audio(silence(0.1)))
            await other.bye()
        async with line.call() as caller:
            await caller.say(audio(silence(0.1)))
            await caller.bye()
        assert [log.outcome for log in emulator.sessions] == ["validationException", "completed", "completed"]
        assert len({each.access_key for each in given}) == 3


@pytest.mark.parametrize(("minutes", "accepted"), [(5, True), (-5, False)])
async def test_credentials_that_are_given_expire_when_they_say(
    minutes: int, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = datetime.now(UTC) + timedelta(minutes=minutes)
    async with Emulator(credentials=Credentials("id", "secret", expires_at=expires_at)) as emulator:
        monkeypatch.setenv("AWS_CA_BUNDLE", emulator.ca_file)
        refused = pytest.raises(errors.CredentialsError)
        with contextlib.nullcontext() if accepted else refused:
            await connect(emulator)


def test_temporary_credentials_say_when_they_expire() -> None:
    """So a client can change them in time; at twice the speed they last half as long."""
    left = Emulator(speed=2.0).issue(3600.0).expires_at
    assert left is not None
    assert left - datetime.now(UTC) == pytest.approx(timedelta(minutes=30), abs=timedelta(minutes=1))


BODY = "STREAMING-AWS4-HMAC-SHA256-EVENTS"
HEADERS = [
    (":authority", "localhost:8443"),
    ("x-amz-date", "20261123T120000Z"),
    ("x-amz-content-sha256", BODY),
]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def check(headers: list[tuple[str, str]], now: datetime = NOON) -> None:
    signature.check(
        method="POST",
        path="/model/x%3A0/invoke-with-bidirectional-stream",
        headers=headers,
        find=lambda _, __: Credentials("id", "secret"),
        region="us-east-1",
        now=now,
    )


def authorization(**other: str) -> tuple[str, str]:
    fields = {
        "Credential": "id/20261123/us-east-1/bedrock/aws4_request",
        "SignedHeaders": "host;x-amz-date",
        "Signature": "0" * 64,
        **other,
    }
    text = ", ".join(f"{name}={value}" for name, value in fields.items())
    return "authorization", f"AWS4-HMAC-SHA256 {text}"


@pytest.mark.parametrize(
    ("headers", "now", "code", "text"),
    [
        ([], NOON, "MissingAuthenticationTokenException", "Missing"),
        ([("authorization", "Bearer key")], NOON, "AccessDeniedException", "Signature Version 4"),
        ([authorization()], NOON, "InvalidSignatureException", "does not match"),
        ([authorization()], NOON + timedelta(minutes=6), "InvalidSignatureException", "Signature expired"),
        ([authorization()], NOON - timedelta(minutes=6), "InvalidSignatureException", "not yet current"),
        (
            [authorization(Credential="id/20261123/us-east-1/s3/aws4_request")],
            NOON,
            "InvalidSignatureException",
            "scoped",
        ),
    ],
)
def test_a_request_that_is_not_signed_well_is_refused(
    headers: list[tuple[str, str]], now: datetime, code: str, text: str
) -> None:
    with pytest.raises(signature.UnsignedError, match=text) as raised:
        check([*HEADERS, *headers], now)
    assert raised.value.code == code


# --- the wire, by hand ---


class Wire:
    """An HTTP/2 client without manners: it sends whatever it is told to."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.headers: dict[int, dict[str, str]] = {}
        self.body: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.window = True  # whether it gives back what it has read

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=self._emulator.ca_file)
        tls.set_alpn_protocols(["h2"])
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._emulator.port, ssl=tls)
        self.h2.initiate_connection()
        await self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())
        await self._writer.drain()

    async def request(self, *, method: str = "POST", path: str | None = None) -> tuple[int, ChunkSigner]:
        """Send the signed head of a request; return its stream, and what signs its body."""
        emulator, path = self._emulator, path or "/model/amazon.nova-2-sonic-v1%3A0" + signature_path
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{emulator.region}/bedrock/aws4_request"
        host = f"localhost:{emulator.port}"
        values = {
            "host": host,
            "x-amz-date": stamp,
            "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-EVENTS",
        }
        names = "host;x-amz-date"
        # Private, as nobody else needs to sign requests: the SDK's own are checked in the tests above.
        canonical = signature._canonical(method, path, values, names)
        signed = signature._sign(canonical, stamp, scope, emulator.credentials.secret_key)
        credential = f"{emulator.credentials.access_key}/{scope}"
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            stream,
            [
                (":method", method),
                (":scheme", "https"),
                (":authority", host),
                (":path", path),
                ("x-amz-date", stamp),
                ("x-amz-content-sha256", values["x-amz-content-sha256"]),
                authorization(Credential=credential, SignedHeaders=names, Signature=signed),
            ],
        )
        await self.flush()
        signer = ChunkSigner(
            secret_key=emulator.credentials.secret_key, region=emulator.region, signature=signed
        )
        return stream, signer

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        await self.flush()

    async def read_until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                data = await self._reader.read(65_536)
                assert data, "the connection was closed"
                for event in self.h2.receive_data(data):
                    self._take(event)
                await self.flush()

    async def answer(self, stream: int) -> int:
        """Wait for the whole answer and return its status."""
        await self.read_until(lambda: stream in self.ended)
        return int(self.headers[stream][":status"])

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=int(stream)):
                self.headers[stream] = {str(k): str(v) for k, v in event.headers or []}
            case h2.events.DataReceived(stream_id=int(stream), data=bytes(data)):
                self.body.setdefault(stream, bytearray()).extend(data)
                if self.window:
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            case h2.events.StreamEnded(stream_id=int(stream)) | h2.events.StreamReset(stream_id=int(stream)):
                self.ended.add(stream)
            case _:
                pass

    def has_body(self, stream: int) -> bool:
        return stream in self.body

    def failure(self, stream: int) -> Any:
        """Return the exception that ended a stream."""
        decoder = FrameDecoder()
        decoder.feed(bytes(self.body[stream]))
        frame = None
        while (found := decoder.next_frame()) is not None:
            frame = found
        assert frame is not None
        return decode_failure(frame)


signature_path = "/invoke-with-bidirectional-stream"


def now() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def body(signer: ChunkSigner, *said: InputMessage) -> bytes:
    return b"".join(signer.sign(messages.encode(each), at=now()) for each in said)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 404),
        ("POST", "/model/x/converse", 404),
        ("POST", "/model//invoke-with-bidirectional-stream", 404),
        ("GET", f"/model/x{signature_path}", 405),
    ],
)
async def test_other_requests_are_answered_with_a_sentence(method: str, path: str, status: int) -> None:
    async with Emulator() as emulator, Wire(emulator) as wire:
        stream, _ = await wire.request(method=method, path=path)
        assert await wire.answer(stream) == status
        assert wire.headers[stream]["x-amzn-errortype"].startswith("UnknownOperationException")
        assert b"invoke-with-bidirectional-stream" in wire.body[stream]
        assert emulator.sessions == []


async def test_a_client_of_http_1_gets_a_sentence() -> None:
    """A browser, or curl without --http2, must not wait for ever."""
    async with Emulator() as emulator:
        tls = ssl.create_default_context(cafile=emulator.ca_file)
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port, ssl=tls)
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b"HTTP/2" in answer


async def test_a_broken_chain_of_signatures_ends_the_stream() -> None:
    """A client that signs with one key and goes on with another, or lets two tasks send at once."""
    async with Emulator() as emulator, Wire(emulator) as wire:
        stream, signer = await wire.request()
        await wire.send(stream, body(signer, *setup()))
        await wire.read_until(lambda: stream in wire.headers)
        skipped = body(signer, audio_start())
        assert skipped
        await wire.send(stream, body(signer, audio(silence(0.1))))
        assert await wire.answer(stream) == 200
        failure = wire.failure(stream)
        assert failure.code == "validationException"
        assert "signature" in failure.message
        assert emulator.sessions[0].wrong_signatures == 1


async def test_a_frame_that_is_none_ends_the_stream() -> None:
    async with Emulator() as emulator, Wire(emulator) as wire:
        stream, signer = await wire.request()
        await wire.send(stream, body(signer, *setup()))
        await wire.read_until(lambda: stream in wire.headers)
        await wire.send(stream, b"nonsense, and enough of it to be looked at")
        await wire.answer(stream)
        assert wire.failure(stream).message.endswith(rules.UNREADABLE)


async def test_frames_that_are_not_signed_are_refused_before_the_stream_is_accepted() -> None:
    async with Emulator() as emulator, Wire(emulator) as wire:
        stream, _ = await wire.request()
        await wire.send(stream, encode_chunk(messages.encode(setup()[0])))
        assert await wire.answer(stream) == 400


async def test_the_end_of_the_request_without_a_signed_goodbye() -> None:
    """Older clients only close the body."""
    async with Emulator(speed=SPEED) as emulator, Wire(emulator) as wire:
        stream, signer = await wire.request()
        await wire.send(stream, body(signer, *setup()), end=True)
        await wire.answer(stream)
        assert "were not closed" in wire.failure(stream).message


async def test_a_reader_that_is_slow_gets_everything_in_the_end() -> None:
    """The service sends no more than the client's window, and then waits for it."""
    scenario = Scenario(
        turns=[Turn(heard="x", says=[Say("Long.", seconds=10.0)])], behaviour=Behaviour(delivery=None)
    )
    async with Emulator(scenario, speed=SPEED) as emulator, Wire(emulator) as wire:
        stream, signer = await wire.request()
        await wire.send(stream, body(signer, *setup(), audio_start()))
        wire.window = False
        sound = tone(0.5) + silence(0.8)
        pieces = [audio(sound[start : start + 1024]) for start in range(0, len(sound), 1024)]
        for piece in pieces:
            data = body(signer, piece)
            await wire.read_until(lambda: wire.h2.local_flow_control_window(stream) > 4096)
            await wire.send(stream, data)
        await wire.read_until(lambda: len(wire.body.get(stream, b"")) == 65_535)
        wire.window = True
        wire.h2.acknowledge_received_data(65_535, stream)
        await wire.flush()
        await wire.read_until(lambda: wire.body[stream].count(b":event-type") > 120)


async def test_a_client_that_resets_its_stream_is_forgotten() -> None:
    async with Emulator() as emulator, Wire(emulator) as wire:
        stream, signer = await wire.request()
        await wire.send(stream, body(signer, *setup()))
        await wire.read_until(lambda: stream in wire.headers)
        wire.h2.reset_stream(stream, ErrorCodes.CANCEL)
        await wire.flush()
        second, signer = await wire.request()
        await wire.send(second, body(signer, *setup()))
        await wire.read_until(lambda: second in wire.headers)
        assert [log.outcome for log in emulator.sessions] == ["abandoned", None]


async def test_a_client_that_breaks_http_2_is_hung_up_on() -> None:
    async with Emulator() as emulator, Wire(emulator) as wire:
        wire._writer.write(b"\0" * 100)  # its own: no h2 would send this
        await wire._writer.drain()
        with pytest.raises(AssertionError, match="closed"):
            await wire.read_until(lambda: False)


# --- living and dying ---


async def test_leaving_closes_everything_at_once() -> None:
    """Streams in the middle of a response, a stalled one, a connection without a request."""
    scenario = Scenario(turns=[HELLO], faults=[Fault("stall", after_output=1)])
    async with (
        Emulator(scenario) as emulator,
        Wire(emulator),
        Wire(emulator) as wire,
        Wire(emulator) as stalled,
    ):
        for each in (stalled, wire):
            stream, signer = await each.request()
            await each.send(stream, body(signer, *setup(), audio_start(), audio(silence(0.1))))
            await each.read_until(partial(each.has_body, stream))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await emulator.__aexit__(None, None, None)
        assert loop.time() - before < 3
    assert not Path(emulator.ca_file).exists()  # noqa: ASYNC240 - nobody waits
    assert {log.outcome for log in emulator.sessions} == {"abandoned", "stall"}


async def test_leaving_does_not_wait_for_a_handshake() -> None:
    """A port scanner, or a client that hangs: no task is left, and none is waited for."""
    async with Emulator() as emulator:
        _, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
        _, other = await asyncio.open_connection("127.0.0.1", emulator.port)
        other.write(b"this is no TLS")
    for each in (writer, other):
        each.close()


async def test_a_client_that_does_not_trust_it_is_no_trouble() -> None:
    async with Emulator() as emulator:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", emulator.port, ssl=ssl.create_default_context())
        async with Wire(emulator) as wire:
            stream, _ = await wire.request(path="/")
            assert await wire.answer(stream) == 404


@pytest.mark.clock("virtual")
async def test_eight_minutes_pass_at_once_on_a_virtual_clock() -> None:
    """In memory there is no other time than the loop's."""
    patient = Behaviour(input_gap=None, any_input_gap=None)
    connector = MemoryConnector(Scenario(behaviour=patient))
    loop = asyncio.get_running_loop()
    opened = loop.time()
    transport = await connector([messages.encode(each) for each in setup()], timeout=10)
    with pytest.raises(errors.SessionExpiredError):
        await Caller(transport).until_end(timeout=1000)
    assert loop.time() - opened == pytest.approx(480, abs=1)
    await transport.aclose()


async def test_an_emulator_that_is_killed_and_started_again_is_the_same_to_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation that survives a restart of the service finds it again without a new environment."""
    state = str(tmp_path / "state")
    async with process("--port", "0", "--state", state) as (first, env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        line = Line(bedrock.BedrockConnector(MODEL), list)
        async with line.call() as caller:
            await caller.say(audio(silence(0.1)))
            await caller.until(messages.UsageEvent)
            first.kill()
            with pytest.raises(errors.StreamLostError):
                await caller.until_end()
        port = env["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"].rpartition(":")[2]
        async with process("--port", port, "--state", state) as (_, again):
            assert again == env
            async with line.call() as caller:
                await caller.say(audio(silence(0.1)))
                await caller.bye()


async def test_what_is_kept_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    async with Emulator(state=tmp_path) as emulator:
        assert Path(emulator.ca_file).parent == tmp_path
    private = [path for path in tmp_path.iterdir() if path != Path(emulator.ca_file)]  # noqa: ASYNC240 - nobody waits
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600]
    secrets = private[0].read_text()
    assert "PRIVATE KEY" in secrets
    assert emulator.credentials.secret_key in secrets
    assert "PRIVATE KEY" not in Path(emulator.ca_file).read_text()  # noqa: ASYNC240


async def test_what_is_kept_is_used_again_and_what_is_given_comes_first(tmp_path: Path) -> None:
    async with Emulator(state=tmp_path) as first:
        kept, ca = first.credentials, Path(first.ca_file).read_text()  # noqa: ASYNC240 - nobody waits
    mine = Credentials("mine", "secret")
    async with Emulator(state=str(tmp_path), credentials=mine) as second:
        assert second.credentials == mine
        assert Path(second.ca_file).read_text() == ca  # noqa: ASYNC240
    async with Emulator(state=tmp_path) as third:
        assert third.credentials == kept
        assert third.credentials.secret_key == kept.secret_key
    async with Emulator(state=tmp_path / "another") as fourth:
        assert fourth.credentials != kept
        assert Path(fourth.ca_file).read_text() != ca  # noqa: ASYNC240


async def test_two_that_start_at_once_keep_the_same(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        both = [Emulator(state=tmp_path) for _ in range(2)]
        await asyncio.gather(*map(stack.enter_async_context, both))
        assert both[0].credentials == both[1].credentials
        for each in both:  # and each is served under the certificate that the folder shows now
            async with Wire(each) as wire:
                stream, _ = await wire.request(path="/")
                assert await wire.answer(stream) == 404


@pytest.mark.parametrize("written", ["", "{}", '{"certificate": "x", "private_key": "y"}'])
async def test_a_state_that_is_none_says_what_to_do(tmp_path: Path, written: str) -> None:
    (tmp_path / "identity.json").write_text(written)
    with pytest.raises(errors.ConfigurationError, match=r"identity\.json is no state .* delete it"):
        async with Emulator(state=tmp_path):
            pass


async def test_a_certificate_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    async with Emulator(state=tmp_path):
        path = tmp_path / "identity.json"
        path.write_text(path.read_text().replace("BEGIN CERTIFICATE", "BEGIN NONSENSE"))
    with pytest.raises(errors.ConfigurationError, match="delete it"):
        async with Emulator(state=tmp_path):
            pass


async def test_a_state_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.ConfigurationError, match="cannot keep its state in"):
        async with Emulator(state=tmp_path / "file"):
            pass


async def test_its_address_is_known_while_it_runs() -> None:
    emulator = Emulator()
    with pytest.raises(errors.ConfigurationError, match="not running"):
        _ = emulator.endpoint_url
    with pytest.raises(errors.ConfigurationError, match="not running"):
        _ = emulator.ca_file
    async with emulator:
        assert emulator.endpoint_url == f"https://127.0.0.1:{emulator.port}"
        assert emulator.env["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] == emulator.endpoint_url
        ca = Path(emulator.env["AWS_CA_BUNDLE"])
        assert ca.read_text().startswith("-----BEGIN")  # noqa: ASYNC240 - nobody waits


async def test_a_port_that_is_taken() -> None:
    async with Emulator() as first:
        with pytest.raises(OSError, match="in use"):
            async with Emulator(port=first.port):
                pass


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(errors.ConfigurationError, match="speed"):
        Emulator(speed=0)


async def test_a_scenario_with_a_sound_that_is_missing_does_not_start() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"nowhere\.wav"):
        async with Emulator(Scenario(turns=[Turn(then=[Say("x", sound="nowhere.wav")])])):
            pass


async def test_all_addresses_may_be_listened_on() -> None:
    """For another machine, or a container; a program here still finds it."""
    async with Emulator(host="0.0.0.0") as emulator, Wire(emulator) as wire:
        assert emulator.endpoint_url.startswith("https://localhost:")
        stream, _ = await wire.request(path="/")
        assert await wire.answer(stream) == 404


async def test_a_proxy_does_not_stand_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run against it unchanged, also where the network is reached through a proxy."""
    monkeypatch.setenv("no_proxy", "intranet")
    async with Emulator() as emulator:
        assert emulator.env["no_proxy"] == "intranet,127.0.0.1"


def test_importing_it_is_cheap() -> None:
    """Reading a scenario, or `novasonic --help`, needs neither samples nor a server."""
    program = "import sys, novasonic.emulator; print({'numpy', 'h2', 'trustme', 'soxr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("missing", ["h2", "trustme"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    """The rest of the package can be used without it."""
    program = f"""
        import sys
        sys.modules[{missing!r}] = None
        import novasonic.emulator
        novasonic.emulator.MemoryConnector()
        try:
            novasonic.emulator.Emulator
        except ImportError as exc:
            print(exc)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip().endswith("pip install 'novasonic[emulator]'")


# --- sounds ---


async def sound_of(speaker: Speaker, say: Say, rate: int) -> bytes:
    """Ask until it is made, as the service does."""
    async with asyncio.timeout(10):
        while (pcm := speaker(say, rate)) is None:
            await asyncio.gather(*speaker.making)
    return pcm


async def test_a_sound_comes_from_a_file_at_any_rate() -> None:
    speaker = Speaker()
    try:
        at_24, at_8 = [
            await sound_of(speaker, Say("x", sound="answer-1.wav"), rate) for rate in (24_000, 8_000)
        ]
    finally:
        await speaker.aclose()
    assert len(at_24) / 24_000 == pytest.approx(len(at_8) / 8_000, abs=0.01)
    assert len(at_24) > 2 * 24_000


async def test_a_sound_is_as_long_as_a_scenario_wants_it() -> None:
    speaker = Speaker()
    try:
        pcm = await sound_of(speaker, Say("x", sound="answer-1.wav", seconds=0.5), 24_000)
    finally:
        await speaker.aclose()
    assert len(pcm) == 24_000


async def test_sounds_that_were_not_used_for_long_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator that says something new all day does not keep all of it."""
    monkeypatch.setenv("PATH", "")
    speaker = Speaker(most=100_000)
    try:
        for number in range(20):
            for text in (f"This is number {number}.", "And so on."):
                await sound_of(speaker, Say(text), 8_000)
        assert 50_000 < speaker.kept <= 100_000
        assert speaker(Say("And so on."), 8_000) is not None
        assert speaker(Say("This is number 1."), 8_000) is None
    finally:
        await speaker.aclose()


async def test_a_sound_that_is_missing_is_hummed(caplog: pytest.LogCaptureFixture) -> None:
    speaker = Speaker()
    try:
        pcm = await sound_of(speaker, Say("Fourteen chars", sound="nowhere.wav"), 16_000)
    finally:
        await speaker.aclose()
    assert len(pcm) == 2 * 16_000
    assert "nowhere.wav" in caplog.text


async def test_without_a_voice_it_hums() -> None:
    assert len(Speaker(speaks=False)(Say("Fourteen chars"), 16_000) or b"") == 2 * 16_000


async def test_espeak_speaks_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the program: what it writes has no lengths in its header, as into a pipe."""
    program = tmp_path / "espeak-ng"
    program.write_text(
        f"#!{sys.executable}\nimport sys, struct\n"
        "sys.stdin.read()\n"
        "head = b'RIFF' + struct.pack('<I', 0x7fffffff) + b'WAVEfmt ' + "
        "struct.pack('<IHHIIHH', 16, 1, 1, 16000, 32000, 2, 16) + b'data' + struct.pack('<I', 0x7fffffff)\n"
        "sys.stdout.buffer.write(head + bytes(32000))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    speaker = Speaker()
    try:
        assert len(await sound_of(speaker, Say("Hello."), 8_000)) == pytest.approx(16_000, abs=40)
    finally:
        await speaker.aclose()


async def test_a_program_that_fails_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    speaker = Speaker()
    try:
        assert len(await sound_of(speaker, Say("Fourteen chars"), 8_000)) == 16_000
    finally:
        await speaker.aclose()
