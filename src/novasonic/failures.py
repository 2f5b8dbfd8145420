"""What failures mean: the service's words for them, and the network's, to novasonic's errors. No I/O.

The one place where foreign failures are mapped: by code *and* text, as the service says ValidationException
to a wrong voice, to a minute without audio and to its own instability.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from novasonic.errors import (
    AccessDeniedError,
    ConnectError,
    CredentialsError,
    InputTimeoutError,
    InvalidRequestError,
    ModelNotFoundError,
    ServiceError,
    SessionExpiredError,
    StreamLostError,
    ThrottledError,
    TransportError,
)


class Meaning(NamedTuple):
    """What a failure means: the exception to raise, what to do next, and whether trying again may help."""

    error: type[TransportError]
    hint: str = ""
    retryable: bool | None = None  # None: what the exception's class says


RENEW = "Get new credentials, for example with `aws sso login`, and open the stream again."
_CLOCK = "Set this machine's clock: AWS refuses signatures that are more than five minutes off."
_HISTORY = "Send the history before the audio, beginning with what the user said, and shorter if need be."
_ORDER = "Events were sent in an order that the service does not take; open another stream."

ERRORS: Final[Mapping[str, Meaning]] = {
    # What the service's model declares (`aws_sdk_bedrock_runtime.models`).
    "AccessDeniedException": Meaning(
        AccessDeniedError,
        "Allow bedrock:InvokeModelWithBidirectionalStream on the model, and request access to it in the "
        "Bedrock console.",
    ),
    "ConflictException": Meaning(InvalidRequestError),
    "InternalServerException": Meaning(ServiceError, "Try again."),
    "ModelErrorException": Meaning(ServiceError, "Try again."),
    "ModelNotReadyException": Meaning(ServiceError, "Try again in a moment."),
    "ModelStreamErrorException": Meaning(ServiceError, "Open another stream and go on."),
    # A stream that has reached its eight minutes ends in these words.
    "ModelTimeoutException": Meaning(SessionExpiredError, "Open another stream and go on."),
    "ResourceNotFoundException": Meaning(
        ModelNotFoundError, "Check the model id, and that this region offers the model."
    ),
    "ServiceQuotaExceededException": Meaning(ThrottledError, "Close a session, or request a higher quota."),
    "ServiceUnavailableException": Meaning(ServiceError, "Try again in a moment."),
    "ThrottlingException": Meaning(ThrottledError, "Wait a moment, or request a higher quota."),
    "ValidationException": Meaning(InvalidRequestError),
    # What every AWS service may say before it looks at a request.
    "ExpiredToken": Meaning(CredentialsError, RENEW),
    "ExpiredTokenException": Meaning(CredentialsError, RENEW),
    "IncompleteSignature": Meaning(CredentialsError),
    "IncompleteSignatureException": Meaning(CredentialsError),
    "InvalidClientTokenId": Meaning(CredentialsError, "Check the access key."),
    "InvalidSignatureException": Meaning(CredentialsError, f"Check the secret key. {_CLOCK}"),
    "MissingAuthenticationToken": Meaning(CredentialsError),
    "MissingAuthenticationTokenException": Meaning(CredentialsError),
    "NotAuthorized": Meaning(AccessDeniedError),
    "OptInRequired": Meaning(AccessDeniedError, "Subscribe the account to Amazon Bedrock."),
    "RequestExpired": Meaning(CredentialsError, _CLOCK),
    "RequestTimeTooSkewed": Meaning(CredentialsError, _CLOCK),
    "SerializationException": Meaning(InvalidRequestError),
    "ServiceUnavailable": Meaning(ServiceError, "Try again in a moment."),
    "SignatureDoesNotMatch": Meaning(CredentialsError, f"Check the secret key. {_CLOCK}"),
    "SubscriptionRequiredException": Meaning(AccessDeniedError, "Subscribe the account to Amazon Bedrock."),
    "TooManyRequestsException": Meaning(ThrottledError, "Wait a moment, or request a higher quota."),
    "UnknownOperationException": Meaning(
        ConnectError, "Check that the endpoint is Bedrock Runtime.", retryable=False
    ),
    "UnrecognizedClientException": Meaning(CredentialsError, "Check the access key and the session token."),
}
"""What an exception of the service means, by its code, where its text does not say more."""

TEXTS: Final[Sequence[tuple[str, Meaning]]] = (
    # The service says ValidationException to many things that are no fault of the request. The texts are
    # those that its clients have reported; the first row that fits counts.
    ("timed out waiting for", Meaning(InputTimeoutError, "Send silence while nobody speaks.")),
    ("internalerrorcode=531", Meaning(SessionExpiredError, "Open another stream and go on.")),
    ("system instability", Meaning(ServiceError, "Try again.")),
    ("content filter", Meaning(InvalidRequestError, "Do not send the same again.", retryable=False)),
    ("invalid voiceid", Meaning(InvalidRequestError, "Choose a voice that `novasonic voices` lists.")),
    ("chat history", Meaning(InvalidRequestError, _HISTORY)),
    ("tool response parsing", Meaning(InvalidRequestError, "A tool's result is a JSON object in a string.")),
    (
        "unable to parse input chunk",
        Meaning(InvalidRequestError, "An event was not the JSON that the service expects."),
    ),
    ("must be closed before", Meaning(InvalidRequestError, _ORDER)),
    ("were not closed", Meaning(InvalidRequestError, _ORDER)),
    ("no open content", Meaning(InvalidRequestError, _ORDER)),
    ("no open prompt", Meaning(InvalidRequestError, _ORDER)),
    ("no content data was received", Meaning(InvalidRequestError, _ORDER)),
    ("model identifier is invalid", Meaning(ModelNotFoundError, "`novasonic voices` lists the models.")),
    ("on-demand throughput", Meaning(ModelNotFoundError, "Choose a model or a region that offers it.")),
    ("end of its life", Meaning(ModelNotFoundError, "Choose a newer model.")),
    ("request signature we calculated", Meaning(CredentialsError, f"Check the secret key. {_CLOCK}")),
    ("signature expired", Meaning(CredentialsError, _CLOCK)),
    ("signature not yet current", Meaning(CredentialsError, _CLOCK)),
    ("token included in the request is expired", Meaning(CredentialsError, RENEW)),
)
"""What a failure means by its text, in lower case, whatever its code."""

_BY_STATUS: Final[Mapping[int, Meaning]] = {
    401: Meaning(CredentialsError),
    403: Meaning(AccessDeniedError),
    404: Meaning(ModelNotFoundError, "Check the model id, the region and the endpoint."),
    429: Meaning(ThrottledError, "Wait a moment."),
    # By their hundreds:
    2: Meaning(ConnectError, "Check that the endpoint is Bedrock Runtime.", retryable=False),
    3: Meaning(ConnectError, "Check the endpoint, and any proxy in between.", retryable=False),
    4: Meaning(InvalidRequestError),
    5: Meaning(ServiceError, "Try again in a moment."),
}
"""What an answer means whose code nobody knows."""

TRUST = "If a proxy in between reads TLS, set AWS_CA_BUNDLE to the file with its CA certificate."
REACH = "Check the network, the firewall and HTTPS_PROXY."
_AGAIN = "Open another stream to go on."

NETWORK: Final[Mapping[str, Meaning]] = {
    "DNS_INVALID_NAME": Meaning(ConnectError, "Its name is unknown: check the region and the endpoint."),
    "DNS_NO_ADDRESS_FOR_HOST": Meaning(
        ConnectError, "Its name is unknown: check the region and the endpoint."
    ),
    "DNS_QUERY_FAILED": Meaning(ConnectError, f"Its name could not be looked up. {REACH}"),
    "PROXY_CONNECT_FAILED": Meaning(ConnectError, "The proxy refused to connect: check HTTPS_PROXY."),
    "SOCKET_CLOSED": Meaning(ConnectError, f"It hung up at once. {REACH}"),
    "SOCKET_CONNECTION_REFUSED": Meaning(ConnectError, "Nothing listens there: check the endpoint."),
    "SOCKET_CONNECT_ABORTED": Meaning(ConnectError, REACH),
    "SOCKET_NETWORK_DOWN": Meaning(ConnectError, REACH),
    "SOCKET_NO_ROUTE_TO_HOST": Meaning(ConnectError, REACH),
    "SOCKET_TIMEOUT": Meaning(ConnectError, f"It does not answer. {REACH}"),
    "TLS_ERROR_NEGOTIATION_FAILURE": Meaning(ConnectError, f"TLS could not be agreed on. {TRUST}"),
    "TLS_NEGOTIATION_TIMEOUT": Meaning(ConnectError, f"It does not speak TLS. {TRUST}"),
    "UNSUPPORTED_PROTOCOL": Meaning(
        ConnectError,
        "It offers only HTTP/1.1, and speech needs HTTP/2: something in between may be reading TLS.",
        retryable=False,
    ),
    "CLOSED_LOCALLY": Meaning(StreamLostError, "It was closed here."),
    "CONNECTION_CLOSED": Meaning(StreamLostError, f"The connection was cut. {_AGAIN}"),
    "ENDED_BY_SERVICE": Meaning(StreamLostError, f"The service has ended it. {_AGAIN}"),
    "ENDED_WITHOUT_RESPONSE": Meaning(StreamLostError, "The service ended it without an answer."),
    "GOAWAY_RECEIVED": Meaning(StreamLostError, f"The service is closing its connections. {_AGAIN}"),
    "PEER_STALLED": Meaning(StreamLostError, f"The service has stopped reading. {_AGAIN}"),
    "RST_STREAM_RECEIVED": Meaning(StreamLostError, f"The service reset it. {_AGAIN}"),
}
"""What a failure of the network means, by the CRT's name for it; for others see `unreachable`, `lost`."""


def refused(
    where: str, code: str, text: str, *, status: int | None = None, id_: str | None
) -> TransportError:
    """Return the error for what the service said: `code` and `text`, before the stream opened or in it."""
    code = code[:1].upper() + code[1:]  # in a stream the names begin in lower case
    text, request_id = _strip(text)
    folded = text.lower()
    by_text = next((meaning for words, meaning in TEXTS if words in folded), None)
    by_status = status and (_BY_STATUS.get(status) or _BY_STATUS.get(status // 100))
    meaning = by_text or ERRORS.get(code) or by_status or Meaning(ServiceError)
    said = f"{where} answered {code}: {text}" if text else f"{where} answered {code}"
    return meaning.error(
        f"{said.rstrip('.')}. {meaning.hint}".rstrip(),
        code=code,
        request_id=request_id or id_,
        retryable=meaning.retryable,
    )


_REQUEST_ID: Final = re.compile(r"RequestId=(\S+)\s*:\s*")
_NUMBERED: Final = re.compile(r"\s*\bError(?:\(s\):|\s+\d+\s*:)\s*")


def _strip(text: str) -> tuple[str, str | None]:
    """Return a failure's text without what surrounds it, and the request id that came with it.

    Texts come as "RequestId=… : text" and "RequestId=… : Error(s): Error 1 : text", a line for each error.
    """
    found = _REQUEST_ID.search(text)
    text = _NUMBERED.sub("; ", _REQUEST_ID.sub("", text))
    return "; ".join(part for part in re.split(r"[;\s]*;\s*", text.strip()) if part), found and found[1]


def unreachable(host: str, name: str) -> TransportError:
    """Return the error for a connection that could not be made."""
    meaning = NETWORK.get(name) or Meaning(ConnectError, f"{REACH} {TRUST}")
    return meaning.error(
        f"no connection to {host} ({name}). {meaning.hint}", code=name, retryable=meaning.retryable
    )


def lost(name: str) -> TransportError:
    """Return the error for a stream that has ended before its time."""
    hint = NETWORK[name].hint if name in NETWORK else _AGAIN
    return StreamLostError(f"the stream was lost ({name}). {hint}", code=name)


def refused_by_http(where: str, status: int, headers: Mapping[str, str], body: bytes) -> TransportError:
    """Return the error for an answer other than 200; the name is in a header, in the body or nowhere."""
    try:
        named = {
            name.lower(): value for name, value in msgspec.json.decode(body, type=dict[str, Any]).items()
        }
    except msgspec.DecodeError:
        named = {"message": body[:300].decode(errors="replace")}
    code = str(
        headers.get("x-amzn-errortype") or named.get("__type") or named.get("code") or f"HTTP {status}"
    )
    code = code.rpartition("#")[2].partition(":")[0]  # "com.amazonaws…#ThrottlingException:http://…"
    text = str(named.get("message") or "")
    return refused(where, code, text, status=status, id_=headers.get("x-amzn-requestid"))
