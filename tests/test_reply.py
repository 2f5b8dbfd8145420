"""One question and its answer, put together from what happened."""

import wave
from pathlib import Path

import pytest

from novasonic.errors import ConfigurationError
from novasonic.events import (
    AudioChunk,
    Event,
    Interrupted,
    Latency,
    ToolCall,
    ToolResult,
    ToolRun,
    Transcript,
    TurnEnded,
    TurnStarted,
    UnknownEvent,
    UsageUpdated,
    UserSpeechEnded,
    UserSpeechStarted,
)
from novasonic.models import Usage
from novasonic.reply import Answer, Reply


def user(turn: int, text: str) -> Transcript:
    return Transcript(turn=turn, role="USER", text=text, stage="FINAL")


def planned(turn: int, text: str) -> Transcript:
    return Transcript(turn=turn, role="ASSISTANT", text=text, stage="SPECULATIVE")


def heard(turn: int, text: str) -> Transcript:
    return Transcript(turn=turn, role="ASSISTANT", text=text, stage="FINAL")


def chunk(turn: int, pcm: bytes = b"\1\1", rate: int = 24_000) -> AudioChunk:
    return AudioChunk(turn=turn, pcm=pcm, sample_rate=rate)


def ended(turn: int, reason: str = "END_TURN", *, interrupted: bool = False, after: float = 0.5) -> TurnEnded:
    latency = Latency(text=after, audio=after + 0.1)
    return TurnEnded(turn=turn, reason=reason, interrupted=interrupted, latency=latency)


def answer_to(*events: Event, after_turn: int = 0) -> Answer:
    answer = Answer(after_turn=after_turn, sample_rate=24_000, runs_tool=lambda name: name != "door")
    for event in events:
        answer.feed(event)
    return answer


def turn(number: int, text: str, *, pcm: bytes = b"\1\1") -> list[Event]:
    return [
        TurnStarted(turn=number),
        planned(number, text),
        chunk(number, pcm),
        ended(number, after=float(number)),
    ]


def test_an_answer_holds_all_that_belongs_to_it() -> None:
    call = ToolCall(turn=1, id="t1", name="weather", arguments={"city": "Oslo"})
    result = ToolResult(turn=1, id="t1", name="weather", result={"celsius": 7}, elapsed=0.5)
    answer = answer_to(
        UserSpeechStarted(turn=1, offset=0.0),
        user(1, "what is the"),
        UserSpeechEnded(turn=1, offset=1.0, detected_at=1.2),
        user(1, "weather?"),
        TurnStarted(turn=1),
        call,
        result,
        UsageUpdated(delta=Usage(text_output=5), total=Usage(text_output=50)),
        planned(1, "It is cold."),
        chunk(1, b"\1\1\2\2"),
        UnknownEvent(turn=1, name="userEmotion", payload={}),
        planned(1, "Take a coat."),
        chunk(1, b"\3\3"),
        UsageUpdated(delta=Usage(speech_output=7), total=Usage(text_output=50, speech_output=7)),
        ended(1),
    )
    assert answer.complete
    reply = answer.reply()
    assert reply == Reply(
        user_text="what is the weather?",
        text="It is cold. Take a coat.",
        audio=b"\1\1\2\2\3\3",
        sample_rate=24_000,
        tool_calls=(ToolRun.of(call).answered(result),),
        interrupted=False,
        usage=Usage(text_output=5, speech_output=7),
        latency=Latency(text=0.5, audio=0.6),
    )


def test_an_answer_is_complete_when_all_of_it_has_come_and_not_before() -> None:
    answer = answer_to()
    for event in turn(1, "Hello."):
        assert not answer.complete
        answer.feed(event)
    assert answer.complete


def test_what_belongs_to_earlier_turns_is_passed_over_but_for_what_it_cost() -> None:
    answer = answer_to(
        chunk(3),
        heard(3, "Before."),
        Interrupted(turn=3),
        ended(3),
        UsageUpdated(turn=3, delta=Usage(text_input=1), total=Usage()),
        *turn(4, "Now."),
        heard(3, "Before."),
        after_turn=3,
    )
    reply = answer.reply()
    assert (reply.text, reply.audio, reply.interrupted) == ("Now.", b"\1\1", False)
    assert reply.usage == Usage(text_input=1)
    assert answer.complete


def test_an_earlier_turn_completes_no_answer() -> None:
    answer = answer_to(chunk(3), planned(3, "Before."), ended(3), after_turn=3)
    assert not answer.complete
    assert (answer.reply().text, answer.reply().audio) == ("", b"")


def test_of_several_answers_to_a_question_with_pauses_the_last_counts() -> None:
    """The model takes a pause for the end, and what it began to say is cut by the rest of the question."""
    answer = answer_to(user(1, "tell me about"), *turn(1, "About what?", pcm=b"\1\1"))
    assert answer.complete
    answer.feed(UserSpeechStarted(turn=2, offset=2.0))
    assert not answer.complete
    for event in (Interrupted(turn=1), user(2, "the weather."), *turn(2, "It is cold.", pcm=b"\2\2")):
        answer.feed(event)
    reply = answer.reply()
    assert answer.complete
    assert (reply.user_text, reply.text) == ("tell me about the weather.", "It is cold.")
    assert (reply.audio, reply.interrupted, reply.latency.text) == (b"\2\2", False, 2.0)


def test_words_of_the_user_after_an_answer_ask_for_another() -> None:
    """Version 1 of the model does not tell when the user begins to speak."""
    answer = answer_to(*turn(1, "Yes?"), user(2, "what time is it?"))
    assert not answer.complete


def test_an_answer_that_was_cut_is_not_complete() -> None:
    answer = answer_to(
        TurnStarted(turn=1),
        planned(1, "Well,"),
        Interrupted(turn=1),
        ended(1, "INTERRUPTED", interrupted=True),
    )
    assert not answer.complete
    assert answer.reply().interrupted
    assert answer.reply().text == "Well,"


def test_an_answer_is_interrupted_even_if_the_interruption_overtook_its_start() -> None:
    """An interruption is delivered before all that waits."""
    answer = answer_to(Interrupted(turn=1), *turn(1, "Well, you see,"))
    assert answer.reply().interrupted


def called(turn: int, id_: str = "t1", name: str = "weather") -> ToolCall:
    return ToolCall(turn=turn, id=id_, name=name, arguments={})


def answered(turn: int, id_: str = "t1") -> ToolResult:
    return ToolResult(turn=turn, id=id_, name="weather", result={}, elapsed=1.0)


def test_a_turn_that_waits_for_a_tool_is_no_answer_yet() -> None:
    answer = answer_to(TurnStarted(turn=1), called(1), ended(1, "TOOL_USE"))
    assert not answer.complete
    answer.feed(answered(1))
    assert not answer.complete, "the model speaks about every result"
    for event in turn(2, "It is cold."):
        answer.feed(event)
    assert answer.complete
    assert [each.id for each in answer.reply().tool_calls] == ["t1"]


def test_what_is_said_while_a_tool_runs_is_part_of_the_answer_and_not_its_end() -> None:
    answer = answer_to(TurnStarted(turn=1), called(1), planned(1, "One moment."), chunk(1, b"\1\1"), ended(1))
    assert not answer.complete
    for event in [answered(1), *turn(2, "It is cold.")]:
        answer.feed(event)
    assert answer.complete
    assert answer.reply().text == "One moment. It is cold."
    assert answer.reply().audio == b"\1\1\1\1"


def test_a_result_that_comes_while_the_model_speaks_is_spoken_about_in_a_turn_of_its_own() -> None:
    answer = answer_to(TurnStarted(turn=1), called(1), planned(1, "One moment."), answered(1), ended(1))
    assert not answer.complete
    for event in turn(2, "It is cold."):
        answer.feed(event)
    assert answer.complete


def test_of_several_tools_the_last_result_counts() -> None:
    answer = answer_to(TurnStarted(turn=1), called(1), called(1, "t2"), answered(1, "t2"))
    for event in turn(2, "The second is in."):
        answer.feed(event)
    assert not answer.complete
    answer.feed(answered(1))
    for event in turn(3, "And the first."):
        answer.feed(event)
    assert answer.complete


def test_a_call_that_the_program_must_answer_ends_the_waiting() -> None:
    answer = answer_to(TurnStarted(turn=1), called(1, name="door"))
    assert answer.complete
    assert answer.reply().tool_calls[0].result is None


def test_the_text_is_what_the_model_said_and_not_twice() -> None:
    answer = answer_to(*turn(1, "Hello."), heard(1, "Hello."))
    assert answer.reply().text == "Hello."


@pytest.mark.parametrize("role", ["USER", "ASSISTANT"])
def test_a_blank_stands_between_blocks_and_not_inside_one(role: str) -> None:
    stage = "FINAL" if role == "USER" else "SPECULATIVE"
    reply = answer_to(
        TurnStarted(turn=1),
        *(
            Transcript(turn=1, role=role, text=text, stage=stage, content_id=block)
            for block, text in (("a", "tomo"), ("a", "rrow"), ("b", "morn"), ("b", "ing"))
        ),
    ).reply()
    assert (reply.user_text if role == "USER" else reply.text) == "tomorrow morning"


def test_an_answer_of_which_nothing_has_come_is_empty() -> None:
    assert answer_to().reply() == Reply(user_text="", text="", audio=b"", sample_rate=24_000)


def test_the_rate_is_that_of_the_audio_that_came() -> None:
    reply = answer_to(TurnStarted(turn=1), chunk(1, bytes(1600), rate=8_000)).reply()
    assert (reply.sample_rate, reply.duration) == (8_000, 0.1)


def test_an_answer_does_not_show_what_was_said() -> None:
    reply = answer_to(user(1, "my secret"), *turn(1, "Your secret.", pcm=b"secret")).reply()
    assert "secret" not in repr(reply)


def test_an_answer_is_saved_as_a_wav_file(tmp_path: Path) -> None:
    path = tmp_path / "answer.wav"
    path.write_bytes(b"something older, and longer than what follows" * 100)
    answer_to(*turn(1, "Hello.", pcm=bytes(range(100)))).reply().save(path)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(1000) == bytes(range(100))


def test_a_file_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        answer_to(*turn(1, "Hello.")).reply().save(tmp_path / "nowhere" / "answer.wav")
