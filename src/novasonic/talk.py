"""`novasonic talk`: a conversation in a terminal, with what is said, how loud, how soon and for how much."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Unpack

from novasonic import events
from novasonic.audio import level
from novasonic.conversation import read_on
from novasonic.devices import Microphone, Speaker, list_devices
from novasonic.dialogue import Dialogue, ctrl_c
from novasonic.echo import EchoMode
from novasonic.errors import ConfigurationError
from novasonic.models import Usage
from novasonic.playback import Player
from novasonic.portaudio import NAMES, Device, DeviceKind, find_device, no_chatter
from novasonic.session import SessionOptions, SonicSession

try:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise ImportError("talking in a terminal needs rich: pip install 'novasonic[cli,devices]'") from exc

_KINDS: Final[tuple[DeviceKind, ...]] = ("input", "output")

_REDRAW: Final = 0.08  # seconds: the eye follows a meter that moves twelve times a second
_QUIETEST: Final = -60.0  # dBFS at the left end of a meter: a quiet room
_COLUMNS: Final = 30
_FALL: Final = 4.0  # dB that a meter falls at most from one picture to the next: a peak is to be seen
_INAUDIBLE: Final = 0.05  # seconds that may be missing of a response that was played


@dataclass(slots=True)
class _Segment:
    """One or two sentences."""

    text: str
    seconds: float = 0.0
    final: bool = False


class Response:
    """What the assistant says in one turn, of which some was heard and some is planned."""

    def __init__(self) -> None:
        self.ended = False
        self.cut = False
        self._segments: list[_Segment] = []
        self._over = 0.0  # seconds of the segments that were taken
        self._taken = set[str]()

    @property
    def seconds(self) -> float:
        """How long it plays, as far as it came."""
        return self._over + sum(segment.seconds for segment in self._segments)

    def plan(self, text: str) -> None:
        """Add what is about to be said."""
        self._segments.append(_Segment(text))

    def sound(self, seconds: float) -> None:
        """Add speech: it belongs to what was planned last."""
        if not self._segments:
            self.plan("")
        self._segments[-1].seconds += seconds

    def confirm(self, text: str) -> None:
        """Take note of what the service says was spoken."""
        for segment in self._segments:
            if not segment.final and segment.text.strip() == text.strip():
                segment.final = True
                return
        if text.strip() not in self._taken:
            self._segments.append(_Segment(text, final=True))  # never planned

    def split(self, heard: float) -> tuple[str, str]:
        """Return the words that were heard, and those to come, if so many seconds were played."""
        spoken, planned, heard = "", "", heard - self._over
        for segment in self._segments:
            part = min(1.0, max(0.0, heard) / segment.seconds) if segment.seconds else float(segment.final)
            at = round(part * len(segment.text))
            if at < len(segment.text):
                at = segment.text.rfind(" ", 0, at + 1) + 1  # a word is spoken once it is over
            spoken = read_on(spoken, segment.text[:at])
            planned = read_on(planned, segment.text[at:])
            heard -= segment.seconds
        return spoken.strip(), planned.strip()

    def take(self, heard: float) -> tuple[str, str]:
        """Do as `split`, and forget these words: the service may still confirm them."""
        words = self.split(heard)
        self._over = self.seconds
        self._taken |= {segment.text.strip() for segment in self._segments}
        self._segments.clear()
        return words


class _Meter:
    """How loud something is. Fed by a device's thread, read by the screen."""

    def __init__(self) -> None:
        self._blocks = deque[bytes](maxlen=10)  # what came since the last picture, and some more
        self._shown = _QUIETEST

    def feed(self, pcm: bytes) -> None:
        self._blocks.append(pcm)

    def bar(self, style: str) -> Text:
        blocks = bytearray()
        while self._blocks:
            blocks += self._blocks.popleft()
        loud = max(_QUIETEST, level(blocks)) if blocks else _QUIETEST
        self._shown = max(loud, self._shown - _FALL)
        full = round(_COLUMNS * (1 - self._shown / _QUIETEST))
        return Text.assemble(("█" * full, style), ("·" * (_COLUMNS - full), "dim"))


class Screen:
    """What a person sees: what was said scrolls up, and below it is what happens now."""

    def __init__(self, console: Console, player: Player, microphone: Microphone, speaker: Speaker) -> None:
        self._console = console
        self._player = player
        self._microphone = microphone
        self._speaker = speaker
        self._hearing, self._playing = _Meter(), _Meter()
        microphone.tap(self._hearing.feed)
        speaker.tap(self._playing.feed)
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._responses: dict[int, Response] = {}
        self._usage = Usage()
        self._latency: float | None = None
        self._user_speaks = False
        self.ending = False
        self.keys = False  # whether there are any

    # --- what happens ---

    def handle(self, event: events.Event) -> None:
        """Take in what happened."""
        match event:
            case events.SessionStarted():
                self._line("", f"{event.model}, voice {event.voice}; say something", "dim")
            case events.UserSpeechStarted():
                self._user_speaks = True
            case events.UserSpeechEnded():
                self._user_speaks = False
            case events.Transcript(role="USER"):
                self._line("you", event.text.strip(), "cyan")
            case events.Transcript(stage="SPECULATIVE"):
                self._response(event.turn).plan(event.text)
            case events.Transcript():
                self._response(event.turn).confirm(event.text)
            case events.AudioChunk():
                self._response(event.turn).sound(event.duration)
            case events.Interrupted():
                self._response(event.turn).cut = True
            case events.TurnEnded():
                self._response(event.turn).ended = True
                self._latency = event.latency.audio if event.latency.audio is not None else self._latency
            case events.ToolCall():
                arguments = ", ".join(f"{name}={value!r}" for name, value in event.arguments.items())
                self._line("tool", f"{event.name}({arguments})", "yellow")
            case events.ToolResult():
                what = event.error or str(event.result)
                self._line("tool", f"{what} after {event.elapsed:.1f} s", "yellow dim")
            case events.Reconnecting():
                self._line("", f"the connection was lost, attempt {event.attempt} to mend it", "red dim")
            case events.SessionRenewed(reason="error"):
                self._line("", f"the conversation goes on after {event.gap:.1f} s", "dim")
            case events.UsageUpdated():
                self._usage = event.total
            case _:
                pass
        self._settle()

    def _response(self, turn: int) -> Response:
        return self._responses.setdefault(turn, Response())

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Let what is over scroll up."""
        for turn, response in self._responses.items():
            heard = self._player.heard(turn) or 0.0
            over = response.cut or (response.ended and heard >= response.seconds - _INAUDIBLE)
            if not (over or all_of_them):
                return  # what comes later waits for its turn
            spoken, planned = response.take(heard)
            if not (spoken or planned):
                continue
            text = Text(spoken, "green")
            if response.cut:
                text.append(f" — you broke in after {heard:.1f} s", "red")
            elif planned:
                text.append(f" {planned}", "dim")
            self._line("nova", text)

    def finish(self) -> None:
        """Let all of it scroll up, and sum up."""
        self._settle(all_of_them=True)
        self._line("", self._facts(), "dim")

    def _line(self, who: str, text: str | Text, style: str = "") -> None:
        self._console.print(_row(who, Text(text, style) if isinstance(text, str) else text))

    # --- the picture ---

    def picture(self) -> RenderableType:
        """Draw what happens now."""
        self._settle()
        rows: list[RenderableType] = [""]
        for turn, response in self._responses.items():
            spoken, planned = response.split(self._player.heard(turn) or 0.0)
            if spoken or planned:
                gap = " " if spoken and planned else ""
                rows[:0] = [_row("nova", Text.assemble((spoken, "green"), gap, (planned, "dim")))]
        heard = self._hearing.bar("cyan")
        if self._microphone.mute:
            heard.append("  muted", "red")
        elif self._user_speaks:
            heard.append("  hears you", "cyan")
        rows.append(_row("mic", heard))
        rows.append(_row("spk", self._playing.bar("green")))
        rows.append(_row("", Text.assemble((self._facts(), "dim"))))
        rows.append(_row("", Text(self._hint(), "dim")))
        return Group(*rows)

    def _facts(self) -> str:
        seconds = int(self._loop.time() - self._start)
        facts = [f"{seconds // 60}:{seconds % 60:02}"]
        if self._usage.total:
            cost = "" if self._usage.prices is None else f", ${self._usage.cost():.4f}"
            facts.append(f"{self._usage.total} tokens{cost}")
        if self._latency is not None:
            facts.append(f"answered after {self._latency:.2f} s")
        torn = self._speaker.underruns + self._microphone.overruns
        if torn:
            facts.append(f"{torn} gaps in the sound" if torn > 1 else "1 gap in the sound")
        return " · ".join(facts)

    def _hint(self) -> str:
        if self.ending:
            return "ending …"
        echo = {"cancel": "echo cancelled", "half-duplex": "mic off while nova speaks", "off": "headphones!"}
        keys = f"m {'unmutes' if self._microphone.mute else 'mutes'} · q ends" if self.keys else "Ctrl-C ends"
        return f"{keys} · {echo[self._microphone.echo]}"


def _row(who: str, text: RenderableType) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=4, justify="right", style="dim")
    row.add_column()
    row.add_row(who, text)
    return row


async def run(device: str | int | None, echo: EchoMode, **options: Unpack[SessionOptions]) -> None:
    """Talk until `q`, Ctrl-C or the service ends it.

    Args:
        device: Name or index of a device, for what it can do of the two; None for the default ones.
        echo: As for `Microphone`.
        options: The settings of a `SonicSession`.

    Raises:
        SonicError: If something goes wrong.
    """
    console = Console(highlight=False)
    session = SonicSession(**options)
    ears, mouth = await asyncio.to_thread(_choose, device)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(no_chatter())
        speaker = await stack.enter_async_context(Speaker(mouth))
        microphone = await stack.enter_async_context(Microphone(ears, echo_of=speaker, echo=echo))
        screen = Screen(console, speaker.player, microphone, speaker)
        console.print(_row("", Text(f"{microphone.name} → {speaker.name}", "dim")))
        async with session:
            dialogue = Dialogue(session, microphone, speaker, on_event=screen.handle)

            def end() -> None:
                screen.ending = True
                dialogue.end()

            def pressed(key: str) -> None:
                match key:
                    case "q":
                        end()
                    case "m":
                        microphone.mute = not microphone.mute
                    case _:
                        pass

            with ctrl_c(end), _keys(pressed) as screen.keys:
                await _show(console, screen, dialogue)


async def _show(console: Console, screen: Screen, dialogue: Dialogue) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawing = asyncio.create_task(_redraw(live, screen), name="novasonic-talk-screen")
        try:
            await dialogue.run()
        finally:
            drawing.cancel()
            await asyncio.wait({drawing})
    screen.finish()


async def _redraw(live: Live, screen: Screen) -> None:
    while True:
        live.update(screen.picture(), refresh=True)
        await asyncio.sleep(_REDRAW)


def _choose(device: str | int | None) -> tuple[str | int | None, str | int | None]:
    """Return the microphone and the loudspeaker that a device may be, and the default for what it is not."""
    if device is None:
        return None, None
    found: list[int | None] = []
    failures: list[ConfigurationError] = []
    for kind in _KINDS:
        try:
            found.append(find_device(device, kind).index)
        except ConfigurationError as exc:
            found.append(None)
            failures.append(exc)
    if len(failures) == len(found):
        raise failures[0]
    return found[0], found[1]


@contextlib.contextmanager
def _keys(pressed: Callable[[str], None]) -> Generator[bool]:
    """Have `pressed(key)` called with every key, without waiting for Enter; yield whether that is so."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield False
        return
    import termios  # noqa: PLC0415 - not on Windows
    import tty  # noqa: PLC0415

    loop, keyboard = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def read() -> None:
        keys = os.read(keyboard, 32)
        if not keys:
            loop.remove_reader(keyboard)
        for key in keys.decode(errors="replace"):
            pressed(key)

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, read)
    try:
        yield True
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def print_devices() -> None:
    """Print the sound devices of this machine.

    Raises:
        DeviceError: If they cannot be had.
    """
    table = Table.grid(padding=(0, 2))
    for device in list_devices():
        table.add_row(
            str(device.index), device.name, _abilities(device), f"{device.sample_rate} Hz", device.system
        )
    Console(highlight=False).print(table)


def _abilities(device: Device) -> str:
    return ", ".join(
        f"{NAMES[kind]} (default)" if device.is_default(kind) else NAMES[kind]
        for kind in _KINDS
        if device.channels(kind)
    )
