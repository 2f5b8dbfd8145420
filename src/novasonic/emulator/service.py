"""The service's rules and its behaviour in time: Bedrock without a wire. No I/O, and time is an argument.

`Service.open()` gives a `Stream`; `receive()` takes what a client says, `advance()` gives what the service
says, and `due` tells when to ask again. All times are seconds of one clock, so whoever plays a stream may
run it at any speed: eight minutes pass at once.

The order and the times are those of recorded sessions; where none shows what happens, the least surprising
thing does. Nothing is understood: a scenario says what was heard, and without one the service says what it
has measured.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, assert_never, cast
from uuid import uuid4

import msgspec

from novasonic import messages, models
from novasonic.emulator import rules
from novasonic.emulator.agenda import Agenda, Appointment
from novasonic.emulator.ear import Ear, Window
from novasonic.emulator.hum import hum
from novasonic.emulator.log import SessionLog
from novasonic.emulator.mouth import Mouth, Voice
from novasonic.emulator.outbox import Accepted, Broken, Ended, Failed, Outbox, Output, Refused
from novasonic.emulator.rules import Judge, RejectedError
from novasonic.emulator.scenario import Fault, FaultPoint, Heard, Say, Scenario, ToolCall, Turn
from novasonic.emulator.script import Cue, Script, Utterance, filled, measure_window, measured, steps_of
from novasonic.emulator.usage import UsageCounter, text_tokens
from novasonic.errors import ConfigurationError
from novasonic.lifecycle import State
from novasonic.models import Model

# Seconds after the first audio, and what is counted: instructions of the service itself, and its voice.
_SETUP: Final = ((0.03, 0, 22), (0.06, 157, 0), (0.0604, 0, 1), (0.13, 0, 43))
_SPOKEN_TEXT_TOKENS: Final = 3  # with each portion of speech
_TURN_TOKENS: Final = 1  # with the end of speech, after the first
_DROPPED_TOKENS: Final = 11  # generated for an answer that nobody sees
_DROPPED_AFTER: Final = 1.0
_FIRST_USAGE: Final = 0.035  # after sessionEnd
_GOODBYE: Final = 0.070
_GOODBYE_TOKENS: Final = 2
_END: Final = 0.072
_AUDIO_COMES: Final = 10.0
_LOGS: Final = 1000  # are kept: an emulator may run for weeks, and tests look at the last ones


@dataclass(slots=True, kw_only=True)
class _Job:
    """Something that is to be answered, as soon as it may be."""

    ready: float
    steps: Sequence[Say | ToolCall]
    kind: Literal["speech", "typed", "result"]
    turn: Turn | None = None
    cue: Cue | None = None  # that it uses up, once it is shown


@dataclass(slots=True, kw_only=True)
class _Batch:
    """The calls of one turn, which are spoken about when all results are in."""

    turn: Turn | None = None
    coming: int = 0  # calls that the response has not made yet
    open: int = 0  # and that have no result yet
    answered: int = 0
    plain: list[str] = field(default_factory=list[str])  # tools that answered, without a `then` of their own
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


class Service:
    """What all streams have in common.

    Args:
        scenario: What is heard and answered; one for all streams, or one for each in order, the last of them
            for all that follow.
        voice: Gives the sounds.
        max_streams: How many streams may be open at once.
        new_id: Gives ids.

    Attributes:
        sessions: What was noticed about each stream, in the order in which they were opened; of the last
            thousand.
    """

    def __init__(
        self,
        scenario: Scenario | Sequence[Scenario] | None = None,
        *,
        voice: Voice = hum,
        max_streams: int = models.Limits().streams,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        given = [scenario] if isinstance(scenario, Scenario) else scenario
        self.sessions: list[SessionLog] = []
        self._scenarios = [*(given or ()), *([] if given else [Scenario()])]
        self._scripts = [Script(each.turns) for each in self._scenarios]
        self._voice = voice
        self._max_streams = max_streams
        self._new_id = new_id
        self._opened = 0  # so far
        self._open = 0  # now
        self._happened: Counter[int] = Counter()  # faults, by identity: equal ones are not the same

    def unused(self) -> Sequence[Turn]:
        """Return the turns of shared scenarios that no stream has used."""
        shared = zip(self._scenarios, self._scripts, strict=True)
        return [turn for scenario, script in shared if scenario.shared for turn in script.left]

    def happened(self, fault: Fault) -> int:
        """Return how often a fault of a scenario has happened: this one, not another that is like it."""
        return self._happened[id(fault)]

    def open(self, model_id: str, now: float) -> "Stream":
        """Return a new stream. Whether it is accepted shows when it has been heard."""
        self._opened += 1
        number = self._opened
        which = min(number, len(self._scenarios)) - 1
        scenario = self._scenarios[which]
        log = SessionLog(model_id=model_id, request_id=self._new_id())
        self.sessions.append(log)
        del self.sessions[:-_LOGS]
        stream = Stream(
            scenario=scenario,
            script=self._scripts[which] if scenario.shared else Script(scenario.turns),
            faults=[fault for fault in scenario.faults if fault.stream in {None, number}],
            happens=self._happens,
            closed=self._close,
            log=log,
            voice=self._voice,
            new_id=self._new_id,
            now=now,
        )
        self._open += 1
        if self._open > self._max_streams:
            stream.refuse("ThrottlingException", rules.TOO_MANY)
        return stream

    def _happens(self, fault: Fault) -> bool:
        """Whether a fault happens once more."""
        if fault.times is not None and self._happened[id(fault)] >= fault.times:
            return False
        self._happened[id(fault)] += 1
        return True

    def _close(self) -> None:
        self._open -= 1


class Stream:
    """One session, seen from the service. `Service.open()` makes it.

    Attributes:
        request_id: The service's id of the stream.
        log: What was noticed about it.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        script: Script,
        faults: Sequence[Fault],
        happens: Callable[[Fault], bool],
        closed: Callable[[], None],
        log: SessionLog,
        voice: Voice,
        new_id: Callable[[], str],
        now: float,
    ) -> None:
        behaviour = self._behaviour = scenario.behaviour
        self.log = log
        self.request_id = log.request_id
        self._script = script
        self._faults = list(faults)
        self._happens = happens
        self._closed: Callable[[], None] | None = closed
        self._agenda = Agenda(now)
        self._outbox = Outbox(behaviour, new_id)
        self._outbox.on_said = self._said
        self._usage = UsageCounter(self._outbox)
        self._mouth = Mouth(self._agenda, self._outbox, self._usage, behaviour, voice)
        self._mouth.on_over = self._consider
        self._mouth.on_middle = lambda number: self._fail_at("in_response", number)
        self._ear = Ear(self._agenda, behaviour, self, prompt=lambda: self._mouth.audible)
        self._dead = False  # a stalled stream neither hears nor speaks

        self._accepting: Appointment | None = None
        self._early: list[messages.InputMessage] = []  # what came before the stream was accepted
        self._input_rate = 16_000
        self._deaf = False  # an audio block that is not interactive is never listened to
        self._stretches = 0  # of the user's speech, that were found and have not ended
        self._stretches_told = 0
        self._calls_made = 0
        self._stretches_ended = 0
        self._utterance: Utterance | None = None
        self._answer: _Job | None = None
        self._jobs: list[_Job] = []
        self._typed: dict[str, str] = {}  # interactive blocks that are open, and their text
        self._results: dict[str, str] = {}  # TOOL blocks that are open, and their text
        self._batch = _Batch()  # of the response that goes on
        self._calls: dict[str, tuple[ToolCall, _Batch]] = {}  # that have no result yet

        self._last_input = self._last_audio = self._last_speech = now
        self._model = self._find_model(log.model_id)
        self._judge = Judge(self._model, behaviour)
        if behaviour.any_input_gap is not None:
            self._watch(behaviour.any_input_gap, lambda: self._last_input, rules.ANY_INPUT_GAP)
        self._open_with_faults()

    # --- for whoever plays the stream ---

    @property
    def over(self) -> bool:
        """Whether nothing more will come after what `advance()` returns."""
        return self._outbox.closed

    @property
    def due(self) -> float | None:
        """When `advance()` has something to do next; None if nothing will happen by itself."""
        return None if self.over else self._agenda.due

    def receive(self, document: bytes, now: float) -> None:
        """Hear what the client says."""
        self._agenda.run(now)
        if self.over or self._dead:
            return
        try:
            message = self._judge.judge(document)
        except RejectedError as exc:
            self.reject(str(exc))
            return
        self._last_input = now
        if not isinstance(message, messages.AudioInput):
            self.log.messages.append(message)
        if self._accepting is None:
            self._hear(message)
        else:
            self._early.append(message)

    def end_input(self, now: float) -> None:
        """Take note that the client will say nothing more."""
        self._agenda.run(now)
        if self.over or self._dead:
            return
        try:
            self._judge.judge_end()
        except RejectedError as exc:
            self.reject(str(exc))

    def abandon(self, now: float, outcome: str = "abandoned") -> None:
        """Take note that the client has gone, or cannot be spoken to any more."""
        self._agenda.run(now)
        self._finish(outcome, "")
        self._outbox.closed = True

    def refuse(self, code: str, text: str, *, status: int | None = None) -> None:
        """Answer the opening with an HTTP error."""
        status = status or rules.STATUS.get(code, 400)
        self._put(Refused(at=self._now, status=status, code=code, message=text), code, text)

    def fail(self, code: str, text: str, *, modelled: bool = True) -> None:
        """End the stream with an exception, or with an error of the machinery."""
        self._early = []
        self._accept()
        moment = self._outbox.moment(self._now)
        self._put(Failed(at=moment, code=code, message=text, modelled=modelled), code, text)

    def advance(self, now: float) -> list[Output]:
        """Let the time pass and return what the service says up to `now`."""
        if not self.over:
            self._agenda.run(now)
        return self._outbox.take()

    # --- opening ---

    @property
    def _now(self) -> float:
        return self._agenda.now

    def _find_model(self, model_id: str) -> Model:
        try:
            model = models.lookup(model_id)
        except ConfigurationError:
            model = models.MODELS[0]
            self.refuse("ValidationException", rules.UNKNOWN_MODEL)
        if not model.known and not model_id.startswith("arn:") and "sonic" not in model_id:
            self.refuse("ValidationException", rules.UNKNOWN_MODEL)
        return model

    def _open_with_faults(self) -> None:
        for fault in self._faults:
            if fault.kind == "refuse" and fault.at_opening and not self.over and self._happens(fault):
                code = fault.code or _code_of(fault.status)
                text = fault.message or rules.TEXTS.get(code, "")
                self.refuse(code, text, status=fault.status)

    def _accept(self) -> None:
        if self.log.accepted or self.over:
            return
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        self.log.accepted = True
        self._outbox.put(Accepted(at=self._outbox.moment(self._now)))
        behaviour, opened = self._behaviour, self._now
        self._last_audio = self._last_speech = opened
        if behaviour.input_gap is not None:
            text = rules.INPUT_GAP.format(seconds=behaviour.input_gap)
            self._watch(behaviour.input_gap, lambda: self._last_audio, text)
        if behaviour.silence_only is not None:
            self._watch(behaviour.silence_only, self._silent_since, rules.SILENCE)
        if behaviour.stream is not None:
            self._agenda.after(behaviour.stream, self._expire)
        for fault in self._faults:
            if fault.at is not None:
                self._agenda.at(opened + fault.at, partial(self._break, fault))
        early, self._early = self._early, []
        for message in early:
            self._hear(message)

    def _answer_opening(self) -> None:
        """Accept, or do what a scenario wants instead."""
        self._accepting = None
        for fault in [each for each in self._faults if each.at_opening and each.kind != "refuse"]:
            if not self._happens(fault):
                continue
            if fault.kind == "mute":
                self._dead = True
                self._agenda.clear()
                return
            if fault.kind not in {"reset", "goaway", "cut", "stall"}:
                self._accept()
            self._do(fault)
            if self.over or self._dead:
                return
        self._accept()

    def _silent_since(self) -> float:
        """Return since when nothing was spoken, if audio comes: to hear none at all is another matter."""
        return self._last_speech if self._now - self._last_audio < _AUDIO_COMES else self._now

    def _expire(self) -> None:
        self.fail("modelTimeoutException", self._with_id(rules.TEXTS["ModelTimeoutException"]))

    def _watch(self, seconds: float, last: Callable[[], float], text: str) -> None:
        """Give up when `last` has been so long ago."""

        def look() -> None:
            left = last() + seconds - self._now
            if left > 0:
                self._agenda.after(left, look)
            else:
                self.reject(text)

        self._agenda.after(seconds, look)

    # --- hearing ---

    def reject(self, text: str) -> None:
        """End the stream because of what the client has sent."""
        text = self._with_id(text)
        if self.log.accepted or self._judge.prompt_name is not None:
            self.fail("validationException", text)
        else:
            self.refuse("ValidationException", text)

    def _with_id(self, text: str) -> str:
        return f"RequestId={self.request_id} : {text}"

    def _hear(self, message: messages.InputMessage) -> None:
        match message:
            case messages.SessionStart():
                pass
            case messages.PromptStart():
                self._outbox.prompt_name = message.prompt_name
                self._mouth.sample_rate = message.sample_rate
                self._accepting = self._agenda.after(self._behaviour.accept, self._answer_opening)
            case messages.InputContentStart():
                self._hear_start(message)
            case messages.TextInput():
                if message.content_name in self._typed:
                    self._typed[message.content_name] += message.content
            case messages.AudioInput():
                self._hear_audio(message.content)
            case messages.ToolResult():
                self._results[message.content_name] = message.content
            case messages.InputContentEnd():
                self._hear_end(message)
            case messages.PromptEnd():
                self._fall_silent()
            case messages.SessionEnd():
                self._say_goodbye()
            case _:
                assert_never(message)

    def _hear_start(self, message: messages.InputContentStart) -> None:
        if message.type == "AUDIO" and message.sample_rate is not None:
            self._input_rate = message.sample_rate
            self._deaf = not message.interactive
            self._last_audio = self._now
        elif message.type == "TEXT" and message.interactive:
            self._typed[message.content_name] = ""
            self._last_audio = self._last_speech = self._now

    def _hear_audio(self, pcm: bytes) -> None:
        self.log.audio_messages += 1
        self._last_audio = self._now
        if self.log.audio_messages == 1:
            self._start_up()
        self.log.audio_seconds += len(pcm) / (self._input_rate * 2)
        if not self._deaf:
            cue = self._utterance.cue if self._utterance else self._script.spoken()
            chosen = cue.turn.silence if cue is not None else None
            self._ear.silence = self._behaviour.silence if chosen is None else chosen
            self._ear.hear(pcm, self._input_rate)
        self._fail_at("after_audio", self.log.audio_messages)

    def _start_up(self) -> None:
        problem = self._judge.voice_problem
        if problem is not None:
            self._agenda.after(_SETUP[0][0], lambda: self.reject(problem))
            return
        for seconds, speech, text in _SETUP:
            self._agenda.after(seconds, partial(self._spend, speech, text))
        if self._behaviour.answers_history:
            self._answer_history()

    def _answer_history(self) -> None:
        """Answer the user's last message, if nobody has."""
        role, text = next(reversed(self.log.history), ("", ""))
        if role == "USER":
            self._answer_text(text, self._script.typed(text))

    def _spend(self, speech: int, text: int) -> None:
        self._usage.spend(self._now, speech=speech, text=text)

    def _hear_end(self, message: messages.InputContentEnd) -> None:
        typed = self._typed.pop(message.content_name, None)
        if typed is not None:
            self._hear_typed(typed)
        result = self._results.pop(message.content_name, None)
        tool_use_id = self._judge.answered(message)
        if result is not None and tool_use_id is not None:
            self._hear_result(tool_use_id, result)

    def _hear_typed(self, text: str) -> None:
        self._usage.spend(self._now, text=text_tokens(text))
        if self._behaviour.echo_typed:
            self._mouth.between_blocks(partial(self._tell_user_text, text))
        if not self._model.answers_typed_text:
            return
        self._answer_text(text, self._script.typed(text))

    def _answer_text(self, text: str, cue: Cue | None) -> None:
        if cue is not None:
            self._script.hold(cue)
            self._jobs.append(self._job("typed", self._steps(cue.turn), turn=cue.turn, cue=cue))
        else:
            words = len(text.split())
            say = Say(f"You typed {words} {'word' if words == 1 else 'words'}.")
            self._jobs.append(self._job("typed", (say,)))
        self._consider()

    def _hear_result(self, tool_use_id: str, result: str) -> None:
        self._usage.spend(self._now, text=text_tokens(result))
        call, batch = self._calls.pop(tool_use_id)
        batch.open -= 1
        batch.answered += 1
        facts = cast("dict[str, Any]", msgspec.json.decode(result))
        given: Mapping[str, Any] = {} if isinstance(call.arguments, str) else call.arguments
        batch.facts |= {**given, **facts}
        if call.then:
            steps = filled(call.then, {**given, **facts})
            self._jobs.append(self._job("result", steps, turn=batch.turn))
        else:
            batch.plain.append(call.name)
        if not batch.open and not batch.coming:
            self._speak_about(batch)
        self._consider()

    def _speak_about(self, batch: _Batch) -> None:
        """Have something said now that all results are in."""
        turn = batch.turn
        if turn is not None and turn.then:
            steps = filled(turn.then, batch.facts)
        else:
            # A result is always spoken about: nobody has found a way to give a silent one.
            steps = tuple(Say(f"The result of {name} is in.") for name in batch.plain)
        if steps:
            self._jobs.append(self._job("result", steps, turn=turn))

    def _make_no_more_calls(self) -> None:
        """Take note that the rest of a response will not come."""
        batch = self._batch
        missing, batch.coming = batch.coming, 0
        if missing and batch.answered and not batch.open:
            self._speak_about(batch)

    def _job(
        self,
        kind: Literal["speech", "typed", "result"],
        steps: Sequence[Say | ToolCall],
        *,
        turn: Turn | None = None,
        cue: Cue | None = None,
    ) -> _Job:
        """Return something to answer, the sounds of which are being made."""
        self._mouth.prepare([step for step in steps if isinstance(step, Say)])
        delay = self._behaviour.answer if turn is None or turn.answer is None else turn.answer
        return _Job(ready=self._now + delay, steps=steps, kind=kind, turn=turn, cue=cue)

    def _steps(self, turn: Turn) -> Sequence[Say | ToolCall]:
        return steps_of(turn, waits=not self._model.runs_tools_asynchronously)

    # --- the user's speech, as the ear reports it ---

    def speech_found(self) -> None:
        """Somebody speaks: an answer that was not shown yet will not be."""
        self._stretches += 1
        if self._mouth.silent:
            self._make_no_more_calls()
        dropped = self._mouth.take_back()
        if self._answer is not None:
            self._release(self._answer)
            self._answer, dropped = None, True
        if dropped:
            self._agenda.after(_DROPPED_AFTER, self._count_dropped)
        if self._utterance is None:
            self._utterance = Utterance()
            self._utterance.follow(self._script.spoken())

    def _count_dropped(self) -> None:
        self._usage.make(self._now, text=_DROPPED_TOKENS)
        self._usage.settle(self._now)

    def speech_started(self, window: Window) -> None:
        """Report it; and if the model is speaking, stop it."""
        self._last_speech = self._now
        if self._closing:
            return
        if self._model.reports_user_speech:
            self._outbox.say(messages.UserSpeechStart(offset_ms=window.start_ms), self._now)
        if self._mouth.audible:
            self._mouth.interrupt()
            self._make_no_more_calls()
        self._stretches_told += 1
        self._fail_at("in_speech", self._stretches_told)

    def speech_goes_on(self, seconds: float) -> None:
        """Report a piece of a long utterance."""
        self._last_speech = self._now
        utterance = self._utterance
        if utterance is None or self._closing:
            return
        pieces = utterance.pieces_now()
        if pieces and self._is_early(pieces, utterance.told, seconds):
            utterance.tell(pieces[0])
            self._tell_user_text(pieces[0].text)

    def _tell_user_text(self, text: str, inside: Callable[[], None] | None = None) -> None:
        self._outbox.text(text, self._now, role="USER", stage="FINAL", inside=inside)

    def _is_early(self, pieces: Sequence[Heard], told: int, seconds: float) -> bool:
        """Whether the first of the pieces is told by now, while the user goes on."""
        first = pieces[0]
        at = first.at if first.at is not None else (told + 1) * self._behaviour.user_text_every
        many = len(pieces) > 1 and first.place is None
        return (first.place == "early" or many) and seconds >= at

    def speech_counted(self, tokens: int) -> None:
        """Tell what the speech counts as."""
        self._usage.spend(self._now, speech=tokens)
        self._usage.spend(self._now, text=_SPOKEN_TEXT_TOKENS)

    def speech_ended(self, window: Window) -> None:
        """Report it, with what was heard, and think of an answer."""
        self._last_speech = self._now
        self._stretches -= 1
        self.log.windows.append((window.start_ms / 1000, window.end_ms / 1000))
        utterance = self._utterance
        if utterance is None or self._closing:
            return
        goes_on = self._stretches > 0  # the next stretch began before this end was reported
        if not goes_on:
            utterance.follow(self._script.hold(utterance.cue))
        pieces = utterance.pieces_now() if utterance.turn is not None else [measure_window(window)]
        utterance.windows.append(window)
        utterance.told = 0
        self._report_end(window, pieces)
        self._usage.settle(self._now)
        self._stretches_ended += 1
        first = self._stretches_ended == 1
        self._usage.spend(self._now, text=self._behaviour.system_tokens if first else _TURN_TOKENS)
        if not goes_on:
            self._plan_answer(utterance)
        self._fail_at("after_speech", self._stretches_ended)

    def _report_end(self, window: Window, pieces: Sequence[Heard]) -> None:
        """Say the texts of the user and the end of the speech, each in its place."""
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True
            if self._model.reports_user_speech:
                self._outbox.say(
                    messages.UserSpeechEnd(offset_ms=window.end_ms, detected_at_ms=window.detected_ms),
                    self._now,
                )

        for piece in pieces:  # they keep their order, so nothing comes "before" once the end was told
            place = "after" if ended else piece.place or self._behaviour.user_text
            if place == "after" and not ended:
                end()
            self._tell_user_text(piece.text, end if place == "around" else None)
        if not ended:
            end()

    def _plan_answer(self, utterance: Utterance) -> None:
        turn = utterance.turn
        steps = self._steps(turn) if turn is not None else (measured(utterance),)
        self._answer = self._job("speech", steps, turn=turn, cue=utterance.cue)
        self._consider()

    # --- answering ---

    def _consider(self) -> None:
        """Begin the next answer, if it is time for one and nothing speaks against it."""
        if self._closing or self.over or self._stretches or self._mouth.busy:
            return
        job = self._next_job()
        if job is None:
            return
        if job.ready > self._now:
            self._agenda.at(job.ready, self._consider)
            return

        def seen() -> None:
            if self._answer is job:
                self._answer = self._utterance = None
            self._jobs = [each for each in self._jobs if each is not job]
            if job.cue is not None:
                self._script.take(job.cue)

        if not job.steps:  # the model chose to keep silent
            seen()
            self._consider()
            return
        calls = sum(isinstance(step, ToolCall) for step in job.steps)
        batch = self._batch = _Batch(turn=job.turn, coming=calls)
        self._mouth.speak(job.steps, seen=seen, called=lambda call, id_: self._called(call, id_, batch))

    def _next_job(self) -> _Job | None:
        waiting = [*([self._answer] if self._answer else []), *self._jobs]
        if not self._model.runs_tools_asynchronously:
            results = [job for job in waiting if job.kind == "result"]
            waiting = results or ([] if self._calls else waiting)
        return waiting[0] if waiting else None

    def _called(self, call: ToolCall, tool_use_id: str, batch: _Batch) -> None:
        batch.coming -= 1
        batch.open += 1
        self._calls[tool_use_id] = (call, batch)
        self._judge.expect_result(tool_use_id)
        self._calls_made += 1
        self._fail_at("after_call", self._calls_made)

    # --- closing ---

    @property
    def _closing(self) -> bool:
        return self._judge.state in {State.ENDING, State.ENDED}

    def _fall_silent(self) -> None:
        self._mouth.stop()
        self._drop_answers()

    def _drop_answers(self) -> None:
        """Forget what was to be answered, and leave it to other streams."""
        for job in (*self._jobs, *([self._answer] if self._answer else [])):
            self._release(job)
        self._answer, self._jobs = None, []

    def _release(self, job: _Job) -> None:
        if job.cue is not None:
            self._script.release(job.cue)

    def _say_goodbye(self) -> None:
        self._fall_silent()
        self._agenda.after(_FIRST_USAGE, self._settle)
        self._agenda.after(_GOODBYE, lambda: self._outbox.end_completion(self._now))
        self._agenda.after(_END, lambda: self._put(Ended(at=self._now), "completed", ""))

    def _settle(self) -> None:
        if not self._usage.settle(self._now):
            self._usage.make(self._now, text=_GOODBYE_TOKENS)
            self._usage.settle(self._now)

    def _put(self, output: Output, outcome: str, reason: str) -> None:
        """Let the last thing of a stream go out."""
        self._outbox.put(output)
        if self._outbox.closed:
            self._finish(outcome, reason)

    def _finish(self, outcome: str, reason: str) -> None:
        self._agenda.clear()
        self._drop_answers()
        self.log.usage = self._usage.total
        if self._closed is not None:
            self.log.outcome, self.log.reason = outcome, reason
            closed, self._closed = self._closed, None
            closed()

    # --- what a scenario wants to go wrong ---

    def _said(self) -> None:
        self.log.documents = self._outbox.said
        self._fail_at("after_output", self._outbox.said)

    def _fail_at(self, point: FaultPoint, number: int) -> None:
        for fault in self._faults:
            if getattr(fault, point) != number:
                continue
            if fault.delay:
                self._agenda.after(fault.delay, partial(self._break, fault))
            else:
                self._break(fault)

    def _break(self, fault: Fault) -> None:
        if not self.over and self._happens(fault):
            self._do(fault)

    def _do(self, fault: Fault) -> None:
        now = self._now
        match fault.kind:
            case "refuse" | "exception":
                code = fault.code or "ModelStreamErrorException"
                self.fail(code[0].lower() + code[1:], self._with_id(_text_of(fault, code)))
            case "error":
                code = fault.code or "InternalServerError"
                self.fail(code, fault.message or "An internal error occurred.", modelled=False)
            case "mute" | "stall":
                self._dead = True
                self._put(Broken(at=now, how="stall"), "stall", "")
            case "reset" | "goaway" | "goaway_others" | "cut" | "garbled" | "truncated":
                self._put(Broken(at=self._outbox.moment(now), how=fault.kind), fault.kind, "")
            case "end":
                self._put(Ended(at=self._outbox.moment(now)), "ended", "")
            case "unknown":
                name = fault.code or "somethingNew"
                self._outbox.say(messages.UnknownMessage(name=name, payload={"emulated": True}), now)
            case "malformed":
                self._outbox.document(b'{"event":', now)


def _code_of(status: int | None) -> str:
    return next((code for code, each in rules.STATUS.items() if each == status), "ThrottlingException")


def _text_of(fault: Fault, code: str) -> str:
    return fault.message or rules.TEXTS.get(code[0].upper() + code[1:], "Something went wrong.")
