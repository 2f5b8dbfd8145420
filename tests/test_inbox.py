"""What waits for the program: in order, but for interruptions; bounded; and never lost."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies  # noqa: F401 - its profile
from novasonic.errors import StreamLostError
from novasonic.events import (
    AudioChunk,
    Event,
    Interrupted,
    Latency,
    Transcript,
    TurnEnded,
    TurnStarted,
    UserSpeechStarted,
)
from novasonic.inbox import Inbox


def chunk(turn: int, size: int = 3840, content_id: str = "") -> AudioChunk:
    return AudioChunk(turn=turn, pcm=bytes(size), sample_rate=24_000, content_id=content_id)


def words(turn: int, text: str = "words") -> Transcript:
    return Transcript(turn=turn, role="ASSISTANT", text=text, stage="SPECULATIVE")


def ended(turn: int) -> TurnEnded:
    return TurnEnded(turn=turn, interrupted=False, reason="END_TURN", latency=Latency())


def filled(events: Iterable[Event], inbox: Inbox | None = None) -> Inbox:
    inbox = inbox or Inbox()
    for event in events:
        inbox.put(event)
    return inbox


async def everything(inbox: Inbox) -> list[Event]:
    """All that waits."""
    return [await inbox.get() for _ in iter(lambda: inbox.empty, True)]


async def test_events_come_in_the_order_in_which_they_were_put() -> None:
    events: list[Event] = [TurnStarted(turn=1), words(1), chunk(1), chunk(1), ended(1)]
    assert await everything(filled(events)) == events


async def test_an_interruption_overtakes_the_audio_that_was_waiting() -> None:
    """Players drop their buffer on this event; audio that follows it would be heard."""
    inbox = filled([chunk(1), chunk(1), words(1), chunk(1), UserSpeechStarted(turn=2, offset=1.0)])
    inbox.put(Interrupted(turn=1))
    assert await everything(inbox) == [
        Interrupted(turn=1),
        words(1),
        UserSpeechStarted(turn=2, offset=1.0),
    ]


async def test_an_interruption_drops_the_audio_of_earlier_turns_too() -> None:
    """They were to be played before."""
    inbox = filled([chunk(1), ended(1), TurnStarted(turn=2), chunk(2)])
    inbox.put(Interrupted(turn=2))
    assert await everything(inbox) == [Interrupted(turn=2), ended(1), TurnStarted(turn=2)]


async def test_audio_of_the_turn_after_an_interruption_is_heard() -> None:
    inbox = filled([chunk(1), Interrupted(turn=1), TurnStarted(turn=2), chunk(2)])
    assert await everything(inbox) == [Interrupted(turn=1), TurnStarted(turn=2), chunk(2)]


async def test_interruptions_do_not_overtake_one_another() -> None:
    inbox = filled([words(1), Interrupted(turn=1), words(2), Interrupted(turn=2), Interrupted(turn=3)])
    assert [event.turn for event in await everything(inbox)] == [1, 2, 3, 1, 2]


async def test_what_waits_is_measured_in_bytes() -> None:
    inbox = Inbox()
    assert (inbox.unread_bytes, inbox.empty) == (0, True)
    inbox.put(chunk(1, 100_000))
    assert 100_000 < inbox.unread_bytes < 102_000
    assert not inbox.empty
    inbox.put(Interrupted(turn=1))
    assert 0 < inbox.unread_bytes < 2_000
    await inbox.get()
    assert (inbox.unread_bytes, inbox.empty) == (0, True)


async def test_there_is_room_until_the_bound_is_reached() -> None:
    inbox = Inbox(max_bytes=100_000)
    for _ in range(3):
        await inbox.room()
        inbox.put(chunk(1, 40_000))
    waiting = asyncio.create_task(inbox.room())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    await inbox.get()
    await waiting


async def test_what_is_put_beyond_the_bound_is_kept() -> None:
    """The bound makes the reader of the stream wait; it never costs an event."""
    events = [chunk(1, 1000) for _ in range(20)]
    assert await everything(filled(events, Inbox(max_bytes=1))) == events


@pytest.mark.parametrize("how", ["interruption", "close"])
async def test_who_waits_for_room_goes_on_after(how: str) -> None:
    inbox = filled([chunk(1, 1000)], Inbox(max_bytes=1000))
    waiting = asyncio.create_task(inbox.room())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    if how == "close":
        inbox.close()
    else:
        inbox.put(Interrupted(turn=1))
    await waiting


async def test_an_event_is_waited_for() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.get())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    inbox.put(words(1))
    assert await waiting == words(1)


async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    inbox = Inbox()
    for text in ("one", "two", "three"):
        waiting = asyncio.create_task(inbox.get())
        await asyncio.wait([waiting], timeout=0)
        inbox.put(words(1, text))
        waiting.cancel()  # at the very moment at which there is something to read
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await everything(inbox) == [words(1, text)]


async def test_a_reader_that_gives_up_loses_nothing() -> None:
    inbox = Inbox()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await inbox.get()
    inbox.put(words(1))
    assert await inbox.get() == words(1)


async def test_the_end_comes_after_what_waits() -> None:
    inbox = filled([words(1), chunk(1)])
    inbox.close()
    assert await inbox.get() == words(1)
    assert await inbox.get() == chunk(1)
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await inbox.get()


async def test_a_failure_comes_after_what_waits_and_every_time() -> None:
    inbox = filled([words(1)])
    failure = StreamLostError("cut")
    inbox.close(failure)
    assert await inbox.get() == words(1)
    for _ in range(2):
        with pytest.raises(StreamLostError) as caught:
            await inbox.get()
        assert caught.value is failure


@pytest.mark.parametrize("failure", [None, StreamLostError("cut")])
async def test_the_end_wakes_who_waits(failure: StreamLostError | None) -> None:
    inbox = Inbox()

    async def read() -> str:
        try:
            await inbox.get()
        except StopAsyncIteration:
            return "end"
        except StreamLostError as exc:
            return str(exc)
        return "event"

    waiting = asyncio.create_task(read())
    await asyncio.wait([waiting], timeout=0)
    inbox.close(failure)
    assert await waiting == ("cut" if failure else "end")


async def test_only_the_first_end_counts() -> None:
    """The goodbye that fails after a failure must not hide it, nor the other way round."""
    inbox = Inbox()
    inbox.close()
    inbox.close(StreamLostError("afterwards"))
    with pytest.raises(StopAsyncIteration):
        await inbox.get()
    inbox = Inbox()
    inbox.close(StreamLostError("first"))
    inbox.close()
    with pytest.raises(StreamLostError, match="first"):
        await inbox.get()


async def test_nothing_comes_after_the_end() -> None:
    inbox = Inbox()
    inbox.close()
    inbox.put(words(1))
    inbox.put(Interrupted(turn=1))
    assert inbox.empty
    with pytest.raises(StopAsyncIteration):
        await inbox.get()


@pytest.mark.clock("virtual")
async def test_an_arrival_is_waited_for_as_long_as_was_said() -> None:
    inbox, loop = Inbox(), asyncio.get_running_loop()
    began = loop.time()
    await inbox.arrival(30.0)
    assert loop.time() - began == pytest.approx(30.0)
    waiting = asyncio.create_task(inbox.arrival(30.0))
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    inbox.put(words(1))
    await waiting
    await inbox.arrival(30.0)
    assert loop.time() - began == pytest.approx(30.0)
    assert await inbox.get() == words(1)


@pytest.mark.clock("virtual")
async def test_no_arrival_is_waited_for_after_the_end() -> None:
    inbox, loop = Inbox(), asyncio.get_running_loop()
    began = loop.time()
    waiting = asyncio.create_task(inbox.arrival(30.0))
    await asyncio.wait([waiting], timeout=0)
    inbox.close()
    await waiting
    await inbox.arrival(30.0)
    assert loop.time() == pytest.approx(began)


_turns = st.integers(1, 4)
_events = st.one_of(
    st.builds(chunk, _turns, st.integers(0, 50), st.text(max_size=2)),
    st.builds(words, _turns, st.text(max_size=3)),
    st.builds(lambda turn: Interrupted(turn=turn), _turns),
    st.builds(ended, _turns),
)


@given(st.lists(_events | st.none(), max_size=30))
def test_whatever_is_put_and_read_when_only_audio_that_was_cut_is_lost(steps: list[Event | None]) -> None:
    """None stands for a read. Everything else comes in order, and interruptions before all of it."""

    async def play() -> None:
        inbox, put, got = Inbox(), list[Event](), list[Event]()
        waiting = list[Event]()
        for step in (*steps, *[None] * len(steps)):
            if step is not None:
                inbox.put(step)
                put.append(step)
                waiting.append(step)
                if isinstance(step, Interrupted):
                    cut = [
                        each for each in waiting if isinstance(each, AudioChunk) and each.turn <= step.turn
                    ]
                    waiting = [each for each in waiting if not any(each is other for other in cut)]
                    waiting.sort(key=lambda each: not isinstance(each, Interrupted))
            elif not inbox.empty:
                got.append(await inbox.get())
                assert got[-1] is waiting.pop(0)
        assert inbox.empty
        assert waiting == []
        assert inbox.unread_bytes == 0
        lost = [each for each in put if not any(each is other for other in got)]
        assert all(isinstance(each, AudioChunk) for each in lost)

    asyncio.run(play())
