"""Conversations that are recorded and replayed, and what there is to compare."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from clocks import pass_time
from novasonic import audio, events, recording
from novasonic.emulator import Scenario
from novasonic.recording import Tape
from novasonic.session import SonicSession
from novasonic.tools import tool
from novasonic.transport import Connector

EMULATOR = Path(audio.__file__).parent / "emulator"

# What depends on the moment, and on where the program stands.
_TIMES = {"elapsed", "latency"}


@tool
async def weather(city: str, day: Literal["today", "tomorrow"] = "today") -> dict[str, object]:
    """The weather of a city."""
    await pass_time(0.4)
    return {"city": city, "celsius": 21 if day == "today" else 16}


async def demo_scenario() -> Scenario:
    return await asyncio.to_thread(Scenario.load, EMULATOR / "demo.json")


async def demo(transport: Connector, **options: Any) -> list[events.Event]:
    """Hold the conversation of `novasonic demo`: a question, a tool, an answer, an interruption."""
    given = {"system": "Tell the weather. Be brief.", "tools": [weather], **options}
    happened, answered = list[events.Event](), asyncio.Event()

    async with SonicSession(transport=transport, **given) as session:

        async def talk() -> None:
            await session.play_file(EMULATOR / "sounds" / "question.wav")
            await answered.wait()
            await pass_time(5.5)
            await session.play_file(EMULATOR / "sounds" / "interruption.wav")

        talking = asyncio.create_task(talk())
        try:
            async for event in session:
                happened.append(event)
                match event:
                    case events.AudioChunk():
                        answered.set()
                    case events.Transcript(role="ASSISTANT", stage="FINAL", turn=2):
                        await session.end()
                    case _:
                        pass
        finally:
            talking.cancel()
            await asyncio.wait({talking})
    return happened


def told(happened: Sequence[events.Event], *, times: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """What happened, to be compared: with the times that the events tell, or without."""
    return [
        (
            type(event).__name__,
            {
                each.name: _comparable(getattr(event, each.name), times=times)
                for each in fields(event)
                if each.compare and (times or each.name not in _TIMES)
            },
        )
        for event in happened
    ]


class _Seconds(float):
    """A time that may be a little different: a recording rounds."""

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) < 0.001


def _comparable(value: Any, *, times: bool) -> Any:
    match value:
        case float():
            return _Seconds(value)
        case BaseException():
            return (type(value), str(value))
        case events.Latency():
            return tuple(_comparable(getattr(value, each.name), times=times) for each in fields(value))
        case tuple():
            return [_comparable(each, times=times) for each in value]
        case events.ToolRun():
            return (value.id, value.arguments, value.result)
        case _:
            return value


async def read(path: Path) -> Tape:
    return await asyncio.to_thread(recording.read, path)


async def text_of(path: Path) -> str:
    return await asyncio.to_thread(path.read_text)
