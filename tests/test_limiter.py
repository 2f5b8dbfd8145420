"""Places for sessions: never more than there are, none lost, and first come, first served."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import VirtualLoop, pass_time
from novasonic.errors import ConcurrencyError, ConfigurationError, LocalProtocolError, ThrottledError
from novasonic.limiter import SessionLimiter
from novasonic.models import Limits


async def settle() -> None:
    """Let everything happen that has been set off."""
    for _ in range(5):
        await asyncio.sleep(0)


def spawn[T](coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(coroutine)


async def full(places: int = 1, **settings: Any) -> SessionLimiter:
    limiter = SessionLimiter(places, **settings)
    for _ in range(places):
        await limiter.acquire()
    return limiter


class TestPlaces:
    async def test_there_are_as_many_as_an_account_has_streams(self) -> None:
        limiter = SessionLimiter()
        assert limiter.max_sessions == Limits().streams == 20
        async with asyncio.timeout(1):
            for _ in range(20):
                await limiter.acquire()
        assert (limiter.active, limiter.waiting) == (20, 0)
        assert not limiter.try_acquire()

    async def test_a_block_holds_one_for_as_long_as_it_lasts(self) -> None:
        limiter = SessionLimiter(1)

        async def answer() -> None:
            async with limiter:
                assert limiter.active == 1
                raise KeyError

        with pytest.raises(KeyError):
            await answer()
        assert limiter.active == 0

    async def test_a_block_waits_for_one(self) -> None:
        limiter = await full()
        entered = asyncio.Event()

        async def answer() -> None:
            async with limiter:
                entered.set()

        answering = spawn(answer())
        await settle()
        assert not entered.is_set()
        assert limiter.waiting == 1
        limiter.release()
        await answering
        assert entered.is_set()
        assert (limiter.active, limiter.waiting) == (0, 0)

    async def test_they_are_given_in_the_order_of_asking(self) -> None:
        limiter = await full()
        served: list[int] = []

        async def ask(number: int) -> None:
            await limiter.acquire()
            served.append(number)

        asking = [spawn(ask(number)) for number in range(5)]
        await settle()
        for _ in asking:
            limiter.release()
            await settle()
        assert served == [0, 1, 2, 3, 4]

    async def test_nobody_takes_one_that_was_handed_over(self) -> None:
        """Its owner has not run yet: whoever runs first must not overtake the line."""
        limiter = await full()
        waiting = spawn(limiter.acquire())
        await settle()
        limiter.release()
        assert not limiter.try_acquire()
        with pytest.raises(ThrottledError):
            await limiter.acquire(timeout=0)
        await waiting
        assert limiter.active == 1

    async def test_one_that_was_never_taken_cannot_be_given_back(self) -> None:
        limiter = SessionLimiter(2)
        with pytest.raises(LocalProtocolError, match="released once"):
            limiter.release()
        assert limiter.active == 0

    @pytest.mark.parametrize(
        ("settings", "name"), [({"max_sessions": 0}, "max_sessions"), ({"max_waiting": -1}, "max_waiting")]
    )
    def test_a_number_that_is_too_small_is_refused_by_name(self, settings: Any, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{name} is .*at least"):
            SessionLimiter(**settings)


class TestRefusals:
    async def test_without_patience_it_says_no_at_once(self) -> None:
        limiter = await full(2)
        with pytest.raises(ThrottledError, match=r"all 2 are taken, and 0 wait.*quota") as caught:
            await limiter.acquire(timeout=0)
        assert caught.value.retryable
        assert limiter.active == 2

    @pytest.mark.clock("virtual")
    async def test_it_says_no_when_the_time_is_up_and_not_before(self) -> None:
        limiter = await full()
        asking = spawn(limiter.acquire(timeout=5))
        await pass_time(4.9)
        assert not asking.done()
        assert limiter.waiting == 1
        await pass_time(0.2)
        with pytest.raises(ThrottledError, match="within 5 s"):
            await asking
        assert (limiter.active, limiter.waiting) == (1, 0)

    @pytest.mark.clock("virtual")
    async def test_whoever_gave_up_is_passed_over(self) -> None:
        limiter = await full()
        impatient, patient = spawn(limiter.acquire(timeout=1)), spawn(limiter.acquire())
        await pass_time(2)
        limiter.release()
        await patient
        with pytest.raises(ThrottledError):
            await impatient
        assert limiter.active == 1

    @pytest.mark.clock("virtual")
    async def test_a_place_that_comes_in_time_is_kept(self) -> None:
        """The clock that ran while one waited is stopped."""
        limiter = await full()
        asking = spawn(limiter.acquire(timeout=5))
        await pass_time(4)
        limiter.release()
        await asking
        await pass_time(60)
        assert limiter.active == 1

    @pytest.mark.clock("virtual")
    async def test_a_place_that_comes_when_the_time_is_up_is_kept(self) -> None:
        """Handed over and timed out in one pass of the loop: the place must go to somebody."""
        limiter = await full()
        asyncio.get_running_loop().call_later(5, limiter.release)
        await limiter.acquire(timeout=5)
        assert limiter.active == 1

    async def test_a_line_has_an_end(self) -> None:
        """A caller who cannot be answered soon had better hear so."""
        limiter = await full(max_waiting=2)
        waiting = [spawn(limiter.acquire()) for _ in range(2)]
        await settle()
        with pytest.raises(ThrottledError, match="2 wait for one, as many as may"):
            await limiter.acquire()
        waiting[0].cancel()
        last = spawn(limiter.acquire())
        await settle()
        for task in (waiting[1], last):
            limiter.release()
            await task

    async def test_where_nobody_may_wait_a_free_place_is_still_given(self) -> None:
        limiter = SessionLimiter(1, max_waiting=0)
        async with limiter:
            with pytest.raises(ThrottledError):
                await limiter.acquire()
        async with limiter:
            pass


class TestASecondPlace:
    async def test_a_renewal_takes_one_that_is_free_and_never_waits(self) -> None:
        """Both streams count at the service while one takes over from the other."""
        limiter = SessionLimiter(3)
        await limiter.acquire()
        await limiter.acquire()
        assert limiter.try_acquire()
        assert not limiter.try_acquire()
        assert (limiter.active, limiter.waiting) == (3, 0)
        limiter.release()
        assert limiter.try_acquire()

    async def test_a_renewal_takes_none_from_those_who_wait(self) -> None:
        limiter = await full()
        waiting = spawn(limiter.acquire())
        await settle()
        assert not limiter.try_acquire()
        limiter.release()
        await waiting
        assert limiter.active == 1


class TestCancelling:
    @pytest.mark.parametrize("steps", range(4))
    @pytest.mark.parametrize("released_after", range(4))
    async def test_at_any_step_no_place_is_lost(self, steps: int, released_after: int) -> None:
        """Whether the place was given a moment before, in the same moment or a moment after."""
        limiter = await full()
        doomed, heir = spawn(limiter.acquire()), spawn(limiter.acquire())
        await settle()
        for step in range(4):
            if step == released_after:
                limiter.release()
            if step == steps:
                doomed.cancel()
            await asyncio.sleep(0)
        if not doomed.cancelled():  # it had the place already
            await doomed
            limiter.release()
        await heir
        assert (limiter.active, limiter.waiting) == (1, 0)
        limiter.release()
        assert limiter.try_acquire()

    async def test_who_is_cancelled_in_the_line_is_passed_over(self) -> None:
        limiter = await full()
        first, second, third = (spawn(limiter.acquire()) for _ in range(3))
        await settle()
        second.cancel()
        assert limiter.waiting == 2
        limiter.release()
        await first
        assert not third.done()
        limiter.release()
        await third
        assert second.cancelled()

    async def test_a_place_that_is_given_back_just_after_a_cancel_goes_to_the_next(self) -> None:
        limiter = await full()
        first, second = spawn(limiter.acquire()), spawn(limiter.acquire())
        await settle()
        first.cancel()
        limiter.release()
        await second
        assert first.cancelled()
        assert limiter.active == 1

    async def test_a_deadline_around_it_is_a_way_to_cancel(self) -> None:
        limiter = await full()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await limiter.acquire()
        assert (limiter.active, limiter.waiting) == (1, 0)


class TestEventLoops:
    def test_one_limiter_serves_one_loop_after_the_other(self) -> None:
        """It may be a global of a program that calls `asyncio.run` more than once."""
        limiter = SessionLimiter(1)

        async def use() -> None:
            async with limiter:
                waiting = spawn(limiter.acquire())
                await settle()
            await waiting
            limiter.release()

        for _ in range(3):
            asyncio.run(use())
        assert (limiter.active, limiter.waiting) == (0, 0)

    def test_what_a_closed_loop_left_behind_is_free_again(self) -> None:
        limiter = SessionLimiter(1)

        async def forget() -> None:
            await limiter.acquire()
            waiting = spawn(limiter.acquire())
            await settle()
            waiting.cancel()

        asyncio.run(forget())
        asyncio.run(limiter.acquire(timeout=0))
        assert limiter.active == 1

    def test_two_loops_at_once_are_refused(self) -> None:
        """Their sessions would wake each other's tasks from the wrong thread."""
        limiter = SessionLimiter(2)
        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(limiter.acquire())
            with pytest.raises(ConcurrencyError, match="another event loop"):
                second.run(limiter.acquire())
            limiter.release()
            second.run(limiter.acquire())
        assert limiter.active == 1


class Model:
    """What a limiter should do, told in the plainest way, and the tasks that try it."""

    def __init__(self, places: int) -> None:
        self.limiter = SessionLimiter(places)
        self.asked = 0
        self.served: list[int] = []
        self.held: set[int] = set()
        self.asking: dict[int, asyncio.Task[None]] = {}

    async def _ask(self, number: int, timeout: float | None) -> None:  # noqa: ASYNC109 - what is tested
        await self.limiter.acquire(timeout)
        self.served.append(number)
        self.held.add(number)

    def ask(self, timeout: float | None = None) -> None:
        self.asking[self.asked] = spawn(self._ask(self.asked, timeout))
        self.asked += 1

    def release(self, which: int) -> None:
        if self.held:
            self.held.remove(sorted(self.held)[which % len(self.held)])
            self.limiter.release()

    def cancel(self, which: int) -> None:
        waiting = [task for task in self.asking.values() if not task.done()]
        if waiting:
            waiting[which % len(waiting)].cancel()

    def renew(self) -> None:
        if self.limiter.try_acquire():
            self.held.add(self.asked)
            self.asked += 1

    def check(self) -> None:
        """Nothing is on its way any more, so every place and everybody in the line is accounted for."""
        waiting = [number for number, task in self.asking.items() if not task.done()]
        assert self.limiter.active == len(self.held) <= self.limiter.max_sessions
        assert self.limiter.waiting == len(waiting)
        assert not waiting or self.limiter.active == self.limiter.max_sessions, (
            "a place is free, and some wait"
        )
        assert self.served == sorted(self.served), "somebody was overtaken"
        for task in self.asking.values():
            if task.done() and not task.cancelled():
                assert isinstance(task.exception(), ThrottledError | None)


Act = Callable[[Model], Any]

acts: st.SearchStrategy[Act] = st.one_of(
    st.just(Model.ask),
    st.just(lambda model: model.ask(timeout=1.0)),
    st.just(lambda model: model.ask(timeout=0.0)),
    st.just(Model.renew),
    st.integers(0, 9).map(lambda which: lambda model: model.release(which)),
    st.integers(0, 9).map(lambda which: lambda model: model.cancel(which)),
    st.just(lambda _: asyncio.sleep(0)),
    st.just(lambda _: asyncio.sleep(0.5)),
    st.just(lambda _: asyncio.sleep(1.0)),
)


@given(places=st.integers(1, 3), course=st.lists(acts, max_size=40))
def test_whatever_happens_places_are_neither_lost_nor_made(places: int, course: Sequence[Act]) -> None:
    async def play() -> None:
        model = Model(places)
        for act in course:
            done = act(model)
            if done is not None:
                await done
        await settle()
        model.check()
        while model.held or any(not task.done() for task in model.asking.values()):
            model.release(0)
            await settle()
            model.check()
        assert (model.limiter.active, model.limiter.waiting) == (0, 0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())
