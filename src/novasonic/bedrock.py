"""The way to Nova Sonic on Amazon Bedrock; the one module that imports the AWS SDK and its network library.

The SDK does what it does well: configuration, the chain of credentials, endpoints, signing the request. It
never opens the stream, because its duplex transport waits for ever where it should raise, and cannot tell a
lost stream from a finished one. The stream is one of HTTP/2, through the AWS CRT, on a connection of its own:

- Credentials, configuration and signing happen in a thread, where they may block; the event loop never does.
- `_Wire` is bytes over HTTP/2, with back-pressure both ways; `_Stream` is documents over it, the `Transport`.
- Whatever goes wrong comes out as one of `novasonic.errors`: `novasonic.failures` has the map.

Importing this module takes half a second: import it in a thread.
"""

# The CRT, botocore and the SDK's generated client bear no type information, or only half of it.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import asyncio
import copy
import functools
import inspect
import io
import logging
import os
import re
import threading
import time
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points, version
from typing import Any, Final

from aws_sdk_bedrock_runtime.client import AsyncBedrockRuntimeClient
from aws_sdk_bedrock_runtime.config import AsyncBedrockRuntimeConfig
from aws_sdk_bedrock_runtime.models import InvokeModelWithBidirectionalStreamOperationInput
from awscrt import http
from awscrt import io as crt
from smithy_aws_core.config import ConfigError, MergedConfig, load_config
from smithy_aws_core.identity import AWSCredentialsIdentity
from smithy_aws_core.identity.chain import IdentityChain, IdentityChainError, StandardProvider
from smithy_core.interceptors import Interceptor, OutputContext
from smithy_http.aio.aiohttp import AIOHTTPClient
from smithy_http.aio.interfaces import HTTPRequest

from novasonic import failures
from novasonic.credentials import Credentials, CredentialsSource
from novasonic.errors import ConfigurationError, ConnectError, CredentialsError, SonicError, TransportError
from novasonic.eventstream import ChunkSigner, FrameDecoder, decode_chunk, decode_failure
from novasonic.threads import in_thread
from novasonic.transport import Transport

__all__ = ["BedrockConnector", "Credentials", "CredentialsSource"]

logger = logging.getLogger("novasonic.bedrock")

# Frames handed to the CRT and not yet taken: half a second of 32 ms audio. More would only be late.
_UNWRITTEN: Final = 16

# Bytes that the service may send before the program reads: eleven seconds of speech (24 kHz, in base64 twice,
# is 90 kB/s). The service speaks at up to five times that speed, so the loop may be busy for two seconds
# before the service has to wait, and a round trip of 200 ms needs a tenth: no attentive reader is slowed.
_WINDOW: Final = 2**20

# TCP's own question whether the peer is there: after 3 s of silence, then twice, every 2 s, so that one that
# vanished shows within 7 s. While something is unacknowledged TCP does not ask: that is the watch's business.
_KEEP_ALIVE_AFTER, _KEEP_ALIVE_EVERY, _KEEP_ALIVE_PROBES = 3, 2, 2
_TCP_CONNECT: Final = 5.0  # seconds for one address, so that the usual ten leave room for a second one
_REFUSAL_PATIENCE: Final = 1.0  # seconds for the body of a refusal: the status alone says most of it
_CLOSE_PATIENCE: Final = 1.0  # seconds that `aclose()` waits for the connection to be gone
_TEXT_LIMIT: Final = 64 * 2**10  # bytes read of a refusal's body
_AGENT: Final = f"novasonic/{version('novasonic')}"


# --- Credentials -------------------------------------------------------------------------------------------


_Source = Callable[[], Credentials | Awaitable[Credentials]]


async def _ask(source: _Source) -> Credentials:
    """Return what a program's own source gives, whatever kind of callable it is."""
    name = getattr(source, "__qualname__", type(source).__name__)
    try:
        asynchronous = inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(
            type(source).__call__
        )
        given = source() if asynchronous else await _off_the_loop(source)
        found = await given if inspect.isawaitable(given) else given
    except SonicError:
        raise
    except Exception as exc:
        raise CredentialsError(f"credentials={name} raised {type(exc).__name__}: {exc}") from exc
    if not isinstance(found, Credentials):
        raise CredentialsError(f"credentials={name} returned {type(found).__name__}, not Credentials")
    return found


# Seconds that credentials must have left when a stream is to be opened with them: it takes up to ten until it
# is accepted, and to follow it up with another before they expire takes some more.
_LEAST_LIFE: Final = 60.0


def _left(expires_at: datetime) -> float:
    """Return the seconds until then."""
    return expires_at.timestamp() - _now() / 1000


def _spent(expires_at: datetime | None, hint: str = "") -> CredentialsError | None:
    """Return the error for credentials that expire too soon to open a stream with; None if they do not."""
    if expires_at is None or (left := _left(expires_at)) >= _LEAST_LIFE:
        return None
    when = f"{expires_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    said = f"expired at {when}" if left <= 0 else f"expire at {when}, too soon to open a stream with them"
    return CredentialsError(f"the AWS credentials {said}. {hint or failures.RENEW}")


class _Chain:
    """The usual places for credentials: botocore's if it is installed, else those that the SDK knows.

    They are looked through each time, unless botocore has found credentials that renew themselves.
    """

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._renewing: Any = None
        self._lock = threading.Lock()

    def find(self, region: str) -> Credentials:
        """Return credentials. Blocks, on files, programs and the network.

        Raises:
            CredentialsError: If there are none, or they could not be loaded.
        """
        try:
            import botocore.credentials  # noqa: PLC0415 - an extra
            import botocore.exceptions  # noqa: PLC0415 - as above
            import botocore.session  # noqa: PLC0415 - as above
        except ImportError:
            return asyncio.run(self._ask_sdk(region))
        with self._lock:  # keys and the time at which they expire belong together
            source, self._renewing = self._renewing, None
            try:
                if source is None:
                    session = botocore.session.Session(profile=self._profile)
                    session.set_config_variable("region", region)  # by itself it does not see AWS_REGION
                    source = session.get_credentials()
                keys = source and source.get_frozen_credentials()
            except Exception as exc:  # whatever its many sources raise
                its_own = isinstance(exc, botocore.exceptions.BotoCoreError)
                why = str(exc) if its_own else _described(exc)
                hint = f"They could not be renewed: {why.rstrip('.')}. {failures.RENEW}"
                raise _spent(_botocores_expiry(source), hint) or self._nothing(why) from exc
            if not keys or not keys.access_key:
                raise self._nothing("none in the environment, the profiles, a container or an EC2 role")
            if isinstance(source, botocore.credentials.RefreshableCredentials):
                self._renewing = source
            # It renews what expires within a quarter of an hour, and insists on it within ten minutes: they
            # outlast the eight minutes of a stream, unless their source gives them a shorter life.
            return Credentials(
                keys.access_key, keys.secret_key, keys.token, expires_at=_botocores_expiry(source)
            )

    async def _ask_sdk(self, region: str) -> Credentials:
        try:
            config = await load_config()
            _check_served(self._profile, config)
            async with AIOHTTPClient() as client:
                chain = await IdentityChain.create(
                    AWSCredentialsIdentity,
                    config_file=config,
                    profile_name=self._profile,
                    region_override=region,
                    http_client=client,
                )
                keys = await chain.get_identity(properties={})
        except CredentialsError:
            raise
        except IdentityChainError as exc:
            tried = "; ".join(f"{each.provider_name}: {each.error}" for each in exc.failures)
            none = f"none in the environment or the profile, and the role of an EC2 instance {_BOTO3}"
            raise self._nothing(tried or none) from exc
        except Exception as exc:  # whatever its sources raise
            raise self._nothing(_described(exc)) from exc
        if not keys.access_key_id:
            raise self._nothing("the access key is empty")
        expires_at = keys.expiration
        if keys.access_key_id == os.environ.get("AWS_ACCESS_KEY_ID"):
            expires_at = _environments_expiry()
        return Credentials(
            keys.access_key_id, keys.secret_access_key, keys.session_token, expires_at=expires_at
        )

    def _nothing(self, why: str) -> CredentialsError:
        profile = f" of profile {self._profile!r}" if self._profile else ""
        said = (
            f"no AWS credentials{profile}: {why.rstrip('.')}. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, run `aws configure` or `aws sso login`, or pass credentials=…"
        )
        if os.environ.get("AWS_BEARER_TOKEN_BEDROCK"):
            said += ". AWS_BEARER_TOKEN_BEDROCK does not help: Bedrock takes no API keys for speech"
        return CredentialsError(said)


def _botocores_expiry(source: object) -> datetime | None:
    """Return when credentials of botocore's expire, which has no public name; None if it does not know.

    For an EC2 role it may be a guess: where AWS is late with the next keys, it takes the old ones for longer.
    """
    return getattr(source, "_expiry_time", None)


def _environments_expiry() -> datetime | None:
    """Return when the keys of the environment expire: botocore looks there for it, and the SDK does not."""
    said = os.environ.get("AWS_CREDENTIAL_EXPIRATION")
    if not said:
        return None
    try:
        expires_at = datetime.fromisoformat(said)
    except ValueError:
        raise CredentialsError(
            f"AWS_CREDENTIAL_EXPIRATION={said!r} is no time; it looks like 2026-01-31T12:00:00Z"
        ) from None
    return expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)


def _described(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"


_BOTO3: Final = "needs botocore: pip install 'novasonic[boto3]'"

_SOURCES: Final = (
    # Variables and what a profile may say, in the order in which AWS's tools look, and what each asks for.
    ("AWS_ACCESS_KEY_ID", StandardProvider.ENVIRONMENT, "is a key"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", StandardProvider.WEB_IDENTITY_TOKEN_ENV, "takes a role by web identity"),
    ("web_identity_token_file", StandardProvider.PROFILE_WEB_IDENTITY, "takes a role by web identity"),
    ("role_arn", StandardProvider.PROFILE_ASSUME_ROLE, "takes a role"),
    ("aws_access_key_id", StandardProvider.PROFILE_STATIC_KEYS, "has a key"),
    ("sso_session", StandardProvider.PROFILE_SSO_SESSION, "signs in by SSO"),
    ("sso_start_url", StandardProvider.PROFILE_SSO_SESSION, "signs in by SSO"),
    ("login_session", StandardProvider.PROFILE_LOGIN, "signs in by `aws login`"),
    ("credential_process", StandardProvider.PROFILE_CREDENTIAL_PROCESS, "runs a program"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", StandardProvider.ECS_CONTAINER, "takes a container's role"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", StandardProvider.ECS_CONTAINER, "takes a container's role"),
)
_NOT_WITH_A_PROFILE: Final = {StandardProvider.ENVIRONMENT, StandardProvider.WEB_IDENTITY_TOKEN_ENV}


def _check_served(profile: str | None, config: MergedConfig) -> None:
    """Raise CredentialsError if credentials are asked for that neither the SDK nor a package for it can get.

    It passes over what it cannot get, and so may come up with others: with those of the machine, where the
    profile signs in by SSO.
    """
    name = profile or os.environ.get("AWS_PROFILE") or "default"
    for key, slot, asks in _SOURCES:
        variable = key.isupper()
        said = os.environ.get(key) if variable else config.get(name, key)
        if said and not (profile and slot in _NOT_WITH_A_PROFILE):
            providers = entry_points(group="smithy_aws_core.identity.chain_providers")
            if slot not in {provider.load()().ordering.slot for provider in providers}:
                raise CredentialsError(f"{key if variable else f'profile {name!r}'} {asks}, which {_BOTO3}")
            return


# --- The SDK's part ----------------------------------------------------------------------------------------


class _Preparation(Interceptor[Any, Any, Any, Any]):
    """Has the SDK sign a request: to the SDK it is the identity, the transport and a witness of failures.

    The SDK starts hidden tasks and, when one fails, waits for ever for the other. Here they live in an event
    loop of their own, which is closed, and they with it, as soon as the request is signed or has failed.
    """

    SUPPORTS_DUPLEX_STREAMING = True
    TIMEOUT_EXCEPTIONS: tuple[type[Exception], ...] = ()

    config: AsyncBedrockRuntimeConfig
    _identity: AWSCredentialsIdentity
    _signed: asyncio.Future[HTTPRequest]

    def __deepcopy__(self, memo: object) -> "_Preparation":
        return self  # the client copies its configuration, and this is the one that listens

    async def configure(self, *, profile: str | None, **overrides: str | None) -> AsyncBedrockRuntimeConfig:
        # An explicit None would override the environment.
        given: Any = {name: value for name, value in overrides.items() if value is not None}
        self.config = await AsyncBedrockRuntimeConfig.resolve(
            profile=profile,
            transport=self,
            interceptors=[self],
            aws_credentials_identity_resolver=self,
            user_agent_extra=_AGENT,
            **given,
        )
        return self.config

    async def sign(self, model: str, credentials: Credentials) -> HTTPRequest:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_ignore)  # the SDK drops a task that fails; its exception comes to `_fail`
        self._signed = loop.create_future()
        self._identity = AWSCredentialsIdentity(
            access_key_id=credentials.access_key,
            secret_access_key=credentials.secret_key,
            session_token=credentials.session_token,
        )
        call = asyncio.ensure_future(
            AsyncBedrockRuntimeClient(self.config).invoke_model_with_bidirectional_stream(
                InvokeModelWithBidirectionalStreamOperationInput(model_id=model)
            )
        )
        call.add_done_callback(lambda done: None if done.cancelled() else self._fail(done.exception()))
        return await self._signed

    async def get_identity(self, *, properties: Mapping[str, Any]) -> AWSCredentialsIdentity:  # noqa: ARG002 - the SDK passes it
        return self._identity

    async def invalidate(self) -> None:
        pass

    async def send(self, request: HTTPRequest) -> Any:  # noqa: ANN401 - it never returns
        """Take the request that the SDK has signed; what it waits for is closed under it."""
        if not self._signed.done():
            self._signed.set_result(request)
        await asyncio.Event().wait()

    def read_after_execution(self, context: OutputContext[Any, Any, Any, Any]) -> None:
        self._fail(context.response)

    def _fail(self, outcome: object) -> None:
        if isinstance(outcome, Exception) and not self._signed.done():
            self._signed.set_exception(outcome)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle what an event loop would log."""


_THREAD: Final = "novasonic-aws"


def _discreet(record: logging.LogRecord) -> bool:
    """Let nothing through that was logged in our threads at DEBUG."""
    return record.levelno > logging.DEBUG or record.threadName != _THREAD


# They write out session tokens: the SDK those of a request, botocore those that a role, SSO or a container
# gives it.
for _talker in (
    "smithy_core.aio.client",
    "botocore.auth",
    "botocore.endpoint",
    "botocore.parsers",
    "botocore.utils",
):
    logging.getLogger(_talker).addFilter(_discreet)


async def _off_the_loop[T](function: Callable[[], T]) -> T:
    """Return what `function` returns, called in a thread: a lookup may block, and hang."""
    return await in_thread(function, name=_THREAD)


# --- Addresses and trust -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A signed request: where it goes, and the first link for the signatures that follow it."""

    host: str
    port: int
    path: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    signature: str = field(repr=False)

    @classmethod
    def of(cls, signed: HTTPRequest) -> "_Request":
        """Return what the SDK has signed."""
        uri = signed.destination
        headers = [(entry.name, value) for entry in signed.fields for value in entry.values]
        if "host" not in signed.fields:  # the SDK signs it, and leaves it to the transport to send it
            headers.insert(0, ("host", uri.netloc))
        return cls(
            host=uri.host,
            port=uri.port or _HTTPS,
            path=f"{uri.path or '/'}{f'?{uri.query}' if uri.query else ''}",
            headers=headers,
            signature=signed.fields["Authorization"].as_string().rpartition("Signature=")[2],
        )


def _split(url: str) -> tuple[urllib.parse.SplitResult, int | None] | None:
    """Return an address and its port, or None if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return (parts, port) if parts.hostname else None


def _endpoint(url: str, source: str) -> str:
    """Return an endpoint that the SDK can sign for.

    Raises:
        ConfigurationError: If it is not an https address.
    """
    address = _split(url)
    if address is None or address[0].scheme != "https" or address[0].username or address[0].query:
        raise ConfigurationError(f"{source}={url!r} is not an endpoint; it looks like https://host:8443")
    parts, port = address
    host = (
        parts.netloc.removesuffix(f":{port}") if port == _HTTPS else parts.netloc
    )  # the signer chokes on :443
    return f"https://{host}{parts.path.rstrip('/')}"


_HTTPS: Final = 443


@functools.cache
def _bootstrap(pid: int) -> crt.ClientBootstrap:  # noqa: ARG001 - the key
    """Return the process's one CRT thread.

    A forked child has its own: the parent's does not run there, and stays referenced because ending it would
    wait for it.
    """
    group = crt.EventLoopGroup(1)
    return crt.ClientBootstrap(group, crt.DefaultHostResolver(group))


@functools.lru_cache(maxsize=8)
def _tls_context(pid: int, bundle: bytes | None) -> crt.ClientTlsContext:  # noqa: ARG001 - part of the key
    options = crt.TlsContextOptions()
    if bundle is not None:
        options.override_default_trust_store(bundle)
    return crt.ClientTlsContext(options)


def _trust() -> crt.ClientTlsContext:
    """Return the certificates to trust: the system's, or those of AWS_CA_BUNDLE. Blocks, on files.

    Raises:
        ConfigurationError: If the file cannot be read, or is no list of certificates.
    """
    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        return _tls_context(os.getpid(), None)
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - an embedded NUL is a ValueError here, as below
            return _tls_context(os.getpid(), file.read())
    except OSError as exc:
        raise ConfigurationError(f"AWS_CA_BUNDLE={path!r} cannot be read: {exc.strerror}") from exc
    except Exception as exc:  # the CRT raises what it likes
        raise ConfigurationError(f"AWS_CA_BUNDLE={path!r} holds no CA certificates in PEM format") from exc


def _proxy(host: str, trust: crt.ClientTlsContext) -> http.HttpProxyOptions | None:
    """Return the proxy that the environment wants for `host`.

    Raises:
        ConfigurationError: If HTTPS_PROXY is not an address.
    """
    proxies = urllib.request.getproxies()
    url = proxies.get("https") or proxies.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None
    address = _split(url if "://" in url else f"http://{url}")
    if address is None or address[0].scheme not in {"http", "https"}:
        # Not a word of what it is: it may hold a password.
        raise ConfigurationError(
            "HTTPS_PROXY is not the address of a proxy, such as http://proxy.example:3128"
        )
    parts, port = address
    name = str(parts.hostname)
    tls = None
    if parts.scheme == "https":
        tls = trust.new_connection_options()
        tls.set_server_name(name)
    kind = http.HttpProxyAuthenticationType
    return http.HttpProxyOptions(
        name,
        port or (_HTTPS if tls else 80),
        tls_connection_options=tls,
        auth_type=kind.Basic if parts.username else kind.Nothing,
        auth_username=urllib.parse.unquote(parts.username) if parts.username else None,
        auth_password=urllib.parse.unquote(parts.password or "") if parts.username else None,
        connection_type=http.HttpProxyConnectionType.Tunneling,
    )


# --- The stream --------------------------------------------------------------------------------------------


def _name(exc: BaseException) -> str:
    """Return the CRT's name for a failure, without the prefixes of its libraries."""
    return re.sub(r"^AWS_(ERROR_HTTP_|ERROR_|IO_)", "", getattr(exc, "name", "") or type(exc).__name__)


_Outcome = Any  # a concurrent.futures.Future of the CRT, which says nothing about what is in it


class _Wire:
    """One HTTP/2 stream on a connection of its own: bytes both ways, with back-pressure both ways.

    Everything runs on the event loop, but for the methods `_on_…`, which the CRT calls in its thread. Those
    touch only deques and flags, and wake the loop only when somebody waits: wake-ups are most of the cost.
    """

    def __init__(self, *, stall_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.head: asyncio.Future[tuple[int, dict[str, str]]] = self._loop.create_future()
        self._stall_timeout = stall_timeout
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._connection: http.Http2ClientConnection | None = None
        self._stream: http.Http2ClientStream | None = None
        self._inbox: deque[bytes] = deque()
        self._arrived, self._hungry = asyncio.Event(), False
        self._consumed = 0  # bytes read, but not yet given back to the window
        self._unwritten: deque[float] = deque()  # when each frame was handed to the CRT
        self._room, self._blocked = asyncio.Event(), False
        self._watch: asyncio.TimerHandle | None = None
        self._over = self._hung_up = False
        self._why: TransportError | None = None  # None, when over: the service ended the stream in good order

    async def connect(
        self, request: _Request, trust: crt.ClientTlsContext, proxy: http.HttpProxyOptions | None
    ) -> None:
        """Connect and send the request's head.

        Raises:
            ConnectError: If there is no connection.
            StreamLostError: If it was lost at once.
        """
        connected: asyncio.Future[None] = self._loop.create_future()
        tls = trust.new_connection_options()
        tls.set_server_name(request.host)
        # HTTP/1.1 is of no use, but offering it turns a refused handshake into an answer that says so.
        tls.set_alpn_list(["h2", "http/1.1"])
        options = crt.SocketOptions()
        options.connect_timeout_ms = int(_TCP_CONNECT * 1000)
        options.keep_alive = True
        # By what they do to the socket: "interval" is TCP_KEEPIDLE, "timeout" is TCP_KEEPINTVL.
        options.keep_alive_interval_secs = _KEEP_ALIVE_AFTER
        options.keep_alive_timeout_secs = _KEEP_ALIVE_EVERY
        options.keep_alive_max_probes = _KEEP_ALIVE_PROBES
        http.Http2ClientConnection.new(
            request.host,
            request.port,
            bootstrap=_bootstrap(os.getpid()),
            socket_options=options,
            tls_connection_options=tls,
            proxy_options=proxy,
            manual_window_management=True,
            initial_window_size=_WINDOW,
        ).add_done_callback(functools.partial(self._on_connected, connected))
        try:
            await connected
        except Exception as exc:
            raise failures.unreachable(request.host, _name(exc)) from exc
        if self._connection is None:  # hung up meanwhile
            raise failures.lost("CLOSED_LOCALLY")
        head = http.HttpRequest("POST", request.path, http.HttpHeaders(list(request.headers)))
        try:
            self._stream = self._connection.request(head, self._on_head, self._on_body, manual_write=True)
            self._stream.remote_end_stream_future.add_done_callback(self._on_remote_end)
            self._stream.completion_future.add_done_callback(self._on_complete)
            self._stream.activate()
        except Exception as exc:  # closed meanwhile
            raise failures.lost(_name(exc)) from exc

    async def ready(self) -> None:
        """Wait until a frame may be written.

        It is the only wait on the sending side, so that whoever signs after it can neither be cancelled nor
        overtaken between signing and writing.

        Raises:
            StreamLostError: If the stream is over.
        """
        while not self._over and len(self._unwritten) >= _UNWRITTEN:
            self._room.clear()
            self._blocked = True
            if len(self._unwritten) >= _UNWRITTEN:  # still: it may have changed before the flag was up
                await self._room.wait()
        if self._over:
            raise copy.copy(self._why) if self._why else failures.lost("ENDED_BY_SERVICE")

    def write(self, data: bytes | None) -> None:
        """Hand a frame to the CRT, or None to end our side; without effect once the stream is over."""
        if self._over or self._stream is None:
            return
        self._unwritten.append(self._loop.time())
        if self._watch is None:
            self._watch = self._loop.call_later(self._stall_timeout, self._check_progress)
        try:
            written = self._stream.write_data(io.BytesIO(data) if data else None, end_stream=data is None)
        except Exception as exc:  # noqa: BLE001 - the CRT raises what it likes
            # The stream has completed meanwhile, and the reason is on its way. The frame counts as unwritten:
            # should no reason come, the watch sees to it.
            logger.debug("a frame was not taken: %s", _name(exc))
        else:
            written.add_done_callback(self._on_written)

    async def read(self) -> bytes | None:
        """Return what has come next, or None after a good end. Cancelling loses nothing.

        Raises:
            StreamLostError: If the stream ended in any other way.
        """
        while not self._inbox:
            if self._over:
                if self._why:
                    raise copy.copy(self._why)
                return None
            self._arrived.clear()
            self._hungry = True
            if not self._inbox:  # still: it may have come before the flag was up
                await self._arrived.wait()
        data = self._inbox.popleft()
        self._consumed += len(data)
        if self._consumed >= _WINDOW // 4 and self._stream is not None and not self._over:
            self._stream.update_window(self._consumed)
            self._consumed = 0
        return data

    def condemn(self, why: TransportError) -> None:
        """End the stream for the reason that the service gave: it is worth more than how it then ended."""
        self._finish(why)
        self._why = why

    def hang_up(self) -> None:
        """Give up the stream and its connection, at once and in any state."""
        self._finish(failures.lost("CLOSED_LOCALLY"))
        # The stream knows this object, and this object the stream: let go, or neither is ever freed.
        connection, self._connection, self._stream = self._connection, None, None
        if connection is not None:
            connection.close().add_done_callback(self._on_closed)
        elif not self._hung_up:
            self._settle_gone()
        self._hung_up = True

    async def gone(self, patience: float) -> None:
        """Wait until the connection is gone, after `hang_up()`, but no longer than `patience` seconds."""
        await asyncio.wait({self._gone}, timeout=patience)

    def _settle_gone(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    def _finish(self, why: TransportError | None) -> None:
        """Take the first reason for the end; later ones are its consequences."""
        if self._over:
            return
        self._over, self._why = True, why
        if self._watch is not None:
            self._watch.cancel()
        if not self.head.done():
            self.head.set_exception(copy.copy(why) if why else failures.lost("ENDED_WITHOUT_RESPONSE"))
            self.head.exception()  # seen: nobody need be waiting
        self._arrived.set()
        self._room.set()
        logger.debug("the stream is over: %s", why.code if why else "ended by the service")

    def _check_progress(self) -> None:
        """Hang up if the oldest frame has waited too long for the service to take it."""
        self._watch = None
        try:
            left = self._unwritten[0] + self._stall_timeout - self._loop.time()
        except IndexError:
            return
        if left > 0:
            self._watch = self._loop.call_later(left, self._check_progress)
        else:
            self._finish(failures.lost("PEER_STALLED"))
            self.hang_up()

    def _post(self, function: Callable[..., None], *args: object) -> bool:
        """Call on the event loop; False if that is closed, and nobody listens any more."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def _on_connected(self, connected: asyncio.Future[None], outcome: _Outcome) -> None:
        if not self._post(self._take_connection, connected, outcome) and outcome.exception() is None:
            outcome.result().close()

    def _take_connection(self, connected: asyncio.Future[None], outcome: _Outcome) -> None:
        failure = outcome.exception()
        if connected.done():  # cancelled: nobody waits for it any more
            if failure is None:
                outcome.result().close()
        elif failure is not None:
            connected.set_exception(failure)
        else:
            self._connection = outcome.result()
            connected.set_result(None)

    def _on_head(self, *, status_code: int, headers: Sequence[tuple[str, str]], **_: object) -> None:
        self._post(self._take_head, status_code, {name.lower(): value for name, value in headers})

    def _take_head(self, status: int, headers: dict[str, str]) -> None:
        if not self.head.done():
            self.head.set_result((status, headers))

    def _on_body(self, *, chunk: bytes, **_: object) -> None:
        self._inbox.append(bytes(chunk))
        if self._hungry:  # whoever is woken and still has to wait raises the flag again
            self._hungry = False
            self._post(self._arrived.set)

    def _on_remote_end(self, outcome: _Outcome) -> None:
        if outcome.exception() is None:
            self._post(self._finish, None)

    def _on_complete(self, outcome: _Outcome) -> None:
        failure = outcome.exception()
        self._post(self._finish, failure and failures.lost(_name(failure)))

    def _on_closed(self, _: object) -> None:
        self._post(self._settle_gone)

    def _on_written(self, _: object) -> None:
        self._unwritten.popleft()
        if self._blocked:
            self._blocked = False
            self._post(self._room.set)


class _Stream:
    """An open stream of documents: the `Transport` that a `BedrockConnector` returns."""

    def __init__(self, wire: _Wire, signer: ChunkSigner, where: str, expires_at: datetime | None) -> None:
        self.request_id: str | None = None
        self.expires_in: float | None = None
        self._expires_at = expires_at
        self._wire = wire
        self._signer = signer
        self._where = where
        self._decoder = FrameDecoder()
        self._failure: TransportError | None = None

    async def open(self, first: Sequence[bytes]) -> None:
        """Send the first documents and wait until the service has accepted the stream."""
        for document in first:  # without waiting: the service answers only after it has read them
            self._write(document)
        status, headers = await self._wire.head
        self.request_id = headers.get("x-amzn-requestid")
        if status != 200:  # noqa: PLR2004 - HTTP's own number
            raise failures.refused_by_http(self._where, status, headers, await self._read_refusal())
        if self._expires_at is not None:
            self.expires_in = max(0.0, _left(self._expires_at))

    async def send(self, data: bytes) -> None:
        """Send one document; see `Transport`."""
        await self._wire.ready()
        self._write(data)

    def _write(self, document: bytes) -> None:
        # Signed and handed over in one go, without a wait: each signature rests on the one before.
        self._wire.write(self._signer.sign(document, at=_now()))

    async def receive(self) -> bytes | None:
        """Return the next document; see `Transport`."""
        while self._failure is None:
            if (frame := self._decoder.next_frame()) is None:
                data = await self._wire.read()
                if data is None:
                    self._decoder.end()
                    return None
                self._decoder.feed(data)
            elif (document := decode_chunk(frame)) is not None:
                return document
            elif (failure := decode_failure(frame)) is not None:
                self._failure = failures.refused(
                    self._where, failure.code, failure.message, id_=self.request_id
                )
                self._wire.condemn(self._failure)
            else:
                logger.debug("skipped a frame of an unknown type: %s", frame.headers.get(":event-type"))
        raise copy.copy(self._failure)

    async def end_input(self) -> None:
        """Say that nothing more will be sent; see `Transport`."""
        if not self._signer.ended:
            self._wire.write(self._signer.end(at=_now()))
            self._wire.write(None)

    async def aclose(self) -> None:
        """Give up the stream; see `Transport`."""
        self._wire.hang_up()
        await self._wire.gone(_CLOSE_PATIENCE)

    async def _read_refusal(self) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(_REFUSAL_PATIENCE):
                while len(body) < _TEXT_LIMIT and (data := await self._wire.read()) is not None:
                    body += data
        except (TimeoutError, TransportError):
            logger.debug("the body of a refusal did not come in full")
        return bytes(body)


def _now() -> int:
    return time.time_ns() // 1_000_000


# --- The connector -----------------------------------------------------------------------------------------


class BedrockConnector:
    """Opens streams to one model: a `novasonic.transport.Connector`. Constructing it does no I/O.

    Where no argument says otherwise, region, endpoint, profile, CA certificates and proxy are those of the
    environment and of `~/.aws`, as for every AWS SDK: AWS_PROFILE, AWS_REGION, AWS_CA_BUNDLE, HTTPS_PROXY,
    NO_PROXY, AWS_ENDPOINT_URL_BEDROCK_RUNTIME.

    Args:
        model: The model's id.
        region: The AWS region, `us-east-1`.
        profile: A profile of `~/.aws`, for region, endpoint and credentials.
        credentials: Credentials, or a callable that returns them. Without it: the environment, the profile,
            and, with the extra `boto3`, whatever else botocore knows: SSO, roles, containers, EC2. See
            `CredentialsSource` for when it is asked.
        endpoint_url: Another endpoint than the region's own, `https://…`.
        stall_timeout: Seconds for which the service may leave unread what we send, before the stream is lost.
            It takes 1.5 s of speech to fill its window, so a peer that vanished is missed within five.

    Raises:
        ConfigurationError: If an argument cannot be right.
    """

    def __init__(
        self,
        model: str,
        *,
        region: str | None = None,
        profile: str | None = None,
        credentials: CredentialsSource | None = None,
        endpoint_url: str | None = None,
        stall_timeout: float = 3.0,
    ) -> None:
        if not model:
            raise ConfigurationError("model is empty; it looks like 'amazon.nova-2-sonic-v1:0'")
        if credentials is not None and not isinstance(credentials, Credentials) and not callable(credentials):
            raise ConfigurationError(
                f"credentials is a {type(credentials).__name__}; pass Credentials, or a callable that "
                "returns them"
            )
        self._model = model
        self._region = region
        self._profile = profile
        self._source = credentials
        self._chain = _Chain(profile)
        self._known: Credentials | None = None  # what the source gave last
        self._endpoint = endpoint_url and _endpoint(endpoint_url, "endpoint_url")
        self._stall_timeout = stall_timeout

    async def __call__(self, first: Sequence[bytes], *, timeout: float = 10.0) -> Transport:  # noqa: ASYNC109
        """Open a stream, send `first` on it, and return once the service has accepted it.

        Cancelling leaves nothing behind. A blocking lookup of credentials goes on in its thread, unheard.

        Args:
            first: The documents that open a session.
            timeout: Seconds for all of it.

        Raises:
            ConfigurationError: If there is no region, or if the environment names an endpoint, a proxy, a
                profile or a CA file that cannot be used.
            CredentialsError: If there are no credentials, they have expired or will within a minute, or the
                service does not accept them.
            TransportError: If the stream could not be opened; the class and the message say why.
        """
        wire = _Wire(stall_timeout=self._stall_timeout)
        late: TransportError = ConnectError(
            f"the AWS configuration could not be read within {timeout:g} s. Try again.", code="TIMEOUT"
        )
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                preparation = _Preparation()
                region = await _off_the_loop(lambda: self._configure(preparation))
                late = CredentialsError(
                    f"no AWS credentials within {timeout:g} s: {self._describe_source()} did not answer"
                )
                credentials = await self._find_credentials(region, timeout)
                request, trust, proxy = await _off_the_loop(lambda: self._prepare(preparation, credentials))
                late = ConnectError(
                    f"no connection to {request.host} within {timeout:g} s. "
                    f"{failures.REACH} {failures.TRUST}",
                    code="TIMEOUT",
                )
                logger.debug("connecting to %s:%d for %s", request.host, request.port, self._model)
                await wire.connect(request, trust, proxy)
                late = ConnectError(
                    f"{request.host} took the connection, but did not accept a stream within {timeout:g} s. "
                    "Try again.",
                    code="TIMEOUT",
                )
                signer = ChunkSigner(
                    secret_key=credentials.secret_key, region=region, signature=request.signature
                )
                stream = _Stream(wire, signer, f"{self._model} in {region}", credentials.expires_at)
                await stream.open(first)
        except BaseException as exc:
            wire.hang_up()
            if deadline.expired() and isinstance(exc, TimeoutError):
                raise late from None
            raise
        logger.debug("a stream is open: request %s", stream.request_id)
        return stream

    def _configure(self, preparation: _Preparation) -> str:
        """Resolve the AWS configuration and return its region. Blocks, on files."""
        try:
            config = asyncio.run(
                preparation.configure(profile=self._profile, region=self._region, endpoint_uri=self._endpoint)
            )
        except ConfigError as exc:
            hint = "Pass region='us-east-1', or set AWS_REGION." if "region" in str(exc) else ""
            raise ConfigurationError(f"the AWS configuration cannot be used: {exc} {hint}".strip()) from exc
        if config.endpoint_uri is not None:
            config.endpoint_uri = _endpoint(str(config.endpoint_uri), "the endpoint of the AWS configuration")
        return str(config.region)

    def _prepare(
        self, preparation: _Preparation, credentials: Credentials
    ) -> tuple[_Request, crt.ClientTlsContext, http.HttpProxyOptions | None]:
        """Return the signed request and the way to go with it. Blocks, on files."""
        try:
            request = _Request.of(asyncio.run(preparation.sign(self._model, credentials)))
        except Exception as exc:
            raise ConfigurationError(f"no request could be made for model {self._model!r}: {exc}") from exc
        trust = _trust()
        return request, trust, _proxy(request.host, trust)

    async def _find_credentials(self, region: str, timeout: float) -> Credentials:  # noqa: ASYNC109 - the caller's
        hint = ""
        match self._source:
            case Credentials() as found:
                hint = "Pass a callable as credentials: it is asked for fresh ones whenever a stream opens."
            case source:
                found = await self._ask_source(source, region, timeout)
                if _spent(found.expires_at):  # a source may notice it when asked, and renew them then
                    found = await self._ask_source(source, region, timeout)
        if (error := _spent(found.expires_at, hint)) is not None:
            raise error
        return found

    async def _ask_source(
        self,
        source: _Source | None,
        region: str,
        timeout: float,  # noqa: ASYNC109 - the caller's
    ) -> Credentials:
        """Return what the source gives; if it fails, what it gave last, unless that has expired.

        A conversation does not end because a vault is away for a moment; half the time is for noticing it.
        """
        known = None if self._known is None or _spent(self._known.expires_at) else self._known
        try:
            async with asyncio.timeout(timeout / 2 if known else None):
                if source is None:
                    self._known = await _off_the_loop(lambda: self._chain.find(region))
                else:
                    self._known = await _ask(source)
        except (SonicError, TimeoutError) as exc:
            if known is None:
                raise
            why = exc if isinstance(exc, SonicError) else f"{self._describe_source()} did not answer"
            logger.warning("no new AWS credentials, so the last ones are used while they are good: %s", why)
            return known
        return self._known

    def _describe_source(self) -> str:
        if self._source is None:
            return f"profile {self._profile!r}" if self._profile else "the usual places"
        return f"credentials={getattr(self._source, '__qualname__', type(self._source).__name__)}"


# --- What `novasonic doctor` asks ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a connector's streams go, and who says so.

    Attributes:
        region: The AWS region.
        region_source: The variable or the profile that names it; None if the caller does.
        host: The endpoint.
        port: Its port.
        endpoint_source: As `region_source`; "AWS" where it is the region's own.
    """

    region: str
    region_source: str | None
    host: str
    port: int
    endpoint_source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The proxy on the way to an endpoint. `secure`: it speaks TLS. `login`: `user:password`, or nothing."""

    host: str
    port: int
    secure: bool
    login: str = field(repr=False)


async def find_destination(
    model: str, *, region: str | None, profile: str | None, endpoint_url: str | None
) -> Destination:
    """Return where a `BedrockConnector` of the same arguments connects to, without connecting.

    Raises:
        ConfigurationError: If there is no region, or the profile or the endpoint cannot be used.
    """
    connector = BedrockConnector(model, region=region, profile=profile, endpoint_url=endpoint_url)
    preparation = _Preparation()
    configure = connector._configure  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - of this file
    found = await _off_the_loop(lambda: configure(preparation))
    own_endpoint = preparation.config.endpoint_uri is None
    nobody = Credentials("nobody", "nothing")  # for a request that is signed and not sent
    try:
        request = _Request.of(await _off_the_loop(lambda: asyncio.run(preparation.sign(model, nobody))))
    except Exception as exc:  # as for a request that is sent
        raise ConfigurationError(f"no request could be made for model {model!r}: {exc}") from exc
    variables = ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL")
    return Destination(
        region=found,
        region_source=_source(region, ("AWS_REGION", "AWS_DEFAULT_REGION"), profile),
        host=request.host,
        port=request.port,
        endpoint_source="AWS" if own_endpoint else _source(endpoint_url, variables, profile),
    )


def _source(given: str | None, variables: Sequence[str], profile: str | None) -> str | None:
    """Return what says a setting, in the order in which the SDK looks; None if the caller does."""
    if given is not None:
        return None
    return next((name for name in variables if os.environ.get(name)), f"profile {_profile(profile)!r}")


def _profile(given: str | None) -> str:
    return given or os.environ.get("AWS_PROFILE") or "default"


async def find_credentials(
    region: str, *, profile: str | None, offline: bool
) -> tuple[Credentials, str, str] | None:
    """Return the credentials that a `BedrockConnector` finds, what gives them, and the name of the profile.

    What gives them is botocore's word for it, if they are renewed by botocore; or else "env" or "profile".

    Args:
        region: For sources that are services of AWS.
        profile: Of the AWS configuration files; None for the usual one.
        offline: Ask nobody, and look only at keys that stand in the environment or in the profile. None is
            returned where there are none.

    Raises:
        CredentialsError: If there are none, or they could not be loaded.
    """
    chain = _Chain(profile)
    keys = await _off_the_loop(lambda: _written_down(profile) if offline else chain.find(region))
    if keys is None:
        return None
    renewing = chain._renewing  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - of this file
    plain = "env" if keys.access_key == os.environ.get("AWS_ACCESS_KEY_ID") else "profile"
    return keys, str(getattr(renewing, "method", None) or plain), _profile(profile)


def _written_down(profile: str | None) -> Credentials | None:
    """Return the keys in the environment or in the profile, or None. Blocks, on files."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and not profile:
        return Credentials(
            key, secret, os.environ.get("AWS_SESSION_TOKEN"), expires_at=_environments_expiry()
        )
    try:
        files = asyncio.run(load_config())
    except ConfigError as exc:
        raise CredentialsError(f"no AWS credentials: {exc}") from exc
    say = functools.partial(files.get, _profile(profile))
    key, secret, token = (
        say(f"aws_{name}") for name in ("access_key_id", "secret_access_key", "session_token")
    )
    return Credentials(str(key), str(secret), token and str(token)) if key and secret else None


def find_proxy(host: str) -> Proxy | None:
    """Return the proxy that the environment wants for `host`.

    Raises:
        ConfigurationError: If HTTPS_PROXY is not an address.
    """
    options = _proxy(host, _tls_context(os.getpid(), None))
    if options is None:
        return None
    named = options.auth_username is not None
    return Proxy(
        host=options.host_name,
        port=options.port,
        secure=options.tls_connection_options is not None,
        login=f"{options.auth_username}:{options.auth_password}" if named else "",
    )


async def knock(host: str, port: int, *, connecting: float, answering: float) -> Mapping[str, str]:
    """Make an unsigned request of an endpoint, the way that streams go; return the headers of the refusal.

    None are returned if the connection came about, but no answer. Cancelling hangs up.

    Args:
        host: The endpoint.
        port: Its port.
        connecting: Seconds to wait for a connection.
        answering: Seconds to wait for the answer.

    Raises:
        ConfigurationError: If the environment names a proxy or a CA file that cannot be used.
        ConnectError: If there is no connection.
        StreamLostError: If it was lost at once.
        TimeoutError: If it does not come in time.
    """
    wire = _Wire(stall_timeout=answering)
    name = f"[{host}]" if ":" in host else host
    headers = [("host", name if port == _HTTPS else f"{name}:{port}"), ("user-agent", _AGENT)]
    request = _Request(host=host, port=port, path="/", headers=headers, signature="")
    try:
        async with asyncio.timeout(connecting):
            trust = await _off_the_loop(_trust)
            await wire.connect(request, trust, await _off_the_loop(lambda: _proxy(host, trust)))
        wire.write(None)
        await asyncio.wait({wire.head}, timeout=answering)
        answered = wire.head.done() and wire.head.exception() is None
        return wire.head.result()[1] if answered else {}
    finally:
        wire.hang_up()
