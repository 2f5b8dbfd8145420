"""Spoken conversations with Amazon Nova 2 Sonic, from any asyncio program.

    async with SonicSession(voice="tiffany", system="Be brief.") as session:
        await session.send_text("Hello!")
        async for event in session:
            ...

Here are the names of a first program; the rest is one module away. Importing this package is cheap: a name
is loaded when it is first used, and the AWS SDK when a session is opened.
"""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from novasonic.continuation import Renewal, Retry
    from novasonic.conversation import Message
    from novasonic.credentials import Credentials
    from novasonic.dialogue import converse
    from novasonic.errors import (
        AccessDeniedError,
        ConcurrencyError,
        ConfigurationError,
        ConnectError,
        CredentialsError,
        DeviceError,
        InputTimeoutError,
        InvalidRequestError,
        LocalProtocolError,
        ModelNotFoundError,
        ProtocolError,
        RemoteProtocolError,
        ReplayError,
        ServiceError,
        SessionExpiredError,
        SonicError,
        StreamLostError,
        ThrottledError,
        TransportError,
    )
    from novasonic.events import (
        AudioChunk,
        Event,
        Interrupted,
        Latency,
        Reconnecting,
        SessionEnded,
        SessionRenewed,
        SessionStarted,
        ToolCall,
        ToolResult,
        ToolRun,
        Transcript,
        TurnEnded,
        TurnStarted,
        UnknownEvent,
        UsageUpdated,
        UserSpeechEnded,
        UserSpeechStarted,
    )
    from novasonic.limiter import SessionLimiter
    from novasonic.messages import Inference, ToolSpec
    from novasonic.models import Usage
    from novasonic.recording import Recording
    from novasonic.replaying import replay
    from novasonic.reply import Reply
    from novasonic.session import SessionState, SonicSession, Stats, ask
    from novasonic.tools import Tool, ToolContext, tool

__version__: Final = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "AudioChunk",
    "ConcurrencyError",
    "ConfigurationError",
    "ConnectError",
    "Credentials",
    "CredentialsError",
    "DeviceError",
    "Event",
    "Inference",
    "InputTimeoutError",
    "Interrupted",
    "InvalidRequestError",
    "Latency",
    "LocalProtocolError",
    "Message",
    "ModelNotFoundError",
    "ProtocolError",
    "Reconnecting",
    "Recording",
    "RemoteProtocolError",
    "Renewal",
    "ReplayError",
    "Reply",
    "Retry",
    "ServiceError",
    "SessionEnded",
    "SessionExpiredError",
    "SessionLimiter",
    "SessionRenewed",
    "SessionStarted",
    "SessionState",
    "SonicError",
    "SonicSession",
    "Stats",
    "StreamLostError",
    "ThrottledError",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolResult",
    "ToolRun",
    "ToolSpec",
    "Transcript",
    "TransportError",
    "TurnEnded",
    "TurnStarted",
    "UnknownEvent",
    "Usage",
    "UsageUpdated",
    "UserSpeechEnded",
    "UserSpeechStarted",
    "ask",
    "converse",
    "replay",
    "tool",
]

_HOMES: Final = {
    "Credentials": "credentials",
    "Inference": "messages",
    "Message": "conversation",
    "Recording": "recording",
    "Renewal": "continuation",
    "Reply": "reply",
    "Retry": "continuation",
    "SessionLimiter": "limiter",
    "SessionState": "session",
    "SonicSession": "session",
    "Stats": "session",
    "Tool": "tools",
    "ToolContext": "tools",
    "ToolSpec": "messages",
    "Usage": "models",
    "ask": "session",
    "converse": "dialogue",
    "replay": "replaying",
    "tool": "tools",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors" if name.endswith("Error") else "events")
    found: object = getattr(importlib.import_module(f"novasonic.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
