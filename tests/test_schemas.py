"""The schema of each type as a model is shown it, and what is read in docstrings."""

import datetime as dt
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

import strategies  # noqa: F401 - its profile
from novasonic.schemas import read_docstring, schema_of


class Unit(Enum):
    """Of a temperature."""

    FAHRENHEIT = "f"
    CELSIUS = "c"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Stop:
    """A stop on the way.

    Attributes:
        city: Its name,
            in English.
        minutes: How long.
    """

    city: str
    minutes: Annotated[int, Meta(ge=0, description="How long to stay.")] = 5
    notes: list[str] = field(default_factory=list)


@dataclass
class Plain:
    x: int


class Row(NamedTuple):
    left: int
    right: str = "x"


class Member(TypedDict):
    name: str
    age: NotRequired[int]


class Record(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    first_name: str


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    loud: bool = True


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: int = 0


@dataclass
class Page[T]:
    items: list[T]


type Alias = dict[str, int]

INTEGER = {"type": "integer"}
TEXT = {"type": "string"}
NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, TEXT),
        (int, INTEGER),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, NULL),
        (Any, {}),
        (object, {}),
        (Annotated[int, Meta(ge=1, le=7)], {"type": "integer", "minimum": 1, "maximum": 7}),
        (
            Annotated[float, Meta(gt=0, lt=1, multiple_of=0.5)],
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "multipleOf": 0.5},
        ),
        (
            Annotated[str, Meta(min_length=1, max_length=5, pattern="^a", title="A", examples=["ab"])],
            {
                "type": "string",
                "minLength": 1,
                "maxLength": 5,
                "pattern": "^a",
                "title": "A",
                "examples": ["ab"],
            },
        ),
        (Annotated[str, Meta(extra_json_schema={"format": "email"})], {"type": "string", "format": "email"}),
        (
            Annotated[bytes, Meta(min_length=1, max_length=4)],
            {"type": "string", "contentEncoding": "base64", "minLength": 4, "maxLength": 8},
        ),
        (dt.datetime, {"type": "string", "format": "date-time"}),
        (Annotated[dt.datetime, Meta(tz=True)], {"type": "string", "format": "date-time"}),
        (Annotated[dt.datetime, Meta(tz=False)], {"type": "string", "examples": ["2030-12-31T23:59:59"]}),
        (dt.date, {"type": "string", "format": "date"}),
        (dt.time, {"type": "string", "format": "time"}),
        (Annotated[dt.time, Meta(tz=False)], {"type": "string", "examples": ["23:59:59"]}),
        (dt.timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Decimal, {"type": "string", "format": "decimal"}),
        (Literal["one", "a"], {"type": "string", "enum": ["a", "one"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Literal["a", 1, None], {"enum": [None, 1, "a"]}),  # noqa: PYI061 - so one may write it
        (Unit, {"description": "Of a temperature.", "type": "string", "enum": ["f", "c"]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (int | None, {"anyOf": [INTEGER, NULL]}),
        (list, {"type": "array"}),
        (list[int], {"type": "array", "items": INTEGER}),
        (Sequence[int], {"type": "array", "items": INTEGER}),
        (
            Annotated[list[int], Meta(min_length=1, max_length=2)],
            {"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2},
        ),
        (set[int], {"type": "array", "items": INTEGER, "uniqueItems": True}),
        (
            frozenset[tuple[int, ...]],
            {"type": "array", "items": {"type": "array", "items": INTEGER}, "uniqueItems": True},
        ),
        (tuple[int, str], {"type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [INTEGER, TEXT]}),
        (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
        (dict, {"type": "object"}),
        (Alias, {"type": "object", "additionalProperties": INTEGER}),
        (Mapping[str, Any], {"type": "object"}),
        (
            Annotated[dict[Annotated[str, Meta(max_length=2)], int], Meta(min_length=1, max_length=3)],
            {
                "type": "object",
                "propertyNames": {"maxLength": 2},
                "additionalProperties": INTEGER,
                "minProperties": 1,
                "maxProperties": 3,
            },
        ),
        (
            dict[Annotated[str, Meta(description="A city.")], Any],
            {"type": "object", "propertyNames": {"description": "A city."}},
        ),
        (dict[int, Any], {"type": "object", "propertyNames": {"pattern": "^-?[0-9]+$"}}),
        (dict[Level, Any], {"type": "object", "propertyNames": {"enum": ["1", "2"]}}),
        (dict[dt.date, Any], {"type": "object", "propertyNames": {"format": "date"}}),
        (Plain, {"type": "object", "properties": {"x": INTEGER}, "required": ["x"]}),
        (
            Stop,
            {
                "description": "A stop on the way.",
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name, in English."},
                    "minutes": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "How long to stay.",
                        "default": 5,
                    },
                    "notes": {"type": "array", "items": TEXT},
                },
                "required": ["city"],
            },
        ),
        (
            Page[int],
            {
                "type": "object",
                "properties": {"items": {"type": "array", "items": INTEGER}},
                "required": ["items"],
            },
        ),
        (
            Row,
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "prefixItems": [INTEGER, {"type": "string", "default": "x"}],
            },
        ),
        (Member, {"type": "object", "properties": {"name": TEXT, "age": INTEGER}, "required": ["name"]}),
        (
            Record,
            {
                "type": "object",
                "properties": {"firstName": TEXT},
                "required": ["firstName"],
                "additionalProperties": False,
            },
        ),
        (
            Cat | Dog,
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"type": {"enum": ["cat"]}, "lives": INTEGER},
                        "required": ["type", "lives"],
                    },
                    {
                        "type": "object",
                        "properties": {
                            "type": {"enum": ["dog"]},
                            "loud": {"type": "boolean", "default": True},
                        },
                        "required": ["type"],
                    },
                ]
            },
        ),
        (
            Pair,
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "prefixItems": [INTEGER, INTEGER | {"default": 0}],
            },
        ),
        (set[Row | None], {"type": "array", "items": {"anyOf": [schema_of(Row), NULL]}, "uniqueItems": True}),
    ],
    ids=str,
)
def test_a_type_has_the_schema_of_what_is_read_as_it(hint: object, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


def test_a_class_stands_wherever_it_is_used_and_nothing_refers_to_it() -> None:
    """Two classes of one name, as functions make them, are told apart, too."""

    def made(kind: type) -> type:
        return typing.cast("type", TypedDict("Same", {"x": kind}))  # type: ignore[operator]

    schema = schema_of(tuple[Plain, Plain, made(int), made(str)])  # type: ignore[misc]
    assert "$" not in json.dumps(schema)
    assert [each["properties"]["x"] for each in schema["prefixItems"]] == [INTEGER, INTEGER, INTEGER, TEXT]


class Tree(msgspec.Struct):
    branches: "list[Tree]"


class Unresolved(msgspec.Struct):
    what: "Nothing"  # type: ignore[name-defined]  # noqa: F821 - so it is meant


@dataclass
class Loose:
    x: int


class Thing:
    pass


type Endless = dict[str, Endless] | int

CODE = Annotated[str, Meta(pattern="^[A-Z]$")]


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Tree, "it contains itself"),
        (Endless, "it contains itself"),
        (Thing, "msgspec cannot read a Thing; use a dataclass or a TypedDict"),
        (list[Thing], "msgspec cannot read a Thing"),
        (Annotated[Thing, Meta(extra_json_schema={"type": "object"})], "msgspec cannot read a Thing"),
        (complex, "msgspec cannot read a complex"),
        (msgspec.Raw, "no JSON is read as a Raw"),
        (typing.Never, "is not supported"),
        (Plain | Stop, "Type unions may not contain more than one dataclass"),
        (str | dt.date, "Type unions may not contain more than one str-like type"),
        (Annotated[str, Meta(ge=1)], "Can only set `ge` on a numeric type"),
        (Enum("Mixed", {"A": 1, "B": "b"}), "Enums must contain either all str or all int values"),
        (dict[tuple[int, int], int], "the keys of a dict must be str"),
        (dict[bool, int], "the keys of a dict must be str"),
        (dict[int | str, int], "the keys of a dict must be str"),
        (set[list[int]], "what is in a set must be hashable; use a list"),
        (set[dict[str, int]], "what is in a set must be hashable"),
        (set[Loose], "what is in a set must be hashable"),
        (set[Cat], "what is in a set must be hashable"),
        (frozenset[int | tuple[list[int], ...]], "what is in a set must be hashable"),
        (set[tuple[int, Annotated[bytearray, Meta(min_length=1)]]], "what is in a set must be hashable"),
        (CODE | list[int], "no union of a str with a pattern and a list"),
        (dict[str, CODE | Annotated[dict[str, int], Meta(max_length=2)]], "no union of a str with a pattern"),
    ],
    ids=str,
)
def test_a_type_that_no_json_is_read_as_is_refused_with_what_is_wrong(hint: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        schema_of(hint)


def test_a_field_that_cannot_be_resolved_is_told_by_its_name() -> None:
    with pytest.raises(NameError, match="Nothing"):
        schema_of(Unresolved)


GOOGLE = """Book a table.

    Ask for the name first.

    Args:
        people: How many,
            children included.
        when (str): Date and time.
            It may be "tonight".

    Returns:
        A number.

    Raises:
        ValueError: If it is full.

    Example:
        A table for two.
    """

NUMPY = """Book a table.

    Ask for the name first.

    Parameters
    ----------
    people, guests : int
        How many,
        children included.
    when : str, optional
        Date and time.

    Returns
    -------
    int
        A number.

    Notes
    -----
    Never twice.
    """

SPHINX = """Book a table.

    Ask for the name first.

    :param people: How many,
        children included.
    :param str when: Date and time.
    :returns: A number.
    :raises ValueError: If it is full.
    """

MANY = "How many, children included."


@pytest.mark.parametrize(
    ("doc", "purpose", "meanings"),
    [
        (
            GOOGLE,
            "Book a table.\n\nAsk for the name first.\n\nExamples: A table for two.",
            {"people": MANY, "when": 'Date and time. It may be "tonight".'},
        ),
        (
            NUMPY,
            "Book a table.\n\nAsk for the name first.\n\nNotes: Never twice.",
            {"people": MANY, "guests": MANY, "when": "Date and time."},
        ),
        (SPHINX, "Book a table.\n\nAsk for the name first.", {"people": MANY, "when": "Date and time."}),
        ("Book a table: one for all.", "Book a table: one for all.", {}),
        ("", "", {}),
        (None, "", {}),
    ],
)
def test_a_docstring_tells_what_the_whole_and_what_each_parameter_is_for(
    doc: str | None, purpose: str, meanings: dict[str, str]
) -> None:
    assert read_docstring(doc) == (purpose, meanings)


_lines = st.sampled_from(
    [
        "Args:",
        "Returns:",
        "    x: y",
        "Parameters",
        "----------",
        "x : int",
        ":param x:",
        ":raises",
        "",
        "-----",
    ]
) | st.text(max_size=12)


@given(st.lists(_lines, max_size=8).map("\n".join))
def test_no_docstring_is_too_odd_to_be_read(doc: str) -> None:
    purpose, meanings = read_docstring(doc)
    assert isinstance(purpose, str)
    assert all(isinstance(each, str) for each in meanings.values())


def test_a_docstring_in_no_style_is_taken_as_it_is() -> None:
    """The parsers fall over this one."""
    doc = "x : int\n.. deprecated:: 1.0\n-----\n-----\n: :param x:"
    assert read_docstring(doc) == (doc, {})
