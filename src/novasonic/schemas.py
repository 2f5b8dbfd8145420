"""The JSON Schema of a Python type, as a model is shown it, and what docstrings tell it. No I/O.

msgspec reads JSON into types, so what it knows of a type is what its schema says. The schema is written here
all the same: `msgspec.json.schema` gathers classes in a member of their own at the top, to which it refers,
and Nova supports no more than `type`, `properties` and `required` there ("Troubleshooting tool calls" in its
user guide). This one is whole, and holds nothing that is of no use to a model.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec
from msgspec import inspect as kinds

# JSON Schema, "Defined formats"; "decimal" is msgspec's own.
_FORMATS: Final[Mapping[type[kinds.Type], str]] = {
    kinds.DateTimeType: "date-time",
    kinds.DateType: "date",
    kinds.TimeType: "time",
    kinds.TimeDeltaType: "duration",
    kinds.UUIDType: "uuid",
    kinds.DecimalType: "decimal",
}

_CHOICES: Final[Mapping[type, str]] = {str: "string", int: "integer", bool: "boolean"}

type _Class = kinds.StructType | kinds.TypedDictType | kinds.DataclassType | kinds.NamedTupleType


def schema_of(hint: object) -> dict[str, Any]:
    """Return the schema of what an annotation allows.

    Raises:
        TypeError: If JSON cannot hold it, msgspec does not read it, or it contains itself.
        Exception: Whatever the annotations of its fields raise that cannot be resolved.
    """
    try:
        _check_unions(hint)
        return _schema(kinds.type_info(hint), ())
    except RecursionError as exc:
        raise TypeError("it contains itself, and would never end; take a list or a str") from exc


def _check_unions(hint: object) -> None:
    """Keep away from msgspec what crashes the interpreter (up to 0.22) once the type is forgotten again.

    It sees into types, not into the fields of classes.
    """
    members = get_args(hint)
    if get_origin(hint) in {Union, UnionType}:
        collections = [each for each in members if _is_collection(each)]
        if collections and any(_has_pattern(each) for each in members):
            raise TypeError("msgspec takes no union of a str with a pattern and a list, set, tuple or dict")
    for each in members:
        _check_unions(each)


def _is_collection(hint: object) -> bool:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kind = get_origin(bare) or bare
    return isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, str)


def _has_pattern(hint: object) -> bool:
    return any(isinstance(each, msgspec.Meta) and each.pattern is not None for each in get_args(hint))


def default_of(default: object, hint: object) -> Any:  # noqa: ANN401 - it is JSON
    """Return a default as JSON holds it.

    Raises:
        Exception: If the annotation does not allow it, or JSON cannot hold it.
    """
    held = msgspec.json.decode(msgspec.json.encode(default))
    msgspec.convert(held, hint, str_keys=True)
    return held


def read_docstring(doc: str | None) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of the whole, and of each parameter or attribute.

    It may be in the style of Google, of NumPy, or of Sphinx. Returns and exceptions are left out; examples
    and notes are good reading for a model.
    """
    if not doc:
        return "", {}
    import docstring_parser as parser  # noqa: PLC0415 - 20 ms, for those who have tools

    try:
        parsed = parser.parse(doc)
    except Exception:  # noqa: BLE001 - it is in no style, and the parsers of the styles do not agree on what to raise
        return doc, {}
    aside = (
        parser.DocstringParam,
        parser.DocstringReturns,
        parser.DocstringRaises,
        parser.DocstringDeprecated,
    )
    parts = [parsed.description or ""]
    parts += [
        f"{each.args[0].capitalize()}: {each.description}"
        for each in parsed.meta
        if each.description and not isinstance(each, aside)
    ]
    meanings = {
        name.strip(): " ".join(each.description.split())
        for each in parsed.params
        if each.description
        for name in each.arg_name.split(",")  # NumPy's style has "x, y : float"
    }
    return "\n\n".join(part.strip() for part in parts if part), meanings


def _schema(kind: kinds.Type, inside: tuple[object, ...]) -> dict[str, Any]:
    """The schema of a type that stands inside these classes."""
    match kind:
        case kinds.Metadata():
            return _schema(kind.type, inside) | _meta(kind)
        case kinds.AnyType():
            return {}
        case kinds.CustomType() if kind.cls is object:
            return {}
        case kinds.NoneType():
            return {"type": "null"}
        case kinds.BoolType():
            return {"type": "boolean"}
        case kinds.IntType() | kinds.FloatType():
            return {"type": "integer" if isinstance(kind, kinds.IntType) else "number"} | _given(
                minimum=kind.ge,
                exclusiveMinimum=kind.gt,
                maximum=kind.le,
                exclusiveMaximum=kind.lt,
                multipleOf=kind.multiple_of,
            )
        case kinds.StrType():
            bounds = _given(minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern)
            return {"type": "string"} | bounds
        case kinds.BytesType() | kinds.ByteArrayType() | kinds.MemoryViewType():
            # Four characters for three bytes.
            low, high = (None if n is None else (n + 2) // 3 * 4 for n in (kind.min_length, kind.max_length))
            return {"type": "string", "contentEncoding": "base64"} | _given(minLength=low, maxLength=high)
        case kinds.DateTimeType(tz=False):  # no format is without a time zone
            return {"type": "string", "examples": ["2030-12-31T23:59:59"]}
        case kinds.TimeType(tz=False):
            return {"type": "string", "examples": ["23:59:59"]}
        case _ if form := _FORMATS.get(type(kind)):
            return {"type": "string", "format": form}
        case kinds.LiteralType():
            return _choices(kind.values)
        case kinds.EnumType():
            return _described(kind.cls)[0] | _choices([each.value for each in kind.cls])
        case kinds.UnionType():
            return {"anyOf": [_schema(each, inside) for each in kind.types]}
        case kinds.CollectionType():
            return _collection(kind, inside)
        case kinds.TupleType():
            items = [_schema(each, inside) for each in kind.item_types]
            return _row(items, at_least=len(items))
        case kinds.DictType():
            return _mapping(kind, inside)
        case kinds.StructType() | kinds.TypedDictType() | kinds.DataclassType() | kinds.NamedTupleType():
            return _fields(kind, inside)
        case kinds.CustomType():
            raise TypeError(f"msgspec cannot read a {kind.cls.__qualname__}; use a dataclass or a TypedDict")
        case _:
            raise TypeError(f"no JSON is read as a {type(kind).__name__.removesuffix('Type')}")


def _given(**bounds: object) -> dict[str, Any]:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _meta(kind: kinds.Metadata) -> dict[str, Any]:
    """What `msgspec.Meta` adds to a schema: the description, and whatever else was given."""
    return cast("Any", kind).extra_json_schema or {}


def _choices(values: Sequence[object]) -> dict[str, Any]:
    types = {type(each) for each in values}
    return _given(type=_CHOICES.get(types.pop()) if len(types) == 1 else None) | {"enum": list(values)}


def _collection(kind: kinds.CollectionType, inside: tuple[object, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    if items := _schema(kind.item_type, inside):
        schema["items"] = items
    if isinstance(kind, kinds.SetType | kinds.FrozenSetType):
        if not _hashable(kind.item_type):
            raise TypeError("what is in a set must be hashable; use a list")
        schema["uniqueItems"] = True
    return schema | _given(minItems=kind.min_length, maxItems=kind.max_length)


def _hashable(kind: kinds.Type) -> bool:
    match kind:
        case kinds.Metadata():
            return _hashable(kind.type)
        case (
            kinds.ListType()
            | kinds.SetType()
            | kinds.DictType()
            | kinds.TypedDictType()
            | kinds.ByteArrayType()
        ):
            return False
        case kinds.VarTupleType() | kinds.FrozenSetType():
            return _hashable(kind.item_type)
        case kinds.TupleType():
            return all(map(_hashable, kind.item_types))
        case kinds.UnionType():
            return all(map(_hashable, kind.types))
        case kinds.StructType() if (config := kind.cls.__struct_config__).eq and not config.frozen:
            return False
        case kinds.StructType() | kinds.DataclassType() | kinds.NamedTupleType():
            return _class_of(kind).__hash__ is not None and all(_hashable(each.type) for each in kind.fields)
        case _:
            return True


def _row(items: list[dict[str, Any]], *, at_least: int) -> dict[str, Any]:
    """The schema of an array that holds something else in each place."""
    return {"type": "array", "minItems": at_least, "maxItems": len(items)} | _given(prefixItems=items or None)


def _mapping(kind: kinds.DictType, inside: tuple[object, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if names := _keys(kind.key_type):
        schema["propertyNames"] = names
    if values := _schema(kind.value_type, inside):
        schema["additionalProperties"] = values
    return schema | _given(minProperties=kind.min_length, maxProperties=kind.max_length)


def _keys(kind: kinds.Type) -> dict[str, Any]:
    """The schema of the keys of an object: strings, whatever they are read as."""
    match kind:
        case kinds.Metadata():
            return _keys(kind.type) | _meta(kind)
        case kinds.IntType():
            return {"pattern": "^-?[0-9]+$"}
        case kinds.LiteralType() | kinds.EnumType():
            return {"enum": [str(each) for each in _schema(kind, ())["enum"]]}
        case kinds.AnyType() | kinds.StrType() | kinds.DateType() | kinds.UUIDType():
            return {name: each for name, each in _schema(kind, ()).items() if name != "type"}
        case _:
            raise TypeError("the keys of a dict must be str, int, dates, UUIDs, or some of them")


def _fields(kind: _Class, inside: tuple[object, ...]) -> dict[str, Any]:
    if kind.cls in inside:
        raise RecursionError
    described, meanings = _described(_class_of(kind))
    properties, required = dict[str, dict[str, Any]](), list[str]()
    if isinstance(kind, kinds.StructType) and kind.tag_field is not None:
        properties[kind.tag_field] = {"enum": [kind.tag]}
        required.append(kind.tag_field)
    for field in kind.fields:
        schema = _schema(field.type, (*inside, kind.cls))
        if field.name in meanings:
            schema.setdefault("description", meanings[field.name])
        if field.required:
            required.append(field.encode_name)
        elif field.default is not msgspec.NODEFAULT:
            schema["default"] = default_of(field.default, Any)
        properties[field.encode_name] = schema
    if isinstance(kind, kinds.NamedTupleType) or (isinstance(kind, kinds.StructType) and kind.array_like):
        return described | _row(list(properties.values()), at_least=len(required))
    schema = described | {"type": "object", "properties": properties} | _given(required=required or None)
    if isinstance(kind, kinds.StructType) and kind.forbid_unknown_fields:
        schema["additionalProperties"] = False
    return schema


def _class_of(kind: _Class) -> type:
    """The class itself, where a type is `Page[int]`."""
    return get_origin(kind.cls) or kind.cls


def _described(cls: type) -> tuple[dict[str, Any], dict[str, str]]:
    """What the docstring of a class says of it, as a schema has it, and of each of its fields."""
    doc = cls.__doc__
    if doc is None or doc.startswith(
        f"{cls.__name__}("
    ):  # dataclasses and named tuples describe themselves so
        return {}, {}
    purpose, meanings = read_docstring(inspect.cleandoc(doc))
    return _given(description=purpose or None), meanings
