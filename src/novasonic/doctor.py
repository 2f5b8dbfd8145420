"""`novasonic doctor`: asks one thing after the other, up to a whole session, to find what is wrong.

What the answers mean is in `novasonic.diagnosis`. Nothing hangs: every wait has a deadline, and what blocks
does so in a thread that is left alone when that is over.
"""

import asyncio
import base64
import importlib
import logging
import os
import platform
import socket
import ssl
import time
import traceback
import urllib.parse
import urllib.request
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from typing import TYPE_CHECKING, Final, Literal

from novasonic import diagnosis, events, models
from novasonic.diagnosis import Finding, Name, ProxyRefusedError, Report
from novasonic.errors import ConfigurationError, CredentialsError, SonicError
from novasonic.portaudio import Device, DeviceKind, leave_at_exit, list_devices, no_chatter
from novasonic.session import SonicSession
from novasonic.threads import in_thread

if TYPE_CHECKING:
    from novasonic.bedrock import Destination, Proxy
    from novasonic.credentials import Credentials

__all__ = ["Finding", "examine"]

logger = logging.getLogger("novasonic.doctor")

_SILENCE: Final = 0.5  # seconds that a session must last, in which it sends silence by itself
_LONGEST: Final = 3600.0
_SECRET: Final = 8  # characters that a secret has at least
_TO_CLOSE: Final = 5.0  # seconds for a session to close, as usual
_TO_ANSWER: Final = 3.0  # seconds for an endpoint to refuse a request: no more hangs on it than the clock
_ONE_ADDRESS: Final = 5.0  # seconds for one of several addresses, as for sessions


async def examine(
    *,
    model: str | models.Model | None = None,
    region: str | None = None,
    profile: str | None = None,
    endpoint_url: str | None = None,
    offline: bool = False,
    timeout: float = 10.0,  # noqa: ASYNC109 - for each of the checks
    emulator: AbstractAsyncContextManager[str] | None = None,
    on_check: Callable[[Name], object] = lambda _: None,
) -> tuple[Finding, ...]:
    """Check what a session needs, and return what was found, in order. Nothing secret is in it.

    Cancelling is safe: nothing is left behind.

    Args:
        model: As for `SonicSession`, and so are the next three.
        region: AWS region.
        profile: Profile of the AWS configuration files.
        endpoint_url: Where the service is, if not where AWS says.
        offline: Whether to leave out what goes over the network. Otherwise a session is opened, for a few
            hundred tokens.
        timeout: Seconds for each step.
        emulator: Runs an emulator, leads the environment there, and yields its address.
        on_check: Is told which check comes next.

    Raises:
        ConfigurationError: If `model` or `timeout` cannot be right.
    """
    if not 0 < timeout <= _LONGEST:
        raise ConfigurationError(f"timeout is {timeout:g} seconds, but must be above 0, up to {_LONGEST:g}")
    examination = _Examination(
        model=SonicSession().model if model is None else models.lookup(model),
        region=region,
        profile=profile,
        endpoint_url=endpoint_url,
        offline=offline,
        timeout=timeout,
    )
    async with AsyncExitStack() as stack:
        if emulator is not None:
            examination.checks["Emulator"] = lambda: _emulator(stack, emulator)
        return await examination.run(on_check)


class _Examination:
    """One run: the checks, and what they found out for those that follow."""

    def __init__(
        self,
        *,
        model: models.Model,
        region: str | None,
        profile: str | None,
        endpoint_url: str | None,
        offline: bool,
        timeout: float,
    ) -> None:
        self.checks: dict[Name, Callable[[], Awaitable[Finding]]] = {
            "Python": self._python,
            "Packages": self._packages,
            "Extras": self._extras,
            "Credentials": self._credentials,
            "Region": self._region_and_endpoint,
            "Proxy": self._proxy_on_the_way,
            "CA bundle": self._ca_bundle,
            "DNS": self._dns,
            "Connection": self._connection,
            "Clock": self._clock,
            "Session": self._session,
            "Sound": self._sound,
        }
        self._model = model
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._offline = offline
        self._timeout = timeout
        self._there: Destination | None = None
        self._keys: Credentials | None = None
        self._proxy: Proxy | None = None
        self._addresses: Sequence[str] = ()
        self._ahead: float | None = None  # seconds that the endpoint's clock is

    async def run(self, on_check: Callable[[Name], object]) -> tuple[Finding, ...]:
        """Ask everything that is worth asking."""
        report = Report(offline=self._offline)
        for name in diagnosis.NEEDS:
            if name not in self.checks:
                continue
            finding = report.excuse(name)
            if finding is None:
                on_check(name)
                started = time.monotonic()
                finding = await self._ask(name)
                logger.debug("%s: %s, after %.2f s", name, finding.state, time.monotonic() - started)
            report.add(diagnosis.redacted(finding, self._secrets()))
        return report.findings

    async def _ask(self, name: Name) -> Finding:
        try:
            return await self.checks[name]()
        except TimeoutError:
            return diagnosis.too_late(name, self._timeout)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other checks go on
            logger.debug("%s", diagnosis.without(traceback.format_exc(), self._secrets()))
            return diagnosis.broken(name, exc)

    async def _thread[T](self, function: Callable[[], T]) -> T:
        async with asyncio.timeout(self._timeout):
            return await in_thread(function, name="novasonic-doctor")

    def _secrets(self) -> list[str]:
        """Return what may not be shown, whatever comes to speak of it."""
        names = (
            "SECRET_ACCESS_KEY",
            "SESSION_TOKEN",
            "BEARER_TOKEN_BEDROCK",
            "CONTAINER_AUTHORIZATION_TOKEN",
        )
        secrets = [os.environ.get(f"AWS_{name}") for name in names]
        if self._keys is not None:
            secrets += [self._keys.secret_key, self._keys.session_token]
        urls = [value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")]
        urls += [self._endpoint_url or "", *urllib.request.getproxies_environment().values()]
        # A made-up key such as "test" is a word of ours, too.
        return [each for each in secrets if each and len(each) >= _SECRET] + [
            f":{password}@" for url in urls for password in _passwords(url)
        ]

    # --- what is installed ---

    async def _python(self) -> Finding:
        needs = await self._thread(lambda: metadata.metadata("novasonic")["Requires-Python"])
        return diagnosis.python(platform.python_version(), needs)

    async def _packages(self) -> Finding:
        failure = await self._thread(_load_bedrock)
        return await self._thread(lambda: diagnosis.packages(_lookup, failure=failure))

    async def _extras(self) -> Finding:
        def look() -> Finding:
            names = metadata.metadata("novasonic").get_all("Provides-Extra") or []
            return diagnosis.extras(names, _lookup)

        return await self._thread(look)

    # --- what is configured ---

    async def _locate(self) -> "Destination":
        from novasonic import bedrock  # noqa: PLC0415 - loads the AWS SDK, and has done so by now

        if self._there is None:
            async with asyncio.timeout(self._timeout):
                self._there = await bedrock.find_destination(
                    self._model.id,
                    region=self._region,
                    profile=self._profile,
                    endpoint_url=self._endpoint_url,
                )
        return self._there

    async def _credentials(self) -> Finding:
        from novasonic import bedrock  # noqa: PLC0415 - as above

        try:
            region = (await self._locate()).region
        except SonicError:  # the check of the region tells
            region = "us-east-1"
        try:
            async with asyncio.timeout(self._timeout):
                found = await bedrock.find_credentials(region, profile=self._profile, offline=self._offline)
        except CredentialsError as exc:
            return diagnosis.credentials_missing(exc)
        if found is None:
            return diagnosis.credentials_unasked(self._profile)
        self._keys, source, profile = found
        return diagnosis.credentials(self._keys, source=source, profile=profile, now=datetime.now(UTC))

    async def _region_and_endpoint(self) -> Finding:
        try:
            there = await self._locate()
        except SonicError as exc:
            return diagnosis.region_missing(exc)
        endpoint = there.host
        if there.endpoint_source != "AWS":
            endpoint = f"{there.host}:{there.port}, from {there.endpoint_source or '--endpoint-url'}"
        return diagnosis.region(
            there.region,
            source=there.region_source or "--region",
            endpoint=endpoint,
            model=self._model,
            offline=self._offline,
        )

    async def _proxy_on_the_way(self) -> Finding:
        from novasonic import bedrock  # noqa: PLC0415 - as above

        there = await self._locate()
        try:
            self._proxy = await self._thread(lambda: bedrock.find_proxy(there.host))
        except ConfigurationError as exc:
            return diagnosis.proxy_unusable(exc)
        address = f"{self._proxy.host}:{self._proxy.port}" if self._proxy else None
        return diagnosis.proxy(address, source=await self._thread(_proxy_source), endpoint=there.host)

    async def _ca_bundle(self) -> Finding:
        path = _bundle()
        return diagnosis.ca_bundle(None) if path is None else await self._thread(lambda: _read_bundle(path))

    # --- the network ---

    async def _dns(self) -> Finding:
        there, proxy = await self._locate(), self._proxy
        host = proxy.host if proxy else there.host
        started = time.monotonic()
        try:
            found = await self._thread(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (socket.gaierror, UnicodeError) as exc:  # the latter if it cannot be a name
            belongs_to: Literal["AWS", "proxy", "endpoint"] = (
                "proxy" if proxy else "AWS" if there.endpoint_source == "AWS" else "endpoint"
            )
            why = str(getattr(exc, "strerror", None) or exc)
            return diagnosis.unresolved(host, known=_is_final(exc), why=why, belongs_to=belongs_to)
        self._addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        return diagnosis.resolved(
            host,
            self._addresses,
            seconds=time.monotonic() - started,
            endpoint=there.host if proxy else None,
        )

    async def _connection(self) -> Finding:
        """Connect as Python does, which can say what is wrong, and as sessions do, which is what counts."""
        from novasonic import bedrock  # noqa: PLC0415 - as above

        there, bundle = await self._locate(), _bundle()
        way = _Way(there.host, there.port, self._proxy)
        started = time.monotonic()
        doubt: Exception | None = None
        tls = ""
        try:
            trust = await self._thread(lambda: _trust(bundle, "h2", "http/1.1"))
            trust_proxy = await self._thread(lambda: _trust(bundle))
            async with asyncio.timeout(self._timeout):
                tls, protocol = await way.shake_hands(self._addresses, trust, trust_proxy)
        except (OSError, EOFError, ProxyRefusedError) as exc:
            # Without a file of its own Python may know fewer certificates than the AWS library does.
            if bundle or not isinstance(exc, ssl.SSLCertVerificationError):
                return diagnosis.unconnected(exc, peer=way.peer, seconds=self._timeout, bundle=bundle)
            doubt = exc
        else:
            if protocol != "h2":
                return diagnosis.old_http(way.peer)
        seconds = time.monotonic() - started
        try:
            headers = await bedrock.knock(
                there.host, there.port, connecting=self._timeout, answering=_TO_ANSWER
            )
        except (SonicError, TimeoutError) as exc:
            if doubt is not None:
                return diagnosis.unconnected(doubt, peer=way.peer, seconds=self._timeout, bundle=bundle)
            return diagnosis.mistrusted(way.peer, exc)
        self._ahead = _ahead(headers)
        return diagnosis.connected(there.host, there.port, tls=tls or "TLS", seconds=seconds)

    async def _clock(self) -> Finding:
        return diagnosis.clock((await self._locate()).host, self._ahead)

    # --- a session, and sound ---

    async def _session(self) -> Finding:
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            session = SonicSession(
                retry=None,  # what fails is to be seen
                model=self._model,
                region=self._region,
                profile=self._profile,
                credentials=self._keys,
                endpoint_url=self._endpoint_url,
                open_timeout=self._timeout,
                close_timeout=min(_TO_CLOSE, self._timeout),
            )
        goodbye = False
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout + 2 * _TO_CLOSE):  # which it keeps to by itself
                async with session:
                    opened = time.monotonic()
                    await asyncio.sleep(_SILENCE)
                    closing = time.monotonic()
                closed = time.monotonic()
                async for event in session:
                    goodbye = isinstance(event, events.SessionEnded)
        except SonicError as exc:
            return diagnosis.session_failed(exc)
        return diagnosis.session(
            self._model.id,
            opened=opened - started,
            closed=closed - closing,
            tokens=session.usage.total,
            goodbye=goodbye,
            oddities=[str(each.message) for each in noticed],
        )

    async def _sound(self) -> Finding:
        try:
            with no_chatter():
                devices = await self._thread(list_devices)
        except TimeoutError:
            leave_at_exit()
            raise
        except (ImportError, SonicError) as exc:
            return diagnosis.sound_unavailable(exc)
        return diagnosis.sound(_usual(devices, "input"), _usual(devices, "output"))


async def _emulator(stack: AsyncExitStack, emulator: AbstractAsyncContextManager[str]) -> Finding:
    try:
        return diagnosis.emulator(await stack.enter_async_context(emulator))
    except SonicError as exc:
        return diagnosis.emulator_missing(exc)


# --- What a machine says, each in its thread ----------------------------------------------------------------


def _load_bedrock() -> str | None:
    """Load the AWS SDK; return why it cannot be."""
    try:
        importlib.import_module("novasonic.bedrock")
    except Exception as exc:  # noqa: BLE001 - another version of it may fail in any way
        return f"{type(exc).__name__}: {exc}"
    return None


def _lookup(name: str) -> tuple[str, Sequence[str]] | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return found.version, found.requires or ()


def _passwords(url: str) -> list[str]:
    """Return the password in an address, as it stands there and as it is meant."""
    try:
        password = urllib.parse.urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return []
    return [password, urllib.parse.unquote(password)] if password else []


def _proxy_source() -> str | None:
    """Return what sets a proxy; None if nothing does."""
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in ("https", "all") if proxies.get(kind)), None)
    names = (f"{kind}_proxy", f"{kind}_PROXY".upper())
    return kind and next((name for name in names if os.environ.get(name)), "the system's settings")


def _bundle() -> str | None:
    return os.environ.get("AWS_CA_BUNDLE") or None


def _read_bundle(path: str) -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return diagnosis.ca_bundle(path)
    except (OSError, ValueError) as exc:
        return diagnosis.ca_bundle(path, failure=str(getattr(exc, "strerror", None) or exc))
    return diagnosis.ca_bundle(path, certificates=context.cert_store_stats()["x509"])


def _trust(bundle: str | None, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=bundle)
    # From 3.13 on Python asks more of certificates than the AWS library does, and than many companies' have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def _is_final(exc: Exception) -> bool:
    """Return whether a failed lookup says that there is no such name."""
    final = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA")}
    return isinstance(exc, UnicodeError) or getattr(exc, "errno", None) in final


def _usual(devices: Sequence[Device], kind: DeviceKind) -> str | None:
    """Return the device that is used if none is chosen."""
    able = [device for device in devices if device.channels(kind)]
    found = next((device for device in able if device.is_default(kind)), able[0] if able else None)
    return f"{found.name}, {found.sample_rate} Hz" if found else None


def _ahead(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the clock of whoever sent these headers is ahead of ours."""
    try:
        date = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    return date.timestamp() + 0.5 - time.time()  # it tells whole seconds


# --- The way to an endpoint --------------------------------------------------------------------------------


class _Way:
    """The way to an endpoint, as Python's own library goes it. `peer` is who is being spoken to."""

    def __init__(self, host: str, port: int, proxy: "Proxy | None") -> None:
        self._host = host
        self._port = port
        self._proxy = proxy
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.peer = f"{proxy.host}:{proxy.port}" if proxy else self._target

    async def shake_hands(
        self, addresses: Sequence[str], trust: ssl.SSLContext, trust_proxy: ssl.SSLContext
    ) -> tuple[str, str | None]:
        """Connect, agree on TLS, and hang up; return the version of TLS and the protocol on top of it.

        Raises:
            OSError: If there is no connection, or no trust.
            EOFError: If the peer hangs up.
            ProxyRefusedError: If the proxy does not connect.
        """
        reader, writer = await self._reach(addresses)
        try:
            if self._proxy is not None:
                if self._proxy.secure:
                    await writer.start_tls(trust_proxy, server_hostname=self._proxy.host)
                await self._tunnel(reader, writer, self._proxy)
                self.peer = self._target
            await writer.start_tls(trust, server_hostname=self._host)
            agreed: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return agreed.version() or "TLS", agreed.selected_alpn_protocol()
        finally:
            writer.transport.abort()  # and no `wait_closed()`, which hears of nothing while TLS begins

    async def _reach(self, addresses: Sequence[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._proxy.port if self._proxy else self._port
        failure: OSError = ConnectionError()
        for address in addresses:
            try:
                async with asyncio.timeout(_ONE_ADDRESS):
                    return await asyncio.open_connection(address, port)
            except OSError as exc:  # TimeoutError is one
                failure = exc
        raise failure

    async def _tunnel(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, proxy: "Proxy"
    ) -> None:
        head = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if proxy.login:
            head.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.login.encode()).decode()}")
        writer.write("\r\n".join([*head, "", ""]).encode())
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as exc:
            raise ProxyRefusedError("with something that is not HTTP") from exc
        status = answer.partition(b"\r\n")[0].decode(errors="replace").partition(" ")[2]
        if not status.startswith("2"):
            raise ProxyRefusedError(status)
