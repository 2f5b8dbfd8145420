"""What the pytest fixtures give: each makes services, and looks after them until the test is over."""

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack, cast, overload

import msgspec

from novasonic.emulator import MemoryConnector, Scenario
from novasonic.emulator.voice import Speaker
from novasonic.replaying import Replay, replay
from novasonic.script import Check
from novasonic.testing.script import Script, ScriptedTransport

if TYPE_CHECKING:
    import pytest

    from novasonic.emulator import Emulator

_STARTING: Final = 30.0  # seconds: a busy machine makes a certificate slowly
_STOPPING: Final = 10.0  # it takes one

# Of other keys than those that an emulator makes up.
_OTHER_KEYS: Final = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CREDENTIAL_EXPIRATION")


class SonicScript:
    """What the fixture `sonic_script` gives: scripted services, for `SonicSession(transport=...)`.

    The test fails if one of them was not played to its end::

        async def test_the_user_is_greeted(sonic_script):
            script = sonic_script([expect(typed("Hi!")), assistant_says("Hello to you.")])
            assert await my_app.greet(transport=script) == "Hello to you."

    A scenario of the emulator is a script, too: then what is said and when is that of the real service, and
    the program has to speak, or to type, for it to go on.
    """

    def __init__(self) -> None:
        self._scripted = list[ScriptedTransport]()
        self._played = list[MemoryConnector]()

    @overload
    def __call__(self, scenario: Scenario, /, *, speed: float = 1.0) -> MemoryConnector: ...
    @overload
    def __call__(self, *scripts: Script, patience: float | None = 10.0) -> ScriptedTransport: ...
    def __call__(
        self, *scripts: Script | Scenario, patience: float | None = 10.0, speed: float = 1.0
    ) -> ScriptedTransport | MemoryConnector:
        """Return a service.

        Args:
            scripts: One for each stream, as for `ScriptedTransport`; or one scenario, through which all
                streams go together.
            patience: As for `ScriptedTransport`.
            speed: Of a scenario: seconds of the service in one of the clock.
        """
        match scripts:
            case (Scenario() as scenario,):
                played = MemoryConnector(msgspec.structs.replace(scenario, shared=True), speed=speed)
                self._played.append(played)
                return played
            case _:
                scripted = ScriptedTransport(*cast("Sequence[Script]", scripts), patience=patience)
                self._scripted.append(scripted)
                return scripted

    def assert_complete(self) -> None:
        """See to it that all of them were played to their end.

        Raises:
            AssertionError: If not.
        """
        __tracebackhide__ = True
        for scripted in self._scripted:
            scripted.assert_complete()
        for played in self._played:
            if unused := played.unused():
                turns = ", ".join(
                    f"typed {turn.typed!r}"
                    if turn.typed
                    else f"heard {' '.join(each.text for each in turn.pieces)!r}"
                    for turn in unused
                )
                raise AssertionError(f"the scenario was not played to its end; these turns are left: {turns}")

    def progress(self) -> str:
        """Return how far the scripts were played, for people; empty if there are none."""
        return "\n".join(scripted.progress() for scripted in self._scripted)


class SonicReplay:
    """What the fixture `sonic_replay` gives: recorded services, for `SonicSession(transport=...)`.

    The test fails if its program does anything else than the one that was recorded::

        async def test_the_call_goes_as_it_went_in_march(sonic_replay):
            await my_app.talk(transport=sonic_replay("call.jsonl", speed=None))
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._replays = list[Replay]()

    def __call__(
        self,
        path: str | os.PathLike[str],
        *,
        speed: float | None = 1.0,
        check: Check = "strict",
        patience: float | None = 10.0,
    ) -> Replay:
        """Return a service.

        Args:
            path: The recording; one that is not absolute is looked for beside the test's file.
            speed: How much faster than it was recorded; None for at once.
            check: As for `novasonic.replay`.
            patience: As for `novasonic.replay`.
        """
        played = replay(self._folder / path, speed=speed, check=check, patience=patience)
        self._replays.append(played)
        return played

    def assert_complete(self) -> None:
        """See to it that all of them were replayed to their end.

        Raises:
            AssertionError: If not.
            ReplayError: If the program did something else.
        """
        __tracebackhide__ = True
        for played in self._replays:
            played.assert_complete()


class EmulatorOptions(TypedDict, total=False):
    """Options of an `Emulator`, as far as they make sense in a test."""

    port: int
    speed: float
    max_sessions: int
    region: str


class SonicEmulator:
    """What the fixture `sonic_emulator` gives: Bedrock on localhost, to which the environment leads.

    For programs that are to run unchanged, in the test's own process or in another, with novasonic or any AWS
    SDK::

        def test_the_program_says_hello(sonic_emulator):
            bedrock = sonic_emulator(Scenario(turns=[Turn(typed="*", says="Hello!")]))
            subprocess.run([sys.executable, "my_app.py"], check=True)
            assert bedrock.sessions[-1].outcome == "completed"

    It runs in a thread, until the test is over. What it has to say without a sound file, it hums.
    """

    def __init__(self, monkeypatch: "pytest.MonkeyPatch") -> None:
        self._monkeypatch = monkeypatch
        self._running = list[_Running]()

    def __call__(
        self, scenario: Scenario | Sequence[Scenario] | None = None, **options: Unpack[EmulatorOptions]
    ) -> "Emulator":
        """Run an emulator, and lead the environment to it; return it once it listens, in a tenth of a second.

        Args:
            scenario: What is heard and answered, as for `Emulator`.
            options: `port`, `speed`, `max_sessions` and `region`, as for `Emulator`.

        Raises:
            ConfigurationError: If it cannot run like that.
            ImportError: If `novasonic[emulator]` is not installed.
        """
        from novasonic.emulator import Emulator  # noqa: PLC0415 - it is an extra

        given = [scenario] if isinstance(scenario, Scenario) else list(scenario or ())
        voice = Speaker([Path(each.folder) for each in given if each.folder], speaks=False)
        running = _Running(Emulator(given, voice=voice, **options))
        self._running.append(running)
        for name in _OTHER_KEYS:
            self._monkeypatch.delenv(name, raising=False)
        for name, value in running.emulator.env.items():
            self._monkeypatch.setenv(name, value)
        return running.emulator

    def close(self) -> None:
        """Stop all of them."""
        for running in self._running:
            running.stop()


class _Running:
    """An emulator that runs in a thread."""

    def __init__(self, emulator: "Emulator") -> None:
        self.emulator = emulator
        self._started = Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()
        self._thread = threading.Thread(target=self._run, name="novasonic-emulator", daemon=True)
        self._thread.start()
        self._loop, self._stopped = self._started.result(_STARTING)

    def stop(self) -> None:
        """Stop it, and wait until it has."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_STOPPING)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            if self._started.done():
                raise
            self._started.set_exception(exc)

    async def _serve(self) -> None:
        stopped = asyncio.Event()
        async with self.emulator:
            self._started.set_result((asyncio.get_running_loop(), stopped))
            await stopped.wait()
