"""What the user and the model say to each other, one exchange after the other, for scenario and check.

Every sentence bears the number of its exchange, so that a word that is missing or said twice shows. The
emulator understands nothing; its turns are made so that a stream that takes over a conversation in the middle
finds what a model would say then.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from novasonic.conversation import Message
from novasonic.emulator import Heard, Say, ToolCall, Turn

Kind = Literal["spoken", "typed", "tool"]

AND_SO_ON: Final = "And so on."
"""What the model says when it is asked for its next sentence, and nobody tells after which."""

_AGAIN: Final = 9  # a stream that goes on in mid-sentence may be lost there, too; and so on


_FALTERS: Final = 0.2  # so many exchanges are faltering
_CUTS: Final = 0.2  # and cut
_ANNOUNCED: Final = 0.5  # so many tools are


class Quote(NamedTuple):
    """A sentence that somebody says.

    Attributes:
        exchange: The number of its exchange.
        certain: Whether it must be in the history: what the user does not hear out need not be.
        once: Whether it may be there only once.
    """

    exchange: int
    role: str
    text: str
    certain: bool
    once: bool

    def is_from(self, role: str, text: str) -> bool:
        """Whether somebody said this."""
        return (self.role, self.text) == (role, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question and its answer.

    Attributes:
        number: Its place in the conversation, from 1.
        kind: How the user asks, and whether the model needs a tool to answer.
        speaking: Seconds that the user speaks.
        pause: Seconds for which the user falters in the middle: so long that the service takes it for the
            end, and not so long that it answers.
        sentences: The answer, and how many seconds each takes.
        cut: The user does not hear the answer out: the next question breaks into its first sentence.
        looking: Seconds that the tool takes.
    """

    number: int
    kind: Kind
    speaking: float
    sentences: Sequence[Say]
    pause: float = 0.0
    cut: bool = False
    looking: float = 0.0

    @property
    def question(self) -> str:
        """What the user says."""
        return " ".join(self._stretches)

    @property
    def _stretches(self) -> Sequence[str]:
        question = f"question {self.number}"
        return (question, "if I may?") if self.pause else (f"{question}?",)

    @property
    def last(self) -> str:
        """The sentence with which the answer ends."""
        return self.sentences[-1].text

    def quotes(self, *, lossy: bool) -> Iterator[Quote]:
        """Return what is said.

        Args:
            lossy: Whether streams are lost on the way. A model that begins anew need not say once more that
                it looks something up; and what becomes of an answer that the user breaks into depends.
        """
        yield Quote(self.number, "USER", self.question, certain=True, once=True)
        for sentence in self.sentences:
            announced = self.kind == "tool" and sentence is not self.sentences[-1]
            yield Quote(
                self.number,
                "ASSISTANT",
                sentence.text,
                certain=not (lossy and announced)
                and (not self.cut or (not lossy and sentence is self.sentences[0])),
                once=not (lossy and self.cut),
            )

    def resumed(self) -> Iterator[Turn]:
        """Return what the model says to a client that has lost a stream and asks it to go on."""
        for start, sentence in enumerate(self.sentences):
            # What was found is no part of the sentence before it: the client tells of the result apart.
            end = start + 1 if self.kind == "tool" else len(self.sentences)
            yield Turn(typed=f"*broke off*{sentence.text!r}*", says=self.sentences[start:end])
        yield Turn(typed=f"*{self.question}", says=self.sentences)
        if self.kind == "tool":
            yield Turn(typed=f'*{{"number":{self.number}}}*', says=self.sentences[-1:])

    def turn(self) -> Turn:
        """Return what the model says to the question."""
        heard = [Heard(text, window=window) for window, text in enumerate(self._stretches, 1)]
        match self.kind:
            case "spoken":
                return Turn(heard=heard, says=self.sentences)
            case "typed":
                return Turn(typed=self.question, says=self.sentences)
            case "tool":
                call = ToolCall("look_up", arguments={"number": self.number})
                return Turn(heard=heard, calls=[call], says=self.sentences[:-1], then=self.sentences[-1:])


def draw(chance: random.Random, number: int, *, after_cut: bool = False, falters: bool = False) -> Exchange:
    """Return the exchange of that number, as chance will have it.

    Args:
        chance: That.
        number: Its place.
        after_cut: The user breaks in with it, and so speaks.
        falters: Whether the user may falter. The emulator tells the words of both stretches to a stream that
            hears only the second: not for streams that are lost.
    """
    kinds: Sequence[Kind] = ("spoken", "tool") if after_cut else ("spoken", "spoken", "tool", "typed")
    kind = chance.choice(kinds)
    cut = kind != "tool" and chance.random() < _CUTS
    announced = kind == "tool" and chance.random() < _ANNOUNCED
    count = 2 if kind == "tool" else chance.randint(1, 3)
    texts = [f"Sentence {place} of answer {number}." for place in range(1, count)]
    sentences = [Say(text, seconds=round(chance.uniform(0.8, 4), 2)) for text in texts]
    sentences.append(Say(f"That was answer {number}.", seconds=round(chance.uniform(0.8, 4), 2)))
    if cut:  # so long that the user breaks into the first one
        sentences[0] = Say(sentences[0].text, seconds=round(chance.uniform(5, 9), 2))
    return Exchange(
        number=number,
        kind=kind,
        speaking=chance.uniform(0.4, 6),
        pause=chance.uniform(0.8, 1.0) if falters and kind != "typed" and chance.random() < _FALTERS else 0.0,
        sentences=sentences if kind != "tool" or announced else sentences[-1:],
        cut=cut,
        looking=chance.choice((0.0, 0.3, chance.uniform(0.5, 8))),
    )


def turns_of(exchanges: Sequence[Exchange]) -> list[Turn]:
    """Return the turns of a scenario, and those that are needed only where a stream was lost."""
    resumed = [turn for exchange in exchanges for turn in exchange.resumed()]
    resumed += [
        Turn(typed="*Go on with your next sentence*", says=AND_SO_ON),
        Turn(typed=f"*broke off*{AND_SO_ON!r}*", says=AND_SO_ON),
    ]
    return [*(exchange.turn() for exchange in exchanges), *_AGAIN * resumed]


def misquotations(
    history: Sequence[Message], exchanges: Sequence[Exchange], *, lossy: bool = False
) -> list[str]:
    """Return what is missing in a history, or there twice, or never was said.

    Args:
        history: That.
        exchanges: What was said.
        lossy: Whether streams were lost on the way.
    """
    script = [quote for exchange in exchanges for quote in exchange.quotes(lossy=lossy)]
    complaints, at, forgiven = list[str](), 0, set[int]()
    for message in history:
        for text in re.split(r"(?<=[.?]) ", message.text):
            if text == AND_SO_ON:
                forgiven.add(script[max(0, at - 1)].exchange)
                continue
            found = next((n for n, quote in enumerate(script) if quote.is_from(message.role, text)), None)
            if found is None:
                complaints.append(f"nobody said {text!r}")
            elif found < at:
                complaints += [f"{text!r} is there twice"] if script[found].once else []
            else:
                complaints += _missing(script[at:found], forgiven)
                at = found + 1
    return complaints + _missing(script[at:], forgiven)


def _missing(passed_over: Sequence[Quote], forgiven: Collection[int]) -> list[str]:
    return [
        f"{quote.text!r} is missing"
        for quote in passed_over
        if quote.certain and quote.exchange not in forgiven
    ]


def silent(say: Say, sample_rate: int) -> bytes:
    """Return the sound of what is said: none, as nobody listens, but of the right length."""
    return bytes(2 * round((say.seconds or 1.0) * sample_rate))
