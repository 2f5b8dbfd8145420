"""What hypothesis says to tools: functions with annotations of every type, and what a model may send them."""

import dataclasses
import datetime as dt
import inspect
import json
import keyword
import operator
import typing
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import reduce
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from msgspec import Meta

from strategies import json_values

Values = st.SearchStrategy[Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A type, and values of it.

    Attributes:
        form: What its JSON is. msgspec tells the members of a union apart by it.
        hashable: Whether its values may stand in a set.
        pattern: Whether it has one.
    """

    hint: Any
    values: Values = dataclasses.field(repr=False)
    form: Literal["null", "bool", "int", "float", "str", "array", "object", "any"]
    hashable: bool = True
    pattern: bool = False


Kinds = st.SearchStrategy[Kind]

identifiers = (
    st.from_regex(r"[a-z_][a-z0-9_]{0,7}", fullmatch=True)
    # The first are names that a careless implementation would stumble over.
    | st.sampled_from(["self", "call", "context", "name", "arguments", "schema", "type", "größe", "Meta"])
).filter(lambda name: not keyword.iskeyword(name) and not name.startswith("_"))

_finite = st.floats(allow_nan=False, allow_infinity=False)
_small = st.integers(-1000, 1000)
_zones = st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))


def _kind(form: Any, hint: Any, values: Values) -> Kinds:
    return st.just(Kind(hint=hint, values=values, form=form))


@st.composite
def _bounded_numbers(draw: st.DrawFn) -> Kind:
    low, span = draw(_small), draw(st.integers(0, 50))
    if draw(st.booleans()):
        meta = draw(st.sampled_from([Meta(ge=low, le=low + span), Meta(gt=low - 1, lt=low + span + 1)]))
        return Kind(hint=Annotated[int, meta], values=st.integers(low, low + span), form="int")
    if draw(st.booleans()):
        step = draw(st.integers(1, 12))
        return Kind(hint=Annotated[int, Meta(multiple_of=step)], values=_small.map(step.__mul__), form="int")
    return Kind(
        hint=Annotated[float, Meta(ge=low, le=low + span)], values=st.floats(low, low + span), form="float"
    )


@st.composite
def _bounded_texts(draw: st.DrawFn) -> Kind:
    low = draw(st.integers(0, 4))
    high = low + draw(st.integers(0, 6))
    bounds = Meta(min_length=low, max_length=high, description=draw(st.none() | st.text(max_size=8)))
    if draw(st.booleans()):
        return Kind(hint=Annotated[bytes, bounds], values=st.binary(min_size=low, max_size=high), form="str")
    return Kind(hint=Annotated[str, bounds], values=st.text(min_size=low, max_size=high), form="str")


@st.composite
def _choices(draw: st.DrawFn) -> Kind:
    texts = st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True)
    numbers = st.lists(_small, min_size=1, max_size=4, unique=True)
    values: list[Any] = draw(texts | numbers)
    form: Any = "str" if isinstance(values[0], str) else "int"
    if draw(st.booleans()):
        return Kind(hint=Literal[*values], values=st.sampled_from(values), form=form)
    base: Any = draw(st.sampled_from([Enum, StrEnum if form == "str" else IntEnum]))
    choice = base("Choice", {f"C{at}": value for at, value in enumerate(values)})
    return Kind(hint=choice, values=st.sampled_from(list(choice)), form=form)


def _times() -> Kinds:
    moments, clock = st.datetimes(), st.times()
    aware, aware_clock = st.datetimes(timezones=_zones), st.times(timezones=_zones)
    return st.one_of(
        _kind("str", dt.datetime, moments | aware),
        _kind("str", Annotated[dt.datetime, Meta(tz=True)], aware),
        _kind("str", Annotated[dt.datetime, Meta(tz=False)], moments),
        _kind("str", dt.time, clock | aware_clock),
        _kind("str", Annotated[dt.time, Meta(tz=False)], clock),
        _kind("str", dt.date, st.dates()),
        _kind("str", dt.timedelta, st.timedeltas(dt.timedelta(-999), dt.timedelta(999))),
    )


_patterned = st.just(
    Kind(
        hint=Annotated[str, Meta(pattern="^[a-z]+-[0-9]$")],
        values=st.from_regex("[a-z]+-[0-9]", fullmatch=True),
        form="str",
        pattern=True,
    )
)

simple = st.one_of(
    _kind("null", None, st.none()),
    _kind("bool", bool, st.booleans()),
    _kind("int", int, st.integers() | st.integers(-(10**40), 10**40)),
    _kind("float", float, _finite),
    _kind("str", str, st.text()),
    _patterned,
    _kind("str", UUID, st.uuids()),
    _kind("str", Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    _kind("str", bytes, st.binary(max_size=8)),
    _bounded_numbers(),
    _bounded_texts(),
    _choices(),
    _times(),
)
"""Types without others in them. Each can stand in a set."""

anything = st.builds(
    Kind,
    hint=st.sampled_from([Any, object]),
    values=st.just(json_values),
    form=st.just("any"),
    hashable=st.just(False),
)

_keys = st.one_of(
    _kind("str", str, st.text(max_size=6)),
    _kind("str", Annotated[str, Meta(min_length=1)], st.text(min_size=1, max_size=6)),
    _kind("str", int, st.integers(-(2**63), 2**63 - 1)),
    _kind("str", Literal["a", "b"], st.sampled_from("ab")),
    _kind("str", dt.date, st.dates()),
    _kind("str", UUID, st.uuids()),
)


def _containers(inner: Kinds) -> Kinds:
    return st.one_of(
        inner.map(_list_of), inner.map(_row_of), simple.map(_set_of), st.builds(_dict_of, _keys, inner),
        st.lists(inner, max_size=3).map(_tuple_of),
        st.lists(inner, min_size=2, max_size=4).map(_union_of),
        _classes(inner),
    )  # fmt: skip


def _list_of(item: Kind) -> Kind:
    hint = Annotated[list[item.hint], Meta(max_length=3)]  # type: ignore[name-defined]
    return Kind(hint=hint, values=st.lists(item.values, max_size=3), form="array", hashable=False)


def _row_of(item: Kind) -> Kind:
    values = st.lists(item.values, max_size=3).map(tuple)
    return Kind(hint=tuple[item.hint, ...], values=values, form="array", hashable=item.hashable)  # type: ignore[name-defined]


def _set_of(item: Kind) -> Kind:
    return Kind(hint=set[item.hint], values=st.sets(item.values, max_size=3), form="array", hashable=False)  # type: ignore[name-defined]


def _dict_of(key: Kind, value: Kind) -> Kind:
    values = st.dictionaries(key.values, value.values, max_size=3)
    return Kind(hint=dict[key.hint, value.hint], values=values, form="object", hashable=False)  # type: ignore[name-defined]


def _tuple_of(items: list[Kind]) -> Kind:
    row: Any = tuple
    return Kind(
        hint=row[tuple(item.hint for item in items)],
        values=st.tuples(*(item.values for item in items)),
        form="array",
        hashable=all(item.hashable for item in items),
    )


def _union_of(members: list[Kind]) -> Kind:
    """A union of those that can be told apart. An int is a float, too, and would be read as one."""
    apart = {"number" if member.form in {"int", "float"} else member.form: member for member in members}
    if "any" in apart:
        return apart["any"]
    if any(each.pattern for each in members) and apart.keys() & {"array", "object"}:
        return members[0]  # msgspec crashes over these, and tools refuse them
    return Kind(
        hint=reduce(operator.or_, (member.hint or type(None) for member in apart.values())),
        values=st.one_of(*(member.values for member in apart.values())),
        form="any",
        hashable=all(member.hashable for member in apart.values()),
    )


@st.composite
def _classes(draw: st.DrawFn, inner: Kinds) -> Kind:
    """A class with fields, of one of the four sorts; the later fields may be left out."""
    names = draw(st.lists(identifiers.filter(_is_ascii), max_size=3, unique=True))
    members = {name: draw(inner) for name in names}
    needed = draw(st.integers(0, len(names)))
    defaults = {name: draw(members[name].values) for name in names[needed:]}
    fields = {name: member.values for name, member in members.items()}
    make, form = draw(st.sampled_from(_MAKERS))
    cls = make({name: member.hint for name, member in members.items()}, defaults)
    left_out = st.just(set[str]()) if not defaults else st.sets(st.sampled_from(sorted(defaults)))

    def made(given: dict[str, Any], missing: set[str]) -> Any:
        if form == "array":  # what is left out of an array moves the rest of it
            return cls(**given)
        return cls(**{name: value for name, value in given.items() if name not in missing})

    values = st.builds(made, st.fixed_dictionaries(fields), left_out)
    return Kind(hint=cls, values=values, form=form, hashable=False)


def _is_ascii(name: str) -> bool:
    return name.isascii() and name not in {"self", "count", "index"}  # tuples have the last two


def _dataclass(hints: dict[str, Any], defaults: dict[str, Any]) -> Any:
    def field(name: str) -> Any:
        return (
            dataclasses.field(default_factory=_always(defaults[name]))
            if name in defaults
            else dataclasses.field()
        )

    fields = [(name, hint, field(name)) for name, hint in hints.items()]
    return dataclasses.make_dataclass("Data", fields, kw_only=True)


def _struct(hints: dict[str, Any], defaults: dict[str, Any]) -> Any:
    def field(name: str) -> Any:
        return msgspec.field(default_factory=_always(defaults[name])) if name in defaults else msgspec.field()

    fields = [(name, hint, field(name)) for name, hint in hints.items()]
    return msgspec.defstruct("Record", fields, kw_only=True, rename="camel", forbid_unknown_fields=True)


def _typed_dict(hints: dict[str, Any], defaults: dict[str, Any]) -> Any:
    fields = {name: NotRequired[hint] if name in defaults else hint for name, hint in hints.items()}
    return typing.TypedDict("Members", fields)  # type: ignore[operator]


def _named_tuple(hints: dict[str, Any], defaults: dict[str, Any]) -> Any:  # noqa: ARG001 - as the others
    return typing.NamedTuple("Row", list(hints.items()))


def _always(value: object) -> Callable[[], object]:
    return lambda: value


_MAKERS: Any = [(_dataclass, "object"), (_struct, "object"), (_typed_dict, "object"), (_named_tuple, "array")]

_flat = simple | anything
_nested = _flat | _containers(_flat)
all_kinds: Kinds = _nested | _containers(_nested)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The parameters of a function.

    Attributes:
        kinds: The type of each, and values.
        defaults: Of those that may be left out.
    """

    kinds: dict[str, Kind]
    defaults: dict[str, Any]

    def function(self) -> Callable[..., dict[str, Any]]:
        """A function that returns what it was called with."""

        def echo(**given: Any) -> dict[str, Any]:
            """Return what was given."""
            return given

        echo.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    annotation=kind.hint,
                    default=self.defaults.get(name, inspect.Parameter.empty),
                )
                for name, kind in self.kinds.items()
            ]
        )
        return echo


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Any function."""
    kinds = draw(st.dictionaries(identifiers, all_kinds, max_size=4))
    optional = draw(st.sets(st.sampled_from(sorted(kinds)))) if kinds else set[str]()
    return Signature(kinds=kinds, defaults={name: draw(kinds[name].values) for name in optional})


@st.composite
def calls(draw: st.DrawFn) -> tuple[Signature, dict[str, Any]]:
    """A function, and arguments that fit it."""
    signature = draw(signatures())
    left_out = (
        draw(st.sets(st.sampled_from(sorted(signature.defaults)))) if signature.defaults else set[str]()
    )
    return signature, {
        name: draw(kind.values) for name, kind in signature.kinds.items() if name not in left_out
    }


def as_sent(value: object) -> Any:
    """A value as a model would send it."""
    return json.loads(msgspec.json.encode(value))


@st.composite
def spoilt(draw: st.DrawFn, value: object) -> Any:
    """Something else in the place of a value, or of something in it."""
    if isinstance(value, list | dict) and value and draw(st.booleans()):
        changed: Any = value.copy()
        at = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        if draw(st.integers(0, 3)) == 0:
            del changed[at]
        else:
            changed[at] = draw(spoilt(changed[at]))
        return changed
    return draw(json_values)
