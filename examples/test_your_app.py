"""Tests of a spoken program, without AWS, a microphone or waiting: `pytest test_your_app.py`."""

import pytest

from novasonic import SonicSession, tool
from novasonic.emulator import Scenario, Turn
from novasonic.testing import (
    SonicEmulator,
    SonicScript,
    answers,
    assert_interrupted,
    assert_said,
    assistant_says,
    calls_tool,
    expect,
    interrupts,
    typed,
)

pytestmark = pytest.mark.asyncio


@tool
async def weather(city: str) -> dict[str, object]:
    """The weather of a city."""
    return {"city": city, "celsius": 7}


async def app(session: SonicSession) -> SonicSession:  # the program that is tested
    async with session:
        await session.send_text("How is the weather in Oslo?")
        async for _event in session:
            if session.history and session.history[-1].text.endswith("."):
                break
    return session


async def test_the_weather_is_read_aloud(sonic_script: SonicScript) -> None:
    steps = [
        expect(typed("*weather in Oslo*")),
        calls_tool("weather", {"city": "Oslo"}),
        expect(answers("weather", {"city": "Oslo", "celsius": 7})),
        assistant_says("It is seven degrees in Oslo."),
    ]
    session = await app(SonicSession(transport=sonic_script(steps), tools=[weather]))
    assert_said(session, "ASSISTANT", "seven degrees")


async def test_the_user_may_break_in(sonic_script: SonicScript) -> None:
    script = sonic_script([expect(typed()), assistant_says("Well,", until=0.1), interrupts("never mind.")])
    session = await app(SonicSession(transport=script))
    assert_interrupted(session, "Well,")


async def test_the_program_runs_unchanged(sonic_emulator: SonicEmulator) -> None:
    sonic_emulator(Scenario(turns=[Turn(typed="*", says="Cold.")]), speed=10)
    session = await app(SonicSession())
    assert_said(session, "ASSISTANT", "Cold.")
