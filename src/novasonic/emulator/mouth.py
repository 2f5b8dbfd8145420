"""What the model says, in time: texts and audio as they are generated, and FINAL texts as they are heard.

Generation is faster than speech. The service keeps a clock of what a listener has heard, which starts with
the first audio of a response and runs as fast as speech; it tells when a segment has been heard, and what an
interruption cuts off.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from novasonic.emulator.agenda import Agenda, Appointment
from novasonic.emulator.outbox import Outbox, StopReason
from novasonic.emulator.scenario import Behaviour, Say, ToolCall
from novasonic.emulator.usage import TOKENS_A_SECOND, UsageCounter, text_tokens

Voice = Callable[[Say, int], bytes | None]
"""Gives the sound of what is to be said, at a rate in Hz; None if it is not ready yet: ask again."""

_BEFORE_TEXT: Final = 0.025  # seconds, from the first usage of a response to its first text
_TO_FIRST_CHUNK: Final = 0.0005
_AFTER_LAST_CHUNK: Final = 0.0004  # and then the audio block ends; the last one of a response a bit later
_AFTER_LAST_OF_ALL: Final = 0.008
_AFTER_TOOL: Final = 0.02
_ASK_AGAIN: Final = 0.05
_AHEAD_TOKENS: Final = 36  # generated, and not sent when a response was cut
_AHEAD_TOLD: Final = 0.07
_MARKER_TOKENS: Final = 2
_CHUNK_TOKENS: Final = 2
_LAST_TOKENS: Final = 6  # in the last chunk, or one less if the count of all is odd


@dataclass(slots=True, kw_only=True)
class _Segment:
    say: Say
    chunks: list[tuple[int, bytes]]  # of its sound, each with the bytes that come before it
    seconds: float
    playing: float = 0.0  # when its playback starts
    heard: float = 0.0  # and ends
    final: bool = False  # its FINAL text was said


@dataclass(slots=True, kw_only=True)
class Response:
    """One answer of the model: segments to say, and tools to call before or after them."""

    number: int
    steps: Sequence[Say | ToolCall]
    seen: Callable[[], None]
    called: Callable[[ToolCall, str], None]
    segments: list[_Segment] = field(default_factory=list[_Segment])
    visible: bool = False
    generated: bool = False  # the last audio block has ended
    done: bool = False  # all steps were taken
    end_of_turn: bool = False  # a FINAL text has said END_TURN
    held: list[_Segment] = field(default_factory=list[_Segment])  # heard before everything was generated


class Mouth:
    """Says what the model says.

    Args:
        agenda: When.
        outbox: To whom.
        usage: What counts it.
        behaviour: How fast, and in what form.
        voice: The sounds.

    Attributes:
        sample_rate: Of the audio, in Hz.
        on_over: Called when a response has been heard to its end.
        on_middle: Called in the middle of the audio of each response, with its number.
    """

    def __init__(
        self, agenda: Agenda, outbox: Outbox, usage: UsageCounter, behaviour: Behaviour, voice: Voice
    ) -> None:
        self.sample_rate = 24_000
        self.on_over: Callable[[], None] = lambda: None
        self.on_middle: Callable[[int], None] = lambda _: None
        self._agenda = agenda
        self._outbox = outbox
        self._usage = usage
        self._behaviour = behaviour
        self._voice = voice
        self._response: Response | None = None
        self._responses = 0
        self._appointments: list[Appointment] = []
        self._audio_id: str | None = None  # of the block that is open

    @property
    def busy(self) -> bool:
        """Whether a response is being generated or heard."""
        return self._response is not None

    @property
    def silent(self) -> bool:
        """Whether a response has begun of which nothing was said yet."""
        return self._response is not None and not self._response.segments

    @property
    def audible(self) -> bool:
        """Whether something was shown of a response that a listener has not heard to its end."""
        response = self._response
        if response is None or not response.segments:
            return False
        return not response.generated or self._agenda.now < response.segments[-1].heard

    def prepare(self, says: Sequence[Say]) -> None:
        """Have the sounds made, for the voice may take its time."""
        for say in says:
            self._voice(say, self.sample_rate)

    def speak(
        self,
        steps: Sequence[Say | ToolCall],
        *,
        seen: Callable[[], None],
        called: Callable[[ToolCall, str], None],
    ) -> None:
        """Begin a response.

        Args:
            steps: What it consists of.
            seen: Called when the first of it is shown; until then it can be taken back.
            called: Called for each tool that is called, with the id of the call.
        """
        response = self._response = Response(
            number=self._responses + 1, steps=steps, seen=seen, called=called
        )
        first = next((step.text for step in steps if isinstance(step, Say)), "")
        self._usage.make(self._agenda.now, text=text_tokens(first))
        self._usage.settle(self._agenda.now)
        self._later(_BEFORE_TEXT, lambda: self._take(response, 0))

    def take_back(self) -> bool:
        """Drop a response of which nothing was said; whether it may be tried again, as nothing was shown."""
        response = self._response
        if response is None or not self.silent:
            return False
        self._drop()
        return not response.visible

    def between_blocks(self, do: Callable[[], None]) -> None:
        """Do something now, or when the block of audio that is open has ended: blocks do not nest."""
        if self._audio_id is None:
            do()
        else:
            self._agenda.after(_ASK_AGAIN, lambda: self.between_blocks(do))

    def interrupt(self) -> None:
        """Cut what is being said, the way the service does when the user breaks in."""
        response, now = self._response, self._agenda.now
        if response is None:
            return
        self._close_audio()
        self._outbox.interrupted(now)
        unheard = next((segment for segment in response.segments if not segment.final), None)
        if unheard is not None:
            self._say_final(unheard, "PARTIAL_TURN")
        self._usage.spend(now, text=_MARKER_TOKENS)
        self._drop()

    def stop(self) -> None:
        """Fall silent, as when the client says goodbye: nothing is said about what was not heard."""
        if self._response is not None:
            self._close_audio()
            self._drop()

    # --- generating ---

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._appointments = [each for each in self._appointments if each.at >= self._agenda.now]
        self._appointments.append(self._agenda.after(seconds, do))

    def _drop(self) -> None:
        for appointment in self._appointments:
            appointment.cancel()
        self._appointments = []
        self._response = None

    def _show(self, response: Response) -> None:
        if not response.visible:
            response.visible = True
            self._responses += 1
            response.seen()

    def _take(self, response: Response, index: int) -> None:
        if index == len(response.steps):
            response.done = True
            self._end_if_over(response)
            return
        step = response.steps[index]
        if isinstance(step, ToolCall):
            self._call(response, index, step)
        else:
            self._say(response, index, step)

    def _call(self, response: Response, index: int, call: ToolCall) -> None:
        self._show(response)
        content = _arguments(call)
        tool_use_id = self._outbox.tool_use(call.name, content, self._agenda.now)
        self._usage.make(self._agenda.now, text=text_tokens(call.name + content))
        self._usage.settle(self._agenda.now)
        response.called(call, tool_use_id)

        def go_on(times: int) -> None:
            if times == call.times:
                self._take(response, index + 1)
                return
            self._outbox.tool_use(call.name, content, self._agenda.now, tool_use_id=tool_use_id)
            self._later(_AFTER_TOOL, lambda: go_on(times + 1))

        self._later(_AFTER_TOOL, lambda: go_on(1))

    def _say(self, response: Response, index: int, say: Say) -> None:
        pcm = self._voice(say, self.sample_rate)
        if pcm is None:
            self._later(_ASK_AGAIN, lambda: self._take(response, index))
            return
        self._show(response)
        if response.segments:
            self._usage.make(self._agenda.now, text=text_tokens(say.text))
        first = not response.segments
        segment = _Segment(
            say=say,
            chunks=chunks(pcm, self.sample_rate, self._behaviour.chunk_bytes),
            seconds=len(pcm) / (self.sample_rate * 2),
        )
        response.segments.append(segment)
        self._outbox.text(say.text, self._agenda.now, role="ASSISTANT", stage="SPECULATIVE")
        delay = self._behaviour.first_audio if first else self._behaviour.next_audio
        self._later(delay, lambda: self._start_audio(response, index, segment))

    def _start_audio(self, response: Response, index: int, segment: _Segment) -> None:
        audio_id = self._audio_id = self._outbox.start_audio(self.sample_rate, self._agenda.now)
        start = self._agenda.now + _TO_FIRST_CHUNK
        earlier = response.segments[-2].heard if len(response.segments) > 1 else start
        segment.playing = max(start, earlier)
        last = self._is_last(response, index)
        token = _token_bytes(self.sample_rate)

        def chunk(number: int) -> None:
            if number == len(segment.chunks):
                pause = _AFTER_LAST_OF_ALL if last else _AFTER_LAST_CHUNK
                self._later(pause, lambda: self._end_audio(response, index, segment, audio_id))
                return
            before, pcm = segment.chunks[number]
            self._outbox.audio(audio_id, pcm, self._agenda.now)
            # A token counts with the chunk that completes it.
            self._usage.make(self._agenda.now, speech=(before + len(pcm)) // token - before // token)
            if last and number == len(segment.chunks) // 2:
                self.on_middle(response.number)
            self._later(
                start + self._sent_after(before + len(pcm)) - self._agenda.now, lambda: chunk(number + 1)
            )

        self._later(_TO_FIRST_CHUNK, lambda: chunk(0))

    def _sent_after(self, size: int) -> float:
        """Return the seconds in which so many bytes of a segment are sent."""
        delivery, bursts = self._behaviour.delivery, self._behaviour.bursts
        seconds = size / (self.sample_rate * 2) / delivery if delivery else 0.0
        return math.ceil(seconds / bursts) * bursts if bursts else seconds

    def _is_last(self, response: Response, index: int) -> bool:
        """Whether no other segment follows."""
        return not any(isinstance(step, Say) for step in response.steps[index + 1 :])

    def _end_audio(self, response: Response, index: int, segment: _Segment, audio_id: str) -> None:
        last, now = self._is_last(response, index), self._agenda.now
        self._outbox.end_audio(audio_id, "END_TURN" if last else "PARTIAL_TURN", now)
        self._audio_id = None
        # Audio may come more slowly than it plays: nothing is heard before it was sent.
        segment.heard = max(segment.playing + segment.seconds, now)
        self._later(segment.heard + self._behaviour.final - now, lambda: self._heard(response, segment))
        if last:
            response.generated = True
            for held in response.held:
                self._say_final(held, "PARTIAL_TURN")
            response.held = []
        self._later(self._behaviour.next_text, lambda: self._take(response, index + 1))

    def _close_audio(self) -> None:
        """Close a block in the middle. What was generated of it, and not sent, counts."""
        if self._audio_id is None:
            return
        stop_reason: StopReason = "INTERRUPTED" if self._behaviour.audio_interrupted else "PARTIAL_TURN"
        self._outbox.end_audio(self._audio_id, stop_reason, self._agenda.now)
        self._audio_id = None
        self._agenda.after(_AHEAD_TOLD, lambda: self._usage.make(self._agenda.now, speech=_AHEAD_TOKENS))

    # --- being heard ---

    def _heard(self, response: Response, segment: _Segment) -> None:
        if not response.generated:
            response.held.append(segment)
            return
        # The first FINAL text that falls due after the end of the audio says END_TURN, and no other does.
        self._say_final(segment, "PARTIAL_TURN" if response.end_of_turn else "END_TURN")
        response.end_of_turn = True
        self._end_if_over(response)

    def _say_final(self, segment: _Segment, stop_reason: StopReason) -> None:
        segment.final = True
        self._outbox.text(
            segment.say.text, self._agenda.now, role="ASSISTANT", stage="FINAL", stop_reason=stop_reason
        )

    def _end_if_over(self, response: Response) -> None:
        if response.done and all(segment.final for segment in response.segments):
            self._response = None
            self.on_over()


def _arguments(call: ToolCall) -> str:
    text = call.arguments if isinstance(call.arguments, str) else msgspec.json.encode(call.arguments).decode()
    return msgspec.json.encode(text).decode() if call.double_encoded else text


def _token_bytes(sample_rate: int) -> int:
    return sample_rate // TOKENS_A_SECOND * 2


def chunks(pcm: bytes, sample_rate: int, sizes: Sequence[int]) -> list[tuple[int, bytes]]:
    """Cut a sound as the service does: two tokens each, and five or six in the last.

    The last token is filled with silence: the service sends no part of one.
    """
    token = _token_bytes(sample_rate)
    pcm += bytes(-len(pcm) % token)
    if not sizes:
        count = len(pcm) // token
        last = min(count, _LAST_TOKENS - count % 2)
        sizes = [_CHUNK_TOKENS * token] * ((count - last) // _CHUNK_TOKENS) + [last * token]
    found, start = list[tuple[int, bytes]](), 0
    while start < len(pcm):
        end = start + sizes[len(found) % len(sizes)]
        found.append((start, pcm[start:end]))
        start = end
    return found
