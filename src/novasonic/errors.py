"""Everything that novasonic raises on purpose, and nothing else.

SonicError
├── ConfigurationError (ValueError)     a parameter is wrong; nothing was sent
├── ProtocolError
│   ├── LocalProtocolError              you asked to send what may not be sent now
│   │   └── ReplayError                 you do something else than when it was recorded
│   ├── RemoteProtocolError             the service sent what cannot be read
│   └── ConcurrencyError                two tasks read one session
├── DeviceError                         no microphone or loudspeaker, or it failed
└── TransportError                      the way to the service failed, or the service refused
    ├── ConnectError                    no connection: DNS, TCP, TLS or time
    ├── CredentialsError                none found, expired or wrong
    ├── AccessDeniedError               no permission, or no access to the model
    ├── ModelNotFoundError              unknown id, wrong region or end of life
    ├── InvalidRequestError             the service rejected what was sent
    ├── ThrottledError                  too many sessions or requests
    ├── InputTimeoutError               the service heard nothing for too long
    ├── SessionExpiredError             a stream reached its eight minutes
    ├── ServiceError                    the service failed
    └── StreamLostError                 the stream ended without a goodbye

"Local" is you, "Remote" is the service. Every message says what happened, to what, and what to do next.
"""

from typing import ClassVar


class SonicError(Exception):
    """The root: `except SonicError` catches whatever this library raises on purpose."""


class ConfigurationError(SonicError, ValueError):
    """A parameter is wrong. Nothing was sent; the message names the parameter and what is allowed."""


class ProtocolError(SonicError):
    """The order or the form of what was said is wrong."""


class LocalProtocolError(ProtocolError):
    """You asked for something to be sent that may not be sent now. Nothing was sent."""


class ReplayError(LocalProtocolError):
    """A program does something else than the one whose conversation was recorded and is replayed to it.

    Attributes:
        path: The member of the message that differs, such as `event.textInput.content`; empty if it is not
            one member that differs.
        recorded: What it was in the recording; None if it was not there.
        sent: What it is now; None if it is not there.
    """

    def __init__(self, message: str, *, path: str = "", recorded: object = None, sent: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.recorded = recorded
        self.sent = sent


class RemoteProtocolError(ProtocolError):
    """The peer sent something that cannot be read at all."""


class ConcurrencyError(ProtocolError):
    """A session is read by two tasks at once."""


class DeviceError(SonicError):
    """There is no microphone or loudspeaker, it cannot be opened, or it was unplugged."""


class TransportError(SonicError):
    """The way to the service failed, or the service refused.

    Attributes:
        retryable: Whether the same attempt, some seconds later, may succeed.
        code: The service's name for the failure (`ThrottlingException`), or the network's
            (`SOCKET_CONNECTION_REFUSED`); None where neither gave one.
        request_id: The service's id of the call, for its support; None before it gave one.
    """

    may_pass: ClassVar[bool] = False
    """What `retryable` is unless the raiser knows better."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.retryable = self.may_pass if retryable is None else retryable


class ConnectError(TransportError):
    """No connection to the service: name lookup, TCP, TLS, proxy, or no answer in time."""

    may_pass = True


class CredentialsError(TransportError):
    """No AWS credentials were found, or the service does not accept them."""


class AccessDeniedError(TransportError):
    """The credentials are fine, but they do not allow this model."""


class ModelNotFoundError(TransportError):
    """The model is not known in this region, or has reached its end of life."""


class InvalidRequestError(TransportError):
    """The service rejected what was sent."""


class ThrottledError(TransportError):
    """Too many sessions or requests for the account's quota."""

    may_pass = True


class InputTimeoutError(TransportError):
    """The service closed the stream because it heard nothing for too long."""

    may_pass = True


class SessionExpiredError(TransportError):
    """The stream reached the service's limit of eight minutes."""

    may_pass = True


class ServiceError(TransportError):
    """The service failed."""

    may_pass = True


class StreamLostError(TransportError):
    """The stream ended without a goodbye: reset, connection lost, or cut off in silence."""

    may_pass = True
