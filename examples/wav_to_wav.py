"""Recorded questions, asked one after the other, and the whole conversation as a stereo recording.

`python wav_to_wav.py conversation.wav question.wav ...`: you are on the left, the model is on the right. The
questions may be WAV files of any kind; FLAC, Ogg and MP3 as well, with `novasonic[files]`.
"""

import asyncio
import sys

from novasonic import SonicSession


async def main(conversation: str, *questions: str) -> None:
    async with SonicSession(system="Be brief.", record_audio=conversation) as session:
        for question in questions:
            reply = await session.ask(question)
            print(f"{reply.user_text}\n  {reply.text}")
            await asyncio.sleep(reply.duration)  # hear it out: the next question would break in


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
