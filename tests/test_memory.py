"""The emulated service without a wire: what only this way to it has."""

import asyncio

import pytest

from clocks import pass_time
from emulated import audio, audio_start, setup, silence
from novasonic import messages
from novasonic.emulator import MemoryConnector
from novasonic.errors import CredentialsError
from novasonic.transport import Transport

FIRST = [messages.encode(message) for message in setup()]
SPEECH = messages.encode(audio(silence(0.032)))


async def read_to_the_end(stream: Transport) -> None:
    while await stream.receive() is not None:
        pass


async def test_credentials_do_not_expire_unless_they_are_told_to() -> None:
    stream = await MemoryConnector()(FIRST, timeout=10)
    assert stream.expires_in is None
    await stream.aclose()


@pytest.mark.clock("virtual")
@pytest.mark.parametrize("speed", [1.0, 20.0])
async def test_each_stream_has_fresh_credentials_that_last_as_long_as_they_are_told_to(speed: float) -> None:
    """In the time of whoever asks: it is for the clock of the event loop."""
    connector = MemoryConnector(speed=speed, credentials_last=300)
    for _ in range(2):
        stream = await connector(FIRST, timeout=10)
        assert stream.expires_in == 300 / speed
        await pass_time(stream.expires_in - 0.01)
        await stream.send(messages.encode(audio_start()))
        await stream.aclose()


@pytest.mark.clock("virtual")
@pytest.mark.parametrize("reading", [True, False])
async def test_what_is_sent_after_they_have_expired_ends_the_stream(reading: bool) -> None:
    connector = MemoryConnector(credentials_last=40)
    stream = await connector(FIRST, timeout=10)
    await stream.send(messages.encode(audio_start()))
    await stream.send(SPEECH)
    listening = asyncio.create_task(read_to_the_end(stream)) if reading else None
    await pass_time(40)
    now = asyncio.get_running_loop().time()
    await stream.send(SPEECH)
    if listening is None:
        listening = asyncio.create_task(read_to_the_end(stream))
    for told in (listening, read_to_the_end(stream), stream.send(SPEECH)):
        with pytest.raises(CredentialsError, match="aws sso login") as caught:
            await told
        assert caught.value.code == "ExpiredTokenException"
        assert caught.value.request_id == stream.request_id
    assert asyncio.get_running_loop().time() == now
    await stream.aclose()
