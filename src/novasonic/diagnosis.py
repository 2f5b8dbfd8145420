"""What `novasonic doctor` finds, what it means, and how it is shown. No I/O: `novasonic.doctor` asks.

Each function that returns a `Finding` is told what was found out about one thing. A `Report` puts findings
together: a check that needs another is skipped when that has failed, so that the cause is what says "failed".
"""

import re
import ssl
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from novasonic import failures, models, requirements
from novasonic.credentials import Credentials
from novasonic.errors import (
    AccessDeniedError,
    CredentialsError,
    InvalidRequestError,
    ModelNotFoundError,
    SonicError,
    TransportError,
)
from novasonic.requirements import Lookup

State = Literal["ok", "warning", "failed", "skipped"]

Name = Literal[
    "Python",
    "Packages",
    "Extras",
    "Emulator",
    "Credentials",
    "Region",
    "Proxy",
    "CA bundle",
    "DNS",
    "Connection",
    "Clock",
    "Session",
    "Sound",
]

NEEDS: Final[Mapping[Name, tuple[Name, ...]]] = {
    "Python": (),
    "Packages": (),
    "Extras": (),
    "Emulator": (),
    "Credentials": ("Packages", "Emulator"),
    "Region": ("Packages", "Emulator"),
    "Proxy": ("Region",),  # which may be for some hosts only
    "CA bundle": ("Emulator",),
    "DNS": ("Region", "Proxy"),
    "Connection": ("DNS", "CA bundle"),
    "Clock": ("Connection",),
    "Session": ("Credentials", "Clock"),
    "Sound": (),
}
"""The checks, in their order, and what must not have failed for each to be worth asking."""

_ON_THE_NETWORK: Final = frozenset[Name]({"DNS", "Connection", "Clock", "Session"})

_VERBOSE: Final = "`novasonic doctor --verbose` shows where."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a check.

    Attributes:
        name: Of the check.
        state: "failed" is for what keeps sessions from working.
        found: What was found, in one line.
        hint: What to do about it; or nothing. Several hints stand in lines of their own.
        cause: The check whose failure this one is likely to be, or is skipped for.
    """

    name: Name
    state: State
    found: str
    hint: str = ""
    cause: Name | None = None


def _ok(name: Name, found: str, hint: str = "") -> Finding:
    return Finding(name=name, state="ok", found=found, hint=hint)


def _warning(name: Name, found: str, hint: str = "") -> Finding:
    return Finding(name=name, state="warning", found=found, hint=hint)


def _failed(name: Name, found: str, hint: str, cause: Name | None = None) -> Finding:
    return Finding(name=name, state="failed", found=found, hint=hint, cause=cause)


def _skipped(name: Name, found: str, hint: str = "", cause: Name | None = None) -> Finding:
    return Finding(name=name, state="skipped", found=found, hint=hint, cause=cause)


class Report:
    """The findings so far.

    Args:
        offline: Whether nothing that goes over the network is asked.
    """

    def __init__(self, *, offline: bool = False) -> None:
        self._offline = offline
        self._findings: dict[Name, Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, in the order of the checks."""
        return tuple(self._findings.values())

    def excuse(self, name: Name) -> Finding | None:
        """Return why a check need not be asked, or None if it must."""
        for need in NEEDS[name]:
            found = self._findings.get(need)
            if found is None:
                continue
            if found.state == "failed":
                return _skipped(name, f"needs {need}", cause=need)
            if found.state == "skipped" and found.cause is not None:
                return _skipped(name, f"needs {found.cause}", cause=found.cause)
        if self._offline and name in _ON_THE_NETWORK:
            return _skipped(name, "not asked, because of --offline")
        return None

    def add(self, finding: Finding) -> None:
        """Take a finding in. One failure that is likely another's consequence is put down to that."""
        cause = self._findings.get(finding.cause) if finding.cause else None
        if finding.state == "failed" and cause is not None:
            if cause.state in {"warning", "failed"}:
                self._findings[cause.name] = replace(cause, state="failed")
                finding = replace(
                    finding, state="skipped", found=f"{finding.found}; see {cause.name}", hint=""
                )
            else:
                finding = replace(finding, cause=None)
        self._findings[finding.name] = finding


def has_failed(findings: Sequence[Finding]) -> bool:
    """Return whether something keeps sessions from working."""
    return any(finding.state == "failed" for finding in findings)


def redacted(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Return a finding without any of the secrets: a program, or a library, may put one into its words."""
    return replace(finding, found=without(finding.found, secrets), hint=without(finding.hint, secrets))


def without(text: str, secrets: Sequence[str]) -> str:
    """Return a text without any of the secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, "[secret]")
    return text


# --- Anything ----------------------------------------------------------------------------------------------

# What the library's errors say to do begins in one of these ways.
_HINTS: Final = tuple(
    {
        meaning.hint
        for meaning in (*failures.ERRORS.values(), *failures.NETWORK.values(), *dict(failures.TEXTS).values())
        if meaning.hint
    }
    | {"Set AWS_ACCESS_KEY_ID", "Pass region="}
)


def _split(sentence: str) -> tuple[str, str]:
    """Return what an error says that happened, and what it says to do."""
    at = min((at for hint in _HINTS if (at := sentence.find(hint)) > 0), default=len(sentence))
    return sentence[:at].rstrip(" ."), sentence[at:]


def too_late(name: Name, seconds: float) -> Finding:
    """The answer to a check did not come in time."""
    found = f"no answer within {seconds:g} s"
    match name:
        case "Sound":  # which no session needs
            return _warning(name, found, "The sound system hangs: restart it, or this machine.")
        case "Credentials":
            hint = "See what provides them: a program, a login or a container may hang."
        case "DNS":
            hint = failures.REACH
        case _:
            hint = "Try again, with a longer --timeout."
    return _failed(name, found, hint)


def broken(name: Name, exc: Exception) -> Finding:
    """The check itself went wrong."""
    return _failed(name, f"{type(exc).__name__}: {exc}", _VERBOSE)


# --- What is installed -------------------------------------------------------------------------------------

EXTRAS: Final[Mapping[str, str]] = {
    "aec": "echo cancellation",
    "boto3": "SSO, roles, containers, EC2",
    "cli": "demo, talk, colours",
    "devices": "microphones, loudspeakers",
    "emulator": "Bedrock on localhost",
    "files": "FLAC, Ogg, MP3",
    "picture": "recordings as PNG",
    "testing": "tests of your own",
}
"""What each extra is for."""

_SHOWN: Final = ("novasonic", "aws-sdk-bedrock-runtime", "awscrt")


def python(version: str, needs: str) -> Finding:
    """The version of Python, and what novasonic says about it."""
    if requirements.satisfies(version, needs):
        return _ok("Python", version)
    return _failed("Python", f"{version}, but novasonic needs {needs}", f"Install Python {needs}.")


def packages(lookup: Lookup, *, failure: str | None) -> Finding:
    """What novasonic needs is there or not, and can be loaded or not: `failure` says why it cannot."""
    unmet = list(requirements.unmet(lookup, "novasonic"))
    if unmet:
        return _failed(
            "Packages",
            "; ".join(map(str, unmet)),
            f"pip install {' '.join(repr(each.text) for each in unmet)}",
        )
    if failure is not None:
        return _failed(
            "Packages", f"the AWS SDK cannot be loaded: {failure}", "pip install --force-reinstall novasonic"
        )
    shown = [f"{name} {found[0]}" for name in _SHOWN if (found := lookup(name))]
    return _ok("Packages", ", ".join(shown))


def extras(names: Sequence[str], lookup: Lookup) -> Finding:
    """Which of the extras are there. A missing one is no failure."""
    there, wrong, hints = list[str](), list[str](), list[str]()
    for name in names:
        what = f"{name} ({EXTRAS[name]})" if name in EXTRAS else name
        unmet = list(requirements.unmet(lookup, "novasonic", name))
        if not unmet:
            there.append(what)
            continue
        if all(each.version for each in unmet):
            wrong += map(str, unmet)
        hints.append(f"pip install 'novasonic[{name}]' for {EXTRAS.get(name, name)}")
    return Finding(
        name="Extras",
        state="warning" if wrong else "ok",
        found="; ".join([", ".join(there) or "none", *wrong]),
        hint="\n".join(hints),
    )


# --- What is configured ------------------------------------------------------------------------------------

_LONG_ENOUGH: Final = timedelta(minutes=10)  # for a stream, which lasts eight minutes, and to open it

_SOURCES: Final[Mapping[str, str]] = {
    # What `bedrock.find_credentials` calls them: but for the first two, in botocore's words.
    "env": "the environment",
    "profile": "profile {profile!r}",
    "custom-process": "the program of profile {profile!r}",
    "sso": "SSO, profile {profile!r}",
    "login": "`aws login`, profile {profile!r}",
    "assume-role": "the role of profile {profile!r}",
    "assume-role-with-web-identity": "a role, by web identity",
    "container-role": "the role of the container",
    "iam-role": "the role of the EC2 instance",
}


_PROFILES: Final = (
    "Check --profile and AWS_PROFILE: `aws configure list-profiles` lists those that there are."
)


def emulator(endpoint_url: str) -> Finding:
    """An emulator runs there."""
    return _ok("Emulator", f"runs for this at {endpoint_url}")


def emulator_missing(exc: SonicError) -> Finding:
    """The emulator does not start."""
    said, _, command = str(exc).partition(": pip install ")
    hint = f"pip install {command}" if command else _VERBOSE
    return _failed("Emulator", said, hint)


def credentials(keys: Credentials, *, source: str, profile: str, now: datetime) -> Finding:
    """Credentials were found; `source` is one of the words above, or newer than they are."""
    place = _SOURCES.get(source, source).format(profile=profile)
    found = f"{_shortened(keys.access_key)}, from {place}"
    if keys.expires_at is None:
        return _ok("Credentials", found)
    left = keys.expires_at - now
    when = f"{keys.expires_at:%Y-%m-%d %H:%M %Z}"
    if left <= timedelta():
        return _failed(
            "Credentials",
            f"{found}; they expired at {when}",
            "Get new ones, for example with `aws sso login`.",
        )
    found = f"{found}; they expire at {when}, in {_span(left.total_seconds())}"
    if left < _LONG_ENOUGH:
        hint = "A session lasts eight minutes: get new ones, for example with `aws sso login`."
        return _warning("Credentials", found, hint)
    return _ok("Credentials", found)


def _shortened(access_key: str) -> str:
    """Return as much of an access key's id as tells it from others."""
    shown = 4 if len(access_key) >= 12 else 1  # noqa: PLR2004 - more hidden than shown
    return f"{access_key[:shown]}…{access_key[-shown:]}"


def _span(seconds: float) -> str:
    """Return a time in words that one sees at a glance."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def credentials_missing(exc: CredentialsError) -> Finding:
    """There are no credentials, or they could not be had."""
    found, hint = _split(str(exc))
    if "config profile" in found:  # botocore's words
        hint = _PROFILES
    return _failed(
        "Credentials", found, hint or "Run `aws configure`, `aws sso login`, or what you log in with."
    )


def credentials_unasked(profile: str | None) -> Finding:
    """None are written down, and nobody was asked."""
    where = f"profile {profile!r}" if profile else "the environment or the profile"
    return _skipped(
        "Credentials", f"no keys in {where}; SSO, roles and programs are not asked, because of --offline"
    )


def region(name: str, *, source: str, endpoint: str, model: models.Model, offline: bool) -> Finding:
    """The region, who says so, where that leads to, and what is known of the model in it.

    AWS may have brought the model there since: it is a failure only where nobody can be asked, or where the
    answer says so.
    """
    found = f"{name}, from {source}; endpoint {endpoint}"
    if not model.regions or name in model.regions:
        return _ok("Region", found)
    known = ", ".join(model.regions)
    nearest = models.suggest(name, model.regions)
    return Finding(
        name="Region",
        state="failed" if offline else "warning",
        found=f"{name}, from {source}, is not known to offer {model.id}",
        hint=(f"Did you mean {nearest!r}? " if nearest else "") + f"These offer it: {known}.",
    )


def region_missing(exc: SonicError) -> Finding:
    """The configuration does not say where to go."""
    found, hint = _split(str(exc).removeprefix("the AWS configuration cannot be used: "))
    if "'region': None" in found:  # the SDK's words
        found = "none is set"
        hint = "Set AWS_REGION, give --region, or run `aws configure set region us-east-1`."
    elif "rofile" in found:  # which has the credentials, too
        return _failed("Region", found, hint or _PROFILES, cause="Credentials")
    return _failed("Region", found, hint or "Correct it: an option, the environment, or ~/.aws/config.")


def proxy(host: str | None, *, source: str | None, endpoint: str) -> Finding:
    """The proxy on the way to an endpoint, and what sets it; or none."""
    if host is not None:
        found = f"{host}, from {source}"
    elif source is not None:
        found = f"{source} is set, but NO_PROXY excepts {endpoint}"
    else:
        found = "none"
    return _ok("Proxy", found)


def proxy_unusable(exc: SonicError) -> Finding:
    """What is set is no proxy."""
    return _failed("Proxy", str(exc), "Correct HTTPS_PROXY, or unset it if there is none.")


def ca_bundle(path: str | None, *, certificates: int = 0, failure: str | None = None) -> Finding:
    """The file that AWS_CA_BUNDLE names: how many certificates it holds, or why it cannot be read."""
    if path is None:
        return _ok("CA bundle", "AWS_CA_BUNDLE is not set: the system's are trusted")
    if failure is None and certificates:
        return _ok("CA bundle", f"{_counted(certificates, 'certificate')} in AWS_CA_BUNDLE={path}")
    why = f"cannot be read: {failure}" if failure else "holds no certificates in PEM format"
    return _failed(
        "CA bundle",
        f"AWS_CA_BUNDLE={path} {why}",
        "Correct the path, or unset AWS_CA_BUNDLE if nothing in between reads TLS.",
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- The network -------------------------------------------------------------------------------------------

_SKEW_NOTICED: Final = 60.0  # seconds
_SKEW_REFUSED: Final = 300.0  # AWS refuses signatures that are more than five minutes off


class ProxyRefusedError(Exception):
    """A proxy does not connect; `str()` is its answer, such as "407 Proxy Authentication Required"."""


def resolved(host: str, addresses: Sequence[str], *, seconds: float, endpoint: str | None) -> Finding:
    """A host has these addresses; of a proxy, it is `endpoint` that is meant in the end."""
    if list(addresses) == [host]:
        found = f"{host} is an address"
    else:
        more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
        found = f"{host} is {addresses[0]}{more}, after {seconds * 1000:.0f} ms"
    return _ok("DNS", f"{found}; it looks up {endpoint} itself" if endpoint else found)


def unresolved(
    host: str, *, known: bool, why: str, belongs_to: Literal["AWS", "proxy", "endpoint"]
) -> Finding:
    """A host's name could not be looked up; `known` is whether anybody says that there is no such name."""
    hint = {
        "AWS": f"Check the region. {failures.REACH}",
        "proxy": "Check HTTPS_PROXY.",
        "endpoint": "Check --endpoint-url and AWS_ENDPOINT_URL_BEDROCK_RUNTIME.",
    }[belongs_to]
    return _failed(
        "DNS",
        f"{host} is unknown ({why})" if known else f"{host} cannot be looked up ({why})",
        hint if known else failures.REACH,
        cause="Region" if known and belongs_to == "AWS" else None,
    )


def connected(host: str, port: int, *, tls: str, seconds: float) -> Finding:
    """The endpoint speaks TLS, which is trusted, and HTTP/2."""
    return _ok("Connection", f"{host}:{port} speaks {tls} and HTTP/2, after {seconds * 1000:.0f} ms")


def unconnected(exc: Exception, *, peer: str, seconds: float, bundle: str | None) -> Finding:
    """No connection came about, or no trust. `peer` is `host:port`."""
    found, hint = _explain(exc, peer=peer, seconds=seconds, bundle=bundle)
    return _failed("Connection", found, hint)


# OpenSSL's numbers, <openssl/x509_vfy.h>.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_HOST: Final = (62, 64)


def _explain(exc: Exception, *, peer: str, seconds: float, bundle: str | None) -> tuple[str, str]:
    match exc:
        case ssl.SSLCertVerificationError(verify_code=code) if code in {_EXPIRED, _NOT_YET_VALID}:
            when = "has expired" if code == _EXPIRED else "is not valid yet"
            return (
                f"the certificate of {peer} {when}",
                "If this machine's clock is right, tell those who run the endpoint, or the proxy in between.",
            )
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_HOST:
            return (
                f"the certificate of {peer} is for another host: {exc.verify_message}",
                f"Check the endpoint. {failures.TRUST}",
            )
        case ssl.SSLCertVerificationError():
            trusted = f"in AWS_CA_BUNDLE={bundle}" if bundle else "that the system trusts"
            return (
                f"the certificate of {peer} is signed by no CA {trusted} ({exc.verify_message})",
                f"{failures.TRUST} If none does, unset it." if bundle else failures.TRUST,
            )
        case ssl.SSLError() if "WRONG_VERSION" in (exc.reason or "") or "HTTP" in (exc.reason or ""):
            return f"{peer} does not speak TLS", f"Check the endpoint. {failures.REACH}"
        case ssl.SSLError():
            return f"TLS could not be agreed on with {peer}: {exc.reason or exc}", failures.TRUST
        case ProxyRefusedError():
            wanted = "Give user and password in HTTPS_PROXY: http://user:password@host:port."
            allowed = f"Ask those who run the proxy to let {peer} through."
            return f"the proxy answers {exc}", wanted if str(exc).startswith("407") else allowed
        case TimeoutError():
            return f"{peer} does not answer within {seconds:g} s", failures.REACH
        case ConnectionRefusedError():
            return f"nothing listens at {peer}", f"Check the endpoint. {failures.REACH}"
        case ConnectionError() | EOFError():
            return f"{peer} hangs up before TLS is agreed on", failures.REACH
        case _:
            return f"{peer} cannot be reached: {getattr(exc, 'strerror', None) or exc}", failures.REACH


def old_http(peer: str) -> Finding:
    """The endpoint, or what answers in its place, does not speak HTTP/2."""
    return _failed(
        "Connection",
        f"{peer} speaks HTTP/1.1 only, and speech needs HTTP/2",
        "Something in between may be reading TLS: ask those who run it to let this host through unread.",
    )


def mistrusted(peer: str, exc: Exception) -> Finding:
    """Python connects, but the AWS library does not."""
    found, _ = _split(str(exc))
    return _failed(
        "Connection",
        f"Python connects to {peer}, but the AWS library does not: {found or type(exc).__name__}",
        "They may trust other certificates: set AWS_CA_BUNDLE to the file that Python uses.",
    )


def clock(host: str, ahead: float | None) -> Finding:
    """How many seconds the endpoint's clock is ahead of ours; None if it tells no time."""
    if ahead is None:
        return _skipped("Clock", f"{host} does not say what time it is")
    if abs(ahead) <= _SKEW_NOTICED:
        return _ok("Clock", f"agrees with {host}")
    return Finding(
        name="Clock",
        state="warning" if abs(ahead) <= _SKEW_REFUSED else "failed",
        found=f"{_span(abs(ahead))} {'behind' if ahead > 0 else 'ahead of'} {host}",
        hint="Set this machine's clock: AWS refuses signatures that are more than five minutes off.",
    )


# --- A session, and sound ----------------------------------------------------------------------------------


def session(
    model: str, *, opened: float, closed: float, tokens: int, goodbye: bool, oddities: Sequence[str]
) -> Finding:
    """A session was opened and closed, in so many seconds. `goodbye`: whether the service said so, too."""
    found = f"{model} opened in {opened:.2f} s and closed in {closed:.2f} s"
    if tokens:
        found += f", for {_counted(tokens, 'token')}"
    notes = [*oddities, *([] if goodbye else ["the service did not answer the goodbye"])]
    if not notes:
        return _ok("Session", found)
    return _warning("Session", f"{found}; but {'; '.join(notes)}")


def session_failed(exc: SonicError) -> Finding:
    """A session could not be opened, or did not last for half a second."""
    found, hint = _split(str(exc))
    folded = str(exc).lower()
    cause: Name | None = None
    if isinstance(exc, ModelNotFoundError) or "valid region" in folded:
        cause = "Region"
    elif hint.startswith("Set this machine's clock"):
        cause = "Clock"
    elif isinstance(exc, CredentialsError):
        cause = "Credentials"
    if not hint:
        match exc:
            case AccessDeniedError():
                hint = failures.ERRORS["AccessDeniedException"].hint
            case CredentialsError():
                hint = "Check the access key, the secret key and the session token."
            case ModelNotFoundError() | InvalidRequestError():
                hint = "Check --model and --region: `novasonic voices --model …` says if a model is known."
            case TransportError(retryable=True):
                hint = "Try again in a moment."
            case _:
                hint = _VERBOSE
    return _failed("Session", found, hint, cause=cause)


def sound(microphone: str | None, loudspeaker: str | None) -> Finding:
    """The default devices, with their rates."""
    if microphone is None and loudspeaker is None:
        return _skipped("Sound", "this machine has no sound devices")
    found = f"{microphone or 'no microphone'} → {loudspeaker or 'no loudspeaker'}"
    if microphone and loudspeaker:
        return _ok("Sound", found)
    return _warning("Sound", found, "`novasonic talk` needs both: plug one in.")


def sound_unavailable(exc: SonicError | ImportError) -> Finding:
    """There is no way to sound devices: the extra is not installed, or PortAudio is not."""
    if isinstance(exc, ImportError):
        return _skipped(
            "Sound",
            "sound devices need an extra",
            f"pip install 'novasonic[devices]' for {EXTRAS['devices']}",
        )
    found, _, hint = str(exc).partition("; ")
    return _warning("Sound", found, hint[:1].upper() + hint[1:] or "Check this machine's sound system.")


# --- How it is shown ---------------------------------------------------------------------------------------

_MARKS: Final[Mapping[State, str]] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
_COLUMN: Final = max(map(len, NEEDS)) + 2
_NARROWEST: Final = 40


class Line(NamedTuple):
    """A line for the terminal."""

    state: State
    head: str  # the mark and the name, or the room for them
    text: str
    is_hint: bool

    def encodable(self, encoding: str) -> "Line":
        """Return the line for a terminal of that encoding, which may lack some characters."""
        return self._replace(head=_encodable(self.head, encoding), text=_encodable(self.text, encoding))


_IN_ASCII: Final = str.maketrans({"✓": "+", "✗": "X", "→": ">", "…": "..."})


def _encodable(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_IN_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def lines(findings: Sequence[Finding], width: int = 80) -> list[Line]:
    """Return findings as lines of a table, none wider than `width` where words allow it."""
    found: list[Line] = []
    for finding in findings:
        head = f"{_MARKS[finding.state]} {finding.name:<{_COLUMN}}"
        room = max(width, _NARROWEST) - len(head)
        for text in _wrapped(finding.found, room):
            found.append(Line(finding.state, head, text, is_hint=False))
            head = " " * len(head)
        for hint in finding.hint.splitlines():
            for row, text in enumerate(_wrapped(hint, room - 2)):
                found.append(Line(finding.state, head, f"{' ' if row else '→'} {text}", is_hint=True))
    return found


def _wrapped(text: str, room: int) -> list[str]:
    # Paths and commands are to be copied in one piece.
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    rows = textwrap.wrap(whole, room, break_long_words=False, break_on_hyphens=False)
    return [row.replace("\N{NO-BREAK SPACE}", " ") for row in rows]


def summary(findings: Sequence[Finding]) -> str:
    """Return what all of it comes to, in one line."""
    failed = [finding.name for finding in findings if finding.state == "failed"]
    if failed:
        return f"{_counted(len(failed), 'check')} failed: {', '.join(failed)}."
    counts = Counter(finding.state for finding in findings)
    words: dict[State, str] = {"ok": "ok", "warning": "with a warning", "skipped": "skipped"}
    parts = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
    return f"Nothing failed: {', '.join(parts)}."
