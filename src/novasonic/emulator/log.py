"""What an emulated service noticed about each stream, for tests to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from novasonic.messages import InputContentStart, InputMessage, TextInput, ToolResult
from novasonic.models import Usage


@dataclass(slots=True, kw_only=True)
class SessionLog:
    """One stream, as the service saw it. It keeps what a client says in eight minutes, audio excepted.

    Attributes:
        model_id: What the client asked for.
        request_id: The service's id of the stream.
        messages: All messages that were accepted, but for `audioInput`.
        audio_messages: How many of those came.
        audio_seconds: How much audio they held.
        windows: The user's speech: where each stretch began and ended, in seconds of audio.
        documents: How many messages the service said.
        usage: What it counted.
        accepted: Whether the stream was accepted (HTTP 200).
        outcome: How it ended: "completed", "abandoned" (the client went away), "ended" (the service did,
            in good order but without a goodbye), or the exception, error or fault; None while it lasts.
        reason: The text of that exception or error.
        wrong_signatures: Messages that did not follow from the one before; over a wire only.
    """

    model_id: str
    request_id: str
    messages: list[InputMessage] = field(default_factory=list[InputMessage])
    audio_messages: int = 0
    audio_seconds: float = 0.0
    windows: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    documents: int = 0
    usage: Usage = field(default_factory=Usage)
    accepted: bool = False
    outcome: str | None = None
    reason: str = ""
    wrong_signatures: int = 0

    @property
    def speech_seconds(self) -> float:
        """How long the user spoke, all stretches together."""
        return sum(end - start for start, end in self.windows)

    @property
    def system(self) -> str:
        """The system prompt."""
        return "".join(text for role, text, _ in self._texts() if role == "SYSTEM")

    @property
    def history(self) -> Sequence[tuple[str, str]]:
        """The conversation that the client told the service about, as roles and texts."""
        told = [(role, text) for role, text, typed in self._texts() if not typed]
        return [each for each in told if each[0] in {"USER", "ASSISTANT"}]

    @property
    def typed(self) -> Sequence[str]:
        """The texts that the client wanted to be answered."""
        return [text for _, text, typed in self._texts() if typed]

    @property
    def tool_results(self) -> dict[str, str]:
        """The results that came, by the id of their call."""
        calls = {
            each.content_name: each.tool_use_id
            for each in self.messages
            if isinstance(each, InputContentStart) and each.tool_use_id is not None
        }
        return {
            calls[each.content_name]: each.content for each in self.messages if isinstance(each, ToolResult)
        }

    def _texts(self) -> list[tuple[str, str, bool]]:
        """Return role and text of each TEXT block, and whether it was to be answered."""
        blocks: dict[str, tuple[str, str, bool]] = {}
        for each in self.messages:
            if isinstance(each, InputContentStart) and each.type == "TEXT":
                blocks[each.content_name] = (each.role, "", each.interactive)
            elif isinstance(each, TextInput):
                role, text, typed = blocks[each.content_name]
                blocks[each.content_name] = (role, text + each.content, typed)
        return list(blocks.values())
