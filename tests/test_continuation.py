"""When a conversation moves on to another stream, and what that one is told."""

import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from novasonic import messages
from novasonic.continuation import (
    NOW,
    Budget,
    Plan,
    Renewal,
    Retry,
    Situation,
    alternating,
    carry,
    told,
    trimmed,
)
from novasonic.conversation import Left, Message
from novasonic.errors import ConfigurationError
from novasonic.events import ToolRun
from novasonic.messages import InputRole

# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [
        (Renewal, "after", -1, "a number, 0 to 1000000"),
        (Renewal, "after", "360", "a number, 0 to 1000000"),
        (Renewal, "after", float("nan"), "a number, 0 to 1000000"),
        (Renewal, "at_latest", float("inf"), "a number, 0 to 1000000"),
        (Renewal, "at_latest", None, "a number, 0 to 1000000"),
        (Renewal, "carry", 31, "a number, 0 to 30"),
        (Renewal, "carry", True, "a number, 0 to 30"),
        (Renewal, "history_bytes", -1, "a whole number, 0 to 10000000"),
        (Renewal, "history_bytes", 40e3, "a whole number, 0 to 10000000"),
        (Renewal, "message_bytes", 3, "a whole number, 4 to 500000"),
        (Renewal, "message_bytes", 4.5, "a whole number, 4 to 500000"),
        (Retry, "attempts", -1, "a whole number, 0 to 1000"),
        (Retry, "attempts", 1.5, "a whole number, 0 to 1000"),
        (Retry, "attempts", False, "a whole number, 0 to 1000"),
        (Retry, "delay", -0.5, "a number, 0 to 3600"),
        (Retry, "longest", "10", "a number, 0 to 3600"),
        (Retry, "jitter", 1.5, "a number, 0 to 1"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_and_what_is_allowed(
    kind: type[Renewal | Retry], name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}, but must be {allowed}"


def test_the_latest_moment_to_renew_is_not_before_the_first() -> None:
    Renewal(after=100, at_latest=100)
    with pytest.raises(
        ConfigurationError, match="at_latest is 99 s, but must not be sooner than after, 100 s"
    ):
        Renewal(after=100, at_latest=99)


# --- attempts ---------------------------------------------------------------------------------------------


def delays(budget: Budget) -> list[float]:
    """All that are left."""
    return list(iter(budget.spend, None))


def test_the_first_attempt_is_made_at_once_and_each_later_one_after_twice_as_long() -> None:
    budget = Budget(Retry(attempts=7, delay=0.5, longest=5, jitter=0))
    assert delays(budget) == [0, 0.5, 1, 2, 4, 5, 5]
    assert budget.attempt == 7
    assert budget.spend() is None
    assert budget.attempt == 7


def test_who_wants_no_attempts_gets_none() -> None:
    assert Budget(Retry(attempts=0)).spend() is None


def test_a_conversation_that_has_gone_on_has_all_its_attempts_again() -> None:
    budget = Budget(Retry(attempts=3, jitter=0))
    before = delays(budget)
    budget.refill()
    assert budget.attempt == 0
    assert delays(budget) == before == [0, 0.5, 1]


def test_the_thousandth_delay_is_a_number() -> None:
    """Two to the power of a thousand is one, too, but times a delay it is none any more."""
    found = delays(Budget(Retry(attempts=1000, delay=3600, longest=3600, jitter=0)))
    assert found == [0, *[3600.0] * 999]


@given(
    delay=st.floats(0, 3600),
    longest=st.floats(0, 3600),
    jitter=st.floats(0, 1),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=12, max_size=12),
)
def test_chance_only_shortens_a_delay_and_by_no_more_than_its_share(
    delay: float, longest: float, jitter: float, chances: list[float]
) -> None:
    retry = Retry(attempts=12, delay=delay, longest=longest, jitter=jitter)
    found = delays(Budget(retry, iter(chances).__next__))
    certain = delays(Budget(replace(retry, jitter=0.0)))
    assert len(found) == len(certain) == 12
    for shorter, full in zip(found, certain, strict=True):
        assert full * (1 - jitter) <= shorter <= full <= longest


def test_many_programs_that_lost_their_streams_together_do_not_come_back_together() -> None:
    retry = Retry(attempts=2, delay=1)
    found = {delays(Budget(retry))[1] for _ in range(20)}
    assert len(found) > 1
    assert all(0.5 <= delay <= 1 for delay in found)


# --- plans ------------------------------------------------------------------------------------------------

HOUR: Final = 3600.0


@pytest.mark.parametrize(
    ("renewal", "stream", "credentials", "plan"),
    [
        (Renewal(), 480, None, Plan(360, 450, 470, "age")),
        (Renewal(), 480, HOUR, Plan(360, 450, 470, "age")),
        (Renewal(), 480, 480, Plan(360, 450, 470, "age")),
        (Renewal(), 480, 300, Plan(180, 270, 290, "credentials")),
        (Renewal(after=60, at_latest=90), 480, None, Plan(60, 90, 470, "age")),
        (Renewal(after=60, at_latest=90), 480, 300, Plan(60, 90, 290, "credentials")),
        (Renewal(after=1e6, at_latest=1e6), 480, None, Plan(360, 450, 470, "age")),
        (Renewal(after=0, at_latest=0), 480, None, Plan(0, 0, 470, "age")),
        (Renewal(), HOUR, None, Plan(360, 450, 3590, "age")),
        (Renewal(after=1e6, at_latest=1e6), HOUR, None, Plan(3480, 3570, 3590, "age")),
    ],
)
def test_a_stream_is_replaced_before_it_ends(
    renewal: Renewal, stream: float, credentials: float | None, plan: Plan
) -> None:
    assert Plan.of(renewal, stream=stream, credentials=credentials) == plan


@pytest.mark.parametrize(
    ("left", "plan"),
    [
        (200, Plan(100, 170, 190, "credentials")),
        (100, Plan(50, 75, 90, "credentials")),
        (10, Plan(5, 7.5, 9, "credentials")),
        (0, Plan(0, 0, 0, "credentials")),
    ],
)
def test_a_stream_that_will_not_live_long_is_not_replaced_at_once(left: float, plan: Plan) -> None:
    """The next one may have the same credentials: one stream after the other would be opened, without end."""
    assert Plan.of(Renewal(), stream=480, credentials=left) == plan


def test_no_more_than_a_handful_of_streams_is_opened_with_credentials_that_run_out() -> None:
    left, opened = 100.0, 0
    while left > 1 and opened < 100:
        left -= Plan.of(Renewal(), stream=480, credentials=left).after
        opened += 1
    assert opened < 10


@given(
    after=st.floats(0, 1000),
    longer=st.floats(0, 1000),
    stream=st.floats(0, 1000),
    credentials=st.none() | st.floats(0, 1000),
)
def test_the_moments_of_a_plan_follow_one_another_within_the_life_of_a_stream(
    after: float, longer: float, stream: float, credentials: float | None
) -> None:
    renewal = Renewal(after=after, at_latest=after + longer)
    plan = Plan.of(renewal, stream=stream, credentials=credentials)
    end = stream if credentials is None else min(stream, credentials)
    assert 0 <= plan.after <= plan.at_latest <= plan.in_any_case <= end
    assert plan.after <= renewal.after
    assert plan.at_latest <= renewal.at_latest


# --- moments ----------------------------------------------------------------------------------------------

PLAN: Final = Plan(360, 450, 470, "age")
ACTIVITIES: Final = tuple(field.name for field in fields(Situation))
situations: Final = st.builds(Situation, **dict.fromkeys(ACTIVITIES, st.booleans()))


def only(*activities: str) -> Situation:
    return Situation(**dict.fromkeys(activities, True))


@pytest.mark.parametrize(
    ("situation", "since"),
    [
        (only(), 360),
        (only("audible"), 450),
        (only("busy"), 450),
        (only("audible", "busy"), 450),
        (only("generating"), 470),
        (only("owed"), 470),
        (only("user_speaks"), 470),
        (only(*ACTIVITIES), 470),
    ],
)
def test_how_long_a_moment_is_waited_for_depends_on_what_goes_on(situation: Situation, since: int) -> None:
    """Nothing at all is best; later, one stream may finish what it says; at last, there is no choice."""
    ages = (0, 359.9, 360, 449.9, 450, 469.9, 470, 480, 1000)
    assert [age for age in ages if PLAN.ready(age, situation)] == [age for age in ages if age >= since]


@given(st.floats(0, 1000), situations)
def test_a_moment_is_right_never_before_its_time_and_always_at_the_end_of_it(
    age: float, situation: Situation
) -> None:
    ready = PLAN.ready(age, situation)
    if age < PLAN.after:
        assert not ready
    elif age >= PLAN.in_any_case:
        assert ready
    elif situation.user_speaks:
        assert not ready


@given(st.floats(0, 1000), st.floats(0, 1000), situations)
def test_a_moment_that_was_right_would_be_right_later(age: float, later: float, situation: Situation) -> None:
    assert PLAN.ready(age + later, situation) or not PLAN.ready(age, situation)


@given(st.floats(0, 1000), situations, st.sampled_from(ACTIVITIES))
def test_a_moment_is_no_better_for_something_that_goes_on(
    age: float, situation: Situation, activity: str
) -> None:
    assert PLAN.ready(age, replace(situation, **{activity: False})) or not PLAN.ready(age, situation)


def test_a_change_that_is_wanted_at_once_waits_for_the_user_but_not_for_ever() -> None:
    assert NOW.ready(0, only())
    assert NOW.ready(0, only("audible", "busy"))
    assert not NOW.ready(14.9, only("user_speaks"))
    assert NOW.ready(15, only(*ACTIVITIES))
    assert NOW.reason == "update"


# --- what is carried --------------------------------------------------------------------------------------

QUESTION: Final = Message(role="USER", text="What is it like in Oslo?")
ANSWER: Final = Message(role="ASSISTANT", text="It is cold. Take a coat.")
GREETING: Final = (Message(role="USER", text="Hi."), Message(role="ASSISTANT", text="Hello."))
CALL: Final = ToolRun(id="t1", name="weather", arguments={"city": "Oslo"})
RUN: Final = replace(CALL, result={"celsius": 7}, elapsed=0.5)

Said = list[tuple[InputRole, str]]


def carried(
    left: Left,
    *,
    owed: bool = True,
    again: bool = False,
    answers_typed_text: bool = True,
    max_bytes: int = 40_000,
) -> tuple[Said, list[str]]:
    found = carry(left, owed=owed, again=again, answers_typed_text=answers_typed_text, max_bytes=max_bytes)
    return list(found.history), list(found.prompts)


def said(*history: Message) -> Said:
    return [(message.role, message.text) for message in history]


def test_a_question_without_an_answer_is_asked_again() -> None:
    """And it is not in the history besides: the user has asked once."""
    left = Left(history=(*GREETING, QUESTION), unanswered=True)
    assert carried(left) == (said(*GREETING), ["What is it like in Oslo?"])


@pytest.mark.parametrize(
    "why",
    [
        {"owed": False},
        {"again": True},
        {"answers_typed_text": False},
    ],
)
def test_a_question_is_not_asked_twice_of_a_model_that_will_hear_it_or_cannot_be_asked(
    why: dict[str, bool],
) -> None:
    """Then it is what was said last."""
    left = Left(history=(*GREETING, QUESTION), unanswered=True)
    assert carried(left, **why) == (said(*GREETING, QUESTION), [])


def test_nothing_is_asked_where_nothing_is_owed() -> None:
    assert carried(Left(history=(*GREETING, QUESTION, ANSWER))) == (said(*GREETING, QUESTION, ANSWER), [])
    assert carried(Left(history=())) == ([], [])


def test_a_sentence_that_broke_off_is_begun_again() -> None:
    left = Left(history=(QUESTION, ANSWER), unfinished='Mind the "ice".')
    history, [prompt] = carried(left)
    assert history == said(QUESTION, ANSWER)
    assert repr('Mind the "ice".') in prompt
    assert "Do not mention the connection." in prompt


def test_a_response_that_broke_off_between_two_sentences_goes_on_with_the_next() -> None:
    _, [prompt] = carried(Left(history=(QUESTION, ANSWER), unfinished=""))
    assert "Go on with your next sentence." in prompt
    assert "''" not in prompt


@pytest.mark.parametrize("why", [{"again": True}, {"answers_typed_text": False}, {"owed": False}])
def test_a_response_that_broke_off_is_left_alone_if_the_user_speaks_or_the_model_cannot_be_asked(
    why: dict[str, bool],
) -> None:
    left = Left(history=(QUESTION, ANSWER), unfinished="Mind the ice.")
    assert carried(left, **why) == (said(QUESTION, ANSWER), [])


def test_a_user_who_has_gone_on_wants_that_answered_and_not_the_rest_of_the_sentence() -> None:
    left = Left(history=(QUESTION, ANSWER, QUESTION), unanswered=True, unfinished="Mind the ice.")
    assert carried(left) == (said(QUESTION, ANSWER), [QUESTION.text])


@pytest.mark.parametrize("again", [True, False])
def test_what_the_program_has_asked_for_is_asked_for_again(*, again: bool) -> None:
    """Neither the history nor the user's audio will tell."""
    left = Left(history=(QUESTION, ANSWER), prompts=("Say goodbye.",))
    assert carried(left, again=again) == (said(QUESTION, ANSWER), ["Say goodbye."])
    assert carried(left, owed=False) == (said(QUESTION, ANSWER), [])


@pytest.mark.parametrize("again", [True, False])
def test_the_results_of_tools_are_told_in_words(*, again: bool) -> None:
    """A call is known only on the stream that it came over. No audio will tell its result."""
    left = Left(history=(*GREETING, QUESTION), calls=(RUN,))
    assert carried(left, again=again) == (said(*GREETING, QUESTION), [told(RUN)])


def test_a_question_comes_before_the_results_that_came_meanwhile() -> None:
    left = Left(history=(*GREETING, QUESTION), unanswered=True, calls=(RUN,))
    assert carried(left) == (said(*GREETING), [QUESTION.text, told(RUN)])


@pytest.mark.parametrize("why", [{"answers_typed_text": False}, {"owed": False}])
def test_a_result_is_not_told_where_it_is_not_awaited_or_cannot_be(why: dict[str, bool]) -> None:
    assert carried(Left(history=(QUESTION, ANSWER), calls=(RUN,)), **why)[1] == []


def test_a_model_that_waits_for_tools_is_told_that_it_does() -> None:
    """Or it would answer without them; history that ends with the user may be answered at once."""
    other = replace(CALL, id="t2", name="snow")
    history, prompts = carried(Left(history=(*GREETING, QUESTION), calls=(RUN, CALL, other)))
    assert history[:-1] == said(*GREETING, QUESTION)
    assert history[-1] == ("ASSISTANT", "One moment, I am waiting for a result: weather, snow.")
    assert prompts == [told(RUN)]


def test_a_model_that_has_said_so_itself_needs_not_be_told() -> None:
    waits = Message(role="ASSISTANT", text="Let me see.", tool_calls=(CALL,))
    assert carried(Left(history=(QUESTION, waits), calls=(CALL,))) == (said(QUESTION, waits), [])


def test_what_is_carried_is_no_longer_than_allowed() -> None:
    """The question is none of the history."""
    left = Left(history=(*GREETING, QUESTION), unanswered=True)
    assert carried(left, max_bytes=8) == ([], [QUESTION.text])
    assert carried(left, max_bytes=9) == (said(*GREETING), [QUESTION.text])


def test_a_result_is_told_with_the_call_that_it_answers() -> None:
    text = told(replace(RUN, arguments={"city": "{Østfold}"}, result={"text": '"7 °C" {name}'}))
    assert "weather" in text
    assert '{"city":"{Østfold}"}' in text
    assert msgspec.json.encode({"text": '"7 °C" {name}'}).decode() in text


@given(strategies.json_objects, strategies.json_objects)
def test_whatever_a_tool_returns_can_be_told(arguments: dict[str, Any], result: dict[str, Any]) -> None:
    assert "weather" in told(replace(RUN, arguments=arguments, result=result))


# --- history ----------------------------------------------------------------------------------------------

_texts = st.text("a é😀\n", max_size=8)
_histories = st.lists(
    st.builds(Message, role=st.sampled_from(["USER", "ASSISTANT"]), text=_texts), max_size=12
)


def roles_alternate(history: Sequence[tuple[InputRole, str]]) -> bool:
    return all(one[0] != other[0] for one, other in itertools.pairwise(history))


def test_what_one_side_said_at_several_times_is_one_text() -> None:
    """Such as before and after an interruption, or around a call that is not told."""
    history = [
        Message(role="USER", text="Hi."),
        Message(role="ASSISTANT", text="", tool_calls=(RUN,)),
        Message(role="USER", text="Hello?"),
        Message(role="ASSISTANT", text="One.", interrupted=True),
        Message(role="ASSISTANT", text=" Two."),
        Message(role="USER", text=" \n"),
    ]
    assert alternating(history) == [("USER", "Hi. Hello?"), ("ASSISTANT", "One. Two.")]


@given(_histories)
def test_roles_alternate_and_no_word_is_lost(history: list[Message]) -> None:
    found = alternating(history)
    assert roles_alternate(found)
    assert all(text.strip() for _, text in found)
    for role in ("USER", "ASSISTANT"):
        before = "".join(message.text for message in history if message.role == role)
        assert "".join("".join(text for each, text in found if each == role).split()) == "".join(
            before.split()
        )


def test_the_latest_turns_are_kept_whole() -> None:
    history: Said = [("USER", "aa"), ("ASSISTANT", "bb"), ("USER", "cc"), ("ASSISTANT", "dd"), ("USER", "ee")]
    assert trimmed(history, 10) == history
    assert trimmed(history, 9) == trimmed(history, 6) == history[2:]
    assert trimmed(history, 5) == trimmed(history, 2) == history[4:]
    assert trimmed(history, 1) == trimmed(history, 0) == []


def test_an_older_turn_is_not_kept_in_place_of_a_longer_one() -> None:
    """A gap would be a lie."""
    history: Said = [("USER", "a"), ("USER", "b" * 9), ("USER", "c")]
    assert trimmed(history, 9) == [("USER", "c")]


def test_history_does_not_begin_with_the_assistant() -> None:
    """The service rejects it."""
    assert trimmed([("ASSISTANT", "Welcome."), ("USER", "Hi.")], 1000) == [("USER", "Hi.")]
    assert trimmed([("ASSISTANT", "Welcome.")], 1000) == []


def test_history_is_measured_in_bytes() -> None:
    history: Said = [("USER", "é"), ("USER", "😀")]
    assert trimmed(history, 6) == history
    assert trimmed(history, 5) == [("USER", "😀")]
    assert trimmed(history, 3) == []


def size(history: Sequence[tuple[InputRole, str]]) -> int:
    return sum(len(text.encode()) for _, text in history)


@given(_histories, st.integers(0, 120))
def test_what_is_kept_is_the_latest_in_whole_turns_and_as_much_as_fits(
    history: list[Message], max_bytes: int
) -> None:
    whole = alternating(history)
    kept = trimmed(whole, max_bytes)
    assert size(kept) <= max_bytes
    assert roles_alternate(kept)
    assert not kept or kept[0][0] == "USER"
    assert kept == whole[len(whole) - len(kept) :]
    rest = whole[: len(whole) - len(kept)]
    starts = [at for at, (role, _) in enumerate(rest) if role == "USER"]
    if starts:  # one turn more would be too much
        assert size(whole[starts[-1] :]) > max_bytes
    elif kept:
        assert len(rest) <= 1


@given(_histories, st.integers(0, 120), st.booleans(), st.booleans())
def test_what_is_carried_is_what_the_service_takes(
    history: list[Message],
    max_bytes: int,
    owed: bool,
    again: bool,
) -> None:
    """Whatever was left: roles in turn, the user first, and no more than allowed; and nothing is asked that
    is none."""
    whole = alternating(history)
    left = Left(
        history=tuple(history),
        unanswered=bool(whole) and whole[-1][0] == "USER",
        calls=(RUN, CALL),
    )
    found, prompts = carried(left, owed=owed, again=again, max_bytes=max_bytes)
    assert size(found) <= max_bytes
    assert roles_alternate(found)
    assert not found or found[0][0] == "USER"
    assert all(prompt.strip() for prompt in prompts)
    blocks = messages.history_blocks(found, prompt_name="p", limit=4)
    assert all(len(each.content.encode()) <= 4 for each in blocks if isinstance(each, messages.TextInput))
