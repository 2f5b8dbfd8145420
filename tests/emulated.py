"""A client of the emulated service in simulated time: it speaks, types, and keeps what it hears."""

import math
from collections.abc import Iterator
from typing import Any

from novasonic import messages
from novasonic.emulator import Scenario, Service
from novasonic.emulator.outbox import Accepted, Document, Ended, Failed, Output, Refused
from novasonic.messages import InputMessage, OutputMessage

MODEL = "amazon.nova-2-sonic-v1:0"
PROMPT = "prompt-1"
AUDIO = "audio-1"
FRAME = 0.032


def tone(seconds: float, *, rate: int = 16_000, level: float = 0.2) -> bytes:
    """Return something as loud as speech."""
    samples = (math.sin(2 * math.pi * 220 * n / rate) for n in range(round(seconds * rate)))
    return b"".join(int(each * level * 32767).to_bytes(2, "little", signed=True) for each in samples)


def silence(seconds: float, *, rate: int = 16_000) -> bytes:
    return bytes(round(seconds * rate) * 2)


def setup(**prompt: Any) -> tuple[InputMessage, ...]:
    """Return the messages that open a session, up to the audio."""
    return (
        messages.SessionStart(),
        messages.PromptStart(**{"prompt_name": PROMPT, "voice": "tiffany", **prompt}),
        *messages.text_block("Be brief.", prompt_name=PROMPT, role="SYSTEM"),
    )


def audio_start(rate: int = 16_000, name: str = AUDIO, *, interactive: bool = True) -> InputMessage:
    return messages.InputContentStart(
        prompt_name=PROMPT,
        content_name=name,
        type="AUDIO",
        role="USER",
        interactive=interactive,
        sample_rate=rate,
    )


def audio(pcm: bytes, name: str = AUDIO) -> InputMessage:
    return messages.AudioInput(prompt_name=PROMPT, content_name=name, content=pcm)


def typed(text: str) -> tuple[InputMessage, ...]:
    return messages.text_block(text, prompt_name=PROMPT, role="USER", interactive=True)


GOODBYE: tuple[InputMessage, ...] = (
    messages.InputContentEnd(prompt_name=PROMPT, content_name=AUDIO),
    messages.PromptEnd(prompt_name=PROMPT),
    messages.SessionEnd(),
)


class Client:
    """One stream to a service of its own, or of others, and the time that both live in."""

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        model: str = MODEL,
        service: Service | None = None,
        rate: int = 16_000,
        now: float = 0.0,
    ) -> None:
        self.service = service or Service(scenario)
        self.now = now
        self.rate = rate
        self.outputs: list[Output] = []
        self.stream = self.service.open(model, now)

    # --- what it does ---

    def send(self, *said: InputMessage | bytes) -> None:
        for each in said:
            self.stream.receive(each if isinstance(each, bytes) else messages.encode(each), self.now)
        self._take()

    def wait(self, seconds: float) -> None:
        """Let time pass in which nothing is sent."""
        self.now += seconds
        self._take()

    def open(self, **prompt: Any) -> "Client":
        """Open the session and the audio, and wait until it is accepted."""
        self.send(*setup(**prompt))
        self.wait(0.1)
        self.send(audio_start(self.rate))
        return self

    def play(self, pcm: bytes) -> None:
        """Send audio at speaking speed."""
        size = round(FRAME * self.rate) * 2
        for start in range(0, len(pcm), size):
            piece = pcm[start : start + size]
            self.now += len(piece) / (self.rate * 2)
            self.stream.receive(messages.encode(audio(piece)), self.now)
            self._take()

    def speak(self, seconds: float) -> None:
        self.play(tone(seconds, rate=self.rate))

    def listen(self, seconds: float) -> None:
        self.play(silence(seconds, rate=self.rate))

    def close(self) -> None:
        self.send(*GOODBYE)
        self.wait(0.2)

    def _take(self) -> None:
        self.outputs += self.stream.advance(self.now)

    # --- what it was told ---

    @property
    def told(self) -> list[tuple[float, OutputMessage]]:
        return [(each.at, messages.decode_output(each.data)) for each in self.documents]

    @property
    def documents(self) -> list[Document]:
        return [each for each in self.outputs if isinstance(each, Document)]

    @property
    def failure(self) -> Failed | Refused | None:
        found = [each for each in self.outputs if isinstance(each, Failed | Refused)]
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def accepted(self) -> bool:
        return any(isinstance(each, Accepted) for each in self.outputs)

    @property
    def ended(self) -> bool:
        return any(isinstance(each, Ended) for each in self.outputs)

    def all_of[T: OutputMessage](self, kind: type[T]) -> list[T]:
        return [each for _, each in self.told if isinstance(each, kind)]

    def times_of(self, kind: type[OutputMessage]) -> list[float]:
        return [at for at, each in self.told if isinstance(each, kind)]

    def texts(self, role: str, stage: str) -> list[str]:
        return [block.text for block in self.blocks if (block.role, block.stage) == (role, stage)]

    @property
    def blocks(self) -> "list[Block]":
        return [each for each in fold(self.told) if isinstance(each, Block)]

    @property
    def shape(self) -> list[str]:
        """What happened, in short: S, E, U, SP, AU, F, MARK and TOOL, with the stop reasons that vary."""
        return [each.short if isinstance(each, Block) else each for each in fold(self.told)]


class Block:
    """A content block of the service, from its start to its end."""

    def __init__(self, at: float, start: messages.OutputContentStart) -> None:
        self.at = at
        self.id = start.content_id
        self.type = start.type
        self.role = start.role
        self.stage = start.stage or ""
        self.text = ""
        self.chunks: list[tuple[float, int]] = []
        self.tool: messages.ToolUse | None = None
        self.stop_reason = ""
        self.ended_at = math.nan
        self.is_marker = False

    @property
    def seconds(self) -> float:
        return sum(size for _, size in self.chunks) / 48_000

    @property
    def short(self) -> str:
        if self.type == "AUDIO":
            return f"AU {self.stop_reason}"
        if self.type == "TOOL":
            return f"TOOL {self.stop_reason}"
        if self.role == "USER":
            return "U"
        if self.is_marker:
            return f"MARK {self.stop_reason}"
        return "SP" if self.stage == "SPECULATIVE" else f"F {self.stop_reason}"


def fold(told: list[tuple[float, OutputMessage]]) -> Iterator[Block | str]:
    """Put blocks together, and check on the way that they neither nest nor overlap."""
    block: Block | None = None
    found: list[Block | str] = []
    for at, message in told:
        match message:
            case messages.OutputContentStart():
                assert block is None, "a block began inside another"
                block = Block(at, message)
                found.append(block)
            case messages.TextOutput(content=content, content_id=id_):
                assert block is not None
                assert block.id == id_
                block.text += content
                block.is_marker = message.says_interrupted
            case messages.AudioOutput(content=content, content_id=id_):
                assert block is not None
                assert block.id == id_
                block.chunks.append((at, len(content)))
            case messages.ToolUse():
                assert block is not None
                block.tool = message
            case messages.OutputContentEnd(content_id=id_):
                assert block is not None
                assert block.id == id_
                block.stop_reason, block.ended_at = message.stop_reason, at
                block = None
            case messages.UserSpeechStart():
                found.append("S")
            case messages.UserSpeechEnd():
                found.append("E")
            case messages.CompletionStart():
                found.append("start")
            case messages.CompletionEnd():
                found.append("end")
            case _:
                pass
    return iter(found)
