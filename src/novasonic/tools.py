"""What a tool is: a function that the model may call, its JSON Schema, and JSON both ways. It runs nothing.

`tool` makes a tool of a function: the schema comes from its signature and its docstring, and what the model
sends is checked and converted by it. Who runs tools, and when, is the session's business. No I/O.
"""

import functools
import inspect
import math
import re
import sys
import types
import typing
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast, overload

import msgspec

from novasonic import messages
from novasonic.conversation import Message
from novasonic.errors import ConfigurationError
from novasonic.events import ToolCall
from novasonic.messages import Json, PromptStart, ToolSpec
from novasonic.models import Limits
from novasonic.schemas import default_of, read_docstring, schema_of

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
        if timeout is not None and not _is_duration(timeout):
            raise ConfigurationError(
                f"{where} has the timeout {timeout!r}, but it must be a number above 0, or None for never"
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
        call = _unbound(self.call)
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
        purpose, meanings = read_docstring(behind.doc)
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
        except (msgspec.ValidationError, TypeError) as exc:
            # "Expected `int`, got `str` - at `$[0].minutes`", or "... - at `key` in `$`"
            what, _, at = str(exc).partition(" - at `")
            place = f"`{name}{at.rpartition('$')[2].rstrip('`')}`"
            if at.startswith("key"):
                place = f"a key of {place}"
            fits = {
                member: each
                for member, each in self.schema["properties"][name].items()
                if member not in {"default", "description", "title", "examples"}
            }
            raise ArgumentsError(
                f"{place} is wrong: {what[:1].lower()}{what[1:]}; `{name}` must fit {_text(fits)}"
            ) from exc


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
            "Look up the weather of a city."

    The annotations say what the model may send and what the function gets: whatever msgspec reads from JSON,
    such as numbers, texts, `Literal`, enums, lists, dataclasses and times, with `msgspec.Meta` for bounds.
    What the model leaves out is left to the function's own default. What a parameter means is told by the
    docstring, in the style of Google, NumPy or Sphinx, or by `Meta(description=...)`.

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
    if not isinstance(cast("object", tools), Iterable):
        raise ConfigurationError(f"tools is {tools!r}, but must be a list of tools")
    return tuple(_offered(at, each) for at, each in enumerate(tools))


def _offered(at: int, given: AnyTool) -> Tool[..., Any] | ToolSpec:
    if callable(given):
        return cast("Tool[..., Any]", given) if isinstance(given, Tool) else tool(given)
    if isinstance(cast("object", given), ToolSpec):
        return given
    raise ConfigurationError(f"tools[{at}] is {given!r}, but must be a function, a Tool or a ToolSpec")


def check_spec(where: str, spec: ToolSpec) -> int:
    """See to it that the service takes a tool; return the bytes of a message that offers it alone.

    Raises:
        ConfigurationError: If it does not; it calls the tool `where`.
    """
    name, description, schema = cast("tuple[object, ...]", (spec.name, spec.description, spec.schema))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{where} has the name {name!r}, but a name has 1 to 64 letters (a-z), digits, '_' or '-'"
        )
    if not isinstance(description, str) or not description.strip():
        raise ConfigurationError(
            f"{where} has no description; say in its docstring or its description what it is for, "
            "as the model decides by it"
        )
    if not isinstance(schema, dict) or spec.schema.get("type") != "object":
        raise ConfigurationError(
            f'{where} has a schema that is not an object\'s; it must be a dict with "type": "object"'
        )
    try:
        return len(messages.encode(PromptStart(prompt_name="", voice="", tools=(spec,))))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{where} cannot be written as JSON: {exc}") from exc


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


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
    kind = type(result).__name__
    try:
        plain = msgspec.to_builtins(result, str_keys=True, builtin_types=_BINARY, enc_hook=_readable)
        _check_plain(plain, "result")
        whole = plain if isinstance(result, Mapping) else {"result": plain}
        text = _text(whole)
    except ConfigurationError:
        raise
    except RecursionError as exc:
        raise ConfigurationError(
            f"result cannot be written as JSON: the {kind} contains itself, or goes too deep"
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


_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")

_BINARY: Final = (bytes, bytearray, memoryview)


def _readable(value: Any) -> object:  # noqa: ANN401 - as msgspec calls it
    """What JSON has for an object that msgspec does not know."""
    match value:
        case str():
            return str(value)  # of a class of its own; so are those below
        case int():
            return int(value)
        case float():
            return float(value)
        case Mapping():
            return {**cast("Any", value)}
        case Sequence() | AbstractSet() | ValuesView():
            return list(cast("Iterable[Any]", value))
        case _:
            pass
    # pydantic, without importing it.
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return dump(mode="json")
    raise _unwritable(f"it holds an object of the type {type(value).__qualname__}")


def _check_plain(value: object, where: str) -> None:
    """See to it that JSON can be written, and read as it was meant."""
    kind = type(value)
    match value:
        case None | bool() | int() | float():
            pass
        case str():
            if not _is_text(value):
                raise _unwritable(f"{where} holds half of a surrogate pair, which is no character")
        case dict():
            for key, each in cast("dict[str, object]", value).items():
                if not _is_text(key):
                    raise _unwritable(
                        f"{where} has a key with half of a surrogate pair, which is no character"
                    )
                _check_plain(each, f"{where}.{key}")
        case list() | tuple():
            for at, each in enumerate(cast("Sequence[object]", value)):
                _check_plain(each, f"{where}[{at}]")
        case bytes() | bytearray() | memoryview():
            raise _unwritable(
                f"{where} is of type {kind.__name__}, but the model reads text; describe what it holds"
            )
        case _:
            raise _unwritable(f"{where} is an object of the type {kind.__qualname__}")


def _is_text(text: str) -> bool:
    return _HALF_CHARACTER.search(text) is None


def _unwritable(why: str) -> ConfigurationError:
    return ConfigurationError(f"result cannot be written as JSON: {why}")


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


# --- functions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Behind:
    """What stands behind something that can be called: a function, its name and its docstring."""

    function: object
    name: str
    doc: str | None


def _behind(call: object) -> _Behind:
    """Look through partials, methods, decorators and objects with a `__call__`."""
    what = f"{call!r} cannot be a tool"
    if isinstance(call, Tool):
        raise ConfigurationError(f"{what}: it is one already")
    if isinstance(call, type):
        raise ConfigurationError(
            f"{what}: it is a class; give a function, or an object with a __call__ method"
        )
    if not callable(call):
        raise ConfigurationError(f"{what}: it is no function")
    named = function = _unbound(call)
    while (deeper := _deeper(function)) is not None:
        function = deeper
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{what}: it is a generator, but a tool has one result; return a list")
    own = function.__doc__
    return _Behind(
        function=function,
        name=getattr(named, "__name__", type(named).__name__),
        doc=inspect.cleandoc(own) if own else inspect.getdoc(named),  # or that of a class
    )


def _is_partial(call: object) -> typing.TypeGuard["functools.partial[Any]"]:
    return isinstance(call, functools.partial)


def _unbound(call: object) -> object:
    """What a partial function is a part of."""
    while _is_partial(call):
        call = call.func
    return call


def _deeper(call: object) -> object:
    """What a partial, a method, a decorated function or an object leads to; None from a plain function."""
    if _is_partial(call):
        return call.func
    if inspect.ismethod(call):
        return call.__func__
    wrapped: object = getattr(call, "__wrapped__", None)
    return wrapped if wrapped is not None or inspect.isroutine(call) else type(call).__call__


def _parameters(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that are left to whoever calls.

    Raises:
        TypeError, ValueError: If Python cannot tell, as of some functions that are written in C.
    """
    if sys.version_info >= (3, 14):
        # An annotation that nobody needs, such as that of the result, need not be there at run time.
        from annotationlib import Format  # noqa: PLC0415

        signature = inspect.signature(call, annotation_format=Format.FORWARDREF)
    else:
        signature = inspect.signature(call)
    bound = call.keywords if _is_partial(call) else {}
    return {name: each for name, each in signature.parameters.items() if name not in bound}


def _hints(call: Callable[..., Any], behind: _Behind) -> dict[str, tuple[Any, Any]]:
    """The parameters that are the model's: the type and the default of each."""
    try:
        parameters = _parameters(call)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{behind.name}() has no signature; write a function that calls it") from exc
    hints = dict[str, tuple[Any, Any]]()
    for name, parameter in parameters.items():
        where = f"the parameter {name!r} of {behind.name}()"
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
                    f"{where} has no annotation; make a tool of an object's method: tool(it.{behind.name})"
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
        parameters = _parameters(call)
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
        f"{where} has an annotation that cannot be resolved ({why}), but a tool needs it at run time: "
        "import or define it at the top of the module, outside of `if TYPE_CHECKING:`"
    )


def _resolved(annotation: object, function: object) -> object:
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


def _property(where: str, hint: object, default: object, meaning: str | None) -> dict[str, Any]:
    """The schema of a parameter."""
    try:
        schema = schema_of(hint)
    except Exception as exc:  # the fields of a class may be annotated with anything
        raise ConfigurationError(f"{where} has a type that no tool can take: {exc}") from exc
    if meaning is not None and not _says_what_it_means(hint):
        schema["description"] = meaning
    if default is not inspect.Parameter.empty:
        try:
            schema["default"] = default_of(default, hint)
        except Exception as exc:  # a default may be any object
            raise ConfigurationError(
                f"{where} has the default {default!r}, which is nothing that the model could send ({exc}); "
                "change it, or the annotation"
            ) from exc
    return schema


def _says_what_it_means(hint: object) -> bool:
    """Whether an annotation has a description of its own."""
    return typing.get_origin(hint) is typing.Annotated and any(
        isinstance(each, msgspec.Meta) and each.description is not None for each in typing.get_args(hint)[1:]
    )
