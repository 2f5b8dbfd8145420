"""Somebody who calls, and Twilio in between, simulated: to try out `answer.py` without either.

    python caller.py question.wav another.wav --out heard.wav

asks one recorded question after the other, each when the answer to the one before was heard, and writes what
the caller heard into a file. `--break-in 2` has the next one come two seconds into each answer, `--press 42#`
has keys pressed in the end. With `TWILIO_AUTH_TOKEN` in the environment, requests are signed as Twilio's are.

Audio that comes is queued, and played in real time. A mark comes back when all before it was played; "clear"
empties the queue, and sends back the marks in it.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import mediastream
from mediastream import (
    SAMPLE_RATE,
    Beginning,
    Clear,
    Connected,
    Dtmf,
    FromTwilio,
    KeyPress,
    Label,
    Mark,
    Media,
    MediaFormat,
    Sound,
    Start,
    Stop,
    ToTwilio,
)
from novasonic import SonicError, audio, g711

_FRAME: Final = 160  # samples: 20 ms
_SILENCE: Final = b"\xff"  # a sample of it
_HELLO: Final = 5.0  # seconds in which a caller waits for a greeting
_PATIENCE: Final = 30.0  # and for an answer
_PAUSE: Final = 1.5  # and after it, before going on


class RefusedError(Exception):
    """The call is not connected; with what the caller would hear, or what Twilio would write into its log."""


class Caller:
    """A caller on the line. `dial` makes one.

    Args:
        websocket: To the server.
        parameters: Those of the TwiML.
        speed: How much faster than real time to speak and to listen.

    Attributes:
        heard: What the caller has heard so far, silence included, in µ-law.
        speech: Seconds of that in which there was something to hear.
        received: What the server has sent, in order.
        most_ahead: Seconds of audio that waited to be played, at most.
    """

    def __init__(
        self, websocket: ClientConnection, parameters: Mapping[str, str], *, speed: float = 1.0
    ) -> None:
        self.heard = bytearray()
        self.speech = 0.0
        self.received: list[ToTwilio] = []
        self.most_ahead = 0.0
        self._websocket = websocket
        self._parameters = dict(parameters)
        self._tick = _FRAME / SAMPLE_RATE / speed
        self._call = secrets.token_hex(16)
        self._stream = f"MZ{self._call}"
        self._numbers = map(str, itertools.count(1))
        self._to_say = bytearray()
        self._to_hear = deque[bytes | str]()  # audio, and names of marks
        self._ahead = 0  # samples in it
        self._quiet = 0.0  # seconds since there was something to hear
        self._passed = asyncio.Event()  # another 20 ms

    # --- what a caller does -------------------------------------------------------------------------------

    async def say(self, mulaw: bytes) -> None:
        """Say something, and return when it was said."""
        self._to_say += mulaw
        await self.wait(lambda: not self._to_say)

    async def press(self, keys: str) -> None:
        """Press some keys, five in a second."""
        for key in keys:
            pressed = KeyPress(track="inbound_track", digit=key)
            await self._send(Dtmf(stream_sid=self._stream, sequence_number=next(self._numbers), dtmf=pressed))
            await self.pause(0.2)

    async def pause(self, seconds: float) -> None:
        """Say nothing for a while."""
        end = len(self.heard) + seconds * SAMPLE_RATE
        await self.wait(lambda: len(self.heard) >= end)

    async def listen(self, seconds: float | None = None) -> None:
        """Hear so many seconds of what is said; or hear it out, up to a pause."""
        begun = self.speech
        await self.wait(lambda: self.speech > begun + (seconds or 0.0))
        if seconds is None:
            await self.wait(lambda: self._quiet >= _PAUSE)

    async def wait(self, until: Callable[[], bool]) -> None:
        """Wait until something is so.

        Raises:
            RefusedError: If the server ends the call before.
        """
        while not until():
            if self._websocket.close_code is not None:
                raise RefusedError(f"{self._websocket.close_code} {self._websocket.close_reason}")
            self._passed.clear()
            await self._passed.wait()

    # --- what Twilio does ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """Be on the line within `async with`, and hang up at its end."""
        beginning = Beginning(
            account_sid=f"AC{0:032x}",
            call_sid=f"CA{self._call}",
            stream_sid=self._stream,
            tracks=("inbound",),
            custom_parameters=self._parameters,
            media_format=MediaFormat(),
        )
        await self._send(Connected(protocol="Call", version="1.0.0"))
        await self._send(Start(stream_sid=self._stream, sequence_number=next(self._numbers), start=beginning))
        tasks = [
            asyncio.create_task(self._live(), name="caller-lives"),
            asyncio.create_task(self._receive(), name="caller-receives"),
        ]
        try:
            yield
            await self._send(Stop(stream_sid=self._stream, sequence_number=next(self._numbers)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _live(self) -> None:
        """Speak and listen, 20 ms at a time, as long as the line is there."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in itertools.count(1):
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self._tick
            said = bytes(self._to_say[:_FRAME]).ljust(_FRAME, _SILENCE)
            del self._to_say[:_FRAME]
            sound = Sound(track="inbound", chunk=str(number), timestamp=str(20 * number), payload=said)
            await self._send(Media(stream_sid=self._stream, sequence_number=next(self._numbers), media=sound))
            await self._hear()
            self._passed.set()

    async def _hear(self) -> None:
        """Play 20 ms of what waits, and send back the marks that come up."""
        frame = b""
        while self._to_hear and (isinstance(self._to_hear[0], str) or len(frame) < _FRAME):
            first = self._to_hear.popleft()
            if isinstance(first, str):
                await self._return_mark(first)
                continue
            part, rest = first[: _FRAME - len(frame)], first[_FRAME - len(frame) :]
            frame += part
            if rest:
                self._to_hear.appendleft(rest)
        self._ahead -= len(frame)
        self._quiet = 0.0 if frame else self._quiet + _FRAME / SAMPLE_RATE
        self.speech += len(frame) / SAMPLE_RATE
        self.heard += frame.ljust(_FRAME, _SILENCE)

    async def _receive(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._websocket:
                message = mediastream.read_answer(str(text))
                self.received.append(message)
                await self._take(message)
        self._passed.set()

    async def _take(self, message: ToTwilio) -> None:
        if message.stream_sid != self._stream:
            raise ValueError(f"{message} is for another stream")
        match message:
            case Media(media=sound):
                self._to_hear.append(sound.payload)
                self._ahead += len(sound.payload)
                self.most_ahead = max(self.most_ahead, self._ahead / SAMPLE_RATE)
            case Mark(mark=mark) if self._to_hear:
                self._to_hear.append(mark.name)
            case Mark(mark=mark):
                await self._return_mark(mark.name)
            case Clear():
                names = [each for each in self._to_hear if isinstance(each, str)]
                self._to_hear.clear()
                self._ahead = 0
                for name in names:
                    await self._return_mark(name)

    async def _return_mark(self, name: str) -> None:
        label = Label(name=name)
        await self._send(Mark(stream_sid=self._stream, sequence_number=next(self._numbers), mark=label))

    async def _send(self, message: FromTwilio) -> None:
        with contextlib.suppress(ConnectionClosed):  # whoever waits for something is told
            await self._websocket.send(mediastream.write(message))


@contextlib.asynccontextmanager
async def dial(
    url: str, *, number: str = "+15005550006", token: str | None = None, speed: float = 1.0
) -> AsyncGenerator[Caller]:
    """Call a number whose webhook is `url`, be on the line within `async with`, and hang up at its end.

    Args:
        url: Twilio would find it at "https://...", and for that it is signed. With "http://..." the server
            is called without the proxy that would be in between.
        number: The caller's.
        token: What requests are signed with; None: they are not.
        speed: How much faster than real time to speak and to listen.

    Raises:
        RefusedError: If the call is not connected.
    """
    twiml = await asyncio.to_thread(ask, url, number=number, token=token)
    stream = twiml.find("./Connect/Stream")
    if stream is None:
        raise RefusedError(twiml.findtext("./Say", "(nothing is said)"))
    address = stream.get("url", "")
    parameters = {each.get("name", ""): each.get("value", "") for each in stream.iter("Parameter")}
    direct = f"ws://{urlsplit(url).netloc}{urlsplit(address).path}"
    try:
        async with connect(
            direct if url.startswith("http:") else address,
            additional_headers=_signed(address, (), token),
            open_timeout=_PATIENCE,
            compression=None,
            proxy=None,
        ) as websocket:
            caller = Caller(websocket, parameters, speed=speed)
            async with caller.connected():
                yield caller
    except InvalidStatus as exc:
        raise RefusedError(f"the stream is refused: HTTP {exc.response.status_code}") from exc


def ask(url: str, *, number: str, token: str | None = None) -> ET.Element:
    """Ask what is to be done with a call, and return the TwiML. Blocks.

    Raises:
        RefusedError: If there is none.
    """
    form = [("CallSid", f"CA{0:032x}"), ("From", number), ("To", "+15005550001"), ("CallStatus", "ringing")]
    request = urllib.request.Request(  # noqa: S310 - whoever calls says where
        url, urlencode(form).encode(), _signed(url.replace("http:", "https:", 1), form, token)
    )
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as response:  # noqa: S310 - see above
            return ET.fromstring(response.read())  # noqa: S314 - the server is ours
    except urllib.error.HTTPError as exc:
        with exc:
            raise RefusedError(f"the webhook refuses: HTTP {exc.code}, {exc.read().decode()}") from exc
    except OSError as exc:
        raise RefusedError(f"{url} cannot be reached: {exc}") from exc


def _signed(url: str, form: Sequence[tuple[str, str]], token: str | None) -> dict[str, str]:
    return {} if token is None else {"X-Twilio-Signature": mediastream.signature(token, url, form)}


def load(path: str | Path) -> bytes:
    """Return a recording as a telephone carries it. Blocks."""
    chunker, frames = audio.Chunker(SAMPLE_RATE, _FRAME), list[bytes]()
    with contextlib.closing(audio.open_audio(path)) as file:
        form = file.format
        while piece := file.read(form.sample_rate):
            frames += chunker.feed(piece, sample_rate=form.sample_rate, channels=form.channels)
    return g711.encode(b"".join((*frames, *chunker.flush())), "mulaw")


async def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        questions = [await asyncio.to_thread(load, path) for path in options.questions]
        token = os.environ.get("TWILIO_AUTH_TOKEN")
        async with dial(options.url, number=options.number, token=token, speed=options.speed) as caller:
            try:
                await _converse(caller, questions, options)
            finally:
                pcm = g711.decode(caller.heard, "mulaw")
                await asyncio.to_thread(audio.write_wav, options.out, pcm, SAMPLE_RATE)
    except (RefusedError, SonicError, TimeoutError) as exc:
        sys.exit(f"caller: {exc}")
    cleared = sum(isinstance(message, Clear) for message in caller.received)
    print(
        f"{options.out}: {len(caller.heard) / SAMPLE_RATE:.1f} s on the line, {caller.speech:.1f} s of speech"
    )
    print(f"broke in {cleared} times; at most {caller.most_ahead:.2f} s of speech were waiting")


async def _converse(caller: Caller, questions: Sequence[bytes], options: argparse.Namespace) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HELLO):
            await caller.listen()
    for number, question in enumerate(questions, 1):
        await caller.say(question)
        async with _patience("an answer"):
            await caller.listen(options.break_in if number < len(questions) else None)
    if options.press:
        await caller.press(options.press)
        async with _patience("an answer to the keys"):
            await caller.listen()


@contextlib.asynccontextmanager
async def _patience(what: str) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise TimeoutError(f"{what} has not come to its end within {_PATIENCE:g} s") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Call `answer.py`, as Twilio would connect a caller.")
    parser.add_argument("questions", nargs="*", help="recordings: WAV files of any kind")
    parser.add_argument("--url", default="http://127.0.0.1:8000/voice", help="the webhook (%(default)s)")
    parser.add_argument("--out", default="heard.wav", help="where to write what was heard (%(default)s)")
    parser.add_argument("--number", default="+15005550006", help="the caller's (%(default)s)")
    parser.add_argument(
        "--break-in", type=float, metavar="SECONDS", help="of an answer before the next question"
    )
    parser.add_argument("--press", metavar="KEYS", help="keys to press in the end: 0 to 9, *, #, A to D")
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than real time")
    return parser


if __name__ == "__main__":
    asyncio.run(main())
