"""A conversation is recorded, and replayed without the service: `python record_and_replay.py question.wav`.

`call.jsonl` holds what went over the wire, and `novasonic replay call.jsonl` shows it. The replay checks that
the program says what it said then; where it does not, the error names the difference.
"""

import asyncio
import sys

from novasonic import ReplayError, SonicSession, replay


async def converse(session: SonicSession, question: str) -> str:
    async with session:
        reply = await session.ask(question)
        return reply.text


async def main(question: str) -> None:
    recorded = SonicSession(system="Be brief.", record="call.jsonl")
    said = await converse(recorded, question)
    print(f"recorded: {said}")

    replayed = SonicSession(system="Be brief.", transport=replay("call.jsonl"))
    print(f"replayed: {await converse(replayed, question)}")

    changed = SonicSession(system="Be rude.", transport=replay("call.jsonl"))
    try:
        await converse(changed, question)
    except ReplayError as difference:
        print(f"with another system prompt: {difference}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
