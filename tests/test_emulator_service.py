"""The emulated service without a wire and without a clock: minutes pass in milliseconds."""

import gc
import json
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulated import AUDIO, GOODBYE, MODEL, PROMPT, Client, audio, audio_start, setup, silence, tone, typed
from novasonic import messages
from novasonic.emulator import Behaviour, Fault, Heard, Say, Scenario, Service, ToolCall, Turn, scenario
from novasonic.emulator.detector import Offset, Onset, SpeechDetector
from novasonic.emulator.hum import hum
from novasonic.emulator.outbox import Broken, Document, Ended, Failed, Refused
from novasonic.errors import ConfigurationError
from novasonic.models import Usage

V1 = "amazon.nova-sonic-v1:0"
SPEECH = Path(__file__).resolve().parents[2] / "shared" / "audio" / "jfk-16k.wav"

HELLO = Turn(heard="hello.", says=[Say("Hello to you.", seconds=2.0), Say("How are you?", seconds=1.0)])


def one_turn(*turns: Turn, **behaviour: Any) -> Client:
    """A client that has spoken once, and listens to the answer."""
    client = Client(Scenario(turns=turns or (HELLO,), behaviour=Behaviour(**behaviour))).open()
    client.listen(1.0)
    client.speak(1.0)
    client.listen(0.6)
    return client


# --- opening ---


def test_the_stream_is_accepted_after_the_first_two_messages() -> None:
    """A client that waits for the acceptance before it sends anything waits for ever."""
    client = Client()
    client.wait(30)
    assert not client.accepted
    for message in setup()[:2]:
        client.send(message)
    assert not client.accepted
    client.wait(0.06)
    assert client.accepted


def test_nothing_is_said_before_the_first_audio() -> None:
    """A client must not wait for a message before it sends audio."""
    client = Client().open()
    client.wait(20)
    assert client.documents == []
    client.listen(0.2)
    assert [each.delta for each in client.all_of(messages.UsageEvent)] == [
        Usage(text_input=22),
        Usage(speech_input=157),
        Usage(text_input=1),
        Usage(text_input=43),
    ]


def test_every_message_bears_the_ids_of_its_stream() -> None:
    """One session and one completion for the whole stream; a block's own id for each of its messages."""
    client = one_turn()
    client.listen(4)
    client.close()
    bodies = [next(iter(json.loads(each.data)["event"].values())) for each in client.documents]
    assert {body["promptName"] for body in bodies} == {PROMPT}
    assert len({body["sessionId"] for body in bodies}) == 1
    assert len({body["completionId"] for body in bodies if "completionId" in body}) == 1
    assert len(client.all_of(messages.CompletionStart)) == 1
    assert [list(body) for body in bodies] == [sorted(body) for body in bodies]
    assert {body["role"] for body in bodies if "content" in body} == {"USER", "ASSISTANT"}


def test_two_streams_have_different_ids() -> None:
    service = Service()
    first, second = Client(service=service), Client(service=service)
    assert first.stream.request_id != second.stream.request_id


# --- hearing ---


def test_speech_is_found_in_the_audio() -> None:
    """Where it began and where it ended, whatever the pace of the audio."""
    detector = SpeechDetector()
    found = detector.feed(silence(1.0) + tone(2.0) + silence(1.0), 16_000)
    assert found == [
        Onset(offset_ms=1000),
        Offset(offset_ms=3000, detected_at_ms=3480, loudness=pytest.approx(-17, abs=1)),  # type: ignore[arg-type]  # an equal number
    ]


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
def test_speech_is_found_at_every_rate(rate: int) -> None:
    detector = SpeechDetector()
    found = detector.feed(silence(1.0, rate=rate) + tone(1.2, rate=rate) + silence(1.0, rate=rate), rate)
    assert [each.offset_ms for each in found] == [1000, 2200]


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60))
@settings(max_examples=30, deadline=None)
def test_it_does_not_matter_how_the_audio_is_cut(sizes: list[int]) -> None:
    """Clients send 20, 32 or 100 ms at a time."""
    track = silence(0.5) + tone(0.4) + silence(0.7)
    whole = SpeechDetector().feed(track, 16_000)
    detector, found, start = SpeechDetector(), [], 0
    while start < len(track):
        size = 2 * sizes[start % len(sizes)]
        found += detector.feed(track[start : start + size], 16_000)
        start += size
    assert found == whole


def test_a_click_is_no_speech() -> None:
    detector = SpeechDetector()
    assert detector.feed(silence(0.5) + tone(0.02, level=0.9) + silence(0.5), 16_000) == []


def test_steady_noise_is_no_speech() -> None:
    """A fan, or a telephone line: as loud as speech at a distance, but always there."""
    detector = SpeechDetector()
    noise = tone(3.0, level=0.008)
    assert detector.feed(noise, 16_000) == []
    found = detector.feed(tone(1.0, level=0.2) + noise, 16_000)
    assert [type(each) for each in found] == [Onset, Offset]


def test_a_tone_of_any_length_is_one_stretch() -> None:
    """Test signals are no voices; they must count as speech nevertheless."""
    detector = SpeechDetector()
    found = detector.feed(silence(0.5) + tone(12.0, level=0.05) + silence(1.0), 16_000)
    assert [each.offset_ms for each in found] == [500 // 40 * 40, pytest.approx(12_500, abs=40)]


@pytest.mark.skipif(not SPEECH.exists(), reason="the recording is no part of the package")
@pytest.mark.parametrize("before", [0.0, 1.0, 5.0])
def test_real_speech_is_as_long_as_it_is(before: float) -> None:
    """A noisy recording, with pauses of a second inside its sentence: 0.3 to 11.0 s of its eleven seconds."""
    with wave.open(str(SPEECH)) as file:
        speech = file.readframes(file.getnframes())
    client = Client().open()
    client.listen(before)
    client.play(speech)
    client.listen(4)
    windows = client.stream.log.windows
    assert windows[0][0] == pytest.approx(before + 0.3, abs=0.15)
    assert windows[-1][1] == pytest.approx(before + 11.0, abs=0.15)
    assert client.texts("ASSISTANT", "SPECULATIVE") == [
        f"I heard {windows[-1][1] - windows[0][0]:.1f} seconds of speech."
    ], "its pauses do not end the user's turn"


def test_the_start_of_speech_is_reported_soon_and_later_out_of_silence() -> None:
    """0.05 to 0.1 s in a conversation, 0.4 s when it was quiet."""
    client = Client().open()
    client.listen(1.0)
    opened = client.now - 1.0
    client.speak(1.0)
    client.listen(0.9)
    client.speak(0.6)
    client.listen(1)
    starts = zip(
        client.times_of(messages.UserSpeechStart), client.all_of(messages.UserSpeechStart), strict=True
    )
    delays = [at - opened - each.offset_ms / 1000 for at, each in starts]
    assert delays == [pytest.approx(0.4, abs=0.06), pytest.approx(0.11, abs=0.03)]


def test_silence_ends_an_utterance() -> None:
    """Half a second of it, and no sooner: the user only takes a breath."""
    client = Client(Scenario(turns=[HELLO])).open()
    client.speak(1.0)
    client.listen(0.4)
    client.speak(1.0)
    client.listen(1.0)
    (end,) = client.all_of(messages.UserSpeechEnd)
    assert end.detected_at_ms - end.offset_ms == pytest.approx(500, abs=40)
    assert end.offset_ms == pytest.approx(2400, abs=40)


def test_a_client_that_sends_no_silence_gets_no_answer() -> None:
    """The end of an utterance is found in the audio, and nowhere else."""
    client = Client(Scenario(turns=[HELLO])).open()
    client.speak(1.0)
    client.wait(30)
    assert client.shape == ["S"]


def test_audio_in_one_burst_gives_the_same_story() -> None:
    """A client may send what it has buffered at once; the reports come in order all the same."""
    client = Client(Scenario(turns=[HELLO])).open()
    client.send(audio(silence(0.5) + tone(1.0) + silence(1.0)))
    client.wait(10)
    assert client.shape[:5] == ["S", "start", "U", "E", "SP"]


def test_audio_that_is_not_interactive_is_never_listened_to() -> None:
    client = Client(Scenario(turns=[HELLO]))
    client.send(*setup(), audio_start(interactive=False))
    client.wait(0.1)
    client.speak(1.0)
    client.listen(3.0)
    assert client.shape == []


# --- the user's text ---


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        ("before", ["S", "start", "U", "E"]),
        ("after", ["S", "E", "start", "U"]),
        ("around", ["S", "start", "U", "E"]),
    ],
)
def test_the_users_text_stands_where_a_scenario_wants_it(place: Any, shape: list[str]) -> None:
    """Before, after or around the end of the speech: all three were recorded."""
    client = one_turn(Turn(heard=[Heard("hello.", place=place)]))
    client.listen(0.3)
    assert client.shape == shape
    if place == "around":
        (block,) = client.blocks
        assert block.at < client.times_of(messages.UserSpeechEnd)[0] < block.ended_at


@pytest.mark.parametrize("place", ["after", "around"])
def test_pieces_keep_their_order_wherever_they_stand(place: Any) -> None:
    """A program that joins them must get what was said."""
    client = one_turn(Turn(heard=[Heard("one", place=place), "two", Heard("three", place="before")]))
    client.listen(0.3)
    assert client.texts("USER", "FINAL") == ["one", "two", "three"]
    assert client.shape.count("E") == 1


def test_a_long_utterance_is_told_while_it_lasts() -> None:
    """A piece each four seconds, which is what 100 tokens are."""
    client = Client(Scenario(turns=[Turn(heard=["one", "two", "three"], says="Well.")])).open()
    client.speak(9.0)
    client.listen(2.0)
    assert client.texts("USER", "FINAL") == ["one", "two", "three"]
    start = client.all_of(messages.UserSpeechStart)[0].offset_ms / 1000
    times = [block.at - 0.1 - start for block in client.blocks if block.role == "USER"]
    assert times[:2] == [pytest.approx(4.0, abs=0.1), pytest.approx(8.0, abs=0.1)]
    assert client.shape[:5] == ["S", "start", "U", "U", "U"]


def test_pieces_of_a_short_utterance_come_together() -> None:
    client = one_turn(Turn(heard=["i'm going to the", "art gallery"]))
    client.listen(0.3)
    assert client.shape == ["S", "start", "U", "U", "E"]


# --- answering ---


def test_a_plain_turn() -> None:
    """Texts as planned, audio, and the texts again when they were heard, the first of them as end of turn."""
    client = one_turn()
    client.listen(5)
    assert client.shape == [
        *("S", "start", "U", "E"),
        *("SP", "AU PARTIAL_TURN", "SP", "AU END_TURN"),
        *("F END_TURN", "F PARTIAL_TURN"),
    ]
    assert client.texts("ASSISTANT", "SPECULATIVE") == client.texts("ASSISTANT", "FINAL")
    assert client.texts("USER", "FINAL") == ["hello."]


def test_a_final_text_that_is_due_too_early_waits_for_the_audio() -> None:
    """No FINAL stands inside a generation; and one that had to wait does not end the turn."""
    short, long = Say("Yes.", seconds=0.4), Say("And so on and on.", seconds=8.0)
    client = one_turn(Turn(heard="hello.", says=[short, long]))
    client.listen(12)
    assert client.shape[4:] == [
        *("SP", "AU PARTIAL_TURN", "SP", "AU END_TURN"),
        *("F PARTIAL_TURN", "F END_TURN"),
    ]
    finals = [block for block in client.blocks if block.short.startswith("F")]
    assert finals[0].at - client.blocks[4].ended_at < 0.001


def test_slow_audio_is_heard_when_it_has_come() -> None:
    """The service may be slower than speech; what has not been sent has not been heard."""
    client = one_turn(delivery=0.5)
    client.listen(8)
    sounds = [block for block in client.blocks if block.type == "AUDIO"]
    finals = [block for block in client.blocks if block.short.startswith("F")]
    assert sounds[0].chunks[-1][0] - sounds[0].chunks[0][0] == pytest.approx(2 * (2.0 - 0.24), abs=0.2)
    assert [final.short for final in finals] == ["F PARTIAL_TURN", "F END_TURN"]
    assert finals[1].at - sounds[1].ended_at == pytest.approx(0.15, abs=0.01)


def test_audio_may_come_all_at_once() -> None:
    client = one_turn(delivery=None)
    client.listen(1.0)
    sound = client.blocks[2]
    assert sound.chunks[-1][0] - sound.chunks[0][0] < 0.01


def test_audio_may_come_in_bursts() -> None:
    """As in the first seconds of a recorded session: several pieces at once, and then none for a while."""
    client = one_turn(bursts=0.2)
    client.listen(1.5)
    sound = client.blocks[2]
    start = sound.chunks[0][0]
    assert {round((at - start) / 0.2, 1) for at, _ in sound.chunks} == {0.0, 1.0, 2.0}


def test_odd_sizes_of_audio() -> None:
    """At 16 kHz recorded pieces vary, and the last one had 32 bytes."""
    client = one_turn(chunk_bytes=(2, 5000, 38))
    client.listen(1.5)
    sound = client.blocks[2]
    assert {size for _, size in sound.chunks} <= {2, 5000, 38, sound.chunks[-1][1]}
    assert sum(size for _, size in sound.chunks) == 96_000


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
def test_it_speaks_at_the_rate_that_was_asked_for(rate: int) -> None:
    client = Client(Scenario(turns=[Turn(heard="hello.", says=[Say("Hello.", seconds=1.2)])]))
    client.open(sample_rate=rate)
    client.speak(1.0)
    client.listen(3.0)
    start = next(each for each in client.all_of(messages.OutputContentStart) if each.type == "AUDIO")
    assert start.sample_rate == rate
    assert sum(len(each.content) for each in client.all_of(messages.AudioOutput)) == 1.2 * rate * 2


def test_without_a_scenario_it_says_what_it_has_measured() -> None:
    """It never pretends to understand."""
    client = Client().open()
    client.listen(1)
    client.speak(1.9)
    client.listen(6)
    assert client.texts("USER", "FINAL") == ["(1.9 seconds of speech)"]
    assert client.texts("ASSISTANT", "FINAL") == ["I heard 1.9 seconds of speech."]


def test_after_the_last_turn_it_says_what_it_has_measured() -> None:
    client = one_turn(Turn(heard="hello.", says=[Say("Hello.", seconds=0.5)]))
    client.listen(2)
    client.speak(1.5)
    client.listen(5)
    assert client.texts("ASSISTANT", "FINAL")[1:] == ["I heard 1.5 seconds of speech."]


def test_a_turn_without_an_answer_keeps_silent() -> None:
    client = one_turn(Turn(heard="never mind."), HELLO)
    client.listen(3)
    assert client.shape == ["S", "start", "U", "E"]
    client.speak(1)
    client.listen(2)
    assert client.texts("ASSISTANT", "SPECULATIVE")[0] == "Hello to you."


def test_a_user_who_goes_on_is_answered_once() -> None:
    """The answer to the first half is dropped before anybody sees it, and the turn is not used up."""
    client = one_turn()
    client.listen(0.35)  # the end has been reported, the answer has not begun
    assert client.shape[-1] == "E"
    client.speak(1.0)
    client.listen(6)
    assert client.shape[:6] == ["S", "start", "U", "E", "S", "E"]
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["Hello to you.", "How are you?"]
    assert Usage(text_output=11) in [each.delta for each in client.all_of(messages.UsageEvent)]


def test_a_user_who_goes_on_before_the_end_is_reported_is_not_talked_into() -> None:
    """Recorded once: the next stretch began a millisecond after the end of the last had been told."""
    client = one_turn()
    client.speak(3.0)
    assert client.shape == ["S", "start", "U", "E", "S"]
    client.listen(5)
    assert client.shape[5:7] == ["E", "SP"]


def test_each_stretch_of_an_utterance_may_have_its_text() -> None:
    client = one_turn(Turn(heard=[Heard("so"), Heard("tell me", window=2)], says="Yes?"))
    client.listen(0.35)
    client.speak(1.0)
    client.listen(2)
    assert client.shape[:7] == ["S", "start", "U", "E", "S", "U", "E"]


# --- interruptions ---


def interrupted(after: float, **behaviour: Any) -> Client:
    """A client that breaks in so long after the response has begun."""
    client = one_turn(HELLO, Turn(heard="sorry?", says="Never mind."), **behaviour)
    while "SP" not in client.shape:
        client.listen(0.032)
    client.listen(after)
    client.speak(0.6)
    client.listen(3)
    return client


@pytest.mark.parametrize("after", [0.8, 1.5])
def test_an_interruption_after_the_audio_was_sent(after: float) -> None:
    """What matters is what was heard: the audio had ended long before."""
    client = interrupted(after)
    assert client.shape[8:14] == ["S", "MARK INTERRUPTED", "F PARTIAL_TURN", "U", "E", "SP"]
    assert client.texts("ASSISTANT", "FINAL")[1] == "Hello to you.", "the whole of what was being said"


def test_an_interruption_of_the_second_segment() -> None:
    client = interrupted(2.45)
    assert client.shape[8:12] == ["F END_TURN", "S", "MARK INTERRUPTED", "F PARTIAL_TURN"]
    assert client.texts("ASSISTANT", "FINAL")[2] == "How are you?"


def test_an_interruption_of_a_response_that_is_being_generated() -> None:
    """The open block of audio ends, not as the end of a turn; and nothing follows of the response."""
    client = interrupted(0.3, delivery=1.2)
    assert client.shape[4:9] == ["SP", "S", "AU PARTIAL_TURN", "MARK INTERRUPTED", "F PARTIAL_TURN"] or (
        client.shape[4:9] == ["SP", "AU PARTIAL_TURN", "S", "MARK INTERRUPTED", "F PARTIAL_TURN"]
    )
    cut = next(block for block in client.blocks if block.type == "AUDIO")
    start = client.times_of(messages.UserSpeechStart)[1]
    assert cut.chunks[-1][0] <= start <= cut.ended_at
    assert {size for _, size in cut.chunks} == {3840}
    assert "How are you?" not in client.texts("ASSISTANT", "SPECULATIVE")


def test_an_audio_block_may_say_that_it_was_cut() -> None:
    client = interrupted(0.3, delivery=1.2, audio_interrupted=True)
    assert "AU INTERRUPTED" in client.shape


def test_speech_after_the_response_was_heard_is_no_interruption() -> None:
    client = interrupted(4.0)
    assert not any(short.startswith("MARK") for short in client.shape)


def test_a_response_is_interrupted_once() -> None:
    """More speech before its nominal end adds no second marker."""
    client = interrupted(0.8)
    assert sum(short.startswith("MARK") for short in client.shape) == 1


@pytest.mark.parametrize(
    ("form", "text"), [("spaced", '{ "interrupted" : true }'), ("compact", '{"interrupted":true}')]
)
def test_the_marker_has_two_forms(form: Any, text: str) -> None:
    """Clients that compare it with a string have missed one of them."""
    client = interrupted(0.8, marker=form)
    assert [block.text for block in client.blocks if block.is_marker] == [text]


def test_an_interruption_is_told_within_two_milliseconds() -> None:
    client = interrupted(0.8)
    start = client.times_of(messages.UserSpeechStart)[1]
    (marker,) = [block for block in client.blocks if block.is_marker]
    assert marker.ended_at - start < 0.002
    usage = client.times_of(messages.UsageEvent)
    assert any(start < at < start + 0.004 for at in usage)


# --- typed text ---


def test_typed_text_is_answered_without_speech() -> None:
    """So the model can be made to speak first."""
    client = Client(Scenario(turns=[HELLO, Turn(typed="*weather*", says="Rain.")])).open()
    client.listen(0.2)
    client.send(*typed("How is the weather?"))
    client.listen(3)
    assert client.shape == ["start", "SP", "AU END_TURN", "F END_TURN"]
    assert client.texts("ASSISTANT", "FINAL") == ["Rain."]


def test_typed_text_that_no_turn_fits_is_counted() -> None:
    client = Client(Scenario(turns=[HELLO])).open()
    client.listen(0.2)
    client.send(*typed("One two three."))
    client.listen(4)
    assert client.texts("ASSISTANT", "FINAL") == ["You typed 3 words."]


def test_typed_text_may_come_back_as_the_users() -> None:
    """Nobody knows whether the service does this; a client should not mind."""
    client = Client(Scenario(behaviour=Behaviour(echo_typed=True))).open()
    client.listen(0.2)
    client.send(*typed("Hello?"))
    assert client.texts("USER", "FINAL") == ["Hello?"]


def test_text_typed_while_the_model_speaks_is_answered_after_it() -> None:
    client = one_turn(HELLO, Turn(typed="*", says=[Say("Noted.", seconds=0.5)]))
    client.listen(1.0)
    client.send(*typed("By the way"))
    client.listen(6)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?", "Noted."]
    assert client.shape[-3:] == ["SP", "AU END_TURN", "F END_TURN"]


def test_text_that_waits_is_answered_after_the_users_speech() -> None:
    """Neither is forgotten when both come at once."""
    client = Client(Scenario(turns=[HELLO, Turn(typed="*", says=[Say("Noted.", seconds=0.5)])])).open()
    client.listen(0.5)
    client.speak(0.5)
    client.send(*typed("By the way"))
    client.speak(0.5)
    client.listen(8)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?", "Noted."]


# --- tools ---

WEATHER = ToolCall("weather", arguments={"city": "Oslo"})
WEATHER_TOOL = messages.ToolSpec(name="weather", description="Weather of a city", schema={"type": "object"})


def answer(client: Client, result: str, number: int = -1) -> None:
    """Answer one of the calls that came."""
    call = client.all_of(messages.ToolUse)[number]
    client.send(*messages.tool_block(result, prompt_name=PROMPT, tool_use_id=call.tool_use_id))


def test_a_tool_is_called_before_anything_is_said_and_spoken_about_when_it_has_answered() -> None:
    turn = Turn(heard="weather?", calls=[WEATHER], then="It is {celsius} degrees in {city}.")
    client = one_turn(turn)
    client.listen(1)
    assert client.shape[4:] == ["TOOL TOOL_USE"]
    (call,) = client.all_of(messages.ToolUse)
    assert (call.tool_name, call.arguments) == ("weather", {"city": "Oslo"})
    answer(client, '{"celsius": 7}')
    client.listen(4)
    assert client.shape[5:] == ["SP", "AU END_TURN", "F END_TURN"]
    assert client.texts("ASSISTANT", "FINAL") == ["It is 7 degrees in Oslo."]


def test_the_model_may_speak_first_and_then_call() -> None:
    later = ToolCall("weather", when="after")
    client = one_turn(
        Turn(heard="weather?", says=[Say("One moment.", seconds=0.8)], calls=[later], then="Rain.")
    )
    client.listen(1.2)
    assert client.shape[4:] == ["SP", "AU END_TURN", "TOOL TOOL_USE"]
    answer(client, "{}")
    client.listen(4)
    assert client.texts("ASSISTANT", "FINAL") == ["One moment.", "Rain."]


def test_the_model_speaks_on_while_a_tool_runs() -> None:
    """Tools are asynchronous: the user is answered, and the result comes in when it comes in."""
    client = one_turn(Turn(heard="weather?", calls=[WEATHER], then=[Say("Rain.", seconds=0.5)]), HELLO)
    client.listen(1)
    client.speak(1)
    client.listen(6)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?"]
    answer(client, "{}")
    client.listen(3)
    assert client.texts("ASSISTANT", "FINAL")[2:] == ["Rain."]


def test_several_calls_are_answered_in_any_order() -> None:
    """Each result may be spoken about, and all of them when the last is in."""
    calls = [ToolCall("a", then=[Say("A is in.", seconds=0.5)]), ToolCall("b")]
    client = one_turn(Turn(heard="both.", calls=calls, then=[Say("Both are in.", seconds=0.5)]))
    client.listen(1)
    assert client.shape[4:] == ["TOOL TOOL_USE", "TOOL TOOL_USE"]
    answer(client, '{"n": 2}', 1)
    client.listen(1)
    assert client.texts("ASSISTANT", "SPECULATIVE") == []
    answer(client, '{"n": 1}', 0)
    client.listen(5)
    assert client.texts("ASSISTANT", "FINAL") == ["A is in.", "Both are in."]


SLOW = [Say("One moment, please.", seconds=4.0)]


def test_a_result_may_come_while_the_model_is_still_talking() -> None:
    """It is spoken about when the model has finished, first its own call's words and then the turn's."""
    calls = [ToolCall("a", then=[Say("A is in.", seconds=0.5)]), ToolCall("b")]
    client = one_turn(Turn(heard="both.", calls=calls, says=SLOW, then=[Say("Both are in.", seconds=0.5)]))
    client.listen(1)
    assert client.shape[4:7] == ["TOOL TOOL_USE", "TOOL TOOL_USE", "SP"]
    answer(client, "{}", 0)
    client.listen(1)
    answer(client, "{}", 1)
    client.listen(1)
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["One moment, please."]
    client.listen(6)
    assert client.texts("ASSISTANT", "FINAL") == ["One moment, please.", "A is in.", "Both are in."]
    assert not any(short.startswith("MARK") for short in client.shape)


def test_a_call_may_come_several_times_with_one_id() -> None:
    """A client runs the tool once; the service takes one result, and speaks about it once."""
    client = one_turn(Turn(heard="weather?", calls=[ToolCall("weather", times=3)], then="Rain."), HELLO)
    client.listen(1)
    assert client.shape[4:] == ["TOOL TOOL_USE"] * 3
    uses = client.all_of(messages.ToolUse)
    assert len({use.tool_use_id for use in uses}) == 1
    assert len({use.content_id for use in uses}) == 3
    answer(client, "{}")
    client.listen(4)
    assert client.texts("ASSISTANT", "FINAL") == ["Rain."]
    answer(client, "{}")
    assert isinstance(client.failure, Failed)
    assert client.failure.message.endswith("Tool Response parsing error")


def test_a_model_errs_about_tools() -> None:
    """It calls what nobody offers, with arguments that no schema allows; the client has to cope."""
    call = ToolCall("nobodys", arguments={"days": "seven"})
    client = Client(Scenario(turns=[Turn(heard="x", calls=[call], then="{error}.")])).open(
        tools=[WEATHER_TOOL]
    )
    client.speak(1)
    client.listen(2)
    assert client.all_of(messages.ToolUse)[0].tool_name == "nobodys"
    answer(client, '{"error": "no such tool"}')
    client.listen(3)
    assert client.texts("ASSISTANT", "FINAL") == ["no such tool."]


def test_a_barge_in_while_a_tool_runs_and_the_model_is_silent_is_just_the_next_question() -> None:
    """Nothing is cut, as nothing is being said; the call stands, and its result is spoken about later."""
    client = one_turn(Turn(heard="weather?", calls=[WEATHER], then=[Say("Rain.", seconds=0.5)]), HELLO)
    client.listen(2)
    client.speak(1)
    answer(client, "{}")
    client.listen(8)
    assert not any(short.startswith("MARK") for short in client.shape)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?", "Rain."]


def test_a_barge_in_while_a_tool_runs_and_the_model_talks_cuts_the_words_and_not_the_call() -> None:
    turn = Turn(heard="weather?", calls=[WEATHER], says=SLOW, then=[Say("Rain.", seconds=0.5)])
    client = one_turn(turn, Turn(heard="hurry up.", says=[Say("Nearly there.", seconds=0.5)]))
    client.listen(1)
    client.speak(1)
    client.listen(4)
    assert [short for short in client.shape if short.startswith("MARK")] == ["MARK INTERRUPTED"]
    answer(client, "{}")
    client.listen(3)
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["One moment, please.", "Nearly there.", "Rain."]


@pytest.mark.parametrize("says", ["", "Never mind then."])
def test_a_result_that_comes_while_the_user_speaks_is_spoken_about_in_the_end(says: str) -> None:
    """Once the user was answered, or is silent and gets no answer."""
    client = one_turn(
        Turn(heard="weather?", calls=[WEATHER], then="Rain."), Turn(heard="hm.", says=says or ())
    )
    client.listen(1)
    client.speak(1)
    answer(client, "{}")
    client.speak(3)
    assert client.texts("ASSISTANT", "SPECULATIVE") == []
    client.listen(6)
    assert client.texts("ASSISTANT", "FINAL") == [*([says] if says else []), "Rain."]


def test_a_result_is_not_lost_when_an_interruption_prevents_the_other_calls() -> None:
    """It came while the model was talking, and what the model wanted to call after that it never calls."""
    calls = [ToolCall("a"), ToolCall("b", when="after")]
    turn = Turn(heard="both.", calls=calls, says=SLOW, then="A is in.")
    client = Client(Scenario(turns=[turn, Turn(heard="no.")], behaviour=Behaviour(delivery=1.0))).open()
    client.speak(1)
    client.listen(1.5)
    answer(client, "{}")
    client.speak(1)
    client.listen(4)
    assert [call.tool_name for call in client.all_of(messages.ToolUse)] == ["a"]
    assert client.texts("ASSISTANT", "FINAL")[-1] == "A is in."


def test_each_result_that_has_no_words_is_announced() -> None:
    calls = [ToolCall("a", then="A is in."), ToolCall("b"), ToolCall("c")]
    client = one_turn(Turn(heard="all.", calls=calls))
    client.listen(1)
    for number in (1, 2, 0):
        answer(client, "{}", number)
    client.listen(8)
    assert client.texts("ASSISTANT", "FINAL") == [
        "A is in.",
        "The result of b is in.",
        "The result of c is in.",
    ]


def test_a_call_that_an_interruption_prevents_is_not_waited_for() -> None:
    """What comes after the speech that was cut never comes; the other result is spoken about."""
    calls = [ToolCall("a"), ToolCall("b", when="after")]
    turn = Turn(heard="both.", calls=calls, says=[Say("One moment, please.", seconds=4.0)], then="A is in.")
    client = Client(Scenario(turns=[turn, Turn(heard="no.")], behaviour=Behaviour(delivery=1.0))).open()
    client.speak(1)
    client.listen(2)
    client.speak(1)
    client.listen(2)
    assert [call.tool_name for call in client.all_of(messages.ToolUse)] == ["a"]
    answer(client, "{}")
    client.listen(3)
    assert client.texts("ASSISTANT", "FINAL")[-1] == "A is in."


def test_nothing_is_said_into_the_users_speech_after_a_call() -> None:
    """The call stands; what was to be said with it is not."""

    def voice(say: Say, rate: int) -> bytes | None:
        return None if say.text == "Late." else hum(say, rate)

    scenario = Scenario(turns=[Turn(heard="weather?", calls=[WEATHER], says="Late."), HELLO])
    client = Client(service=Service(scenario, voice=voice)).open()
    client.speak(1)
    client.listen(1.5)
    assert client.shape[4:] == ["TOOL TOOL_USE"]
    client.speak(1)
    client.listen(5)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?"]


def test_a_voice_may_take_its_time() -> None:
    """The response begins when its sound is ready."""
    asked = []

    def voice(say: Say, rate: int) -> bytes | None:
        asked.append(say)
        return hum(say, rate) if len(asked) > 10 else None

    client = Client(service=Service(Scenario(turns=[HELLO]), voice=voice)).open()
    client.speak(1)
    client.listen(6)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?"]


def test_a_result_is_always_spoken_about() -> None:
    """Nobody has found a way to give the service a silent one."""
    client = one_turn(Turn(heard="weather?", calls=[WEATHER]))
    client.listen(1)
    answer(client, "{}")
    client.listen(3)
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["The result of weather is in."]


def test_a_result_that_comes_while_the_user_speaks_waits() -> None:
    client = one_turn(Turn(heard="weather?", calls=[WEATHER], then="Rain."), HELLO)
    client.listen(1)
    client.speak(0.5)
    answer(client, "{}")
    client.speak(0.5)
    client.listen(8)
    assert client.texts("ASSISTANT", "FINAL") == ["Hello to you.", "How are you?", "Rain."]


@pytest.mark.parametrize(
    ("call", "content"),
    [
        (ToolCall("t", arguments={"n": 1}), '{"n":1}'),
        (ToolCall("t", arguments=""), ""),
        (ToolCall("t", arguments="no json"), "no json"),
        (ToolCall("t", arguments={"n": 1}, double_encoded=True), '"{\\"n\\":1}"'),
    ],
)
def test_arguments_come_as_text_of_any_kind(call: ToolCall, content: str) -> None:
    client = one_turn(Turn(heard="do it.", calls=[call]))
    client.listen(1)
    (use,) = client.all_of(messages.ToolUse)
    assert use.content == content


# --- version 1 ---


def test_version_1_does_not_report_where_speech_was() -> None:
    client = Client(Scenario(turns=[HELLO]), model=V1).open()
    client.speak(1)
    client.listen(5)
    assert client.shape[:2] == ["start", "U"]


def test_version_1_does_not_answer_typed_text() -> None:
    client = Client(Scenario(turns=[Turn(typed="*", says="Hello.")]), model=V1).open()
    client.listen(0.2)
    client.send(*typed("Hello?"))
    client.listen(5)
    assert client.shape == []


def test_version_1_waits_for_its_tools() -> None:
    client = Client(Scenario(turns=[Turn(calls=[WEATHER], then="Rain."), HELLO]), model=V1).open()
    client.speak(1)
    client.listen(2)
    client.speak(1)
    client.listen(3)
    assert client.texts("ASSISTANT", "SPECULATIVE") == []
    answer(client, "{}")
    client.listen(8)
    assert client.texts("ASSISTANT", "FINAL") == ["Rain.", "Hello to you.", "How are you?"]


def test_version_1_says_nothing_between_a_call_and_its_result() -> None:
    turn = Turn(calls=[WEATHER], says=[Say("One moment.", seconds=0.5)], then=[Say("Rain.", seconds=0.5)])
    client = Client(Scenario(turns=[turn]), model=V1).open()
    client.speak(1)
    client.listen(4)
    assert client.shape == ["start", "SP", "AU END_TURN", "TOOL TOOL_USE", "F END_TURN"]
    answer(client, "{}")
    client.listen(3)
    assert client.texts("ASSISTANT", "FINAL") == ["One moment.", "Rain."]


def test_version_1_does_not_know_endpointing() -> None:
    client = Client(model=V1)
    client.send(messages.SessionStart(endpointing="HIGH"))
    assert isinstance(client.failure, Refused)


# --- usage ---


def test_speech_is_25_tokens_a_second() -> None:
    client = one_turn()
    client.listen(5)
    client.close()
    assert client.all_of(messages.UsageEvent)[-1].total.speech_output == 3.0 * 25


def test_the_users_speech_is_counted_with_the_second_before_it() -> None:
    """From a second before the onset to where the end was detected, 100 tokens at most in one event."""
    client = Client().open()
    client.listen(2)
    client.speak(6)
    client.listen(2)
    (end,) = client.all_of(messages.UserSpeechEnd)
    (start,) = client.all_of(messages.UserSpeechStart)
    portions = [
        each.delta.speech_input for each in client.all_of(messages.UsageEvent) if each.delta.speech_input
    ]
    assert max(portions[1:]) == 100
    assert sum(portions[1:]) == (end.detected_at_ms - start.offset_ms + 1000) // 40


story = st.lists(
    st.one_of(
        st.tuples(st.just("speak"), st.floats(0.1, 3.0)),
        st.tuples(st.just("listen"), st.floats(0.1, 4.0)),
        st.tuples(st.just("type"), st.just(0.0)),
        st.tuples(st.just("answer"), st.just(0.0)),
    ),
    max_size=8,
)


@given(story, st.sampled_from([0.5, 5.0, None]))
@settings(max_examples=25, deadline=None)
def test_whatever_happens_the_sums_are_right_and_blocks_do_not_nest(
    happens: list[tuple[str, float]], delivery: float | None
) -> None:
    """The deltas of all usage events add up to each total; blocks come one after the other."""
    turns = [HELLO, Turn(heard="and?", calls=[WEATHER], then="Rain."), HELLO]
    behaviour = Behaviour(delivery=delivery, echo_typed=True)
    client = Client(Scenario(turns=turns, behaviour=behaviour)).open()
    client.listen(0.2)
    for what, seconds in happens:
        match what:
            case "speak":
                client.speak(seconds)
            case "listen":
                client.listen(seconds)
            case "type":
                client.send(*typed("Hello?"))
            case _ if len(client.all_of(messages.ToolUse)) > len(client.stream.log.tool_results):
                answer(client, "{}")
            case _:
                pass
    client.close()
    assert client.failure is None
    assert client.shape[-1] == "end"  # which folds the blocks, and so checks them
    total = Usage()
    for usage in client.all_of(messages.UsageEvent):
        total += usage.delta
        assert usage.total == total
    assert client.stream.log.usage == total
    assert all(
        later.at >= earlier.at for earlier, later in zip(client.outputs, client.outputs[1:], strict=False)
    )


# --- closing ---


def test_goodbye_is_answered_and_what_was_not_heard_is_not_said() -> None:
    client = one_turn()
    client.listen(1.5)
    said = len(client.texts("ASSISTANT", "FINAL"))
    client.close()
    assert client.shape[-1] == "end"
    assert len(client.texts("ASSISTANT", "FINAL")) == said
    assert isinstance(client.outputs[-1], Ended)
    assert client.stream.log.outcome == "completed"
    assert client.stream.over
    assert client.stream.due is None


def test_goodbye_in_the_middle_of_a_response_closes_its_block() -> None:
    client = one_turn(delivery=1.0)
    while not client.all_of(messages.AudioOutput):
        client.listen(0.032)
    client.close()
    assert client.shape[-2:] == ["AU PARTIAL_TURN", "end"]


def test_a_stream_that_ends_without_goodbye_is_told_so() -> None:
    """Harmless, and common: the client has gone."""
    client = Client().open()
    client.stream.end_input(client.now)
    client.wait(0)
    assert isinstance(client.failure, Failed)
    assert f"The following prompts were not closed: [{PROMPT}]" in client.failure.message


def test_nothing_is_wrong_with_the_end_of_the_input_after_goodbye() -> None:
    client = Client().open()
    client.listen(0.2)
    client.send(*GOODBYE)
    client.stream.end_input(client.now)
    client.wait(1)
    assert client.failure is None
    assert client.ended


# --- limits ---


@pytest.mark.parametrize(
    ("gap", "text"), [(55.0, "less than 55 seconds."), (295.0, "less than 295 seconds.")]
)
def test_the_service_gives_up_without_audio(gap: float, text: str) -> None:
    client = Client(Scenario(behaviour=Behaviour(input_gap=gap, any_input_gap=None))).open()
    client.listen(1)
    client.wait(gap - 1)
    assert client.failure is None
    client.wait(2)
    assert isinstance(client.failure, Failed)
    assert client.failure.code == "validationException"
    assert client.failure.message.endswith(text)


def test_typed_text_counts_as_a_sign_of_life() -> None:
    client = Client().open()
    client.listen(1)
    for _ in range(4):
        client.wait(40)
        client.send(*typed("Still there."))
    assert client.failure is None


def test_the_service_gives_up_without_any_message() -> None:
    client = Client()
    client.send(setup()[0])
    client.wait(61)
    assert isinstance(client.failure, Refused)
    assert client.failure.message.endswith("Timed out waiting for input events")


def test_the_service_gives_up_after_three_minutes_of_silence() -> None:
    client = Client().open()
    for _ in range(174):
        client.send(audio(silence(1.0)))
        client.wait(1)
    assert client.failure is None
    client.send(audio(silence(1.0)))
    client.wait(2)
    assert isinstance(client.failure, Failed)
    assert "InternalErrorCode=531" in client.failure.message


def test_a_stream_lives_for_eight_minutes() -> None:
    client = Client().open()
    for _ in range(475):
        client.send(audio(tone(0.1) + silence(0.9)))
        client.wait(1)
    assert client.failure is None
    client.wait(6)
    assert isinstance(client.failure, Failed)
    assert client.failure.code == "modelTimeoutException"


def test_limits_can_be_lifted() -> None:
    off = Behaviour(input_gap=None, any_input_gap=None, silence_only=None, stream=None)
    client = Client(Scenario(behaviour=off)).open()
    client.listen(1)
    client.wait(10_000)
    assert client.failure is None


def _breaks_a_rule(client: Client) -> None:
    client.send(b"nonsense")


def _waits(client: Client) -> None:
    client.wait(60)


def _leaves(client: Client) -> None:
    client.stream.abandon(client.now)


def _says_goodbye(client: Client) -> None:
    client.listen(0.1)
    client.close()


@pytest.mark.parametrize("end", [_leaves, _says_goodbye, _breaks_a_rule, _waits])
def test_no_more_streams_than_the_quota_and_one_that_ends_frees_its_place(
    end: Callable[[Client], None],
) -> None:
    service = Service()
    first, *_ = [Client(service=service).open() for _ in range(20)]
    for _ in range(2):  # being refused takes no place
        late = Client(service=service)
        late.wait(0)
        assert isinstance(late.failure, Refused)
        assert (late.failure.status, late.failure.code) == (429, "ThrottlingException")
        assert not late.accepted
    end(first)
    assert Client(service=service).open().accepted
    assert not Client(service=service).open().accepted


# --- what is rejected ---

HISTORY = messages.text_block("Hi.", prompt_name=PROMPT, role="USER")
EARLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "no JSON": ((b"nonsense",), "Unable to parse input chunk"),
    "no event": ((b"{}",), "Unable to parse input chunk"),
    "audio first": ((audio(b"\0\0"),), "No open prompt found"),
    "the prompt first": (setup()[1:2], "Invalid input request"),
    "endpointing as in version 1": (
        (b'{"event":{"sessionStart":{"endpointingSensitivity":"HIGH"}}}',),
        "Unable to parse input chunk",
    ),
    "a temperature of 7": (
        (b'{"event":{"sessionStart":{"inferenceConfiguration":{"temperature":7}}}}',),
        "Invalid input request",
    ),
    "a rate of 44.1 kHz": (setup(sample_rate=44_100)[:2], "Invalid input request"),
    "a schema that is an object and no string": (
        (
            setup()[0],
            messages.encode(setup(tools=[WEATHER_TOOL])[1]).replace(
                rb'"{\"type\":\"object\"}"', b'{"type":"object"}'
            ),
        ),
        "Unable to parse input chunk",
    ),
    "two tools of one name": (setup(tools=[WEATHER_TOOL, WEATHER_TOOL])[:2], "Invalid input request"),
    **{
        f"a tool named {name!r}": (
            setup(tools=[messages.ToolSpec(name=name, description="x", schema={})])[:2],
            "Invalid input request",
        )
        for name in ("", "get weather", "get.weather", "wetter_für", "x" * 65, "x\n")
    },
    "a choice of a tool that nobody offers": (
        setup(tools=[WEATHER_TOOL], tool_choice="clock")[:2],
        "Invalid input request",
    ),
}


@pytest.mark.parametrize(("said", "text"), EARLY.values(), ids=EARLY)
def test_a_bad_beginning_is_refused_with_an_http_error(said: Any, text: str) -> None:
    client = Client()
    client.send(*said)
    assert isinstance(client.failure, Refused)
    assert client.failure.status == 400
    assert client.failure.message.startswith(f"RequestId={client.stream.request_id} : {text}")


@pytest.mark.parametrize("choice", [None, "auto", "any", "weather"])
def test_a_choice_of_tools_that_are_offered_is_taken(choice: str | None) -> None:
    """What it means is the model's affair."""
    tools = [WEATHER_TOOL, messages.ToolSpec(name="x" * 64, description="x", schema={})]
    assert Client().open(tools=tools, tool_choice=choice).accepted


def _block(role: Any, text: str = "Hi.", **more: Any) -> tuple[messages.InputMessage, ...]:
    return messages.text_block(text, prompt_name=PROMPT, role=role, **more)


TOOL = messages.InputContentStart(
    prompt_name=PROMPT, content_name="t", type="TOOL", role="TOOL", interactive=False, tool_use_id="nobody"
)
LATE: dict[str, tuple[tuple[Any, ...], str]] = {
    "a second prompt": (setup()[1:2], "Invalid input request"),
    "a second system prompt": (_block("SYSTEM"), "Invalid input request"),
    "history begins with the assistant": (_block("ASSISTANT"), "First message in chat history should not be"),
    "all of the history too long": (
        tuple(each for _ in range(5) for each in (*_block("USER", "x" * 9000), *_block("ASSISTANT", "y"))),
        "Chat history is over max limit. Trim chat history and try again.",
    ),
    "history that does not alternate": ((*_block("USER"), *_block("USER")), "Invalid input request"),
    "audio before the history is complete": (
        (*_block("USER"), *_block("ASSISTANT")[:2], audio_start()),
        "Chat history should be sent completely before streaming audio.",
    ),
    "history between two blocks of audio": (
        (audio_start(), audio(b"\0\0"), GOODBYE[0], *HISTORY),
        "Chat history should be sent completely before streaming audio.",
    ),
    "history after audio": ((audio_start(), *HISTORY), "Chat history should be sent completely before"),
    "audio inside a text": (
        (audio_start(), *typed("x")[:2], audio(b"\0\0")),
        "Chat history should be sent completely before streaming audio.",
    ),
    "a text that is empty": (
        (*_block("USER")[:1], messages.InputContentEnd(prompt_name=PROMPT, content_name="another")),
        "No open content found for content name: another",
    ),
    "the end of empty audio": (
        (audio_start(), GOODBYE[0]),
        "Cannot end content as no content data was received.",
    ),
    "audio for no block": ((audio(b"\0\0"),), f"No open content found for content name: {AUDIO}"),
    "half a sample": ((audio_start(), audio(b"\0")), "Unable to parse input chunk"),
    "audio at 11 kHz": ((audio_start(11_025),), "Invalid input request"),
    "another prompt's name": ((messages.PromptEnd(prompt_name="other"),), "No open prompt found"),
    "the prompt's end too early": (
        (audio_start(), GOODBYE[1]),
        "Error(s):\nError 1 : All contents must be closed before ending prompt",
    ),
    "the session's end too early": (
        (GOODBYE[2],),
        f"Error(s):\nError 1 : The following prompts were not closed: [{PROMPT}]",
    ),
    "a result for nobody": ((audio_start(), TOOL), "Tool Response parsing error"),
    "a message of 1 MB": ((b" " * 1_000_001,), "Unable to parse input chunk"),
}


@pytest.mark.parametrize(("said", "text"), LATE.values(), ids=LATE)
def test_what_is_wrong_later_ends_the_stream_in_the_services_words(said: Any, text: str) -> None:
    client = Client()
    client.send(*setup())
    client.wait(0.1)
    client.send(*said)
    assert isinstance(client.failure, Failed)
    assert client.failure.code == "validationException"
    assert client.failure.message.startswith(f"RequestId={client.stream.request_id} : {text}")
    assert client.stream.log.outcome == "validationException"
    assert client.stream.over


@pytest.mark.parametrize("result", ["It rains.", "[7]", "7", '"rain"', "null", ""])
def test_a_result_that_is_no_json_object_is_rejected(result: str) -> None:
    client = one_turn(Turn(heard="weather?", calls=[WEATHER]))
    client.listen(1)
    answer(client, result)
    assert isinstance(client.failure, Failed)
    assert client.failure.message.endswith("Tool Response parsing error")


def test_a_second_result_for_one_call_is_rejected() -> None:
    client = one_turn(Turn(heard="weather?", calls=[WEATHER]))
    client.listen(1)
    answer(client, "{}")
    answer(client, "{}")
    assert isinstance(client.failure, Failed)
    assert client.failure.message.endswith("Tool Response parsing error")


def remembering(*roles: Any, **behaviour: Any) -> Client:
    """A client that has told a conversation, and listens."""
    client = Client(Scenario(turns=[HELLO], behaviour=Behaviour(**behaviour)))
    client.send(*setup(), *(each for number, role in enumerate(roles) for each in _block(role, f"{number}.")))
    client.wait(0.1)
    client.send(audio_start())
    client.listen(2)
    return client


def test_a_history_that_alternates_is_taken_whatever_its_length() -> None:
    assert remembering(*["USER", "ASSISTANT"] * 100).failure is None


def test_a_history_may_have_a_limit_of_messages() -> None:
    """Version 1 was seen to take 40."""
    assert remembering(*["USER", "ASSISTANT"] * 20, history_messages=40).failure is None
    failure = remembering(*["USER", "ASSISTANT"] * 20, "USER", history_messages=40).failure
    assert isinstance(failure, Failed)
    assert "Trim chat history" in failure.message


@pytest.mark.parametrize(("size", "taken"), [(50_000, True), (50_001, False)])
def test_a_message_of_a_history_has_a_limit_of_its_own(size: int, taken: bool) -> None:
    """As other clients reckon with it: 200 KB in all, and 50 for each."""
    client = Client(Scenario(behaviour=Behaviour(history_bytes=200_000)))
    client.send(*setup(), *_block("USER", "x" * size), *_block("ASSISTANT", "y"))
    client.wait(0.1)
    assert (client.failure is None) == taken
    assert taken or (isinstance(client.failure, Failed) and "Trim chat history" in client.failure.message)


def test_a_history_need_not_alternate_for_a_service_that_does_not_mind() -> None:
    assert remembering("USER", "USER", "ASSISTANT", "ASSISTANT", history_alternates=False).failure is None


def test_a_history_is_not_answered() -> None:
    assert remembering("USER", "ASSISTANT", "USER").shape == []


def test_a_service_may_answer_a_history_that_ends_with_the_user() -> None:
    """Some say that it does. Not before there is audio, and not where the assistant had the last word."""
    client = remembering("USER", "ASSISTANT", "USER", answers_history=True)
    assert client.shape[:3] == ["start", "SP", "AU END_TURN"]
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["You typed 1 word."]
    assert remembering("USER", "ASSISTANT", answers_history=True).shape == []
    assert remembering(answers_history=True).shape == []


@pytest.mark.parametrize(
    "turn", [Turn(heard=["hello", "there."], says="Hi!"), Turn(typed="hello*", says="Hi!")]
)
def test_a_turn_answers_the_question_that_a_history_ends_with(turn: Turn) -> None:
    """It was asked on a stream that was lost before the model had answered."""
    client = Client(Scenario(turns=[turn, HELLO], behaviour=Behaviour(answers_history=True)))
    client.send(*setup(), *_block("USER", "hello there."), audio_start())
    client.wait(0.1)
    client.listen(4)
    client.speak(1)
    client.listen(3)
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["Hi!", "Hello to you.", "How are you?"]


@pytest.mark.parametrize(
    ("voice", "text"),
    [("", "Received invalid voiceId: value must not be empty"), ("greta", "Received invalid voiceId: greta")],
)
def test_a_wrong_voice_is_noticed_when_it_is_to_speak(voice: str, text: str) -> None:
    client = Client().open(voice=voice)
    assert client.accepted
    assert client.failure is None
    client.listen(0.1)
    assert isinstance(client.failure, Failed)
    assert client.failure.message.endswith(text)


@pytest.mark.parametrize("model", ["amazon.titan-text", "x" * 3000])
def test_another_model_is_refused(model: str) -> None:
    client = Client(model=model)
    client.wait(0)
    assert isinstance(client.failure, Refused)
    assert client.failure.message == "The provided model identifier is invalid."


@pytest.mark.parametrize(
    "model", ["us.amazon.nova-2-sonic-v1:0", "amazon.nova-3-sonic-v1:0", "arn:aws:bedrock:us-east-1:1:x/y"]
)
def test_a_model_that_may_be_nova_sonic_is_served(model: str) -> None:
    assert Client(model=model).open().accepted


def test_the_goodbye_of_another_client_is_taken() -> None:
    """One of the shipping clients says connectionEnd in place of sessionEnd, and gets away with it."""
    client = Client().open()
    client.listen(0.2)
    client.send(*GOODBYE[:2], b'{"event":{"connectionEnd":{}}}')
    client.wait(1)
    assert client.ended


@given(
    st.binary(max_size=60) | st.text(max_size=40).map(str.encode) | st.just(b'{"event":{"audioInput":{}}}')
)
@settings(deadline=None)
def test_any_garbage_is_one_validation_error_and_the_end(garbage: bytes) -> None:
    client = Client()
    client.send(*setup())
    client.wait(0.1)
    client.send(garbage, garbage, *GOODBYE)
    client.wait(100)
    assert isinstance(client.failure, Failed)
    assert client.failure.code == "validationException"
    assert client.outputs[-1] is client.failure


# --- faults ---


def faulty(*faults: Fault, **more: Any) -> Client:
    client = Client(Scenario(turns=[HELLO], faults=faults, **more)).open()
    client.listen(0.5)
    client.speak(1.0)
    client.listen(3.0)
    return client


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault("refuse", code="AccessDeniedException"), 403, "AccessDeniedException"),
        (Fault("refuse", code="ResourceNotFoundException"), 404, "ResourceNotFoundException"),
        (Fault("refuse"), 429, "ThrottlingException"),
        (Fault("refuse", status=503), 503, "ServiceUnavailableException"),
        (Fault("refuse", status=418, code="TeapotException"), 418, "TeapotException"),
    ],
)
def test_an_opening_is_refused(fault: Fault, status: int, code: str) -> None:
    client = Client(Scenario(faults=[fault]))
    client.wait(0)
    assert isinstance(client.failure, Refused)
    assert (client.failure.status, client.failure.code) == (status, code)


def test_a_fault_happens_once_unless_told_otherwise() -> None:
    """The second attempt succeeds: what a client's retries are for."""
    service = Service(Scenario(faults=[Fault("refuse", times=2)]))
    tries = [Client(service=service).open() for _ in range(3)]
    assert [client.failure is None for client in tries] == [False, False, True]


def test_a_fault_may_be_for_one_stream() -> None:
    service = Service(Scenario(faults=[Fault("refuse", stream=2)]))
    tries = [Client(service=service).open() for _ in range(3)]
    assert [client.failure is None for client in tries] == [True, False, True]


def test_an_acceptance_that_never_comes() -> None:
    client = Client(Scenario(faults=[Fault("mute")])).open()
    client.wait(1000)
    assert client.outputs == []


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        *[(kind, False) for kind in ("reset", "goaway", "cut", "stall")],
        *[(kind, True) for kind in ("exception", "error", "end", "truncated")],
    ],
)
def test_a_fault_without_a_point_happens_at_the_opening(kind: Any, accepted: bool) -> None:
    """In place of the acceptance, or right after it where an HTTP response has to be there."""
    service = Service(Scenario(turns=[HELLO], faults=[Fault(kind)]))
    client = Client(service=service).open()
    client.listen(1)
    assert client.accepted is accepted
    assert client.documents == []
    assert client.stream.log.outcome is not None
    client = Client(service=service).open()  # and once only
    client.speak(1)
    client.listen(2)
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["Hello to you.", "How are you?"]


@pytest.mark.parametrize("kind", ["reset", "goaway", "cut", "truncated"])
def test_the_wire_breaks_in_the_middle_of_a_response(kind: Any) -> None:
    client = faulty(Fault(kind, in_response=1))
    assert isinstance(client.outputs[-1], Broken)
    assert client.outputs[-1].how == kind
    sound = [each for each in client.all_of(messages.AudioOutput) if len(each.content) == 3840]
    assert 27 <= len(sound) <= 29, "the first segment, and half of the second"
    assert client.stream.log.outcome == kind


TALK = (
    Turn(heard="hello.", says=[Say("Hello.", seconds=2.0)]),
    Turn(heard="weather?", calls=[ToolCall("weather"), ToolCall("clock")], says=[Say("Wait.", seconds=1.0)]),
)
PLACES: dict[str, tuple[Fault, list[str], float]] = {
    "as soon as it is accepted": (Fault("reset", at=0), [], 0.05),
    "in the user's first words": (Fault("reset", in_speech=1, delay=0.3), ["S"], 1.83),
    "in the user's second words": (
        Fault("reset", in_speech=2),
        ["S", "start", "U", "E", "SP", "AU END_TURN", "F END_TURN", "S"],
        7.9,
    ),
    "while the model thinks": (
        Fault("reset", after_speech=1),
        ["S", "start", "U", "E"],
        2.8,
    ),
    "while its speech is sent": (
        Fault("reset", in_response=1),
        ["S", "start", "U", "E", "SP", "AU "],
        3.7,
    ),
    "while its speech is heard": (
        Fault("reset", in_response=1, delay=1.0),
        ["S", "start", "U", "E", "SP", "AU END_TURN"],
        4.7,
    ),
    "at the first call": (
        Fault("reset", after_call=1),
        ["S", "start", "U", "E", "SP", "AU END_TURN", "F END_TURN", "S", "U", "E", "TOOL TOOL_USE"],
        9.8,
    ),
    "while the second tool runs": (
        Fault("reset", after_call=2, delay=10.0),
        [
            *["S", "start", "U", "E", "SP", "AU END_TURN", "F END_TURN"],
            *["S", "U", "E", "TOOL TOOL_USE", "TOOL TOOL_USE", "SP", "AU END_TURN", "F END_TURN"],
        ],
        19.8,
    ),
}


@pytest.mark.parametrize(("fault", "shape", "at"), PLACES.values(), ids=PLACES)
def test_a_fault_happens_where_it_is_placed(fault: Fault, shape: list[str], at: float) -> None:
    client = Client(Scenario(turns=TALK, faults=[fault])).open()
    client.listen(1)
    client.speak(1)
    client.listen(5.4)
    client.speak(1)
    client.listen(13)
    assert isinstance(client.outputs[-1], Broken)
    assert client.outputs[-1].at == pytest.approx(at, abs=0.15)
    assert client.shape == shape


@pytest.mark.parametrize("kind", ["garbled", "goaway_others", "unknown", "malformed"])
def test_some_faults_end_nothing(kind: Any) -> None:
    client = faulty(Fault(kind, in_response=1))
    client.listen(2)
    assert client.failure is None
    assert not client.stream.over
    if kind in {"unknown", "malformed"}:
        data = [each.data for each in client.documents]
        assert any(b"somethingNew" in each or each == b'{"event":' for each in data)


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (Fault("exception", at=2.0), "modelStreamErrorException", "unexpected error during processing"),
        (Fault("exception", at=2.0, code="ThrottlingException"), "throttlingException", "Too many requests"),
        (Fault("exception", at=2.0, code="fooException"), "fooException", "Something went wrong."),
        (
            Fault("exception", at=2.0, code="validationException", message="System instability detected."),
            "validationException",
            "System instability detected.",
        ),
    ],
)
def test_an_exception_ends_the_stream(fault: Fault, code: str, text: str) -> None:
    client = faulty(fault)
    assert isinstance(client.failure, Failed)
    assert client.failure.code == code
    assert text in client.failure.message
    assert client.outputs[-1] is client.failure
    assert client.failure.at == pytest.approx(2.05, abs=0.01)


def test_an_error_of_the_machinery() -> None:
    failure = faulty(Fault("error", after_audio=20)).failure
    assert isinstance(failure, Failed)
    assert not failure.modelled


def test_a_stream_that_ends_without_a_word() -> None:
    """What version 1 does since the end of its life."""
    client = faulty(Fault("end", after_output=6))
    assert isinstance(client.outputs[-1], Ended)
    assert len(client.documents) == 6
    assert client.stream.log.outcome == "ended"


def test_a_stall_is_silence_in_both_directions() -> None:
    client = faulty(Fault("stall", after_audio=40))
    assert client.outputs[-1] == Broken(at=client.outputs[-1].at, how="stall")
    heard = client.stream.log.audio_messages
    client.listen(5)
    assert client.stream.log.audio_messages == heard


@pytest.mark.parametrize("stage", ["missing", "object", "odd"])
def test_the_stage_may_be_told_wrongly(stage: Any) -> None:
    client = faulty(behaviour=Behaviour(stage=stage))
    starts = [each for each in client.all_of(messages.OutputContentStart) if each.type == "TEXT"]
    assert starts
    assert all((each.stage is None) == (stage != "object") for each in starts)


def test_fields_that_nobody_knows() -> None:
    client = faulty(behaviour=Behaviour(unknown_fields=True))
    assert all(b'"emulated":true' in each.data for each in client.documents)


def test_a_text_in_several_pieces() -> None:
    client = faulty(behaviour=Behaviour(text_pieces=3))
    assert client.texts("ASSISTANT", "SPECULATIVE") == ["Hello to you.", "How are you?"]
    assert len(client.all_of(messages.TextOutput)) >= 9


# --- scenarios ---


def test_a_shared_scenario_goes_on_over_the_next_stream() -> None:
    """A conversation that is renewed does not begin again."""
    service = Service(Scenario(turns=[HELLO, Turn(heard="and?", says="And so on.")], shared=True))
    said = []
    for _ in range(2):
        client = Client(service=service).open()
        client.speak(1)
        client.listen(2)
        said.append(client.texts("ASSISTANT", "SPECULATIVE"))
    assert said == [["Hello to you.", "How are you?"], ["And so on."]]
    assert service.unused() == []


def hand_over(*turns: Turn) -> tuple[Client, Client]:
    """Two streams of one conversation, both open."""
    service = Service(Scenario(turns=turns, shared=True))
    return Client(service=service).open(), Client(service=service).open()


FIRST = Turn(heard="one?", says=[Say("One.", seconds=4.0)])
SECOND = Turn(heard="two?", says=[Say("Two.", seconds=0.5)])


def test_a_response_goes_on_while_another_stream_hears_the_user() -> None:
    """A conversation that moves to its next stream: each turn is used once, by who heard it."""
    old, new = hand_over(FIRST, SECOND)
    old.speak(1)
    old.listen(1.5)
    assert old.texts("ASSISTANT", "SPECULATIVE") == ["One."]
    new.now = old.now
    new.speak(1)
    new.listen(3)
    assert new.texts("USER", "FINAL") == ["two?"]
    assert new.texts("ASSISTANT", "FINAL") == ["Two."]
    old.wait(5)
    assert old.texts("ASSISTANT", "FINAL") == ["One."]
    assert not any(short.startswith("MARK") for short in old.shape)
    assert old.service.unused() == []


def test_a_turn_goes_to_the_stream_that_hears_the_user_out() -> None:
    """The old stream hears the beginning of an utterance, the new one all of it."""
    old, new = hand_over(FIRST, SECOND)
    old.speak(0.5)
    new.now = old.now
    new.speak(1)
    new.listen(1.5)
    assert new.texts("ASSISTANT", "SPECULATIVE") == ["One."]
    old.now = new.now
    old.listen(2)  # and now the old one hears an end, too
    assert old.texts("USER", "FINAL") == ["two?"]


def test_a_turn_that_a_stream_is_about_to_answer_is_no_others() -> None:
    """The model thinks on one stream while the user goes on talking on the other."""
    old, new = hand_over(FIRST, SECOND)
    old.speak(1)
    old.listen(0.8)
    assert old.shape[-1] == "E"
    new.now = old.now
    new.speak(1)
    new.listen(3)
    old.wait(4)
    assert old.texts("ASSISTANT", "SPECULATIVE") == ["One."]
    assert new.texts("ASSISTANT", "SPECULATIVE") == ["Two."]


@pytest.mark.parametrize("end", [_leaves, _breaks_a_rule, _says_goodbye])
@pytest.mark.parametrize("question", ["spoken", "typed"])
def test_a_turn_comes_back_if_its_stream_ends_before_the_answer(
    end: Callable[[Client], None], question: str
) -> None:
    """So a conversation that was cut while the model thought goes on with the same answer."""
    turn = SECOND if question == "spoken" else Turn(typed="two?", says=SECOND.says)
    old, new = hand_over(turn)
    for client in (old, new):
        if question == "spoken":
            client.speak(1)
            client.listen(0.8)
        else:
            client.listen(0.3)
            client.send(*typed("two?"))
        if client is old:
            end(client)
    new.listen(3)
    assert old.texts("ASSISTANT", "SPECULATIVE") == []
    assert new.texts("ASSISTANT", "FINAL") == ["Two."]


def test_the_same_turn_may_stand_in_a_scenario_twice() -> None:
    client = one_turn(SECOND, SECOND)
    client.listen(3)
    client.speak(1)
    client.listen(3)
    assert client.texts("ASSISTANT", "FINAL") == ["Two.", "Two."]


def test_three_hours_leave_nothing_behind_but_their_logs() -> None:
    """A conversation goes on over 24 streams, each of which overlaps with the one before."""
    service = Service(Scenario(shared=True))
    seconds = [audio(silence(1.0))] * 14 + [audio(tone(0.6) + silence(0.4))]
    now, old, objects = 0.0, Client(service=service).open(), list[int]()
    for number in range(24):
        client = Client(service=service, now=now).open()
        for second in range(450):
            client.now += 1
            client.send(seconds[second % len(seconds)])
            if second % 60 == 30:
                client.send(*typed(f"It is {second} s."))
            if second == 5:
                old.close()
            client.outputs.clear()
        now, old = client.now, client
        assert client.failure is None
        if number in {7, 23}:
            service.sessions.clear()
            gc.collect()
            objects.append(len(gc.get_objects()))
    assert now > 3 * 3600
    assert objects[1] - objects[0] < 100


def test_the_logs_of_the_last_thousand_streams_are_kept() -> None:
    """An emulator may run for weeks; and streams are counted on all the same."""
    service = Service(Scenario(faults=[Fault("refuse", stream=1002)]))
    for _ in range(1002):
        client = Client(service=service)
        client.stream.abandon(0.0)
    assert len(service.sessions) == 1000
    assert service.sessions[-1].outcome == "ThrottlingException"
    assert service.sessions[-2].outcome == "abandoned"


def test_each_stream_may_have_its_scenario() -> None:
    service = Service([Scenario(turns=[HELLO]), Scenario(turns=[Turn(says="Second.")])])
    said = []
    for _ in range(3):
        client = Client(service=service).open()
        client.speak(1)
        client.listen(2)
        said.append(client.texts("ASSISTANT", "SPECULATIVE")[0])
    assert said == ["Hello to you.", "Second.", "Second."]


def test_the_log_tells_what_the_client_did() -> None:
    client = Client(Scenario(turns=[Turn(heard="x", calls=[WEATHER])]))
    client.send(*setup(), *_block("USER", "Hi."), *_block("ASSISTANT", "Hello."))
    client.wait(0.1)
    client.send(audio_start())
    client.listen(1)
    client.send(*typed("And?"))
    client.speak(1)
    client.listen(4)
    answer(client, '{"n": 1}')
    log = client.stream.log
    assert log.system == "Be brief."
    assert log.history == [("USER", "Hi."), ("ASSISTANT", "Hello.")]
    assert log.typed == ["And?"]
    assert list(log.tool_results.values()) == ['{"n": 1}']
    assert log.audio_seconds == pytest.approx(6.0)
    assert log.speech_seconds == pytest.approx(1.0, abs=0.08)
    assert log.model_id == MODEL
    assert log.documents == len(client.documents)


def test_a_scenario_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "weather.json"
    path.write_text('{"turns": [{"heard": ["and", {"text": "you?", "place": "after"}], "says": "Fine."}]}')
    scenario = Scenario.load(path)
    assert scenario.turns[0].pieces == (Heard("and"), Heard("you?", place="after"))
    assert scenario.folder == str(tmp_path)


def test_the_scenario_of_the_documentation_is_one() -> None:
    """The module's docstring is where its users look."""
    text = str(scenario.__doc__)
    found = Scenario.parse(json.loads(text[text.index("{\n") : text.rindex("}\n") + 1]))
    assert [len(turn.pieces) for turn in found.turns] == [1, 2]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"turns": [{"sayz": "x"}]}', "`sayz` - at `$.turns[0]`"),
        ('{"turns": [{}, {"says": [{"text": "x", "seconds": -1}]}]}', "$.turns[1].says[0]"),
        ('{"faults": [{"kind": "explosion"}]}', "'explosion' - at `$.faults[0].kind`"),
        ('{"faults": [{"kind": "reset", "at": 1, "after_audio": 2}]}', "one point"),
        ('{"faults": [{"kind": "reset", "after_call": 0}]}', "counted from 1"),
        ('{"faults": [{"kind": "reset", "at": 1, "delay": 1}]}', "a delay follows a point"),
        ('{"faults": [{"kind": "reset", "in_speech": 1, "delay": -1}]}', "delay is -1"),
        ('{"turns": [{"calls": [{"name": "x", "times": 0}]}]}', "comes once at least"),
        ('{"behaviour": {"delivery": 0}}', "delivery"),
        ('{"behaviour": {"chunk_bytes": [3]}}', "chunk_bytes"),
        ('{"turns": ', "no scenario"),
    ],
)
def test_a_scenario_that_is_none_says_where(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Scenario.load(path)
    assert place in str(raised.value)


def test_a_scenario_in_yaml_needs_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("turns:\n- says: Fine.\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="PyYAML"):
        Scenario.load(path)


def test_a_scenario_is_read_from_yaml(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "scenario.yaml"
    path.write_text("turns:\n- says: Fine.\n")
    assert Scenario.load(path).turns == [Turn(says="Fine.")]
    path.write_text("turns: [")
    with pytest.raises(ConfigurationError, match="no scenario"):
        Scenario.load(path)


def test_a_scenario_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Scenario.load(tmp_path / "nothing.json")


def test_nothing_happens_by_itself_before_it_is_due() -> None:
    """Whoever plays a stream may sleep until `due`."""
    client = one_turn()
    while (due := client.stream.due) is not None and due < 10:
        assert client.stream.advance(due - 1e-6) == []
        client.outputs += client.stream.advance(due)
    assert isinstance(client.outputs[-1], Document)
    assert client.shape[-1] == "F PARTIAL_TURN"
