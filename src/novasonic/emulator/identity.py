"""Who an emulator is to its clients: the authority that they trust, and the keys that they sign with.

Made anew for each emulator, or kept in a folder: one that was killed and is started again is then the same to
its clients. Blocks, on files.
"""

import contextlib
import os
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec
import trustme

from novasonic.credentials import Credentials
from novasonic.errors import ConfigurationError

MADE_UP: Final = Credentials("novasonic-emulator", "not-a-secret")
"""The keys of an emulator that keeps nothing."""

_PRIVATE: Final = "identity.json"
_PUBLIC: Final = "ca.pem"


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder keeps, in one file: of two, one could be missing after a crash."""

    certificate: str
    private_key: str
    access_key: str
    secret_key: str


class Identity:
    """An authority, and keys.

    Attributes:
        ca_file: The certificate to trust.
        credentials: The keys to sign with.
    """

    def __init__(self, ca: trustme.CA, credentials: Credentials, folder: Path, *, temporary: bool) -> None:
        self.ca_file = folder / _PUBLIC
        self.credentials = credentials
        self._ca = ca
        self._folder = folder
        self._temporary = temporary
        certificate = ca.cert_pem.bytes()
        if not self.ca_file.exists() or self.ca_file.read_bytes() != certificate:
            _put(self.ca_file, certificate, mode=0o644, place=os.replace)

    @classmethod
    def make(cls) -> Self:
        """Return a new one, in a temporary folder that `forget()` removes."""
        folder = Path(tempfile.mkdtemp(prefix="novasonic-"))
        return cls(trustme.CA(), MADE_UP, folder, temporary=True)

    @classmethod
    def keep(cls, folder: Path) -> Self:
        """Return the one that a folder keeps; a new one the first time.

        Raises:
            ConfigurationError: If it cannot be read or written.
        """
        path = folder / _PRIVATE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _put(path, msgspec.json.format(msgspec.json.encode(_new())), mode=0o600, place=_link)
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            ca = trustme.CA.from_pem(kept.certificate.encode(), kept.private_key.encode())
            credentials = Credentials(kept.access_key, kept.secret_key)
            return cls(ca, credentials, folder.absolute(), temporary=False)
        except OSError as exc:
            raise ConfigurationError(
                f"an emulator cannot keep its state in {folder}: {exc.strerror}"
            ) from exc
        except ValueError as exc:  # of msgspec, of the certificate, of the credentials
            raise ConfigurationError(
                f"{path} is no state of an emulator ({exc}); delete it, and a new one is made"
            ) from exc

    def tls(self, *names: str) -> ssl.SSLContext:
        """Return what serves TLS under these names and addresses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
        cast("Any", self._ca.issue_cert(*names)).configure_cert(context)  # typed by what is not installed
        return context

    def forget(self) -> None:
        """Remove what was made for one emulator only."""
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)


def _new() -> _Kept:
    ca = trustme.CA()
    return _Kept(
        certificate=ca.cert_pem.bytes().decode(),
        private_key=ca.private_key_pem.bytes().decode(),
        access_key=f"novasonic-{secrets.token_hex(4)}",
        secret_key=secrets.token_hex(20),
    )


def _put(path: Path, data: bytes, *, mode: int, place: Callable[[str, Path], None]) -> None:
    """Write a file whole or not at all, whenever the process is killed."""
    handle, name = tempfile.mkstemp(dir=path.parent)  # for nobody else to read
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(mode)
        place(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _link(source: str, path: Path) -> None:
    """Put a file in its place, unless another emulator was faster: then that one's counts."""
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(source)
