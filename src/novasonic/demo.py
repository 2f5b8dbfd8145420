"""`novasonic demo`: a question, a tool, an answer, an interruption, and what all of it was like in time."""

import asyncio
from pathlib import Path
from typing import Final, Literal

from novasonic import events
from novasonic.audio import write_wav
from novasonic.playback import Player
from novasonic.session import SonicSession
from novasonic.sinks import Frames
from novasonic.tools import tool

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise ImportError("the demo needs rich: pip install 'novasonic[cli,emulator]'") from exc

_SOUNDS: Final = Path(__file__).parent / "emulator" / "sounds"
_PATIENCE_BEFORE_BREAKING_IN: Final = 5.5  # seconds of the answer: in the middle of its second sentence
_COLUMN: Final = 0.25  # seconds that a column of the timeline stands for
_TURNS: Final = 2
_LOOKING_UP: Final = 0.4  # seconds, as a request to a weather service would take
_FORECAST: Final = {
    "today": {"sky": "sunny", "celsius": 21},
    "tomorrow": {"sky": "rain", "celsius": 16},
}


@tool
async def weather(city: str, day: Literal["today", "tomorrow"] = "today") -> dict[str, object]:
    """The weather of a city."""
    await asyncio.sleep(_LOOKING_UP)
    return {"city": city, **_FORECAST[day]}


class _Demo:
    """One run."""

    def __init__(self, console: Console, session: SonicSession) -> None:
        self._console = console
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._player = Player()
        self._heard = bytearray()
        self._sounded: list[float] = []  # when a frame of the answer was heard
        self._spoken: list[tuple[float, float]] = []  # when the user spoke
        self._looked_up: list[tuple[float, float]] = []  # when a tool was at work
        self._cut_at: float | None = None
        self._latencies: list[tuple[str, float]] = []
        session.played_by(self._player)

    @property
    def now(self) -> float:
        return self._loop.time() - self._start

    async def converse(self) -> None:
        """Ask, break in, and listen to the end."""
        answered = asyncio.Event()
        talking = asyncio.create_task(self._talk(answered), name="novasonic-demo-user")
        listening = asyncio.create_task(self._listen(), name="novasonic-demo-listener")
        try:
            async for event in self._session:
                self._player.handle(event)
                self._show(event)
                match event:
                    case events.AudioChunk():
                        answered.set()
                    case events.Transcript(role="ASSISTANT", stage="FINAL", turn=turn) if turn == _TURNS:
                        await self._session.end()
                    case _:
                        pass
        finally:
            talking.cancel()
            listening.cancel()
            await asyncio.wait({talking, listening})

    async def _listen(self) -> None:
        """Hear what a loudspeaker would have played."""
        async for pcm in Frames(self._player):
            self._heard += pcm
            self._sounded.append(self.now)

    async def _talk(self, answered: asyncio.Event) -> None:
        await self._say("question.wav")
        await answered.wait()
        await asyncio.sleep(_PATIENCE_BEFORE_BREAKING_IN)
        await self._say("interruption.wav")

    async def _say(self, sound: str) -> None:
        self._line("you", f"speak {sound}", "cyan dim")
        start = self.now
        await self._session.play_file(_SOUNDS / sound)
        self._spoken.append((start, self.now))

    def _show(self, event: events.Event) -> None:
        match event:
            case events.SessionStarted():
                self._line("", f"connected: {event.model}, voice {event.voice}", "dim")
            case events.Transcript(role="USER"):
                self._line("you", event.text, "cyan bold")
            case events.Transcript(stage="SPECULATIVE"):
                self._line("nova", f"{event.text.strip()} (about to say)", "dim")
            case events.Transcript(stage="FINAL"):
                self._line("nova", event.text.strip(), "green bold")
            case events.ToolCall():
                arguments = ", ".join(f"{name}={value!r}" for name, value in event.arguments.items())
                self._line("tool", f"{event.name}({arguments})", "yellow")
            case events.ToolResult(elapsed=elapsed):
                self._looked_up.append((self.now - elapsed, self.now))
                self._line("tool", f"{event.result} after {elapsed:.2f} s", "yellow dim")
            case events.Interrupted():
                self._cut_at = self.now
                heard = "" if event.heard is None else f" after {event.heard:.1f} s of the answer"
                self._line("", f"interrupted{heard}: playback stops", "red")
                if event.latency is not None:
                    self._latencies.append(("first sound of the user -> interrupted", event.latency))
            case events.TurnEnded(latency=latency, turn=turn):
                if latency.text is not None and latency.audio is not None:
                    self._latencies.append((f"turn {turn}: end of speech -> first text", latency.text))
                    self._latencies.append((f"turn {turn}: end of speech -> first sound", latency.audio))
            case _:
                pass

    def _line(self, who: str, text: str, style: str) -> None:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=6, justify="right", style="dim")
        line.add_column(width=4, style=style)
        line.add_column(style=style)
        line.add_row(f"{self.now:.2f}", who, text)
        self._console.print(line)

    async def finish(self, out: Path) -> None:
        """Write what was heard into a file, and sum up."""
        await asyncio.to_thread(write_wav, out, bytes(self._heard), self._player.sample_rate)
        self._draw()
        self._sum_up(out)

    def _draw(self) -> None:
        """Draw who spoke when."""
        end = max(self._sounded[-1], *(until for _, until in self._spoken))
        width = int(end / _COLUMN) + 1
        you, tools, nova = [" "] * width, [" "] * width, [" "] * width
        for start, until in self._spoken:
            _fill(you, start, until, "█")
        for start, until in self._looked_up:
            _fill(tools, start, until, "▒")
        for at in self._sounded:
            _fill(nova, at, at, "█")
        if self._cut_at is not None:
            nova[int(self._cut_at / _COLUMN)] = "✂"
        scale = "".join(f"{second:<{round(5 / _COLUMN)}}" for second in range(0, int(end) + 1, 5))
        self._console.print()
        self._console.print(Text.assemble("       you  ", ("".join(you), "cyan")), soft_wrap=True)
        self._console.print(Text.assemble("       tool ", ("".join(tools), "yellow")), soft_wrap=True)
        self._console.print(Text.assemble("       nova ", ("".join(nova), "green")), soft_wrap=True)
        self._console.print(Text(f"       s    {scale}", "dim"), soft_wrap=True)

    def _sum_up(self, out: Path) -> None:
        session, table = self._session, Table.grid(padding=(0, 2))
        for name, seconds in self._latencies:
            table.add_row(name, f"{seconds * 1000:.0f} ms")
        usage, stats = session.usage, session.stats
        sent = f"{stats.speech_sent:.1f} s of speech, {stats.silence_sent:.1f} s of silence"
        table.add_row("audio sent", sent)
        table.add_row("audio received", f"{stats.audio_received:.1f} s")
        table.add_row("tokens", f"{usage.total}, which would cost ${usage.cost():.4f}")
        for message in session.history:
            cut = f" (heard: {message.heard_text})" if message.interrupted else ""
            table.add_row(f"history: {message.role.lower()}", message.text + cut)
        table.add_row("what was heard", str(out))
        self._console.print()
        self._console.print(table)


def _fill(lane: list[str], start: float, until: float, mark: str) -> None:
    for column in range(int(start / _COLUMN), min(len(lane), int(until / _COLUMN) + 1)):
        lane[column] = mark


async def run(out: Path) -> None:
    """Hold the conversation with whatever the environment leads to, and write what was heard to `out`.

    Raises:
        SonicError: If something goes wrong.
    """
    console = Console(highlight=False)
    console.print("A spoken conversation through the AWS SDK, with an emulator of Bedrock.", style="bold")
    async with SonicSession(system="Tell the weather. Be brief.", tools=[weather]) as session:
        demo = _Demo(console, session)
        await demo.converse()
    await demo.finish(out)
