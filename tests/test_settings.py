"""What a session was given: each mistake is named, and what is odd but possible is said."""

import dataclasses
import json
import re
from datetime import date
from typing import Any, Literal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 - its profile
from novasonic import messages, models
from novasonic.continuation import alternating
from novasonic.conversation import Message
from novasonic.errors import ConfigurationError
from novasonic.lifecycle import Lifecycle, State
from novasonic.messages import Inference, InputContentStart, TextInput, ToolSpec, encode
from novasonic.settings import Settings, check_text

TODAY = date(2026, 1, 1)
V1 = "amazon.nova-sonic-v1:0"
V2 = "amazon.nova-2-sonic-v1:0"

WEATHER = ToolSpec(name="weather", description="The weather of a city", schema={"type": "object"})


def spec(**changes: Any) -> ToolSpec:
    """A tool that is right but for the changes."""
    given: dict[str, Any] = {"name": "n", "description": "d", "schema": {"type": "object"}}
    return ToolSpec(**(given | changes))


HI = Message(role="USER", text="Hi.")
HELLO = Message(role="ASSISTANT", text="Hello.")


def made(**changes: Any) -> Settings:
    """Settings that are right but for the changes."""
    given: dict[str, Any] = {
        "model": models.lookup(V2),
        "voice": "tiffany",
        "system": "Be brief.",
        "tools": (),
        "tool_choice": None,
        "history": (),
        "inference": Inference(),
        "endpointing": None,
        "input_rate": 16_000,
        "output_rate": 24_000,
        "chunk_samples": 512,
        "silence": True,
        "open_timeout": 10.0,
        "close_timeout": 5.0,
    }
    return Settings(**(given | changes))


def opening(settings: Settings) -> list[messages.InputMessage]:
    """What it says at the opening; all of it may be sent in that order."""
    said, lifecycle = settings.opening("prompt", alternating(settings.history)), Lifecycle()
    for message in said:
        lifecycle.send(message)
    assert lifecycle.open_blocks == {}
    return said


def blocks(said: list[messages.InputMessage]) -> list[tuple[str, str]]:
    """The role and the text of each block of text."""
    found = list[tuple[str, str]]()
    for message in said:
        if isinstance(message, InputContentStart):
            assert (message.type, message.interactive) == ("TEXT", False)
            found.append((message.role, ""))
        elif isinstance(message, TextInput):
            found[-1] = (found[-1][0], found[-1][1] + message.content)
    return found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"voice": ""}, "voice is empty"),
        ({"voice": "  "}, "voice is empty"),
        ({"voice": None}, "voice is of type NoneType, but must be a str"),
        ({"system": ""}, "system is empty"),
        ({"system": b"Be brief."}, "system is of type bytes, but must be a str"),
        ({"system": "\ud83d"}, "system holds half of a surrogate pair, which is no character"),
        ({"input_rate": 44_100}, "input_rate is 44100, but must be one of 8000, 16000, 24000 Hz"),
        ({"input_rate": 0}, "input_rate is 0, but must be one of"),
        ({"input_rate": 16_000.0}, "input_rate is of type float, but must be of type int"),
        ({"output_rate": 48_000}, "output_rate is 48000, but must be one of 8000, 16000, 24000 Hz"),
        ({"output_rate": "24000"}, "output_rate is of type str, but must be of type int"),
        ({"chunk_samples": 0}, "chunk_samples is 0, but must be a whole number, 1 to 4096"),
        ({"chunk_samples": 4097}, "chunk_samples is 4097, but must be a whole number, 1 to 4096"),
        ({"chunk_samples": 1.5}, "chunk_samples is 1.5, but must be a whole number, 1 to 4096"),
        (
            {"endpointing": "MAXIMUM"},
            "endpointing is 'MAXIMUM', but must be one of HIGH, MEDIUM, LOW, or None",
        ),
        ({"endpointing": "high"}, "endpointing is 'high', but must be one of HIGH, MEDIUM, LOW, or None"),
        (
            {"endpointing": "HIGH", "model": models.lookup(V1), "voice": "amy"},
            f"endpointing cannot be set for {V1}; leave it out",
        ),
        ({"inference": {"top_p": 0.5}}, "inference is of type dict, but must be of type Inference"),
        (
            {"inference": Inference(max_tokens=0)},
            "inference.max_tokens is 0, but must be a whole number, 1 to 1000000",
        ),
        ({"inference": Inference(max_tokens=1.5)}, "inference.max_tokens is 1.5, but must be a whole number"),  # type: ignore[arg-type]
        (
            {"inference": Inference(max_tokens=True)},
            "inference.max_tokens is True, but must be a whole number",
        ),
        ({"inference": Inference(top_p=1.1)}, "inference.top_p is 1.1, but must be a number, 0 to 1"),
        (
            {"inference": Inference(top_p=float("nan"))},
            "inference.top_p is nan, but must be a number, 0 to 1",
        ),
        (
            {"inference": Inference(temperature=-0.1)},
            "inference.temperature is -0.1, but must be a number, 0 to 1",
        ),
        (
            {"inference": Inference(temperature="hot")},  # type: ignore[arg-type]
            "inference.temperature is 'hot', but must be a number",
        ),
        ({"open_timeout": -1}, "open_timeout is -1, but must be a number, 0 to 3600"),
        ({"open_timeout": 10_000}, "open_timeout is 10000, but must be a number, 0 to 3600"),
        ({"open_timeout": None}, "open_timeout is None, but must be a number, 0 to 3600"),
        ({"close_timeout": float("inf")}, "close_timeout is inf, but must be a number, 0 to 3600"),
        ({"close_timeout": float("nan")}, "close_timeout is nan, but must be a number, 0 to 3600"),
        ({"history": (HELLO, HI)}, "history begins with the assistant, but the user must come first"),
        ({"history": (HI, Message(role="ASSISTANT", text=""))}, "history[1].text is empty"),
        (
            {"history": (Message(role="SYSTEM", text="Hi."),)},  # type: ignore[arg-type]
            "history[0].role is 'SYSTEM', but must be 'USER' or 'ASSISTANT'",
        ),
        ({"history": ({"role": "USER"},)}, "history[0] is of type dict, but must be of type Message"),
        (
            {"history": (HI, Message(role="ASSISTANT", text="é" * 20_000))},
            "history has 40003 bytes of UTF-8, but at most 40000 are allowed; drop what is oldest",
        ),
        ({"tools": (print,)}, "tools[0] is of type builtin_function_or_method, but must be of type ToolSpec"),
        ({"tools": (WEATHER, WEATHER)}, "tools has two tools named 'weather'"),
        ({"tools": (spec(name=""),)}, "tools[0] has the name '', but a name has 1 to 64 letters (a-z)"),
        ({"tools": (WEATHER, spec(name="get weather"))}, "tools[1] has the name 'get weather', but"),
        ({"tools": (spec(name="wetter_für"),)}, "tools[0] has the name 'wetter_für', but"),
        ({"tools": (spec(name="x" * 65),)}, f"tools[0] has the name '{'x' * 65}', but"),
        ({"tools": (spec(name=None),)}, "tools[0] has the name None, but"),
        ({"tools": (spec(description=" \n"),)}, "tools[0] has no description"),
        ({"tools": (spec(description=None),)}, "tools[0] has no description"),
        ({"tools": (spec(description="\ud83d"),)}, "tools[0] cannot be written as JSON"),
        ({"tools": (WEATHER, spec(schema=[]))}, "tools[1] has a schema that is not an object's"),
        (
            {"tools": (spec(schema={}),)},
            "tools[0] has a schema that is not an object's; it must be a dict with",
        ),
        ({"tools": (spec(schema={"type": "string"}),)}, "tools[0] has a schema that is not an object's"),
        (
            {"tools": (spec(schema={"type": "object", "default": object()}),)},
            "tools[0] cannot be written as JSON",
        ),
        (
            {"tools": (spec(schema={"type": "object", "default": "\ud83d"}),)},
            "tools[0] cannot be written as JSON",
        ),
        (
            {"tool_choice": "weather"},
            "tool_choice is 'weather', but must be 'auto', 'any' or the name of a tool",
        ),
        ({"tools": (WEATHER,), "tool_choice": "time"}, "tool_choice is 'time', but must be"),
        ({"tools": (WEATHER,), "tool_choice": ["weather"]}, "tool_choice is ['weather'], but must be"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_was_given_and_what_is_allowed(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match="^" + re.escape(complaint)):
        made(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_rate": 8_000, "output_rate": 8_000, "chunk_samples": 1},
        {"input_rate": 24_000, "output_rate": 16_000, "chunk_samples": 4096},
        {"endpointing": "HIGH"},
        {"inference": Inference(max_tokens=1, top_p=0, temperature=1)},
        {"inference": Inference(max_tokens=None, top_p=None, temperature=None)},
        {"open_timeout": 0, "close_timeout": 3600},
        {"tools": (WEATHER,), "tool_choice": "weather"},
        {"tools": (WEATHER,), "tool_choice": "any"},
        {"tools": (spec(name="x" * 64), spec(name="-_9"))},
        {"tools": tuple(spec(name=f"tool-{at}") for at in range(20))},
        {"tools": (spec(schema={"type": "object", "properties": {}, "required": []}),)},
        {"tool_choice": "auto"},
        {"history": (HI, HELLO, HI)},
        {"history": (HI, Message(role="ASSISTANT", text="x" * 39_997))},
        {"model": models.lookup(V1), "voice": "amy"},
    ],
)
def test_settings_that_are_right_pass_without_a_word(changes: dict[str, Any]) -> None:
    settings = made(**changes)
    assert settings.oddities(TODAY) == []
    opening(settings)


def test_a_voice_that_is_not_known_passes_with_a_word() -> None:
    """AWS adds voices without notice, and refuses those that it does not have itself."""
    [oddity] = made(voice="tifany").oddities(TODAY)
    assert oddity == f"'tifany' is not a known voice of {V2}; did you mean 'tiffany'?"


def test_a_model_that_is_not_known_passes_with_a_word_and_has_any_voice() -> None:
    settings = made(model=models.lookup("amazon.nova-2-sonics-v1:0"), voice="somebody")
    [oddity] = settings.oddities(TODAY)
    assert oddity == (
        "'amazon.nova-2-sonics-v1:0' is not a known model and is taken for one of the newest; "
        f"did you mean '{V2}'?"
    )


def test_a_model_that_is_like_no_other_is_not_taken_for_a_slip() -> None:
    [oddity] = made(model=models.lookup("sonic of the future")).oddities(TODAY)
    assert "did you mean" not in oddity


def test_an_arn_says_nothing_about_its_model_and_is_not_odd() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    assert made(model=models.lookup(arn)).oddities(TODAY) == []


@pytest.mark.parametrize(("day", "odd"), [(date(2026, 9, 13), False), (date(2026, 9, 14), True)])
def test_a_model_at_its_end_of_life_passes_with_a_word(day: date, *, odd: bool) -> None:
    oddities = made(model=models.lookup(V1), voice="amy").oddities(day)
    expected = f"{V1} reached its end of life on 2026-09-14; use {models.MODELS[0].id!r}"
    assert oddities == ([expected] if odd else [])


def test_several_oddities_are_told_one_by_one() -> None:
    oddities = made(model=models.lookup(V1), voice="nobody").oddities(date(2027, 1, 1))
    assert len(oddities) == 2


def test_more_tools_than_are_wise_pass_with_a_word() -> None:
    """A rule of thumb: a model that has many chooses worse among them."""
    [oddity] = made(tools=tuple(spec(name=f"tool-{at}") for at in range(21))).oddities(TODAY)
    assert oddity.startswith("21 tools are many")
    assert oddity.endswith("offer no more than 20 or so")


def test_a_schema_that_nova_may_overlook_passes_with_a_word() -> None:
    """Those that other libraries write often have a title and more."""
    schema = {"type": "object", "title": "Weather", "$schema": "https://json-schema.org/draft/2020-12/schema"}
    [oddity] = made(tools=(WEATHER, spec(schema=schema))).oddities(TODAY)
    assert oddity.startswith(
        "the schema of the tool 'n' has $schema, title at its top, and Nova may overlook"
    )


def test_tools_that_fit_no_message_are_refused_and_the_largest_is_named() -> None:
    limits = models.Limits(message_bytes=5_000)
    tools = (WEATHER, spec(name="long", description="d" * 3_000), spec(name="short", description="d" * 900))
    roomy = made(tools=tools, model=dataclasses.replace(models.lookup(V2), limits=limits))
    assert len(encode(roomy.opening(str(uuid4()))[1])) <= 5_000
    with pytest.raises(
        ConfigurationError, match="but at most 5000 are allowed; shorten 'long', which is the"
    ):
        made(
            tools=(*tools, spec(name="last", description="d" * 900)),
            model=dataclasses.replace(models.lookup(V2), limits=limits),
        )


def test_what_just_fits_into_a_message_passes() -> None:
    def tools(length: int) -> tuple[ToolSpec, ...]:
        return (spec(description="d" * length),)

    empty = len(encode(made(tools=tools(1)).opening(str(uuid4()))[1])) - 1
    made(tools=tools(1_000_000 - empty))
    with pytest.raises(ConfigurationError, match="1000001 bytes long, but at most 1000000 are allowed"):
        made(tools=tools(1_000_001 - empty))


# --- the opening ------------------------------------------------------------------------------------------


def test_the_opening_says_all_that_was_set() -> None:
    settings = made(
        tools=(WEATHER,),
        tool_choice="weather",
        history=(HI, HELLO),
        endpointing="LOW",
        inference=Inference(max_tokens=7, top_p=0.5, temperature=0),
        output_rate=8_000,
    )
    said = opening(settings)
    start, prompt = said[:2]
    assert start == messages.SessionStart(
        inference=Inference(max_tokens=7, top_p=0.5, temperature=0), endpointing="LOW"
    )
    assert prompt == messages.PromptStart(
        prompt_name="prompt", voice="tiffany", sample_rate=8_000, tools=(WEATHER,), tool_choice="weather"
    )
    assert blocks(said) == [("SYSTEM", "Be brief."), ("USER", "Hi."), ("ASSISTANT", "Hello.")]


def test_messages_of_one_role_become_one_as_the_service_wants_each_role_in_turn() -> None:
    history = (
        HI,
        Message(role="USER", text="Anybody there?"),
        HELLO,
        Message(role="ASSISTANT", text=" Yes."),
    )
    assert blocks(opening(made(history=history)))[1:] == [
        ("USER", "Hi. Anybody there?"),
        ("ASSISTANT", "Hello. Yes."),
    ]


_texts = st.text(min_size=1, max_size=1500).filter(lambda text: bool(text.strip()))
_roles: st.SearchStrategy[Literal["USER", "ASSISTANT"]] = st.sampled_from(["USER", "ASSISTANT"])


@given(_texts, st.lists(st.builds(Message, role=_roles, text=_texts), max_size=4))
def test_any_opening_is_what_the_service_accepts(system: str, history: list[Message]) -> None:
    """In order, each role in turn, and no part longer than it takes."""
    settings = made(system=system, history=(HI, *history))
    said = opening(settings)
    [instructions, *remembered] = blocks(said)
    assert instructions == ("SYSTEM", system)
    assert [role for role, _ in remembered] == [
        ("USER", "ASSISTANT")[at % 2] for at in range(len(remembered))
    ]
    words = "".join("".join(message.text.split()) for message in (HI, *history))
    assert "".join("".join(text.split()) for _, text in remembered) == words
    assert all(len(each.content.encode()) <= 1_000 for each in said if isinstance(each, TextInput))
    assert all(json.loads(encode(message)) for message in said)


def test_the_opening_leads_to_where_audio_may_begin() -> None:
    lifecycle = Lifecycle()
    for message in opening(made(history=(HI,))):
        lifecycle.send(message)
    assert lifecycle.state is State.REMEMBERING


# --- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the answer is empty"),
        ("\n\t ", "the answer is empty"),
        (7, "the answer is of type int, but must be a str"),
        ("\udc00", "the answer holds half of a surrogate pair"),
        ("ééé", "the answer has 6 bytes of UTF-8, but at most 5 are allowed"),
    ],
)
def test_a_text_that_cannot_be_said_is_refused_by_its_name(text: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_text("the answer", text, limit=5)


def test_a_text_of_just_the_limit_passes() -> None:
    check_text("the answer", "éé.", limit=5)
    check_text("the answer", "x" * 1_000_000)


def test_an_error_does_not_repeat_the_text() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_text("history[0].text", "a secret " * 10, limit=5)
    assert "secret" not in str(caught.value)
