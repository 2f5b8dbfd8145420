"""The pytest plugin in projects of its users: with pytest-asyncio, with anyio, and with neither."""

import asyncio
import sys
from pathlib import Path

import pytest

from novasonic.session import ask
from novasonic.testing import ScriptedTransport, VirtualLoop, assistant_says, expect, typed

pytest_plugins = ("pytester",)

PROGRAM = "import asyncio, novasonic; print(asyncio.run(novasonic.ask('Hi!')).text)"

SYNC = f"""
    import asyncio, os, subprocess, sys

    import novasonic
    from novasonic.emulator import Scenario, Turn
    from novasonic.testing import assistant_says, expect, typed

    SCENARIO = Scenario(turns=[Turn(typed="*", says="Hello!")])

    def test_script(sonic_script):
        script = sonic_script([expect(typed("Hi!")), assistant_says("Hello!")])
        assert asyncio.run(novasonic.ask("Hi!", transport=script)).text == "Hello!"

    def test_replay(sonic_replay):
        replay = sonic_replay("call.jsonl", speed=None)
        assert asyncio.run(novasonic.ask("Hi!", transport=replay)).text == "Hello!"

    def test_emulator(sonic_emulator, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "somebody")
        bedrock = sonic_emulator(SCENARIO, speed=20)
        assert "AWS_PROFILE" not in os.environ
        ran = subprocess.run([sys.executable, "-c", {PROGRAM!r}], capture_output=True, text=True, check=True)
        assert ran.stdout == "Hello!\\n"
        assert [log.outcome for log in bedrock.sessions] == ["completed"]

    def test_the_environment_is_as_before():
        assert "AWS_ENDPOINT_URL_BEDROCK_RUNTIME" not in os.environ

    def test_clock(sonic_clock):
        async def main():
            start = sonic_clock.now
            await sonic_clock.advance(3600)
            return sonic_clock.now - start

        assert sonic_clock.run(main()) == 3600
"""

ASYNC = """
    import asyncio

    import pytest

    import novasonic
    from novasonic.emulator import Scenario, Turn
    from novasonic.testing import VirtualLoop, assistant_says, expect, typed

    pytestmark = MARK
    SCENARIO = Scenario(turns=[Turn(typed="*", says="Hello!")])

    async def test_script(sonic_script):
        script = sonic_script([expect(typed("Hi!")), assistant_says("Hello!")])
        assert (await novasonic.ask("Hi!", transport=script)).text == "Hello!"

    async def test_emulator(sonic_emulator):
        bedrock = sonic_emulator(SCENARIO, speed=20)
        assert (await novasonic.ask("Hi!")).text == "Hello!"
        assert not isinstance(asyncio.get_running_loop(), VirtualLoop)

    class TestTime:
        BACKEND

        async def test_clock(self, sonic_clock):
            start = sonic_clock.now
            await sonic_clock.advance(3600)
            assert sonic_clock.now - start == 3600

        async def test_scenario(self, sonic_clock, sonic_script):
            assert (await novasonic.ask("Hi!", transport=sonic_script(SCENARIO))).text == "Hello!"

    async def test_later():
        assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
"""

ANYIO_BACKEND = """
        @pytest.fixture
        def anyio_backend(self):
            return "asyncio", {"loop_factory": VirtualLoop}
"""

OPTIONS = ("-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-W", "error")
SCOPE = "asyncio_default_fixture_loop_scope=function"


@pytest.fixture
def call(pytester: pytest.Pytester) -> Path:
    """A recording, beside the tests."""
    path = pytester.path / "call.jsonl"
    script = ScriptedTransport([expect(typed("Hi!")), assistant_says("Hello!")])
    asyncio.run(ask("Hi!", transport=script, record=path), loop_factory=VirtualLoop)
    return path


@pytest.mark.usefixtures("call")
def test_the_fixtures_need_no_other_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SYNC)
    ran = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:asyncio", "-p", "no:anyio")
    ran.assert_outcomes(passed=5)


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """Asking for the clock is all that it takes to be on virtual time."""
    marks = "pytest.mark.asyncio" if mode == "strict" else "[]"
    pytester.makepyfile(ASYNC.replace("MARK", marks).replace("BACKEND", ""))
    ran = pytester.runpytest_subprocess(*OPTIONS, "--asyncio-mode", mode, "-o", SCOPE)
    ran.assert_outcomes(passed=5)


def test_the_fixtures_work_with_anyio(pytester: pytest.Pytester) -> None:
    """A fixture of anyio's says which loop it is."""
    backend = '@pytest.fixture\n    def anyio_backend():\n        return "asyncio"\n\n    class TestTime'
    source = ASYNC.replace("MARK", "pytest.mark.anyio").replace("BACKEND", ANYIO_BACKEND.strip())
    pytester.makepyfile(source.replace("class TestTime", backend))
    ran = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:asyncio")
    ran.assert_outcomes(passed=5)


def test_loops_of_a_projects_own_stay_as_they_are(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import asyncio

        class OurLoop(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories(config, item):
            return {"ours": OurLoop}
        """
    )
    pytester.makepyfile(
        """
        import asyncio

        async def test_ours():
            assert type(asyncio.get_running_loop()).__name__ == "OurLoop"

        async def test_virtual(sonic_clock):
            assert type(asyncio.get_running_loop()).__name__ == "VirtualLoop"
            await sonic_clock.advance(3600)
        """
    )
    ran = pytester.runpytest_subprocess(*OPTIONS, "--asyncio-mode", "auto", "-o", SCOPE, "-v")
    ran.assert_outcomes(passed=2)
    ran.stdout.fnmatch_lines(["*::test_ours PASSED*", "*::test_virtual PASSED*"])


@pytest.mark.usefixtures("call")
def test_a_test_that_leaves_its_script_fails_and_says_where(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio

        import novasonic
        import pytest
        from novasonic.emulator import Scenario, Turn
        from novasonic.testing import assistant_says, expect, typed

        STEPS = [expect(typed("Hi!")), assistant_says("Hello!")]

        def test_left(sonic_script):
            sonic_script(STEPS)

        def test_other(sonic_script, sonic_clock):
            with pytest.raises(Exception):
                sonic_clock.run(novasonic.ask("Bye!", transport=sonic_script(STEPS)))

        def test_failed(sonic_script):
            sonic_script(STEPS)
            assert 1 == 2

        def test_skipped(sonic_script):
            sonic_script(STEPS)
            pytest.skip("not today")

        def test_turns(sonic_script):
            sonic_script(Scenario(turns=[Turn(typed="Hi!"), Turn(heard=["and", "tomorrow?"])]))

        def test_recording(sonic_replay):
            sonic_replay("call.jsonl")

        def test_other_recording(sonic_replay, sonic_clock):
            with pytest.raises(novasonic.ReplayError):
                sonic_clock.run(novasonic.ask("Bye!", transport=sonic_replay("call.jsonl")))

        def test_time(sonic_emulator, sonic_clock):
            pass

        def test_no_script(sonic_script):
            assert 3 == 4
        """
    )
    ran = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:asyncio", "-p", "no:anyio", "-rA")
    ran.assert_outcomes(passed=5, failed=2, errors=6, skipped=1)
    output = ran.stdout.str()
    assert output.count("- sonic_script -") == 1, "once, in the report of the test that has failed"
    ran.stdout.fnmatch_lines_random(
        [
            "the script was not played to its end.",
            "stream 1, step 1 of 2: the client does not do what the script expects",
            "  came: * typed text 'Bye!'",
            "the scenario was not played * these turns are left: typed 'Hi!', heard 'and tomorrow?'",
            "the program has opened 0 of 1 recorded streams",
            "*event.textInput.content*Bye!*",
            "sonic_emulator and sonic_clock exclude each other: *",
        ]
    )


def test_nothing_is_loaded_before_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    """Every run of pytest in an environment with novasonic loads the plugin."""
    pytester.makepyfile(
        """
        import sys

        def test_loaded():
            ours = {name for name in sys.modules if name.partition(".")[0] == "novasonic"}
            assert ours == {"novasonic", "novasonic.testing", "novasonic.testing.plugin"}
            assert {"asyncio", "numpy", "msgspec", "awscrt", "hypothesis"}.isdisjoint(sys.modules)
        """
    )
    quiet = (
        "-p",
        "no:asyncio",
        "-p",
        "no:anyio",
        "-p",
        "no:pytest_cov",
        "-p",
        "no:timeout",
        "-p",
        "no:unittest",
    )
    ran = pytester.runpytest_subprocess(*OPTIONS, *quiet)
    ran.assert_outcomes(passed=1)
    assert sys.modules["novasonic.testing.plugin"], "it is loaded here, too"
