"""Functions as tools: what the model is told of them, what it may send, and what goes back."""

import dataclasses
import datetime as dt
import functools
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict, assert_type
from uuid import UUID

import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Meta

from novasonic.errors import ConfigurationError
from novasonic.events import ToolCall
from novasonic.messages import ToolSpec
from novasonic.session import SonicSession
from novasonic.tools import (
    RESULT_LIMIT,
    ArgumentsError,
    Tool,
    ToolContext,
    error_text,
    offered,
    result_text,
    tool,
)
from signatures import Signature, as_sent, calls, signatures
from strategies import json_values

CONTEXT = ToolContext(session=SonicSession(), call=ToolCall(id="1", name="it", arguments={}))


# --- schemas ----------------------------------------------------------------------------------------------


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclasses.dataclass
class Place:
    """A place on earth."""

    city: str
    country: str = "NO"


def test_a_signature_is_the_schema() -> None:
    @tool
    async def forecast(
        place: Place,
        days: Annotated[int, Meta(ge=1, le=7, description="How many.")] = 1,
        unit: Unit = Unit.CELSIUS,
        hours: list[int] | None = None,
    ) -> None:
        """The weather to come."""

    assert (forecast.name, forecast.description) == ("forecast", "The weather to come.")
    assert forecast.schema == {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "description": "A place on earth.",
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "NO"}},
                "required": ["city"],
            },
            "days": {"type": "integer", "minimum": 1, "maximum": 7, "description": "How many.", "default": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "hours": {
                "anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}],
                "default": None,
            },
        },
        "required": ["place"],
    }
    assert forecast.spec == ToolSpec(
        name="forecast", description="The weather to come.", schema=forecast.schema
    )


GOOGLE = """Book a table.

    Only for tonight.

    Args:
        people: How many
            will come.
        name: Whose table.

    Returns:
        Its number.
    """
NUMPY = """Book a table.

    Only for tonight.

    Parameters
    ----------
    people : int
        How many
        will come.
    name : str
        Whose table.

    Returns
    -------
    int
        Its number.
    """
SPHINX = """Book a table.

    Only for tonight.

    :param people: How many
        will come.
    :param name: Whose table.
    :returns: Its number.
    """


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_docstrings_of_every_style_say_what_parameters_mean(doc: str) -> None:
    def book(people: int, name: str) -> int:
        return people + len(name)

    book.__doc__ = doc
    made = tool(book)
    assert made.description == "Book a table.\n\nOnly for tonight."
    meanings = {name: each["description"] for name, each in made.schema["properties"].items()}
    assert {name: " ".join(text.split()) for name, text in meanings.items()} == {
        "people": "How many will come.",
        "name": "Whose table.",
    }


def test_a_tool_is_still_the_function_that_it_was() -> None:
    @tool
    def double(number: int) -> int:
        """Double it."""
        return 2 * number

    assert_type(double(3), int)
    assert double(3) == 6
    assert getattr(double, "__name__", "") == "double"
    assert double.__doc__ == "Double it."
    assert not double.asynchronous


def test_names_descriptions_and_manners_can_be_chosen() -> None:
    @tool(name="look-up", description="Find it.", timeout=None, cancel_on_interrupt=True)
    async def find(what: str) -> str:
        return what

    assert (find.name, find.description, find.timeout) == ("look-up", "Find it.", None)
    assert find.cancel_on_interrupt
    assert find.asynchronous


class Calendar:
    def __init__(self) -> None:
        self.booked: list[str] = []

    def book(self, day: str) -> None:
        """Book a day."""
        self.booked.append(day)

    async def __call__(self, day: str) -> None:
        """Ask for a day."""


def test_methods_partials_and_objects_can_be_tools() -> None:
    calendar = Calendar()
    book = tool(calendar.book)
    assert list(book.schema["properties"]) == ["day"]
    book("monday")
    assert calendar.booked == ["monday"]

    def add(left: int, right: int) -> int:
        """Add."""
        return left + right

    three_more = tool(functools.partial(add, right=3), name="three_more")
    assert list(three_more.schema["properties"]) == ["left"]
    assert three_more.call(**three_more.arguments_for({"left": 4}, CONTEXT)) == 7
    asked = tool(calendar, name="ask")
    assert asked.asynchronous
    assert asked.description == "Ask for a day."


def test_a_context_is_not_the_models_and_is_given() -> None:
    @tool
    def look(where: str, context: ToolContext) -> str:
        """Look."""
        return f"{where} {context.call.id}"

    assert list(look.schema["properties"]) == ["where"]
    arguments = look.arguments_for({"where": "here"}, CONTEXT)
    assert arguments == {"where": "here", "context": CONTEXT}
    with pytest.raises(ArgumentsError, match="`context` is no parameter"):
        look.arguments_for({"where": "here", "context": 1}, CONTEXT)


def test_a_schema_of_ones_own_is_taken_as_it_is() -> None:
    def run(context: ToolContext, **anything: object) -> object:
        return anything, context

    own = Tool(name="run", description="Run it.", schema={"type": "object", "properties": {}}, call=run)
    assert own.arguments_for({"a": 1}, CONTEXT) == {"a": 1, "context": CONTEXT}


# --- what cannot be a tool --------------------------------------------------------------------------------


def described(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__doc__ = "Do something."
    return function


@dataclasses.dataclass
class Tree:
    leaves: "list[Tree]"


def _bare(city) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def _many(*cities: str) -> None: ...
def _any(**cities: str) -> None: ...
def _positional(city: str, /) -> None: ...
def _odd_type(city: Calendar) -> None: ...
def _odd_default(city: str = object()) -> None: ...  # type: ignore[assignment]
def _unresolved(city: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _recursive(tree: Tree) -> None: ...
def _generator(city: str) -> typing.Iterator[str]:
    yield city


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (_bare, "the parameter 'city' of _bare() has no annotation"),
        (Calendar.book, "make a tool of an object's method"),
        (_many, "the parameter 'cities' of _many() takes any number of arguments"),
        (_any, "the parameter 'cities' of _any() takes any number of arguments"),
        (_positional, "the parameter 'city' of _positional() is positional-only"),
        (_odd_type, "the parameter 'city' of _odd_type()"),
        (_odd_default, "the parameter 'city' of _odd_default()"),
        (_unresolved, "the parameter 'city' of _unresolved()"),
        (_recursive, "the parameter 'tree' of _recursive()"),
        (_generator, "it is a generator"),
        (Calendar, "it is a class"),
    ],
)
def test_what_cannot_be_a_tool_is_told_with_its_parameter(function: Any, complaint: str) -> None:
    made = function if isinstance(function, type) else described(function)
    with pytest.raises(ConfigurationError) as caught:
        tool(made)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"name": "get weather"}, "the name 'get weather'"),
        ({"name": "x" * 65}, "1 to 64 letters"),
        ({"name": ""}, "the name ''"),
        ({"description": "  "}, "has no description"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"description": "x" * 1_000_000}, "bytes of a message"),
    ],
)
def test_settings_that_the_service_or_the_session_cannot_use_are_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    def weather(city: str) -> None:
        """The weather."""

    with pytest.raises(ConfigurationError) as caught:
        tool(**settings)(weather)
    assert complaint in str(caught.value)


def test_a_function_without_a_docstring_needs_a_description() -> None:
    def weather(city: str) -> None: ...

    with pytest.raises(ConfigurationError, match="'weather' has no description"):
        tool(weather)
    assert tool(weather, description="The weather.").description == "The weather."


def test_functions_specs_and_tools_can_be_offered_and_nothing_else() -> None:
    def weather(city: str) -> None:
        """The weather."""

    spec = ToolSpec(name="door", description="Open it.", schema={"type": "object"})
    made = tool(weather)
    first, second, third = offered([weather, spec, made])
    assert (first.name, second, third) == ("weather", spec, made)
    for wrong in ("weather", {"name": "weather"}, None):
        with pytest.raises(ConfigurationError, match=r"tools\[1\]"):
            offered([spec, typing.cast("Any", wrong)])
    with pytest.raises(ConfigurationError, match="two tools named 'weather'"):
        SonicSession(tools=[weather, made])


# --- arguments --------------------------------------------------------------------------------------------


def test_arguments_become_what_the_function_takes() -> None:
    class Guest(TypedDict):
        name: str

    @tool
    def book(day: dt.date, guests: list[Guest], table: UUID | None = None, unit: Unit = Unit.CELSIUS) -> None:
        """Book."""

    sent = {"day": "2026-11-26", "guests": [{"name": "Ada"}], "unit": "fahrenheit"}
    assert book.arguments_for(sent, CONTEXT) == {
        "day": dt.date(2026, 11, 26),
        "guests": [{"name": "Ada"}],
        "unit": Unit.FAHRENHEIT,
    }


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        ({}, "book cannot be called without `people`"),
        ({"people": "two"}, "`people` is wrong: expected `int`"),
        ({"people": 9}, "`people` is wrong: expected `int` <= 8"),
        ({"people": 2, "when": {"hour": "eight"}}, "`when.hour` is wrong"),
        (
            {"people": 2, "poeple": 3},
            "`poeple` is no parameter of book; its parameters are: `people`, `when`",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_what_would(sent: dict[str, Any], complaint: str) -> None:
    class Time(TypedDict):
        hour: int

    @tool
    def book(people: Annotated[int, Meta(ge=1, le=8)], when: Time | None = None) -> None:
        """Book."""

    with pytest.raises(ArgumentsError) as caught:
        book.arguments_for(sent, CONTEXT)
    assert complaint in str(caught.value)


@given(signatures())
def test_any_signature_gives_a_schema(signature: Signature) -> None:
    made = tool(signature.function())
    jsonschema.Draft202012Validator.check_schema(made.schema)
    assert set(made.schema) <= {"type", "properties", "required"}
    assert "$ref" not in json.dumps(made.schema)
    assert json.loads(json.dumps(made.schema, allow_nan=False)) == made.schema


@given(calls())
def test_any_value_of_it_round_trips(call: tuple[Signature, dict[str, Any]]) -> None:
    signature, values = call
    made = tool(signature.function())
    sent = as_sent(values)
    jsonschema.validate(sent, made.schema, cls=jsonschema.Draft202012Validator)
    assert made.arguments_for(sent, CONTEXT) == values


def lenient(schema: Any) -> Any:
    """A schema without what jsonschema minds and msgspec does not: sets drop what is there twice."""
    if isinstance(schema, dict):
        return {
            key: lenient(value)
            for key, value in schema.items()
            if key != "uniqueItems" and not (key == "type" and schema.get("format") == "decimal")
        }
    return [lenient(each) for each in schema] if isinstance(schema, list) else schema


@given(calls(), st.data())
def test_any_value_outside_is_refused_by_the_name_of_its_parameter(
    call: tuple[Signature, dict[str, Any]], data: st.DataObject
) -> None:
    signature, values = call
    made = tool(signature.function())
    sent = as_sent(values)
    assume(sent)
    name = data.draw(st.sampled_from(sorted(sent)))
    wrong = data.draw(json_values)
    fits = jsonschema.Draft202012Validator(lenient(made.schema["properties"][name])).is_valid(wrong)
    assume(not fits)
    with pytest.raises(ArgumentsError, match="`") as caught:
        made.arguments_for(sent | {name: wrong}, CONTEXT)
    assert f"`{name}" in str(caught.value)


@given(calls(), st.data())
def test_what_is_missing_or_unknown_is_refused_by_its_name(
    call: tuple[Signature, dict[str, Any]], data: st.DataObject
) -> None:
    signature, values = call
    made = tool(signature.function())
    sent = as_sent(values)
    with pytest.raises(ArgumentsError, match="`nobody_knows_this` is no parameter"):
        made.arguments_for(sent | {"nobody_knows_this": 1}, CONTEXT)
    required = made.schema.get("required", [])
    assume(required)
    name = data.draw(st.sampled_from(required))
    del sent[name]
    with pytest.raises(ArgumentsError, match="cannot be called without") as caught:
        made.arguments_for(sent, CONTEXT)
    assert f"`{name}`" in str(caught.value)


# --- results ----------------------------------------------------------------------------------------------


class Model(pydantic.BaseModel):
    at: dt.datetime
    price: Decimal


class Record(msgspec.Struct):
    name: str
    tags: set[str] = set()


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, {"result": None}),
        ("warm", {"result": "warm"}),
        ([7, 8.5, True], {"result": [7, 8.5, True]}),
        ({"celsius": 7}, {"celsius": 7}),
        ({1: "one"}, {"1": "one"}),
        ((1, 2), {"result": [1, 2]}),
        (Place("Oslo"), {"result": {"city": "Oslo", "country": "NO"}}),
        (Record("it", {"a"}), {"result": {"name": "it", "tags": ["a"]}}),
        (
            Model(at=dt.datetime(2026, 11, 26, tzinfo=dt.UTC), price=Decimal("1.50")),
            {"result": {"at": "2026-11-26T00:00:00Z", "price": "1.50"}},
        ),
        ([dt.date(2026, 11, 26), dt.time(8), UUID(int=1)], None),
        (Unit.CELSIUS, {"result": "celsius"}),
        (Decimal("0.1"), {"result": "0.1"}),
        (float("nan"), {"result": None}),
        ({"error": "closed"}, {"error": "closed"}),
    ],
)
def test_results_of_every_kind_become_an_object(result: object, text: object) -> None:
    found = json.loads(result_text(result))
    assert isinstance(found, dict)
    if text is not None:
        assert found == text


@given(json_values)
def test_any_json_value_comes_back_as_it_was(value: Any) -> None:
    found = json.loads(result_text(value))
    assert found == (value if isinstance(value, dict) else {"result": value})


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (b"\xff", "result is of type bytes"),
        ({"photos": [{"data": bytearray(b"\xff")}]}, "result.photos[0].data is of type bytearray"),
        (object(), "object"),
        (_endless(), "contains itself"),
        ("\ud800", "half of a surrogate pair"),
        ({"\ud800": 1}, "half of a surrogate pair"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(result: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        result_text(result)
    assert complaint in str(caught.value)


@given(st.text(alphabet='aé漢😀\n"', min_size=1), st.integers(120, 4000))
def test_what_is_too_long_is_cut_and_says_so(piece: str, limit: int) -> None:
    whole = piece * (limit // len(piece) + 1)
    text = result_text(whole, limit=limit)
    assert len(text.encode()) <= limit
    found = json.loads(text)
    assert whole.startswith(found["result"])
    assert str(len(whole.encode())) in found["note"]


def test_the_limit_is_stated_and_kept() -> None:
    assert len(result_text(["x" * 100] * 10_000).encode()) <= RESULT_LIMIT
    assert "note" not in json.loads(result_text("x" * (RESULT_LIMIT - 100)))


@pytest.mark.parametrize("message", ["", "no such city", "x" * 100_000, "\ud800", '"quoted"'])
def test_an_error_can_always_be_told(message: str) -> None:
    found = json.loads(error_text(message))
    assert list(found) == ["error"]
    assert len(found["error"]) <= 1000


def test_tools_cost_nothing_until_there_are_any() -> None:
    code = "import novasonic.tools, sys; print('docstring_parser' in sys.modules, 'numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


def choice(kind: Literal["a", "b"]) -> str:
    """Choose."""
    return kind


def test_a_literal_is_a_choice() -> None:
    assert tool(choice).schema["properties"]["kind"] == {"type": "string", "enum": ["a", "b"]}
