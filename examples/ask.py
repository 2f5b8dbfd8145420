"""One spoken question, one spoken answer: `python ask.py question.wav answer.wav`."""

import asyncio
import sys

import novasonic


async def main(question: str, answer: str) -> None:
    reply = await novasonic.ask(question, system="Be brief.")
    print(f"{reply.user_text} -> {reply.text}")
    reply.save(answer)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
