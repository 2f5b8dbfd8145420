"""A spoken conversation: `python microphone.py`, and talk. Ctrl-C ends it.

Echo is cancelled with `pip install 'novasonic[aec]'`; with the extra `devices` alone, the microphone is off
while the assistant speaks.
"""

import asyncio

from novasonic import Interrupted, SonicSession, Transcript
from novasonic.devices import Microphone, Speaker


async def main() -> None:
    async with (
        Speaker() as speaker,
        Microphone(echo_of=speaker) as microphone,
        SonicSession(system="You are a friendly assistant. Be brief.", voice="tiffany") as session,
    ):
        print(f"{microphone.name} -> {speaker.name}, echo: {microphone.echo}")
        session.played_by(speaker)  # so that the session knows what was heard
        session.listen_to(microphone)
        async for event in session:
            speaker.handle(event)  # plays, and stops when you break in
            match event:
                case Transcript(role=role, text=text, stage="FINAL"):
                    print(f"{role}: {text.strip()}")
                case Interrupted(heard=heard):
                    print(f"-- you broke in after {heard or 0:.1f} s")
                case _:
                    pass


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("Goodbye.")
