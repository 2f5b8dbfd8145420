"""What `import novasonic` gives, and what it costs."""

import importlib
import subprocess
import sys
from typing import Any

import pytest

import novasonic
from novasonic import errors, events

HEAVY = (
    "awscrt",
    "aws_sdk_bedrock_runtime",
    "smithy_",
    "numpy",
    "soxr",
    "msgspec",
    "docstring_parser",
    "h2",
    "rich",
    "asyncio",
    "sounddevice",
)


def loaded_after(code: str) -> set[str]:
    """The names of the top-level modules that a fresh interpreter has loaded in the end."""
    report = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def heavy(loaded: set[str]) -> set[str]:
    return {name for name in loaded if name.startswith(HEAVY[2]) or name in HEAVY}


def test_importing_novasonic_loads_nothing_heavy() -> None:
    """Command-line programs and tests import it whether they speak or not."""
    loaded = loaded_after("import novasonic")
    assert heavy(loaded) == set()
    assert "novasonic" in loaded


def test_a_session_is_made_without_audio_libraries_and_without_the_sdk() -> None:
    """Sessions are made at import time and in web handlers; opening one loads the SDK in a thread."""
    loaded = loaded_after("from novasonic import SonicSession; SonicSession()")
    assert heavy(loaded) <= {"asyncio", "msgspec"}


def test_devices_are_made_without_looking_for_any() -> None:
    """That takes a fraction of a second, and makes some sound systems chatter."""
    code = "from novasonic.devices import Microphone, Speaker; from novasonic import converse; "
    assert heavy(loaded_after(f"{code} Speaker(); Microphone()")) <= {"asyncio", "msgspec"}


def test_docstrings_are_parsed_for_those_who_have_tools() -> None:
    """A program without tools has no use for the parser."""
    assert heavy(loaded_after("import novasonic.tools")) <= {"msgspec"}
    code = "from novasonic.tools import tool; tool(name='now', description='The time.')(lambda: 12)"
    assert heavy(loaded_after(code)) <= {"msgspec"}
    documented = "from novasonic.tools import tool\ndef now() -> int:\n  'The time.'\ntool(now)"
    assert "docstring_parser" in loaded_after(documented)


def test_an_event_is_had_without_a_session() -> None:
    code = "from novasonic import AudioChunk; import sys; assert 'novasonic.session' not in sys.modules"
    assert "asyncio" not in loaded_after(code)


@pytest.mark.parametrize("name", novasonic.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    found: Any = getattr(novasonic, name)
    if isinstance(found, type):
        assert found.__name__ == name
        assert found.__module__.startswith("novasonic.")
        assert getattr(importlib.import_module(found.__module__), name) is found
    assert getattr(novasonic, name) is found


def test_the_top_level_exports_what_it_means_to_and_nothing_else() -> None:
    """Adding a name here is a decision, not the side effect of an import."""
    assert sorted(novasonic.__all__) == dir(novasonic)
    assert len(novasonic.__all__) == len(set(novasonic.__all__))
    loaded = loaded_after(
        "import novasonic\n"
        "before = {name for name in vars(novasonic) if not name.startswith('_')}\n"
        "assert before <= {'Final', 'TYPE_CHECKING', 'importlib'}, before\n"
    )
    assert "novasonic" in loaded


def test_everything_that_iterating_yields_has_a_public_name() -> None:
    """Whoever writes `match event` should not have to look for its classes."""
    members = {kind.__name__ for kind in events.Event.__args__}
    assert members <= set(novasonic.__all__)


def test_every_error_has_a_public_name() -> None:
    assert {
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.SonicError)
    } <= set(novasonic.__all__)


def test_every_error_is_drawn_in_the_tree() -> None:
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, Exception):
            assert name in (errors.__doc__ or "")
            assert issubclass(found, errors.SonicError)


def test_a_configuration_error_is_a_value_error() -> None:
    assert issubclass(novasonic.ConfigurationError, ValueError)


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        (errors.ConnectError, True),
        (errors.CredentialsError, False),
        (errors.AccessDeniedError, False),
        (errors.ModelNotFoundError, False),
        (errors.InvalidRequestError, False),
        (errors.ThrottledError, True),
        (errors.InputTimeoutError, True),
        (errors.SessionExpiredError, True),
        (errors.ServiceError, True),
        (errors.StreamLostError, True),
    ],
)
def test_an_error_of_the_way_says_whether_it_may_pass_and_what_the_service_called_it(
    kind: type[errors.TransportError], *, retryable: bool
) -> None:
    plain = kind("what happened")
    assert (plain.retryable, plain.code, plain.request_id) == (retryable, None, None)
    told = kind("what happened", code="SomeException", request_id="r-1", retryable=not retryable)
    assert (told.retryable, told.code, told.request_id) == (not retryable, "SomeException", "r-1")
    assert str(told) == "what happened"


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'novasonic' has no attribute 'SonicSesion'"):
        _ = novasonic.SonicSesion


def test_a_module_can_be_imported_from_the_package() -> None:
    code = "from novasonic import models; from novasonic.events import Interrupted; import novasonic.messages"
    assert "novasonic" in loaded_after(code)


def test_the_version_is_that_of_the_package() -> None:
    metadata = importlib.import_module("importlib.metadata")
    assert novasonic.__version__ == metadata.version("novasonic")
