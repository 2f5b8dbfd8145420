"""Breaking in: `python interruptions.py question.wav interruption.wav`.

The question is asked, and two seconds into the answer, the interruption. What is said is printed, and at the
end what the conversation remembers: of an answer that was cut, only what was heard.
"""

import asyncio
import sys

from novasonic import AudioChunk, Interrupted, SonicSession, Transcript
from novasonic.playback import Player
from novasonic.sinks import Frames

BREAKS_IN_AFTER = 2.0  # seconds of the answer


async def play(player: Player, break_in: asyncio.Event) -> None:
    """Stand in for a loudspeaker: take the speech out, frame after frame, each when its time has come."""
    async for _pcm in Frames(player):
        if player.played > BREAKS_IN_AFTER:
            break_in.set()


async def main(question: str, interruption: str) -> None:
    player, break_in = Player(), asyncio.Event()

    async def ask(session: SonicSession) -> None:
        await session.play_file(question)
        await break_in.wait()
        await session.play_file(interruption)

    async with SonicSession(system="Answer in detail.") as session, asyncio.TaskGroup() as tasks:
        session.played_by(player)  # so that the session knows what was heard
        playing = tasks.create_task(play(player, break_in))
        tasks.create_task(ask(session))
        cut = 0
        async for event in session:
            match event:
                case AudioChunk():
                    player.play(event)
                case Interrupted(heard=heard, turn=cut):
                    player.stop()
                    print(f"-- interrupted after {heard:.1f} s")
                case Transcript(role=role, text=text, stage="FINAL", turn=turn):
                    print(f"{role}: {text.strip()}")
                    if role == "ASSISTANT" and turn > cut > 0:  # it has answered the interruption
                        break
                case _:
                    pass
        playing.cancel()
    for message in session.history:
        print(f"remembered: {message.heard_text if message.interrupted else message.text}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
