"""The user's voice on its way: nothing is lost, nothing is said twice unless it has to be, and in order."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import VirtualLoop, pass_time
from novasonic.errors import LocalProtocolError, StreamLostError
from novasonic.outgoing import Outgoing

pytestmark = pytest.mark.clock("virtual")

RATE: Final = 1000  # samples a second, so that a millisecond is one
FRAME: Final = 20  # samples


def ramp(start: int, samples: int = FRAME) -> bytes:
    """Samples that count: each is its own number."""
    return b"".join((number % 0x8000).to_bytes(2, "little") for number in range(start, start + samples))


def numbers(pcm: bytes) -> list[int]:
    return [int.from_bytes(pcm[at : at + 2], "little") for at in range(0, len(pcm), 2)]


class Listener:
    """A stream that takes whatever may go, as soon as it may."""

    def __init__(self, voice: Outgoing) -> None:
        self.voice = voice
        self.heard = list[bytes]()
        self.times = list[float]()
        voice.attach(self._take)

    def _take(self) -> None:
        while (pcm := self.voice.pull()) is not None:
            self.heard.append(pcm)
            self.times.append(asyncio.get_running_loop().time())

    @property
    def numbers(self) -> list[int]:
        return numbers(b"".join(self.heard))


def talk(voice: Outgoing, seconds: float, *, start: int = 0) -> int:
    """Add so much at once, and return how much of it was dropped, or of what was there, in samples."""
    count = round(seconds * RATE / FRAME)
    return sum(voice.put_over(ramp(start + number * FRAME)) for number in range(count)) // 2


async def until(voice: Outgoing, frames: int) -> asyncio.Task[None]:
    """Put so many frames, in a task; return once it waits or is done."""

    async def put() -> None:
        for number in range(frames):
            await voice.put(ramp(number * FRAME))

    task = asyncio.create_task(put())
    await pass_time(0.001)
    return task


# --- in order ---------------------------------------------------------------------------------------------


async def test_frames_go_out_in_the_order_in_which_they_came() -> None:
    voice = Outgoing(RATE)
    assert voice.pull() is None
    await voice.put(ramp(0))
    voice.put_over(ramp(FRAME))
    await voice.put(ramp(2 * FRAME))
    assert not voice.empty
    assert [voice.pull() for _ in range(4)] == [ramp(0), ramp(FRAME), ramp(2 * FRAME), None]
    assert voice.empty


async def test_who_listens_is_told_of_what_waits_and_of_what_comes() -> None:
    voice = Outgoing(RATE)
    await voice.put(ramp(0))
    assert voice.adrift
    listener = Listener(voice)
    assert not voice.adrift
    assert listener.heard == [ramp(0)]
    await voice.put(ramp(FRAME))
    assert listener.heard == [ramp(0), ramp(FRAME)]
    voice.detach()
    assert voice.adrift
    await voice.put(ramp(2 * FRAME))
    assert len(listener.heard) == 2


async def test_what_is_sent_is_counted_in_samples() -> None:
    voice = Outgoing(RATE)
    assert voice.next == 0
    await voice.put(ramp(0))
    assert voice.next == 0
    voice.pull()
    assert voice.next == FRAME


async def test_it_is_known_when_a_frame_was_sent_last() -> None:
    voice, loop = Outgoing(RATE), asyncio.get_running_loop()
    assert loop.time() - voice.sent_at == float("inf")
    await voice.put(ramp(0))
    await pass_time(1.0)
    voice.pull()
    sent_at = loop.time()
    await pass_time(1.0)
    voice.pull()  # there is none
    assert voice.sent_at == sent_at


async def test_what_was_said_last_can_be_had_in_whole_frames() -> None:
    voice = Outgoing(RATE)
    assert voice.latest(1.0) == b""
    Listener(voice)
    talk(voice, 0.1)
    assert numbers(voice.latest(0.04)) == list(range(60, 100))
    assert numbers(voice.latest(0.05)) == list(range(40, 100))
    assert numbers(voice.latest(9.9)) == list(range(100))
    assert voice.latest(0) == b""


# --- bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attached", "seconds"), [(True, 2), (False, 30)])
async def test_who_speaks_waits_while_too_much_waits_already(seconds: int, *, attached: bool) -> None:
    """Nobody wants an answer to old audio; but while there is no stream nothing must be lost."""
    voice = Outgoing(RATE)
    if attached:
        voice.attach(lambda: None)
    frames = seconds * RATE // FRAME
    task = await until(voice, frames + 2)
    assert not task.done()
    voice.pull()
    await pass_time(0.001)
    assert not task.done()
    voice.pull()
    await task
    assert numbers(b"".join(iter(voice.pull, None))) == list(range(2 * FRAME, (frames + 2) * FRAME))


@pytest.mark.parametrize(("attached", "seconds"), [(True, 2), (False, 30)])
async def test_who_cannot_wait_pushes_out_what_is_oldest(seconds: int, *, attached: bool) -> None:
    voice = Outgoing(RATE)
    if attached:
        voice.attach(lambda: None)
    assert talk(voice, seconds) == 0
    assert talk(voice, 0.1, start=seconds * RATE) == 100
    assert numbers(b"".join(iter(voice.pull, None))) == list(range(100, seconds * RATE + 100))


async def test_who_waits_goes_on_when_the_stream_is_lost() -> None:
    """That is when the network was slow before; and nothing must be lost until there is another stream."""
    voice = Outgoing(RATE)
    voice.attach(lambda: None)
    task = await until(voice, 200)
    assert not task.done()
    voice.detach()
    await pass_time(0.001)
    assert task.done()
    assert len(list(iter(voice.pull, None))) == 200


async def test_who_speaks_while_much_is_being_made_up_for_loses_nothing() -> None:
    """It takes a while until no more than two seconds wait."""
    voice = Outgoing(RATE)
    talk(voice, 20)
    listener = Listener(voice)
    assert talk(voice, 5, start=20 * RATE) == 0
    await pass_time(25 / 4)
    assert listener.numbers == list(range(25 * RATE))


async def test_who_is_cancelled_while_waiting_adds_nothing() -> None:
    voice = Outgoing(RATE)
    voice.attach(lambda: None)
    task = await until(voice, 101)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(list(iter(voice.pull, None))) == 100
    await voice.put(ramp(0))
    assert voice.pull() == ramp(0)


async def test_who_is_cancelled_the_moment_there_is_room_adds_nothing() -> None:
    voice = Outgoing(RATE)
    voice.attach(lambda: None)
    task, other = await until(voice, 101), asyncio.create_task(voice.put(ramp(7)))
    await pass_time(0.001)
    voice.pull()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other  # the room is another's
    assert list(iter(voice.pull, None))[-1] == ramp(7)


async def test_several_who_wait_get_room_one_after_the_other() -> None:
    voice = Outgoing(RATE)
    voice.attach(lambda: None)
    talk(voice, 2)
    waiting = [asyncio.create_task(voice.put(ramp(number))) for number in range(3)]
    for count in range(4):
        await pass_time(0.001)
        assert sum(task.done() for task in waiting) == count
        voice.pull()
    assert list(iter(voice.pull, None))[-3:] == [ramp(number) for number in range(3)]


# --- catching up ------------------------------------------------------------------------------------------


async def test_what_is_late_goes_out_four_times_faster_than_it_was_said() -> None:
    """All at once would be a burst that the service is not used to; slower, and the user waits."""
    voice = Outgoing(RATE)
    talk(voice, 8)
    listener = Listener(voice)
    start = listener.times[0]
    await pass_time(4)
    assert listener.numbers == list(range(8 * RATE))
    for number, time in enumerate(listener.times):
        assert time - start == pytest.approx(number * FRAME / RATE / 4)


async def test_who_goes_on_speaking_meanwhile_is_caught_up_with() -> None:
    """Three seconds that waited, and the one that is said until they are gone."""
    voice = Outgoing(RATE)
    talk(voice, 3)
    listener = Listener(voice)
    for number in range(150):
        await voice.put(ramp(3 * RATE + number * FRAME))
        await pass_time(FRAME / RATE)
        waits = 3 * RATE + (number + 1) * FRAME - len(listener.numbers)
        assert waits == pytest.approx(max(0, 3 * RATE - 3 * (number + 1) * FRAME), abs=2 * FRAME)
    assert listener.numbers == list(range(6 * RATE))


async def test_what_comes_in_time_goes_at_once() -> None:
    voice = Outgoing(RATE)
    listener = Listener(voice)
    talk(voice, 1)  # somebody sends a second at once
    assert len(listener.numbers) == RATE


async def test_a_listener_that_was_slow_may_take_a_second_at_once_and_no_more() -> None:
    voice = Outgoing(RATE)
    talk(voice, 20)
    voice.attach(lambda: None)
    await pass_time(3)
    assert len(numbers(b"".join(iter(voice.pull, None)))) == pytest.approx(RATE, abs=FRAME)
    voice.detach()


async def test_at_the_end_all_that_waits_goes_at_once() -> None:
    voice = Outgoing(RATE)
    talk(voice, 8)
    listener = Listener(voice)
    assert len(listener.heard) == 1
    voice.hurry()
    assert listener.numbers == list(range(8 * RATE))
    assert set(listener.times) == {listener.times[0]}


async def test_a_listener_that_is_gone_is_not_told_any_more() -> None:
    voice = Outgoing(RATE)
    talk(voice, 1)
    listener = Listener(voice)
    voice.detach()
    voice.hurry()
    await pass_time(1)
    assert len(listener.heard) == 1


async def test_another_listener_goes_on_where_the_first_one_stopped() -> None:
    voice = Outgoing(RATE)
    talk(voice, 2)
    first = Listener(voice)
    await pass_time(0.25)
    voice.detach()
    second = Listener(voice)
    await pass_time(0.5)
    assert len(first.heard) > 1
    assert [*first.numbers, *second.numbers] == list(range(2 * RATE))


# --- saying it again --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "start"), [(0, 0), (1, 0), (19, 0), (20, 20), (85, 80), (99, 80), (100, 100), (900, 100)]
)
async def test_from_the_frame_that_holds_a_sample_all_is_said_again(sample: int, start: int) -> None:
    voice = Outgoing(RATE)
    Listener(voice)
    talk(voice, 0.1)
    voice.detach()
    talk(voice, 0.1, start=100)
    voice.rewind(sample)
    assert voice.next == start
    listener = Listener(voice)
    await pass_time(1)
    assert listener.numbers == list(range(start, 200))
    assert voice.next == 200


async def test_what_was_said_again_can_be_said_once_more() -> None:
    """One stream after the other may be lost."""
    voice = Outgoing(RATE)
    Listener(voice)
    talk(voice, 1)
    heard = list[list[int]]()
    for sample in (500, 300, 980):
        voice.detach()
        voice.rewind(sample)
        listener = Listener(voice)
        await pass_time(0.05)
        heard.append(listener.numbers)
    assert [each[0] for each in heard] == [500, 300, 1 + heard[1][-1]]
    assert heard[1][-1] < 980


async def test_only_so_much_is_kept() -> None:
    """Nobody speaks for longer without any of it becoming text."""
    voice = Outgoing(RATE)
    Listener(voice)
    talk(voice, 100)
    assert len(numbers(voice.latest(1000))) == 30 * RATE
    voice.detach()
    voice.rewind(0)
    assert voice.next == 70 * RATE


async def test_what_has_to_be_said_again_is_not_pushed_out_and_pushes_nothing_out() -> None:
    """It is numbered: a hole in it would move all that the service tells of places in the audio."""
    voice = Outgoing(RATE)
    Listener(voice)
    talk(voice, 30)
    voice.detach()
    talk(voice, 29, start=30 * RATE)
    voice.rewind(0)
    assert talk(voice, 1, start=59 * RATE) == 0
    assert talk(voice, 1, start=60 * RATE) == RATE
    listener = Listener(voice)
    await pass_time(60 / 4)
    assert listener.numbers == [n % 0x8000 for n in (*range(30 * RATE), *range(31 * RATE, 61 * RATE))]
    assert voice.next == 60 * RATE  # what was pushed out was never sent


async def test_the_recording_of_a_conversation_hears_every_frame_once() -> None:
    told = list[bytes]()
    voice = Outgoing(RATE, on_new=told.append)
    talk(voice, 0.1)
    assert told == []
    Listener(voice)
    await pass_time(0.1)
    voice.detach()
    voice.rewind(0)
    talk(voice, 0.1, start=100)
    Listener(voice)
    await pass_time(0.1)
    assert numbers(b"".join(told)) == list(range(200))


# --- the end ----------------------------------------------------------------------------------------------


async def test_after_the_end_nothing_is_taken() -> None:
    voice = Outgoing(RATE)
    talk(voice, 30)
    voice.close()
    with pytest.raises(LocalProtocolError, match="the session has ended"):
        await voice.put(ramp(0))
    assert voice.put_over(ramp(0)) == 2 * FRAME
    assert numbers(b"".join(iter(voice.pull, None))) == list(range(30 * RATE))


async def test_who_waits_at_the_end_is_told_why_it_came() -> None:
    voice = Outgoing(RATE)
    task = await until(voice, 2000)
    lost = StreamLostError("cut off")
    voice.close(lost)
    voice.close()  # only the first counts
    with pytest.raises(StreamLostError) as caught:
        await task
    assert caught.value is lost


# --- whatever happens -------------------------------------------------------------------------------------

Step = Callable[["_Walk", int], None]


class _Walk:
    """A voice, and what somebody who only counts expects of it."""

    def __init__(self) -> None:
        self.told = list[int]()
        self.voice = Outgoing(RATE, on_new=lambda pcm: self.told.extend(numbers(pcm)))
        self.put_so_far = 0
        self.sent = 0  # the first sample that was never sent
        self.next = 0
        self.edges = [0]  # where the frames that were sent begin, and the end

    def put(self, samples: int) -> None:
        assert self.voice.put_over(ramp(self.put_so_far, samples)) == 0
        self.put_so_far += samples

    def pull(self, count: int) -> None:
        for pcm in itertools.islice(iter(self.voice.pull, None), count):
            heard = numbers(pcm)
            assert heard == list(range(self.next, self.next + len(heard)))
            self.next += len(heard)
            if self.next > self.sent:
                assert heard[0] == self.sent
                self.sent = self.next
                self.edges.append(self.sent)
            assert {heard[0], self.next} <= set(self.edges)

    def attach(self, _: int) -> None:
        self.voice.attach(lambda: None)

    def detach(self, _: int) -> None:
        self.voice.detach()

    def rewind(self, back: int) -> None:
        sample = max(0, self.sent - back)
        self.voice.rewind(sample)
        if sample < self.next:
            self.next = max(edge for edge in self.edges if edge <= sample)

    def hurry(self, _: int) -> None:
        self.voice.hurry()


_steps = st.tuples(
    st.sampled_from([_Walk.put, _Walk.put, _Walk.pull, _Walk.pull, _Walk.rewind])
    | st.sampled_from([_Walk.attach, _Walk.detach, _Walk.hurry]),
    st.integers(1, 40),
)


@given(st.lists(_steps, max_size=60))
def test_whatever_happens_every_sample_is_said_in_order_and_again_if_it_has_to_be(
    steps: Sequence[tuple[Step, int]],
) -> None:
    async def take() -> None:
        walk = _Walk()
        for step, number in steps:
            step(walk, number)
            assert walk.voice.next == walk.next
            assert walk.voice.empty == (walk.next == walk.put_so_far)
            assert walk.told == list(range(walk.sent))
            await pass_time(0.003)
        walk.attach(0)
        walk.hurry(0)
        walk.pull(1000)
        assert walk.sent == walk.next == walk.put_so_far
        walk.detach(0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(take())
