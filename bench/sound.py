"""What audio costs, one step at a time: `python -m bench.sound` prints `Sound` as JSON.

The goals are those of the library: a frame of 48 kHz stereo floats in under 150 µs, and both laws of G.711 at
more than 200 times real time, each way.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import numpy as np

from novasonic import g711, messages
from novasonic.audio import Chunker, Resampler
from novasonic.events import AudioChunk
from novasonic.playback import Player

_ROUNDS: Final = 3_000
_FRAME: Final = 0.032
_TELEPHONE: Final = 8_000


class Sound(msgspec.Struct, kw_only=True):
    """What was measured, in microseconds: medians.

    Attributes:
        frame_us: From 32 ms of 48 kHz stereo floats to the JSON of the messages that carry it.
        plain_frame_us: The same from bytes that are already right.
        law_frame_us: The same from the µ-law of a telephone, resampled from 8 to 16 kHz.
        g711_decode: How many times faster than it plays a stream is decoded, in packets of 20 ms.
        g711_encode: The same the other way.
        player_read_us: A loudspeaker's 20 ms out of a player.
        player_read_48k_us: The same where the loudspeaker has 48 kHz, with the resampling of it.
    """

    frame_us: float
    plain_frame_us: float
    law_frame_us: float
    g711_decode: dict[str, float]
    g711_encode: dict[str, float]
    player_read_us: float
    player_read_48k_us: float


def main() -> None:
    """Measure all of it, and print it."""
    noise = np.random.default_rng(1).normal(0, 0.1, (round(48_000 * _FRAME), 2)).astype(np.float32)
    speech = (noise[: round(16_000 * _FRAME), 0] * 32767).astype("<i2").tobytes()
    packet = g711.encode(speech[:320], "mulaw")
    samples = 160 / _TELEPHONE * 1e6  # microseconds of a packet
    sound = Sound(
        frame_us=_frame(lambda chunker: chunker.feed(noise, sample_rate=48_000)),
        plain_frame_us=_frame(lambda chunker: chunker.feed(speech)),
        law_frame_us=_frame(lambda chunker: chunker.feed(packet, sample_rate=_TELEPHONE, encoding="mulaw")),
        g711_decode={law: samples / _median(partial(g711.decode, packet, law)) for law in g711.LAWS},
        g711_encode={law: samples / _median(partial(g711.encode, speech[:320], law)) for law in g711.LAWS},
        player_read_us=_player(24_000),
        player_read_48k_us=_player(48_000),
    )
    print(msgspec.json.format(msgspec.json.encode(sound)).decode())


def _frame(feed: Callable[[Chunker], list[bytes]]) -> float:
    chunker = Chunker()

    def send() -> None:
        for frame in feed(chunker):
            messages.encode(messages.AudioInput(prompt_name="p" * 36, content_name="c" * 36, content=frame))

    return _median(send)


def _player(sample_rate: int) -> float:
    player, samples = Player(sample_rate, prebuffer=0), sample_rate // 50
    chunk = AudioChunk(turn=1, pcm=bytes(960), sample_rate=24_000)

    def play() -> None:
        player.play(chunk)
        player.read(samples)

    return _median(play)


def _median(step: Callable[[], object]) -> float:
    """How many microseconds a step takes; the first ones are not counted."""
    taken: list[int] = []
    for _ in range(_ROUNDS):
        start = time.perf_counter_ns()
        step()
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken[_ROUNDS // 10 :]) / 1000


# What is imported lazily would else be counted as the first step's.
Resampler(48_000, 16_000)

if __name__ == "__main__":
    main()
