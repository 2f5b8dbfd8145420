"""The doctor: what it finds on the way to a real server that has one thing wrong, and what it says to do."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from fake_portaudio import FakePortAudio
from novasonic import bedrock as aws
from novasonic import diagnosis, doctor, failures, models, requirements
from novasonic.credentials import Credentials
from novasonic.diagnosis import Finding, Name, ProxyRefusedError, Report
from novasonic.doctor import examine
from novasonic.emulator import Emulator, Fault, Scenario
from novasonic.errors import (
    AccessDeniedError,
    ConfigurationError,
    CredentialsError,
    DeviceError,
    InvalidRequestError,
    ModelNotFoundError,
    ServiceError,
    SonicError,
)
from peers import REGION, SECRET, Call, Issuer, Peer, proxy, raw_peer
from test_bedrock import settled
from test_cli import BARE, run
from test_talk import Terminal

MODEL = "amazon.nova-2-sonic-v1:0"
NOW = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
TOKEN = "the-session-token"


# --- what is installed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("0.12.0", ">=0.12,<0.13", True),
        ("0.12", ">=0.12.0", True),
        ("0.13.0", ">=0.12,<0.13", False),
        ("0.13.0rc1", "<0.13", False),  # which would be all but 0.13
        ("0.12.0rc1", ">=0.12", False),
        ("0.12.0.dev3", ">0.11", True),
        ("0.12.0.post1", ">=0.12", True),
        ("0.9", "<0.10", True),
        ("0.32.2", "~=0.32.0", True),
        ("0.32", "~=0.32.0", True),
        ("0.33.0", "~=0.32.0", False),
        ("2.5", "~=2.2", True),
        ("3.0", "~=2.2", False),
        ("1.4.2", "==1.4.*", True),
        ("1.5", "==1.4.*", False),
        ("1.4", "!=1.4", False),
        ("1.4", "!=1.5.*", True),
        ("1.4.0", "==1.4", True),
        ("1.4", "<=1.4", True),
        ("1.5", "> 1.4 , <= 1.4", False),
        ("1.4", "", True),
        ("unknown", ">=1", True),  # nobody can tell
        ("1.0", ">=whatever", True),
        ("1.0", "===1.0", True),
    ],
)
def test_a_version_lies_within_bounds_or_not(version: str, bounds: str, fits: bool) -> None:
    assert requirements.satisfies(version, bounds) is fits


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4)
)
def test_versions_are_in_one_order(first: list[int], second: list[int]) -> None:
    one, other = (".".join(map(str, numbers)) for numbers in (first, second))
    relations = [requirements.satisfies(one, f"{sign}{other}") for sign in ("<", "==", ">")]
    assert relations.count(True) == 1
    assert requirements.satisfies(one, f">={other}") is not requirements.satisfies(one, f"<{other}")


def lookup(**versions: str) -> requirements.Lookup:
    """Return a machine where these versions are installed."""
    needs: dict[str, list[str]] = {
        "novasonic": [
            "sdk[crt]<0.13,>=0.12",
            'sounddevice<1,>=0.5; extra == "devices"',
            "rich (>=14,<16); extra == 'cli'",
            "novasonic[devices]; extra == 'aec'",
            "echo>=1; extra == 'aec'",
            "colorama; sys_platform == 'win32'",
            "@ what pip alone can read",
        ],
        "sdk": ["http[crt,other]~=0.6.0", "novasonic"],
        "http": ["awscrt~=0.32.0; extra == 'crt'"],
    }
    there = {"novasonic": "0.1.0", "sdk": "0.12.0", "http": "0.6.1", "awscrt": "0.32.2", **versions}
    return lambda name: (there[name], needs.get(name, [])) if there.get(name) else None


def test_what_a_requirement_requires_is_looked_at_too() -> None:
    """The bounds of the CRT stand in the SDK's HTTP library, three steps from here."""
    assert list(requirements.unmet(lookup(), "novasonic")) == []
    (wrong,) = requirements.unmet(lookup(awscrt="0.33.0"), "novasonic")
    assert str(wrong) == "awscrt is 0.33.0, but http[crt] needs awscrt~=0.32.0"
    (missing,) = requirements.unmet(lookup(http=""), "novasonic")
    assert str(missing) == "http is not installed, but sdk needs http[crt,other]~=0.6.0"


def test_packages_out_of_bounds_are_named_with_the_command_that_mends_them() -> None:
    found = diagnosis.packages(lookup(sdk="0.13.1"), failure="ImportError: gone")
    assert (found.state, found.hint) == ("failed", "pip install 'sdk[crt]<0.13,>=0.12'")
    assert "sdk is 0.13.1, but novasonic needs" in found.found
    found = diagnosis.packages(lookup(), failure="ImportError: no libz")
    assert (found.state, found.hint) == ("failed", "pip install --force-reinstall novasonic")
    assert "ImportError: no libz" in found.found
    found = diagnosis.packages(lookup(), failure=None)
    assert (found.state, found.found) == ("ok", "novasonic 0.1.0, awscrt 0.32.2")


def test_a_missing_extra_is_no_failure_but_named_with_what_installs_it() -> None:
    found = diagnosis.extras(["aec", "cli", "devices", "new"], lookup(sounddevice="0.5.6"))
    assert found.state == "ok"
    assert found.found == "devices (microphones, loudspeakers), new"
    assert found.hint.splitlines() == [
        "pip install 'novasonic[aec]' for echo cancellation",
        "pip install 'novasonic[cli]' for demo, talk, colours",
    ]
    assert diagnosis.extras(["cli"], lookup()).found == "none"
    found = diagnosis.extras(["cli"], lookup(rich="13.9"))
    assert found.state == "warning"
    assert "rich is 13.9, but novasonic[cli] needs rich (>=14,<16)" in found.found
    assert found.hint == "pip install 'novasonic[cli]' for demo, talk, colours"


def test_it_is_said_of_every_extra_what_it_is_for() -> None:
    assert sorted(diagnosis.EXTRAS) == sorted(metadata.metadata("novasonic").get_all("Provides-Extra") or [])


def test_an_old_python_is_told() -> None:
    assert diagnosis.python("3.12.1", ">=3.12").state == "ok"
    found = diagnosis.python("3.11.9", ">=3.12")
    assert (found.state, found.hint) == ("failed", "Install Python >=3.12.")


# --- what findings mean -----------------------------------------------------------------------------------


def finding(name: Name, state: diagnosis.State, cause: Name | None = None) -> Finding:
    return Finding(name=name, state=state, found="found", hint="hint", cause=cause)


def test_what_needs_a_failed_check_is_skipped_and_names_the_first_cause() -> None:
    """Five lines that say "failed" hide the one that does."""
    report = Report()
    report.add(finding("Region", "failed"))
    for name in ("Proxy", "DNS", "Connection", "Clock", "Session"):
        skipped = report.excuse(name)
        assert skipped is not None
        assert (skipped.state, skipped.found, skipped.cause) == ("skipped", "needs Region", "Region")
        report.add(skipped)
    assert report.excuse("Sound") is None
    assert report.excuse("CA bundle") is None


def test_a_warning_and_a_check_that_had_nothing_to_ask_stand_in_nobodys_way() -> None:
    report = Report()
    report.add(finding("Region", "warning"))
    report.add(finding("Clock", "skipped"))
    assert report.excuse("DNS") is None
    assert report.excuse("Session") is None


def test_offline_nothing_of_the_network_is_asked() -> None:
    report = Report(offline=True)
    excused = {name for name in diagnosis.NEEDS if report.excuse(name)}
    assert excused == {"DNS", "Connection", "Clock", "Session"}


@pytest.mark.parametrize(
    ("suspect", "suspect_then", "state", "cause"),
    [
        ("warning", "failed", "skipped", "Region"),
        ("failed", "failed", "skipped", "Region"),
        ("ok", "ok", "failed", None),
        ("skipped", "skipped", "failed", None),
    ],
)
def test_a_failure_is_put_down_to_what_was_suspected_before(
    suspect: diagnosis.State, suspect_then: str, state: str, cause: str | None
) -> None:
    """A region without an endpoint is what is wrong, not the name server that does not know it."""
    report = Report()
    report.add(finding("Region", suspect))
    report.add(finding("DNS", "failed", cause="Region"))
    region, dns = report.findings
    assert (region.state, dns.state, dns.cause) == (suspect_then, state, cause)
    assert dns.found == ("found; see Region" if cause else "found")


def keys(**given: Any) -> Credentials:
    return Credentials("AKIAIOSFODNN7EXAMPLE", SECRET, TOKEN, **given)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("env", "the environment"),
        ("profile", "profile 'dev'"),
        ("sso", "SSO, profile 'dev'"),
        ("login", "`aws login`, profile 'dev'"),
        ("assume-role", "the role of profile 'dev'"),
        ("assume-role-with-web-identity", "a role, by web identity"),
        ("custom-process", "the program of profile 'dev'"),
        ("container-role", "the role of the container"),
        ("iam-role", "the role of the EC2 instance"),
        ("something-new", "something-new"),
    ],
)
def test_credentials_show_where_they_come_from_and_not_what_they_are(source: str, place: str) -> None:
    found = diagnosis.credentials(keys(), source=source, profile="dev", now=NOW)
    assert (found.state, found.found) == ("ok", f"AKIA…MPLE, from {place}")


@pytest.mark.parametrize(
    ("left", "state", "said"),
    [
        (timedelta(days=3), "ok", "they expire at 2026-11-06 12:00 UTC, in 3 days"),
        (timedelta(hours=4), "ok", "in 4 h"),
        (timedelta(minutes=43), "ok", "in 43 min"),
        (timedelta(seconds=90), "warning", "in 90 s"),
        (timedelta(), "failed", "they expired at 2026-11-03 12:00 UTC"),
        (timedelta(hours=-1), "failed", "they expired at 2026-11-03 11:00 UTC"),
    ],
)
def test_credentials_show_when_they_expire(left: timedelta, state: str, said: str) -> None:
    """A session lasts eight minutes, and refuses to begin with keys that have expired."""
    found = diagnosis.credentials(keys(expires_at=NOW + left), source="sso", profile="dev", now=NOW)
    assert found.state == state
    assert said in found.found
    assert ("aws sso login" in found.hint) is (state != "ok")


def test_of_a_short_access_key_less_is_shown() -> None:
    found = diagnosis.credentials(Credentials("abcdefgh", "x"), source="env", profile="", now=NOW)
    assert found.found.startswith("a…h,")


def region(name: str, **given: Any) -> Finding:
    settings: dict[str, Any] = {
        "source": "AWS_REGION",
        "endpoint": "host",
        "model": models.lookup(MODEL),
        "offline": False,
    }
    return diagnosis.region(name, **(settings | given))


def test_a_region_is_suspicious_where_the_model_is_not_known_to_be() -> None:
    """AWS may bring it there on any day: only offline is there nobody who knows better."""
    found = region("us-esat-1")
    assert (found.state, "not known to offer" in found.found) == ("warning", True)
    assert found.hint.startswith("Did you mean 'us-east-1'? These offer it: us-east-1, us-west-2")
    assert region("mars", offline=True).state == "failed"
    assert region("mars").hint.startswith("These offer it: us-east-1")
    assert region("us-west-2").found == "us-west-2, from AWS_REGION; endpoint host"
    assert region("mars", model=models.lookup("amazon.nova-9-sonic")).state == "ok"


FAILURES: Sequence[tuple[Finding, str, str]] = [
    (
        diagnosis.credentials_missing(CredentialsError("the program said nothing.")),
        "the program said nothing",
        "aws configure",
    ),
    (
        diagnosis.region_missing(ConfigurationError("a b is not an endpoint")),
        "a b is not an endpoint",
        "environment",
    ),
    (
        diagnosis.emulator_missing(ConfigurationError("it needs h2: pip install 'novasonic[emulator]'")),
        "it needs h2",
        "pip install 'novasonic[emulator]'",
    ),
    (diagnosis.emulator_missing(ConfigurationError("no port is free")), "no port is free", "--verbose"),
    (diagnosis.broken("DNS", KeyError("x")), "KeyError: 'x'", "--verbose"),
    (diagnosis.too_late("DNS", 10), "no answer within 10 s", "firewall"),
    (diagnosis.too_late("Credentials", 10), "no answer within 10 s", "program"),
    (diagnosis.too_late("Session", 10), "no answer within 10 s", "--timeout"),
    (
        diagnosis.unresolved("host", known=False, why="try again", belongs_to="AWS"),
        "host cannot be looked up (try again)",
        "network",
    ),
    (diagnosis.clock("host", 400), "7 min behind host", "clock"),
    (diagnosis.clock("host", -9000), "2 h ahead of host", "clock"),
]


@pytest.mark.parametrize(("found", "said", "hint"), FAILURES)
def test_a_failure_says_what_was_found_and_what_to_do(found: Finding, said: str, hint: str) -> None:
    assert found.state == "failed"
    assert said in found.found
    assert hint in found.hint


def certificate_error(code: int, message: str) -> ssl.SSLCertVerificationError:
    exc = ssl.SSLCertVerificationError(1, message)
    exc.verify_code, exc.verify_message = code, message
    return exc


def tls_error(reason: str) -> ssl.SSLError:
    exc = ssl.SSLError(1, reason)
    exc.reason = reason
    return exc


@pytest.mark.parametrize(
    ("exc", "said", "hint"),
    [
        (certificate_error(10, ""), "has expired", "clock"),
        (certificate_error(9, ""), "is not valid yet", "clock"),
        (certificate_error(62, "Hostname mismatch"), "for another host: Hostname mismatch", "endpoint"),
        (certificate_error(20, "no issuer"), "no CA in AWS_CA_BUNDLE=ca.pem (no issuer)", "unset it"),
        (tls_error("WRONG_VERSION_NUMBER"), "does not speak TLS", "endpoint"),
        (tls_error("HTTP_REQUEST"), "does not speak TLS", "endpoint"),
        (tls_error("NO_CIPHER"), "could not be agreed on with host:443: NO_CIPHER", "AWS_CA_BUNDLE"),
        (ProxyRefusedError("407 Log in"), "the proxy answers 407 Log in", "user:password"),
        (ProxyRefusedError("403 No"), "the proxy answers 403 No", "let host:443 through"),
        (TimeoutError(), "does not answer within 10 s", "firewall"),
        (ConnectionRefusedError(), "nothing listens at host:443", "endpoint"),
        (ConnectionResetError(), "hangs up before TLS", "firewall"),
        (asyncio.IncompleteReadError(b"", 1), "hangs up before TLS", "firewall"),
        (OSError(113, "No route to host"), "cannot be reached: No route to host", "network"),
    ],
)
def test_a_connection_that_fails_is_explained(exc: Exception, said: str, hint: str) -> None:
    found = diagnosis.unconnected(exc, peer="host:443", seconds=10, bundle="ca.pem")
    assert (found.name, found.state) == ("Connection", "failed")
    assert said in found.found
    assert hint in found.hint


def test_without_a_bundle_of_ones_own_the_system_is_what_does_not_trust() -> None:
    found = diagnosis.unconnected(
        certificate_error(19, "self-signed"), peer="host:443", seconds=10, bundle=None
    )
    assert "no CA that the system trusts" in found.found
    assert found.hint == failures.TRUST


@pytest.mark.parametrize(
    ("exc", "said", "hint", "cause"),
    [
        (
            failures.refused("m in r", "ThrottlingException", "Too many requests", id_=None),
            "m in r answered ThrottlingException: Too many requests",
            "Wait a moment, or request a higher quota.",
            None,
        ),
        (
            failures.refused(
                "m", "ValidationException", "The provided model identifier is invalid.", id_=None
            ),
            "m answered ValidationException: The provided model identifier is invalid",
            "`novasonic voices` lists the models.",
            "Region",
        ),
        (
            failures.refused("m", "InvalidSignatureException", "Signature expired: 2026", id_=None),
            "m answered InvalidSignatureException: Signature expired: 2026",
            "Set this machine's clock: AWS refuses signatures that are more than five minutes off.",
            "Clock",
        ),
        (
            failures.refused("m", "InvalidSignatureException", "not scoped to a valid region", id_=None),
            "m answered InvalidSignatureException: not scoped to a valid region",
            failures.ERRORS["InvalidSignatureException"].hint,
            "Region",
        ),
        (AccessDeniedError("HTTP 403"), "HTTP 403", failures.ERRORS["AccessDeniedException"].hint, None),
        (
            CredentialsError("HTTP 401"),
            "HTTP 401",
            "Check the access key, the secret key and the session token.",
            "Credentials",
        ),
        (
            ModelNotFoundError("gone"),
            "gone",
            "Check --model and --region: `novasonic voices --model …` says if a model is known.",
            "Region",
        ),
        (
            InvalidRequestError("no"),
            "no",
            "Check --model and --region: `novasonic voices --model …` says if a model is known.",
            None,
        ),
        (ServiceError("it failed"), "it failed", "Try again in a moment.", None),
        (DeviceError("odd"), "odd", "`novasonic doctor --verbose` shows where.", None),
    ],
)
def test_a_session_that_fails_is_explained(exc: SonicError, said: str, hint: str, cause: str | None) -> None:
    found = diagnosis.session_failed(exc)
    assert found == Finding(name="Session", state="failed", found=said, hint=hint, cause=cause)  # type: ignore[arg-type]


def session(**given: Any) -> Finding:
    settings: dict[str, Any] = {"opened": 0.5, "closed": 0.25, "tokens": 225, "goodbye": True, "oddities": []}
    return diagnosis.session("m", **(settings | given))


def test_a_session_that_works_says_how_long_it_took_and_what_was_odd() -> None:
    assert (session().state, session().found) == (
        "ok",
        "m opened in 0.50 s and closed in 0.25 s, for 225 tokens",
    )
    assert session(tokens=0).found == "m opened in 0.50 s and closed in 0.25 s"
    assert session(tokens=1).found.endswith("for 1 token")
    found = session(goodbye=False, oddities=["'m' is not a known model"])
    assert found.state == "warning"
    assert found.found.endswith("but 'm' is not a known model; the service did not answer the goodbye")


@pytest.mark.parametrize(
    ("found", "state", "said"),
    [
        (diagnosis.sound("mic", "spk"), "ok", "mic → spk"),
        (diagnosis.sound(None, "spk"), "warning", "no microphone → spk"),
        (diagnosis.sound("mic", None), "warning", "mic → no loudspeaker"),
        (diagnosis.sound(None, None), "skipped", "this machine has no sound devices"),
        (diagnosis.sound_unavailable(DeviceError("PortAudio fails")), "warning", "PortAudio fails"),
        (diagnosis.too_late("Sound", 10), "warning", "no answer within 10 s"),
        (diagnosis.clock("host", 61), "warning", "61 s behind host"),
        (diagnosis.clock("host", -59), "ok", "agrees with host"),
        (diagnosis.clock("host", None), "skipped", "host does not say what time it is"),
        (diagnosis.proxy("p:80", source="https_proxy", endpoint="h"), "ok", "p:80, from https_proxy"),
        (
            diagnosis.proxy(None, source="HTTPS_PROXY", endpoint="h"),
            "ok",
            "HTTPS_PROXY is set, but NO_PROXY excepts h",
        ),
        (
            diagnosis.resolved("h", ["1", "2"], seconds=0.01, endpoint=None),
            "ok",
            "h is 1 and 1 more, after 10 ms",
        ),
    ],
)
def test_what_keeps_no_session_from_working_is_no_failure(found: Finding, state: str, said: str) -> None:
    assert (found.state, found.found) == (state, said)


# --- how it is shown --------------------------------------------------------------------------------------

SHOWN = [
    Finding(name="Python", state="ok", found="3.12"),
    Finding(
        name="Region",
        state="failed",
        found="none is set, which is a long story that does not fit into one line of a terminal as they were",
        hint="Set AWS_REGION, or to have it for good, run `aws configure set region us-east-1`.\nOr give it.",
    ),
    Finding(name="Clock", state="skipped", found="needs Region", cause="Region"),
    Finding(
        name="Sound", state="warning", found="/a/path/that/is/longer/than/" + "any/" * 20 + "terminal → none"
    ),
]


def test_findings_are_a_table_of_80_columns_in_which_commands_and_paths_stay_whole() -> None:
    """They are there to be copied."""
    rows = [f"{head}{text}" for _, head, text, _ in diagnosis.lines(SHOWN)]
    assert rows == [
        "✓ Python       3.12",
        "✗ Region       none is set, which is a long story that does not fit into one",
        "               line of a terminal as they were",
        "               → Set AWS_REGION, or to have it for good, run",
        "                 `aws configure set region us-east-1`.",
        "               → Or give it.",
        "- Clock        needs Region",
        "! Sound        /a/path/that/is/longer/than/" + "any/" * 20 + "terminal",
        "               → none",
    ]
    assert max(len(row) for row in rows if "/a/path" not in row) <= 80


def test_a_terminal_without_such_characters_gets_others() -> None:
    heads = [line.encodable("ascii") for line in diagnosis.lines(SHOWN)]
    assert [line.head[0] for line in heads if line.head.strip()] == ["+", "X", "-", "!"]
    assert [line.text[0] for line in heads if line.is_hint] == [">", " ", ">"]
    odd = diagnosis.Line("ok", "✓ ", "ü", is_hint=False)
    assert odd.encodable("ascii").text == "?"
    assert odd.encodable("latin-1").text == "ü"
    assert odd.encodable("utf-8") == odd


def test_the_last_line_sums_up() -> None:
    assert diagnosis.summary(SHOWN) == "1 check failed: Region."
    assert diagnosis.summary([SHOWN[1], *SHOWN]) == "2 checks failed: Region, Region."
    assert diagnosis.summary([SHOWN[0], *SHOWN[2:]]) == "Nothing failed: 1 ok, 1 with a warning, 1 skipped."
    assert diagnosis.summary(SHOWN[:1]) == "Nothing failed: 1 ok."


def test_secrets_are_cut_out_of_whatever_is_shown() -> None:
    found = Finding(name="Session", state="failed", found="it said abc and abcd", hint="not abcd")
    shown = diagnosis.redacted(found, ["abc", "", "abcd"])
    assert (shown.found, shown.hint) == ("it said [secret] and [secret]", "not [secret]")


# --- on the way to a server that has one thing wrong ------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("ca") / "ca.pem")
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: str) -> None:
    """A machine where all is well, with nothing of this one's."""
    for name in [*os.environ]:
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    settings = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": bundle,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio("Built-in mic", "Built-in spk"))


@pytest.fixture(autouse=True)
async def comes_to_rest() -> AsyncIterator[None]:
    """The server's side of a handshake may take a moment to fail."""
    yield
    await settled()


@pytest.fixture
async def bedrock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    """An emulator, where the environment leads."""
    async with Emulator(speed=10) as running:
        monkeypatch.delenv("AWS_SESSION_TOKEN")
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


async def examined(**options: Any) -> dict[Name, Finding]:
    """Return what is found; each failure has a hint, and what is skipped for it names it."""
    findings = {each.name: each for each in await examine(**options)}
    for each in findings.values():
        assert each.hint or each.state != "failed", each
        assert each.cause is None or findings[each.cause].state == "failed", each
        assert "\n" not in each.found
        for secret in (SECRET, TOKEN, Issuer.PROOF):
            assert secret not in f"{each.found} {each.hint}"
    return findings


async def the_failure(**options: Any) -> Finding:
    """Return the one finding that says "failed"."""
    (found,) = [each for each in (await examined(**options)).values() if each.state == "failed"]
    return found


async def test_where_all_is_well_a_session_is_opened_for_real(bedrock: Emulator) -> None:
    asked = list[str]()
    findings = await examined(on_check=asked.append)
    assert {name for name, each in findings.items() if each.state != "ok"} == set()
    assert list(findings) == [name for name in diagnosis.NEEDS if name != "Emulator"] == asked
    assert findings["Credentials"].found == "nova…ator, from the environment"
    assert findings["Region"].found.startswith("us-east-1, from AWS_REGION; endpoint 127.0.0.1:")
    assert findings["Sound"].found == "Built-in mic, 48000 Hz → Built-in spk, 48000 Hz"
    (log,) = bedrock.sessions
    assert log.audio_seconds == pytest.approx(0.5, abs=0.2)
    assert log.outcome == "completed"


async def test_what_the_caller_says_is_said_to_come_from_there(bedrock: Emulator) -> None:
    url = bedrock.endpoint_url
    findings = await examined(region="us-east-1", endpoint_url=url, model="amazon.nova-2-5-sonic")
    assert findings["Region"].found == f"us-east-1, from --region; endpoint {url[8:]}, from --endpoint-url"
    assert findings["Session"].found.startswith("amazon.nova-2-5-sonic opened in")


async def test_without_credentials_only_that_fails(
    bedrock: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = await the_failure()
    assert found.name == "Credentials"
    assert found.hint.startswith("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert bedrock.sessions == []


@pytest.mark.usefixtures("bedrock")
async def test_without_a_region_only_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    found = await the_failure()
    assert (found.name, found.found) == ("Region", "none is set")
    assert "AWS_REGION" in found.hint


@pytest.mark.usefixtures("bedrock")
async def test_a_profile_that_is_not_there_fails_once() -> None:
    """It would hold the credentials, and the region."""
    found = await the_failure(profile="nobody")
    assert (found.name, "nobody" in found.found) == ("Credentials", True)
    assert "aws configure list-profiles" in found.hint
    found = await the_failure(profile="nobody", offline=True)
    assert (found.name, "nobody" in found.found) == ("Region", True)


@pytest.mark.usefixtures("bedrock")
async def test_a_region_that_the_service_refuses_is_what_is_wrong() -> None:
    found = await the_failure(region="eu-central-1")
    assert (found.name, "not known to offer" in found.found) == ("Region", True)


async def test_a_region_without_an_endpoint_is_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    findings = await examined(region="mars-1")
    assert [each.name for each in findings.values() if each.state == "failed"] == ["Region"]
    assert "bedrock-runtime.mars-1.amazonaws.com is unknown" in findings["DNS"].found
    found = await the_failure(region="us-west-2")
    assert (found.name, found.hint.startswith("Check the region. Check the network")) == ("DNS", True)


def unknown(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("url", "name", "said", "hint"),
    [
        ("http://localhost:1", "Region", "is not an endpoint", "https"),
        ("https://[::1", "Region", "is not an endpoint", "https"),
        ("https://exa mple", "Region", "Invalid host: exa mple", "option"),
        ("https://u:tiger@localhost:1", "Region", "https://u[secret]localhost", "https"),
        ("https://127.0.0.1:1", "Connection", "nothing listens at 127.0.0.1:1", "Check the endpoint"),
        ("https://[::1]:1", "Connection", "[::1]:1", "network"),
        (f"https://{'x' * 64}.example", "DNS", "is unknown", "--endpoint-url"),
    ],
)
async def test_an_endpoint_that_is_not_there_is_what_is_wrong(
    url: str, name: str, said: str, hint: str
) -> None:
    found = await the_failure(endpoint_url=url)
    assert found.name == name
    assert said in found.found
    assert hint in f"{found.hint} {found.found}"


async def nobody(call: Call) -> None:
    await call.forever()


@contextlib.asynccontextmanager
async def tls_server(
    certificate: trustme.LeafCert, handle: Callable[..., Awaitable[Any]] | None = None
) -> AsyncIterator[int]:
    """Run a server with a certificate; give its port."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await writer.start_tls(tls)
            if handle is not None:
                await handle(reader, writer)

    async with raw_peer(listen) as port:
        yield port


async def test_a_wrong_ca_is_what_is_wrong() -> None:
    async with Peer(nobody, trustme.CA()) as peer:
        found = await the_failure(endpoint_url=peer.url)
    assert found.name == "Connection"
    assert "is signed by no CA in AWS_CA_BUNDLE=" in found.found
    assert "set AWS_CA_BUNDLE to the file with its CA certificate" in found.hint


async def test_a_ca_that_python_does_not_know_either_is_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a file of its own Python may know fewer than the AWS library does, which has the last word."""
    monkeypatch.delenv("AWS_CA_BUNDLE")
    async with Peer(nobody, trustme.CA(), handshake_timeout=2.0) as peer:
        found = await the_failure(endpoint_url=peer.url, timeout=1.0)
    assert "is signed by no CA that the system trusts" in found.found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the AWS library asks the system whom to trust")
async def test_a_ca_that_only_the_aws_library_knows_is_trusted(
    bedrock: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setenv("SSL_CERT_FILE", bedrock.ca_file)
    # Python has the certificates of nobody, as on a Mac where nothing was done about it.
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    aws._tls_context.cache_clear()  # it may know whom to trust already
    findings = await examined()
    aws._tls_context.cache_clear()
    assert findings["Connection"].found.endswith(" ms")
    assert findings["Session"].state == "ok"


async def test_a_server_that_the_aws_library_cannot_talk_to_is_told(ca: trustme.CA) -> None:
    """Here, as it hangs up when it is called for the second time."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_alpn_protocols(["h2"])
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    calls = list[asyncio.StreamWriter]()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)
        if len(calls) == 1:
            await writer.start_tls(tls)

    async with raw_peer(serve) as port:
        found = await the_failure(endpoint_url=f"https://127.0.0.1:{port}")
    assert found.name == "Connection"
    assert f"Python connects to 127.0.0.1:{port}, but the AWS library does not: no connection" in found.found
    assert "AWS_CA_BUNDLE" in found.hint


async def test_an_expired_certificate_is_told(ca: trustme.CA) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificate = ca.issue_cert("127.0.0.1", not_before=yesterday - timedelta(days=9), not_after=yesterday)
    async with tls_server(certificate) as port:
        found = await the_failure(endpoint_url=f"https://127.0.0.1:{port}")
    assert (found.name, found.found) == ("Connection", f"the certificate of 127.0.0.1:{port} has expired")


async def test_the_certificate_of_another_host_is_told(ca: trustme.CA) -> None:
    async with tls_server(ca.issue_cert("elsewhere.example")) as port:
        found = await the_failure(endpoint_url=f"https://127.0.0.1:{port}")
    assert "is for another host" in found.found


async def test_a_server_without_http_2_is_told(ca: trustme.CA) -> None:
    """Proxies that read TLS often speak HTTP/1.1 only."""
    async with Peer(nobody, ca, alpn=("http/1.1",)) as peer:
        found = await the_failure(endpoint_url=peer.url)
    assert (found.name, "speaks HTTP/1.1 only" in found.found) == ("Connection", True)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("greet", "does not speak TLS"),
        ("hang up", "hangs up before TLS is agreed on"),
        ("keep silent", "does not answer within 0.5 s"),
    ],
)
async def test_a_server_without_tls_is_told(does: str, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if does == "greet":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        if does != "hang up":
            await reader.read()

    async with raw_peer(serve) as port:
        found = await the_failure(endpoint_url=f"https://127.0.0.1:{port}", timeout=0.5)
    assert found.name == "Connection"
    assert said in found.found


def refusing(status: int, code: str, text: str, **headers: str) -> Callable[[Call], Awaitable[None]]:
    async def refuse(call: Call) -> None:
        given = {"x-amzn-errortype": code, "x-amzn-requestid": "request-1", **headers}
        await call.respond(status, given, json.dumps({"message": text}).encode(), end=True)
        await call.forever()

    return refuse


@pytest.mark.parametrize(
    ("status", "code", "text", "hint"),
    [
        (403, "UnrecognizedClientException", "The token is invalid.", "Check the access key"),
        (403, "AccessDeniedException", "You may not.", "bedrock:InvokeModelWithBidirectionalStream"),
        (429, "ThrottlingException", "Too many requests.", "Wait a moment"),
        (503, "ServiceUnavailableException", "Busy.", "Try again in a moment."),
    ],
)
async def test_a_session_that_is_refused_says_why(
    ca: trustme.CA, status: int, code: str, text: str, hint: str
) -> None:
    async with Peer(refusing(status, code, text), ca) as peer:
        found = await the_failure(endpoint_url=peer.url)
    assert found.name == "Session"
    assert found.found == f"{MODEL} in {REGION} answered {code}: {text.rstrip('.')}"
    assert hint in found.hint


async def test_an_endpoint_that_accepts_no_session_is_told_in_time(
    ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked what time it is as well, and does not answer that either."""
    monkeypatch.setattr(doctor, "_TO_ANSWER", 0.1)
    async with Peer(nobody, ca) as peer:
        found = await the_failure(endpoint_url=peer.url, timeout=0.5)
    assert found.name == "Session"
    assert "did not accept a stream within 0." in found.found


@pytest.mark.parametrize(
    ("minutes", "state", "said"),
    [
        (0, "ok", "agrees with 127.0.0.1"),
        (3, "warning", "3 min behind 127.0.0.1"),
        (-3, "warning", "3 min ahead of 127.0.0.1"),
        (60, "failed", "60 min behind 127.0.0.1"),
    ],
)
async def test_the_clock_is_compared_with_that_of_the_endpoint(
    ca: trustme.CA, minutes: float, state: str, said: str
) -> None:
    """More than five minutes, and AWS refuses every signature."""
    there = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    behave = refusing(403, "SomeException", "Signature expired: 2026", date=there)
    async with Peer(behave, ca) as peer:
        findings = await examined(endpoint_url=peer.url)
    assert findings["Clock"].found == said
    # What was a suspicion becomes the cause when the service says the same.
    assert findings["Clock"].state == ("failed" if state == "warning" else state)
    assert findings["Session"].state == ("failed" if state == "ok" else "skipped")


async def test_a_date_that_is_none_is_passed_over(ca: trustme.CA) -> None:
    async with Peer(refusing(403, "X", "no", date="soon"), ca) as peer:
        assert (await examined(endpoint_url=peer.url))["Clock"].state == "skipped"


@contextlib.asynccontextmanager
async def faulty(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run an emulator that has a fault, where the environment leads."""
    async with Emulator(Scenario(faults=[fault]), speed=10) as running:
        monkeypatch.delenv("AWS_SESSION_TOKEN")
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield


async def test_a_goodbye_that_nobody_answers_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async with faulty(Fault(kind="stall", after_audio=1), monkeypatch):
        found = (await examined(timeout=1.0))["Session"]
    assert found.state == "warning"
    assert "did not answer the goodbye" in found.found


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="exception", code="ModelErrorException", message="It broke.", after_audio=1), "It broke"),
        (Fault(kind="end", after_audio=1), "the service ended the stream"),
        (Fault(kind="cut", after_audio=1), "was lost"),
    ],
)
async def test_a_session_that_does_not_last_for_half_a_second_fails(
    fault: Fault, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model at the end of its life accepts a session, and ends it without a word."""
    async with faulty(fault, monkeypatch):
        found = await the_failure()
    assert (found.name, said in found.found) == ("Session", True)


async def test_a_model_that_nobody_knows_is_odd(bedrock: Emulator) -> None:
    findings = await examined(model="amazon.nova-2-sonic-v9:0", endpoint_url=bedrock.endpoint_url)
    assert findings["Region"].state == "ok"
    assert "not a known model" in findings["Session"].found


async def test_options_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="timeout is 0 seconds"):
        await examine(timeout=0)
    with pytest.raises(ConfigurationError, match="timeout is nan"):
        await examine(timeout=float("nan"))
    with pytest.raises(ConfigurationError, match="model is 0 characters long"):
        await examine(model="")


# --- credentials ------------------------------------------------------------------------------------------

PROFILES = """
[profile keys]
aws_access_key_id = AKIAI44QH8DHBEXAMPLE
aws_secret_access_key = je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY
[profile program]
credential_process = {program}
[profile sso]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = speech
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """Configuration files, and a program that gives credentials."""
    keys = {
        "Version": 1,
        "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
        "SecretAccessKey": SECRET,
        "SessionToken": TOKEN,
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    program.chmod(0o700)
    (tmp_path / "config").write_text(PROFILES.format(program=program))
    return program


@pytest.fixture(params=["with botocore", "without botocore"])
def botocore(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to find credentials."""
    if request.param == "without botocore":
        for name in ("botocore", "botocore.session"):
            monkeypatch.setitem(sys.modules, name, None)
    return bool(request.param == "with botocore")


async def credentials_found(**options: Any) -> Finding:
    """Ask only this machine, and whoever has the credentials: the endpoint is not there."""
    return (await examined(endpoint_url="https://127.0.0.1:1", **options))["Credentials"]


@pytest.mark.usefixtures("profiles")
async def test_credentials_are_found_where_the_sdk_finds_them(botocore: bool) -> None:
    assert (await credentials_found()).found == "AKIA…MPLE, from the environment"
    assert (await credentials_found(profile="keys")).found == "AKIA…MPLE, from profile 'keys'"
    found = await credentials_found(profile="program")
    assert found.found.startswith(f"ASIA…MPLE, from {'the program of ' if botocore else ''}profile 'program'")
    assert "they expire at" in found.found


@pytest.mark.usefixtures("botocore", "profiles")
async def test_the_usual_profile_is_named_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "keys")
    assert "from profile 'keys'" in (await credentials_found()).found
    assert "from profile 'keys'" in (await credentials_found(offline=True)).found


async def test_the_role_of_a_container_is_told_from_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    async with Issuer(lasts=3600).serve() as issuer:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/container")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", issuer.PROOF)
        found = await credentials_found()
        assert found.found.startswith("A…E, from the role of the container; they expire at")
        assert (await credentials_found(offline=True)).state == "skipped"
    assert issuer.given == 1


@pytest.mark.usefixtures("bedrock")
async def test_keys_that_expire_too_soon_for_a_session_are_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", soon.isoformat())
    found = await the_failure()
    assert (found.name, "they expire at" in found.found) == ("Credentials", True)
    assert (await examined(offline=True))["Credentials"].state == "warning"


async def test_offline_only_keys_that_are_written_down_are_found(profiles: Path) -> None:
    """Programs, SSO and roles ask somebody, most of them over the network."""
    await asyncio.to_thread(profiles.unlink)  # whoever runs it fails
    assert (await credentials_found(offline=True)).found == "AKIA…MPLE, from the environment"
    found = await credentials_found(offline=True, profile="keys")
    assert (found.state, found.found) == ("ok", "AKIA…MPLE, from profile 'keys'")
    for profile in ("program", "sso"):
        found = await credentials_found(offline=True, profile=profile)
        assert (found.state, f"no keys in profile '{profile}'" in found.found) == ("skipped", True)


async def test_offline_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("no section at all")
    found = await credentials_found(offline=True, profile="dev")
    assert found.state == "failed"
    assert str(tmp_path / "config") in found.found


async def test_a_program_that_hangs_is_left_alone(profiles: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    await asyncio.to_thread(profiles.write_text, f"#!/bin/sh\nread line < {pipe}\nexit 1\n")
    found = await credentials_found(profile="program", timeout=0.5)
    assert (found.state, found.found) == ("failed", "no answer within 0.5 s")
    await asyncio.to_thread(pipe.write_text, "go on\n")


async def test_offline_nothing_goes_over_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("offline is offline")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    findings = await examined(offline=True)
    asked = {name for name, each in findings.items() if each.state != "skipped"}
    assert asked == set(diagnosis.NEEDS) - {"Emulator", "DNS", "Connection", "Clock", "Session"}
    found = await the_failure(offline=True, region="mars-1")
    assert found.name == "Region"


# --- what else a machine says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read: No such file"), ("no certificate", "holds no certificates")]
)
@pytest.mark.usefixtures("bedrock")
async def test_a_ca_bundle_that_is_none_is_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    found = await the_failure()
    assert (found.name, said in found.found) == ("CA bundle", True)


async def test_a_ca_bundle_shows_what_it_holds(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await examined(offline=True))["CA bundle"].found == f"1 certificate in AWS_CA_BUNDLE={bundle}"
    monkeypatch.delenv("AWS_CA_BUNDLE")
    assert "is not set" in (await examined(offline=True))["CA bundle"].found


@contextlib.asynccontextmanager
async def on_the_way(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    name: str = "HTTPS_PROXY",
) -> AsyncIterator[int]:
    """Run a proxy, which is in the way of everything."""
    async with raw_peer(answer) as port:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv(name, f"http://scott:t%69ger@127.0.0.1:{port}")
        yield port


@pytest.mark.usefixtures("bedrock")
async def test_a_session_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[str]()
    async with on_the_way(proxy(seen), monkeypatch) as port:
        findings = await examined()
    assert {each.state for name, each in findings.items() if name != "Clock"} == {"ok"}
    assert findings["Proxy"].found == f"127.0.0.1:{port}, from HTTPS_PROXY"
    assert findings["DNS"].found == "127.0.0.1 is an address; it looks up 127.0.0.1 itself"
    assert len(seen) == 3  # as Python goes, as sessions go, and a session
    assert all("Proxy-Authorization: Basic c2NvdHQ6dGlnZXI=" in head for head in seen)


@pytest.mark.usefixtures("bedrock")
async def test_a_proxy_that_is_not_for_this_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    found = (await examined(offline=True))["Proxy"]
    assert found.found == "all_proxy is set, but NO_PROXY excepts 127.0.0.1"


async def test_a_proxy_that_speaks_tls_itself(
    bedrock: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca = trustme.CA()
    both = tmp_path / "both.pem"
    both.write_bytes(await asyncio.to_thread(Path(bedrock.ca_file).read_bytes) + ca.cert_pem.bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(both))
    seen = list[str]()
    async with tls_server(ca.issue_cert("127.0.0.1"), proxy(seen)) as port:
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("https_proxy", f"https://127.0.0.1:{port}")
        findings = await examined()
    assert findings["Session"].state == "ok"
    assert len(seen) == 3
    assert "Proxy-Authorization" not in seen[0]


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answers 407 Proxy Auth", "user:password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answers 403 Forbidden", "to let 127.0.0.1:"),
        (b"x" * 100_000, "with something that is not HTTP", "Ask those who run the proxy"),
        (b"", "hangs up", "firewall"),
    ],
)
@pytest.mark.usefixtures("bedrock")
async def test_a_proxy_that_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str, hint: str
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if answer:
            await reader.read()

    async with on_the_way(refuse, monkeypatch):
        found = await the_failure()
    assert (found.name, said in found.found, hint in found.hint) == ("Connection", True, True)


@pytest.mark.usefixtures("bedrock")
async def test_a_proxy_that_is_not_there_is_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    found = await the_failure()
    assert (found.name, found.found) == ("Connection", "nothing listens at 127.0.0.1:1")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HTTPS_PROXY", "http://scott:tiger@proxy.example:3128")
    found = await the_failure()
    assert (found.name, found.hint) == ("DNS", "Check HTTPS_PROXY.")
    monkeypatch.setenv("HTTPS_PROXY", "ftp://scott:tiger@proxy.example")
    found = await the_failure()
    assert (found.name, "tiger" in found.found) == ("Proxy", False)


async def test_without_the_sdk_only_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "novasonic.bedrock", raising=False)
    monkeypatch.setitem(sys.modules, "awscrt", None)
    found = await the_failure()
    assert (found.name, "awscrt" in found.found) == ("Packages", True)
    real = metadata.distribution

    def without_the_crt(name: str) -> metadata.Distribution:
        if name == "awscrt":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", without_the_crt)
    found = await the_failure()
    assert "awscrt is not installed, but smithy-http[awscrt] needs awscrt" in found.found
    assert found.hint.startswith("pip install 'awscrt")


async def test_a_check_that_breaks_does_not_keep_others_from_being_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was can be looked up in the log, but for what is secret."""

    def broken() -> None:
        raise RuntimeError(f"no proxies, but {SECRET}")

    monkeypatch.setattr("urllib.request.getproxies", broken)
    caplog.set_level(logging.DEBUG)
    found = await the_failure(offline=True)
    assert (found.name, found.found) == ("Proxy", "RuntimeError: no proxies, but [secret]")
    assert "RuntimeError: no proxies, but [secret]" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("devices", "state", "said"),
    [
        (("USB mic spk",), "ok", "USB mic spk, 48000 Hz → USB mic spk, 48000 Hz"),
        (("USB spk",), "warning", "no microphone → USB spk, 48000 Hz"),
        ((), "skipped", "this machine has no sound devices"),
    ],
)
async def test_the_usual_devices_are_named_with_their_rates(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], state: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakePortAudio(*devices))
    found = (await examined(offline=True))["Sound"]
    assert (found.state, found.found) == (state, said)


async def test_without_the_extra_for_devices_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    found = (await examined(offline=True))["Sound"]
    assert (found.state, "pip install 'novasonic[devices]'" in found.hint) == ("skipped", True)


async def test_a_sound_system_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    portaudio, forever = FakePortAudio("mic"), threading.Event()
    monkeypatch.setattr(portaudio, "query_hostapis", forever.wait)
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    found = (await examined(offline=True, timeout=2.0))["Sound"]
    assert (found.state, found.found) == ("warning", "no answer within 2 s")
    forever.set()


async def test_an_examination_that_is_cancelled_leaves_nothing_behind(ca: trustme.CA) -> None:
    reached = asyncio.Event()

    async def wait(call: Call) -> None:
        reached.set()
        await call.forever()

    async with Peer(wait, ca) as peer:
        asking = asyncio.create_task(examine(endpoint_url=peer.url))
        await reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


# --- the command ------------------------------------------------------------------------------------------

MADE_UP = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_BEARER_TOKEN_BEDROCK": "bedrock-api-key-tiger",
    "AWS_REGION": "us-east-1",
    "HTTPS_PROXY": "http://scott:t%69ger@127.0.0.1:1",
}


def test_an_emulator_passes_as_a_whole(tmp_path: Path) -> None:
    """Also where the environment is made for AWS, with a token that goes with other keys."""
    mine = {"AWS_SESSION_TOKEN": TOKEN, "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}
    mine |= {"AWS_PROFILE": "nobody", "COLUMNS": "80"}
    done = run("doctor", "--emulator", cwd=tmp_path, **mine)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("✓ Emulator     runs for this at https://127.0.0.1:", "✓ Session ", "Nothing failed: "):
        assert part in done.stdout
    assert "✗" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_programs_get_a_list_of_objects(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--offline", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert {tuple(each) for each in found} == {("name", "state", "found", "hint", "cause")}
    assert [each["name"] for each in found if each["state"] == "failed"] == ["Region"]
    assert {each["cause"] for each in found} == {None, "Region"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_secret_is_printed_even_with_verbose(tmp_path: Path, form: list[str]) -> None:
    done = run("doctor", "--verbose", *form, cwd=tmp_path, **MADE_UP)
    assert done.returncode == 1
    assert "novasonic.doctor: Connection: failed, after" in done.stderr
    for secret in (SECRET, TOKEN, "tiger", "t%69ger", "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in done.stdout + done.stderr


def test_a_made_up_key_that_is_a_word_changes_no_other_word(tmp_path: Path) -> None:
    done = run("doctor", "--offline", cwd=tmp_path, **MADE_UP | {"AWS_SECRET_ACCESS_KEY": "none"})
    assert "✓ Proxy        127.0.0.1:1, from HTTPS_PROXY\n" in done.stdout
    assert "[secret]" not in done.stdout


def test_without_any_extra_and_on_a_plain_terminal_it_tells_the_same(tmp_path: Path) -> None:
    """It is needed most where least is installed."""
    program = (
        "import sys\n"
        "for name in ('rich', 'botocore', 'sounddevice', 'h2', 'trustme', 'soundfile'):\n"
        "    sys.modules[name] = None\n"
        "from novasonic.cli import main\n"
        "sys.exit(main(['doctor', '--offline']))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=BARE | MADE_UP | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "+ Credentials  AKIA...MPLE, from the environment\n" in done.stdout
    assert "- Sound        sound devices need an extra\n" in done.stdout
    assert "> pip install 'novasonic[devices]' for microphones, loudspeakers\n" in done.stdout


def test_in_a_terminal_it_has_colours_and_says_what_is_being_checked(tmp_path: Path) -> None:
    """Some checks take seconds."""
    env = {name: value for name, value in BARE.items() if name != "NO_COLOR"} | MADE_UP
    with Terminal("doctor", "--offline", env=env, cwd=tmp_path) as terminal:
        terminal.reads(r"\r\.\.\. Packages +\r")
        terminal.reads(r"\x1b\[32m✓ Credentials  \x1b\[0mAKIA…MPLE")
        status, rest = terminal.ends()
    assert (status, "Nothing failed" in rest) == (0, True)
    with Terminal("doctor", "--offline", env=env | {"NO_COLOR": "1"}, cwd=tmp_path) as terminal:
        terminal.reads("\r\n✓ Credentials  AKIA…MPLE")
        terminal.ends()


def test_an_emulator_that_does_not_start_is_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "h2.py").write_text("raise ImportError('no h2')")
    done = run("doctor", "--emulator", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "✗ Emulator     the emulator does not start: the emulator needs h2 and trustme\n" in done.stdout
    assert "→ pip install 'novasonic[emulator]'\n" in done.stdout
    assert "1 check failed: Emulator." in done.stdout


def test_the_help_says_what_it_costs(tmp_path: Path) -> None:
    done = run("doctor", "--help", cwd=tmp_path)
    assert "costs a few hundred tokens" in " ".join(done.stdout.split())
    done = run("doctor", "--timeout", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("novasonic: timeout is 0 seconds")
