"""What a page and this server say to each other: one JSON object per text frame. No I/O.

The page says, by `type`:

    initialize          once, before all else; all optional: systemPrompt, voiceId, audioFormat, and
                        awsAccessKeyId, awsSecretAccessKey, awsSessionToken, awsRegion, which are refused
                        unless the server was told to take them
    audio_chunk         audio: base64 of 16 kHz mono PCM16, as the microphone gives it; isComplete: need not
                        be said, since the pause that follows says it
    text_message        text: it is answered aloud
    end_conversation

The server says:

    initialized         sessionId, voiceId, audioFormat, inputSampleRate, emulated: speak now
    transcription       text, isFinal, turn, contentId: what the user said
    text_response       text, isFinal, turn, contentId: what the assistant is about to say, not final; and
                        once more, final, when it was heard
    audio_response      audio: base64 of PCM16, sampleRate, turn: half a second ahead of what is heard
    interrupted         turn, heard (seconds): the user broke in; drop all audio that was not played
    tool_use            id, name, status (running, done or failed), arguments (while it runs)
    state               state: hearing (the user speaks), heard (has spoken), reconnecting, reconnected
    error               code, message (in words), retryable: it ends nothing, `conversation_ended` does
    conversation_ended  reason: the socket is closed next

Audio may go as binary frames instead, nothing but samples. A page sends such ones whenever it likes, and gets
them at 24 kHz if its `initialize` says "audioFormat": "binary". What is not known is passed over.

The codes of errors that a page can avoid: BAD_MESSAGE, NOT_INITIALIZED, ALREADY_INITIALIZED, NOT_NOW,
CREDENTIALS_REFUSED, CONFIGURATION (a value is wrong); and, with the end, TOO_MANY_MESSAGES, TOO_MUCH_AUDIO,
TOO_SLOW, IDLE. Others are named after the errors of novasonic: THROTTLED, CREDENTIALS, STREAM_LOST and so on.
The reasons of ends: client_request, idle, server_cleanup, server_shutdown, service_ended, error, or one of
those codes.
"""

from typing import Annotated, Any, Literal

import msgspec

AudioFormat = Literal["base64", "binary"]
"""How the page wants to get audio."""

_SHOWN = 200  # characters of what is wrong with a message: it may quote the message


class BadMessageError(Exception):
    """What came is none of these messages; the text says why."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    """A JSON object, named by its `type`."""


# --- from the page ----------------------------------------------------------------------------------------


class Initialize(_Message, frozen=True, kw_only=True, tag="initialize"):
    """Opens the conversation. It may hold a secret, so nothing shows it."""

    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    aws_session_token: str | None = None
    aws_region: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]*\Z")] | None = None  # part of an address
    system_prompt: str | None = None
    voice_id: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    audio_format: AudioFormat = "base64"

    def __repr__(self) -> str:
        return "Initialize(...)"

    @property
    def asks_for_aws(self) -> bool:
        """Whether it says anything about AWS."""
        return bool(
            self.aws_access_key_id or self.aws_secret_access_key or self.aws_session_token or self.aws_region
        )


class AudioChunk(_Message, frozen=True, kw_only=True, tag="audio_chunk"):
    """A piece of what the microphone hears."""

    audio: bytes = b""
    is_complete: bool = False

    def __post_init__(self) -> None:
        if len(self.audio) % 2:
            raise ValueError(f"audio has {len(self.audio)} bytes, but a sample has two")


class TextMessage(_Message, frozen=True, kw_only=True, tag="text_message"):
    """What the user types."""

    text: str


class EndConversation(_Message, frozen=True, kw_only=True, tag="end_conversation"):
    """The user has had enough."""


FromPage = Initialize | AudioChunk | TextMessage | EndConversation
"""Whatever a page may say."""

_decoder = msgspec.json.Decoder(FromPage)


def decode(frame: str | bytes) -> FromPage:
    """Return the message in a text frame, or the audio in a binary one.

    Raises:
        BadMessageError: If there is none.
    """
    try:
        return AudioChunk(audio=frame) if isinstance(frame, bytes) else _decoder.decode(frame)
    except (msgspec.DecodeError, ValueError) as exc:
        raise BadMessageError(str(exc)[:_SHOWN]) from None
    except RecursionError:
        raise BadMessageError("it is nested too deeply") from None


# --- from the server --------------------------------------------------------------------------------------


class Initialized(_Message, frozen=True, kw_only=True, tag="initialized"):
    """The conversation is open."""

    session_id: str
    voice_id: str
    audio_format: AudioFormat
    input_sample_rate: int
    emulated: bool


class Transcription(_Message, frozen=True, kw_only=True, tag="transcription"):
    """What the user said."""

    text: str
    is_final: bool
    turn: int
    content_id: str


class TextResponse(_Message, frozen=True, kw_only=True, tag="text_response"):
    """What the assistant is about to say; final: what was heard."""

    text: str
    is_final: bool
    turn: int
    content_id: str


class AudioResponse(_Message, frozen=True, kw_only=True, tag="audio_response"):
    """A piece of the assistant's speech."""

    audio: bytes
    sample_rate: int
    turn: int


class Interrupted(_Message, frozen=True, kw_only=True, tag="interrupted"):
    """The user broke in."""

    turn: int
    heard: float | None


class ToolUse(_Message, frozen=True, kw_only=True, tag="tool_use"):
    """A tool is at work, or was."""

    id: str
    name: str
    status: Literal["running", "done", "failed"]
    arguments: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class State(_Message, frozen=True, kw_only=True, tag="state"):
    """What goes on besides."""

    state: Literal["hearing", "heard", "reconnecting", "reconnected"]


class Error(_Message, frozen=True, kw_only=True, tag="error"):
    """Something is wrong."""

    code: str
    message: str
    retryable: bool = False


class ConversationEnded(_Message, frozen=True, kw_only=True, tag="conversation_ended"):
    """It is over."""

    reason: str


ToPage = (
    Initialized
    | Transcription
    | TextResponse
    | AudioResponse
    | Interrupted
    | ToolUse
    | State
    | Error
    | ConversationEnded
)
"""Whatever the server may say."""

_encoder = msgspec.json.Encoder()


def encode(message: ToPage) -> str:
    """Return the text frame for a message."""
    return _encoder.encode(message).decode()
