"""Takes what was said out of messages, and leaves what it was like: which texts were equal. No I/O, no clock.

Settings stay: voices, numbers, the tools and their schemas. What a person or the model said, typed, was told
or passed to a tool is replaced, and so is whatever this library does not know.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from novasonic.messages import TextOutput, ToolUse

logger = logging.getLogger("novasonic.redaction")

# Members whose texts are the protocol's own: ids, kinds, forms.
_KEPT: Final = {
    "additionalModelFields",
    "audioType",
    "completionId",
    "contentId",
    "contentName",
    "encoding",
    "mediaType",
    "promptName",
    "role",
    "sessionId",
    "stopReason",
    "toolName",
    "toolUseId",
    "type",
}

# What a tool's result says to this library, whatever the tool.
_RESULT_WORDS: Final = {"error", "result"}

# Messages that say how a session is set up, and nothing of what is said in it.
_SETTINGS: Final = {"promptStart", "sessionStart"}

_WITH_JSON: Final = {"toolResult", "toolUse"}
"""Messages whose content is JSON in a text."""

_MARKER: Final = '{"interrupted":true}'


class Redactor:
    """Redacts one conversation. Equal texts become equal placeholders: "text 1", "text 2" and so on.

    In arguments and results of tools numbers are replaced by numbers. The names of members stay where a
    tool's schema has them. Truth values and nulls stay: there are too few of them to tell anything.

    Args:
        replace: Returns what to write in place of a text; then numbers stay. If it fails, there is a
            placeholder all the same. None for placeholders everywhere.
    """

    def __init__(self, replace: Callable[[str], str] | None = None) -> None:
        self._replace = replace
        self._texts = dict[str, str]()
        self._numbers = dict[float, int]()
        self._words = set(_RESULT_WORDS)

    def body(self, name: str, body: object) -> object:
        """Return the body of a message without what was said in it."""
        if name == "promptStart":
            self._learn(body)
        if name in _SETTINGS:
            return body
        if not isinstance(body, dict):
            return self._value(body)
        members = cast("dict[str, Any]", body)
        match members.get("content"):
            case str(content) if name in _WITH_JSON:
                known = {"content": self._json_text(content)}
            case str(content) if name == "textOutput" and TextOutput(content=content).says_interrupted:
                known = {"content": _MARKER}
            case _:
                known = dict[str, str]()
        return {key: known.get(key) or self._member(key, value) for key, value in members.items()}

    def text(self, text: str) -> str:
        """Return what stands for a text; the blanks around it stay, as they join it to others."""
        words = text.strip()
        if not words:
            return text
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        if self._replace is not None:
            try:
                return f"{before}{self._replace(words)}{after}"
            except Exception as exc:  # noqa: BLE001 - the user's; what it says may hold the secret
                logger.error("redact failed with %s; a placeholder is written", type(exc).__name__)  # noqa: TRY400
        return f"{before}{self._texts.setdefault(words, f'text {len(self._texts) + 1}')}{after}"

    def _learn(self, value: object) -> None:
        """Learn the names of arguments from the schemas of tools, which are JSON in a text."""
        match value:
            case dict():
                members = cast("dict[str, object]", value)
                names = members.get("properties")
                if isinstance(names, dict):
                    self._words.update(cast("dict[str, object]", names))
                for key, inner in members.items():
                    self._learn(_opened(inner) if key == "json" else inner)
            case list():
                for inner in cast("Sequence[Any]", value):
                    self._learn(inner)
            case _:
                pass

    def _members(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._member(key, value) for key, value in body.items()}

    def _member(self, key: str, value: object) -> object:
        return value if key in _KEPT else self._redacted(value)

    def _redacted(self, value: object) -> object:
        """Return a value of the protocol, whose numbers are sizes, offsets and counts."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return self._members(cast("dict[str, Any]", value))
            case list():
                return [self._redacted(each) for each in cast("Sequence[Any]", value)]
            case _:
                return value

    def _json_text(self, text: str) -> str:
        """Return what stands for a JSON object in a text."""
        found = _opened(text)
        return self.text(text) if found is None else msgspec.json.encode(self._value(found)).decode()

    def _value(self, value: object) -> object:
        """Return a value that a tool was given, or gave."""
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float() if self._replace is None:
                number = self._numbers.setdefault(value, len(self._numbers) + 1)
                return type(value)(number)
            case dict():
                members = cast("dict[str, Any]", value).items()
                return {
                    key if key in self._words else self.text(key): self._value(each) for key, each in members
                }
            case list():
                return [self._value(each) for each in cast("Sequence[Any]", value)]
            case _:
                return value


def _opened(text: object) -> object:
    """Return the JSON object in a text, or None if there is none."""
    return ToolUse(content=text).arguments if isinstance(text, str) else None
