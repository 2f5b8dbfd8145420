"""What the service takes from a client and what it rejects, in its own words. No time, no I/O.

The order of messages is `novasonic.lifecycle`'s, the same table by which a session sends. The texts are the
service's where somebody has seen them; where nobody has, the nearest one that was seen.
"""

import re
from typing import Final

import msgspec

from novasonic import messages
from novasonic.emulator.scenario import Behaviour
from novasonic.errors import RemoteProtocolError
from novasonic.lifecycle import Lifecycle, Reason, RefusedError, State
from novasonic.models import Model

UNREADABLE: Final = "Unable to parse input chunk. Please check input format contains correct format."
INVALID: Final = "Invalid input request"
TOOL_RESULT: Final = "Tool Response parsing error"
HISTORY_TOO_LONG: Final = "Chat history is over max limit. Trim chat history and try again."
HISTORY_INCOMPLETE: Final = "Chat history should be sent completely before streaming audio."
ASSISTANT_FIRST: Final = "First message in chat history should not be Assistant."
EMPTY: Final = "Cannot end content as no content data was received."
NO_PROMPT: Final = "No open prompt found"
CONTENT_OPEN: Final = "Error(s):\nError 1 : All contents must be closed before ending prompt"
NO_VOICE: Final = "Received invalid voiceId: value must not be empty"
INPUT_GAP: Final = (
    "Timed out waiting for audio bytes or interactive content. "
    "Please ensure gaps between audio bytes and interactive content are less than {seconds:g} seconds."
)
ANY_INPUT_GAP: Final = "Timed out waiting for input events"
SILENCE: Final = "InternalErrorCode=531::RST_STREAM closed stream. HTTP/2 error code: NO_ERROR"
UNKNOWN_MODEL: Final = "The provided model identifier is invalid."
TOO_MANY: Final = "Too many requests, please wait before trying again."

TEXTS: Final = {
    "AccessDeniedException": "You don't have access to the model with the specified model ID.",
    "ResourceNotFoundException": "This model version has reached the end of its life.",
    "ValidationException": INVALID,
    "ServiceQuotaExceededException": "Your request exceeds the service quota for your account.",
    "ThrottlingException": TOO_MANY,
    "ModelNotReadyException": "The model is not ready for inference. Try your request again.",
    "ModelTimeoutException": "Model has timed out in processing the request. Try your request again.",
    "ModelErrorException": "The model failed while processing the request.",
    "ModelStreamErrorException": (
        "The system encountered an unexpected error during processing. Try your request again."
    ),
    "InternalServerException": "The system encountered an unexpected error during processing.",
    "ServiceUnavailableException": "The service is unavailable. Try your request again.",
}
"""The exceptions that the service's model declares, and a text for each."""

STATUS: Final = {
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
    "ServiceQuotaExceededException": 400,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ExpiredTokenException": 403,
    "MissingAuthenticationTokenException": 403,
}
"""The HTTP status of each, where it comes before the 200."""

_RATES: Final = (8_000, 16_000, 24_000)
_TOOL_NAME: Final = re.compile(
    "[a-zA-Z0-9_-]{1,64}"
)  # as of all tools of Bedrock (Converse, `ToolSpecification`)
_REASONS: Final = {
    Reason.LATE_HISTORY: HISTORY_INCOMPLETE,
    Reason.TEXT_OPEN: HISTORY_INCOMPLETE,
    Reason.ASSISTANT_FIRST: ASSISTANT_FIRST,
    Reason.EMPTY_CONTENT: EMPTY,
    Reason.UNKNOWN_PROMPT: NO_PROMPT,
    Reason.CONTENT_OPEN: CONTENT_OPEN,
    Reason.WRONG_CONTENT: UNREADABLE,
}


class RejectedError(Exception):
    """The service ends the stream with a ValidationException of this text."""


class Judge:
    """Judges what one client says.

    Args:
        model: What it can do decides what may be asked of it.
        behaviour: The limits.

    Attributes:
        prompt_name: As the client named its prompt; None before.
        voice_problem: What is wrong with the voice: the service says so late, with its first output.
    """

    def __init__(self, model: Model, behaviour: Behaviour) -> None:
        self.prompt_name: str | None = None
        self.voice_problem: str | None = None
        self._model = model
        self._behaviour = behaviour
        self._lifecycle = Lifecycle()
        self._history: dict[str, int] = {}  # the blocks that belong to it, and the bytes of each
        self._history_bytes = 0  # of all
        self._history_role = ""  # of the last
        self._calls: dict[str, str | None] = {}  # tool use ids, and the block that answers each
        self._results: dict[str, str] = {}  # and the other way round

    @property
    def state(self) -> State:
        """How far the client has come."""
        return self._lifecycle.state

    def expect_result(self, tool_use_id: str) -> None:
        """Take note of a call that the client has to answer."""
        self._calls[tool_use_id] = None

    def answered(self, message: messages.InputContentEnd) -> str | None:
        """Return the id of the call that the block answers that ends with `message`."""
        return self._results.get(message.content_name)

    def judge(self, document: bytes) -> messages.InputMessage:
        """Return the message that a client has sent.

        Raises:
            RejectedError: If it may not be sent, or not now; with the service's text.
        """
        if len(document) > self._behaviour.message_bytes:
            raise RejectedError(UNREADABLE)
        message = _read(document)
        self._check(message)
        try:
            self._lifecycle.send(message)
        except RefusedError as exc:
            raise RejectedError(self._text(exc.reason, message)) from exc
        if isinstance(message, messages.PromptStart):
            self.prompt_name = message.prompt_name
            self.voice_problem = self._judge_voice(message.voice)
        elif isinstance(message, messages.InputContentStart):
            self._note(message)
        return message

    def judge_end(self) -> None:
        """Judge the end of the client's side of the stream.

        Raises:
            RejectedError: If it did not say goodbye before.
        """
        if self.state is not State.ENDED:
            raise RejectedError(self._unclosed() if self.prompt_name else INVALID)

    def _unclosed(self) -> str:
        return f"Error(s):\nError 1 : The following prompts were not closed: [{self.prompt_name}]"

    def _text(self, reason: Reason, message: messages.InputMessage) -> str:
        match message:
            case messages.AudioInput() | messages.TextInput() | messages.InputContentEnd() if (
                reason is Reason.UNKNOWN_CONTENT
            ):
                return f"No open content found for content name: {message.content_name}"
            case messages.ToolResult() if reason in {Reason.UNKNOWN_CONTENT, Reason.WRONG_CONTENT}:
                return TOOL_RESULT
            case messages.SessionEnd() if self.prompt_name and self.state is not State.ENDED:
                return self._unclosed()
            case _:
                return _REASONS.get(reason, INVALID)

    def _check(self, message: messages.InputMessage) -> None:
        """Check what the order of messages does not tell."""
        match message:
            case messages.SessionStart():
                if message.endpointing is not None and not self._model.sets_endpointing:
                    raise RejectedError(UNREADABLE)
                numbers = message.inference
                ratios = [each for each in (numbers.top_p, numbers.temperature) if each is not None]
                if not all(0 <= ratio <= 1 for ratio in ratios) or numbers.max_tokens == 0:
                    raise RejectedError(INVALID)
            case messages.PromptStart():
                if message.sample_rate not in _RATES:
                    raise RejectedError(INVALID)
                self._check_tools(message)
            case messages.InputContentStart():
                self._check_block(message)
            case messages.TextInput():
                self._check_text(message)
            case messages.AudioInput() if len(message.content) % 2:
                raise RejectedError(UNREADABLE)
            case messages.ToolResult():
                if not _is_object(message.content):
                    raise RejectedError(TOOL_RESULT)
            case _:
                pass

    def _check_tools(self, message: messages.PromptStart) -> None:
        """Check the tools. No recording shows what the service says to wrong ones."""
        names = [tool.name for tool in message.tools]
        if len(set(names)) < len(names) or not all(map(_TOOL_NAME.fullmatch, names)):
            raise RejectedError(INVALID)
        if message.tool_choice not in {None, "auto", "any", *names}:
            raise RejectedError(INVALID)

    def _check_block(self, message: messages.InputContentStart) -> None:
        if message.type == "AUDIO" and message.sample_rate not in _RATES:
            raise RejectedError(INVALID)
        if message.type == "TOOL" and (
            message.role != "TOOL" or self._calls.get(message.tool_use_id or "", "") is not None
        ):
            raise RejectedError(TOOL_RESULT)
        if message.role == "SYSTEM_SPEECH" and not self._model.takes_system_speech:
            raise RejectedError(INVALID)

    def _check_text(self, message: messages.TextInput) -> None:
        size, limit = len(message.content.encode()), self._behaviour.text_bytes
        if limit is not None and size > limit:
            raise RejectedError(INVALID)
        if message.content_name in self._history:
            limits = self._behaviour
            self._history[message.content_name] += size
            self._history_bytes += size
            too_long = self._history[message.content_name] > limits.history_message_bytes
            if too_long or self._history_bytes > limits.history_bytes:
                raise RejectedError(HISTORY_TOO_LONG)

    def _note(self, message: messages.InputContentStart) -> None:
        if message.type == "TEXT" and not message.interactive and message.role in {"USER", "ASSISTANT"}:
            self._note_history(message)
        elif message.type == "TOOL" and message.tool_use_id is not None:
            self._calls[message.tool_use_id] = message.content_name
            self._results[message.content_name] = message.tool_use_id

    def _note_history(self, message: messages.InputContentStart) -> None:
        limits = self._behaviour
        if limits.history_alternates and message.role == self._history_role:
            # The user guide wants roles to alternate; what the service says where they do not, nobody tells.
            raise RejectedError(INVALID)
        self._history[message.content_name], self._history_role = 0, message.role
        if limits.history_messages is not None and len(self._history) > limits.history_messages:
            raise RejectedError(HISTORY_TOO_LONG)

    def _judge_voice(self, voice: str) -> str | None:
        if not voice:
            return NO_VOICE
        if self._model.known and self._model.voice(voice) is None:
            return f"Received invalid voiceId: {voice}"
        return None


def _read(document: bytes) -> messages.InputMessage:
    try:
        return messages.decode_input(document)
    except RemoteProtocolError as exc:
        # One shipping client ends its sessions with this, and gets away with it.
        if document.lstrip().startswith(b"{") and b'"connectionEnd"' in document:
            return messages.SessionEnd()
        raise RejectedError(UNREADABLE) from exc


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
