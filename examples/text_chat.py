"""A chat by keyboard: you type, the model answers aloud, and what it says is printed. Ctrl-D ends it.

The speech of the last answer is in `reply.wav`: Nova Sonic always speaks.
"""

import asyncio
import sys

from novasonic import SonicSession


async def main() -> None:
    async with SonicSession(system="You are a friendly assistant. Be brief.") as session:
        while line := await asyncio.to_thread(sys.stdin.readline):
            reply = await session.ask(line)
            print(f"nova: {reply.text}")
            reply.save("reply.wav")
    print(f"{session.usage.total} tokens, ${session.usage.cost():.4f}")


if __name__ == "__main__":
    asyncio.run(main())
