"""The model speaks first: its words are printed, its speech is written to hello.wav."""

import asyncio

from novasonic import AudioChunk, SonicSession, Transcript, TurnEnded
from novasonic.audio import WavWriter


async def main() -> None:
    with WavWriter("hello.wav", 24_000) as wav:
        async with SonicSession(voice="tiffany", system="You are a friendly assistant.") as session:
            await session.send_text("Say hello in three languages.")
            async for event in session:
                match event:
                    case AudioChunk():
                        wav.write(event.pcm)
                    case Transcript(role="ASSISTANT", stage="SPECULATIVE", text=text):
                        print(text)
                    case TurnEnded():
                        break
                    case _:
                        pass


if __name__ == "__main__":
    asyncio.run(main())
