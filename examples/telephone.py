"""A telephone line without a telephone: µ-law at 8 kHz, both ways, over a plain TCP socket.

`python telephone.py 8023` answers calls on that port, many at once. A gateway or a media server sends it the
caller's bytes, 160 for each 20 ms, and gets as many back. When the caller breaks in, the line falls silent at
once: speech that was not sent yet is dropped, and what is on its way is 20 ms.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from novasonic import Interrupted, SonicError, SonicSession, Transcript, g711
from novasonic.playback import Player
from novasonic.sinks import Frames

FRAME = 160  # bytes: 20 ms


async def heard(line: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while packet := await line.read(FRAME):
        yield packet


async def speak(player: Player, line: asyncio.StreamWriter) -> None:
    async for pcm in Frames(player, 0.02, silence=True):  # each when its time has come
        line.write(g711.encode(pcm, "mulaw"))
        await line.drain()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    player = Player(8_000)
    speaking = asyncio.create_task(speak(player, writer))
    try:
        async with SonicSession(input_rate=8_000, output_rate=8_000) as session:
            session.played_by(player)
            calling = session.listen_to(heard(reader), sample_rate=8_000, encoding="mulaw")
            calling.add_done_callback(lambda _: asyncio.ensure_future(session.end()))  # hung up
            async for event in session:
                player.handle(event)  # plays, and stops when the caller breaks in
                if isinstance(event, Transcript) and event.stage == "FINAL":
                    print(f"{event.role}: {event.text.strip()}", flush=True)
                elif isinstance(event, Interrupted):
                    print(f"-- the caller broke in after {event.heard or 0:.1f} s", flush=True)
        print("-- the call is over", flush=True)
    except SonicError as exc:
        print(f"-- {exc}", flush=True)
    finally:
        speaking.cancel()
        writer.close()


async def main(port: str) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", int(port)) as server:
        print(f"Calls are answered on port {server.sockets[0].getsockname()[1]}.", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
