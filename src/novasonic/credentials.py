"""AWS credentials, as a program may hand them to a session. No I/O."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from novasonic.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Credentials:
    """An AWS key pair, with the token that temporary ones bear. Only the access key shows in its repr.

    Attributes:
        access_key: The key id, `AKIA…` or `ASIA…`.
        secret_key: The secret half.
        session_token: The third part of temporary credentials.
        expires_at: When they expire, an aware time; None if they do not, or nobody knows.

    Raises:
        ConfigurationError: If a half is missing, or `expires_at` has no time zone.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("access_key", "secret_key"):
            if not getattr(self, name):
                raise ConfigurationError(f"{name} is empty: credentials need both halves of a key pair")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ConfigurationError("expires_at has no time zone: say datetime(…, tzinfo=UTC)")


CredentialsSource = Credentials | Callable[[], Credentials | Awaitable[Credentials]]
"""Where credentials come from: themselves, or a callable that is asked whenever a stream opens.

A coroutine function runs on the event loop, any other callable in a thread, where it may block. It is asked
once more if what it returns has expired or will within a minute. If it raises, or does not answer within half
the time there is, what it returned last is used, unless that has expired.
"""
