"""What tests of a spoken program need: no AWS, no microphone, no waiting.

With novasonic installed, pytest has these fixtures. They work in tests of every kind, coroutine functions or
not, whatever plugin runs them:

- `sonic_script` gives a scripted service in memory, and fails a test that does not follow the script;
- `sonic_replay` plays a recording of a conversation;
- `sonic_emulator` runs Bedrock on localhost, to which the environment leads: a program runs unchanged;
- `sonic_clock` puts the test on virtual time, in which an hour is over at once.

A whole test::

    from novasonic.testing import answers, assert_said, assistant_says, calls_tool, expect, typed

    async def test_the_weather_is_read_aloud(sonic_script):
        script = sonic_script([
            expect(typed("How is the weather in Oslo?")),
            calls_tool("weather", {"city": "Oslo"}),
            expect(answers("weather", {"celsius": 7})),
            assistant_says("It is seven degrees in Oslo."),
        ])
        async with SonicSession(transport=script, tools=[weather]) as session:
            await my_app.ask(session, "How is the weather in Oslo?")
            assert_said(session, "ASSISTANT", "seven degrees")

Nothing is loaded before it is used. `pip install 'novasonic[testing]'` brings pytest and pytest-asyncio.
"""

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from novasonic.testing.assertions import assert_called, assert_happened, assert_interrupted, assert_said
    from novasonic.testing.clock import SonicClock, VirtualLoop
    from novasonic.testing.fixtures import SonicEmulator, SonicReplay, SonicScript
    from novasonic.testing.patterns import answers, opens, speaks, typed
    from novasonic.testing.script import ScriptedTransport, emit, end, expect, fail, wait
    from novasonic.testing.strategies import conversations
    from novasonic.testing.turns import (
        assistant_says,
        calls_tool,
        events_of,
        interrupts,
        stream_of,
        usage,
        user_says,
        was_heard,
    )

__all__ = [
    "ScriptedTransport",
    "SonicClock",
    "SonicEmulator",
    "SonicReplay",
    "SonicScript",
    "VirtualLoop",
    "answers",
    "assert_called",
    "assert_happened",
    "assert_interrupted",
    "assert_said",
    "assistant_says",
    "calls_tool",
    "conversations",
    "emit",
    "end",
    "events_of",
    "expect",
    "fail",
    "interrupts",
    "opens",
    "speaks",
    "stream_of",
    "typed",
    "usage",
    "user_says",
    "wait",
    "was_heard",
]

_HOMES: Final = {
    "assertions": {"assert_called", "assert_happened", "assert_interrupted", "assert_said"},
    "clock": {"SonicClock", "VirtualLoop"},
    "fixtures": {"SonicEmulator", "SonicReplay", "SonicScript"},
    "patterns": {"answers", "opens", "speaks", "typed"},
    "script": {"ScriptedTransport", "emit", "end", "expect", "fail", "wait"},
    "strategies": {"conversations"},
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), "turns")
    found: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
