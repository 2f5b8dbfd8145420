"""The service's language: every message of both directions, and their JSON. No order, no meaning, no I/O.

One class a message, named as on AWS's pages ("Amazon Nova user guide", Speech to speech, input and output
events); where AWS uses one name in both directions, `Input` and `Output` tell them apart. Each message is
the only member of a document `{"event": {"<name>": {...}}}`.

Input is what a client says, output what the service says. The session encodes input and decodes output, the
emulator the other way round, so both directions go both ways:

- `encode(message)` gives the document.
- `decode_output(data)` is lenient, as the service adds fields and messages without notice: what is missing
  or of the wrong type gets a default and stays in `extra` as it came; an unknown name becomes an
  `UnknownMessage`.
- `decode_input(data)` is strict, as the service is: it judges clients.

Both raise `RemoteProtocolError`, and nothing else, for what cannot be read at all.
"""

import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Self, TypedDict, assert_never, cast, get_args
from uuid import uuid4

import msgspec

from novasonic.errors import RemoteProtocolError
from novasonic.models import Limits, Usage

type Json = Mapping[str, Any]
"""A JSON object."""

BlockType = Literal["TEXT", "AUDIO", "TOOL"]
"""What a content block carries."""

InputRole = Literal["SYSTEM", "SYSTEM_SPEECH", "USER", "ASSISTANT", "TOOL"]
"""Whose words an input block holds."""

Endpointing = Literal["HIGH", "MEDIUM", "LOW"]
"""How soon a pause ends the user's turn: after 1.5, 1.75 or 2 s at the latest ("Turn-taking")."""

BLOCK_TYPES: Final[tuple[BlockType, ...]] = get_args(BlockType)
INPUT_ROLES: Final[tuple[InputRole, ...]] = get_args(InputRole)
ENDPOINTING: Final[tuple[Endpointing, ...]] = get_args(Endpointing)

TEXT_LIMIT: Final = Limits().text_bytes
"""Bytes of UTF-8 in one `TextInput`; longer text is split inside its block ("Chat history")."""

_INTERRUPTED: Final = "interrupted"


# --- input ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """How the model chooses its words. None leaves a choice to the service.

    Attributes:
        max_tokens: Tokens of one response at most.
        top_p: Share of the likeliest words to choose from, 0 to 1.
        temperature: 0 (always the likeliest word) to 1. AWS advises 0 where tools must be called reliably.
    """

    max_tokens: int | None = 1024
    top_p: float | None = 0.9
    temperature: float | None = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the model sees it.

    Attributes:
        name: What the model calls it by.
        description: What it is for: the model decides by it.
        schema: JSON Schema of its arguments, an object's.
    """

    name: str
    description: str
    schema: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStart:
    """The first message."""

    inference: Inference = field(default_factory=Inference)
    endpointing: Endpointing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStart:
    """The second message: how the model speaks, and the tools it has.

    Attributes:
        prompt_name: A new id; every later message of the stream but `SessionEnd` repeats it.
        voice: One of the model's voices.
        sample_rate: Of the speech that is to come, in Hz.
        tools: Cannot change while the stream lasts.
        tool_choice: "auto", "any", or the name of the tool that each response must begin with.
    """

    prompt_name: str
    voice: str
    sample_rate: int = 24_000
    tools: Sequence[ToolSpec] = ()
    tool_choice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContentStart:
    """Opens a block.

    Attributes:
        interactive: Whether the model is to answer it; False for the system prompt, history and tool results.
        sample_rate: Of an AUDIO block, in Hz.
        tool_use_id: Of a TOOL block: the call that it answers.
    """

    prompt_name: str
    content_name: str
    type: BlockType
    role: InputRole
    interactive: bool
    sample_rate: int | None = None
    tool_use_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """Words of an open TEXT block, at most `TEXT_LIMIT` bytes of them."""

    prompt_name: str
    content_name: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInput:
    """A piece of the user's speech, in an open AUDIO block."""

    prompt_name: str
    content_name: str
    content: bytes = field(repr=False)  # samples: 16-bit little-endian mono, no header


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool returned, in an open TOOL block: the text of a JSON object, or the service rejects it."""

    prompt_name: str
    content_name: str
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContentEnd:
    """Closes a block. The service rejects the end of a block that held nothing."""

    prompt_name: str
    content_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEnd:
    """All blocks are closed and none will follow."""

    prompt_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """The last message."""


InputMessage = (
    SessionStart
    | PromptStart
    | InputContentStart
    | TextInput
    | AudioInput
    | ToolResult
    | InputContentEnd
    | PromptEnd
    | SessionEnd
)
"""Whatever a client may say."""


def text_block(
    text: str,
    *,
    prompt_name: str,
    role: InputRole,
    interactive: bool = False,
    content_name: str | None = None,
    limit: int = TEXT_LIMIT,
) -> tuple[InputMessage, ...]:
    """Return the messages that say `text` in a block of its own, split as the service wants it."""
    name = content_name or str(uuid4())
    return (
        InputContentStart(
            prompt_name=prompt_name, content_name=name, type="TEXT", role=role, interactive=interactive
        ),
        *(
            TextInput(prompt_name=prompt_name, content_name=name, content=part)
            for part in _split(text, limit)
        ),
        InputContentEnd(prompt_name=prompt_name, content_name=name),
    )


def history_blocks(
    said: Sequence[tuple[InputRole, str]], *, prompt_name: str, limit: int = TEXT_LIMIT
) -> list[InputMessage]:
    """Return the messages that tell what was said before: each role in turn, the user first."""
    return [
        message
        for role, text in said
        for message in text_block(text, prompt_name=prompt_name, role=role, limit=limit)
    ]


def tool_block(result: str, *, prompt_name: str, tool_use_id: str) -> tuple[InputMessage, ...]:
    """Return the messages that answer a tool call with `result`, the text of a JSON object."""
    name = str(uuid4())
    return (
        InputContentStart(
            prompt_name=prompt_name,
            content_name=name,
            type="TOOL",
            role="TOOL",
            interactive=False,
            tool_use_id=tool_use_id,
        ),
        ToolResult(prompt_name=prompt_name, content_name=name, content=result),
        InputContentEnd(prompt_name=prompt_name, content_name=name),
    )


def _split(text: str, limit: int) -> list[str]:
    """Cut `text` into parts of at most `limit` bytes, after a blank where there is one."""
    data, parts = text.encode(), list[str]()
    while len(data) > limit:
        end = limit
        while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - RFC 3629: 10xxxxxx goes on with a character
            end -= 1
        end = data.rfind(b" ", 0, end) + 1 or end
        parts.append(data[:end].decode())
        data = data[end:]
    return [*parts, data.decode()]


# --- output -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputBase:
    """What every message of the service has.

    Attributes:
        session_id: One for a stream.
        prompt_name: The client's own.
        extra: Members that this library does not know, and known ones of the wrong type, as they came.
    """

    session_id: str = ""
    prompt_name: str = ""
    extra: Json = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput(OutputBase):
    """What most messages of the service have: the id of the completion, one for the whole stream."""

    completion_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionStart(CompletionOutput):
    """Comes once in a stream, after the user was first heard. Not the start of a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOutput(CompletionOutput):
    """What the messages of a block have: the id that tells, and nothing else does, which block it is."""

    content_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputContentStart(BlockOutput):
    """Opens a block.

    Attributes:
        type: "TEXT", "AUDIO" or "TOOL", or something newer.
        role: "USER", "ASSISTANT" or "TOOL", or something newer.
        stage: Of a TEXT block: "SPECULATIVE" (about to be spoken) or "FINAL" (was spoken), or something
            newer, or None. It travels as JSON in a string.
        sample_rate: Of an AUDIO block, in Hz.
    """

    type: str = ""
    role: str = ""
    stage: str | None = None
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOutput(BlockOutput):
    """Words of a TEXT block: the user's or the model's."""

    role: str = ""
    content: str = field(default="", repr=False)

    @property
    def says_interrupted(self) -> bool:
        """Whether this is no text, but the service's sign of a barge-in: JSON, with blanks or without."""
        if _INTERRUPTED not in self.content:
            return False
        found = _json(self.content)
        return isinstance(found, dict) and cast("Json", found).get(_INTERRUPTED) is True


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioOutput(BlockOutput):
    """A piece of what the model says."""

    role: str = "ASSISTANT"
    content: bytes = field(default=b"", repr=False)  # samples: 16-bit little-endian mono, no header


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse(BlockOutput):
    """The model calls a tool.

    Attributes:
        tool_use_id: What the result must name.
        tool_name: As given in `PromptStart`, if the model keeps to it.
        content: The arguments as text; `arguments` reads it.
    """

    role: str = "TOOL"
    tool_use_id: str = ""
    tool_name: str = ""
    content: str = field(default="{}", repr=False)

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments, or None if they are no JSON object.

        They come as JSON in a string, now and then encoded twice, and empty where a tool takes none.
        """
        found: object = self.extra.get("content", self.content)  # in `extra` if it came as no string
        for _ in range(2):
            if isinstance(found, str):
                found = _json(found) if found.strip() else {}
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputContentEnd(BlockOutput):
    """Closes a block.

    Attributes:
        stop_reason: "PARTIAL_TURN", "END_TURN", "INTERRUPTED" or "TOOL_USE", or something newer.
    """

    type: str = ""
    stop_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionEnd(CompletionOutput):
    """The last message of a stream. Not the end of a response."""

    stop_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent(CompletionOutput):
    """What was counted since the last one, and in the stream so far."""

    delta: Usage = field(default_factory=Usage)
    total: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpeechStart(OutputBase):
    """The user began to speak, `offset_ms` into the audio that was sent. Undocumented; Nova 2 and later."""

    offset_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpeechEnd(OutputBase):
    """The user's speech ended at `offset_ms`; it took the audio up to `detected_at_ms` to tell."""

    offset_ms: int = 0
    detected_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownMessage:
    """Something newer than this library. `payload` is whatever stood under `name`."""

    name: str
    payload: Any = field(repr=False)


OutputMessage = (
    CompletionStart
    | OutputContentStart
    | TextOutput
    | AudioOutput
    | ToolUse
    | OutputContentEnd
    | CompletionEnd
    | UsageEvent
    | UserSpeechStart
    | UserSpeechEnd
    | UnknownMessage
)
"""Whatever the service may say."""

Message = InputMessage | OutputMessage
"""Whatever goes over a stream."""


# --- to JSON ----------------------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode  # the service sends its keys in order

_TEXT: Final = {"mediaType": "text/plain"}
_JSON: Final = {"mediaType": "application/json"}
_PCM: Final = {"mediaType": "audio/lpcm", "sampleSizeBits": 16, "channelCount": 1, "encoding": "base64"}
_SPEECH: Final = {**_PCM, "audioType": "SPEECH"}


def encode(message: Message) -> bytes:
    """Return the document that says `message`."""
    if isinstance(message, OutputBase | UnknownMessage):
        return _encode_sorted(_output_document(message))
    return _encode({"event": _input_body(message)})


def _input_body(message: InputMessage) -> Json:
    body: dict[str, Any]
    match message:
        case AudioInput():  # first: thirty a second. msgspec writes bytes as base64
            name, body = "audioInput", {**_block(message), "content": message.content}
        case SessionStart():
            name, body = "sessionStart", _session_start(message)
        case PromptStart():
            name, body = "promptStart", _prompt_start(message)
        case InputContentStart():
            name, body = "contentStart", {**_block(message), **_content_start(message)}
        case TextInput():
            name, body = "textInput", {**_block(message), "content": message.content}
        case ToolResult():
            name, body = "toolResult", {**_block(message), "content": message.content}
        case InputContentEnd():
            name, body = "contentEnd", _block(message)
        case PromptEnd():
            name, body = "promptEnd", {"promptName": message.prompt_name}
        case SessionEnd():
            name, body = "sessionEnd", {}
        case _:
            assert_never(message)
    return {name: body}


def _block(
    message: InputContentStart | TextInput | AudioInput | ToolResult | InputContentEnd,
) -> dict[str, Any]:
    return {"promptName": message.prompt_name, "contentName": message.content_name}


def _session_start(message: SessionStart) -> dict[str, Any]:
    inference = message.inference
    numbers = {
        "maxTokens": inference.max_tokens,
        "topP": inference.top_p,
        "temperature": inference.temperature,
    }
    body: dict[str, Any] = {
        "inferenceConfiguration": {name: value for name, value in numbers.items() if value is not None}
    }
    if message.endpointing is not None:
        body["turnDetectionConfiguration"] = {"endpointingSensitivity": message.endpointing}
    return body


def _prompt_start(message: PromptStart) -> dict[str, Any]:
    body: dict[str, Any] = {
        "promptName": message.prompt_name,
        "textOutputConfiguration": _TEXT,
        "audioOutputConfiguration": {
            **_SPEECH,
            "sampleRateHertz": message.sample_rate,
            "voiceId": message.voice,
        },
    }
    if message.tools:
        # The schema is a *string*: an object there ends the session ("Unable to parse input chunk").
        tools = [
            {
                "toolSpec": {
                    "name": tool.name,
                    "description": tool.description,
                    "inputSchema": {"json": _encode(tool.schema).decode()},
                }
            }
            for tool in message.tools
        ]
        body["toolUseOutputConfiguration"] = _JSON
        body["toolConfiguration"] = {"tools": tools, **_tool_choice(message.tool_choice)}
    return body


def _tool_choice(choice: str | None) -> Json:
    match choice:
        case None:
            return {}
        case "auto" | "any":
            return {"toolChoice": {choice: {}}}
        case _:
            return {"toolChoice": {"tool": {"name": choice}}}


def _content_start(message: InputContentStart) -> dict[str, Any]:
    body: dict[str, Any] = {"type": message.type, "interactive": message.interactive, "role": message.role}
    match message.type:
        case "TEXT":
            body["textInputConfiguration"] = _TEXT
        case "AUDIO":
            body["audioInputConfiguration"] = {**_SPEECH, "sampleRateHertz": message.sample_rate}
        case "TOOL":
            body["toolResultInputConfiguration"] = {
                "toolUseId": message.tool_use_id,
                "type": "TEXT",
                "textInputConfiguration": _TEXT,
            }
        case _:
            assert_never(message.type)
    return body


def _output_document(message: OutputMessage) -> Json:
    body: dict[str, Any]
    match message:
        case UnknownMessage():
            return {"event": {message.name: message.payload}}
        case AudioOutput():
            name, body = "audioOutput", {"role": message.role, "content": message.content}
        case CompletionStart():
            name, body = "completionStart", {}
        case OutputContentStart():
            name, body = "contentStart", _output_content_start_body(message)
        case TextOutput():
            name, body = "textOutput", {"role": message.role, "content": message.content}
        case ToolUse():
            name = "toolUse"
            body = {
                "role": message.role,
                "toolUseId": message.tool_use_id,
                "toolName": message.tool_name,
                "content": message.content,
            }
        case OutputContentEnd():
            name, body = "contentEnd", {"type": message.type, "stopReason": message.stop_reason}
        case CompletionEnd():
            name, body = "completionEnd", {"stopReason": message.stop_reason}
        case UsageEvent():
            name, body = "usageEvent", _usage_event_body(message)
        case UserSpeechStart():
            name, body = "userSpeechStart", {"inputAudioOffsetMs": message.offset_ms}
        case UserSpeechEnd():
            name = "userSpeechEnd"
            body = {
                "inputAudioOffsetMs": message.offset_ms,
                "inputAudioDetectionOffsetMs": message.detected_at_ms,
            }
        case _:
            assert_never(message)
    body |= {"sessionId": message.session_id, "promptName": message.prompt_name}
    if isinstance(message, CompletionOutput):
        body["completionId"] = message.completion_id
    if isinstance(message, BlockOutput):
        body["contentId"] = message.content_id
    return {"event": {name: {**body, **message.extra}}}


def _output_content_start_body(message: OutputContentStart) -> dict[str, Any]:
    body: dict[str, Any] = {"type": message.type, "role": message.role}
    match message.type:
        case "TEXT":
            body["textOutputConfiguration"] = _TEXT
        case "AUDIO":
            body["audioOutputConfiguration"] = {**_PCM, "sampleRateHertz": message.sample_rate}
        case "TOOL":
            body["toolUseOutputConfiguration"] = _JSON
        case _:
            pass
    if message.stage is not None:
        body["additionalModelFields"] = _stage_text(message.stage)
    return body


def _stage_text(stage: str) -> str:
    return _encode({"generationStage": stage}).decode()


def _usage_event_body(message: UsageEvent) -> dict[str, Any]:
    total_in = message.total.speech_input + message.total.text_input
    total_out = message.total.speech_output + message.total.text_output
    return {
        "details": {"delta": _usage_body(message.delta), "total": _usage_body(message.total)},
        "totalInputTokens": total_in,
        "totalOutputTokens": total_out,
        "totalTokens": total_in + total_out,
    }


def _usage_body(usage: Usage) -> Json:
    return {
        "input": {"speechTokens": usage.speech_input, "textTokens": usage.text_input},
        "output": {"speechTokens": usage.speech_output, "textTokens": usage.text_output},
    }


# --- from JSON --------------------------------------------------------------------------------------------

_MISSING: Final = object()

# RFC 8259, section 6: up to here all agree on whole numbers. Far beyond, not even a division works.
_LARGEST: Final = 2**53


class _Ids(TypedDict):
    session_id: str
    prompt_name: str
    extra: Json


class _CompletionIds(_Ids):
    completion_id: str


class _BlockIds(_CompletionIds):
    content_id: str


class _Names(TypedDict):
    prompt_name: str
    content_name: str


class _Body:
    """The members of one object, taken out one by one: what nobody takes is left in `rest`."""

    strict: ClassVar[bool] = False

    def __init__(self, name: str, members: Mapping[str, Any]) -> None:
        self.name = name
        self.rest = dict(members)

    def text(self, key: str, default: str | None = "") -> str:
        return self._take(key, str, default)

    def number(self, key: str, default: int | None = 0) -> int:
        value = self.rest.get(key)
        if isinstance(value, float) and value.is_integer():  # another JSON writer's 24000.0
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST:
            return self._odd(key, default)
        del self.rest[key]
        return value

    def pcm(self, key: str, default: bytes | None = b"") -> bytes:
        value = self.rest.get(key)
        if isinstance(value, str):
            try:
                pcm = binascii.a2b_base64(value, strict_mode=True)
            except ValueError:
                return self._odd(key, default)
            del self.rest[key]
            return pcm
        return self._odd(key, default)

    def inner(self, key: str, *, optional: bool = True) -> Self:
        members: Json = self._take(key, dict, {} if optional else None)
        return type(self)(f"{self.name}.{key}", members)

    def ids(self) -> "_Ids":
        return {
            "session_id": self.text("sessionId"),
            "prompt_name": self.text("promptName"),
            "extra": self.rest,
        }

    def completion(self) -> "_CompletionIds":
        return {**self.ids(), "completion_id": self.text("completionId")}

    def block(self) -> "_BlockIds":
        return {**self.completion(), "content_id": self.text("contentId")}

    def _take[T](self, key: str, kind: type[T], default: T | None) -> T:
        value = self.rest.get(key, _MISSING)
        if isinstance(value, kind):
            del self.rest[key]
            return value
        return self._odd(key, default)

    def _odd[T](self, key: str, default: T | None) -> T:
        """Stand in for a member that is missing or of the wrong type; the latter stays in `rest`."""
        if default is None or (self.strict and key in self.rest):
            wrong = "has the wrong type" if key in self.rest else "is missing"
            raise RemoteProtocolError(f"{self.name}.{key} {wrong}")
        return default


class _StrictBody(_Body):
    """The members of a client's object: what is there must be of the right type."""

    strict = True

    def names(self) -> "_Names":
        return {
            "prompt_name": self.text("promptName", None),
            "content_name": self.text("contentName", None),
        }

    def one_of[T: str](self, key: str, allowed: Sequence[T]) -> T:
        value = self.text(key, None)
        for choice in allowed:
            if value == choice:
                return choice
        raise RemoteProtocolError(f"{self.name}.{key} is {value!r}; it may be {', '.join(allowed)}")

    def flag(self, key: str) -> bool:
        return self._take(key, bool, False)

    def ratio(self, key: str) -> float | None:
        if key not in self.rest:
            return None
        if isinstance(value := self.rest[key], int) and not isinstance(value, bool):
            return value
        return self._take(key, float, None)

    def list_of(self, key: str) -> "list[_StrictBody]":
        found = self._take(key, list, [])
        if not all(isinstance(each, dict) for each in found):
            raise RemoteProtocolError(f"{self.name}.{key} holds something that is no object")
        return [_StrictBody(key, cast("Json", each)) for each in found]


def _json(text: str | bytes) -> object:
    """Read JSON; None where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _open(data: bytes) -> tuple[str, Any]:
    """Open a document: the name of its one event, and what stands under it."""
    found = _json(data)
    if not isinstance(found, dict):
        raise RemoteProtocolError(f"a document of {len(data)} bytes is no JSON object")
    event = cast("dict[str, Any]", found).get("event")
    if not isinstance(event, dict):
        raise RemoteProtocolError(f"a document of {len(data)} bytes has no event")
    events = cast("dict[str, Any]", event)
    if len(events) != 1:
        raise RemoteProtocolError(f"a document of {len(data)} bytes has {len(events)} events instead of one")
    return next(iter(events.items()))


# Twelve times a second and session the service says `audioOutput`, in these members: msgspec reads them in a
# third of the time, base64 included. What looks different, if only a little, goes the way of all others.


class _AudioBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    content: bytes
    completion_id: str = ""
    content_id: str = ""
    prompt_name: str = ""
    role: str = "ASSISTANT"
    session_id: str = ""


class _AudioEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    audio_output: _AudioBody


class _AudioDocument(msgspec.Struct, forbid_unknown_fields=True):
    event: _AudioEvent


_decode_audio: Final = msgspec.json.Decoder(_AudioDocument).decode


def decode_output(data: bytes) -> OutputMessage:
    """Read what the service says.

    Raises:
        RemoteProtocolError: If `data` is not a document with exactly one event.
    """
    try:
        audio = _decode_audio(data).event.audio_output
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    else:
        return AudioOutput(
            session_id=audio.session_id,
            prompt_name=audio.prompt_name,
            completion_id=audio.completion_id,
            content_id=audio.content_id,
            role=audio.role,
            content=audio.content,
        )
    name, members = _open(data)
    read = _OUTPUT.get(name)
    if read is None or not isinstance(members, dict):
        return UnknownMessage(name=name, payload=members)
    return read(_Body(name, cast("Json", members)))


def _audio_output(body: _Body) -> AudioOutput:
    return AudioOutput(role=body.text("role", "ASSISTANT"), content=body.pcm("content"), **body.block())


def _text_output(body: _Body) -> TextOutput:
    return TextOutput(role=body.text("role"), content=body.text("content"), **body.block())


def _tool_use(body: _Body) -> ToolUse:
    return ToolUse(
        role=body.text("role", "TOOL"),
        tool_use_id=body.text("toolUseId"),
        tool_name=body.text("toolName"),
        content=body.text("content"),
        **body.block(),
    )


def _output_content_start(body: _Body) -> OutputContentStart:
    message = OutputContentStart(
        type=body.text("type"),
        role=body.text("role"),
        stage=_stage(body),
        sample_rate=_sample_rate(body),
        **body.block(),
    )
    _drop_what_is_said(body, _output_content_start_body(message))
    return message


def _stage(body: _Body) -> str | None:
    found = body.rest.get("additionalModelFields")
    if isinstance(found, str):
        found = _json(found)
    stage = cast("Json", found).get("generationStage") if isinstance(found, dict) else None
    return stage if isinstance(stage, str) else None


def _sample_rate(body: _Body) -> int | None:
    found = body.rest.get("audioOutputConfiguration")
    rate = _Body("", cast("Json", found)).number("sampleRateHertz") if isinstance(found, dict) else 0
    return rate if rate > 0 else None


def _drop_what_is_said(body: _Body, said: Json) -> None:
    """Leave in `rest` only what the message, encoded again, would not say in the same words."""
    for key, value in said.items():
        if body.rest.get(key) == value:
            del body.rest[key]


def _output_content_end(body: _Body) -> OutputContentEnd:
    return OutputContentEnd(type=body.text("type"), stop_reason=body.text("stopReason"), **body.block())


def _completion_start(body: _Body) -> CompletionStart:
    return CompletionStart(**body.completion())


def _completion_end(body: _Body) -> CompletionEnd:
    return CompletionEnd(stop_reason=body.text("stopReason"), **body.completion())


def _usage_event(body: _Body) -> UsageEvent:
    found = body.rest.get("details")
    details = _Body("details", cast("Json", found) if isinstance(found, dict) else {})
    message = UsageEvent(
        delta=_usage(details.inner("delta")), total=_usage(details.inner("total")), **body.completion()
    )
    _drop_what_is_said(body, _usage_event_body(message))
    return message


def _usage(body: _Body) -> Usage:
    spent, made = body.inner("input"), body.inner("output")
    return Usage(
        speech_input=spent.number("speechTokens"),
        text_input=spent.number("textTokens"),
        speech_output=made.number("speechTokens"),
        text_output=made.number("textTokens"),
    )


def _user_speech_start(body: _Body) -> UserSpeechStart:
    return UserSpeechStart(offset_ms=body.number("inputAudioOffsetMs"), **body.ids())


def _user_speech_end(body: _Body) -> UserSpeechEnd:
    return UserSpeechEnd(
        offset_ms=body.number("inputAudioOffsetMs"),
        detected_at_ms=body.number("inputAudioDetectionOffsetMs"),
        **body.ids(),
    )


_OUTPUT: Final[Mapping[str, Callable[[_Body], OutputMessage]]] = {
    "audioOutput": _audio_output,
    "textOutput": _text_output,
    "toolUse": _tool_use,
    "contentStart": _output_content_start,
    "contentEnd": _output_content_end,
    "completionStart": _completion_start,
    "completionEnd": _completion_end,
    "usageEvent": _usage_event,
    "userSpeechStart": _user_speech_start,
    "userSpeechEnd": _user_speech_end,
}


def decode_input(data: bytes) -> InputMessage:
    """Read what a client says; what is there must be right, and what nobody knows is passed over.

    Raises:
        RemoteProtocolError: If `data` is no message of a client, or a member is missing or wrong.
    """
    name, members = _open(data)
    read = _INPUT.get(name)
    if read is None:
        raise RemoteProtocolError(f"{name!r} is no message of a client")
    if not isinstance(members, dict):
        raise RemoteProtocolError(f"{name} has no members")
    return read(_StrictBody(name, cast("Json", members)))


def _read_session_start(body: _StrictBody) -> SessionStart:
    numbers = body.inner("inferenceConfiguration")
    turns = body.inner("turnDetectionConfiguration")
    if "endpointingSensitivity" in body.rest:  # as version 1 had it
        raise RemoteProtocolError("endpointingSensitivity belongs into turnDetectionConfiguration")
    return SessionStart(
        inference=Inference(
            max_tokens=numbers.number("maxTokens") if "maxTokens" in numbers.rest else None,
            top_p=numbers.ratio("topP"),
            temperature=numbers.ratio("temperature"),
        ),
        endpointing=turns.one_of("endpointingSensitivity", ENDPOINTING) if turns.rest else None,
    )


def _read_prompt_start(body: _StrictBody) -> PromptStart:
    speech = body.inner("audioOutputConfiguration", optional=False)
    configuration = body.inner("toolConfiguration")
    return PromptStart(
        prompt_name=body.text("promptName", None),
        voice=speech.text("voiceId"),  # the service complains of an empty one in words of its own
        sample_rate=speech.number("sampleRateHertz", None),
        tools=tuple(_read_tool(tool) for tool in configuration.list_of("tools")),
        tool_choice=_read_tool_choice(configuration.inner("toolChoice")),
    )


def _read_tool(body: _StrictBody) -> ToolSpec:
    spec = body.inner("toolSpec", optional=False)
    schema = _json(spec.inner("inputSchema", optional=False).text("json", None))
    if not isinstance(schema, dict):
        raise RemoteProtocolError("toolSpec.inputSchema.json is no JSON object in a string")
    return ToolSpec(
        name=spec.text("name", None), description=spec.text("description"), schema=cast("Json", schema)
    )


def _read_tool_choice(body: _StrictBody) -> str | None:
    match sorted(body.rest):
        case []:
            return None
        case ["auto" | "any" as choice]:
            return choice
        case ["tool"]:
            return body.inner("tool").text("name", None)
        case choices:
            raise RemoteProtocolError(f"toolChoice names {', '.join(choices)}; it may be auto, any or tool")


def _read_input_content_start(body: _StrictBody) -> InputContentStart:
    kind = body.one_of("type", BLOCK_TYPES)
    speech = body.inner("audioInputConfiguration", optional=kind != "AUDIO")
    result = body.inner("toolResultInputConfiguration", optional=kind != "TOOL")
    if kind == "TOOL":
        result.inner("textInputConfiguration", optional=False).text("mediaType", None)
    return InputContentStart(
        prompt_name=body.text("promptName", None),
        content_name=body.text("contentName", None),
        type=kind,
        role=body.one_of("role", INPUT_ROLES),
        interactive=body.flag("interactive"),
        sample_rate=speech.number("sampleRateHertz", None) if kind == "AUDIO" else None,
        tool_use_id=result.text("toolUseId", None) if kind == "TOOL" else None,
    )


_INPUT: Final[Mapping[str, Callable[[_StrictBody], InputMessage]]] = {
    "audioInput": lambda body: AudioInput(content=body.pcm("content", None), **body.names()),
    "textInput": lambda body: TextInput(content=body.text("content", None), **body.names()),
    "toolResult": lambda body: ToolResult(content=body.text("content", None), **body.names()),
    "contentStart": _read_input_content_start,
    "contentEnd": lambda body: InputContentEnd(**body.names()),
    "sessionStart": _read_session_start,
    "promptStart": _read_prompt_start,
    "promptEnd": lambda body: PromptEnd(prompt_name=body.text("promptName", None)),
    "sessionEnd": lambda _: SessionEnd(),
}
