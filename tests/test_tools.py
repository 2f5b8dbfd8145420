"""Tools as a program makes them: what the model is shown, what it may send, and what goes back to it."""

import array
import asyncio
import dataclasses
import datetime as dt
import functools
import inspect
import json
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, assert_type
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Meta

from fakes import FakeService
from novasonic import messages
from novasonic.conversation import Message
from novasonic.errors import ConfigurationError
from novasonic.events import ToolCall
from novasonic.messages import Json, ToolSpec
from novasonic.session import SonicSession
from novasonic.tools import (
    RESULT_LIMIT,
    AnyTool,
    ArgumentsError,
    Tool,
    ToolContext,
    error_text,
    offered,
    result_text,
    tool,
)
from signatures import Signature, as_sent, calls, signatures, spoilt
from strategies import json_values

HI = Message(role="USER", text="Hi.")


def context(session: SonicSession) -> ToolContext:
    return ToolContext(session=session, call=ToolCall(turn=1, id="1", name="tool", arguments={}))


CONTEXT = context(SonicSession(history=(HI,)))
OTHER = context(SonicSession())


def run(made: Tool[..., Any], **arguments: Any) -> Any:
    """Call a tool as the model would."""
    return made.call(**made.arguments_for(arguments, CONTEXT))


def properties(made: Tool[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = made.schema["properties"]
    return found


# --- making -----------------------------------------------------------------------------------------------


def test_a_function_becomes_a_tool_by_its_signature_and_its_docstring() -> None:
    @tool
    async def weather(
        city: str, unit: Literal["celsius", "fahrenheit"] = "celsius", days: Annotated[int, Meta(ge=1)] = 1
    ) -> dict[str, float]:
        """Look up the weather of a city.

        Args:
            city: Its name in English.
            unit: Of the temperature.

        Returns:
            The temperature of each day.
        """
        return {city: days, unit: 0}

    assert weather.spec == ToolSpec(
        name="weather",
        description="Look up the weather of a city.",
        schema={
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name in English."},
                "unit": {
                    "type": "string",
                    "enum": ["celsius", "fahrenheit"],
                    "description": "Of the temperature.",
                    "default": "celsius",
                },
                "days": {"type": "integer", "minimum": 1, "default": 1},
            },
            "required": ["city"],
        },
    )
    assert (weather.timeout, weather.cancel_on_interrupt, weather.asynchronous) == (30.0, False, True)
    assert repr(weather) == "Tool(name='weather', description='Look up the weather of a city.')"


def test_a_tool_without_parameters_has_a_schema_without_any() -> None:
    @tool
    def now() -> int:
        """Tell the time."""
        return 12

    assert now.schema == {"type": "object", "properties": {}}
    assert run(now) == 12


def test_what_is_said_of_a_tool_goes_before_what_its_function_says() -> None:
    @tool(name="get-weather", description="The weather.", timeout=None, cancel_on_interrupt=True)
    def weather(city: Annotated[str, Meta(description="Of Norway.")]) -> None:
        """Something for programmers.

        Args:
            city: A city.
        """

    assert (weather.name, weather.description) == ("get-weather", "The weather.")
    assert properties(weather)["city"]["description"] == "Of Norway."
    assert (weather.timeout, weather.cancel_on_interrupt) == (None, True)


def test_a_parameter_is_described_by_its_own_words_rather_than_by_those_of_its_class() -> None:
    @dataclass
    class Place:
        """A place."""

        city: str

    @tool
    def travel(start: Place, end: Place) -> None:
        """Travel.

        Args:
            start: From where.
        """

    assert properties(travel)["start"]["description"] == "From where."
    assert properties(travel)["end"]["description"] == "A place."


def test_a_tool_is_still_called_like_its_function() -> None:
    @tool
    def add(left: int, right: int = 1) -> int:
        """Add."""
        return left + right

    @tool(timeout=5)
    async def wait(seconds: float) -> str:
        """Wait."""
        return f"{seconds}"

    if TYPE_CHECKING:  # it takes and returns what its function does
        assert_type(add(1, right=2), int)
        add("one")  # type: ignore[arg-type]
        add(left=1, middle=2)  # type: ignore[call-arg]
    assert add(1, right=2) == 3
    assert asyncio.run(assert_type(wait(1.5), Coroutine[Any, Any, str])) == "1.5"
    assert (vars(add)["__name__"], add.__doc__, add.__module__) == ("add", "Add.", __name__)
    assert inspect.signature(add) == inspect.signature(add.call)


class Calendar:
    """Books."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.name = "not that of the tool"

    def book(self, day: dt.date) -> str:
        """Book a day."""
        return f"{self.owner} {day:%d.%m.}"

    async def __call__(self, day: dt.date) -> str:
        return self.book(day)

    @staticmethod
    def days(month: int) -> int:
        """Count the days."""
        return 30 + month % 2

    @classmethod
    def of(cls, owner: str) -> str:
        """Find a calendar."""
        return cls(owner).owner


class Described:
    def __call__(self, day: int) -> int:
        """Say it."""
        return day


def _remember[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return inner


@_remember
def decorated(day: "dt.date") -> str:
    """Be decorated."""
    return f"{day}"


@functools.lru_cache
def cached(day: dt.date) -> str:
    """Be remembered."""
    return f"{day}"


async def _late(day: dt.date, zone: str) -> str:
    """Be late."""
    return f"{day} {zone}"


@pytest.mark.parametrize(
    ("call", "name", "description", "asynchronous"),
    [
        (Calendar("Ada").book, "book", "Book a day.", False),
        (Calendar("Ada"), "Calendar", "Books.", True),
        (Calendar.days, "days", "Count the days.", False),
        (Calendar.of, "of", "Find a calendar.", False),
        (Described(), "Described", "Say it.", False),
        (decorated, "decorated", "Be decorated.", False),
        (cached, "cached", "Be remembered.", False),
        (functools.partial(_late, zone="UTC"), "_late", "Be late.", True),
        (functools.partial(Calendar("Ada").book), "book", "Book a day.", False),
        (functools.partial(Calendar("Ada")), "Calendar", "Books.", True),
    ],
)
def test_whatever_can_be_called_becomes_a_tool(
    call: Callable[..., Any], name: str, description: str, *, asynchronous: bool
) -> None:
    made = tool(call)
    assert (made.name, made.description, made.asynchronous) == (name, description, asynchronous)
    assert len(properties(made)) == 1
    assert made.call is call


def test_a_method_is_called_on_its_object() -> None:
    assert run(tool(Calendar("Ada").book), day="2030-12-31") == "Ada 31.12."


def test_what_a_partial_function_has_bound_is_not_the_models() -> None:
    """It is often a connection or a key, which the model must neither see nor change."""
    made = tool(functools.partial(functools.partial(_late, dt.date(2030, 12, 31)), zone="UTC"))
    assert properties(made) == {}
    with pytest.raises(ArgumentsError, match="`zone` is no parameter"):
        made.arguments_for({"zone": "CET"}, CONTEXT)
    assert asyncio.run(run(made)) == "2030-12-31 UTC"

    def shared(context: ToolContext, day: int) -> ToolContext:
        """Have a context already."""
        assert day == 1
        return context

    assert run(tool(functools.partial(shared, context=OTHER)), day=1) is OTHER


def test_annotations_are_resolved_where_the_function_behind_all_the_rest_was_written() -> None:
    made = tool(functools.lru_cache(functools.partial(decorated)), name="decorated")
    assert properties(made) == {"day": {"type": "string", "format": "date"}}


def test_annotations_may_be_strings_and_those_of_the_result_are_never_read() -> None:
    def later(day: "dt.date", count: "Annotated[int, Meta(ge=1)]" = 1) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
        """Say it later."""
        return (day, count)

    assert run(tool(later), day="2030-12-31") == (dt.date(2030, 12, 31), 1)
    assert properties(tool(later))["count"] == {"type": "integer", "minimum": 1, "default": 1}


def test_a_default_is_left_to_the_function_and_shown_to_the_model() -> None:
    marker = dt.date(2030, 12, 31)

    @tool
    def when(day: dt.date = marker, tags: tuple[str, ...] = ("a",), none: int | None = None) -> object:
        """Tell."""
        return day, tags, none

    assert {name: each["default"] for name, each in properties(when).items()} == {
        "day": "2030-12-31",
        "tags": ["a"],
        "none": None,
    }
    assert when.arguments_for({}, CONTEXT) == {}
    assert run(when) == (marker, ("a",), None)


# --- contexts ---------------------------------------------------------------------------------------------


def test_a_parameter_that_is_annotated_as_the_context_gets_it_and_is_not_the_models() -> None:
    def plain(city: str, context: ToolContext) -> object:
        """Take one."""
        return city, context

    def maybe(*, inside: ToolContext | None = None) -> object:
        """Take one, or none."""
        return inside

    def annotated(city: str, it: "Annotated[ToolContext, 'of this call']" = CONTEXT) -> object:
        """Take one."""
        return city, it

    assert run(tool(plain), city="Oslo") == ("Oslo", CONTEXT)
    assert run(tool(maybe)) is CONTEXT
    assert tool(maybe)() is None
    assert tool(annotated).arguments_for({"city": "Oslo"}, OTHER) == {"city": "Oslo", "it": OTHER}
    for made in (tool(plain), tool(maybe), tool(annotated)):
        assert properties(made).keys() <= {"city"}
        with pytest.raises(ArgumentsError, match="is no parameter of"):
            made.arguments_for({"context": 1}, CONTEXT)


@pytest.mark.clock("virtual")
async def test_a_tool_can_have_something_said_while_it_is_at_work() -> None:
    service = FakeService()
    async with SonicSession(transport=service) as session:
        await context(session).say("The bookings {take} a minute.")
        with pytest.raises(ConfigurationError, match="text is empty"):
            await context(session).say(" \n")
    told = service.all_of(messages.TextInput)[-1].content
    assert "The bookings {take} a minute." in told
    assert "tool" in told
    assert session.history == (), "the user has not said it"


def test_a_tool_can_read_what_was_said() -> None:
    assert CONTEXT.history == (HI,)


def test_a_context_cannot_be_changed() -> None:
    """The tools that run side by side share a session."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONTEXT.call = CONTEXT.call  # type: ignore[misc]


# --- schemas of one's own ---------------------------------------------------------------------------------

OBJECT: Json = {"type": "object", "properties": {"x": {"type": "integer"}}}


def test_a_tool_with_a_schema_of_its_own_gets_the_arguments_as_they_come() -> None:
    def echo(context: ToolContext, **given: Any) -> Any:
        return context, given

    made = Tool(
        name="echo", description="Echo.", schema=OBJECT, call=echo, timeout=1, cancel_on_interrupt=True
    )
    assert made.spec == ToolSpec(name="echo", description="Echo.", schema=OBJECT)
    assert (made.timeout, made.cancel_on_interrupt, made.asynchronous) == (1, True, False)
    assert run(made, x="no integer", y=None) == (CONTEXT, {"x": "no integer", "y": None})
    assert run(made, context="of the model's") == (CONTEXT, {})


def test_a_tool_with_a_schema_of_its_own_may_be_annotated_with_anything() -> None:
    def odd(x, y: "Nowhere", **more: str) -> object:  # type: ignore[no-untyped-def, name-defined]  # noqa: ANN001, F821
        return x, y, more

    assert run(Tool(name="odd", description="Odd.", schema=OBJECT, call=odd), x=1, y=2, z=3) == (
        1,
        2,
        {"z": 3},
    )
    kept = dict[str, Any]()
    run(Tool(name="keep", description="Keep.", schema=OBJECT, call=kept.update), x=1)  # it has no signature
    assert kept == {"x": 1}


# --- refusals ---------------------------------------------------------------------------------------------


def unannotated(city) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Be wrong."""


def many(*cities: str) -> None:
    """Be wrong."""


def others(**cities: str) -> None:
    """Be wrong."""


def positional(city: str, /) -> None:
    """Be wrong."""


def unresolved(city: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Be wrong."""


def unsupported(city: Calendar) -> None:
    """Be wrong."""


def nested(cities: list[complex]) -> None:
    """Be wrong."""


def wrong_bounds(city: Annotated[str, Meta(ge=1)]) -> None:
    """Be wrong."""


def odd_default(city: object = object()) -> None:
    """Be wrong."""


def no_default(city: str = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
    """Be wrong."""


def no_number(ratio: float = float("nan")) -> None:
    """Be wrong."""


def outside(days: Annotated[int, Meta(ge=1)] = 0) -> None:
    """Be wrong."""


def half(city: str = "\ud83d") -> None:
    """Be wrong."""


def silent(city: str) -> None:
    pass


def stream(city: str) -> Iterator[str]:
    """Be wrong."""
    yield city


async def slow_stream(city: str) -> AsyncIterator[str]:
    """Be wrong."""
    yield city


def wetter_für(city: str) -> None:  # noqa: PLC2401 - so it is meant
    """Be wrong."""


class Node(msgspec.Struct):
    inner: "Node | None" = None


def recursive(node: Node) -> None:
    """Be wrong."""


def huge(city: Annotated[str, Meta(description="x" * 1_000_000)]) -> None:
    """Be wrong."""


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (
            unannotated,
            "the parameter 'city' of unannotated() has no annotation; say what it takes, such as city: str",
        ),
        (
            Calendar.book,
            "the parameter 'self' of book() has no annotation; make a tool of an object's method",
        ),
        (many, "the parameter 'cities' of many() takes any number of arguments; name each of them"),
        (others, "the parameter 'cities' of others() takes any number of arguments; name each of them"),
        (
            positional,
            "the parameter 'city' of positional() is positional-only, but tools are called by keyword",
        ),
        (
            unresolved,
            "the parameter 'city' of unresolved() has an annotation that cannot be resolved (name 'No",
        ),
        (
            unsupported,
            "the parameter 'city' of unsupported() has a type that no tool can take: msgspec",
        ),
        (
            nested,
            "the parameter 'cities' of nested() has a type that no tool can take: msgspec cannot read a",
        ),
        (wrong_bounds, "the parameter 'city' of wrong_bounds() has a type that no tool can take: Can only"),
        (
            recursive,
            "the parameter 'node' of recursive() has a type that no tool can take: it contains itself",
        ),
        (odd_default, "the parameter 'city' of odd_default() has the default <object object at"),
        (
            no_default,
            "the parameter 'city' of no_default() has the default None, which is nothing that the model",
        ),
        (
            no_number,
            "the parameter 'ratio' of no_number() has the default nan, which is nothing that the model",
        ),
        (
            outside,
            "the parameter 'days' of outside() has the default 0, which is nothing that the model could send",
        ),
        (
            half,
            "the parameter 'city' of half() has the default '\\ud83d', which is nothing that the model could",
        ),
        (
            silent,
            "the tool 'silent' has no description; say in its docstring or its description what it is for",
        ),
        (wetter_für, "the tool 'wetter_für' has the name 'wetter_für', but a name has 1 to 64 letters (a-z)"),
        (lambda: None, "the tool '<lambda>' has the name '<lambda>', but a name has 1 to 64 letters (a-z)"),
        (huge, "the tool 'huge' takes 1000"),
        (min, "min() has no signature; write a function that calls it"),
    ],
    ids=lambda each: getattr(each, "__qualname__", ""),
)
def test_a_function_that_can_be_no_tool_is_refused_by_name_with_what_to_do(
    function: Callable[..., Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tool(function)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (stream, "it is a generator, but a tool has one result; return a list"),
        (slow_stream, "it is a generator, but a tool has one result; return a list"),
        (functools.partial(stream, "Oslo"), "it is a generator"),
        (Calendar, "it is a class; give a function, or an object with a __call__ method"),
        ("weather", "it is no function"),
        (tool(name="a", description="b")(lambda: None), "it is one already"),
    ],
    ids=str,
)
def test_what_is_no_function_is_refused(given: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a tool: " + complaint):
        tool(given)
    with pytest.raises(ConfigurationError, match="cannot be a tool: " + complaint):
        Tool(name="n", description="d", schema=OBJECT, call=given)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "30", dt.timedelta(1)])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    complaint = "the tool 'silent' has the timeout .+, but it must be a number above 0, or None for never"
    with pytest.raises(ConfigurationError, match=complaint):
        tool(description="Be silent.", timeout=timeout)(silent)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "get weather"}, "the tool 'get weather' has the name 'get weather', but"),
        ({"name": ""}, "the tool '' has the name '', but"),
        ({"description": " "}, "the tool 'n' has no description"),
        ({"schema": {}}, "the tool 'n' has a schema that is not an object's"),
        ({"schema": {"type": "array"}}, "the tool 'n' has a schema that is not an object's"),
        ({"schema": {"type": "object", "default": object()}}, "the tool 'n' cannot be written as JSON"),
    ],
)
def test_a_tool_with_a_schema_of_its_own_is_refused_like_any_other(
    changes: dict[str, Any], complaint: str
) -> None:
    given: dict[str, Any] = {"name": "n", "description": "d", "schema": OBJECT, "call": silent}
    Tool(**given)
    with pytest.raises(ConfigurationError, match=complaint):
        Tool(**(given | changes))


def test_a_context_that_is_imported_for_type_checkers_only_is_not_overlooked() -> None:
    """The tool would be called without it, and fail while somebody is on the telephone."""

    def late(context: "session.ToolContext") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Take one."""

    for make in (tool, lambda call: Tool(name="n", description="d", schema=OBJECT, call=call)):
        with pytest.raises(
            ConfigurationError, match=r"the parameter 'context' of late\(\) has an annotation that"
        ):
            make(late)


# --- offering ---------------------------------------------------------------------------------------------


def test_functions_and_tools_and_specs_can_be_offered() -> None:
    made, spec = tool(decorated), ToolSpec(name="own", description="Run by the program.", schema=OBJECT)
    first, second, third = offered([cached, made, spec])
    assert isinstance(first, Tool)
    assert (first.name, first.timeout) == ("cached", 30.0)
    assert second is made
    assert third is spec
    assert offered([]) == ()


@pytest.mark.parametrize("odd", ["weather", {"name": "weather"}, None])
def test_what_can_be_no_tool_is_refused_by_its_place(odd: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^tools\[1\] is .+, but must be a function, a Tool or a ToolSpec"
    ):
        offered([cached, odd])


def test_a_function_that_can_be_no_tool_is_named_when_it_is_offered() -> None:
    with pytest.raises(
        ConfigurationError, match=r"the parameter 'city' of unannotated\(\) has no annotation"
    ):
        offered([unannotated])


def test_tools_are_given_as_a_list() -> None:
    lonely: Any = cached
    with pytest.raises(ConfigurationError, match=r"tools is .+, but must be a list of tools"):
        offered(lonely)


def test_offers_are_typed() -> None:
    tools: list[AnyTool] = [cached, tool(decorated)]
    assert_type(offered(tools), tuple[Tool[..., Any] | ToolSpec, ...])


# --- what the model sends ---------------------------------------------------------------------------------


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclass
class Stop:
    city: str
    minutes: Annotated[int, Meta(ge=0)] = 5

    def __post_init__(self) -> None:
        if self.city == "Atlantis":
            raise ValueError("Atlantis is no stop")


@tool
def travel(
    *,
    start: str,
    days: Annotated[int, Meta(ge=1, le=7)],
    unit: Unit = Unit.CELSIUS,
    stops: list[Stop] | None = None,
    prices: dict[int, Decimal] | None = None,
    when: dt.datetime | None = None,
    labels: set[Any] | None = None,
) -> tuple[Any, ...]:
    """Travel."""
    return start, days, unit, stops, prices, when, labels


FINE = {"start": "Oslo", "days": 3}


def test_what_fits_is_converted() -> None:
    sent = FINE | {
        "unit": "fahrenheit",
        "stops": [{"city": "Bergen"}, {"city": "Voss", "minutes": 0}],
        "prices": {"7": "12.50", "8": 12.5},
        "when": "2030-12-31T23:59:59+01:00",
    }
    assert travel.arguments_for(sent, CONTEXT) == FINE | {
        "unit": Unit.FAHRENHEIT,
        "stops": [Stop("Bergen"), Stop("Voss", 0)],
        "prices": {7: Decimal("12.50"), 8: Decimal("12.5")},
        "when": dt.datetime(2030, 12, 31, 22, 59, 59, tzinfo=dt.UTC),
    }


UNITS = '`unit` must fit {"type":"string","enum":["celsius","fahrenheit"]}'
DAYS = '`days` must fit {"type":"integer","minimum":1,"maximum":7}'


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({}, "travel cannot be called without `start` and `days`"),
        ({"start": "Oslo"}, "travel cannot be called without `days`"),
        (
            FINE | {"city": "Oslo"},
            "`city` is no parameter of travel; its parameters are: `start`, `days`, `unit`",
        ),
        (FINE | {"days": 8}, f"`days` is wrong: expected `int` <= 7; {DAYS}"),
        (FINE | {"days": "3"}, f"`days` is wrong: expected `int`, got `str`; {DAYS}"),
        (FINE | {"days": None}, f"`days` is wrong: expected `int`, got `null`; {DAYS}"),
        (FINE | {"days": True}, f"`days` is wrong: expected `int`, got `bool`; {DAYS}"),
        (FINE | {"unit": "kelvin"}, f"`unit` is wrong: invalid enum value 'kelvin'; {UNITS}"),
        (
            FINE | {"stops": [{"city": "Bergen"}, {"city": "Voss", "minutes": -1}]},
            "`stops[1].minutes` is wrong: expected `int` >= 0; `stops` must fit",
        ),
        (
            FINE | {"stops": [{}]},
            "`stops[0]` is wrong: object missing required field `city`; `stops` must fit",
        ),
        (
            FINE | {"stops": [{"city": "Atlantis"}]},
            "`stops[0]` is wrong: atlantis is no stop; `stops` must fit",
        ),
        (
            FINE | {"prices": {"x": 1}},
            "a key of `prices` is wrong: expected `int`, got `str`; `prices` must fit",
        ),
        (FINE | {"prices": {"1": []}}, "`prices[...]` is wrong: expected `decimal`, got `array`"),
        (FINE | {"when": "tomorrow"}, "`when` is wrong: invalid RFC3339 encoded datetime; `when` must fit"),
        (FINE | {"labels": [["a"]]}, "`labels` is wrong: unhashable type: 'list'; `labels` must fit"),
    ],
)
def test_what_does_not_fit_is_told_to_the_model_by_its_name_and_with_what_does(sent: Json, told: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        travel.arguments_for(sent, CONTEXT)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_tool_without_parameters_says_so() -> None:
    made = tool(name="now", description="Tell the time.")(lambda: 12)
    with pytest.raises(ArgumentsError, match="`zone` is no parameter of now; its parameters are: none"):
        made.arguments_for({"zone": "UTC"}, CONTEXT)


def test_the_models_arguments_are_left_as_they_are() -> None:
    """The event that told of the call still holds them."""
    sent: dict[str, Any] = FINE | {"stops": [{"city": "Bergen"}]}
    before = json.dumps(sent)
    travel.arguments_for(sent, CONTEXT)
    assert json.dumps(sent) == before


@given(signatures())
def test_any_function_has_a_schema_that_is_one(signature: Signature) -> None:
    schema = tool(signature.function()).schema
    Draft202012Validator.check_schema(schema)
    assert list(schema) in (["type", "properties"], ["type", "properties", "required"]), "as Nova supports it"
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema, "it goes as JSON"


@given(calls())
def test_any_value_of_its_type_fits_the_schema_and_arrives_as_it_was(
    call: tuple[Signature, dict[str, Any]],
) -> None:
    signature, values = call
    made = tool(signature.function())
    sent = as_sent(values)
    Draft202012Validator(made.schema).validate(sent)
    assert run(made, **sent) == values


@given(calls(), st.data())
def test_any_value_that_does_not_fit_the_schema_is_refused_by_its_name(
    call: tuple[Signature, dict[str, Any]], data: st.DataObject
) -> None:
    signature, values = call
    made, sent = tool(signature.function()), as_sent(values)
    assume(sent)
    name = data.draw(st.sampled_from(sorted(sent)))
    spoilt_value = data.draw(spoilt(sent[name]))
    assume(not Draft202012Validator(lenient(properties(made)[name])).is_valid(spoilt_value))
    with pytest.raises(ArgumentsError, match=f"`{name}"):
        made.arguments_for(sent | {name: spoilt_value}, CONTEXT)


def lenient(schema: Any) -> Any:
    """A schema without what msgspec is not strict about: the same twice in a set, and numbers as decimals."""
    if isinstance(schema, list):
        return [lenient(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return {}
    return {name: lenient(each) for name, each in schema.items() if name != "uniqueItems"}


@given(calls(), st.data())
def test_what_is_missing_or_unknown_is_refused_by_its_name(
    call: tuple[Signature, dict[str, Any]], data: st.DataObject
) -> None:
    signature, values = call
    made, sent = tool(signature.function()), as_sent(values)
    unknown = data.draw(st.text(min_size=1, max_size=8).filter(lambda name: name not in signature.kinds))
    with pytest.raises(ArgumentsError) as caught:
        made.arguments_for(sent | {unknown: 1}, CONTEXT)
    assert f"`{unknown}` is no parameter" in str(caught.value)
    if required := made.schema.get("required"):
        missing = data.draw(st.sampled_from(required))
        del sent[missing]
        with pytest.raises(ArgumentsError, match=f"without `{missing}`"):
            made.arguments_for(sent, CONTEXT)


# --- what goes back ---------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Forecast:
    city: str
    days: list[Any]


class Reading(msgspec.Struct, rename="camel"):
    wind_speed: float


class Booking(pydantic.BaseModel):
    day: dt.date
    inner: "Booking | None" = None


class Half(float):
    """As numpy has them."""


class Count(int):
    pass


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"temperature": 7}, '{"temperature":7}'),
        ({}, "{}"),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        (None, '{"result":null}'),
        (True, '{"result":true}'),
        (7, '{"result":7}'),
        (10**30, '{"result":1000000000000000000000000000000}'),
        ("siebzig Grüße 🎈", '{"result":"siebzig Grüße 🎈"}'),
        ([1, "a", None], '{"result":[1,"a",null]}'),
        ((1, 2), '{"result":[1,2]}'),
        ({1}, '{"result":[1]}'),
        (frozenset({"a"}), '{"result":["a"]}'),
        (Point(1, 2), '{"result":[1,2]}'),
        (deque([1]), '{"result":[1]}'),
        (range(3), '{"result":[0,1,2]}'),
        (array.array("h", [1, 2]), '{"result":[1,2]}'),
        ({"a": 1}.keys(), '{"result":["a"]}'),
        ({"a": 1}.values(), '{"result":[1]}'),
        (float("nan"), '{"result":null}'),
        ([float("inf")], '{"result":[null]}'),
        ([Half(1.5), Count(1), Name("a")], '{"result":[1.5,1,"a"]}'),
        (dt.datetime(2030, 12, 31, 12, tzinfo=dt.UTC), '{"result":"2030-12-31T12:00:00Z"}'),
        ([dt.date(2030, 12, 31), dt.time(12)], '{"result":["2030-12-31","12:00:00"]}'),
        (dt.timedelta(hours=1), '{"result":"PT3600S"}'),
        (UUID(int=1), '{"result":"00000000-0000-0000-0000-000000000001"}'),
        (Decimal("1.50"), '{"result":"1.50"}'),
        (Unit.CELSIUS, '{"result":"celsius"}'),
        (Forecast("Oslo", [Point(1, 2)]), '{"result":{"city":"Oslo","days":[[1,2]]}}'),
        ({"readings": [Reading(3.5)]}, '{"readings":[{"windSpeed":3.5}]}'),
        (
            [Booking(day=dt.date(2030, 1, 1), inner=Booking(day=dt.date(2030, 1, 2)))],
            '{"result":[{"day":"2030-01-01","inner":{"day":"2030-01-02","inner":null}}]}',
        ),
        ({1: "a", dt.date(2030, 1, 1): "b", Unit.CELSIUS: "c"}, '{"1":"a","2030-01-01":"b","celsius":"c"}'),
    ],
    ids=str,
)
def test_what_a_tool_returns_goes_back_as_an_object(result: object, text: str) -> None:
    assert result_text(result) == text


class Secretive(Enum):
    KEY = object()


class Failing:
    def model_dump(self, *, mode: str) -> object:
        raise RuntimeError(mode)


def circular(kind: str) -> object:
    """Something that holds itself."""
    if kind == "list":
        rows: list[Any] = []
        rows.append(rows)
        return rows
    if kind == "dict":
        members: dict[str, Any] = {}
        members["me"] = members
        return members
    if kind == "model":
        booking = Booking(day=dt.date(2030, 1, 1))
        booking.inner = booking
        return booking
    forecast = Forecast("Oslo", [])
    forecast.days.append(forecast)
    return forecast


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (b"\xff\xd8", "result is of type bytes, but the model reads text; describe what it holds"),
        ({"photo": b""}, "result.photo is of type bytes"),
        ([{"photo": bytearray(1)}], "result[0].photo is of type bytearray"),
        (Forecast("Oslo", [1, memoryview(b"a")]), "result.days[1] is of type memoryview"),
        ({"a": {"b": (1, "\ud83d")}}, "result.a.b[1] holds half of a surrogate pair, which is no character"),
        ({"a": [{"\udc00": 1}]}, "result.a[0] has a key with half of a surrogate pair"),
        (object(), "it holds an object of the type object"),
        ([1, {"a": Calendar("Ada")}], "it holds an object of the type Calendar"),
        (Booking, "it holds an object of the type ModelMetaclass"),
        (1j, "it holds an object of the type complex"),
        (iter([1]), "it holds an object of the type list_iterator"),
        ([Secretive.KEY], "result[0] is an object of the type object"),
        ({None: 1}, "TypeError: Only dicts with str-like or number-like keys are supported"),
        ({b"a": 1}, "TypeError: Only dicts with str-like"),
        ({(1, 2): 1}, "TypeError: Only dicts with"),
        (10**5000, "ValueError: Exceeds the limit"),
        (Failing(), "RuntimeError: json"),
        (circular("list"), "the list contains itself"),
        (circular("dict"), "the dict contains itself"),
        (circular("dataclass"), "the Forecast contains itself"),
        (circular("model"), "ValueError: Circular reference detected"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_go_back_is_refused_with_its_place_or_its_type(result: object, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        result_text(result)
    assert str(caught.value).startswith(f"result cannot be written as JSON: {why}")


@given(json_values)
def test_any_json_goes_back_as_it_is(value: Any) -> None:
    expected = value if isinstance(value, dict) else {"result": value}
    assert json.loads(result_text(value)) == expected


def test_what_is_just_short_enough_goes_whole() -> None:
    text = "x" * (RESULT_LIMIT - len('{"result":""}'))
    assert len(result_text(text)) == RESULT_LIMIT
    assert json.loads(result_text(text)) == {"result": text}
    assert json.loads(result_text(text + "x")).keys() == {"result", "note"}


@given(st.text(min_size=200) | json_values.map(lambda value: [value] * 50), st.integers(100, 250))
def test_of_what_is_too_long_the_beginning_goes_back_with_a_note(value: Any, limit: int) -> None:
    text = result_text(value, limit=limit)
    assert len(text.encode()) <= limit
    answer = json.loads(text)
    whole = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if "note" in answer:
        assert answer["note"] == f"cut: the whole has {len(whole.encode())} bytes"
        assert whole.startswith(answer["result"])
        longer = whole[: len(answer["result"]) + 1]
        assert len(msgspec.json.encode(answer | {"result": longer})) > limit, "no character more would fit"
    else:
        assert answer == {"result": value}


def test_a_limit_that_leaves_no_room_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="limit is 20, but must be at least 50 bytes"):
        result_text("x" * 30, limit=20)


@given(st.text(st.characters(codec=None), max_size=1_200))
def test_any_error_can_be_told(message: str) -> None:
    answer = json.loads(error_text(message))
    assert answer.keys() == {"error"}
    assert len(answer["error"]) <= 1_000
    if message.isprintable() and len(message) <= 1_000:
        assert answer["error"] == message


def test_an_error_that_is_too_long_is_cut_where_one_sees_it() -> None:
    assert json.loads(error_text("x" * 1_000))["error"] == "x" * 1_000
    assert json.loads(error_text("x" * 1_001))["error"] == "x" * 999 + "…"
    assert json.loads(error_text("half \ud83d"))["error"] == "half ?"
