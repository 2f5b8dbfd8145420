"""What Twilio and a server say to each other about a telephone call. No I/O, and nothing of novasonic.

Over HTTP, Twilio asks what to do with a call, and is answered in TwiML. Over a WebSocket, it sends what the
caller says and plays what comes back: Media Streams. Both requests are signed. The facts are from Twilio's
documentation: "Media Streams - WebSocket Messages", "TwiML Voice: <Stream>" and "Webhooks Security".
"""

import base64
import hmac
from collections.abc import Iterable, Mapping
from html import escape
from typing import Annotated, Final

import msgspec

SAMPLE_RATE: Final = 8_000
"""Of the audio, both ways, in Hz. It is µ-law: a byte is a sample."""

_Sid = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,64}\Z")]  # it goes into logs and answers
_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-D*#]\Z")]


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of a message. Members that are not named here are passed over."""


class _Message(_Body, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """A message: a JSON object whose `event` is the name of its class."""


class MediaFormat(_Body, frozen=True, kw_only=True):
    """How the audio of a stream is coded. Nothing else than this was ever offered."""

    encoding: str = "audio/x-mulaw"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1


class Beginning(_Body, frozen=True, kw_only=True):
    """What is known of a call when its stream begins; `custom_parameters` are those of the TwiML."""

    call_sid: _Sid
    stream_sid: _Sid
    account_sid: str = ""
    tracks: tuple[str, ...] = ()
    custom_parameters: Mapping[str, str] = {}
    media_format: MediaFormat


class Sound(_Body, frozen=True, kw_only=True):
    """A piece of audio, base64 on the wire. Twilio sends 20 ms each, and takes any length."""

    payload: bytes
    track: str = ""
    chunk: str = ""
    timestamp: str = ""


class Label(_Body, frozen=True, kw_only=True):
    """The name of a mark."""

    name: Annotated[str, msgspec.Meta(max_length=64)]


class KeyPress(_Body, frozen=True, kw_only=True):
    """A key of the caller's telephone."""

    digit: _Key
    track: str = ""


class Connected(_Message, frozen=True, kw_only=True):
    """From Twilio: the first message."""

    protocol: str = ""
    version: str = ""


class Start(_Message, frozen=True, kw_only=True):
    """From Twilio: the second message."""

    stream_sid: _Sid
    start: Beginning
    sequence_number: str = ""


class Media(_Message, frozen=True, kw_only=True):
    """From Twilio: what the caller says. To Twilio: what to play, after all that it has not played yet."""

    media: Sound
    stream_sid: str = ""
    sequence_number: str = ""


class Mark(_Message, frozen=True, kw_only=True):
    """To Twilio: a mark behind the audio that was sent. From Twilio: all before it was played, or cleared."""

    mark: Label
    stream_sid: str = ""
    sequence_number: str = ""


class Clear(_Message, frozen=True, kw_only=True):
    """To Twilio: drop what was not played yet. The marks in it come back at once."""

    stream_sid: str = ""


class Dtmf(_Message, frozen=True, kw_only=True):
    """From Twilio: the caller has pressed a key."""

    dtmf: KeyPress
    stream_sid: str = ""
    sequence_number: str = ""


class Stop(_Message, frozen=True, kw_only=True):
    """From Twilio: the last message, as the call has ended."""

    stream_sid: str = ""
    sequence_number: str = ""


FromTwilio = Connected | Start | Media | Mark | Dtmf | Stop
"""Whatever Twilio says."""

ToTwilio = Media | Mark | Clear
"""Whatever it takes; anything else, or a member too many, is an error there."""


class _Any(msgspec.Struct):
    event: str


_KNOWN: Final = {"connected", "start", "media", "mark", "dtmf", "stop"}
_from_twilio: Final = msgspec.json.Decoder(FromTwilio)
_to_twilio: Final = msgspec.json.Decoder(ToTwilio)


def read(text: str) -> FromTwilio | None:
    """Return what Twilio says; None if that is something newer than this program.

    Raises:
        ValueError: If it is no message, or not as it must be.
    """
    try:
        try:
            message: FromTwilio = _from_twilio.decode(text)
        except msgspec.ValidationError:
            if msgspec.json.decode(text, type=_Any).event in _KNOWN:
                raise
            return None
    except RecursionError as exc:
        raise ValueError("the JSON is nested too deeply") from exc
    return message


def read_answer(text: str) -> ToTwilio:
    """Return what a server says to Twilio.

    Raises:
        ValueError: If it is nothing that Twilio would take.
    """
    message: ToTwilio = _to_twilio.decode(text)
    return message


def write(message: FromTwilio | ToTwilio) -> str:
    """Return a message as it goes over the wire."""
    return msgspec.json.encode(message).decode()


def signature(token: str, url: str, parameters: Iterable[tuple[str, str]] = ()) -> str:
    """Return Twilio's signature of a request: the header `X-Twilio-Signature`.

    Args:
        token: The account's auth token.
        url: As Twilio was told it, with the query string; "wss://..." for a stream.
        parameters: Of the form that was posted, if one was.
    """
    signed = url + "".join(name + value for name, value in sorted(set(parameters)))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), "sha1")).decode()


def is_signed(given: str, token: str, url: str, parameters: Iterable[tuple[str, str]] = ()) -> bool:
    """Whether a signature is the right one. It takes as long to say no as to say yes."""
    if not token:
        return False  # anybody could have signed with it
    return hmac.compare_digest(given.encode(), signature(token, url, parameters).encode())


def connect(url: str, parameters: Mapping[str, str], farewell: str) -> str:
    """Return TwiML that connects a call to a stream, and has something said once the server closes that."""
    given = "".join(
        f'<Parameter name="{escape(name)}" value="{escape(value)}"/>' for name, value in parameters.items()
    )
    return _twiml(f'<Connect><Stream url="{escape(url)}">{given}</Stream></Connect>{_say(farewell)}')


def refuse(reason: str) -> str:
    """Return TwiML that has something said, and ends the call."""
    return _twiml(_say(reason))


def _say(text: str) -> str:
    return f"<Say>{escape(text)}</Say>"


def _twiml(verbs: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{verbs}</Response>'
