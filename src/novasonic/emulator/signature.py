"""Whether a request is signed as AWS wants it (Signature Version 4). No I/O, no clock.

The signatures of what follows in the request's body are `novasonic.eventstream.ChunkVerifier`'s.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

from novasonic.credentials import Credentials

SERVICE: Final = "bedrock"
"""What a request to Bedrock Runtime is signed for."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SKEW: Final = timedelta(minutes=5)
_STAMP: Final = "%Y%m%dT%H%M%SZ"

WRONG: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
    "Access Key and signing method. Consult the service documentation for details."
)


class UnsignedError(Exception):
    """The request is not accepted. `code` is the name of the service's exception, `str()` its text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Keyring:
    """The credentials that a service knows, and how long it accepts each. No clock: it is told the time."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[Credentials, float]] = {}

    def add(self, credentials: Credentials, *, until: float = math.inf) -> None:
        """Accept credentials, beside the others, up to a time."""
        self._keys[credentials.access_key] = credentials, until

    def has_expired(self, credentials: Credentials, now: float) -> bool:
        """Whether they are accepted no longer."""
        _, until = self._keys[credentials.access_key]
        return now >= until

    def find(self, access_key: str, session_token: str | None, now: float) -> Credentials:
        """Return the credentials with which a request says that it is signed.

        Raises:
            UnsignedError: If there are none, or no longer.
        """
        found, _ = self._keys.get(access_key, (None, 0.0))
        if found is None or found.session_token != session_token:
            raise UnsignedError(
                "UnrecognizedClientException", "The security token included in the request is invalid."
            )
        if self.has_expired(found, now):
            raise UnsignedError(
                "ExpiredTokenException", "The security token included in the request is expired"
            )
        return found


class Signed(NamedTuple):
    """Who has signed a request, and its signature: the first link of the chain in the body."""

    credentials: Credentials
    signature: str


def check(
    *,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    find: Callable[[str, str | None], Credentials],
    region: str,
    now: datetime,
) -> Signed:
    """Check the signature of a request.

    Args:
        method: Of the request.
        path: As on the wire, with the query.
        headers: Lower-case names and values; HTTP/2's `:authority` counts as `host`.
        find: Gives the credentials of an access key and a session token, or raises `UnsignedError`.
        region: Of the service.
        now: By the service's clock.

    Raises:
        UnsignedError: If the service would not accept it.
    """
    values = _values(headers)
    given = values.get("authorization", "")
    if not given:
        raise UnsignedError("MissingAuthenticationTokenException", "Missing Authentication Token")
    fields = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", given))
    if not given.startswith(_ALGORITHM) or len(fields) < 3:  # noqa: PLR2004 - the three that it must have
        raise UnsignedError("AccessDeniedException", "Authorization header requires Signature Version 4")
    key_id, _, scope = fields["Credential"].partition("/")
    credentials = find(key_id, values.get("x-amz-security-token"))
    stamp = values.get("x-amz-date", "")
    _check_time(stamp, now)
    if scope != f"{stamp[:8]}/{region}/{SERVICE}/aws4_request":
        raise UnsignedError(
            "InvalidSignatureException", f"Credential should be scoped to a valid region and service: {scope}"
        )
    canonical = _canonical(method, path, values, fields["SignedHeaders"])
    signature = _sign(canonical, stamp, scope, credentials.secret_key)
    if not hmac.compare_digest(signature, fields["Signature"]):
        raise UnsignedError("InvalidSignatureException", WRONG)
    return Signed(credentials, signature)


def _values(headers: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, given in headers:
        key = "host" if name == ":authority" else name
        value = " ".join(given.split())
        if key not in found:
            found[key] = value
        elif key != "host":  # some clients send it beside `:authority`
            found[key] = f"{found[key]},{value}"
    return found


def _check_time(stamp: str, now: datetime) -> None:
    try:
        signed = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError as exc:
        raise UnsignedError("InvalidSignatureException", "Date must be in ISO-8601 'basic format'") from exc
    if signed < now - _SKEW:
        earliest = (now - _SKEW).strftime(_STAMP)
        raise UnsignedError(
            "InvalidSignatureException", f"Signature expired: {stamp} is now earlier than {earliest}"
        )
    if signed > now + _SKEW:
        latest = (now + _SKEW).strftime(_STAMP)
        raise UnsignedError(
            "InvalidSignatureException", f"Signature not yet current: {stamp} is still later than {latest}"
        )


def _canonical(method: str, path: str, values: Mapping[str, str], signed_headers: str) -> str:
    path, _, query = path.partition("?")
    pairs = sorted(
        (quote(k, safe=""), quote(v, safe="")) for k, v in parse_qsl(query, keep_blank_values=True)
    )
    return "\n".join(
        (
            method,
            quote(path, safe="/"),  # once more: every service but S3 signs the path as it is on the wire
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{values.get(name, '')}" for name in signed_headers.split(";")),
            "",
            signed_headers,
            values.get("x-amz-content-sha256", ""),
        )
    )


def _sign(canonical: str, stamp: str, scope: str, secret: str) -> str:
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
