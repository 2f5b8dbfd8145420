"""One question and its answer, put together from events. No I/O but saving, no clock."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from novasonic import events
from novasonic.audio import write_wav
from novasonic.conversation import read_on
from novasonic.events import Event, Latency
from novasonic.models import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One turn, in full.

    Attributes:
        user_text: What the service heard; empty for what was typed.
        text: What the model said.
        audio: Its speech: 16-bit little-endian mono samples.
        sample_rate: Of the speech, in Hz.
        tool_calls: The tools that the model called, each with its answer if there is one.
        interrupted: Whether the user broke in.
        usage: The tokens that were counted meanwhile.
        latency: How long the user had to wait.
    """

    user_text: str = field(repr=False)
    text: str = field(repr=False)
    audio: bytes = field(repr=False)
    sample_rate: int
    tool_calls: tuple[events.ToolRun, ...] = ()
    interrupted: bool = False
    usage: Usage = field(default_factory=Usage)
    latency: Latency = field(default_factory=Latency)

    @property
    def duration(self) -> float:
        """How long the speech plays, in seconds."""
        return len(self.audio) / 2 / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the speech into a WAV file; one that is there is overwritten.

        Raises:
            ConfigurationError: If the file cannot be written.
        """
        write_wav(path, self.audio, self.sample_rate)


class Answer:
    """What has come of an answer so far.

    A question may hold pauses in which the model begins to answer; then the last answer counts. A tool may
    take more than one turn: the model says that it will look, and later what it found. All of that counts.

    Args:
        after_turn: The last turn before the question. What belongs to it is passed over.
        sample_rate: Of the speech, in Hz.
        runs_tool: Whether a call of a tool of this name is answered by the session, and not by the program.

    Attributes:
        complete: Whether nothing more is to be expected.
    """

    def __init__(self, *, after_turn: int, sample_rate: int, runs_tool: Callable[[str], bool]) -> None:
        self.complete = False
        self._runs_tool = runs_tool
        self._calls = dict[str, events.ToolRun]()
        self._running = set[str]()  # calls that the session is going to answer
        self._owed = 0  # the first turn in which the latest result may be spoken about
        self._after_turn = after_turn
        self._sample_rate = sample_rate
        self._user_text = ""
        self._usage = Usage()
        self._block = ""  # the latest that held a text
        self._interrupted = set[int]()  # by turn: an interruption overtakes even the start of what it cuts
        self._begin_again(after_turn)

    def _begin_again(self, turn: int) -> None:
        self._asked_again = False
        self._turn = turn
        self._spoken_in = 0  # the latest turn in which something was said
        self._text = ""
        self._audio = bytearray()
        self._latency: Latency | None = None

    def feed(self, event: Event) -> None:
        """Take in what happened."""
        if isinstance(event, events.UsageUpdated):
            self._usage += event.delta
        if event.turn <= self._after_turn:
            return
        match event:
            case events.AudioChunk(pcm=pcm, sample_rate=sample_rate):
                self._audio += pcm
                self._sample_rate = sample_rate
            case events.UserSpeechStarted():
                self.complete, self._asked_again = False, True
            case events.Transcript(role="USER"):
                self.complete = False
                self._user_text = self._read_on(self._user_text, event)
            case events.Transcript(role="ASSISTANT", stage="SPECULATIVE"):
                self._text = self._read_on(self._text, event)
                self._spoken_in = event.turn
            case events.TurnStarted(turn=turn):
                if self._asked_again:
                    self._begin_again(turn)
                self._turn = turn
            case events.Interrupted(turn=turn):
                self._interrupted.add(turn)
            case events.ToolCall(id=id_, name=name):
                self._calls[id_] = events.ToolRun.of(event)
                if self._runs_tool(name):
                    self._running.add(id_)
                # What the program has to answer, it must hear of.
                self.complete = not self._running
            case events.ToolResult(id=id_, turn=turn) if id_ in self._calls:
                self._calls[id_] = self._calls[id_].answered(event)
                self._running.discard(id_)
                # The model always speaks about a result; later, if it is speaking about something else.
                self._owed = max(self._turn, turn) + (self._spoken_in >= self._turn)
                self.complete = False
            case events.TurnEnded(reason=reason, interrupted=interrupted, latency=latency, turn=turn):
                waiting = self._running or turn < self._owed
                self.complete = reason != "TOOL_USE" and not interrupted and not waiting
                self._latency = self._latency or latency
            case _:
                pass

    def _read_on(self, text: str, more: events.Transcript) -> str:
        """Add to a text: inside a block its pieces follow one another as they are."""
        inside, self._block = more.content_id and more.content_id == self._block, more.content_id
        return text + more.text if inside else read_on(text, more.text)

    def reply(self) -> Reply:
        """Return what there is."""
        return Reply(
            user_text=self._user_text,
            text=self._text,
            audio=bytes(self._audio),
            sample_rate=self._sample_rate,
            tool_calls=tuple(self._calls.values()),
            interrupted=self._turn in self._interrupted,
            usage=self._usage,
            latency=self._latency or Latency(),
        )
