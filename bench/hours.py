"""Three hours of one conversation: does it go on as if there were one stream, and does it keep its size?

The hours are those of a virtual clock. The service is in memory and behaves as it does by default: it closes
each stream after eight minutes, and one on which nobody has spoken for three minutes.
"""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench import virtual
from bench.counted import Account, Eavesdropper, Leg, account_for
from bench.exchange import Exchange, draw, misquotations, silent, turns_of
from bench.user import User
from novasonic.continuation import Renewal
from novasonic.emulator import MemoryConnector, Scenario
from novasonic.session import SonicSession
from novasonic.tools import tool

HOUR: Final = 3600.0

_QUICKEST: Final = 4.0  # seconds of an exchange, at least
_ABSENCES: Final = 0.01  # so many exchanges are followed by minutes of silence
_LONGEST_ABSENCE: Final = 15 * 60.0
_MUTED: Final = 0.5  # in so many of them the microphone is off
_PAUSE: Final = 8.0  # seconds between two exchanges, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was found.

    Attributes:
        seconds: How long the conversation was.
        exchanges: How many questions were asked, by kind.
        cuts: How many answers the user broke into.
        absences: How often the user was silent for minutes.
        renewals: How often the conversation moved on, by reason.
        at_once: How many streams there were at once, at most.
        account: What became of the user's audio.
        growth: Bytes of memory that were added after the first renewal; None if that was not measured.
        complaints: What is wrong.
    """

    seconds: float
    exchanges: Counter[str]
    cuts: int
    absences: int
    renewals: Counter[str]
    at_once: int
    account: Account
    growth: int | None
    complaints: Sequence[str]


def run(
    *, hours: float, seed: int, renewal: Renewal, memory: Callable[[], int] | None = None
) -> tuple[Result, list[str]]:
    """Hold a conversation.

    Args:
        hours: How long.
        seed: Of what happens by chance.
        renewal: When it moves on.
        memory: Tells how much there is in use, in bytes.

    Returns:
        What was found, and what is wrong with what was left behind.
    """
    random.seed(seed)  # delays have some chance in them, too
    talk = _Talk(hours * HOUR, random.Random(seed), renewal, memory)
    return virtual.run(talk.hold, within=1.5 * hours * HOUR + HOUR)


class _Talk:
    def __init__(
        self, seconds: float, chance: random.Random, renewal: Renewal, memory: Callable[[], int] | None
    ) -> None:
        self._seconds = seconds
        self._chance = chance
        self._renewal = renewal
        self._memory = memory
        self._sizes = list[int]()  # at each renewal

    def _script(self) -> list[Exchange]:
        script = list[Exchange]()
        for number in range(1, round(self._seconds / _QUICKEST) + 2):
            script.append(draw(self._chance, number, after_cut=bool(script) and script[-1].cut, falters=True))
        return script

    async def hold(self) -> Result:
        script, held = self._script(), list[Exchange]()
        scenario = Scenario(turns=turns_of(script), shared=True)
        connect = Eavesdropper(MemoryConnector(scenario, voice=silent))
        loop = asyncio.get_running_loop()
        absences, began_at = 0, loop.time()

        @tool
        async def look_up(number: int) -> dict[str, int]:
            """Look a number up."""
            await asyncio.sleep(script[number - 1].looking)
            return {"square": number * number}

        session = SonicSession(transport=connect, tools=[look_up], renewal=self._renewal)
        async with session, User(session) as user:
            session.played_by(user.ears)
            user.on_renewed = lambda _: self._weigh(connect.legs)
            while not user.ended and (loop.time() < began_at + self._seconds or held[-1].cut):
                exchange = script[len(held)]
                held.append(exchange)
                await user.ask(exchange)
                if exchange.cut:
                    await user.beginning(exchange)
                    await asyncio.sleep(self._chance.uniform(0.5, 3))
                    continue
                await user.answer(exchange)
                await asyncio.sleep(self._chance.uniform(0, _PAUSE))
                if self._chance.random() < _ABSENCES:
                    absences += 1
                    user.muted = self._chance.random() < _MUTED
                    await asyncio.sleep(self._chance.uniform(60, _LONGEST_ABSENCE))
                    user.muted = False
        self._weigh(connect.legs)
        account = account_for(connect.legs, user.voice)
        complaints = [*misquotations(session.history, held), *account.complaints]
        if user.failure is not None:
            complaints.append(f"the conversation ended: {user.failure!r}")
        return Result(
            seconds=loop.time() - began_at,
            exchanges=Counter(exchange.kind for exchange in held),
            cuts=sum(exchange.cut for exchange in held),
            absences=absences,
            renewals=user.renewals,
            at_once=max(leg.beside + 1 for leg in connect.legs),
            account=account,
            growth=max(self._sizes) - self._sizes[0] if self._memory else None,
            complaints=complaints,
        )

    def _weigh(self, legs: Sequence[Leg]) -> None:
        for leg in legs:
            if leg.log.outcome is not None:
                leg.log.messages.clear()  # what an emulator keeps for its tests is not the session's
        if self._memory is not None:
            gc.collect()
            self._sizes.append(self._memory())
