"""What a tool is: a function that the model may call, its JSON Schema, and JSON both ways. It runs nothing.

`tool` makes a tool of a function: the schema comes from its signature and its docstring, and what the model
sends is checked and converted by it. Who runs tools, and when, is the session's business. No I/O.
"""

import functools
import inspect
import re
import sys
import types
import typing
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, overload

import msgspec
from msgspec import inspect as kinds

from novasonic import messages
from novasonic.conversation import Message
from novasonic.errors import ConfigurationError
from novasonic.events import ToolCall
from novasonic.messages import Json, PromptStart, ToolSpec
from novasonic.models import Limits

if TYPE_CHECKING:
    from novasonic.session import SonicSession

__all__ = [
    "RESULT_LIMIT",
    "AnyTool",
    "ArgumentsError",
    "Tool",
    "ToolContext",
    "check_spec",
    "error_text",
    "offered",
    "result_text",
    "tool",
]

RESULT_LIMIT: Final = 32 * 1024
"""Bytes of UTF-8 in the answer to a call. It is ours, as the service's own limit is not known.

Nova user guide, best practices for tools: the first model called tools worse from some 50,000 tokens of
context on. This is about 10,000 of them, more than anybody wants to hear, and stays in the context.
"""

_ERROR_LIMIT: Final = 1_000  # characters; the model needs the gist

_TIMEOUT: Final = 30.0  # seconds; who waits longer on the telephone hangs up

# Bedrock API reference, "ToolSpecification".
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_MEANWHILE: Final = (
    "One of your tools is still at work. Until its result comes, tell me this in one short sentence, in your "
    "own words and in the language that we speak, and nothing else: {text}"
)


class ArgumentsError(ValueError):
    """What the model sent does not fit. The text is for the model: it names the parameter and what fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What a tool may know of the conversation: it goes to whichever parameter is annotated with this class.

    Attributes:
        session: The session that runs the tool.
        call: The call that it answers.
    """

    session: "SonicSession"
    call: ToolCall

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said so far, as `SonicSession.history`."""
        return self.session.history

    async def say(self, text: str) -> None:
        """Have the model tell the user something while the tool is at work.

        The model chooses its own words: give it the matter ("The bookings take about a minute."). Cancelling
        is safe, as with `SonicSession.send_text`: the instruction goes out whole all the same.

        Raises:
            ConfigurationError: If the text is empty or too long.
            LocalProtocolError: If the model does not answer typed text, or the session is not open.
            TransportError: If the session has failed.
        """
        if not text.strip():
            raise ConfigurationError("text is empty; say what the user should be told")
        await self.session.send_text(_MEANWHILE.format(text=text), in_history=False)


class Tool[**P, R]:
    """A function that the model may call, and that can still be called like the function.

    `tool` makes one of a function with annotations. With this constructor, the schema is one of your own;
    then `call` gets the arguments as they come, unchecked and by keyword.

    Attributes:
        name: What the model calls it by: 1 to 64 letters, digits, `_` or `-`.
        description: What it is for: the model decides by it.
        schema: JSON Schema of its arguments, an object's. AWS advises no more than `type`, `properties` and
            `required` at its top.
        call: What is run: in a thread, unless it is a coroutine function. A parameter of it that is annotated
            with `ToolContext` is not the model's, and gets one.
        timeout: Seconds after which nobody waits for it any more, and the model is told so; None for never.
        cancel_on_interrupt: Whether it is cancelled when the user breaks in.

    Raises:
        ConfigurationError: If one of them is wrong; it names the tool.
    """

    def __init__(
        self,
        *,
        name: str,
        description: str,
        schema: Json,
        call: Callable[P, R],
        timeout: float | None = _TIMEOUT,
        cancel_on_interrupt: bool = False,
    ) -> None:
        behind = _behind(call)
        functools.update_wrapper(self, call, updated=())
        self.name = name
        self.description = description
        self.schema = schema
        self.call = call
        self.timeout = timeout
        self.cancel_on_interrupt = cancel_on_interrupt
        where, limit = f"the tool {name!r}", Limits().message_bytes
        if (size := check_spec(where, self.spec)) > limit:
            raise ConfigurationError(
                f"{where} takes {size} bytes of a message, which has at most {limit}; shorten its schema"
            )
        is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if timeout is not None and not (is_number and 0 < timeout < float("inf")):
            raise ConfigurationError(
                f"timeout of {where} is {timeout!r}, but must be a number of seconds above 0, or None for never"
            )
        self._contexts = _contexts(call, behind)

    def __repr__(self) -> str:
        return f"Tool(name={self.name!r}, description={self.description!r})"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: nothing is checked, converted or injected."""
        return self.call(*args, **kwargs)

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it."""
        return ToolSpec(name=self.name, description=self.description, schema=self.schema)

    @property
    def asynchronous(self) -> bool:
        """Whether `call` is a coroutine function: a plain one, a partial one, or a `__call__`."""
        call: object = self.call
        while isinstance(call, functools.partial):
            call = call.func
        return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)

    def arguments_for(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        """Return the keyword arguments to run `call` with.

        Args:
            arguments: As the model sent them.
            context: For the parameters that are annotated with its class.

        Raises:
            ArgumentsError: If what the model sent does not fit. It cannot, if the schema is one of your own.
        """
        return {**arguments, **dict.fromkeys(self._contexts, context)}


AnyTool = Tool[..., Any] | ToolSpec | Callable[..., Any]
"""What can be offered to the model: a tool, a function that becomes one, or what the program runs itself."""


class _FunctionTool[**P, R](Tool[P, R]):
    """A tool whose schema is its function's own, and whose arguments are checked by it."""

    def __init__(
        self,
        call: Callable[P, R],
        *,
        name: str | None,
        description: str | None,
        timeout: float | None,
        cancel_on_interrupt: bool,
    ) -> None:
        behind = _behind(call)
        purpose, meanings = _read(behind.doc)
        self._hints = _hints(call, behind)
        properties, required = dict[str, Any](), list[str]()
        for parameter, (hint, default) in self._hints.items():
            where = f"the parameter {parameter!r} of {behind.name}()"
            properties[parameter] = _property(where, hint, default, meanings.get(parameter))
            if default is inspect.Parameter.empty:
                required.append(parameter)
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        super().__init__(
            name=behind.name if name is None else name,
            description=purpose if description is None else description,
            schema=schema | ({"required": required} if required else {}),
            call=call,
            timeout=timeout,
            cancel_on_interrupt=cancel_on_interrupt,
        )

    @typing.override
    def arguments_for(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        for name in arguments:
            if name not in self._hints:
                known = ", ".join(f"`{each}`" for each in self._hints) or "none"
                raise ArgumentsError(f"`{name}` is no parameter of {self.name}; its parameters are: {known}")
        missing = [f"`{name}`" for name in self.schema.get("required", ()) if name not in arguments]
        if missing:
            raise ArgumentsError(f"{self.name} cannot be called without {' and '.join(missing)}")
        return super().arguments_for(
            {name: self._converted(name, value) for name, value in arguments.items()}, context
        )

    def _converted(self, name: str, value: object) -> object:
        hint, _ = self._hints[name]
        try:
            return msgspec.convert(value, hint, str_keys=True)
        except (msgspec.ValidationError, TypeError, RecursionError) as exc:
            # "Expected `int`, got `str` - at `$.stops[0].minutes`", or "- at `key` in `$.prices`"
            found = _AT.fullmatch(str(exc))
            what, key, path = found.groups("") if found else (str(exc), "", "")
            place = f"{'a key of ' if key else ''}`{name}{path}`"
            said = {
                key: each
                for key, each in self.schema["properties"][name].items()
                if key not in {"default", "description", "title", "examples"}
            }
            raise ArgumentsError(
                f"{place} is wrong: {what[:1].lower()}{what[1:]}; `{name}` must fit {_text(said)}"
            ) from exc


_AT: Final = re.compile(r"(.*?)(?: - at (`key` in )?`\$(.*)`)?", re.DOTALL)


@overload
def tool[**P, R](
    call: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = _TIMEOUT,
    cancel_on_interrupt: bool = False,
) -> Tool[P, R]: ...


@overload
def tool[**P, R](
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = _TIMEOUT,
    cancel_on_interrupt: bool = False,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    call: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = _TIMEOUT,
    cancel_on_interrupt: bool = False,
) -> Any:
    """Make a tool of a function that the model may call; it can still be called as before.

        @tool
        async def weather(city: str, days: Annotated[int, Meta(ge=1, le=7)] = 1) -> dict[str, float]:
            '''Look up the weather of a city.

    Args:
                city: Its name in English.
                days: How many, from today.
            '''

    The annotations say what the model may send, and what the function gets: all that msgspec reads from JSON,
    with `msgspec.Meta` for the bounds, such as numbers, texts, `Literal`, enums, lists, dataclasses and times. An
    argument that the model leaves out is left to the function's own default. What parameters mean is read in
    the docstring, in Google's, NumPy's or Sphinx's style, or in `Meta(description=...)`.

    Methods are made tools of an object: `tool(calendar.book)`. What `functools.partial` has bound is hidden
    from the model.

    Args:
        call: The function, with an annotation for each parameter. A parameter that is annotated with
            `ToolContext` is not the model's. A plain function runs in a thread and may block.
        name: What the model calls it by; by default the function's name.
        description: What it is for; by default what the docstring says before and beside its sections of
            parameters, returns and exceptions.
        timeout: Seconds after which nobody waits for it any more; None for never.
        cancel_on_interrupt: Whether it is cancelled when the user breaks in.

    Raises:
        ConfigurationError: If the function cannot be a tool. It names the parameter, and what to do.
    """

    def made(function: Callable[..., Any]) -> Tool[..., Any]:
        return _FunctionTool(
            function,
            name=name,
            description=description,
            timeout=timeout,
            cancel_on_interrupt=cancel_on_interrupt,
        )

    return made if call is None else made(call)


def offered(tools: Sequence[AnyTool]) -> tuple[Tool[..., Any] | ToolSpec, ...]:
    """Return what is offered to the model: functions become tools, as if they were decorated.

    Raises:
        ConfigurationError: If something can be no tool; it names which.
    """
    if not isinstance(tools, Iterable):
        raise ConfigurationError(f"tools is {tools!r}, but must be a list of tools")
    found = list[Tool[..., Any] | ToolSpec]()
    for at, each in enumerate(tools):
        if isinstance(each, Tool | ToolSpec):
            found.append(each)
        elif callable(each):
            found.append(tool(each))
        else:
            raise ConfigurationError(f"tools[{at}] is {each!r}, but must be a function, a Tool or a ToolSpec")
    return tuple(found)


def check_spec(where: str, spec: ToolSpec) -> int:
    """See to it that the service takes a tool; return how many bytes it takes of a message.

    Raises:
        ConfigurationError: If it does not; it calls the tool `where`.
    """
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        raise ConfigurationError(
            f"{where} has the name {spec.name!r}, but a name has 1 to 64 letters (a-z), digits, '_' or '-'"
        )
    if not isinstance(spec.description, str) or not spec.description.strip():
        raise ConfigurationError(
            f"{where} has no description; say in its docstring or its description what it is for: the model decides by it"
        )
    if not isinstance(spec.schema, dict) or spec.schema.get("type") != "object":
        raise ConfigurationError(
            f'{where} has a schema that is not an object\'s; it must be a dict with "type": "object"'
        )
    empty = PromptStart(prompt_name="", voice="")
    try:
        size = len(messages.encode(PromptStart(prompt_name="", voice="", tools=(spec,))))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{where} cannot be written as JSON: {exc}") from exc
    return size - len(messages.encode(empty))


# --- what the model reads ---------------------------------------------------------------------------------


def result_text(result: object, *, limit: int = RESULT_LIMIT) -> str:
    """Return what goes back to the model: the text of a JSON object, as the service wants it.

    A mapping goes as it is, anything else as `{"result": ...}`. Dataclasses, pydantic's models, dates, enums,
    sets and the like become what JSON has for them; a number that is none (NaN) becomes null.

    Args:
        result: What a tool returned.
        limit: Bytes of UTF-8 at most. Of what is longer, only the beginning goes back, with a note.

    Raises:
        ConfigurationError: If JSON has nothing for it; it names the place or the type.
    """
    try:
        plain = msgspec.to_builtins(result, str_keys=True, builtin_types=_BINARY, enc_hook=_readable)
        _check_plain(plain, "result")
        whole = plain if isinstance(result, Mapping) else {"result": plain}
        text = _text(whole)
    except ConfigurationError:
        raise
    except RecursionError as exc:
        raise ConfigurationError(
            f"result cannot be written as JSON: the {type(result).__name__} holds itself, or is nested too deep"
        ) from exc
    except Exception as exc:
        # An object's own code may run, and raise whatever it likes.
        raise ConfigurationError(f"result cannot be written as JSON: {type(exc).__name__}: {exc}") from exc
    if len(text.encode()) <= limit:
        return text
    return _cut(plain if isinstance(plain, str) else _text(plain), limit)


def error_text(message: str) -> str:
    """Return what tells the model that its call failed: the text of a JSON object. It never fails."""
    if len(message) > _ERROR_LIMIT:
        message = message[: _ERROR_LIMIT - 1] + "…"
    return _text({"error": message.encode(errors="replace").decode()})


def _cut(text: str, limit: int) -> str:
    """The beginning of a text, in as long an object as the limit allows."""
    note = f"cut: the whole has {len(text.encode())} bytes"

    def kept(length: int) -> str:
        return _text({"result": text[:length], "note": note})

    def size(length: int) -> int:
        return len(kept(length).encode())

    # A character takes a byte at least, and six where JSON escapes it.
    length = bisect_right(range(min(limit, len(text)) + 1), limit, key=size) - 1
    if length < 0:
        raise ConfigurationError(f"limit is {limit}, but must be at least {size(0)} bytes")
    return kept(length)


_BINARY: Final = (bytes, bytearray, memoryview)


def _readable(value: object) -> object:
    """What JSON has for an object that msgspec does not know."""
    match value:
        case str():
            return str(value)  # of a class of its own; so are those below
        case int():
            return int(value)
        case float():
            return float(value)
        case Mapping():
            return dict[Any, Any](value)
        case Sequence() | Set() | ValuesView():
            return list[Any](value)
        case _:
            pass
    # pydantic, without importing it.
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return dump(mode="json")
    raise _unwritable(f"it holds an object of the type {type(value).__qualname__}")


def _check_plain(value: object, where: str) -> None:
    """See to it that JSON can be written, and read as it was meant."""
    match value:
        case None | bool() | int() | float():
            pass
        case str():
            if not _is_text(value):
                raise _unwritable(f"{where} holds half of a surrogate pair, which is no character")
        case dict():
            for key, each in typing.cast("dict[str, object]", value).items():
                if not _is_text(key):
                    raise _unwritable(
                        f"{where} has a key with half of a surrogate pair, which is no character"
                    )
                _check_plain(each, f"{where}.{key}")
        case list() | tuple():
            for at, each in enumerate(typing.cast("Sequence[object]", value)):
                _check_plain(each, f"{where}[{at}]")
        case bytes() | bytearray() | memoryview():
            raise _unwritable(
                f"{where} is of type {type(value).__name__}, but the model reads text; describe what it holds"
            )
        case _:
            raise _unwritable(f"{where} is an object of the type {type(value).__qualname__}")


def _is_text(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _unwritable(why: str) -> ConfigurationError:
    return ConfigurationError(f"result cannot be written as JSON: {why}")


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


# --- functions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Behind:
    """What stands behind something that can be called: a function with a name, words and a module."""

    function: Callable[..., Any]
    name: str
    doc: str | None


def _behind(call: object) -> _Behind:
    """Look through methods, partials, decorators and objects with a `__call__`."""
    what = f"{call!r} cannot be a tool"
    if isinstance(call, Tool):
        raise ConfigurationError(f"{what}: it is one already")
    if isinstance(call, type):
        raise ConfigurationError(
            f"{what}: it is a class; give a function, or an object with a __call__ method"
        )
    if not callable(call):
        raise ConfigurationError(f"{what}: it is no function")
    function: Any = call
    kind: type | None = None  # of an object with a __call__
    while not inspect.isroutine(function) or inspect.ismethod(function) or hasattr(function, "__wrapped__"):
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            kind = type(function)
            function = kind.__call__
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{what}: it is a generator, but a tool has one result; return a list")
    if kind is None:
        return _Behind(function=function, name=function.__name__, doc=inspect.getdoc(function))
    doc = inspect.getdoc(function) or inspect.getdoc(kind)
    return _Behind(function=function, name=kind.__name__, doc=doc)


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # An annotation that nobody needs, such as that of the result, need not be there at run time.
        from annotationlib import Format  # noqa: PLC0415

        return inspect.signature(call, annotation_format=Format.FORWARDREF)
    return inspect.signature(call)


def _hints(call: Callable[..., Any], behind: _Behind) -> dict[str, tuple[Any, Any]]:
    """The parameters that are the model's: the type and the default of each."""
    try:
        parameters = _signature(call).parameters
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{behind.name}() has no signature; write a function that calls it") from exc
    bound = set[str](call.keywords) if isinstance(call, functools.partial) else set[str]()
    hints = dict[str, tuple[Any, Any]]()
    for name, parameter in parameters.items():
        where = f"the parameter {name!r} of {behind.name}()"
        if name in bound:
            continue
        match parameter.kind:
            case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.VAR_KEYWORD:
                raise ConfigurationError(f"{where} takes any number of arguments; name each of them")
            case inspect.Parameter.POSITIONAL_ONLY:
                raise ConfigurationError(
                    f"{where} is positional-only, but tools are called by keyword; drop the '/'"
                )
            case _:
                pass
        if parameter.annotation is inspect.Parameter.empty:
            if not hints and name in {"self", "cls"}:
                raise ConfigurationError(
                    f"{where} has no annotation; make a tool of the method of an object: tool(object.{behind.name})"
                )
            raise ConfigurationError(f"{where} has no annotation; say what it takes, such as {name}: str")
        try:
            hint = _resolved(parameter.annotation, behind.function)
        except Exception as exc:  # annotations may hold anything
            raise _unresolved(where, exc) from exc
        if not _is_context(hint):
            hints[name] = hint, parameter.default
    return hints


def _contexts(call: Callable[..., Any], behind: _Behind) -> tuple[str, ...]:
    """The parameters that get a context. The others may be annotated as they like, or not at all."""
    try:
        parameters = _signature(call).parameters
    except (TypeError, ValueError):
        return ()  # not written in Python, so it knows nothing of contexts
    found = list[str]()
    for name, parameter in parameters.items():
        try:
            hint = _resolved(parameter.annotation, behind.function)
        except Exception as exc:  # annotations may hold anything
            if "ToolContext" in str(parameter.annotation):
                raise _unresolved(f"the parameter {name!r} of {behind.name}()", exc) from exc
            continue
        if _is_context(hint):
            found.append(name)
    return tuple(found)


def _unresolved(where: str, why: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{where} has an annotation that cannot be resolved ({why}), but tools need theirs at run time: import "
        "or define it at the top of the module, outside of `if TYPE_CHECKING:`"
    )


def _resolved(annotation: object, function: Callable[..., Any]) -> Any:
    """What an annotation means, where it is a string, too."""

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    holder.__type_params__ = getattr(function, "__type_params__", ())
    names = getattr(function, "__globals__", {})
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["it"]


def _is_context(hint: object) -> bool:
    """Whether it is `ToolContext`, or that or None, for functions that are called without one, too."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return {ToolContext, types.NoneType} == set(typing.get_args(hint))
    return hint is ToolContext


def _read(doc: str | None) -> tuple[str, dict[str, str]]:
    """Read a docstring: what it says of the whole, and of each parameter or attribute."""
    if not doc:
        return "", {}
    import docstring_parser as parser  # noqa: PLC0415 - 20 ms, for those who have tools

    try:
        parsed = parser.parse(doc)
    except Exception:  # noqa: BLE001 - it is in no style, and its parsers do not agree on what to raise then
        return inspect.cleandoc(doc), {}
    # Examples and notes are good reading for a model.
    aside = (
        parser.DocstringParam | parser.DocstringReturns | parser.DocstringRaises | parser.DocstringDeprecated
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
    return "\n\n".join(part for part in parts if part), meanings


# --- types ------------------------------------------------------------------------------------------------


def _property(where: str, hint: object, default: object, meaning: str | None) -> dict[str, Any]:
    """The schema of a parameter."""
    try:
        kind = kinds.type_info(hint)
        schema = _schema(kind)
    except RecursionError as exc:
        raise ConfigurationError(f"{where} has a type that contains itself; say how deep it goes") from exc
    except Exception as exc:
        raise ConfigurationError(f"{where} has a type that no tool can take: {exc}") from exc
    own = kind.extra_json_schema or {} if isinstance(kind, kinds.Metadata) else {}
    if meaning and "description" not in own:
        schema["description"] = meaning
    if default is not inspect.Parameter.empty:
        try:
            schema["default"] = _held(default)
            msgspec.convert(schema["default"], hint, str_keys=True)
        except Exception as exc:
            raise ConfigurationError(
                f"{where} has the default {default!r}, which is nothing that the model could send ({exc}); "
                "change it, or the annotation"
            ) from exc
    return schema


def _held(default: object) -> Any:
    """A default as JSON holds it."""
    return msgspec.json.decode(msgspec.json.encode(default))


def _schema(kind: kinds.Type, inside: tuple[object, ...] = ()) -> dict[str, Any]:
    """The schema of a type that stands inside others; whole, and with nothing that is of no use to a model.

    `msgspec.json.schema` gathers classes in a fourth member at the top, to which it refers. Nova user guide,
    "Troubleshooting tool calls": no more than type, properties and required are supported there.
    """
    match kind:
        case kinds.Metadata():
            return _schema(kind.type, inside) | (kind.extra_json_schema or {})
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
            encoded = {"type": "string", "contentEncoding": "base64"}
            return encoded | _given(minLength=low, maxLength=high)
        case kinds.DateTimeType(tz=False):  # no format is without a time zone
            return {"type": "string", "examples": ["2030-12-31T23:59:59"]}
        case kinds.TimeType(tz=False):
            return {"type": "string", "examples": ["23:59:59"]}
        case _ if form := _FORMATS.get(type(kind)):
            return {"type": "string", "format": form}
        case kinds.LiteralType():
            return {"enum": list(kind.values)}
        case kinds.EnumType():
            described, _ = _described(kind.cls)
            return described | {"enum": [each.value for each in kind.cls]}
        case kinds.UnionType():
            return {"anyOf": [_schema(each, inside) for each in kind.types]}
        case kinds.CollectionType():
            return _array(kind, inside)
        case kinds.TupleType():
            items = [_schema(each, inside) for each in kind.item_types]
            return _row(items, at_least=len(items))
        case kinds.DictType():
            return _mapping(kind, inside)
        case kinds.StructType() | kinds.TypedDictType() | kinds.DataclassType() | kinds.NamedTupleType():
            return _members(kind, inside)
        case kinds.CustomType():
            raise TypeError(f"msgspec does not know {kind.cls.__qualname__}")
        case _:
            raise TypeError(f"{type(kind).__name__} is nothing that a model could send")


# JSON Schema, "Defined formats"; "decimal" is msgspec's own.
_FORMATS: Final[Mapping[type[kinds.Type], str]] = {
    kinds.DateTimeType: "date-time",
    kinds.DateType: "date",
    kinds.TimeType: "time",
    kinds.TimeDeltaType: "duration",
    kinds.UUIDType: "uuid",
    kinds.DecimalType: "decimal",
}


def _given(**bounds: object) -> dict[str, Any]:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _array(kind: kinds.CollectionType, inside: tuple[object, ...]) -> dict[str, Any]:
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
        case kinds.StructType() | kinds.DataclassType():
            return getattr(kind.cls, "__hash__", None) is not None
        case kinds.TupleType():
            return all(map(_hashable, kind.item_types))
        case kinds.VarTupleType():
            return _hashable(kind.item_type)
        case kinds.UnionType():
            return all(map(_hashable, kind.types))
        case _:
            return True


def _row(items: list[dict[str, Any]], *, at_least: int) -> dict[str, Any]:
    """The schema of an array with something else in each place."""
    schema: dict[str, Any] = {"type": "array", "minItems": at_least, "maxItems": len(items)}
    return schema | ({"prefixItems": items} if items else {})


def _mapping(kind: kinds.DictType, inside: tuple[object, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if names := _keys(kind.key_type):
        schema["propertyNames"] = names
    if values := _schema(kind.value_type, inside):
        schema["additionalProperties"] = values
    return schema | _given(minProperties=kind.min_length, maxProperties=kind.max_length)


def _keys(kind: kinds.Type) -> dict[str, Any]:
    """The schema of the keys of an object, which are strings, whatever a dict makes of them."""
    match kind:
        case kinds.Metadata():
            return _keys(kind.type) | (kind.extra_json_schema or {})
        case kinds.IntType():
            return {"pattern": "^-?[0-9]+$"}
        case kinds.LiteralType() | kinds.EnumType():
            return {"enum": [str(each) for each in _schema(kind)["enum"]]}
        case kinds.AnyType() | kinds.StrType() | kinds.DateType() | kinds.UUIDType() | kinds.DecimalType():
            schema = _schema(kind)
            schema.pop("type", None)
            return schema
        case _:
            raise TypeError(f"the keys of a dict cannot be {type(kind).__name__}; use str")


def _members(
    kind: kinds.StructType | kinds.TypedDictType | kinds.DataclassType | kinds.NamedTupleType,
    inside: tuple[object, ...],
) -> dict[str, Any]:
    """The schema of a class by its fields."""
    if kind.cls in inside:
        raise RecursionError
    described, meanings = _described(kind.cls)
    properties, required = dict[str, dict[str, Any]](), list[str]()
    if isinstance(kind, kinds.StructType) and kind.tag_field is not None:
        properties[kind.tag_field] = {"enum": [kind.tag]}
        required.append(kind.tag_field)
    for field in kind.fields:
        schema = _schema(field.type, (*inside, kind.cls))
        if field.name in meanings:
            schema = {"description": meanings[field.name]} | schema
        if field.required:
            required.append(field.encode_name)
        elif field.default is not msgspec.NODEFAULT:
            schema["default"] = _held(field.default)
        properties[field.encode_name] = schema
    if isinstance(kind, kinds.NamedTupleType) or (isinstance(kind, kinds.StructType) and kind.array_like):
        return described | _row(list(properties.values()), at_least=len(required))
    found = described | {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    if isinstance(kind, kinds.StructType) and kind.forbid_unknown_fields:
        found["additionalProperties"] = False
    return found


def _described(cls: type) -> tuple[dict[str, Any], dict[str, str]]:
    """What the docstring of a class says of it, as a schema has it, and of each of its fields."""
    cls = typing.get_origin(cls) or cls
    doc = cls.__doc__
    # Dataclasses and named tuples without one are given their own signature.
    if doc is None or doc.startswith(f"{cls.__name__}("):
        return {}, {}
    purpose, meanings = _read(doc)
    return _given(description=purpose or None), meanings
