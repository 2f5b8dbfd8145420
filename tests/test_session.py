"""A session against a service in memory, on a clock that jumps: order, silence, interruptions, endings."""

import array
import asyncio
import contextlib
import gc
import json
import math
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clocks import pass_time
from fakes import FakeService
from novasonic import audio, events, messages
from novasonic.conversation import Message
from novasonic.errors import (
    ConcurrencyError,
    ConfigurationError,
    ConnectError,
    InvalidRequestError,
    LocalProtocolError,
    RemoteProtocolError,
    ServiceError,
    StreamLostError,
    TransportError,
)
from novasonic.messages import Inference, ToolSpec
from novasonic.session import SessionState, SonicSession, ask
from novasonic.tools import ToolContext
from running import until

pytestmark = pytest.mark.clock("virtual")

FRAME = bytes(range(256)) * 4  # 32 ms at 16 kHz, and no silence


def planned(block: str, text: str) -> tuple[messages.OutputMessage, ...]:
    """A text that is about to be spoken."""
    return (
        messages.OutputContentStart(content_id=block, type="TEXT", role="ASSISTANT", stage="SPECULATIVE"),
        messages.TextOutput(content_id=block, role="ASSISTANT", content=text),
        messages.OutputContentEnd(content_id=block, type="TEXT", stop_reason="PARTIAL_TURN"),
    )


def spoken(block: str, chunks: int, reason: str = "END_TURN") -> tuple[messages.OutputMessage, ...]:
    """So many chunks of 80 ms of speech."""
    return (
        messages.OutputContentStart(content_id=block, type="AUDIO", role="ASSISTANT", sample_rate=24_000),
        *(messages.AudioOutput(content_id=block, content=bytes(3840)) for _ in range(chunks)),
        messages.OutputContentEnd(content_id=block, type="AUDIO", stop_reason=reason),
    )


def confirmed(block: str, text: str) -> tuple[messages.OutputMessage, ...]:
    """A text that was spoken."""
    return (
        messages.OutputContentStart(content_id=block, type="TEXT", role="ASSISTANT", stage="FINAL"),
        messages.TextOutput(content_id=block, role="ASSISTANT", content=text),
        messages.OutputContentEnd(content_id=block, type="TEXT", stop_reason="PARTIAL_TURN"),
    )


def marker(block: str) -> tuple[messages.OutputMessage, ...]:
    """The sign of an interruption."""
    start, text, _ = confirmed(block, '{ "interrupted" : true }')
    return (start, text, messages.OutputContentEnd(content_id=block, type="TEXT", stop_reason="INTERRUPTED"))


def heard(block: str, text: str) -> tuple[messages.OutputMessage, ...]:
    """What the user said."""
    return (
        messages.OutputContentStart(content_id=block, type="TEXT", role="USER", stage="FINAL"),
        messages.TextOutput(content_id=block, role="USER", content=text),
        messages.OutputContentEnd(content_id=block, type="TEXT", stop_reason="PARTIAL_TURN"),
    )


def call(service: FakeService, name: str, arguments: str = "{}") -> None:
    """Have the model call a tool."""
    service.say(
        messages.OutputContentStart(content_id=name, type="TOOL", role="TOOL"),
        messages.ToolUse(content_id=name, tool_use_id=f"{name}-1", tool_name=name, content=arguments),
        messages.OutputContentEnd(content_id=name, type="TOOL", stop_reason="TOOL_USE"),
    )


@pytest.fixture
def service() -> FakeService:
    return FakeService()


class TestOpening:
    async def test_says_what_the_service_must_know_before_it_listens(self, service: FakeService) -> None:
        """The service accepts a stream only after it has read the first messages, and audio only last."""
        history = [
            Message(role="USER", text="Hello."),
            Message(role="ASSISTANT", text="Hi."),
            Message(role="ASSISTANT", text="How are you?"),
        ]
        async with SonicSession(
            transport=service,
            system="Be brief.",
            voice="tiffany",
            history=history,
            endpointing="HIGH",
            inference=Inference(max_tokens=10, temperature=None),
            input_rate=8000,
            output_rate=16_000,
            silence=False,
        ):
            audio_block = (await service.hears(messages.InputContentStart, 4))[-1]
        start, prompt = service.heard[:2]
        assert isinstance(start, messages.SessionStart)
        assert start.endpointing == "HIGH"
        assert start.inference == Inference(max_tokens=10, top_p=0.9, temperature=None)
        assert isinstance(prompt, messages.PromptStart)
        assert (prompt.voice, prompt.sample_rate) == ("tiffany", 16_000)
        blocks = service.all_of(messages.InputContentStart)
        assert [block.role for block in blocks] == ["SYSTEM", "USER", "ASSISTANT", "USER"]
        assert [text.content for text in service.all_of(messages.TextInput)] == [
            "Be brief.",
            "Hello.",
            "Hi. How are you?",
        ]
        assert (audio_block.type, audio_block.sample_rate) == ("AUDIO", 8000)

    async def test_tells_that_it_was_accepted(self, service: FakeService) -> None:
        async with SonicSession(transport=service, voice="amy") as session:
            event = await anext(session)
        assert event == events.SessionStarted(
            model="amazon.nova-2-sonic-v1:0", voice="amy", request_id="request-1"
        )

    async def test_names_the_service_id_once_it_is_known(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            assert session.session_id is None
            service.say(messages.UserSpeechStart(session_id="session-1", offset_ms=0))
            await until(session, events.UserSpeechStarted)
            assert session.session_id == "session-1"

    async def test_a_refusal_is_raised_and_leaves_nothing_behind(self, service: FakeService) -> None:
        service.refusal = ConnectError("nobody there")
        session = SonicSession(transport=service)
        with pytest.raises(ConnectError, match="nobody there"):
            await session.__aenter__()
        assert session.state is SessionState.CLOSED

    async def test_a_refusal_names_the_likely_typo(self, service: FakeService) -> None:
        """An unknown voice passes, as AWS may have a new one. If it has not, the error helps."""
        service.refusal = InvalidRequestError("the service said no", code="ValidationException")
        with pytest.warns(UserWarning, match="did you mean 'tiffany'"):
            session = SonicSession(transport=service, voice="tifany")
        with pytest.raises(InvalidRequestError, match="did you mean 'tiffany'") as caught:
            await session.__aenter__()
        assert caught.value.code == "ValidationException"

    async def test_a_refusal_in_mid_stream_names_the_likely_typo(self, service: FakeService) -> None:
        """The service complains of a voice only with its first output."""
        with pytest.warns(UserWarning, match="not a known voice"):
            session = SonicSession(transport=service, voice="tifany")
        async with session:
            service.say_raw(InvalidRequestError("Received invalid voiceId"))
            with pytest.raises(InvalidRequestError, match="did you mean 'tiffany'"):
                await until(session, events.SessionEnded)

    async def test_cancelled_it_leaves_nothing_behind(self, service: FakeService) -> None:
        service.accepting.clear()
        session = SonicSession(transport=service)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await session.__aenter__()
        assert session.state is SessionState.CLOSED

    async def test_is_used_once(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            pass
        with pytest.raises(LocalProtocolError, match="used once"):
            await session.__aenter__()

    async def test_nothing_can_be_done_before(self, service: FakeService) -> None:
        session = SonicSession(transport=service)
        assert session.state is SessionState.NEW
        assert session.stats.speech_sent == 0
        with pytest.raises(LocalProtocolError, match="not open yet"):
            await session.send_audio(b"")
        with pytest.raises(LocalProtocolError, match="not open yet"):
            session.feed_audio(b"")
        with pytest.raises(LocalProtocolError, match="not open yet"):
            await anext(session)
        await session.aclose()

    async def test_a_model_at_its_end_of_life_warns_and_explains_a_silent_end(
        self, service: FakeService
    ) -> None:
        """Such a model accepts a stream, and then ends it without a word."""
        with pytest.warns(UserWarning, match="end of life"):
            session = SonicSession(transport=service, model="amazon.nova-sonic-v1:0")
        async with session:
            service.say_raw(None)
            with pytest.raises(StreamLostError, match="end of life"):
                await until(session, events.SessionEnded)

    async def test_aws_settings_and_another_transport_exclude_each_other(self, service: FakeService) -> None:
        with pytest.raises(ConfigurationError, match="region cannot be given together with transport"):
            SonicSession(transport=service, region="us-east-1")


class TestSpeaking:
    async def test_audio_of_any_form_arrives_as_frames(self, service: FakeService) -> None:
        async with SonicSession(transport=service, silence=False) as session:
            await session.send_audio(FRAME[:700])
            await session.send_audio(FRAME[700:])
            await session.send_audio(array.array("h", [1, 2] * 512), channels=2)
            frames = await service.hears(messages.AudioInput, 2)
            assert {len(frame.content) for frame in frames} == {1024}
            assert service.audio[:1024] == FRAME
            assert session.stats.speech_sent == pytest.approx(0.064)

    async def test_what_cannot_be_audio_is_refused_and_loses_nothing(self, service: FakeService) -> None:
        async with SonicSession(transport=service, silence=False) as session:
            await session.send_audio(FRAME[:500])
            with pytest.raises(ConfigurationError, match="not numbers"):
                await session.send_audio(array.array("f", [math.nan]))
            await session.send_audio(FRAME[500:])
            await service.hears(messages.AudioInput)
        assert service.audio == FRAME

    async def test_silence_flows_at_speaking_speed_while_nobody_speaks(self, service: FakeService) -> None:
        """The service finds the end of speech in the audio, and drops whoever goes quiet."""
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=service) as session:
            start = loop.time()
            await service.hears(messages.AudioInput, 100)
            assert 3.1 <= loop.time() - start <= 3.3
            assert session.stats.silence_sent == pytest.approx(3.2, abs=0.1)
        assert set(service.audio) == {0}

    async def test_live_audio_that_comes_a_little_late_gets_no_silence_in_between(
        self, service: FakeService
    ) -> None:
        """Sound cards jitter; a word must not be torn by silence because one frame was 60 ms late."""
        async with SonicSession(transport=service) as session:
            for lateness in (0.0, 0.03, 0.06, 0.0, 0.08, 0.01):
                await session.send_audio(FRAME)
                await pass_time(0.032 + lateness)
            assert session.stats.silence_sent == 0
        assert service.audio[: 6 * 1024] == 6 * FRAME

    async def test_a_pause_is_filled_up_so_that_the_service_hears_no_gap(self, service: FakeService) -> None:
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=service) as session:
            start = loop.time()
            await session.send_audio(FRAME[:512])  # half a frame: it must not wait for the next word
            await service.hears(messages.AudioInput, 1)
            await service.hears(messages.AudioInput, 63)
            assert loop.time() - start == pytest.approx(2.0, abs=0.05)
        assert service.audio[:512] == FRAME[:512]

    async def test_silence_can_be_left_to_the_program(self, service: FakeService) -> None:
        async with SonicSession(transport=service, silence=False):
            await pass_time(60)
            assert service.all_of(messages.AudioInput) == []
        assert [len(each.content) for each in service.all_of(messages.AudioInput)] == [2]

    async def test_typed_text_is_one_block_that_overtakes_audio_and_is_never_torn(
        self, service: FakeService
    ) -> None:
        """Audio between the parts of a text is rejected, and the session with it."""
        async with SonicSession(transport=service, silence=False) as session:
            await service.hears(messages.InputContentStart, 2)
            service.taking.clear()
            for _ in range(20):
                await session.send_audio(FRAME)
            typing = asyncio.create_task(session.send_text("word " * 500))
            await asyncio.sleep(0)
            service.taking.set()
            await typing
            texts = service.all_of(messages.TextInput)[1:]
            assert "".join(text.content for text in texts) == "word " * 500
            assert max(len(text.content.encode()) for text in texts) <= 1000
        kinds = [type(message) for message in service.heard]
        start = kinds.index(messages.TextInput, 5)
        assert kinds[start : start + len(texts)] == [messages.TextInput] * len(texts)
        assert kinds[: start - 1].count(messages.AudioInput) <= 2
        assert kinds.count(messages.AudioInput) == 20

    async def test_a_cancelled_caller_stops_waiting_and_its_text_goes_out_whole(
        self, service: FakeService
    ) -> None:
        """Half a text block would hold up all audio for ever."""
        async with SonicSession(transport=service, silence=False) as session:
            await service.hears(messages.InputContentStart, 2)
            service.taking.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.send_text("word " * 500)
            service.taking.set()
            await session.send_text("Hello?")
        texts = service.all_of(messages.TextInput)[1:]
        assert "".join(text.content for text in texts) == "word " * 500 + "Hello?"

    async def test_a_slow_service_slows_the_sender_after_two_seconds_of_audio(
        self, service: FakeService
    ) -> None:
        async with SonicSession(transport=service, silence=False) as session:
            await service.hears(messages.InputContentStart, 2)
            service.taking.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await session.send_audio(1000 * FRAME)
            assert 1.9 <= session.stats.speech_sent <= 2.2
            service.taking.set()
            await session.send_audio(FRAME)

    async def test_a_device_thread_never_waits_and_loses_only_the_oldest(self, service: FakeService) -> None:
        async with SonicSession(transport=service, silence=False) as session:
            await service.hears(messages.InputContentStart, 2)
            service.taking.clear()
            await session.send_audio(FRAME)
            buffer = bytearray(1024)

            def device() -> None:
                for number in range(200):
                    buffer[:] = bytes([number]) * 1024  # devices use the same memory again and again
                    session.feed_audio(buffer)

            thread = threading.Thread(target=device)
            thread.start()
            await asyncio.to_thread(thread.join)
            await pass_time(0.1)
            service.taking.set()
            await service.hears(messages.AudioInput, 60)
            assert session.stats.audio_dropped == pytest.approx(200 * 0.032 - 2, abs=0.1)
        assert service.audio[-1024:] == bytes([199]) * 1024

    async def test_fed_audio_that_is_none_ends_the_session_with_the_reason(
        self, service: FakeService
    ) -> None:
        async with SonicSession(transport=service) as session:
            session.feed_audio(array.array("f", [math.inf]))
            with pytest.raises(ConfigurationError, match="not numbers"):
                await until(session, events.SessionEnded)

    async def test_a_source_is_heard_to_its_end(self, service: FakeService) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield FRAME
            yield FRAME[:100]

        async with SonicSession(transport=service, silence=False) as session:
            await session.listen_to(source())
            await service.hears(messages.AudioInput, 4)
        assert service.audio[: 3 * 1024 + 100] == 3 * FRAME + FRAME[:100]

    async def test_a_source_ends_with_the_session(self, service: FakeService) -> None:
        closed = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield FRAME
                    await pass_time(0.032)
            finally:
                closed.set()

        async with SonicSession(transport=service) as session:
            task = session.listen_to(source())
            await service.hears(messages.AudioInput, 10)
        assert task.done()
        await closed.wait()

    async def test_a_source_that_fails_is_no_secret(self, service: FakeService) -> None:
        """A microphone that was unplugged must not look like a user who says nothing."""

        async def source() -> AsyncIterator[bytes]:
            yield FRAME
            raise OSError("unplugged")

        async with SonicSession(transport=service) as session:
            session.listen_to(source())
            with pytest.raises(OSError, match="unplugged"):
                await until(session, events.SessionEnded)

    async def test_a_recording_is_sent_at_speaking_speed(self, service: FakeService, tmp_path: Path) -> None:
        path = tmp_path / "two-seconds.wav"
        await asyncio.to_thread(audio.write_wav, path, bytes([1, 0]) * 96_000, 48_000)
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=service, silence=False) as session:
            start = loop.time()
            await session.play_file(path)
            assert loop.time() - start == pytest.approx(2.0, abs=0.05)
            assert session.stats.speech_sent == pytest.approx(2.0, abs=0.04)

    async def test_a_missing_recording_is_refused_and_the_session_goes_on(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            with pytest.raises(ConfigurationError, match=r"missing\.wav does not exist"):
                await session.play_file("missing.wav")
            await session.send_text("Hello!")

    @pytest.mark.parametrize("text", ["", "  ", "x" * 40_001, "\ud800"])
    async def test_text_that_cannot_be_sent_is_refused(self, service: FakeService, text: str) -> None:
        async with SonicSession(transport=service) as session:
            with pytest.raises(ConfigurationError, match="text"):
                await session.send_text(text)

    async def test_a_model_that_does_not_answer_typed_text_says_so(self, service: FakeService) -> None:
        with warnings.catch_warnings(action="ignore"):
            session = SonicSession(transport=service, model="amazon.nova-sonic-v1:0")
        async with session:
            with pytest.raises(LocalProtocolError, match="does not answer typed text; send speech"):
                await session.send_text("Hello!")

    async def test_a_tool_call_is_answered_once(self, service: FakeService) -> None:
        tool = ToolSpec(name="weather", description="The weather.", schema={"type": "object"})
        async with SonicSession(transport=service, tools=[tool]) as session:
            call(service, "weather", '{"city":"Oslo"}')
            made = (await until(session, events.ToolCall))[-1]
            assert isinstance(made, events.ToolCall)
            assert made.arguments == {"city": "Oslo"}
            with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
                await session.send_tool_result(made, object())
            await session.send_tool_result(made, [7, "degrees"])
            with pytest.raises(LocalProtocolError, match="'weather-1' waits"):
                await session.send_tool_result("weather-1", {})
        assert service.all_of(messages.ToolResult)[0].content == '{"result":[7,"degrees"]}'

    async def test_a_tool_may_end_the_session(self, service: FakeService) -> None:
        """It cannot wait for that end, which comes only after its own."""

        async def hang_up(context: ToolContext) -> None:
            """Hang up."""
            await context.session.aclose()
            await asyncio.Event().wait()

        async with SonicSession(transport=service, tools=[hang_up]) as session:
            call(service, "hang_up")
            seen = [type(event) async for event in session]
        assert seen[-1] is events.SessionEnded
        assert service.closed
        assert [json.loads(each.content) for each in service.all_of(messages.ToolResult)] == [
            {"error": "the tool was cancelled, because the conversation is ending"}
        ]

    async def test_a_source_may_end_the_session(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:

            async def hang_up() -> AsyncIterator[bytes]:
                yield bytes(1024)
                await session.aclose()
                await asyncio.Event().wait()

            session.listen_to(hang_up())
            seen = [type(event) async for event in session]
        assert seen[-1] is events.SessionEnded

    async def test_a_tool_that_hangs_does_not_hold_up_the_end(self, service: FakeService) -> None:
        released = asyncio.Event()

        async def hang() -> None:
            """Hang."""
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()

        async with SonicSession(transport=service, tools=[hang]) as session:
            call(service, "hang")
            await until(session, events.ToolCall)
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started <= 5
        assert service.closed
        released.set()
        await pass_time(0.1)

    async def test_a_tool_that_the_program_runs_ends_the_question(self, service: FakeService) -> None:
        """Nobody else could answer the call while the program waits for the reply."""
        spec = ToolSpec(name="door", description="Open the door.", schema={"type": "object"})
        async with SonicSession(transport=service, tools=[spec]) as session:
            asking = asyncio.create_task(session.ask("Open!"))
            await service.hears(messages.TextInput, 2)
            call(service, "door")
            reply = await asking
            [run] = reply.tool_calls
            assert (run.name, run.result) == ("door", None)
            await session.send_tool_result(run.id, "open")
            result = (await until(session, events.ToolResult))[-1]
            assert isinstance(result, events.ToolResult)
            assert result.result == {"result": "open"}

    async def test_nothing_can_be_sent_after_the_end(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await session.end()
            with pytest.raises(LocalProtocolError, match="has ended"):
                await session.send_audio(FRAME)
            session.feed_audio(FRAME)
        session.feed_audio(FRAME)


class TestListening:
    async def test_events_come_in_order_and_the_loop_can_be_left_and_taken_up(
        self, service: FakeService
    ) -> None:
        async with SonicSession(transport=service) as session:
            service.say(*heard("u", "hello."), *planned("p", "Hi."), *spoken("a", 2))
            first = await until(session, events.TurnStarted)
            rest = await until(session, events.TurnEnded)
        assert [type(each) for each in first[1:]] == [events.Transcript, events.TurnStarted]
        assert [type(each) for each in rest] == [
            events.Transcript,
            events.AudioChunk,
            events.AudioChunk,
            events.TurnEnded,
        ]

    async def test_an_interruption_overtakes_the_audio_that_was_waiting(self, service: FakeService) -> None:
        """Players drop their buffer on this event; audio that follows it would be heard."""
        async with SonicSession(transport=service) as session:
            await anext(session)
            service.say(*planned("p", "A long story."), *spoken("a", 750), *marker("m"))
            await pass_time(0.1)
            assert session.stats.audio_received == pytest.approx(60)
            assert await anext(session) == events.Interrupted(turn=1)
            service.say(*confirmed("f", "A long story."), *planned("p2", "Yes?"), *spoken("a2", 1))
            rest = [*await until(session, events.AudioChunk)]
            assert {each.turn for each in rest if isinstance(each, events.AudioChunk)} == {2}
            assert session.stats.unread_bytes < 10_000

    async def test_the_history_holds_what_was_heard(self, service: FakeService) -> None:
        class Player:
            def heard(self, turn: int) -> float:
                return 0.5 * turn

        async with SonicSession(transport=service) as session:
            session.played_by(Player())
            service.say(
                *heard("u", "tell me a story."),
                *planned("p", "Once upon a time there was a king."),
                *spoken("a", 5, "PARTIAL_TURN"),
                *planned("p2", "He had a daughter."),
                *spoken("a2", 5),
                *marker("m"),
                *confirmed("f", "Once upon a time there was a king."),
            )
            interruption = (await until(session, events.Interrupted))[-1]
            assert isinstance(interruption, events.Interrupted)
            assert interruption.heard == 0.5
            await until(session, events.TurnEnded)
            while len(session.history) < 2:
                await anext(session)
            question, answer = session.history
        assert question.text == "tell me a story."
        assert answer.text == "Once upon a time there was a king."
        assert answer.interrupted
        assert answer.heard == 0.5
        assert answer.heard_text == answer.text  # the sentence took 0.4 s

    async def test_two_readers_are_an_error_and_not_a_race(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await anext(session)
            reading = asyncio.create_task(anext(session))
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError, match="another task reads"):
                await anext(session)
            service.say(messages.UserSpeechStart(offset_ms=0))
            assert isinstance(await reading, events.UserSpeechStarted)

    async def test_a_cancelled_wait_loses_no_event(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await anext(session)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await anext(session)
            service.say(messages.UserSpeechStart(offset_ms=40))
            assert await anext(session) == events.UserSpeechStarted(turn=1, offset=0.04)

    async def test_nothing_the_service_says_can_stop_it(self, service: FakeService) -> None:
        """Only a broken frame ends a stream."""
        async with SonicSession(transport=service) as session:
            await anext(session)
            for odd in (b"", b"null", b"{", b'{"event":{"newThing":{"a":1}}}', b'{"event":{"textOutput":7}}'):
                service.say_raw(odd)
            found = [await anext(session) for _ in range(5)]
            assert [each.name for each in found if isinstance(each, events.UnknownEvent)] == [
                "malformed",
                "malformed",
                "malformed",
                "newThing",
                "textOutput",
            ]

    async def test_a_broken_frame_ends_the_stream(self, service: FakeService) -> None:
        async with SonicSession(retry=None, transport=service) as session:
            service.say_raw(RemoteProtocolError("checksum"))
            with pytest.raises(RemoteProtocolError, match="checksum"):
                await until(session, events.SessionEnded)
            with pytest.raises(RemoteProtocolError):
                await session.send_audio(FRAME)

    async def test_what_was_received_before_a_failure_can_be_read(self, service: FakeService) -> None:
        async with SonicSession(retry=None, transport=service) as session:
            service.say(*planned("p", "Hi."))
            service.say_raw(StreamLostError("gone", code="RST_STREAM_RECEIVED"))
            await until(session, events.Transcript)
            with pytest.raises(StreamLostError, match="gone"):
                await anext(session)
            with pytest.raises(StreamLostError, match="gone"):
                await anext(session)

    async def test_a_silent_end_is_a_loss(self, service: FakeService) -> None:
        async with SonicSession(retry=None, transport=service) as session:
            service.say_raw(None)
            with pytest.raises(StreamLostError, match="gave no reason"):
                await until(session, events.SessionEnded)

    async def test_every_message_of_both_directions_can_be_watched(self, service: FakeService) -> None:
        seen: list[type] = []

        def watch(message: messages.Message, _: float) -> None:
            seen.append(type(message))
            raise ValueError("a callback's own failure")

        session = SonicSession(transport=service, silence=False)
        session.on_message(watch)
        async with session:
            service.say(*heard("u", "hello."))
            await until(session, events.Transcript)
        assert seen[:2] == [messages.SessionStart, messages.PromptStart]
        assert messages.TextOutput in seen
        assert seen[-1] is messages.CompletionEnd

    async def test_a_program_that_does_not_read_holds_the_service_back(self, service: FakeService) -> None:
        """64 MiB hold more than the service can say in eight minutes; beyond, memory would grow."""
        async with SonicSession(transport=service) as session:
            service.say(*planned("p", "Hi."))
            service.say(
                messages.OutputContentStart(
                    content_id="a", type="AUDIO", role="ASSISTANT", sample_rate=24_000
                )
            )
            for _ in range(80):
                service.say(messages.AudioOutput(content_id="a", content=bytes(960_000)))
            await pass_time(10)
            assert 60 * 2**20 < session.stats.unread_bytes < 70 * 2**20
            count = 0
            async with asyncio.timeout(10):
                while count < 80:
                    count += isinstance(await anext(session), events.AudioChunk)


class TestAsking:
    async def test_a_typed_question_is_answered_in_full(self, service: FakeService) -> None:
        async def answer() -> None:
            await service.hears(messages.TextInput, 2)
            service.say(
                *planned("p", "It is"),
                *spoken("a", 2, "PARTIAL_TURN"),
                *planned("p2", "seven degrees."),
                *spoken("a2", 3),
            )

        answering = asyncio.create_task(answer())
        reply = await ask("How cold is it?", transport=service)
        await answering
        assert reply.text == "It is seven degrees."
        assert reply.duration == pytest.approx(0.4)
        assert not reply.interrupted

    async def test_a_reply_can_be_saved(self, service: FakeService, tmp_path: Path) -> None:
        async with SonicSession(transport=service) as session:
            asking = asyncio.create_task(session.ask(array.array("h", [1000] * 1600)))
            await service.hears(messages.AudioInput, 4)
            service.say(*heard("u", "hello."), *planned("p", "Hi."), *spoken("a", 5))
            reply = await asking
        await asyncio.to_thread(reply.save, tmp_path / "answer.wav")
        pcm, form = await asyncio.to_thread(audio.read_wav, tmp_path / "answer.wav")
        assert (pcm, form.sample_rate, reply.user_text) == (reply.audio, 24_000, "hello.")

    async def test_a_question_with_a_pause_gets_the_last_answer(self, service: FakeService) -> None:
        """A model may answer in the middle of a recording; the recording then breaks in."""
        async with SonicSession(transport=service) as session:
            asking = asyncio.create_task(session.ask(bytes(64_000)))
            await service.hears(messages.AudioInput, 10)
            service.say(*heard("u", "hello."), *planned("p", "Hi."), *spoken("a", 5))
            await service.hears(messages.AudioInput, 40)
            service.say(messages.UserSpeechStart(offset_ms=1200), *marker("m"), *confirmed("f", "Hi."))
            await service.hears(messages.AudioInput, 62)
            service.say(*heard("u2", "how are you?"), *planned("p2", "Fine."), *spoken("a2", 7))
            reply = await asking
        assert (reply.user_text, reply.text) == ("hello. how are you?", "Fine.")
        assert reply.duration == pytest.approx(0.56)

    async def test_an_answer_that_does_not_come_is_an_error_in_time(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            with pytest.raises(ServiceError, match="no answer came within 5 s"):
                await session.ask("Hello?", timeout=5)
            await session.send_text("Never mind.")

    async def test_a_session_that_ends_meanwhile_is_an_error(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            asking = asyncio.create_task(session.ask("Hello?"))
            await service.hears(messages.TextInput, 2)
            await session.end()
            with pytest.raises(StreamLostError, match="before the answer"):
                await asking


class TestClosing:
    async def test_says_goodbye_in_order(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await service.hears(messages.AudioInput)
            await session.send_audio(FRAME)
        assert [type(message) for message in service.heard[-4:]] == [
            messages.AudioInput,
            messages.InputContentEnd,
            messages.PromptEnd,
            messages.SessionEnd,
        ]
        assert service.input_ended
        assert service.closed
        assert session.state is SessionState.CLOSED

    async def test_iterating_ends_with_the_service_word(self, service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await session.end()
            found = [event async for event in session]
        assert found[-1] == events.SessionEnded(reason="END_TURN")
        with pytest.raises(StopAsyncIteration):
            await anext(session)

    async def test_a_failed_block_skips_the_goodbye_and_its_exception_comes_bare(
        self, service: FakeService
    ) -> None:
        async def fail() -> None:
            async with SonicSession(transport=service):
                await service.hears(messages.AudioInput)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert service.closed
        assert service.all_of(messages.SessionEnd) == []

    async def test_a_service_that_never_ends_is_left_in_time(self) -> None:
        service = FakeService(ends=False)
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=service, close_timeout=2) as session:
            start = loop.time()
        assert loop.time() - start <= 2
        assert service.all_of(messages.SessionEnd)
        assert [event async for event in session][-1:] != []

    async def test_a_service_that_takes_nothing_is_left_in_time(self, service: FakeService) -> None:
        loop = asyncio.get_running_loop()
        async with SonicSession(transport=service, close_timeout=2):
            await service.hears(messages.AudioInput)
            service.taking.clear()
            start = loop.time()
        assert loop.time() - start <= 2
        assert service.closed

    async def test_cancelled_while_closing_it_is_closed_at_once(self) -> None:
        service = FakeService(ends=False)
        session = await SonicSession(transport=service, close_timeout=60).__aenter__()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await session.aclose()
        assert service.closed
        assert session.state is SessionState.CLOSED

    async def test_a_program_that_stops_reading_can_close(self, service: FakeService) -> None:
        async with SonicSession(transport=service):
            service.say(*planned("p", "Hi."), *spoken("a", 500))
        assert service.all_of(messages.SessionEnd)

    async def test_a_write_that_fails_is_explained_by_what_the_service_said(self) -> None:
        """The send fails first, but the reason for it is still on its way."""

        class Refusing(FakeService):
            async def send(self, data: bytes) -> None:
                if b"audioInput" in data:
                    self.say_raw(ServiceError("the service had enough"))
                    raise StreamLostError("cannot write")
                await super().send(data)

        async with SonicSession(retry=None, transport=Refusing()) as session:
            with pytest.raises(ServiceError, match="had enough"):
                await until(session, events.SessionEnded)
            with pytest.raises(TransportError, match="had enough"):
                await session.send_text("Hello?")

    async def test_a_write_that_fails_ends_a_session_whose_reader_learns_nothing(self) -> None:
        class Broken(FakeService):
            async def send(self, data: bytes) -> None:
                if b"textInput" in data:
                    raise StreamLostError("cannot write")
                await super().send(data)

        async with SonicSession(retry=None, transport=Broken()) as session:
            with pytest.raises(StreamLostError, match="cannot write"):
                await session.send_text("Hello?")
            with pytest.raises(StreamLostError, match="cannot write"):
                await until(session, events.SessionEnded)

    async def test_nobody_is_told_of_exceptions_that_nobody_waited_for(self, service: FakeService) -> None:
        """ "Task exception was never retrieved" is what users of the plain SDK see at every end."""
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with SonicSession(transport=service) as session:
            service.taking.clear()
            typing = asyncio.create_task(session.send_text("Hello?"))
            await pass_time(0.1)
            service.say_raw(StreamLostError("gone"))
            with pytest.raises(StreamLostError):
                await typing
        del session
        gc.collect()
        assert complaints == []


async def test_closing_works_wherever_a_session_is_cancelled() -> None:
    """Whatever a program waits for, being cancelled there must not keep the session from closing."""

    async def talk(service: FakeService) -> None:
        async with SonicSession(transport=service) as session:
            await session.send_audio(FRAME)
            await session.send_text("Hello!")
            await session.play_file(Path(__file__).parent / "missing.wav")

    for delay in (0.0, 0.01, 0.05, 0.1, 1.0):
        service = FakeService(ends=False)
        service.taking.clear()
        task = asyncio.create_task(talk(service))
        await pass_time(delay)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or isinstance(task.exception(), ConfigurationError)
        assert service.closed or not service.opened
