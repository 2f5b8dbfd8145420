"""Many sessions at once, a few at a time: the same question to every voice, and a table of the answers.

`python many_sessions.py "Introduce yourself in one sentence." 4`: no more than four at the same time. AWS
opens 20 for an account, all of its programs together; whoever comes when all are taken waits in line.
"""

import asyncio
import sys

from novasonic import Reply, SessionLimiter, SonicError, SonicSession
from novasonic.models import Voice

MODEL = "amazon.nova-2-sonic-v1:0"


async def interview(voice: Voice, question: str, limiter: SessionLimiter) -> Reply | SonicError:
    session = SonicSession(
        model=MODEL,
        voice=voice.name,
        system=f"Speak {voice.language}.",
        limiter=limiter,
        open_timeout=300,  # it is also how long to wait in line
    )
    try:
        async with session:
            return await session.ask(question)
    except SonicError as exc:  # one that fails does not end the others
        return exc


async def main(question: str, at_once: str) -> None:
    limiter, voices = SessionLimiter(int(at_once)), SonicSession(model=MODEL).model.voices
    answers = await asyncio.gather(*(interview(voice, question, limiter) for voice in voices))
    print(f"{'voice':10} {'language':24} {'answered':>8} {'speech':>7} {'cost':>8}")
    for voice, answer in zip(voices, answers, strict=True):
        match answer:
            case Reply(latency=latency, duration=seconds, usage=usage):
                numbers = f"{latency.audio or 0:6.2f} s {seconds:5.1f} s ${usage.cost():.4f}"
                print(f"{voice.name:10} {voice.language:24} {numbers}")
            case SonicError():
                print(f"{voice.name:10} {voice.language:24} {answer}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
