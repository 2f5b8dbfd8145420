"""Tools: plain functions that the model may call, and that run while it goes on talking.

`python tools.py "What is the weather in Oslo, and what time is it there?"`
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta

from novasonic import SonicSession, ToolContext, tool


@tool
async def weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, object]:
    """Current weather of a city.

    Args:
        city: Its name in English.
        unit: Of the temperature.
    """
    await asyncio.sleep(0.5)  # a request to a weather service
    return {"city": city, "temperature": 7 if unit == "celsius" else 45, "sky": "cloudy"}


def clock(hours: Annotated[int, Meta(ge=-12, le=14, description="Hours ahead of UTC.")]) -> str:
    """The time in some time zone."""
    return f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}"  # may block: it runs in a thread


@tool(timeout=60, cancel_on_interrupt=True)
async def search(question: str, context: ToolContext) -> list[str]:
    """Search the archive, for what no other tool knows."""
    await context.say("This will take a moment.")
    await asyncio.sleep(5)
    return [f"nothing about {question!r}"]


async def main(question: str) -> None:
    async with SonicSession(system="Use your tools.", tools=[weather, clock, search]) as session:
        reply = await session.ask(question)
        for call in reply.tool_calls:
            print(f"{call.name}({call.arguments}) -> {call.result} after {call.elapsed:.1f} s")
        print(reply.text)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
