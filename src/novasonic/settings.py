"""What a session was given: checked, and said to the service at the opening of a stream. No I/O."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID

from novasonic import messages, models
from novasonic.audio import Chunker
from novasonic.conversation import Message
from novasonic.errors import ConfigurationError
from novasonic.messages import Endpointing, Inference, InputMessage, InputRole, ToolSpec
from novasonic.tools import check_spec

# The service's own limit is not documented; other clients allow 10,000.
_MOST_TOKENS: Final = 1_000_000

# A rule of thumb: nobody has published how many are too many for Nova Sonic.
_MANY_TOOLS: Final = 20

# Nova user guide, "Troubleshooting tool calls": with anything else there, the model may ignore a tool.
_TOP_LEVEL: Final = frozenset({"type", "properties", "required"})

_LONGEST_WAIT: Final = 3600  # seconds; whoever waits longer has mistaken the unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a session; `SonicSession` explains them.

    Raises:
        ConfigurationError: If one is wrong. It names the setting, what was given and what is allowed.
    """

    model: models.Model
    voice: str
    system: str
    tools: tuple[ToolSpec, ...]
    tool_choice: str | None
    history: tuple[Message, ...]
    inference: Inference
    endpointing: Endpointing | None
    input_rate: int
    output_rate: int
    chunk_samples: int
    silence: bool
    open_timeout: float
    close_timeout: float
    record_audio: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_text("voice", self.voice)
        check_text("system", self.system)
        self._check_audio()
        self._check_choices()
        self._check_history()
        if self.record_audio is not None:
            _check_path("record_audio", self.record_audio)
        self._check_tools()
        _check_number("open_timeout", self.open_timeout, 0, _LONGEST_WAIT)
        _check_number("close_timeout", self.close_timeout, 0, _LONGEST_WAIT)

    def oddities(self, today: date) -> list[str]:
        """Return what is odd, as sentences. It may be right: AWS adds models and voices without notice."""
        model, found = self.model, list[str]()
        if voice := models.check_voice(model, self.voice):
            found.append(voice)
        if not model.known and not model.id.startswith("arn:"):
            nearest = models.suggest(model.id, (known.id for known in models.MODELS))
            meant = f"; did you mean {nearest!r}?" if nearest else ""
            found.append(f"{model.id!r} is not a known model and is taken for one of the newest{meant}")
        if model.end_of_life and today >= model.end_of_life:
            found.append(
                f"{model.id} reached its end of life on {model.end_of_life}; use {models.MODELS[0].id!r}"
            )
        if len(self.tools) > _MANY_TOOLS:
            found.append(
                f"{len(self.tools)} tools are many, and a model that has many chooses worse among them; "
                f"offer no more than {_MANY_TOOLS} or so"
            )
        for tool in self.tools:
            if others := sorted(map(str, tool.schema.keys() - _TOP_LEVEL)):
                found.append(
                    f"the schema of the tool {tool.name!r} has {', '.join(others)} at its top, and Nova may "
                    "overlook the tool; only type, properties and required belong there"
                )
        return found

    def opening(self, prompt_name: str, history: Sequence[tuple[InputRole, str]] = ()) -> list[InputMessage]:
        """Return all that is said before the user's audio; `history` is what was said before."""
        return [
            messages.SessionStart(inference=self.inference, endpointing=self.endpointing),
            self._prompt(prompt_name),
            *messages.text_block(self.system, prompt_name=prompt_name, role="SYSTEM"),
            *messages.history_blocks(history, prompt_name=prompt_name),
        ]

    def _prompt(self, prompt_name: str) -> messages.PromptStart:
        return messages.PromptStart(
            prompt_name=prompt_name,
            voice=self.voice,
            sample_rate=self.output_rate,
            tools=self.tools,
            tool_choice=self.tool_choice,
        )

    def _check_audio(self) -> None:
        allowed = self.model.limits.sample_rates
        for name, rate in (("input_rate", self.input_rate), ("output_rate", self.output_rate)):
            check_type(name, rate, int)
            if rate not in allowed:
                rates = ", ".join(map(str, allowed))
                raise ConfigurationError(f"{name} is {rate!r}, but must be one of {rates} Hz")
        Chunker(self.input_rate, self.chunk_samples)  # knows which lengths it can cut

    def _check_choices(self) -> None:
        inference = self.inference
        check_type("inference", inference, Inference)
        if inference.max_tokens is not None:
            _check_number("inference.max_tokens", inference.max_tokens, 1, _MOST_TOKENS, whole=True)
        for name, value in (("top_p", inference.top_p), ("temperature", inference.temperature)):
            if value is not None:
                _check_number(f"inference.{name}", value, 0, 1)
        if self.endpointing is None:
            return
        if self.endpointing not in messages.ENDPOINTING:
            allowed = ", ".join(messages.ENDPOINTING)
            raise ConfigurationError(
                f"endpointing is {self.endpointing!r}, but must be one of {allowed}, or None"
            )
        if not self.model.sets_endpointing:
            raise ConfigurationError(f"endpointing cannot be set for {self.model.id}; leave it out")

    def _check_history(self) -> None:
        for at, message in enumerate(self.history):
            check_type(f"history[{at}]", message, Message)
            if message.text or not message.tool_calls:
                check_text(f"history[{at}].text", message.text)
            if message.role not in ("USER", "ASSISTANT"):
                raise ConfigurationError(
                    f"history[{at}].role is {message.role!r}, but must be 'USER' or 'ASSISTANT'"
                )
        if self.history and self.history[0].role != "USER":
            raise ConfigurationError("history begins with the assistant, but the user must come first")
        size = sum(len(message.text.encode()) for message in self.history)
        limit = self.model.limits.history_bytes
        if size > limit:
            raise ConfigurationError(
                f"history has {size} bytes of UTF-8, but at most {limit} are allowed; drop what is oldest"
            )

    def _check_tools(self) -> None:
        sizes = list[int]()
        for at, tool in enumerate(self.tools):
            check_type(f"tools[{at}]", tool, ToolSpec)
            sizes.append(check_spec(f"tools[{at}]", tool))
        names = [tool.name for tool in self.tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"tools has two tools named {twice!r}")
        if self.tool_choice is not None and self.tool_choice not in ("auto", "any", *names):
            raise ConfigurationError(
                f"tool_choice is {self.tool_choice!r}, but must be 'auto', 'any' or the name of a tool"
            )
        size = len(messages.encode(self._prompt(str(UUID(int=0)))))
        limit = self.model.limits.message_bytes
        if self.tools and size > limit:
            largest = self.tools[sizes.index(max(sizes))].name
            raise ConfigurationError(
                f"tools make the message that offers them {size} bytes long, but at most {limit} are "
                f"allowed; shorten {largest!r}, which is the largest, or offer fewer"
            )


def check_text(name: str, text: object, *, limit: int | None = None) -> None:
    """See to it that `text` is something to be said, and no more bytes of UTF-8 than `limit`.

    Raises:
        ConfigurationError: If it is not; it calls the text `name`.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} is of type {type(text).__name__}, but must be a str")
    if not text.strip():
        raise ConfigurationError(f"{name} is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} holds half of a surrogate pair, which is no character") from None
    if limit is not None and size > limit:
        raise ConfigurationError(f"{name} has {size} bytes of UTF-8, but at most {limit} are allowed")


def _check_path(name: str, value: object) -> None:
    if not isinstance(value, str | os.PathLike):
        raise ConfigurationError(f"{name} is of type {type(value).__name__}, but must be a path, or None")


def check_type(name: str, value: object, kind: type, *, or_none: bool = False) -> None:
    """See to it that `value` is of a kind.

    Raises:
        ConfigurationError: If it is not; it calls the value `name`.
    """
    if not isinstance(value, kind) and not (or_none and value is None):
        raise ConfigurationError(
            f"{name} is of type {type(value).__name__}, but must be of type {kind.__name__}"
            f"{', or None' if or_none else ''}"
        )


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        number = "a whole number" if whole else "a number"
        raise ConfigurationError(f"{name} is {value!r}, but must be {number}, {low} to {high}")
