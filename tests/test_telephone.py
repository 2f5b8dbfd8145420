"""The telephone of examples/: calls by a simulated caller, over real sockets, to the emulator."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import caller as telephone_caller
import mediastream
from answer import Telephone, server_of
from call import CallError, Ear, shortened
from caller import Caller, RefusedError, dial
from clocks import CLOCKS
from emulated import tone
from mediastream import Beginning, Clear, Connected, Label, Mark, Media, MediaFormat, Sound, Start, Stop
from novasonic import AudioChunk, SonicSession, audio, g711
from novasonic.conversation import Message
from novasonic.emulator import Fault, Say, Scenario, Turn
from novasonic.emulator.hum import hum
from novasonic.messages import PromptStart
from running import Running, Service, in_memory, over_the_wire

ROOT = Path(__file__).parents[1]
SOUNDS = ROOT / "src" / "novasonic" / "emulator" / "sounds"
SHARED = ROOT.parent / "shared" / "audio"

TOKEN = "0123456789abcdef"
NUMBER = "+15005550006"
UTTERANCE = g711.encode(tone(0.8, rate=8_000), "mulaw")

pytestmark = pytest.mark.clock("fast")


@dataclass
class Line:
    """A running server, and what answers its calls."""

    service: Service
    telephone: Telephone
    server: uvicorn.Server
    host: str

    @property
    def webhook(self) -> str:
        return f"http://{self.host}/voice"

    @property
    def session(self) -> SonicSession:
        """The session of the only call."""
        (call,) = self.telephone.calls
        assert call.session is not None
        return call.session

    @contextlib.asynccontextmanager
    async def dial(self) -> AsyncIterator[Caller]:
        async with dial(self.webhook, token=TOKEN, number=NUMBER) as caller:
            yield caller

    @contextlib.asynccontextmanager
    async def socket(
        self, url: str | None = None, signature: str | None = None
    ) -> AsyncIterator[ClientConnection]:
        """Connect as Twilio does, and leave all else to the test."""
        signature = (
            mediastream.signature(TOKEN, url or f"wss://{self.host}/stream")
            if signature is None
            else signature
        )
        headers = {"X-Twilio-Signature": signature} if signature else {}
        where = f"ws://{self.host}/stream"
        async with connect(
            where, additional_headers=headers, proxy=None, open_timeout=600, ping_interval=None
        ) as websocket:
            yield websocket

    @contextlib.asynccontextmanager
    async def answered(self) -> AsyncIterator[ClientConnection]:
        """Connect as Twilio does, and begin a call that the model answers."""
        async with self.socket() as websocket:
            await begin(websocket)
            assert isinstance(mediastream.read_answer(str(await websocket.recv())), Media)
            yield websocket

    @property
    def hears(self) -> bool:
        """Whether the model hears somebody."""
        return any(call.session and call.session.stats.speech_sent for call in self.telephone.calls)

    async def ended(self, *, besides: Collection[asyncio.Task[None]] = ()) -> None:
        """Wait until the server has done what it was asked for."""
        while tasks := self.server.server_state.tasks.difference(besides):
            await asyncio.wait(tasks)
        assert len(self.telephone.calls) == len(besides)


@contextlib.asynccontextmanager
async def line(
    scenario: Scenario | None = None, *, running: Running = over_the_wire, **options: Any
) -> AsyncIterator[Line]:
    """Run the server; in the end, all sessions must have been closed in good order."""
    patient: dict[str, Any] = {"open_timeout": 600.0, "close_timeout": 600.0, "idle": 600.0, "quiet": 600.0}
    patient |= {"token": TOKEN, "greeting": ""}
    async with running(scenario) as service:
        telephone = Telephone(**{**patient, "transport": service.connect, **options})
        server = server_of(telephone)
        # The clock is fast, and the machine may be busy: nobody is to be given up for that.
        server.config.ws_ping_interval = server.config.timeout_graceful_shutdown = None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            found = Line(service, telephone, server, f"127.0.0.1:{listener.getsockname()[1]}")
            try:
                yield found
                await found.ended()
            finally:
                server.should_exit = True
                await serving
        assert None not in {log.outcome for log in service.logs()}


def spoken(*says: Say) -> bytes:
    """What the emulator says, as a telephone carries it."""
    return g711.encode(b"".join(hum(say, 8_000) for say in says), "mulaw")


def sent(messages: Iterable[object]) -> bytes:
    return b"".join(message.media.payload for message in messages if isinstance(message, Media))


def sounding(mulaw: bytes | bytearray) -> bytes:
    """Leave out the silence, which a line puts in where it has nothing else."""
    return bytes(mulaw).replace(b"\xff", b"")


GREETING = Say("Hello!", seconds=1.2)
# Longer than any machine takes until the caller breaks in.
STORY = Say(10 * "Once upon a time there was a telephone. ", seconds=60.0)
ALRIGHT = Say("Alright.", seconds=1.2)
BYE = Say("It is noon.", seconds=2.0)


# --- conversations ------------------------------------------------------------------------------------------


async def test_a_whole_call(caplog: pytest.LogCaptureFixture) -> None:
    """The caller is greeted, asks, hears all of the answer and nothing else, and hangs up."""
    caplog.set_level("INFO", logger="telephone")
    scenario = Scenario(
        turns=[Turn(typed="Greet*", says=[GREETING]), Turn(heard="what time is it?", says=[BYE])]
    )
    async with line(scenario, greeting="Greet the caller.", system="You answer the telephone.") as phone:
        async with phone.dial() as caller:
            await caller.wait(lambda: caller.speech > 1.19)
            await caller.say(UTTERANCE)
            await caller.wait(lambda: caller.speech > 3.19)
            history = phone.session.history
        await phone.ended()
        log = phone.service.log
    assert sent(caller.received) == spoken(GREETING, BYE)
    assert sounding(caller.heard) == sounding(spoken(GREETING, BYE))
    assert audio.level(g711.decode(caller.heard, "mulaw")) > -40
    assert history == (
        Message(role="ASSISTANT", text="Hello!"),
        Message(role="USER", text="what time is it?"),
        Message(role="ASSISTANT", text="It is noon."),
    )
    assert log.outcome == "completed"
    assert log.system == "You answer the telephone."
    assert log.speech_seconds == pytest.approx(0.8, abs=0.1)
    assert "a call from …006" in caplog.text
    assert NUMBER not in caplog.text
    assert TOKEN not in caplog.text


async def test_a_barge_in_clears_the_line_and_no_audio_follows_before_the_next_answer() -> None:
    """And the history knows how much of the story was heard."""
    scenario = Scenario(
        turns=[Turn(heard="tell me a story.", says=[STORY]), Turn(heard="stop, please.", says=[ALRIGHT])]
    )
    async with line(scenario) as phone, phone.dial() as caller:
        await caller.say(UTTERANCE)
        await caller.listen(2.0)
        await caller.say(UTTERANCE)
        await caller.wait(lambda: any(isinstance(message, Clear) for message in caller.received))
        told = caller.speech
        await caller.wait(lambda: caller.speech > told + 1.19)
        _, story, _, alright = phone.session.history
    (at,) = (n for n, message in enumerate(caller.received) if isinstance(message, Clear))
    before, after = sent(caller.received[:at]), sent(caller.received[at:])
    assert spoken(STORY).startswith(before)
    assert 2.0 <= len(before) / 8_000 < 30.0
    assert after == spoken(ALRIGHT)
    assert sounding(caller.heard).endswith(sounding(after))
    assert (story.interrupted, alright.interrupted) == (True, False)
    assert story.heard is not None
    assert story.heard <= told
    assert story.heard == pytest.approx(told, abs=0.6)
    assert story.heard_text
    assert story.text.startswith(story.heard_text)


async def test_only_half_a_second_is_sent_ahead_of_what_was_heard() -> None:
    """What is on its way stands in the way of the message that is to stop it."""
    async with line(Scenario(turns=[Turn(heard="a story!", says=[STORY])])) as phone, phone.dial() as caller:
        await caller.say(UTTERANCE)
        await caller.listen(5.0)
    assert 0.3 < caller.most_ahead < 0.6


async def test_marks_set_the_pace() -> None:
    """Whoever does not play is sent no more, and a mark that was never sent means nothing."""
    async with line(Scenario(turns=[Turn(typed="*", says=[STORY])]), greeting="A story!") as phone:
        async with phone.socket() as websocket:
            await begin(websocket)
            received = [mediastream.read_answer(str(await websocket.recv())) for _ in range(14)]
            assert [type(message) for message in received] == [Media, Mark] * 7
            assert len(sent(received)) / 8_000 == pytest.approx(0.56)  # in pieces of 80 ms
            for name in ("1", "1", "never", "2"):
                await websocket.send(mediastream.write(Mark(stream_sid="MZ1", mark=Label(name=name))))
            received += [mediastream.read_answer(str(await websocket.recv())) for _ in range(4)]
            await websocket.send(mediastream.write(Stop(stream_sid="MZ1")))
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "the caller has hung up")
    assert spoken(STORY).startswith(sent(received))


async def test_the_server_says_nothing_that_twilio_would_not_take() -> None:
    """A member too many is an error there."""
    scenario = Scenario(turns=[Turn(typed="*", says=[STORY]), Turn(heard="stop!")])
    seen = list[dict[str, Any]]()
    async with line(scenario, greeting="A story!") as phone, phone.socket() as websocket:
        await begin(websocket)
        seen += [json.loads(await websocket.recv()) for _ in range(2)]
        await websocket.send(media(UTTERANCE))
        while seen[-1]["event"] != "clear":
            seen.append(json.loads(await websocket.recv()))
    assert seen[-1] == {"event": "clear", "streamSid": "MZ1"}
    assert seen[1] == {"event": "mark", "streamSid": "MZ1", "mark": {"name": "1"}}
    assert seen[0].pop("media").keys() == {"payload"}
    assert seen[0] == {"event": "media", "streamSid": "MZ1"}


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings are not there")
async def test_real_speech_comes_through_a_telephone() -> None:
    question = await asyncio.to_thread(telephone_caller.load, SHARED / "jfk-16k.wav")
    async with line(Scenario(turns=[Turn(heard="ask not ...", says=[ALRIGHT], silence=1.5)])) as phone:
        async with phone.dial() as caller:
            await caller.say(question)
            await caller.wait(lambda: caller.speech > 1.19)
        await phone.ended()
        assert phone.service.log.speech_seconds == pytest.approx(10.6, abs=0.5)


# --- keys ---------------------------------------------------------------------------------------------------


async def test_a_number_that_is_keyed_reaches_the_model_as_one_text() -> None:
    """It is what the caller says, so it belongs to the history, which a second stream is told."""
    scenario = Scenario(turns=[Turn(typed="*4 2 #", says=[ALRIGHT])])
    async with line(scenario) as phone:
        async with phone.dial() as caller:
            await asyncio.gather(*map(caller.press, "42#"))
            await caller.wait(lambda: caller.speech > 1.19)
            question, _ = phone.session.history
        assert question == Message(role="USER", text="I have pressed these keys on my telephone: 4 2 #")
        assert phone.service.log.typed == [question.text]


async def test_keys_without_an_end_are_told_after_a_pause() -> None:
    async with line(Scenario(turns=[Turn(typed="*: 7", says=[ALRIGHT])])) as phone, phone.dial() as caller:
        await caller.press("7")
        await caller.wait(lambda: caller.speech > 1.19)


# --- who may call, and how many -----------------------------------------------------------------------------


def test_signatures_are_those_of_twilio() -> None:
    """Examples that Twilio has published."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Digits", "1234"),
        ("From", "+14158675309"),
        ("To", "+18005551212"),
    ]
    form.append(("Caller", "+14158675309"))
    assert mediastream.signature("12345", url, form) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    twice = [("Sid", "CA123"), ("SidAccount", "AC123"), ("Digits", "5678"), ("Digits", "1234")]
    assert mediastream.signature("12345", url, twice) == "IK+Dwps556ElfBT0I3Rgjkr1wJU="
    assert mediastream.is_signed("RSOYDt4T1cUTdK1PDd93/VVr8B8=", "12345", url, form)
    for wrong in ("", "RSOYDt4T1cUTdK1PDd93/VVr8B8", "Ünsigned", "IK+Dwps556ElfBT0I3Rgjkr1wJU="):
        assert not mediastream.is_signed(wrong, "12345", url, form)
    assert not mediastream.is_signed(mediastream.signature("", url), "", url)


async def post(
    url: str, form: Mapping[str, str], *, host: str | None = None, signed_for: str = "", token: str = TOKEN
) -> tuple[int, str]:
    """Ask a webhook what is to be done with a call."""
    signature = mediastream.signature(token, signed_for, form.items()) if signed_for else ""
    headers = {"X-Twilio-Signature": signature} | ({"Host": host} if host else {})
    request = urllib.request.Request(url, urlencode(form).encode(), headers)

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.read().decode()
        except HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    return await asyncio.to_thread(ask)


async def test_the_webhook_answers_whom_twilio_has_signed_for() -> None:
    form = {"From": NUMBER, "To": "+15005550001", "Empty": ""}
    async with line(running=in_memory) as phone:
        right = f"https://{phone.host}/voice"
        assert (await post(phone.webhook, form, signed_for=right))[0] == 200
        assert (await post(f"{phone.webhook}?line=2", form, signed_for=f"{right}?line=2"))[0] == 200
        for wrong in ("", phone.webhook, f"{right}/", f"{right}?line=2"):
            assert (await post(phone.webhook, form, signed_for=wrong))[0] == 403
        assert (await post(phone.webhook, form, signed_for=right, token="guessed"))[0] == 403
        assert (await post(phone.webhook, form | {"From": "x" * 100_000}, signed_for=right))[0] == 413


async def test_the_stream_is_for_whom_twilio_has_signed_for() -> None:
    """The webhook is no protection: anybody may know the address of the stream."""
    async with line(running=in_memory) as phone:
        async with phone.socket() as websocket:
            await begin(websocket)
        wrong = mediastream.signature("guessed", f"wss://{phone.host}/stream")
        for signature in ("-", wrong, mediastream.signature(TOKEN, f"https://{phone.host}/stream")):
            with pytest.raises(InvalidStatus, match="403"):
                async with phone.socket(signature=signature):
                    pass
        with pytest.raises(RefusedError, match="HTTP 403"):
            async with dial(phone.webhook, token="guessed"):
                pass
        with pytest.raises(RefusedError, match="HTTP 403"):
            async with dial(phone.webhook):
                pass
        await phone.ended()
        assert len(phone.service.logs()) == 1


async def test_without_a_token_anybody_may_call() -> None:
    scenario = Scenario(turns=[Turn(typed="*", says=[ALRIGHT])])
    async with (
        line(scenario, running=in_memory, token=None, greeting="Hello.") as phone,
        dial(phone.webhook) as caller,
    ):
        await caller.wait(lambda: caller.speech > 1.19)


async def test_the_webhook_connects_a_call_to_where_twilio_has_found_it() -> None:
    async with line(running=in_memory) as phone:
        _, text = await post(
            phone.webhook,
            {"From": "<&'\">"},
            host="phone.example.com",
            signed_for="https://phone.example.com/voice",
        )
        connected, farewell = ET.fromstring(text)
        (stream,) = connected
        assert [connected.tag, stream.tag, farewell.tag] == ["Connect", "Stream", "Say"]
        assert stream.attrib == {"url": "wss://phone.example.com/stream"}
        assert [each.attrib for each in stream] == [{"name": "caller", "value": "<&'\">"}]
    async with line(running=in_memory, public_url="https://example.com/phone/") as phone:
        _, text = await post(phone.webhook, {}, signed_for="https://example.com/phone/voice")
        stream = ET.fromstring(text)[0][0]
        assert stream.attrib == {"url": "wss://example.com/phone/stream"}
        async with phone.socket("wss://example.com/phone/stream") as websocket:
            await begin(websocket)


async def test_when_all_lines_are_busy_a_caller_is_told_so() -> None:
    """Twilio speaks for us, as there is no session that could."""
    async with line(running=in_memory, most=1) as phone:
        async with phone.dial() as caller:
            await caller.wait(lambda: phone.hears)
            with pytest.raises(RefusedError, match="All lines are busy"):
                async with phone.dial():
                    pass
            async with phone.socket() as websocket:  # connected before the line was busy
                await begin(websocket)
                assert await closing(websocket) == (
                    1013,
                    "All lines are busy. Please call again in a few minutes.",
                )
            await caller.pause(1.0)
        await phone.ended()
        async with phone.dial() as caller:
            await caller.pause(1.0)
    assert [log.outcome for log in phone.service.logs()] == ["completed"] * 2


async def test_a_call_ends_in_which_nobody_says_anything() -> None:
    """Not one in which the caller listens for a long time."""
    story = Say("A long story.", seconds=40.0)
    async with (
        line(Scenario(turns=[Turn(typed="*", says=[story])]), greeting="A story!", idle=30.0) as phone,
        phone.dial() as caller,
    ):
        with pytest.raises(RefusedError, match="1000 nobody has said anything for 30 seconds"):
            await caller.pause(600.0)
    assert sent(caller.received) == spoken(story)
    assert phone.service.log.outcome == "completed"


async def test_the_twiml_may_choose_the_voice_and_the_task() -> None:
    async with line(system="Be brief.", voice="matthew") as phone:
        async with phone.socket() as websocket:
            await begin(websocket, voice="tiffany", system="Speak like a pirate.", other="thing")
        await phone.ended()
        async with phone.socket() as websocket:
            await begin(websocket)
        await phone.ended()
        first, second = phone.service.logs()
    assert (first.system, second.system) == ("Speak like a pirate.", "Be brief.")
    voices = [each.voice for log in (first, second) for each in log.messages if isinstance(each, PromptStart)]
    assert voices == ["tiffany", "matthew"]


@pytest.mark.parametrize(
    ("code", "close"),
    [
        ("AccessDeniedException", (1011, "the assistant has failed")),
        ("ThrottlingException", (1013, "All lines are busy. Please call again in a few minutes.")),
    ],
)
async def test_when_the_service_refuses_the_call_is_closed(code: str, close: tuple[int, str]) -> None:
    """Twilio goes on with the TwiML then, and says goodbye."""
    async with (
        line(Scenario(faults=[Fault("refuse", code=code, times=None)])) as phone,
        phone.socket() as websocket,
    ):
        await begin(websocket)
        assert await closing(websocket) == close


def test_a_log_holds_the_end_of_a_number() -> None:
    assert shortened("+1 (500) 555-0006") == "…006"
    assert shortened("client:alice\n") == "nobody knows whom"
    assert shortened("") == "nobody knows whom"


# --- bad input ----------------------------------------------------------------------------------------------


def media(mulaw: bytes = b"\xff" * 160) -> str:
    return mediastream.write(Media(stream_sid="MZ1", media=Sound(track="inbound", payload=mulaw)))


CONNECTED = mediastream.write(Connected(protocol="Call", version="1.0.0"))


def start(**parameters: str) -> str:
    return mediastream.write(
        Start(
            stream_sid="MZ1",
            start=Beginning(
                call_sid="CA1", stream_sid="MZ1", custom_parameters=parameters, media_format=MediaFormat()
            ),
        )
    )


async def begin(websocket: ClientConnection, **parameters: str) -> None:
    """Begin a call, and have some silence heard."""
    for text in (CONNECTED, start(**parameters), media()):
        await websocket.send(text)


async def closing(websocket: ClientConnection) -> tuple[int, str]:
    """Return how the server closes a socket; whatever it says before is passed over."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await websocket.recv()
    assert websocket.close_code is not None
    return websocket.close_code, websocket.close_reason or ""


ALAW = start().replace('mediaFormat":{', 'mediaFormat":{"encoding":"audio/x-alaw"')
BAD: dict[str, tuple[list[str | bytes], int, str]] = {
    "audio before the start": ([CONNECTED, media()], 1008, "'media' came where 'start' belongs"),
    "a start before all else": ([start()], 1008, "'start' came where 'connected' belongs"),
    "a connection twice": ([CONNECTED, CONNECTED], 1008, "'connected' came where 'start' belongs"),
    "a connection again": ([CONNECTED, start(), CONNECTED], 1008, "'connected' came a second time"),
    "a start twice": ([CONNECTED, start(), start()], 1008, "'start' came a second time"),
    "another format": ([CONNECTED, ALAW], 1003, "audio/x-mulaw"),
    "no JSON": ([CONNECTED, start(), "hello"], 1007, "cannot be read"),
    "JSON that is no message": ([CONNECTED, start(), "[1]"], 1007, "cannot be read"),
    "a message without its body": ([CONNECTED, '{"event":"start"}'], 1007, "streamSid"),
    "an odd id": ([CONNECTED, start().replace("CA1", "CA1\\nroot logged in")], 1007, "callSid"),
    "no base64": ([CONNECTED, start(), media().replace("/", "%", 1)], 1007, "base64"),
    "half a byte of base64": ([CONNECTED, start(), media().replace("=", "")], 1007, "base64"),
    "a key that is none": ([CONNECTED, start(), '{"event":"dtmf","dtmf":{"digit":"12"}}'], 1007, "digit"),
    "deep nesting": ([CONNECTED, start(), '{"event":"x","y":' + "[" * 10_000], 1007, "cannot be read"),
    "a binary message": ([CONNECTED, start(), b"\xff" * 160], 1003, "binary"),
    "a message over size": ([CONNECTED, start(), media(b"\xff" * 16_384)], 1009, ""),
    "a flood of audio": ([CONNECTED, start(), *[media(b"\xff" * 8_000)] * 400], 1008, "more comes"),
    "a flood of messages": ([CONNECTED, start(), *['{"event":"x"}'] * 20_000], 1008, "more comes"),
}


async def test_what_twilio_would_never_send_ends_that_call_and_no_other(subtests: pytest.Subtests) -> None:
    scenario = Scenario(turns=[Turn(heard="are you still there?", says=[ALRIGHT])])
    async with line(scenario) as phone:
        async with phone.dial() as caller:
            await caller.wait(lambda: phone.hears)
            for name, (messages, code, reason) in BAD.items():
                with subtests.test(name):
                    async with phone.socket() as websocket:
                        with contextlib.suppress(ConnectionClosed):
                            for message in messages:
                                await websocket.send(message)
                        closed, why = await closing(websocket)
                        assert closed == code
                        assert reason in why
            await caller.say(UTTERANCE)
            await caller.wait(lambda: caller.speech > 1.19)
        await phone.ended()
        assert phone.service.logs()[0].outcome == "completed"
        assert sent(caller.received) == spoken(ALRIGHT)


@pytest.mark.parametrize("messages", [[], [CONNECTED], [CONNECTED, start()], [CONNECTED, '{"event":"x"}']])
async def test_a_line_on_which_nothing_comes_is_given_up(messages: list[str]) -> None:
    """Twilio sends silence, too: a socket that is left open and dead would keep a session for ever."""
    async with line(running=in_memory, quiet=5.0) as phone, phone.socket() as websocket:
        for message in messages:
            await websocket.send(message)
        assert await closing(websocket) == (1008, "nothing came for 5 seconds")


async def test_a_message_of_a_new_kind_is_passed_over() -> None:
    """Twilio may have more to say one day."""
    scenario = Scenario(turns=[Turn(typed="*", says=[ALRIGHT])])
    async with line(scenario, greeting="Hello.") as phone, phone.socket() as websocket:
        for text in (
            CONNECTED,
            '{"event":"weather"}',
            start(),
            '{"event":"weather","sky":["blue"]}',
            media(),
        ):
            await websocket.send(text)
        assert isinstance(mediastream.read_answer(str(await websocket.recv())), Media)


async def test_a_caller_who_stops_reading_is_sent_little_and_disturbs_nobody() -> None:
    scenario = Scenario(turns=[Turn(typed="*", says=[STORY])])
    async with line(scenario, greeting="A story!") as phone, phone.dial() as caller:
        await caller.listen(0.1)
        others = set(phone.server.server_state.tasks)
        async with phone.answered() as websocket:
            websocket.transport.pause_reading()
            await caller.listen(2.0)
            await websocket.send(mediastream.write(Stop(stream_sid="MZ1")))
            await phone.ended(besides=others)
            websocket.transport.resume_reading()
            received = list[object]()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    received.append(mediastream.read_answer(str(await websocket.recv())))
        assert len(sent(received)) / 8_000 < 0.6
        assert phone.service.log.outcome == "completed"


def test_speech_that_nobody_hears_is_not_kept_for_ever() -> None:
    """A caller who sends no marks back, and goes on asking, has the model speak for nothing."""
    ear = Ear("MZ1")
    minute = AudioChunk(turn=1, pcm=bytes(960_000), sample_rate=8_000)
    for _ in range(5):
        ear.play(minute)
    with pytest.raises(CallError, match="300 seconds of speech wait"):
        ear.play(minute)


async def test_a_socket_that_vanishes_ends_its_session_and_no_other() -> None:
    scenario = Scenario(turns=[Turn(typed="*", says=[STORY])])
    async with line(scenario, greeting="A story!") as phone, phone.dial() as caller:
        await caller.listen(0.1)
        others = set(phone.server.server_state.tasks)
        async with phone.answered() as websocket:
            websocket.transport.abort()
        await phone.ended(besides=others)
        assert [log.outcome for log in phone.service.logs()] == [None, "completed"]
        await caller.listen(1.0)


async def test_a_server_that_is_stopped_ends_its_sessions_in_good_order() -> None:
    scenario = Scenario(turns=[Turn(typed="*", says=[STORY])])
    async with line(scenario, greeting="A story!") as phone, phone.answered() as websocket:
        phone.server.should_exit = True
        assert (await closing(websocket))[0] == 1012
        await phone.ended()
        assert phone.service.log.outcome == "completed"


def junk() -> st.SearchStrategy[list[str | bytes]]:
    """Ten messages: some that Twilio might send, some almost, and some of no sense."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    json_values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )
    names = ["connected", "start", "media", "mark", "dtmf", "stop", "clear", "weather"]
    almost = st.fixed_dictionaries(
        {"event": st.sampled_from(names)},
        optional={
            "streamSid": scalars,
            "sequenceNumber": scalars,
            "start": json_values | st.just(json.loads(start())["start"]),
            "media": st.fixed_dictionaries({"payload": st.text() | st.just("//8=") | json_values}),
            "mark": json_values | st.fixed_dictionaries({"name": st.text()}),
            "dtmf": st.fixed_dictionaries({"digit": st.sampled_from("0123456789*#") | st.text()}),
            "stop": json_values,
        },
    ).map(json.dumps)
    right = st.sampled_from(
        [media(), media(b""), '{"event":"mark","mark":{"name":"1"}}', '{"event":"weather"}']
    )
    texts = right | almost | json_values.map(json.dumps) | st.text() | st.binary()
    beginnings = st.sampled_from([[], [CONNECTED], [CONNECTED, start()]])
    return st.tuples(beginnings, st.lists(texts, min_size=10, max_size=10)).map(
        lambda pair: [*pair[0], *pair[1]]
    )


@pytest.mark.timeout(180)
def test_two_thousand_messages_of_junk_kill_nothing_and_leak_nothing() -> None:
    scenario = Scenario(turns=[Turn(heard="are you still there?", says=[ALRIGHT])])
    with asyncio.Runner(loop_factory=CLOCKS["fast"]) as runner:
        stack = contextlib.AsyncExitStack()
        phone = runner.run(stack.enter_async_context(line(scenario)))

        async def throw(messages: list[str | bytes]) -> None:
            async with phone.socket() as websocket:
                with contextlib.suppress(ConnectionClosed):
                    for message in messages:
                        await websocket.send(message)
            await phone.ended()

        @settings(max_examples=200, database=None)
        @given(junk())
        def throw_all(messages: list[str | bytes]) -> None:
            runner.run(throw(messages))

        async def call() -> None:
            async with phone.dial() as caller:
                await caller.say(UTTERANCE)
                await caller.wait(lambda: caller.speech > 1.19)

        try:
            throw_all()
            runner.run(call())
        finally:
            runner.run(stack.aclose())
    assert len(phone.service.logs()) > 20  # junk often came after a good beginning


# --- the programs -------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which nobody knows AWS or Twilio."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TWILIO_"))}
    return kept | more


@pytest.mark.clock("real")
def test_the_programs_run_as_shown(tmp_path: Path) -> None:
    """Offline: a server with its own emulator, and a caller who is greeted and asks something."""
    answer, caller = (ROOT / "examples" / "telephone" / name for name in ("answer.py", "caller.py"))
    signed = environment(TWILIO_AUTH_TOKEN=TOKEN)
    with subprocess.Popen(
        [sys.executable, "-W", "error", answer, "--emulator", "--port", "0"],
        env=signed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            where = re.search(r"http://\S+", server.stdout.readline())
            assert where
            command = [sys.executable, "-W", "error", str(caller), str(SOUNDS / "interruption.wav")]
            command += ["--speed", "2", "--url", where[0]]
            done, refused = (
                subprocess.run(
                    command, env=each, cwd=tmp_path, timeout=50, capture_output=True, text=True, check=False
                )
                for each in (signed, environment())
            )
        finally:
            server.send_signal(signal.SIGINT)
            _, log = server.communicate(timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), log
    pcm, form = audio.read_wav(tmp_path / "heard.wav")
    assert (form.sample_rate, form.channels) == (8_000, 1)
    assert len(pcm) / 16_000 > 5
    assert audio.level(pcm) > -45
    assert (refused.returncode, refused.stderr) == (
        1,
        "caller: the webhook refuses: HTTP 403, the signature is missing or wrong\n",
    )
    assert server.returncode == 0
    assert re.search(r"a call from …006\n.*the caller has hung up; \d+ tokens\n", log)
    assert "Traceback" not in log
    assert TOKEN not in log
    assert NUMBER not in log


@pytest.mark.parametrize(
    ("arguments", "token", "sentence"),
    [
        ([], {}, "TWILIO_AUTH_TOKEN is not set"),
        ([], {"TWILIO_AUTH_TOKEN": ""}, "TWILIO_AUTH_TOKEN is not set"),
        (["--unsigned", "--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
        (["--unsigned", "--calls", "0", "--port", "0"], {}, "max_sessions is 0, but must be at least 1"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    arguments: list[str], token: dict[str, str], sentence: str
) -> None:
    """Without a token it would take whatever comes: that must be asked for."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "telephone" / "answer.py", *arguments],
        env=environment(**token),
        timeout=50,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
