"""Speech in any form, on the whole way from a file or a telephone line to what the service hears."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from clocks import pass_time
from novasonic import audio, events, g711
from novasonic.emulator import MemoryConnector
from novasonic.session import SonicSession
from running import until

pytestmark = pytest.mark.clock("virtual")

SOUNDS = Path(audio.__file__).parent / "emulator" / "sounds"

FORMS = {
    "16-bit WAV at 48 kHz": ("question.wav", 48_000, "PCM_16"),
    "24-bit WAV": ("question.wav", 48_000, "PCM_24"),
    "WAV of floats": ("question.wav", 44_100, "FLOAT"),
    "a telephone's µ-law": ("question.wav", 8_000, "ULAW"),
    "a telephone's A-law": ("question.wav", 8_000, "ALAW"),
    "FLAC": ("question.flac", 48_000, "PCM_24"),
}


@pytest.fixture(scope="module")
def spoken() -> NDArray[Any]:
    """Real speech at 16 kHz."""
    samples: NDArray[Any]
    samples, rate = soundfile.read(SOUNDS / "question.wav")
    assert rate == 16_000
    return samples


async def test_speech_is_as_long_in_any_form(tmp_path: Path, spoken: NDArray[Any]) -> None:
    """A session finds it where it is, and converts it on the way; the service hears the same."""
    lengths = dict[str, float]()
    for form, (name, rate, subtype) in FORMS.items():
        stereo = np.repeat(soxr.resample(spoken, 16_000, rate)[:, np.newaxis], 1 + (rate > 8_000), axis=1)
        path = tmp_path / subtype / name
        path.parent.mkdir(exist_ok=True)
        await asyncio.to_thread(soundfile.write, path, stereo, rate, subtype)
        async with SonicSession(transport=MemoryConnector()) as session:
            await session.play_file(path)
            said = await until(session, events.UserSpeechEnded)
        [began] = [event for event in said if isinstance(event, events.UserSpeechStarted)]
        ended = said[-1]
        assert isinstance(ended, events.UserSpeechEnded)
        lengths[form] = ended.offset - began.offset
    assert max(lengths.values()) - min(lengths.values()) < 0.05, lengths
    assert 3.5 < max(lengths.values()) < 4.5


@pytest.mark.parametrize("law", g711.LAWS)
async def test_a_telephone_line_is_heard_as_it_is(law: g711.Law, spoken: NDArray[Any]) -> None:
    """Packets of 20 ms, by all three ways in."""
    pcm = np.round(soxr.resample(spoken, 16_000, 8_000) * 32767).clip(-32768, 32767).astype("<i2").tobytes()
    line = g711.encode(pcm, law)
    packets = [line[at : at + 160] for at in range(0, len(line), 160)]

    async def call() -> AsyncIterator[bytes]:
        for packet in packets:
            yield packet
            await pass_time(0.02)

    async with SonicSession(transport=MemoryConnector()) as session:
        session.listen_to(call(), sample_rate=8_000, encoding=law)
        [*_, ended] = await until(session, events.UserSpeechEnded)
    assert isinstance(ended, events.UserSpeechEnded)
    assert ended.offset == pytest.approx(4.2, abs=0.4)

    async with SonicSession(transport=MemoryConnector()) as session:
        for packet in packets:
            await session.send_audio(packet, sample_rate=8_000, encoding=law)
            session.feed_audio(packet, sample_rate=8_000, encoding=law)
            await pass_time(0.04)
        [*_, ended] = await until(session, events.UserSpeechEnded)
    assert isinstance(ended, events.UserSpeechEnded)
    assert ended.offset == pytest.approx(8.4, abs=0.8)
