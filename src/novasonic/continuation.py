"""When a conversation moves on to another stream, and what it takes along. No I/O, no clock, no task.

The service closes every stream after eight minutes, and networks fail. The next stream knows nothing of the
one before: it is told what was said, hears again what was not turned into text, and is asked for what is
still owed to the user.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from novasonic.conversation import Left, Message, read_on
from novasonic.errors import ConfigurationError
from novasonic.events import ToolRun
from novasonic.messages import TEXT_LIMIT, InputRole
from novasonic.models import Limits

# What a hand-over needs before a stream ends, in seconds: to open another, and to let a sentence end. Of a
# stream that ends very soon it is a share of its life, or streams would do nothing but follow one another.
_EARLY: Final = (120.0, 0.5)
_LATE: Final = (30.0, 0.75)
_LAST: Final = (10.0, 0.9)


def _check(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        number = "a whole number" if whole else "a number"
        raise ConfigurationError(f"{name} is {value!r}, but must be {number}, {low:.10g} to {high:.10g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """When a conversation moves on to another stream, before the service closes the one it has.

    Attributes:
        after: Seconds of a stream's life after which the next quiet moment is used: nobody speaks, nothing
            is being played, no tool runs.
        at_latest: Seconds after which the conversation moves on even while the assistant speaks or a tool
            runs, as soon as the user does not speak. Near the end of the stream, it moves on in any case.
        carry: Seconds of the user's latest audio that the next stream hears again if the stream was lost:
            nobody knows how much of it had arrived.
        history_bytes: UTF-8 bytes of what was said that the next stream is told; older turns are left out.
            AWS documents 40 KB ("Chat history"), some accounts have 200 KB.
        message_bytes: UTF-8 bytes of one text in it; longer ones go in several. AWS documents 1 KB.

    Raises:
        ConfigurationError: If one of them is out of range, or `at_latest` is not after `after`.
    """

    after: float = 360.0
    at_latest: float = 450.0
    carry: float = 3.0
    history_bytes: int = Limits().history_bytes
    message_bytes: int = TEXT_LIMIT

    def __post_init__(self) -> None:
        _check("after", self.after, 0, 1e6)
        _check("at_latest", self.at_latest, 0, 1e6)
        _check("carry", self.carry, 0, 30)
        _check("history_bytes", self.history_bytes, 0, 10_000_000, whole=True)
        _check("message_bytes", self.message_bytes, 4, 500_000, whole=True)  # a document has a million
        if self.at_latest < self.after:
            raise ConfigurationError(
                f"at_latest is {self.at_latest:g} s, but must not be sooner than after, {self.after:g} s"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a conversation goes on when its stream was lost.

    Attributes:
        attempts: How often another stream is tried, until the conversation has really gone on: a stream that
            opens and dies at once gives no new attempts. 0 for never.
        delay: Seconds before the second attempt; the first is made at once, and each later one after twice
            as long.
        longest: Seconds of a delay at most.
        jitter: The share of a delay that is left to chance, so that many programs that lost their streams
            together do not come back together.

    Raises:
        ConfigurationError: If one of them is out of range.
    """

    attempts: int = 6
    delay: float = 0.5
    longest: float = 10.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check("attempts", self.attempts, 0, 1000, whole=True)
        _check("delay", self.delay, 0, 3600)
        _check("longest", self.longest, 0, 3600)
        _check("jitter", self.jitter, 0, 1)


class Budget:
    """The attempts that are left to reconnect.

    Attributes:
        attempt: How many were made since the conversation last went on.
    """

    def __init__(self, retry: Retry, chance: Callable[[], float] = random.random) -> None:
        self.attempt = 0
        self._retry = retry
        self._chance = chance

    def spend(self) -> float | None:
        """Take an attempt, and return the seconds to wait before it; None if there is none left."""
        retry = self._retry
        if self.attempt >= retry.attempts:
            return None
        self.attempt += 1
        if self.attempt == 1:
            return 0.0
        # Beyond some doublings every delay is the longest; the power must not overflow on the way.
        delay = min(retry.longest, retry.delay * 2.0 ** min(self.attempt - 2, 32))
        return delay * (1 - retry.jitter * self._chance())

    def refill(self) -> None:
        """Take note that the conversation has gone on."""
        self.attempt = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is going on when one thinks of moving on.

    Attributes:
        user_speaks: The user is speaking, or there is sound that may be speech.
        owed: The user waits for an answer.
        generating: An answer is coming.
        audible: An answer is being played.
        busy: A tool is at work.
    """

    user_speaks: bool = False
    owed: bool = False
    generating: bool = False
    audible: bool = False
    busy: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing at all is going on."""
        return not (self.user_speaks or self.owed or self.generating or self.audible or self.busy)

    @property
    def bearable(self) -> bool:
        """Whether one stream can finish what it says while the other listens."""
        return not (self.user_speaks or self.owed or self.generating)


@dataclass(frozen=True, slots=True)
class Plan:
    """When one stream is to be replaced, in seconds of its life.

    Attributes:
        after: From when on a quiet moment is waited for.
        at_latest: From when on any bearable moment will do.
        in_any_case: From when on any moment will do.
        reason: Why it has to be.
    """

    after: float
    at_latest: float
    in_any_case: float
    reason: Literal["age", "credentials", "update"]

    @classmethod
    def of(cls, renewal: Renewal, *, stream: float, credentials: float | None) -> "Plan":
        """Return the plan for a stream that the service closes after so many seconds.

        Args:
            renewal: What the program wants.
            stream: Seconds until the service closes it.
            credentials: Seconds until the credentials expire; None if they do not.
        """
        reason: Literal["age", "credentials"] = "age"
        end = stream
        if credentials is not None and credentials < stream:
            reason, end = "credentials", credentials
        early, late, last = (max(end - seconds, end * share) for seconds, share in (_EARLY, _LATE, _LAST))
        return cls(min(renewal.after, early), min(renewal.at_latest, late), last, reason)

    def ready(self, age: float, situation: Situation) -> bool:
        """Whether this is the moment to move on."""
        if age < self.after:
            return False
        if situation.quiet or age >= self.in_any_case:
            return True
        return age >= self.at_latest and situation.bearable


NOW: Final = Plan(0.0, 0.0, 15.0, "update")
"""For a change that is wanted at once: as soon as the user does not speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What the next stream is told.

    Attributes:
        history: Before it listens: roles that alternate, the user first.
        prompts: Once it listens, and to be answered.
    """

    history: Sequence[tuple[InputRole, str]]
    prompts: Sequence[str] = ()


def carry(left: Left, *, owed: bool, again: bool, answers_typed_text: bool, max_bytes: int) -> Carried:
    """Return what the next stream is told of what the one before has left.

    Args:
        left: That.
        owed: Whether the user waits for an answer.
        again: Whether the next stream hears again what the user is saying, and will answer all of it then.
        answers_typed_text: Whether the model can be asked in words.
        max_bytes: UTF-8 bytes of the history.
    """
    history, prompts = alternating(left.history), list[str]()
    if answers_typed_text and owed:
        if left.unanswered and not again:
            prompts.append(history.pop()[1])
        elif left.unfinished is not None and not again:
            prompts.append(_GO_ON.format(text=left.unfinished) if left.unfinished else _GO_ON_AFTER)
        prompts += [told(run) for run in left.calls if run.result is not None]
        prompts += left.prompts
    running = ", ".join(run.name for run in left.calls if run.result is None)
    if running and history and history[-1][0] == "USER":
        # Nobody said so; but history that ends with the user may be answered at once, and without the tool.
        history.append(("ASSISTANT", _RUNNING.format(names=running)))
    return Carried(history=trimmed(history, max_bytes), prompts=prompts)


_LOST_FOR_A_MOMENT: Final = (
    "The connection was lost for a moment while you were speaking, and I missed the end."
)
_GO_ON: Final = (
    f"{_LOST_FOR_A_MOMENT} Begin again with the sentence that broke off, and go on from there: {{text!r}}. "
    "Do not mention the connection."
)
_GO_ON_AFTER: Final = f"{_LOST_FOR_A_MOMENT} Go on with your next sentence. Do not mention the connection."
_RUNNING: Final = "One moment, I am waiting for a result: {names}."
_TOLD: Final = (
    "The tool {name}, which you have called with the arguments {arguments}, has returned {result}. "
    "Answer me with that."
)


def told(run: ToolRun) -> str:
    """Return the words in which a model hears of the result of a tool that it called over another stream."""
    arguments, result = (msgspec.json.encode(each).decode() for each in (run.arguments, run.result))
    return _TOLD.format(name=run.name, arguments=arguments, result=result)


def alternating(history: Sequence[Message]) -> list[tuple[InputRole, str]]:
    """Return what was said as the service wants it: words, and each role in turn."""
    said = list[tuple[InputRole, str]]()
    for message in history:
        if not message.text.strip():
            continue  # nothing but tool calls
        if said and said[-1][0] == message.role:
            said[-1] = (message.role, read_on(said[-1][1], message.text))
        else:
            said.append((message.role, message.text))
    return said


def trimmed(history: Sequence[tuple[InputRole, str]], max_bytes: int) -> list[tuple[InputRole, str]]:
    """Return the latest of it, in whole turns: what the user says and what is answered."""
    turns = list[list[tuple[InputRole, str]]]()
    for role, text in history:
        if role == "USER":
            turns.append([])
        if turns:  # the service takes no history that begins with the assistant
            turns[-1].append((role, text))
    kept, size = list[tuple[InputRole, str]](), 0
    for turn in reversed(turns):
        size += sum(len(text.encode()) for _, text in turn)
        if size > max_bytes:
            break
        kept = [*turn, *kept]
    return kept
