"""Hundreds of faults in a hundred conversations: each goes on, or says why not, and nobody waits in vain.

Every conversation has a chance of its own, made of the seed and its number: one that goes wrong can be held
again, alone. Which faults happen depends on how it goes; so what must come of it is told from what the
service has noticed.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bench import virtual
from bench.counted import Account, Eavesdropper, Leg, account_for
from bench.exchange import Exchange, draw, misquotations, silent, turns_of
from bench.user import UnansweredError, User
from novasonic.continuation import Renewal, Retry
from novasonic.emulator import Behaviour, Fault, MemoryConnector, Scenario
from novasonic.errors import (
    AccessDeniedError,
    ConnectError,
    CredentialsError,
    InputTimeoutError,
    InvalidRequestError,
    ModelNotFoundError,
    RemoteProtocolError,
    ServiceError,
    SessionExpiredError,
    SonicError,
    StreamLostError,
    ThrottledError,
)
from novasonic.limiter import SessionLimiter
from novasonic.session import SonicSession
from novasonic.tools import tool

_DEADLINE: Final = 3600.0  # seconds for a conversation: most take some minutes
_MOST_EXCHANGES: Final = 40

_HOPELESS: Final = (AccessDeniedError, InvalidRequestError, ModelNotFoundError)


class Trouble(NamedTuple):
    """Something that goes wrong.

    Attributes:
        name: For the summary.
        fault: What the emulator must know of it, but for the point.
        error: What the client must make of it; None if the stream lives on.
    """

    name: str
    fault: Mapping[str, Any]
    error: type[SonicError] | None


class Planned(NamedTuple):
    """A trouble, and when it is to come.

    Attributes:
        trouble: What.
        point: When, for the summary.
        fault: Both, for the emulator.
    """

    trouble: Trouble
    point: str
    fault: Fault


def _exception(code: str, error: type[SonicError], name: str = "", **fault: str) -> Trouble:
    return Trouble(name or code, {"kind": "exception", "code": code, **fault}, error)


def _refusal(code: str, error: type[SonicError]) -> Trouble:
    return Trouble(code, {"kind": "refuse", "code": code}, error)


def _wire(kind: str, error: type[SonicError] | None) -> Trouble:
    return Trouble(kind, {"kind": kind}, error)


_UNFAIR: Final = "ValidationException"  # what the service says to many things that are no fault of the client
_EXPIRED: Final = "ExpiredTokenException"

IN_STREAM: Final = (
    _exception("ModelStreamErrorException", ServiceError),
    _exception("InternalServerException", ServiceError),
    _exception("ServiceUnavailableException", ServiceError),
    _exception("ThrottlingException", ThrottledError),
    _exception("ModelTimeoutException", SessionExpiredError),
    _exception("SomeNewException", ServiceError),
    _exception(_EXPIRED, CredentialsError),
    _exception(_UNFAIR, ServiceError, "instability", message="System instability detected."),
    _exception(_UNFAIR, InputTimeoutError, "input timeout", message="Timed out waiting for input events"),
    Trouble("error", {"kind": "error", "code": "InternalFailure"}, ServiceError),
    *(_wire(kind, StreamLostError) for kind in ("reset", "goaway", "cut", "stall", "mute", "end")),
    *(_wire(kind, RemoteProtocolError) for kind in ("garbled", "truncated")),
)
"""What ends a stream that another can replace."""

HOPELESS: Final = (
    _exception("AccessDeniedException", AccessDeniedError),
    _exception("ResourceNotFoundException", ModelNotFoundError),
    _exception(_UNFAIR, InvalidRequestError, "wrong input", message="Invalid input request"),
    _exception(
        _UNFAIR,
        InvalidRequestError,
        "content filter",
        message="This request has been blocked by our content filters.",
    ),
)
"""What ends a conversation."""

AT_OPENING: Final = (
    _refusal("ThrottlingException", ThrottledError),
    _refusal("ServiceQuotaExceededException", ThrottledError),
    _refusal("ModelNotReadyException", ServiceError),
    _refusal("ServiceUnavailableException", ServiceError),
    *(_wire(kind, ConnectError) for kind in ("mute", "stall")),
    *(_wire(kind, StreamLostError) for kind in ("reset", "goaway", "cut")),
)
"""What keeps a stream from opening, for a while."""

HOPELESS_AT_OPENING: Final = (
    _refusal("AccessDeniedException", AccessDeniedError),
    _refusal("ResourceNotFoundException", ModelNotFoundError),
    _refusal(_UNFAIR, InvalidRequestError),
    _refusal(_EXPIRED, CredentialsError),
)
"""What keeps every stream from opening."""

HARMLESS: Final = (_wire("unknown", None), _wire("malformed", None))
"""What changes nothing. ("goaway_others" is about connections, and in memory there are none.)"""

_OPENING: Final = "at the opening"


def _points(chance: random.Random) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return the moments at which a stream may be lost, each with a delay of its own."""
    return (
        ("before anything was said", {"at": 0.0}),
        ("at some time", {"at": chance.uniform(0.1, 15)}),
        ("after some audio", {"after_audio": chance.randint(1, 400)}),
        ("after some message", {"after_output": chance.randint(1, 60)}),
        ("in user speech", {"in_speech": 1, "delay": chance.choice((0.0, chance.uniform(0, 3)))}),
        (
            "while the model thinks",
            {"after_speech": 1, "delay": chance.choice((0.0, chance.uniform(0, 0.5)))},
        ),
        ("during the answer", {"in_response": 1}),
        ("while it plays", {"in_response": 1, "delay": chance.uniform(0.2, 4)}),
        ("during a tool call", {"after_call": 1, "delay": chance.choice((0.0, chance.uniform(0, 6)))}),
    )


def _plan(chance: random.Random) -> Iterator[Planned]:
    """Choose what goes wrong, one stream after the other."""

    def planned(choice: Sequence[Trouble], stream: int | None, *, opening: bool = False) -> Planned:
        trouble = chance.choice(choice)
        point, when = (_OPENING, {}) if opening else chance.choice(_points(chance))
        return Planned(trouble, point, Fault(**trouble.fault, **when, stream=stream))

    if chance.random() < 0.04:
        yield planned((*AT_OPENING, *HOPELESS_AT_OPENING), 1, opening=True)
    stream = 0
    for _ in range(chance.randint(4, 8)):
        stream += 1
        yield planned(HOPELESS if chance.random() < 0.02 else IN_STREAM, stream)
        burst = chance.choices((0, 1, 2, 4, 8), (60, 20, 10, 8, 2))[0]  # eight are more than a client bears
        for _ in range(burst):
            stream += 1
            yield planned(AT_OPENING, stream, opening=True)
        if chance.random() < 0.02:
            stream += 1
            yield planned(HOPELESS_AT_OPENING, stream, opening=True)
    for _ in range(chance.randint(0, 2)):
        yield planned(HARMLESS, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a conversation.

    Attributes:
        happened: What went wrong in it.
        error: What it ended with; None if it was held to its end.
        exchanges: How many questions were asked.
        renewals: How often it moved on.
        at_once: How many streams there were at once, at most.
        account: What became of the user's audio; None if it was not held to its end.
        complaints: What is wrong.
    """

    happened: Sequence[Planned]
    error: SonicError | None
    exchanges: int
    renewals: int
    at_once: int
    account: Account | None
    complaints: Sequence[str]


def run(number: int, *, seed: int) -> Outcome:
    """Hold a conversation."""
    chance = random.Random(f"{seed} {number}")
    random.seed(chance.random())  # delays have some chance in them, too
    talk = _Talk(chance)
    try:
        outcome, left = virtual.run(talk.hold, within=_DEADLINE)
    except TimeoutError:
        return talk.outcome([f"it hangs: it has taken {_DEADLINE:g} s"])
    return talk.outcome([*outcome, *left])


class _Talk:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._plan = list(_plan(chance))
        self._retry = Retry()
        self._error: SonicError | None = None
        self._held = list[Exchange]()
        self._user: User | None = None
        self._connector: MemoryConnector | None = None
        self._legs: Sequence[Leg] = ()
        self._account: Account | None = None
        self._script = list[Exchange]()
        for number in range(1, _MOST_EXCHANGES + 1):
            after_cut = bool(self._script) and self._script[-1].cut
            self._script.append(draw(chance, number, after_cut=after_cut))

    def outcome(self, complaints: Sequence[str]) -> Outcome:
        """Return what came of it."""
        return Outcome(
            happened=self._happened(),
            error=self._error,
            exchanges=len(self._held),
            renewals=0 if self._user is None else self._user.renewals.total(),
            at_once=max((leg.beside + 1 for leg in self._legs), default=0),
            account=self._account,
            complaints=complaints,
        )

    def _happened(self) -> list[Planned]:
        return [each for each in self._plan if self._connector and self._connector.happened(each.fault)]

    def _service(self) -> MemoryConnector:
        chance = self._chance
        behaviour = Behaviour(
            user_text=chance.choice(("before", "before", "after", "around")),
            delivery=chance.choice((5.0, 5.0, 1.8, 1.0, None)),
        )
        scenario = Scenario(
            turns=turns_of(self._script),
            faults=[each.fault for each in self._plan],
            behaviour=behaviour,
            shared=True,
        )
        expiring = chance.random() < 0.15  # so many have credentials that do not last
        return MemoryConnector(
            scenario, voice=silent, credentials_last=chance.uniform(30, 200) if expiring else None
        )

    def _session(self, connect: Eavesdropper, limiter: SessionLimiter | None) -> SonicSession:
        chance, script = self._chance, self._script

        @tool
        async def look_up(number: int) -> dict[str, int]:
            """Look a number up."""
            await asyncio.sleep(script[number - 1].looking)
            return {"square": number * number}

        after = chance.uniform(2, 40)
        soon = Renewal(after=after, at_latest=after + chance.uniform(0, 10))
        return SonicSession(
            transport=connect,
            tools=[look_up],
            renewal=chance.choice((None, Renewal(), soon)),
            retry=self._retry,
            limiter=limiter,
        )

    async def hold(self) -> Sequence[str]:
        """Talk until all has gone wrong that can, and then once more; return what is wrong."""
        self._connector = self._service()
        connect = Eavesdropper(self._connector)
        self._legs = connect.legs
        places = self._chance.choice((None, None, 1, 2))
        limiter = None if places is None else SessionLimiter(places)
        session = self._session(connect, limiter)
        complaints = list[str]()
        try:
            async with session, User(session) as user:
                self._user = user
                if self._chance.random() < 0.5:  # half of them know what was heard
                    session.played_by(user.ears)
                user.holds_to_talk = user.muted = self._chance.random() < 0.3
                await self._talk(user)
        except SonicError as exc:
            self._error = exc
        except UnansweredError as exc:
            complaints.append(str(exc))
        if self._error is None and self._user is not None:
            self._error = self._user.failure
        if limiter is not None and limiter.active:
            complaints.append(f"{limiter.active} places are taken for ever")
        if max(leg.beside + 1 for leg in self._legs) > 2:  # as the line promises
            complaints.append("there were more than two streams at once")
        if self._error is not None:
            complaints += self._judge_error(self._error)
        elif not complaints:
            assert self._user is not None  # it was opened
            complaints += self._judge_silence()
            complaints += misquotations(session.history, self._held, lossy=True)
            self._account = account_for(self._legs, self._user.voice)
            complaints += self._account.complaints
        return complaints

    async def _talk(self, user: User) -> None:
        last = False
        for exchange in self._script:
            self._held.append(exchange)
            losses = user.losses
            await user.ask(exchange)
            if exchange.cut:
                await user.beginning(exchange)
                await asyncio.sleep(self._chance.uniform(0.5, 3))
                if user.losses == losses:
                    continue
                # Nobody knows what a model makes of a user who breaks in when it was asked to go on.
            await user.answer(exchange)
            await asyncio.sleep(self._chance.uniform(0, 4))
            if self._chance.random() < 0.1:
                await user.change_mind()
            if user.ended or last:
                return
            last = not self._more_to_come()

    def _more_to_come(self) -> bool:
        assert self._connector is not None  # it was opened
        latest = len(self._legs)
        return any(
            (each.fault.stream or latest) >= latest and not self._connector.happened(each.fault)
            for each in self._plan
        )

    # --- what must come of it -----------------------------------------------------------------------------

    def _judge_error(self, error: SonicError) -> list[str]:
        """Return what is wrong with the conversation's having ended in this way."""
        failed = [(leg.over_at or 0.0, number) for number, leg in enumerate(self._legs) if leg.failure]
        if not failed:
            return [f"{error!r} came out of nothing"]
        latest = self._legs[max(failed)[1]]
        expected = self._expected(latest)
        if type(error) is not expected:
            return [f"{error!r} was raised, and not {expected.__name__}"]
        opening = not latest.log.accepted
        first = opening and latest is self._legs[0]
        hopeless = isinstance(error, _HOPELESS) or (opening and isinstance(error, CredentialsError))
        spent = self._user is not None and self._user.attempts == self._retry.attempts
        return [] if first or hopeless or spent else [f"{error!r} was raised, and might have passed"]

    def _expected(self, leg: Leg) -> type[SonicError]:
        """Return what a client must make of the end of a stream."""
        number = 1 + next(n for n, each in enumerate(self._legs) if each is leg)
        for each in self._happened():
            if each.fault.stream == number and each.trouble.error is not None:
                return each.trouble.error
        return type(leg.failure) if leg.failure is not None else SonicError

    def _judge_silence(self) -> list[str]:
        """Return what should have ended the conversation, and did not."""
        return [
            f"stream {number} failed without hope, and nobody was told: {leg.failure!r}"
            for number, leg in enumerate(self._legs, 1)
            if self._is_fatal(leg)
        ]

    def _is_fatal(self, leg: Leg) -> bool:
        """Whether nothing can go on after a stream has failed: it was hopeless, and there was no other."""
        opening, failure = not leg.log.accepted, leg.failure
        if not isinstance(failure, _HOPELESS) and not (opening and isinstance(failure, CredentialsError)):
            return False
        if opening:
            alive = (other for other in self._legs if other is not leg and other.begun_at is not None)
            return not any((other.begun_at or 0) <= leg.opened_at and _lives(other, leg) for other in alive)
        begun = [each for each in self._legs if each.begun_at and each.begun_at <= (leg.over_at or 0)]
        return bool(begun) and begun[-1] is leg


def _lives(other: Leg, leg: Leg) -> bool:
    return other.over_at is None or other.over_at > leg.opened_at
