"""The fold: what the service's messages mean, in whatever order they come, and what was said in the end."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from novasonic import messages
from novasonic.conversation import Conversation, Fold, Left, Message, read_on
from novasonic.errors import RemoteProtocolError
from novasonic.events import (
    AudioChunk,
    Event,
    Interrupted,
    Latency,
    ToolCall,
    ToolResult,
    Transcript,
    TurnEnded,
    TurnStarted,
    UnknownEvent,
    UsageUpdated,
    UserSpeechEnded,
    UserSpeechStarted,
)
from novasonic.messages import OutputMessage, decode_output, encode
from novasonic.models import Prices, Usage, lookup

RECORDINGS: Final = Path(__file__).resolve().parents[2] / "shared" / "recordings"

RATE: Final = 24_000


class Service:
    """Speaks to a conversation over one stream, in blocks with made-up ids, and keeps what comes of it."""

    def __init__(self, conversation: Conversation | None = None, before: "Service | None" = None) -> None:
        self.conversation = conversation or Conversation()
        self.fold = self.conversation.fold
        self.events: list[Event] = [] if before is None else before.events
        self._clock: list[float] = [100.0] if before is None else before._clock  # one for all streams
        self._ids = (f"block {number}" for number in itertools.count(1))

    @property
    def now(self) -> float:
        return self._clock[0]

    @now.setter
    def now(self, now: float) -> None:
        self._clock[0] = now

    def say(self, *said: OutputMessage) -> list[Event]:
        produced = [event for message in said for event in self.fold.feed(message, self.now)]
        self.events += produced
        return produced

    def hands_over(self, *, base: int = 0) -> "Service":
        """Another stream listens from now on; this one finishes what it says."""
        self.events += self.conversation.move_on(base=base, lost=False)
        return Service(self.conversation, self)

    def is_lost(self, *, base: int = 0) -> tuple[Left, "Service"]:
        """This stream is gone; return what it leaves, and another."""
        left = self.conversation.left(lost=True)
        self.events += self.conversation.move_on(base=base, lost=True)
        return left, Service(self.conversation, self)

    def is_left(self) -> list[Event]:
        """Nobody waits for more of this stream."""
        produced = self.fold.leave()
        self.events += produced
        return produced

    def block(
        self, kind: str, role: str, stage: str | None, *payload: OutputMessage, stop: str = "PARTIAL_TURN"
    ) -> list[Event]:
        """A whole block; what it holds is given its id."""
        content_id = next(self._ids)
        return self.say(
            start(content_id, kind, role, stage),
            *(_within(content_id, each) for each in payload),
            end(content_id, kind, stop),
        )

    def hears_user(self, text: str) -> list[Event]:
        return self.block("TEXT", "USER", "FINAL", messages.TextOutput(role="USER", content=text))

    def plans(self, text: str) -> list[Event]:
        return self.block("TEXT", "ASSISTANT", "SPECULATIVE", spoken(text))

    def speaks(self, seconds: float = 1.0, stop: str = "PARTIAL_TURN") -> list[Event]:
        return self.block("AUDIO", "ASSISTANT", None, *sound(seconds), stop=stop)

    def confirms(self, text: str, stop: str = "PARTIAL_TURN") -> list[Event]:
        return self.block("TEXT", "ASSISTANT", "FINAL", spoken(text), stop=stop)

    def is_interrupted(self, marker: str = strategies.SPACED_MARKER) -> list[Event]:
        return self.block("TEXT", "ASSISTANT", "FINAL", spoken(marker), stop="INTERRUPTED")

    def calls(self, tool_use_id: str, arguments: str = "{}") -> list[Event]:
        call = messages.ToolUse(tool_use_id=tool_use_id, tool_name="weather", content=arguments)
        return self.block("TOOL", "TOOL", None, call, stop="TOOL_USE")

    def hears_speech(self, begin_ms: int = 0, end_ms: int = 800) -> list[Event]:
        return self.say(
            messages.UserSpeechStart(offset_ms=begin_ms),
            messages.UserSpeechEnd(offset_ms=end_ms, detected_at_ms=end_ms + 240),
        )

    def said(self) -> list[tuple[str, str]]:
        return [(message.role, message.text) for message in self.conversation.history]

    def of[T](self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


def start(content_id: str, kind: str, role: str, stage: str | None = None) -> messages.OutputContentStart:
    rate = RATE if kind == "AUDIO" else None
    return messages.OutputContentStart(
        content_id=content_id, type=kind, role=role, stage=stage, sample_rate=rate
    )


def end(content_id: str, kind: str, stop: str) -> messages.OutputContentEnd:
    return messages.OutputContentEnd(content_id=content_id, type=kind, stop_reason=stop)


def spoken(text: str) -> messages.TextOutput:
    return messages.TextOutput(role="ASSISTANT", content=text)


def sound(seconds: float, content_id: str = "") -> list[messages.AudioOutput]:
    """Chunks of 80 ms."""
    pcm = bytes(round(seconds * RATE) * 2)
    return [
        messages.AudioOutput(content_id=content_id, content=pcm[at : at + 3840])
        for at in range(0, len(pcm), 3840)
    ]


def _within(content_id: str, message: OutputMessage) -> OutputMessage:
    return replace(message, content_id=content_id) if isinstance(message, messages.BlockOutput) else message


def types(produced: Iterable[Event]) -> list[str]:
    """The names of events, runs of audio as one."""
    return [name for name, _ in itertools.groupby(type(event).__name__ for event in produced)]


def seconds(produced: Iterable[Event]) -> float:
    return sum(event.duration for event in produced if isinstance(event, AudioChunk))


def type_text(conversation: Conversation, text: str, now: float = 100.0) -> None:
    """What a session tells the conversation when the program types."""
    for message in messages.text_block(text, prompt_name="p", role="USER", interactive=True):
        conversation.sent(message, now)


def answers(conversation: Conversation, id_: str, text: str, now: float) -> list[Event]:
    """Answer a tool call."""
    block = messages.tool_block(text, prompt_name="p", tool_use_id=id_)
    return [event for message in block for event in conversation.sent(message, now)]


class Heard:
    """A player that has played so much of each turn."""

    def __init__(self, *seconds: float | None) -> None:
        self._seconds = seconds

    def heard(self, turn: int) -> float | None:
        return self._seconds[turn - 1]


# --- a turn -----------------------------------------------------------------------------------------------


def test_a_plain_turn_is_told_from_the_first_sound_to_the_last_word() -> None:
    service = Service()
    service.say(messages.UserSpeechStart(offset_ms=1200))
    service.hears_user("how are you?")
    service.say(messages.UserSpeechEnd(offset_ms=2000, detected_at_ms=2240))
    service.plans("I am fine.")
    service.speaks(1.6, stop="END_TURN")
    service.confirms("I am fine.", stop="END_TURN")
    assert types(service.events) == [
        "UserSpeechStarted",
        "Transcript",
        "UserSpeechEnded",
        "TurnStarted",
        "Transcript",
        "AudioChunk",
        "TurnEnded",
        "Transcript",
    ]
    assert {event.turn for event in service.events} == {1}
    assert [(each.role, each.stage, each.text) for each in service.of(Transcript)] == [
        ("USER", "FINAL", "how are you?"),
        ("ASSISTANT", "SPECULATIVE", "I am fine."),
        ("ASSISTANT", "FINAL", "I am fine."),
    ]
    assert service.of(UserSpeechStarted)[0].offset == 1.2
    assert (service.of(UserSpeechEnded)[0].offset, service.of(UserSpeechEnded)[0].detected_at) == (2.0, 2.24)
    [ended] = service.of(TurnEnded)
    assert (ended.reason, ended.interrupted) == ("END_TURN", False)
    assert seconds(service.events) == pytest.approx(1.6)
    assert service.said() == [("USER", "how are you?"), ("ASSISTANT", "I am fine.")]


def test_every_event_brings_the_messages_that_it_was_made_of() -> None:
    service = Service()
    service.hears_speech()
    service.hears_user("hello.")
    service.plans("Hello.")
    service.speaks(0.1, stop="END_TURN")
    service.is_interrupted()
    service.calls("t1")
    service.say(messages.UsageEvent(delta=Usage(text_input=1)), messages.UnknownMessage(name="x", payload=1))
    assert all(len(event.source) == 1 for event in service.events)


def test_a_turn_of_several_segments_is_one_turn() -> None:
    service = Service()
    service.plans("One sentence.")
    service.speaks(1.0)
    service.plans(" And another.")
    service.speaks(2.0, stop="END_TURN")
    assert types(service.events) == [
        "TurnStarted",
        "Transcript",
        "AudioChunk",
        "Transcript",
        "AudioChunk",
        "TurnEnded",
    ]
    assert service.conversation.turns == 1
    service.confirms("One sentence.", stop="END_TURN")
    service.confirms(" And another.")
    assert service.conversation.turns == 1
    assert service.said() == [("ASSISTANT", "One sentence. And another.")]


def test_the_next_planned_text_after_the_end_of_a_turn_begins_another() -> None:
    service = Service()
    for text in ("First.", "Second.", "Third."):
        service.plans(text)
        service.speaks(stop="END_TURN")
    assert [event.turn for event in service.of(TurnStarted)] == [1, 2, 3]
    assert [event.turn for event in service.of(TurnEnded)] == [1, 2, 3]


@pytest.mark.parametrize("order", ["before", "after", "around", "inside"])
def test_the_users_words_may_come_at_any_side_of_the_end_of_the_users_speech(order: str) -> None:
    """All four were seen."""
    service = Service()
    speech_end = messages.UserSpeechEnd(offset_ms=800, detected_at_ms=1040)
    service.say(messages.UserSpeechStart(offset_ms=0))
    match order:
        case "before":
            service.hears_user("where is it?")
            service.say(speech_end)
        case "after":
            service.say(speech_end)
            service.hears_user("where is it?")
        case "around":
            service.hears_user("where")
            service.say(speech_end)
            service.hears_user("is it?")
        case _:
            service.say(
                start("u", "TEXT", "USER", "FINAL"),
                speech_end,
                messages.TextOutput(content_id="u", role="USER", content="where is it?"),
                end("u", "TEXT", "PARTIAL_TURN"),
            )
    service.plans("Here.")
    assert service.said() == [("USER", "where is it?"), ("ASSISTANT", "Here.")]
    assert {event.turn for event in service.events} == {1}


def test_the_pieces_of_what_the_user_said_are_read_as_one() -> None:
    service = Service()
    service.say(messages.UserSpeechStart(offset_ms=0))
    service.hears_user("we want to see the")
    service.hears_user("old town hall")
    service.say(messages.UserSpeechEnd(offset_ms=3000, detected_at_ms=3240))
    service.hears_user(" and the bridge.")
    service.plans("Follow me.")
    assert service.said()[0] == ("USER", "we want to see the old town hall and the bridge.")


def test_the_words_of_one_block_are_read_as_they_come() -> None:
    """A blank belongs between blocks, and not into a word."""
    service = Service()
    said = [messages.TextOutput(role="USER", content=piece) for piece in ("tomo", "rrow ", "morning")]
    service.block("TEXT", "USER", "FINAL", *said)
    service.hears_user("at six.")
    assert service.said() == [("USER", "tomorrow morning at six.")]


def test_an_echo_of_typed_text_may_come_in_pieces() -> None:
    service = Service()
    type_text(service.conversation, "What time is it?")
    echo = [messages.TextOutput(role="USER", content=piece) for piece in ("What ti", "me is it?")]
    service.block("TEXT", "USER", "FINAL", *echo)
    assert service.said() == [("USER", "What time is it?")]


def test_what_the_user_says_without_an_answer_belongs_to_the_next_one() -> None:
    """Who goes on speaking before the model begins drops its answer unseen; the later one is to all."""
    service = Service()
    for text in ("tell me about", "no, wait.", "what is new?"):
        service.hears_speech()
        service.hears_user(text)
        service.say(messages.UsageEvent(delta=Usage(text_output=11)))
    service.plans("Nothing.")
    service.speaks(stop="END_TURN")
    assert service.said() == [
        ("USER", "tell me about no, wait. what is new?"),
        ("ASSISTANT", "Nothing."),
    ]
    assert len(service.of(TurnStarted)) == 1
    assert not service.of(Interrupted)


def test_neither_the_start_nor_the_end_of_a_completion_is_one_of_a_turn() -> None:
    """They stand around the whole stream."""
    service = Service()
    service.plans("Hello.")
    assert service.say(messages.CompletionEnd(stop_reason="END_TURN"), messages.CompletionStart()) == []
    service.speaks(stop="END_TURN")
    assert len(service.of(TurnEnded)) == len(service.of(TurnStarted)) == 1


def test_a_confirmation_that_says_end_turn_ends_no_turn() -> None:
    """The first of several carries it."""
    service = Service()
    service.plans("One.")
    service.speaks()
    service.confirms("One.", stop="END_TURN")
    assert not service.of(TurnEnded)
    service.plans("Two.")
    service.speaks(stop="END_TURN")
    assert [event.turn for event in service.of(TurnEnded)] == [1]


@pytest.mark.parametrize("reason", ["MAX_TOKENS", "CONTENT_FILTERED", "TOOL_USE"])
def test_audio_that_ends_for_a_reason_that_is_not_known_ends_the_turn(reason: str) -> None:
    service = Service()
    service.plans("Hello.")
    service.speaks(stop=reason)
    assert [(event.turn, event.reason) for event in service.of(TurnEnded)] == [(1, reason)]


@pytest.mark.parametrize("reason", ["PARTIAL_TURN", ""])
def test_audio_that_ends_without_the_end_of_the_turn_goes_on(reason: str) -> None:
    service = Service()
    service.plans("Hello.")
    service.speaks(stop=reason)
    service.plans(" Again.")
    assert not service.of(TurnEnded)
    assert len(service.of(TurnStarted)) == 1


# --- confirmations ----------------------------------------------------------------------------------------


def test_a_confirmation_that_comes_in_the_next_turn_is_filed_in_its_own() -> None:
    """It comes when its audio has been played; typed text may be answered long before."""
    service = Service()
    type_text(service.conversation, "Tell me a long story.")
    service.plans("Once upon a time.")
    service.speaks(9.0, stop="END_TURN")
    type_text(service.conversation, "And the weather?")
    service.plans("It rains.")
    service.speaks(1.0, stop="END_TURN")
    produced = [*service.confirms("Once upon a time.", stop="END_TURN"), *service.confirms("It rains.")]
    assert [event.turn for event in produced] == [1, 2]
    assert service.said() == [
        ("USER", "Tell me a long story."),
        ("ASSISTANT", "Once upon a time."),
        ("USER", "And the weather?"),
        ("ASSISTANT", "It rains."),
    ]


def test_confirmations_in_another_order_are_filed_by_their_words() -> None:
    service = Service()
    service.plans("One.")
    service.speaks()
    service.plans("Two.")
    service.speaks(stop="END_TURN")
    service.confirms("Two.")
    service.is_interrupted()
    assert service.said() == [("ASSISTANT", "Two.")]


def test_a_confirmation_in_other_words_is_that_of_the_earliest_segment() -> None:
    """What was spoken is what the service says was spoken."""
    service = Service()
    service.plans("It is 7 degrees.")
    service.speaks()
    service.plans("Take a coat.")
    service.speaks(stop="END_TURN")
    service.confirms("It is seven degrees.")
    service.is_interrupted()
    assert service.said() == [("ASSISTANT", "It is seven degrees.")]


def test_segments_with_the_same_words_are_confirmed_one_by_one() -> None:
    service = Service()
    for _ in range(3):
        service.plans("Hip hip hurray!")
        service.speaks()
    service.confirms("Hip hip hurray!")
    service.confirms("Hip hip hurray!")
    service.is_interrupted()
    assert service.said() == [("ASSISTANT", "Hip hip hurray! Hip hip hurray!")]


def test_what_was_spoken_without_a_plan_was_spoken_all_the_same() -> None:
    service = Service()
    service.hears_user("hello.")
    service.confirms("Hello to you.")
    assert service.said() == [("USER", "hello."), ("ASSISTANT", "Hello to you.")]
    service.confirms("How are you?")
    assert service.said()[-1] == ("ASSISTANT", "Hello to you. How are you?")


def test_a_session_that_closes_early_keeps_what_it_was_about_to_hear() -> None:
    """The service does not flush the confirmations that are not due yet."""
    service = Service()
    service.hears_user("say two things.")
    service.plans("The first.")
    service.speaks()
    service.plans("The second.")
    service.speaks(stop="END_TURN")
    service.confirms("The first.")
    service.say(messages.CompletionEnd(stop_reason="END_TURN"))
    assert service.said()[-1] == ("ASSISTANT", "The first. The second.")


# --- interruptions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", strategies.MARKERS)
def test_a_user_who_breaks_in_after_the_audio_has_come_interrupts_what_plays(marker: str) -> None:
    """The service speaks five times faster than it plays, so this is the usual case."""
    service = Service()
    service.hears_user("tell me something.")
    service.plans("Something long.")
    service.speaks(8.0, stop="END_TURN")
    service.say(messages.UserSpeechStart(offset_ms=5400))
    produced = service.is_interrupted(marker)
    assert types(produced) == ["Interrupted"]
    assert produced[0].turn == 1
    [ended] = service.of(TurnEnded)
    assert (ended.interrupted, ended.reason) == (False, "END_TURN")
    service.confirms("Something long.")
    history = service.conversation.history
    assert (history[-1].text, history[-1].interrupted) == ("Something long.", True)
    service.hears_user("stop.")
    service.plans("All right.")
    assert service.of(TurnStarted)[-1].turn == 2
    assert service.said() == [
        ("USER", "tell me something."),
        ("ASSISTANT", "Something long."),
        ("USER", "stop."),
        ("ASSISTANT", "All right."),
    ]


def test_a_user_who_breaks_in_while_audio_comes_ends_the_turn() -> None:
    service = Service()
    service.plans("Something long.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    service.say(messages.UserSpeechStart(offset_ms=5400), end("a", "AUDIO", "PARTIAL_TURN"))
    produced = service.is_interrupted()
    assert types(produced) == ["Interrupted", "TurnEnded"]
    [ended] = service.of(TurnEnded)
    assert (ended.interrupted, ended.reason) == (True, "INTERRUPTED")
    service.confirms("Something long.")
    assert service.conversation.history[-1].interrupted
    service.plans("Yes?")
    assert service.of(TurnStarted)[-1].turn == 2


@pytest.mark.parametrize("kind", ["TEXT", "AUDIO"])
def test_a_block_that_ends_interrupted_is_an_interruption_without_the_marker(kind: str) -> None:
    service = Service()
    service.plans("Something.")
    service.speaks(stop="END_TURN")
    service.say(end("odd", kind, "INTERRUPTED"))
    assert [event.turn for event in service.of(Interrupted)] == [1]


def test_the_marker_alone_is_an_interruption() -> None:
    service = Service()
    service.plans("Something.")
    service.block("TEXT", "ASSISTANT", "FINAL", spoken(strategies.COMPACT_MARKER))
    assert [event.turn for event in service.of(Interrupted)] == [1]


def test_an_interruption_is_told_once_however_often_the_service_says_it() -> None:
    service = Service()
    service.plans("Something.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"), end("a", "AUDIO", "INTERRUPTED"))
    service.is_interrupted()
    service.is_interrupted()
    assert len(service.of(Interrupted)) == len(service.of(TurnEnded)) == 1


def test_an_interruption_of_nothing_is_none() -> None:
    service = Service()
    assert service.is_interrupted() == []
    assert service.conversation.turns == 0


@pytest.mark.parametrize("role", ["ASSISTANT", "", "SOMEBODY"])
@pytest.mark.parametrize("opened", [True, False])
def test_the_marker_is_never_a_transcript(role: str, *, opened: bool) -> None:
    """It is not for eyes or ears, whoever is said to have said it."""
    service = Service()
    service.plans("Something.")
    for at, marker in enumerate(strategies.MARKERS):
        if opened:
            service.say(start(f"m{at}", "TEXT", role))
        service.say(messages.TextOutput(content_id=f"m{at}", role=role, content=marker))
    assert [event.text for event in service.of(Transcript)] == ["Something."]
    assert len(service.of(Interrupted)) == 1


def test_a_user_may_dictate_the_marker() -> None:
    service = Service()
    service.plans("Something.")
    service.hears_user(strategies.COMPACT_MARKER)
    assert not service.of(Interrupted)
    assert service.of(Transcript)[-1].text == strategies.COMPACT_MARKER


def test_audio_that_comes_late_is_dropped() -> None:
    """The player has dropped its own; the rest would be heard as a hiccup."""
    service = Service()
    service.plans("Something long.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    service.is_interrupted()
    assert service.say(*sound(0.4, "a"), end("a", "AUDIO", "END_TURN")) == []
    assert service.speaks(1.0, stop="END_TURN") == []
    assert seconds(service.events) == pytest.approx(0.4)
    assert service.conversation.turns == 1


def test_audio_of_an_earlier_turn_that_comes_later_still_is_dropped_too() -> None:
    """Of what was interrupted and what was to be played before, nothing is heard any more."""
    service = Service()
    service.plans("One.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    service.speaks(stop="END_TURN")
    service.hears_user("two?")
    service.plans("Two.")
    service.speaks()
    service.is_interrupted()
    assert service.say(*sound(0.4, "a")) == []


def test_what_was_planned_and_not_begun_before_an_interruption_was_not_said() -> None:
    service = Service()
    for text in ("One.", "Two.", "Three."):
        service.plans(text)
        service.speaks(stop="END_TURN" if text == "Three." else "PARTIAL_TURN")
    service.confirms("One.", stop="END_TURN")
    service.is_interrupted()
    service.confirms("Two.")
    assert service.said() == [("ASSISTANT", "One. Two.")]
    assert service.conversation.history[0].interrupted


def test_an_answer_that_was_cut_before_it_was_heard_leaves_no_trace_in_history() -> None:
    service = Service()
    service.hears_user("what is the")
    service.plans("Do you mean the time?")
    service.is_interrupted()
    service.hears_user("best way home?")
    service.plans("Left.")
    assert service.said() == [("USER", "what is the best way home?"), ("ASSISTANT", "Left.")]


def test_the_answer_after_an_interruption_is_a_message_of_its_own() -> None:
    """Even if the user only made a sound, and no word of it was understood."""
    service = Service()
    service.plans("One.")
    service.speaks(stop="END_TURN")
    service.is_interrupted()
    service.confirms("One.")
    service.plans("Two.")
    service.speaks(stop="END_TURN")
    assert [(each.text, each.interrupted) for each in service.conversation.history] == [
        ("One.", True),
        ("Two.", False),
    ]


def test_an_interruption_also_cuts_an_earlier_answer_that_still_plays() -> None:
    service = Service()
    type_text(service.conversation, "A story, please.")
    service.plans("Once upon a time.")
    service.speaks(9.0)
    service.plans("And so on.")
    service.speaks(9.0, stop="END_TURN")
    type_text(service.conversation, "And the weather.")
    service.plans("It rains.")
    service.speaks(1.0, stop="END_TURN")
    service.is_interrupted()
    service.confirms("Once upon a time.")
    assert [event.turn for event in service.of(Interrupted)] == [2]
    assert service.said() == [
        ("USER", "A story, please."),
        ("ASSISTANT", "Once upon a time."),
        ("USER", "And the weather."),
    ]


def test_an_answer_that_was_played_before_the_user_spoke_is_not_cut_by_a_later_interruption() -> None:
    """Whoever speaks while an answer plays interrupts it; so what was not interrupted then was heard."""
    service = Service()
    service.hears_user("one?")
    service.plans("First answer.")
    service.speaks(stop="END_TURN")
    service.hears_user("two?")
    service.plans("Second answer.")
    service.speaks(stop="END_TURN")
    service.is_interrupted()
    assert service.said() == [("USER", "one?"), ("ASSISTANT", "First answer."), ("USER", "two?")]
    assert not service.conversation.history[1].interrupted


def test_an_answer_that_was_confirmed_in_full_is_not_cut_by_a_later_interruption() -> None:
    service = Service()
    type_text(service.conversation, "One?")
    service.plans("First answer.")
    service.speaks(stop="END_TURN")
    service.confirms("First answer.", stop="END_TURN")
    type_text(service.conversation, "Two?")
    service.plans("Second answer.")
    service.speaks(stop="END_TURN")
    service.is_interrupted()
    service.confirms("Second answer.")
    assert [message.interrupted for message in service.conversation.history] == [False, False, False, True]


def test_an_answer_was_played_if_a_later_one_was_confirmed() -> None:
    service = Service()
    type_text(service.conversation, "One?")
    service.plans("First answer.")
    service.speaks(stop="END_TURN")
    type_text(service.conversation, "Two?")
    service.plans("Second answer.")
    service.speaks()
    service.plans("Much more.")
    service.speaks(stop="END_TURN")
    service.confirms("Second answer.")
    service.is_interrupted()
    assert [text for _, text in service.said()] == ["One?", "First answer.", "Two?", "Second answer."]


def test_answers_without_a_confirmation_are_not_kept_for_ever() -> None:
    service = Service()
    for number in range(40):
        type_text(service.conversation, f"Question {number}.")
        service.plans(f"Answer {number}.")
        service.speaks(0.1, stop="END_TURN")
    assert len(service.conversation.history) == 80
    service.is_interrupted()
    assert ("ASSISTANT", "Answer 20.") in service.said()


# --- what was heard ---------------------------------------------------------------------------------------


def interrupted_after(heard: float | None, *segments: tuple[str, float]) -> Message:
    """What history holds of an answer whose segments were all begun."""
    conversation = Conversation()
    conversation.player = Heard(heard)
    service = Service(conversation)
    for text, length in segments:
        service.plans(text)
        service.speaks(length)
    for text, _ in segments[:-1]:
        service.confirms(text)
    service.is_interrupted()
    service.confirms(segments[-1][0])
    [interruption] = service.of(Interrupted)
    assert interruption.heard == heard
    [message] = conversation.history
    return message


def test_without_a_player_nobody_knows_how_much_was_heard() -> None:
    service = Service()
    service.plans("Something.")
    service.speaks(stop="END_TURN")
    assert isinstance(found := service.is_interrupted()[0], Interrupted)
    service.confirms("Something.")
    assert found.heard is None
    [message] = service.conversation.history
    assert (message.heard, message.heard_text) == (None, None)


def test_a_player_that_does_not_know_is_no_player() -> None:
    message = interrupted_after(None, ("Something.", 1.0))
    assert (message.interrupted, message.heard, message.heard_text) == (True, None, None)


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (0.0, ""),
        (0.1, ""),
        (1.0, "One two"),
        (1.9, "One two three"),
        (2.0, "One two three four."),
        (99.0, "One two three four."),
    ],
)
def test_what_was_heard_is_cut_in_proportion_and_at_a_word(heard: float, text: str) -> None:
    message = interrupted_after(heard, ("One two three four.", 2.0))
    assert message.text == "One two three four."
    assert (message.heard, message.heard_text) == (heard, text)


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (0.5, "One"),
        (1.0, "One two."),
        (2.0, "One two. Three"),
        (3.0, "One two. Three four."),
    ],
)
def test_what_was_heard_goes_on_from_segment_to_segment(heard: float, text: str) -> None:
    message = interrupted_after(heard, ("One two.", 1.0), ("Three four.", 2.0))
    assert message.heard_text == text


def test_of_an_answer_whose_audio_never_came_nothing_was_heard() -> None:
    conversation = Conversation()
    conversation.player = Heard(0.0)
    service = Service(conversation)
    service.plans("Something.")
    service.is_interrupted()
    service.confirms("Something.")
    assert conversation.history[0].heard_text == ""


def test_a_player_is_asked_about_every_answer_that_is_cut() -> None:
    conversation = Conversation()
    conversation.player = Heard(1.0, 0.0)
    service = Service(conversation)
    service.plans("One two.")
    service.speaks(2.0, stop="END_TURN")
    service.plans("Three.")
    service.speaks(1.0, stop="END_TURN")
    service.is_interrupted()
    service.confirms("One two.")
    [message] = conversation.history
    assert (message.heard, message.heard_text) == (1.0, "One")


def test_an_answer_that_was_not_interrupted_was_heard_in_full_and_does_not_say_so() -> None:
    conversation = Conversation()
    conversation.player = Heard(0.5)
    service = Service(conversation)
    service.plans("Something.")
    service.speaks(stop="END_TURN")
    assert (conversation.history[0].heard, conversation.history[0].heard_text) == (None, None)


def test_what_was_heard_includes_what_the_model_had_said_before_in_the_same_message() -> None:
    conversation = Conversation(history=[Message(role="ASSISTANT", text="Welcome.")])
    conversation.player = Heard(1.0)
    service = Service(conversation)
    service.plans("One two.")
    service.speaks(2.0)
    service.is_interrupted()
    service.confirms("One two.")
    assert conversation.history == (
        Message(
            role="ASSISTANT",
            text="Welcome. One two.",
            interrupted=True,
            heard=1.0,
            heard_text="Welcome. One",
        ),
    )


# --- oddities ---------------------------------------------------------------------------------------------


def test_a_text_without_a_stage_is_planned_first_and_then_confirmed() -> None:
    service = Service()
    service.block("TEXT", "ASSISTANT", None, spoken("Hello."))
    service.speaks(stop="END_TURN")
    service.block("TEXT", "ASSISTANT", None, spoken("Hello."))
    assert [event.stage for event in service.of(Transcript)] == ["SPECULATIVE", "FINAL"]
    assert service.said() == [("ASSISTANT", "Hello.")]
    assert service.conversation.turns == 1


@pytest.mark.parametrize("stage", ["SPECULATIVE", "FINAL", None])
def test_a_text_may_come_in_several_pieces(stage: str | None) -> None:
    """None did, but nothing says that none will."""
    service = Service()
    service.block("TEXT", "ASSISTANT", stage, spoken("Hello,"), spoken(" world."))
    assert "".join(event.text for event in service.of(Transcript)) == "Hello, world."
    assert service.said() == [("ASSISTANT", "Hello, world.")]


def test_a_stage_that_is_newer_than_this_library_is_handed_over() -> None:
    service = Service()
    [event] = service.block("TEXT", "ASSISTANT", "THOUGHT", spoken("Let me see."))
    assert isinstance(event, Transcript)
    assert (event.stage, event.text) == ("THOUGHT", "Let me see.")
    assert service.said() == []


def test_a_role_that_is_newer_than_this_library_is_handed_over() -> None:
    service = Service()
    [event] = service.block("TEXT", "NARRATOR", None, messages.TextOutput(content="Meanwhile."))
    assert isinstance(event, Transcript)
    assert (event.role, event.text) == ("NARRATOR", "Meanwhile.")
    assert service.said() == []


def test_what_the_user_said_is_final_whatever_the_stage() -> None:
    service = Service()
    [event] = service.block("TEXT", "USER", None, messages.TextOutput(role="USER", content="hello."))
    assert isinstance(event, Transcript)
    assert event.stage == "FINAL"


def test_blocks_that_were_not_opened_are_understood() -> None:
    service = Service()
    service.say(
        messages.TextOutput(content_id="u", role="USER", content="what is it like?"),
        messages.TextOutput(content_id="p", role="ASSISTANT", content="Cold."),
        *sound(0.4, "a"),
        end("a", "AUDIO", "END_TURN"),
        messages.ToolUse(content_id="t", tool_use_id="t1", tool_name="weather"),
    )
    assert types(service.events) == [
        "Transcript",
        "TurnStarted",
        "Transcript",
        "AudioChunk",
        "TurnEnded",
        "TurnStarted",
        "ToolCall",
    ]
    assert service.of(AudioChunk)[0].sample_rate == RATE
    assert service.said() == [("USER", "what is it like?"), ("ASSISTANT", "Cold.")]


@pytest.mark.parametrize(
    ("stage", "said"),
    [("SPECULATIVE", ["TurnStarted", "Transcript"]), ("FINAL", ["TurnStarted", "Transcript"])],
)
def test_a_block_that_was_opened_without_a_role_is_of_who_speaks(stage: str, said: list[str]) -> None:
    service = Service()
    assert types(service.block("TEXT", "", stage, spoken("Cold."))) == said
    assert service.said() == [("ASSISTANT", "Cold.")]


def test_words_that_are_none_are_not_in_history() -> None:
    service = Service()
    service.hears_user(" ")
    service.plans("")
    service.speaks(stop="END_TURN")
    assert service.said() == []


def test_a_block_that_was_opened_without_a_type_is_what_it_holds() -> None:
    service = Service()
    service.say(
        start("p", "", "ASSISTANT", "SPECULATIVE"),
        messages.TextOutput(content_id="p", content="Cold."),
        messages.OutputContentStart(content_id="a", sample_rate=8_000),
        *sound(0.1, "a"),
        end("a", "", "END_TURN"),
        start("t", "", ""),
        messages.ToolUse(content_id="t", tool_use_id="t1", tool_name="weather"),
    )
    assert types(service.events) == [
        "TurnStarted",
        "Transcript",
        "AudioChunk",
        "TurnEnded",
        "TurnStarted",
        "ToolCall",
    ]
    assert service.of(AudioChunk)[0].sample_rate == 8_000
    assert service.of(ToolCall)[0].turn == 2


def test_the_end_of_a_block_that_was_not_opened_is_the_end_of_a_turn() -> None:
    service = Service()
    service.plans("Hello.")
    service.say(end("never opened", "AUDIO", "END_TURN"))
    assert len(service.of(TurnEnded)) == 1
    service.say(end("never opened", "AUDIO", "END_TURN"), end("nor this", "VIDEO", "END_TURN"))
    assert len(service.of(TurnEnded)) == 1


def test_the_end_of_audio_before_any_turn_is_nothing() -> None:
    assert Service().say(end("never opened", "AUDIO", "END_TURN")) == []


def test_the_end_of_a_block_need_not_say_its_type() -> None:
    service = Service()
    service.plans("Hello.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.1, "a"), end("a", "", "END_TURN"))
    assert len(service.of(TurnEnded)) == 1


def test_audio_without_a_text_is_a_turn() -> None:
    service = Service()
    service.speaks(0.4, stop="END_TURN")
    assert types(service.events) == ["TurnStarted", "AudioChunk", "TurnEnded"]


def test_what_is_not_known_is_handed_over() -> None:
    service = Service()
    [event] = service.say(messages.UnknownMessage(name="userEmotion", payload={"mood": "calm"}))
    assert isinstance(event, UnknownEvent)
    assert (event.name, event.payload) == ("userEmotion", {"mood": "calm"})


@pytest.mark.parametrize("cuts", [(1,), (3, 4), (1, 1), (0,), (5, 6, 7)])
def test_half_a_sample_waits_for_its_other_half(cuts: tuple[int, ...]) -> None:
    """A player that gets half a sample turns speech into noise."""
    pcm = bytes(range(8))
    edges = [0, *cuts, len(pcm)]
    pieces = [pcm[first:last] for first, last in itertools.pairwise(edges)]
    service = Service()
    service.plans("Hello.")
    service.say(start("a", "AUDIO", "ASSISTANT"))
    service.say(*(messages.AudioOutput(content_id="a", content=piece) for piece in pieces))
    chunks = [event.pcm for event in service.of(AudioChunk)]
    assert b"".join(chunks) == pcm
    assert all(chunk and len(chunk) % 2 == 0 for chunk in chunks)


def test_half_a_sample_does_not_get_into_another_block() -> None:
    service = Service()
    service.plans("Hello.")
    for name, pcm in (("a", b"\1\1\2"), ("b", b"\3\3")):
        service.say(
            start(name, "AUDIO", "ASSISTANT"),
            messages.AudioOutput(content_id=name, content=pcm),
            end(name, "AUDIO", "PARTIAL_TURN"),
        )
    assert [event.pcm for event in service.of(AudioChunk)] == [b"\1\1", b"\3\3"]


def test_audio_comes_at_the_rate_of_its_block() -> None:
    service = Service()
    service.say(
        messages.OutputContentStart(content_id="a", type="AUDIO", role="ASSISTANT", sample_rate=8_000),
        messages.AudioOutput(content_id="a", content=bytes(1600)),
    )
    [chunk] = service.of(AudioChunk)
    assert (chunk.sample_rate, chunk.duration) == (8_000, 0.1)


# --- tools ------------------------------------------------------------------------------------------------


def test_a_tool_may_be_called_before_a_word_is_said() -> None:
    service = Service()
    service.hears_user("what is the weather?")
    produced = service.calls("t1", '{"city":"Oslo"}')
    assert types(produced) == ["TurnStarted", "ToolCall"]
    [call] = service.of(ToolCall)
    assert (call.id, call.name, call.arguments, call.error) == ("t1", "weather", {"city": "Oslo"}, None)
    service.plans("It is cold.")
    service.speaks(stop="END_TURN")
    assert {event.turn for event in service.events} == {1}
    assert service.said() == [("USER", "what is the weather?"), ("ASSISTANT", "It is cold.")]


def test_the_model_may_speak_first_and_then_call() -> None:
    service = Service()
    service.plans("Let me see.")
    service.speaks()
    service.calls("t1")
    service.plans("It is cold.")
    service.speaks(stop="END_TURN")
    assert service.conversation.turns == 1
    assert service.said() == [("ASSISTANT", "Let me see. It is cold.")]


@pytest.mark.parametrize("arguments", ['{"city":"Oslo"}', json.dumps('{"city":"Oslo"}')])
def test_arguments_may_be_encoded_twice(arguments: str) -> None:
    service = Service()
    service.calls("t1", arguments)
    assert service.of(ToolCall)[0].arguments == {"city": "Oslo"}


@pytest.mark.parametrize("arguments", ["", "{}", '""'])
def test_a_tool_may_have_no_arguments(arguments: str) -> None:
    service = Service()
    service.calls("t1", arguments)
    assert (service.of(ToolCall)[0].arguments, service.of(ToolCall)[0].error) == ({}, None)


@pytest.mark.parametrize("arguments", ["[1]", "Oslo", '{"city":'])
def test_arguments_that_cannot_be_read_are_told_with_the_call(arguments: str) -> None:
    """The call wants an answer all the same."""
    service = Service()
    service.calls("t1", arguments)
    [call] = service.of(ToolCall)
    assert call.arguments == {}
    assert call.error == "the arguments are no JSON object"


def test_a_call_that_comes_twice_is_run_once() -> None:
    service = Service()
    service.calls("t1")
    service.calls("t1")
    service.calls("t2")
    assert [call.id for call in service.of(ToolCall)] == ["t1", "t2"]


@pytest.mark.parametrize("before", ["", "Let me see."])
def test_a_user_who_speaks_while_a_tool_runs_begins_a_new_turn(before: str) -> None:
    """Tools run while the conversation goes on, and what is said stays in its order."""
    service = Service()
    service.hears_user("what is the weather?")
    if before:
        service.plans(before)
        service.speaks()
    service.calls("t1")
    service.hears_user("and how are you?")
    service.plans("I am fine.")
    service.speaks(stop="END_TURN")
    service.plans("It is cold.")
    service.speaks(stop="END_TURN")
    assert [(event.turn, event.reason) for event in service.of(TurnEnded)] == [
        (1, "TOOL_USE"),
        (2, "END_TURN"),
        (3, "END_TURN"),
    ]
    assert service.said() == [
        ("USER", "what is the weather?"),
        ("ASSISTANT", before),  # if nothing else, it has called a tool
        ("USER", "and how are you?"),
        ("ASSISTANT", "I am fine. It is cold."),
    ]


def test_a_user_whose_words_come_while_the_model_tells_what_a_tool_found_ends_no_turn() -> None:
    service = Service()
    service.calls("t1")
    service.plans("It is cold.")
    service.hears_user("aha.")
    service.speaks(stop="END_TURN")
    assert [(event.turn, event.reason) for event in service.of(TurnEnded)] == [(1, "END_TURN")]


def test_a_call_and_its_answer_are_told_and_kept() -> None:
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1", '{"city": "Oslo"}')
    service.calls("t2")
    [answer] = answers(service.conversation, "t1", '{"celsius": 7}', service.now + 0.5)
    assert answer == ToolResult(turn=1, id="t1", name="weather", result={"celsius": 7}, elapsed=0.5)
    service.plans("It is cold.")
    service.speaks(stop="END_TURN")
    [ended] = service.of(TurnEnded)
    assert [(run.id, run.arguments, run.result) for run in ended.tool_calls] == [
        ("t1", {"city": "Oslo"}, {"celsius": 7}),
        ("t2", {}, None),
    ]
    [failed] = answers(service.conversation, "t2", '{"error": "no such city"}', service.now)
    assert isinstance(failed, ToolResult)
    assert failed.error == "no such city"
    runs = service.conversation.history[-1].tool_calls
    assert [(run.result, run.error) for run in runs] == [
        ({"celsius": 7}, None),
        ({"error": "no such city"}, "no such city"),
    ]


def test_an_answer_to_no_call_is_nothing_to_tell() -> None:
    service = Service()
    assert answers(service.conversation, "t1", "{}", 0.0) == []


@pytest.mark.parametrize("echo", [False, True])
def test_what_the_program_makes_the_model_say_is_none_of_the_users_words(*, echo: bool) -> None:
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1")
    service.conversation.fold.prompted("c1")
    block = messages.text_block(
        "Say that it takes long.", prompt_name="p", role="USER", interactive=True, content_name="c1"
    )
    for message in block:
        service.conversation.sent(message, service.now)
    if echo:
        service.hears_user("Say that it takes long.")
    service.plans("It takes long.")
    service.speaks(stop="END_TURN")
    assert service.said() == [("USER", "what is the weather?"), ("ASSISTANT", "It takes long.")]
    assert [event.turn for event in service.of(TurnEnded)] == [1]


def test_a_user_who_types_while_a_tool_runs_begins_a_new_turn() -> None:
    service = Service()
    type_text(service.conversation, "What is the weather?")
    service.plans("Let me see.")
    service.speaks()
    service.calls("t1")
    type_text(service.conversation, "And how are you?")
    service.plans("I am fine.")
    service.speaks(stop="END_TURN")
    assert [(event.turn, event.reason) for event in service.of(TurnEnded)] == [
        (1, "TOOL_USE"),
        (2, "END_TURN"),
    ]
    assert service.said() == [
        ("USER", "What is the weather?"),
        ("ASSISTANT", "Let me see."),
        ("USER", "And how are you?"),
        ("ASSISTANT", "I am fine."),
    ]


def test_a_user_whose_words_come_while_the_model_speaks_ends_no_turn() -> None:
    """Only an interruption does, and only the service knows whether it is one."""
    service = Service()
    service.plans("Something long.")
    service.hears_user("aha.")
    service.speaks(stop="END_TURN")
    assert [event.turn for event in service.of(TurnEnded)] == [1]
    assert len(service.of(TurnStarted)) == 1


# --- typed text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", ["What time is it?", " What time is it? "])
def test_typed_text_is_in_history_once_with_an_echo_of_the_service_and_without(echo: str) -> None:
    for echoes in (False, True):
        service = Service()
        type_text(service.conversation, "What time is it?")
        if echoes:
            service.hears_user(echo)
        service.plans("Noon.")
        assert service.said() == [("USER", "What time is it?"), ("ASSISTANT", "Noon.")]


def test_typed_and_spoken_words_of_one_turn_are_one_message() -> None:
    service = Service()
    type_text(service.conversation, "My name is Ada.")
    service.hears_user("what is my name?")
    service.plans("Ada.")
    assert service.said()[0] == ("USER", "My name is Ada. what is my name?")


@pytest.mark.parametrize("echoes", [[], ["One."], ["Two."], ["One.", "Two."], ["Two.", "One."]])
def test_texts_that_are_typed_one_after_the_other_are_in_history_once_each(echoes: list[str]) -> None:
    service = Service()
    type_text(service.conversation, "One.")
    type_text(service.conversation, "Two.")
    for echo in echoes:
        service.hears_user(echo)
    assert service.said() == [("USER", "One. Two.")]


def test_a_user_who_says_what_was_typed_has_said_it_after_the_echo() -> None:
    service = Service()
    type_text(service.conversation, "Again.")
    service.hears_user("Again.")
    service.hears_user("Again.")
    assert service.said() == [("USER", "Again. Again.")]


def test_a_long_text_that_is_typed_in_parts_is_one_text() -> None:
    text = "word " * 1000
    service = Service()
    type_text(service.conversation, text)
    service.hears_user(text)
    assert service.said() == [("USER", text)]


def test_only_what_the_model_is_to_answer_is_part_of_the_conversation() -> None:
    """The system prompt and the history are sent in the same way."""
    conversation = Conversation()
    for role in ("SYSTEM", "USER", "ASSISTANT"):
        for message in messages.text_block("Be brief.", prompt_name="p", role=role):
            conversation.sent(message, 1.0)
    for message in messages.tool_block("{}", prompt_name="p", tool_use_id="t1"):
        conversation.sent(message, 1.0)
    assert conversation.history == ()


def test_what_was_said_before_stands_before_what_is_said_now() -> None:
    before = (Message(role="USER", text="Hi."), Message(role="ASSISTANT", text="Hello."))
    service = Service(Conversation(history=before))
    service.hears_user("how are you?")
    assert service.conversation.history == (*before, Message(role="USER", text="how are you?"))


def test_what_was_said_is_not_shown() -> None:
    assert "secret" not in repr(Message(role="USER", text="secret", heard_text="secret"))


# --- latency ----------------------------------------------------------------------------------------------


def listen(conversation: Conversation, seconds: float, *, since: float) -> None:
    """Audio goes out in frames of 32 ms from `since` on, each when it has been said."""
    for number in range(round(seconds / 0.032)):
        frame = messages.AudioInput(prompt_name="p", content_name="a", content=bytes(1024))
        conversation.sent(frame, since + (number + 1) * 0.032)


def test_the_latency_runs_from_the_end_of_what_the_user_said() -> None:
    """By the clock of the audio that was sent: the service tells only a place in it."""
    service = Service()
    listen(service.conversation, 3.2, since=50.0)
    service.now = 53.2
    service.say(messages.UserSpeechStart(offset_ms=320), messages.UserSpeechEnd(offset_ms=1600))
    service.hears_user("hello?")
    service.now = 53.5
    service.plans("Hello.")
    service.now = 53.7
    service.speaks(stop="END_TURN")
    [ended] = service.of(TurnEnded)
    assert ended.latency.text == pytest.approx(53.5 - 51.6)
    assert ended.latency.audio == pytest.approx(53.7 - 51.6)


def test_the_latency_runs_from_the_last_window_of_several() -> None:
    service = Service()
    listen(service.conversation, 6.4, since=0.0)
    service.now = 6.4
    for end_ms in (1600, 3200):
        service.say(messages.UserSpeechEnd(offset_ms=end_ms))
        service.hears_user("and")
    service.plans("Yes?")
    service.speaks(stop="END_TURN")
    latency = service.of(TurnEnded)[0].latency
    assert latency.text == latency.audio == pytest.approx(3.2)


def test_the_latency_of_typed_text_runs_from_its_sending() -> None:
    service = Service()
    type_text(service.conversation, "Hello?", now=10.0)
    service.now = 10.5
    service.plans("Hello.")
    service.now = 10.75
    service.speaks(stop="END_TURN")
    assert service.of(TurnEnded)[0].latency == Latency(text=0.5, audio=0.75)


def test_where_the_end_of_speech_is_not_told_the_latency_runs_from_the_words() -> None:
    """Version 1 of the model."""
    service = Service()
    service.now = 10.0
    service.hears_user("hello?")
    service.now = 10.5
    service.plans("Hello.")
    service.speaks(stop="END_TURN")
    assert service.of(TurnEnded)[0].latency == Latency(text=0.5, audio=0.5)


def test_a_turn_that_nobody_asked_for_has_no_latency() -> None:
    """Such as the one in which the model tells what a tool has found."""
    service = Service()
    type_text(service.conversation, "Look it up, and go on.", now=10.0)
    service.plans("I do.")
    service.speaks(stop="END_TURN")
    service.plans("Here it is.")
    service.speaks(stop="END_TURN")
    assert service.of(TurnEnded)[1].latency == Latency()


def test_an_interruption_says_how_long_it_took_to_be_noticed() -> None:
    service = Service()
    listen(service.conversation, 6.4, since=0.0)
    service.plans("Something long.")
    service.speaks(stop="END_TURN")
    service.now = 6.5
    service.say(messages.UserSpeechStart(offset_ms=6400))
    [interruption] = service.is_interrupted()
    assert isinstance(interruption, Interrupted)
    assert interruption.latency == pytest.approx(0.1)


def test_a_place_in_audio_that_was_not_sent_has_no_time() -> None:
    service = Service()
    service.say(messages.UserSpeechStart(offset_ms=6400), messages.UserSpeechEnd(offset_ms=7000))
    service.plans("Something.")
    service.speaks(stop="END_TURN")
    [interruption] = service.is_interrupted()
    assert isinstance(interruption, Interrupted)
    assert interruption.latency is None
    assert service.of(TurnEnded)[0].latency == Latency()


def test_a_place_in_audio_that_was_sent_long_ago_has_no_time() -> None:
    """Only so many are remembered: with frames of 1 ms, four seconds."""
    service = Service()
    for number in range(10_000):
        frame = messages.AudioInput(prompt_name="p", content_name="a", content=bytes(32))
        service.conversation.sent(frame, number / 1000)
    service.now = 10.0
    service.plans("Something.")
    service.say(messages.UserSpeechStart(offset_ms=100))
    [interruption, _] = service.is_interrupted()
    assert isinstance(interruption, Interrupted)
    assert interruption.latency is None


def test_the_clock_of_the_audio_knows_its_rate() -> None:
    service = Service(Conversation(sample_rate=8_000))
    for number in range(100):
        frame = messages.AudioInput(prompt_name="p", content_name="a", content=bytes(1600))
        service.conversation.sent(frame, (number + 1) * 0.1)
    service.now = 10.0
    service.plans("Something.")
    service.say(messages.UserSpeechStart(offset_ms=9000))
    [interruption, _] = service.is_interrupted()
    assert isinstance(interruption, Interrupted)
    assert interruption.latency == pytest.approx(1.0)


# --- usage ------------------------------------------------------------------------------------------------


def test_usage_adds_up_at_the_prices_of_the_model() -> None:
    prices: Prices | None = lookup("amazon.nova-2-sonic-v1:0").prices
    assert prices is not None
    service = Service(Conversation(prices=prices))
    service.say(
        messages.UsageEvent(delta=Usage(speech_input=157)),
        messages.UsageEvent(delta=Usage(text_output=20, speech_output=4)),
    )
    [first, second] = service.of(UsageUpdated)
    assert (first.total, second.total) == (
        Usage(speech_input=157),
        Usage(speech_input=157, text_output=20, speech_output=4),
    )
    assert second.delta.cost() == pytest.approx((20 * 2.75 + 4 * 12) / 1e6)
    assert service.conversation.usage.cost() == second.total.cost() > second.delta.cost()


# --- one stream after the other ---------------------------------------------------------------------------


def story(service: Service, *segments: tuple[str, float], confirmed: int = 0) -> None:
    """An answer to the user, all of which has come; the first so many segments were heard."""
    service.hears_speech()
    service.hears_user("tell me.")
    for at, (text, length) in enumerate(segments, 1):
        service.plans(text)
        service.speaks(length, stop="END_TURN" if at == len(segments) else "PARTIAL_TURN")
    for text, _ in segments[:confirmed]:
        service.confirms(text)


def test_an_old_stream_finishes_what_it_says_while_another_listens() -> None:
    old = Service()
    old.hears_user("tell me.")
    old.plans("One.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(1.0, "a"))
    new = old.hands_over()
    assert types(old.say(*sound(1.0, "a"), end("a", "AUDIO", "PARTIAL_TURN"))) == ["AudioChunk"]
    assert types(old.plans("Two.")) == ["Transcript"]
    assert types(old.speaks(1.5, stop="END_TURN")) == ["AudioChunk", "TurnEnded"]
    old.now += 4
    new.hears_speech()
    new.hears_user("and then?")
    assert [event.turn for event in (*old.confirms("One."), *old.confirms("Two."))] == [1, 1]
    assert old.fold.over
    new.plans("Three.")
    new.speaks(stop="END_TURN")
    assert [event.turn for event in new.of(TurnStarted)] == [1, 2]
    assert [(event.turn, event.reason) for event in new.of(TurnEnded)] == [(1, "END_TURN"), (2, "END_TURN")]
    assert seconds(event for event in new.events if event.turn == 1) == pytest.approx(3.5)
    assert new.said() == [
        ("USER", "tell me."),
        ("ASSISTANT", "One. Two."),
        ("USER", "and then?"),
        ("ASSISTANT", "Three."),
    ]


@pytest.mark.parametrize("when", ["before", "during", "never opened"])
@pytest.mark.parametrize("answering", [True, False])
def test_only_the_stream_that_listens_tells_about_the_user(when: str, *, answering: bool) -> None:
    """It hears again what the old one had not turned into text."""
    old = Service()
    if answering:
        old.plans("Something long.")
    old.say(messages.UserSpeechStart(offset_ms=400))
    if when == "before":
        old.say(start("u", "TEXT", "USER", "FINAL"))
    new = old.hands_over()
    if when == "during":
        old.say(start("u", "TEXT", "USER", "FINAL"))
    said = messages.TextOutput(content_id="u", role="USER", content="how are you?")
    assert old.say(said, messages.UserSpeechEnd(offset_ms=900), end("u", "TEXT", "PARTIAL_TURN")) == []
    new.hears_speech(400, 900)
    new.hears_user("how are you?")
    assert [event.text for event in new.of(Transcript) if event.role == "USER"] == ["how are you?"]
    assert new.said()[-1] == ("USER", "how are you?")
    assert old.say(messages.UserSpeechStart(offset_ms=2000)) == []


@pytest.mark.parametrize("finished", [True, False])
def test_an_old_stream_begins_nothing_new(*, finished: bool) -> None:
    """What the user has asked is asked again of the one that listens."""
    old = Service()
    if finished:
        story(old, ("One.", 1.0), confirmed=1)
    before = old.said()
    new = old.hands_over()
    assert old.plans("Two.") == old.speaks(stop="END_TURN") == old.calls("t1") == []
    assert old.confirms("Three.") == []
    assert old.say(*sound(0.1, "x"), messages.TextOutput(content_id="y", content="Two.")) == []
    assert old.say(messages.ToolUse(content_id="z", tool_use_id="t2")) == old.is_left() == []
    assert new.said() == before


def test_what_is_counted_on_several_streams_adds_up() -> None:
    old = Service(Conversation(usage=Usage(speech_output=1)))
    old.say(messages.UsageEvent(delta=Usage(speech_input=10)))
    new = old.hands_over()
    new.say(messages.UsageEvent(delta=Usage(speech_input=100)))
    old.say(messages.UsageEvent(delta=Usage(speech_input=1000)))
    assert [event.total.speech_input for event in new.of(UsageUpdated)] == [10, 110, 1110]
    assert new.conversation.usage == Usage(speech_input=1110, speech_output=1)


def test_what_is_not_known_is_handed_over_on_whatever_stream_it_comes() -> None:
    old = Service()
    old.hands_over()
    assert types(old.say(messages.UnknownMessage(name="userEmotion", payload={}))) == ["UnknownEvent"]


def test_the_service_counts_seconds_on_each_stream_and_a_listener_over_all() -> None:
    old = Service(Conversation(sample_rate=8_000))
    old.hears_speech(500, 1500)
    new = old.hands_over(base=80_000)
    new.hears_speech(500, 1500)
    newer = new.hands_over(base=120_000)
    newer.hears_speech(500, 1500)
    assert [event.offset for event in newer.of(UserSpeechStarted)] == [0.5, 10.5, 15.5]
    assert [(event.offset, event.detected_at) for event in newer.of(UserSpeechEnded)] == [
        (1.5, 1.74),
        (11.5, 11.74),
        (16.5, 16.74),
    ]


def test_the_ids_of_one_stream_mean_nothing_on_another() -> None:
    old = Service()
    old.plans("One.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    new = old.hands_over()
    new.plans("Two.")
    new.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    old.say(*sound(0.4, "a"), end("a", "AUDIO", "END_TURN"))
    assert [(event.turn, event.reason) for event in new.of(TurnEnded)] == [(1, "END_TURN")]
    assert [turn for turn, _ in itertools.groupby(event.turn for event in new.of(AudioChunk))] == [1, 2, 1]


# --- breaking in on an old stream -------------------------------------------------------------------------


@pytest.mark.parametrize("player", [Heard(4.0), None])
def test_a_user_breaks_in_on_an_old_stream_which_does_not_hear_it(player: Heard | None) -> None:
    old = Service()
    old.conversation.player = player
    story(old, ("One two three.", 3.0), ("Four five six seven.", 3.0), ("Eight.", 2.0))
    new = old.hands_over()
    listen(new.conversation, 3.2, since=old.now + 0.8)
    old.now += 4.0
    produced = new.say(messages.UserSpeechStart(offset_ms=3200))
    assert types(produced) == ["UserSpeechStarted", "Interrupted"]
    [interruption] = new.of(Interrupted)
    assert (interruption.turn, interruption.heard) == (1, 4.0 if player else None)
    assert interruption.latency == pytest.approx(0.0)
    assert old.fold.over
    new.hears_user("wait.")
    assert new.said() == [
        ("USER", "tell me."),
        ("ASSISTANT", "One two three. Four five six seven."),
        ("USER", "wait."),
    ]
    message = new.conversation.history[1]
    assert message.interrupted
    assert (message.heard, message.heard_text) == ((4.0, "One two three. Four") if player else (None, None))
    assert len(new.of(TurnEnded)) == 1


def test_of_an_answer_that_was_broken_in_on_an_old_stream_says_nothing_more() -> None:
    """Neither sound, nor its own marker, nor what it takes for heard."""
    old = Service()
    old.plans("One.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(1.0, "a"))
    new = old.hands_over()
    old.now += 0.5
    assert types(new.say(messages.UserSpeechStart(offset_ms=100))) == [
        "UserSpeechStarted",
        "Interrupted",
        "TurnEnded",
    ]
    [ended] = new.of(TurnEnded)
    assert (ended.interrupted, ended.reason) == (True, "INTERRUPTED")
    assert old.say(*sound(1.0, "a"), end("a", "AUDIO", "PARTIAL_TURN")) == []
    assert old.is_interrupted() == old.confirms("One.") == []
    assert old.plans("Two.") == old.speaks(stop="END_TURN") == old.calls("t1") == old.is_left() == []
    assert new.say(messages.UserSpeechEnd(offset_ms=500), messages.UserSpeechStart(offset_ms=900)) != []
    assert len(new.of(Interrupted)) == 1
    assert new.said() == [("ASSISTANT", "One.")]


def test_an_answer_that_was_not_begun_when_the_user_broke_in_was_not_heard() -> None:
    old = Service()
    old.conversation.player = Heard(0.0)
    story(old, ("One.", 3.0))
    new = old.hands_over()
    new.say(messages.UserSpeechStart(offset_ms=100))
    new.hears_user("wait.")
    assert new.said() == [("USER", "tell me. wait.")]


@pytest.mark.parametrize("player", [Heard(3.0), None])
def test_nobody_breaks_in_on_an_answer_that_was_heard_to_its_end(player: Heard | None) -> None:
    """Its confirmation is due in a moment."""
    old = Service()
    old.conversation.player = player
    story(old, ("One.", 1.0), ("Two.", 2.0), confirmed=1)
    new = old.hands_over()
    old.now += 3.0
    assert types(new.say(messages.UserSpeechStart(offset_ms=3000))) == ["UserSpeechStarted"]
    assert types(old.confirms("Two.")) == ["Transcript"]
    assert new.said()[-1] == ("ASSISTANT", "One. Two.")
    assert not new.conversation.history[-1].interrupted


def test_a_stream_may_have_heard_the_user_break_in_just_before_another_listens() -> None:
    """It says so, and what was heard; the other one hears the same sound."""
    old = Service()
    story(old, ("One.", 3.0), ("Two.", 3.0))
    old.now += 1.0
    old.say(messages.UserSpeechStart(offset_ms=1000))
    new = old.hands_over(base=16_000)
    assert types(old.is_interrupted()) == ["Interrupted"]
    assert not old.fold.over
    assert types(new.say(messages.UserSpeechStart(offset_ms=0))) == ["UserSpeechStarted"]
    assert types(old.confirms("One.")) == ["Transcript"]
    assert old.fold.over
    assert old.confirms("Two.") == []
    new.hears_user("wait.")
    assert [text for _, text in new.said()] == ["tell me.", "One.", "wait."]


def test_a_confirmation_may_be_under_way_while_the_user_breaks_in() -> None:
    """What it confirms was begun, and is in history already."""
    old = Service()
    story(old, ("One.", 3.0))
    new = old.hands_over()
    old.now += 2.9
    old.say(start("f", "TEXT", "ASSISTANT", "FINAL"))
    assert types(new.say(messages.UserSpeechStart(offset_ms=100))) == ["UserSpeechStarted", "Interrupted"]
    old.say(messages.TextOutput(content_id="f", content="One."), end("f", "TEXT", "PARTIAL_TURN"))
    assert new.said() == [("USER", "tell me."), ("ASSISTANT", "One.")]


def one_behind_the_other() -> Service:
    """What an old stream has said is still played, and the user has typed meanwhile."""
    old = Service()
    old.conversation.player = Heard(3.0, 0.0)
    story(old, ("One.", 9.0))
    new = old.hands_over()
    new.now += 3.0
    type_text(new.conversation, "And the weather?")
    new.plans("It rains.")
    return new


def test_who_breaks_in_on_two_streams_breaks_in_once() -> None:
    """What one has said is still played, and what the other has said waits behind it."""
    new = one_behind_the_other()
    new.say(start("a", "AUDIO", "ASSISTANT"), *sound(1.0, "a"))
    produced = new.say(messages.UserSpeechStart(offset_ms=3000))
    assert types(produced) == ["UserSpeechStarted", "Interrupted", "TurnEnded"]
    assert [(event.turn, event.heard) for event in new.of(Interrupted)] == [(2, 0.0)]
    assert new.say(*sound(1.0, "a"), end("a", "AUDIO", "PARTIAL_TURN")) == []
    assert new.is_interrupted() == []
    new.confirms("It rains.")
    assert [(each.text, each.heard, each.heard_text) for each in new.conversation.history] == [
        ("tell me.", None, None),
        ("One.", 3.0, ""),
        ("And the weather?", None, None),
        ("It rains.", 0.0, ""),
    ]


def test_an_answer_still_plays_although_a_later_one_was_confirmed_on_another_stream() -> None:
    """That one does not know that its answer has to wait."""
    new = one_behind_the_other()
    new.speaks(1.0, stop="END_TURN")
    new.confirms("It rains.", stop="END_TURN")
    new.say(messages.UserSpeechStart(offset_ms=3000))
    assert [event.turn for event in new.of(Interrupted)] == [2]
    assert [message.interrupted for message in new.conversation.history] == [False, True, False, True]


def test_an_interruption_cuts_nothing_that_was_heard_on_a_stream_before() -> None:
    """A stream that was lost confirms nothing any more."""
    old = Service()
    old.hears_user("tell me.")
    old.plans("One.")
    old.speaks(1.0)
    _, new = old.is_lost()
    old.now += 5.0
    new.plans("Two.")
    new.speaks(9.0, stop="END_TURN")
    new.say(messages.UserSpeechStart(offset_ms=1000))
    assert [event.turn for event in new.is_interrupted() if isinstance(event, Interrupted)] == [2]
    new.confirms("Two.")
    assert new.said() == [("USER", "tell me."), ("ASSISTANT", "One. Two.")]


@pytest.mark.parametrize("text", ["Of course.", "Of course!"])
def test_a_stream_confirms_only_what_it_has_said_itself(text: str) -> None:
    """Even if another one had the same words, or nearly."""
    old = Service()
    old.hears_user("may I?")
    old.plans("Of course.")
    old.speaks(1.0)
    _, new = old.is_lost()
    old.now += 5.0
    new.plans("Of course.")
    new.speaks(1.0)
    new.plans("Two.")
    new.speaks(9.0, stop="END_TURN")
    new.confirms(text)
    new.is_interrupted()
    assert new.said() == [("USER", "may I?"), ("ASSISTANT", f"Of course. {text}")]


# --- a stream that is lost --------------------------------------------------------------------------------


@pytest.mark.parametrize(("wait", "left"), [(0.1, ("Say goodbye.",)), (1.0, ())])
def test_what_the_program_has_asked_for_is_left_to_the_next_stream_until_the_model_has_spoken(
    wait: float, left: tuple[str, ...]
) -> None:
    """What it says at once was thought of before."""
    old = Service()
    old.conversation.fold.prompted("c1")
    for message in messages.text_block(
        "Say goodbye.", prompt_name="p", role="USER", interactive=True, content_name="c1"
    ):
        old.conversation.sent(message, old.now)
    old.now += wait
    old.plans("Goodbye.")
    assert old.is_lost()[0].prompts == left


def test_a_stream_that_is_lost_in_the_middle_of_a_sentence_has_not_said_it() -> None:
    """It is said again."""
    old = Service()
    old.hears_user("tell me.")
    old.plans("One.")
    old.speaks(1.0)
    old.plans(" Two.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    left, new = old.is_lost()
    assert left == Left(
        history=(Message(role="USER", text="tell me."), Message(role="ASSISTANT", text="One.")),
        unfinished="Two.",
    )
    [ended] = new.of(TurnEnded)
    assert (ended.turn, ended.reason, ended.interrupted) == (1, "LOST", False)
    new.plans("Two.")
    new.speaks(1.0, stop="END_TURN")
    new.confirms("Two.")
    assert [event.turn for event in new.of(TurnStarted)] == [1, 2]
    assert new.said() == [("USER", "tell me."), ("ASSISTANT", "One. Two.")]


def test_a_stream_may_be_lost_between_two_sentences() -> None:
    old = Service()
    old.plans("One.")
    old.speaks(1.0)
    left, new = old.is_lost()
    assert left.unfinished == ""
    assert [event.reason for event in new.of(TurnEnded)] == ["LOST"]
    assert new.said() == [("ASSISTANT", "One.")]


def test_a_sentence_that_was_planned_and_not_begun_is_unfinished_too() -> None:
    old = Service()
    old.hears_user("tell me.")
    old.plans("One.")
    left, _ = old.is_lost()
    assert (left.unfinished, left.history) == ("One.", (Message(role="USER", text="tell me."),))


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_answer_that_had_come_in_full_is_not_lost_with_its_stream(*, interrupted: bool) -> None:
    old = Service()
    story(old, ("One.", 1.0), ("Two.", 1.0), confirmed=2)
    if interrupted:
        old.is_interrupted()
    left, new = old.is_lost()
    assert (left.unfinished, left.unanswered) == (None, False)
    assert [event.reason for event in new.of(TurnEnded)] == ["END_TURN"]
    assert new.said()[-1] == ("ASSISTANT", "One. Two.")


def test_a_stream_that_is_lost_before_anything_was_said_leaves_nothing() -> None:
    left, new = Service().is_lost()
    assert left == Left(history=())
    assert new.events == []


def test_a_sentence_that_broke_off_stays_so_until_the_model_speaks_again() -> None:
    """The next stream may be lost as well before it does."""
    old = Service()
    old.plans("One.")
    left, new = old.is_lost()
    again, newer = new.is_lost()
    assert left.unfinished == again.unfinished == "One."
    assert len(newer.of(TurnEnded)) == 1
    newer.plans("One.")
    newer.speaks(stop="END_TURN")
    assert newer.is_lost()[0].unfinished is None


def test_a_user_who_breaks_in_on_what_came_of_a_sentence_does_not_want_the_rest() -> None:
    """It was sent faster than it plays, so it is heard for a while, and must be stopped."""
    old = Service()
    old.plans("One.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(6.0, "a"))
    _, new = old.is_lost()
    old.now += 3.0
    assert types(new.say(messages.UserSpeechStart(offset_ms=100))) == ["UserSpeechStarted", "Interrupted"]
    new.hears_user("wait.")
    left, _ = new.is_lost()
    assert (left.unfinished, left.unanswered) == (None, True)


def test_of_a_sentence_that_broke_off_while_words_of_the_user_came_nothing_was_said() -> None:
    old = Service()
    old.plans("One.")
    old.speaks(1.0)
    old.plans("Two.")
    old.hears_user("aha.")
    left, new = old.is_lost()
    assert left.unanswered
    assert [text for _, text in new.said()] == ["One.", "aha."]


@pytest.mark.parametrize("typed", [True, False])
def test_what_the_user_has_said_without_an_answer_is_left_over(*, typed: bool) -> None:
    service = Service(Conversation(history=[Message(role="USER", text="Hi.")]))
    assert not service.conversation.left(lost=False).unanswered
    if typed:
        type_text(service.conversation, "How are you?")
    else:
        service.hears_user("how are you?")
    left = service.conversation.left(lost=False)
    assert left.unanswered
    assert left.history[-1].text in ("Hi. How are you?", "Hi. how are you?")
    service.plans("I am fine.")
    assert not service.conversation.left(lost=False).unanswered


def test_words_that_are_none_want_no_answer() -> None:
    service = Service()
    service.hears_user(" ")
    assert not service.conversation.left(lost=True).unanswered


# --- tools and several streams ----------------------------------------------------------------------------


def calls_left(service: Service) -> list[tuple[str, dict[str, Any] | None]]:
    return [(run.id, run.result) for run in service.conversation.left(lost=False).calls]


def test_tools_that_the_model_waits_for_are_left_over_until_it_has_spoken_about_their_results() -> None:
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1")
    service.calls("t2")
    assert calls_left(service) == [("t1", None), ("t2", None)]
    answers(service.conversation, "t1", '{"celsius": 7}', service.now)
    assert calls_left(service) == [("t1", {"celsius": 7}), ("t2", None)]
    answers(service.conversation, "t2", "{}", service.now)
    assert calls_left(service) == [("t1", {"celsius": 7}), ("t2", {})]
    service.now += 0.5
    service.plans("It is cold.")
    assert calls_left(service) == []
    service.calls("t3")
    assert calls_left(service) == [("t3", None)]


def test_a_result_is_left_over_although_the_model_has_spoken_about_something_else() -> None:
    """Tools run while the conversation goes on; the model speaks about their results afterwards."""
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1")
    service.hears_user("and how are you?")
    service.plans("I am")
    answers(service.conversation, "t1", '{"celsius": 7}', service.now)
    service.plans(" fine.")
    service.speaks(stop="END_TURN")
    assert calls_left(service) == [("t1", {"celsius": 7})]
    service.now += 0.5
    service.plans("It is cold.")
    assert calls_left(service) == []


def test_what_comes_at_once_after_a_result_is_not_about_it() -> None:
    """A fast tool answers before the model has said that it looks; the result is spoken about after that."""
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1")
    answers(service.conversation, "t1", '{"celsius": 7}', service.now)
    service.now += 0.02
    service.plans("Let me see.")
    service.speaks(20.0, stop="END_TURN")
    assert calls_left(service) == [("t1", {"celsius": 7})]
    service.now += 20.1
    assert service.fold.owes(service.now), "it was not heard to its end"
    service.confirms("Let me see.", stop="END_TURN")
    assert service.fold.owes(service.now + 5.0), "and now it is due"
    assert not service.fold.owes(service.now + 30.0), "nobody waits for ever"
    service.plans("It is cold.")
    assert calls_left(service) == []


def test_a_result_that_was_told_is_left_over_if_the_next_stream_is_lost_too() -> None:
    old = Service()
    old.calls("t1")
    answers(old.conversation, "t1", '{"celsius": 7}', old.now)
    left, new = old.is_lost()
    again, newer = new.is_lost()
    assert [run.id for run in left.calls] == [run.id for run in again.calls] == ["t1"]
    newer.now += 0.5
    newer.plans("It is cold.")
    assert newer.conversation.left(lost=False).calls == ()


@pytest.mark.parametrize("lost", [True, False])
def test_a_turn_in_which_the_model_waits_for_a_tool_ends_with_its_stream(*, lost: bool) -> None:
    """A call is known on its own stream only: the result goes another way."""
    old = Service()
    old.hears_user("what is the weather?")
    old.plans("Let me see.")
    old.speaks(1.0)
    old.calls("t1", '{"city": "Oslo"}')
    new = old.is_lost()[1] if lost else old.hands_over()
    [ended] = new.of(TurnEnded)
    assert (ended.reason, [run.id for run in ended.tool_calls]) == ("TOOL_USE", ["t1"])
    assert new.conversation.left(lost=False).unfinished is None
    if not lost:
        assert types(old.confirms("Let me see.")) == ["Transcript"]
        assert old.plans("I wait.") == []
    [answer] = new.fold.answered("t1", '{"celsius": 7}', new.now + 1.5)
    assert answer == ToolResult(turn=1, id="t1", name="weather", result={"celsius": 7}, elapsed=1.5)
    assert new.fold.answered("t1", "{}", new.now) == []
    new.plans("It is cold.")
    new.speaks(stop="END_TURN")
    assert new.said() == [("USER", "what is the weather?"), ("ASSISTANT", "Let me see. It is cold.")]
    [run] = new.conversation.history[-1].tool_calls
    assert run.result == {"celsius": 7}


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_stream_may_call_a_tool_while_it_finishes_what_it_says(*, goes_on: bool) -> None:
    """It will not get the result. It may go on without; what it does not say, another stream says."""
    old = Service()
    old.hears_user("what is the weather?")
    old.plans("Let me see.")
    new = old.hands_over()
    old.speaks(1.0)
    assert types(old.calls("t1")) == ["ToolCall"]
    new.hears_user("well?")
    if goes_on:
        old.plans("It is cold.")
        old.speaks(1.0, stop="END_TURN")
        assert old.is_left() == []
    else:
        assert new.conversation.audible(old.now + 0.9)
        assert not new.conversation.audible(old.now + 3.0)
        assert types(old.is_left()) == ["TurnEnded"]
    assert len(new.of(TurnStarted)) == 1
    assert [event.reason for event in new.of(TurnEnded)] == ["END_TURN" if goes_on else "TOOL_USE"]
    assert [text for _, text in new.said()] == [
        "what is the weather?",
        "Let me see. It is cold." if goes_on else "Let me see.",
        "well?",
    ]


# --- leaving an old stream --------------------------------------------------------------------------------


def test_what_a_stream_has_not_confirmed_when_it_is_left_counts_as_heard() -> None:
    """And only once, if it should confirm it after all."""
    old = Service()
    story(old, ("One.", 1.0), ("Two.", 1.0), confirmed=1)
    new = old.hands_over()
    assert not old.fold.over
    assert old.is_left() == []
    assert old.fold.over
    assert old.confirms("Two.") == []
    assert new.said() == [("USER", "tell me."), ("ASSISTANT", "One. Two.")]


def test_an_answer_that_breaks_off_while_an_old_stream_finishes_it_ends_all_the_same() -> None:
    old = Service()
    old.plans("One.")
    old.speaks(1.0)
    new = old.hands_over()
    old.plans("Two.")
    old.say(start("a", "AUDIO", "ASSISTANT"), *sound(0.4, "a"))
    [ended] = old.is_left()
    assert isinstance(ended, TurnEnded)
    assert (ended.turn, ended.reason, ended.interrupted) == (1, "LOST", False)
    assert old.say(*sound(0.4, "a"), end("a", "AUDIO", "END_TURN")) == []
    assert new.said() == [("ASSISTANT", "One.")]
    assert len(new.of(TurnEnded)) == 1


def test_the_user_breaks_in_on_what_is_still_played_of_a_stream_that_was_left() -> None:
    """The service closes it after eight minutes, however long its answer plays."""
    old = Service()
    story(old, ("One.", 30.0), ("Two.", 30.0))
    new = old.hands_over()
    old.now += 20.0
    old.is_left()
    assert types(new.say(messages.UserSpeechStart(offset_ms=100))) == ["UserSpeechStarted", "Interrupted"]
    assert new.said() == [("USER", "tell me."), ("ASSISTANT", "One.")]


# --- what another stream must hear again ------------------------------------------------------------------

BASE: Final = 160_000  # samples that were sent on other streams
_LATER: Final = messages.UserSpeechStart(offset_ms=2700)
_LATER_END: Final = messages.UserSpeechEnd(offset_ms=3000, detected_at_ms=3100)


def place(sample: int | None) -> float | None:
    """Where it is in the audio of its stream, in ms."""
    return None if sample is None else (sample - BASE) / 16


@pytest.mark.parametrize(
    ("steps", "untold"),
    [
        ("S", [700]),
        ("S text E", [700, 3200, None]),
        ("S E text", [700, 700, None]),
        ("S text E text", [700, 3200, None, None]),
        ("S open E inside", [700, 700, 700, None]),
        ("S text text E", [700, 3200, 3200, None]),
        ("S E S2 text E2", [700, 700, 700, 3200, None]),  # goes on before any of it is text
        ("S text E S2 text E2", [700, 3200, None, 2400, 3200, None]),
        ("S text E S2 E2 text", [700, 3200, None, 2400, 2400, None]),
        ("S E wait S2", [700, 700, 700, 2400]),  # a cough that nobody waits for any more
        ("S E plan", [700, 700, None]),  # answered without being told
        ("S plan", [700, 700]),  # speaks while the model goes on
        ("S S2", [700, 700]),
        ("text", [None]),  # version 1 does not say when the user speaks
    ],
)
def test_what_the_user_has_said_is_untold_until_a_text_comes_of_it(
    steps: str, untold: list[float | None]
) -> None:
    """In every order in which the service was seen to say so, after 3.2 s of audio."""
    service = Service().hands_over(base=BASE)
    listen(service.conversation, 3.2, since=service.now - 3.2)
    found = list[float | None]()
    for step in steps.split():
        match step:
            case "S":
                service.say(messages.UserSpeechStart(offset_ms=1000))
            case "E":
                service.say(messages.UserSpeechEnd(offset_ms=2000, detected_at_ms=2240))
            case "S2":
                service.say(_LATER)
            case "E2":
                service.say(_LATER_END)
            case "text":
                service.hears_user("hello")
            case "open":
                service.say(start("u", "TEXT", "USER", "FINAL"))
            case "inside":
                service.say(messages.TextOutput(content_id="u", role="USER", content="hello"))
            case "plan":
                service.plans("Hello.")
            case _:
                service.now += 10
        found.append(place(service.fold.untold))
    assert found == untold


def test_nothing_is_heard_again_that_an_earlier_stream_has_heard() -> None:
    service = Service().hands_over(base=BASE)
    assert service.fold.heard == BASE
    service.say(messages.UserSpeechStart(offset_ms=100))
    assert place(service.fold.untold) == 0


def test_how_far_the_service_has_heard_is_known_as_far_as_it_tells() -> None:
    service = Service().hands_over(base=BASE)
    service.say(messages.UserSpeechStart(offset_ms=1000))
    assert service.fold.user_speaks
    assert place(service.fold.heard) == 1000
    service.hears_user("hello.")
    service.say(messages.UserSpeechEnd(offset_ms=2000, detected_at_ms=2240))
    assert not service.fold.user_speaks
    assert place(service.fold.heard) == 2240


# --- what goes on in time ---------------------------------------------------------------------------------


def owes(fold: Fold, *times: float) -> list[bool]:
    return [fold.owes(100.0 + time) for time in times]


def test_an_answer_is_owed_from_the_end_of_what_the_user_said_until_it_comes() -> None:
    service = Service()
    assert owes(service.fold, 0.0) == [False]
    service.say(messages.UserSpeechStart(offset_ms=0))
    assert owes(service.fold, 0.0) == [False]
    service.say(messages.UserSpeechEnd(offset_ms=500))
    assert owes(service.fold, 0.0, 7.9, 8.0) == [True, True, False]  # it was no word
    service.say(messages.UserSpeechStart(offset_ms=1000))
    assert owes(service.fold, 0.0) == [False]  # and none comes
    service.say(messages.UserSpeechEnd(offset_ms=1500))
    service.now += 5
    service.hears_user("hello?")
    assert owes(service.fold, 5.0, 12.9, 13.0) == [True, True, False]
    service.plans("Hello.")
    assert owes(service.fold, 5.0) == [False]
    assert service.fold.generating
    service.speaks(stop="END_TURN")
    assert not service.fold.generating


def test_an_answer_is_owed_to_what_was_typed_as_soon_as_any_of_it_is_on_its_way() -> None:
    service = Service()
    for message in messages.text_block("Hello?", prompt_name="p", role="USER", interactive=True):
        service.conversation.sent(message, service.now)
        assert owes(service.fold, 0.0) == [True]
    assert owes(service.fold, 7.9, 8.0) == [True, False]


def test_an_answer_is_owed_to_the_result_of_a_tool_but_not_to_its_call() -> None:
    """A tool may take long."""
    service = Service()
    service.hears_user("what is the weather?")
    service.calls("t1")
    assert owes(service.fold, 0.0) == [False]
    assert not service.fold.generating
    for message in messages.tool_block("{}", prompt_name="p", tool_use_id="t1"):
        service.conversation.sent(message, service.now)
        assert owes(service.fold, 0.0) == [True]
    assert owes(service.fold, 7.9, 8.0) == [True, False]


def audible(service: Service, *times: float) -> list[bool]:
    return [service.conversation.audible(100.0 + time) for time in times]


def test_an_answer_is_audible_while_it_comes_and_plays_and_a_moment_longer_unless_it_is_confirmed() -> None:
    """The confirmation comes a fraction of a second after the last sound."""
    service = Service()
    assert audible(service, 0.0) == [False]
    service.plans("One.")
    assert audible(service, 0.0, 60.0) == [True, True]
    service.speaks(3.0)
    assert audible(service, 60.0) == [True]
    service.plans("Two.")
    service.speaks(2.0, stop="END_TURN")
    assert audible(service, 4.9, 6.4, 6.6) == [True, True, False]
    service.confirms("One.")
    assert audible(service, 4.9, 6.4, 6.6) == [True, True, False]
    service.confirms("Two.")
    assert audible(service, 5.1) == [False]


def test_an_answer_that_was_confirmed_early_is_audible_as_long_as_it_plays() -> None:
    service = Service()
    service.plans("One.")
    service.say(start("a", "AUDIO", "ASSISTANT"), *sound(3.0, "a"))
    service.confirms("One.")
    service.say(end("a", "AUDIO", "END_TURN"))
    assert audible(service, 2.9, 3.1) == [True, False]


def test_an_answer_is_audible_as_a_player_tells() -> None:
    """It began late, perhaps."""
    service = Service()
    service.conversation.player = Heard(1.5)
    service.plans("One.")
    service.speaks(3.0, stop="END_TURN")
    assert audible(service, 60.0) == [True]
    service.conversation.player = Heard(2.99)
    assert audible(service, 4.4, 4.6) == [True, False]
    service.conversation.player = Heard(None)
    assert audible(service, 2.9, 60.0) == [True, False]


@pytest.mark.parametrize("before", [0.0, 2.0])
def test_a_model_that_waits_for_a_tool_is_audible_only_as_long_as_what_it_has_said(before: float) -> None:
    service = Service()
    if before:
        service.plans("Let me see.")
        service.speaks(before)
    service.calls("t1")
    assert audible(service, 0.1, before + 1.6) == [bool(before), False]


def test_an_answer_that_was_interrupted_is_not_audible() -> None:
    service = Service()
    service.plans("One.")
    service.speaks(9.0, stop="END_TURN")
    service.is_interrupted()
    assert audible(service, 0.1) == [False]


def test_what_an_old_stream_has_said_is_audible_as_well() -> None:
    old = Service()
    story(old, ("One.", 9.0))
    new = old.hands_over()
    assert audible(new, 8.9, 10.6) == [True, False]
    old.confirms("One.")
    assert audible(new, 9.1) == [False]


# --- whatever comes ---------------------------------------------------------------------------------------

_ids = st.sampled_from(["a", "b", "c", "d"])


@dataclass(frozen=True, kw_only=True)
class Moves:
    """How a conversation moves on while the service speaks.

    Attributes:
        at: Before which messages, and whether because a stream was lost.
        back: How many streams before the latest one it is that says a message, one message after the other.
        pace: Seconds from one message to the next.
    """

    at: Mapping[int, bool] = field(default_factory=dict[int, bool])
    back: Sequence[int] = (0,)
    pace: float = 0.0


moves: Final = st.builds(
    Moves,
    at=st.dictionaries(st.integers(0, 30), st.booleans(), max_size=3),
    back=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    pace=st.sampled_from([0.0, 0.1, 1.0]),
)


def folded_over(said: Sequence[OutputMessage], conversation: Conversation, moves: Moves) -> list[Event]:
    """Fold what several streams say, and leave all but the last one."""
    produced, streams = list[Event](), [conversation.fold]  # those that were lost are none
    for number, message in enumerate(said):
        lost = moves.at.get(number)
        if lost is not None:
            left = conversation.left(lost=lost)
            assert left.history == conversation.history
            produced += conversation.move_on(base=number * 100, lost=lost)
            streams = [*streams[: -1 if lost else None], conversation.fold]
        back = moves.back[number % len(moves.back)]
        produced += streams[max(-1 - back, -len(streams))].feed(message, 1.0 + number * moves.pace)
    for stream in streams[:-1]:
        produced += stream.leave()
        assert stream.over
    return produced


def check(
    said: Sequence[OutputMessage],
    conversation: Conversation | None = None,
    moves: Moves = Moves(),
) -> list[Event]:
    """Fold, and see what holds for whatever the service says."""
    conversation = conversation or Conversation()
    produced = folded_over(said, conversation, moves)
    started, ended, cut = list[int](), set[int](), set[int]()
    for event in produced:
        match event:
            case TurnStarted(turn=turn):
                started.append(turn)
                assert turn == len(started)
            case TurnEnded(turn=turn):
                assert turn in started
                assert turn not in ended
                ended.add(turn)
            case Interrupted(turn=turn):
                assert turn == started[-1] or (moves.at and turn in started)
                assert turn not in cut
                cut.add(turn)
            case AudioChunk(turn=turn, pcm=pcm):
                assert turn in started
                assert turn > max(cut, default=0)  # the inbox drops what was waiting, of earlier turns too
                assert pcm
                assert len(pcm) % 2 == 0
                assert event.duration > 0
            case Transcript(role=role, text=text):
                assert role == "USER" or text not in strategies.MARKERS
            case ToolCall(turn=turn):
                assert turn in started
            case _:
                pass
    assert conversation.turns == len(started)
    assert set(started[:-1]) <= ended  # the next begins when one has ended, or on another stream
    deltas = [message.delta for message in said if isinstance(message, messages.UsageEvent)]
    assert conversation.usage == sum(deltas, Usage())
    totals = [event.total for event in produced if isinstance(event, UsageUpdated)]
    assert totals == list(itertools.accumulate(deltas))
    calls = [event.id for event in produced if isinstance(event, ToolCall)]
    assert len(calls) == len(set(calls))
    history = conversation.history
    assert all(message.text.strip() or message.tool_calls for message in history)
    for message, following in itertools.pairwise(history):
        assert message.role != following.role or message.interrupted
    return produced


_anything = st.lists(strategies.output_messages(content_ids=_ids, extra=st.just({})), max_size=40)


@given(_anything)
def test_whatever_the_service_says_makes_sense_to_a_listener(said: list[OutputMessage]) -> None:
    check(said)


@given(_anything, moves)
def test_whatever_several_streams_say_makes_sense_to_a_listener(
    said: list[OutputMessage], moves: Moves
) -> None:
    check(said, moves=moves)


@given(st.lists(strategies.garbage, max_size=12))
def test_whatever_can_be_decoded_can_be_folded(frames: list[bytes]) -> None:
    """Nothing that the service sends can break a session: not a number, not a name, not a missing id."""
    said = list[OutputMessage]()
    for frame in frames:
        try:
            said.append(decode_output(frame))
        except RemoteProtocolError:
            continue
    check(said)


_words = st.integers(0, 8).map("w{}.".format)  # few, so that plans and confirmations meet


@st.composite
def _blocks(draw: st.DrawFn) -> list[OutputMessage]:
    """A block as the service writes it, but for its id."""
    kind = draw(
        st.sampled_from(["user", "plan", "plan", "audio", "audio", "confirm", "confirm", "mark", "tool"])
    )
    match kind:
        case "user":
            return [start("", "TEXT", "USER", "FINAL"), messages.TextOutput(role="USER", content="u.")]
        case "plan" | "confirm":
            stage = "SPECULATIVE" if kind == "plan" else "FINAL"
            return [start("", "TEXT", "ASSISTANT", stage), spoken(draw(_words))]
        case "mark":
            marker = spoken(draw(st.sampled_from(strategies.MARKERS)))
            return [start("", "TEXT", "ASSISTANT", "FINAL"), marker, end("", "TEXT", "INTERRUPTED")]
        case "tool":
            call = messages.ToolUse(tool_use_id=draw(_ids), tool_name="weather")
            return [start("", "TOOL", "TOOL"), call, end("", "TOOL", "TOOL_USE")]
        case _:
            stop = draw(st.sampled_from(["PARTIAL_TURN", "END_TURN"]))
            opening = messages.OutputContentStart(type="AUDIO", role="ASSISTANT", sample_rate=100)
            pcm = messages.AudioOutput(content=bytes(100))  # half a second: hypothesis writes all of it out
            return [opening, pcm, pcm, end("", "AUDIO", stop)]


@st.composite
def interleaved(draw: st.DrawFn) -> list[OutputMessage]:
    """Whole blocks, whose messages come in the order of each, but in any order of all."""
    blocks = [
        [_within(f"block {number}", message) for message in block]
        for number, block in enumerate(draw(st.lists(_blocks(), max_size=12)))
    ]
    if draw(st.booleans()):
        return [message for block in blocks for message in block]
    merged = list[OutputMessage]()
    while blocks := [block for block in blocks if block]:
        merged.append(draw(st.sampled_from(blocks[:3])).pop(0))
    return merged


@given(interleaved())
@settings(max_examples=150)
def test_blocks_may_come_in_any_order_and_inside_one_another(said: list[OutputMessage]) -> None:
    """What belongs together is told by ids."""
    conversation = Conversation()
    produced = check(said, conversation)
    confirmed = {
        event.text
        for event in produced
        if isinstance(event, Transcript) and event.role == "ASSISTANT" and event.stage == "FINAL"
    }
    cut = {event.turn for event in produced if isinstance(event, Interrupted)}
    planned = {True: set[str](), False: set[str]()}  # by whether the turn was cut
    for event in produced:
        if isinstance(event, Transcript) and event.stage == "SPECULATIVE":
            planned[event.turn in cut].add(event.text)
    said_in_the_end = {word for message in conversation.history for word in message.text.split()}
    assert confirmed <= said_in_the_end
    assert not (planned[True] - planned[False] - confirmed) & said_in_the_end


@given(interleaved(), moves)
@settings(max_examples=150)
def test_blocks_may_come_in_any_order_over_several_streams(said: list[OutputMessage], moves: Moves) -> None:
    check(said, moves=moves)


@given(interleaved(), st.floats(0, 5), st.just(Moves()) | moves)
def test_what_was_heard_is_a_beginning_of_what_was_said(
    said: list[OutputMessage], heard: float, moves: Moves
) -> None:
    conversation = Conversation()
    conversation.player = _SameForAll(heard)
    check(said, conversation, moves)
    for message in conversation.history:
        assert (message.heard_text is not None) == message.interrupted
        assert message.text.startswith(message.heard_text or "")


@dataclass(frozen=True, kw_only=True)
class _Word:
    """Something that is said, and the numbers of the messages by which that is so.

    Attributes:
        begun: The one with which what it belongs to begins.
        told: The one that holds it.
        whole: The one after which it has come in full.
        ended: The one after which all has come that it belongs to.
    """

    role: str
    text: str
    begun: int
    told: int
    whole: int
    ended: int


@st.composite
def _dialogues(draw: st.DrawFn) -> tuple[list[OutputMessage], list[_Word]]:
    """Turns as the service tells them, in which no word is said twice."""
    said, spoken_words = list[OutputMessage](), list[_Word]()
    new_id, new_word = (map(f"{kind}{{}}".format, itertools.count()) for kind in ("id", "w"))

    def add(kind: str, role: str, stage: str | None, payload: OutputMessage, stop: str) -> int:
        """Add a block, and return the number of its first message."""
        id_ = next(new_id)
        said.extend((start(id_, kind, role, stage), _within(id_, payload), end(id_, kind, stop)))
        return len(said) - 3

    def add_user(pieces: int) -> None:
        for _ in range(pieces):
            text = next(new_word)
            at = add("TEXT", "USER", "FINAL", messages.TextOutput(role="USER", content=text), "PARTIAL_TURN")
            word = _Word(role="USER", text=text, begun=at, told=at + 1, whole=at + 1, ended=at + 1)
            spoken_words.append(word)

    for turns_left in reversed(range(draw(st.integers(1, 3)))):
        before, after = draw(st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]))
        said.append(messages.UserSpeechStart(offset_ms=len(said) * 100))
        add_user(before)
        offset = len(said) * 100
        said.append(messages.UserSpeechEnd(offset_ms=offset, detected_at_ms=offset + 50))
        add_user(after)
        words = [next(new_word) for _ in range(draw(st.integers(1, 3)))]
        ended = len(said) + 6 * len(words) - 1
        begun = len(said)
        for text in words:
            told = add("TEXT", "ASSISTANT", "SPECULATIVE", spoken(text), "PARTIAL_TURN") + 1
            stop = "END_TURN" if text == words[-1] else "PARTIAL_TURN"
            whole = add("AUDIO", "ASSISTANT", None, messages.AudioOutput(content=bytes(2)), stop) + 2
            word = _Word(role="ASSISTANT", text=text, begun=begun, told=told, whole=whole, ended=ended)
            spoken_words.append(word)
        confirmed = len(words) if turns_left else draw(st.integers(0, len(words)))
        for text in words[:confirmed]:
            add("TEXT", "ASSISTANT", "FINAL", spoken(text), "PARTIAL_TURN")
    return said, spoken_words


@given(_dialogues(), st.data(), st.booleans())
@settings(max_examples=300)
def test_wherever_a_conversation_moves_on_every_word_is_in_history_once_and_in_its_place(
    dialogue: tuple[list[OutputMessage], list[_Word]],
    data: st.DataObject,
    lost: bool,
) -> None:
    """What one stream has begun it finishes, unless it is lost: then only whole sentences were said."""
    said, words = dialogue
    at = data.draw(st.integers(0, len(said)))
    old = Service()
    old.say(*said[:at])
    # A response that is lost before its first word was none: the user is answered all over again.
    begun = [word for word in words if word.role == "ASSISTANT" and (word.told if lost else word.begun) < at]
    last = max((word.begun for word in begun), default=-1)
    cut = [word for word in words if lost and word.begun == last and word.ended >= at]
    left, new = old.is_lost() if lost else (old.conversation.left(lost=False), old.hands_over())
    assert left.unanswered == any(word.role == "USER" and last < word.told < at for word in words)
    if cut:
        assert left.unfinished == "".join(word.text for word in cut if word.told < at <= word.whole)
    else:
        assert left.unfinished is None
    old.now += 100
    if not lost:
        old.say(*said[at:])
        assert old.is_left() == []
    new.hears_speech()
    new.hears_user("and?")
    new.plans("So.")
    new.speaks(1.0, stop="END_TURN")
    new.confirms("So.")
    heard = [
        word.text
        for word in words
        if (word.whole if lost else word.told if word.role == "USER" else word.begun) < at
    ]
    assert " ".join(text for _, text in new.said()).split() == [*heard, "and?", "So."]
    assert not new.of(Interrupted)
    assert len(new.of(TurnStarted)) == len(new.of(TurnEnded))
    told = [event.text for event in new.of(Transcript) if event.role == "USER"]
    assert told == [*(word.text for word in words if word.role == "USER" and word.told < at), "and?"]


class _SameForAll:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def heard(self, turn: int) -> float | None:
        del turn
        return self._seconds


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=8))
def test_audio_in_any_pieces_is_the_same_audio(pcm: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(pcm)) for cut in cuts), len(pcm)]
    pieces = [pcm[first:last] for first, last in itertools.pairwise(edges)]
    said = [messages.AudioOutput(content_id="a", content=piece) for piece in pieces]
    chunks = [event.pcm for event in check(said) if isinstance(event, AudioChunk)]
    assert b"".join(chunks) == pcm[: len(pcm) & ~1]


@given(st.lists(st.text("ab \n", max_size=6), max_size=6))
def test_pieces_of_a_transcript_are_never_glued_together_and_lose_nothing(pieces: list[str]) -> None:
    text = ""
    for piece in pieces:
        text = read_on(text, piece)
    assert text.replace(" ", "") == "".join(pieces).replace(" ", "")
    assert text.split() == " ".join(pieces).split() if all(p == p.strip() for p in pieces) else True


# --- recordings -------------------------------------------------------------------------------------------


def recording(name: str) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """The messages of a recording: when, which way, and the document."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"there is no {name}: recordings are no part of the project")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        [(event, body)] = row["event"].items()
        if isinstance(body.get("content"), dict):
            body["content"] = _base64_of_silence(body["content"]["bytes"])
        times = row.get("repeat", 1)
        first, last = row["t"] or 0.0, row.get("t_last") or row["t"] or 0.0
        for number in range(times):
            at = first + (last - first) * number / max(1, times - 1)
            yield at, row["dir"], {"event": {event: body}}


def _base64_of_silence(size: int) -> str:
    encoded: str = json.loads(encode(messages.AudioOutput(content=bytes(size))))["event"]["audioOutput"][
        "content"
    ]
    return encoded


def folded(name: str) -> Service:
    """A recording, as a session would have heard it; every document is read in full."""
    service = Service()
    for at, direction, document in sorted(recording(name), key=lambda row: row[0]):
        data = json.dumps(document).encode()
        if direction == "in":
            said = messages.decode_input(data)
            assert json.loads(encode(said)) == document
            service.conversation.sent(said, at)
        else:
            message = decode_output(data)
            assert not isinstance(message, messages.UnknownMessage)
            assert message.extra == {}
            assert json.loads(encode(message)) == document
            service.now = at
            service.say(message)
    return service


def test_a_recorded_conversation_is_told_as_it_was() -> None:
    """Five answers, four of which the user interrupted while they were played."""
    service = folded("session-1.jsonl")
    assert service.conversation.turns == len(service.of(TurnEnded)) == 5
    assert [event.turn for event in service.of(Interrupted)] == [1, 2, 3, 4]
    assert {(event.reason, event.interrupted) for event in service.of(TurnEnded)} == {("END_TURN", False)}
    assert seconds(service.events) == pytest.approx(29.12)
    usage = service.conversation.usage
    assert (usage.speech_input + usage.text_input, usage.speech_output + usage.text_output) == (967, 973)
    assert not service.of(UnknownEvent)
    for ended in service.of(TurnEnded):
        assert ended.latency.text is not None
        assert ended.latency.audio is not None
        assert 0.1 < ended.latency.audio - ended.latency.text < 0.15
        assert 1.0 < ended.latency.audio < 2.3
    for interruption in service.of(Interrupted):
        assert interruption.latency is not None
        assert 0.03 < interruption.latency < 0.15


def test_the_history_of_a_recorded_conversation_is_what_was_heard() -> None:
    """The words of the user, and those of the model that came FINAL; of the last answer, which the end of
    the session overtook, those that it planned."""
    service = folded("session-1.jsonl")
    heard = list[tuple[str, str]]()
    for event in service.of(Transcript):
        if event.stage == "FINAL":
            if heard and heard[-1][0] == event.role:
                heard[-1] = (event.role, f"{heard[-1][1]} {event.text}")
            else:
                heard.append((event.role, event.text))
    planned = [event.text for event in service.of(Transcript) if event.stage == "SPECULATIVE"]
    assert service.said() == [*heard, ("ASSISTANT", planned[-1])]
    roles = [role for role, _ in service.said()]
    assert roles == ["USER", "ASSISTANT"] * 5
    interrupted = [message.interrupted for message in service.conversation.history]
    assert interrupted == [False, True] * 4 + [False, False]


def test_a_recorded_tool_call_is_told_and_the_conversation_goes_on() -> None:
    documents = [document for _, _, document in recording("tool-turn.jsonl")]
    service = Service()
    service.say(*(decode_output(json.dumps(document).encode()) for document in documents))
    [use] = [document["event"]["toolUse"] for document in documents if "toolUse" in document["event"]]
    [call] = service.of(ToolCall)
    assert (call.id, call.name, call.error) == (use["toolUseId"], use["toolName"], None)
    assert call.arguments == json.loads(use["content"]) != {}
    assert len(service.of(TurnStarted)) == len(service.of(TurnEnded)) == 1
    assert [event.reason for event in service.of(TurnEnded)] == ["END_TURN"]
    assert [role for role, _ in service.said()] == ["USER", "ASSISTANT"]
    after = service.events[service.events.index(call) :]
    assert [event.role for event in after if isinstance(event, Transcript)] == ["ASSISTANT", "ASSISTANT"]
