"""What a script waits for: things that a client says, and descriptions of them that fit or do not.

Messages are too small for a story: a text comes in pieces, a tool's answer does not name its tool, and what
opens a stream is a dozen of them. Here they become what a client *did*.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypedDict, Unpack

import msgspec

from novasonic import messages
from novasonic.errors import ConfigurationError
from novasonic.messages import Endpointing, Inference, InputMessage

_NAMES: Final = {"prompt_name", "content_name"}
"""What a client makes up, and nobody can expect."""

_ONCE: Final = (messages.SessionStart, messages.PromptStart)
"""Messages of which there is one on a stream: if it is not what it should be, no other will."""

_ROUNDING: Final = 0.001  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that a client did.

    Attributes:
        message: The message by which it is done. A text that came in pieces is whole in it.
        seconds: Of speech, how long it is.
        tool_use_id: Of a tool's answer, the call that it answers.
        tool: And the tool.
        opening: Of what opens a stream, all that it says.
    """

    message: InputMessage
    seconds: float = 0.0
    tool_use_id: str = ""
    tool: str = ""
    opening: Mapping[str, Any] | None = None

    @property
    def is_said(self) -> bool:
        """Whether it is part of the conversation: a typed text, or a tool's answer."""
        return isinstance(self.message, messages.TextInput | messages.ToolResult)

    def __str__(self) -> str:
        match self.message:
            case messages.TextInput(content=text):
                return f"typed text {text!r}"
            case messages.ToolResult(content=text):
                return f"answer of {self.tool or self.tool_use_id} {text}"
            case _:
                return type(self.message).__name__


class Ear:
    """Turns the messages of a client into deeds, one stream's.

    Args:
        calls: The tools that were called on it, by the ids of the calls.

    Attributes:
        prompt_name: What the client calls its prompt.
        sample_rate: Of its audio, in Hz.
        samples: How much of that has come.
    """

    def __init__(self, calls: Mapping[str, str]) -> None:
        self.prompt_name = ""
        self.sample_rate = 16_000
        self.samples = 0
        self._calls = calls
        self._blocks = dict[str, messages.InputContentStart]()
        self._texts = dict[str, str]()
        self._results = dict[str, messages.ToolResult]()
        self._opening: dict[str, Any] = {"history": []}

    def hear(self, message: InputMessage) -> Iterator[Deed]:
        """Yield what is done by a message: most often one thing, or nothing yet.

        Silence is nothing that anybody does: a session sends it while nobody speaks.
        """
        match message:
            case messages.AudioInput(content=pcm):
                self.samples += len(pcm) // 2
                if pcm.count(0) < len(pcm):
                    yield Deed(message=message, seconds=len(pcm) / 2 / self.sample_rate)
            case messages.TextInput(content_name=name, content=text):
                self._texts[name] = self._texts.get(name, "") + text
            case messages.ToolResult(content_name=name):
                self._results[name] = message
            case messages.InputContentStart(content_name=name):
                self._blocks[name] = message
                yield self._started(message)
            case messages.InputContentEnd(content_name=name):
                if (block := self._blocks.pop(name, None)) is not None:
                    yield from self._block(block)
                yield Deed(message=message)
            case messages.SessionStart():
                self._opening |= {"endpointing": message.endpointing, "inference": message.inference}
                yield Deed(message=message)
            case messages.PromptStart():
                self.prompt_name = message.prompt_name
                self._opening |= {
                    "voice": message.voice,
                    "output_rate": message.sample_rate,
                    "tools": [tool.name for tool in message.tools],
                    "tool_choice": message.tool_choice,
                }
                yield Deed(message=message)
            case _:
                yield Deed(message=message)

    def _started(self, block: messages.InputContentStart) -> Deed:
        if block.type != "AUDIO":
            return Deed(message=block)
        self.sample_rate = block.sample_rate or self.sample_rate
        return Deed(message=block, opening=self._opening | {"input_rate": self.sample_rate})

    def _block(self, block: messages.InputContentStart) -> Iterator[Deed]:
        """Yield what was done by a block that has ended."""
        name, text = block.content_name, self._texts.pop(block.content_name, "")
        match block:
            case messages.InputContentStart(type="TEXT", interactive=True, prompt_name=prompt):
                yield Deed(message=messages.TextInput(prompt_name=prompt, content_name=name, content=text))
            case messages.InputContentStart(type="TEXT", role="SYSTEM"):
                self._opening["system"] = text
            case messages.InputContentStart(type="TEXT", role=role):
                self._opening["history"] = [*self._opening["history"], (role, text)]
            case messages.InputContentStart(type="TOOL", tool_use_id=str(id_)) if name in self._results:
                tool = self._calls.get(id_, "")
                yield Deed(message=self._results.pop(name), tool_use_id=id_, tool=tool)
            case _:
                pass


Fits = Callable[[Deed], bool]
"""Whether something that a client did is what was waited for."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a script may wait for; `typed`, `answers`, `speaks` and `opens` return some.

    Attributes:
        text: What it is, for people.
        begin: Is called when the waiting begins.
        judges: Whether something that does not fit is wrong, and not just something else.
        show: What to say of something that it has judged.
    """

    text: str
    begin: Callable[[], Fits] = field(repr=False)
    judges: Callable[[Deed], bool] = field(default=lambda _: False, repr=False)
    show: Callable[[Deed], str] = field(default=str, repr=False)

    def __str__(self) -> str:
        return self.text


Expected = Pattern | type[InputMessage] | InputMessage | Callable[[Any], bool]
"""What `expect` takes."""


class Opening(TypedDict, total=False):
    """What `opens` takes: settings of a `SonicSession`."""

    voice: str
    system: str
    tools: Sequence[str]
    tool_choice: str | None
    history: Sequence[tuple[str, str]]
    inference: Inference
    endpointing: Endpointing | None
    input_rate: int
    output_rate: int


def opens(**settings: Unpack[Opening]) -> Pattern:
    """Return what fits a stream that is opened with these settings, and any others: `opens(voice="tiffany")`.

    Args:
        settings: As of a `SonicSession`; tools by their names, and history as pairs of role and text. In
            `system`, a `*` stands for anything.
    """
    wanted = dict[str, Any](settings)
    for several in {"tools", "history"} & wanted.keys():
        wanted[several] = list(wanted[several])

    def fits(deed: Deed) -> bool:
        return deed.opening is not None and all(
            _reads(value, deed.opening.get(name, "")) if name == "system" else deed.opening.get(name) == value
            for name, value in wanted.items()
        )

    def show(deed: Deed) -> str:
        return _opened({name: (deed.opening or {}).get(name) for name in wanted})

    return Pattern(_opened(wanted), lambda: fits, judges=lambda deed: deed.opening is not None, show=show)


def typed(text: str = "*") -> Pattern:
    """Return what fits a text that is typed, by the program or by the session; a `*` stands for anything."""

    def fits(deed: Deed) -> bool:
        return isinstance(deed.message, messages.TextInput) and _reads(text, deed.message.content)

    return Pattern(f"typed text {text!r}", lambda: fits)


def answers(tool: str, result: object = ...) -> Pattern:
    """Return what fits the answer to a tool call: `answers("weather", {"celsius": 21})`.

    Args:
        tool: The tool, or the id of the call.
        result: What goes back to the model, a JSON object; `unittest.mock.ANY` in it stands for anything. By
            default it may be whatever it is.
    """

    def fits(deed: Deed) -> bool:
        message = deed.message
        if not isinstance(message, messages.ToolResult) or tool not in {deed.tool, deed.tool_use_id}:
            return False
        return result is ... or result == msgspec.json.decode(message.content)

    return Pattern(f"answer of {tool}" + ("" if result is ... else f": {result}"), lambda: fits)


def speaks(seconds: float) -> Pattern:
    """Return what fits so much of the user's voice, or more, in seconds. Zeros are silence, and no voice."""

    def begin() -> Fits:
        heard = 0.0

        def fits(deed: Deed) -> bool:
            nonlocal heard
            heard += deed.seconds
            return heard > seconds - _ROUNDING

        return fits

    return Pattern(f"{seconds:g} s of the user's voice", begin)


def pattern(expected: Expected) -> Pattern:
    """Return what `expected` stands for.

    Raises:
        ConfigurationError: If it is none of what `expect` takes.
    """
    if isinstance(expected, Pattern):
        return expected
    if isinstance(expected, type):
        kind = expected
        return Pattern(kind.__name__, lambda: lambda deed: isinstance(deed.message, kind))
    if isinstance(expected, InputMessage):
        return _like(expected)
    if callable(expected):
        holds = expected
        name = getattr(holds, "__qualname__", repr(holds))
        return Pattern(f"what {name} is true of", lambda: lambda deed: bool(holds(deed.message)))
    raise ConfigurationError(
        f"{expected!r} is nothing to expect of a client; give one of typed(), answers(), speaks() and "
        "opens(), or a message, a class of messages, or a function that is true of one"
    )


def _like(example: InputMessage) -> Pattern:
    compared = [each.name for each in fields(example) if each.name not in _NAMES]

    def fits(deed: Deed) -> bool:
        return type(deed.message) is type(example) and all(
            getattr(example, name) == getattr(deed.message, name) for name in compared
        )

    def judges(deed: Deed) -> bool:
        return type(deed.message) is type(example) and isinstance(example, _ONCE)

    def show(message: InputMessage) -> str:
        known = ", ".join(f"{name}={getattr(message, name)!r}" for name in compared)
        return f"{type(message).__name__}({known})"

    return Pattern(show(example), lambda: fits, judges=judges, show=lambda deed: show(deed.message))


def _opened(settings: Mapping[str, Any]) -> str:
    described = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"a stream opened with {described}" if described else "a stream opened"


def _reads(wanted: str, text: str) -> bool:
    """Whether a text is what was wanted, where a `*` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), text, re.DOTALL) is not None
