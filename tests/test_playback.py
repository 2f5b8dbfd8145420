"""A player: what is read is what was queued, once, in order, and it knows how much of each turn that was."""

import threading
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from novasonic import conversation, events
from novasonic.errors import ConfigurationError
from novasonic.playback import Player

RATE = 24_000


def chunk(samples: int = 1920, *, turn: int = 1, value: int = 1, rate: int = RATE) -> events.AudioChunk:
    pcm = np.full(samples, value, "<i2").tobytes()
    return events.AudioChunk(turn=turn, pcm=pcm, sample_rate=rate)


def ended(turn: int = 1) -> events.TurnEnded:
    return events.TurnEnded(turn=turn, interrupted=False, reason="END_TURN", latency=events.Latency())


def values(pcm: bytes) -> list[int]:
    return np.frombuffer(pcm, "<i2").tolist()


class TestReading:
    def test_what_is_played_is_read_in_order_and_then_comes_silence(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(3, value=1))
        player.play(chunk(2, value=2))
        assert values(player.read(4)) == [1, 1, 1, 2]
        assert values(player.read(4)) == [2, 0, 0, 0]
        assert values(player.read(2)) == [0, 0]

    def test_a_new_player_reads_as_silence(self) -> None:
        player = Player()
        assert player.read(480) == bytes(960)
        assert (player.queued, player.playing, player.played, player.underruns) == (0.0, False, 0.0, 0)

    def test_reading_nothing_changes_nothing(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk())
        assert player.read(0) == b""
        assert player.underruns == 0
        assert player.queued == 0.08

    def test_it_tells_what_waits_and_what_was_played(self) -> None:
        player = Player()
        for _ in range(10):
            player.play(chunk())
        player.read(2400)
        assert player.queued == pytest.approx(0.7)
        assert player.played == pytest.approx(0.1)
        assert player.playing

    def test_it_is_what_a_session_asks(self) -> None:
        player: conversation.Player = Player()
        assert player.heard(1) is None

    def test_it_tells_how_much_of_each_turn_was_heard(self) -> None:
        """A turn that waits behind another has been heard for no time, and one that never came is unknown."""
        player = Player(prebuffer=0)
        player.play(chunk(2400, turn=1))
        player.play(chunk(2400, turn=2))
        player.read(1200)
        assert (player.heard(1), player.heard(2), player.heard(3)) == (0.05, 0.0, None)
        player.read(2400)
        assert (player.heard(1), player.heard(2)) == (0.1, 0.05)

    def test_stopping_drops_all_that_waits_and_keeps_what_was_heard(self) -> None:
        player = Player()
        player.play(chunk(24_000))
        player.read(240)
        player.stop()
        assert player.read(480) == bytes(960)
        assert (player.queued, player.heard(1), player.underruns) == (0.0, 0.01, 0)

    def test_after_an_interruption_the_next_turn_is_played(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(turn=1))
        player.handle(events.Interrupted(turn=1))
        player.play(chunk(turn=2, value=2))
        assert values(player.read(3)) == [2, 2, 2]

    def test_events_are_all_it_needs(self) -> None:
        """What has nothing to do with speech may be passed as well: a program passes all it gets."""
        player = Player()
        player.handle(events.TurnStarted(turn=1))
        player.handle(chunk(24_000))
        player.handle(events.Transcript(turn=1, role="USER", text="Stop!", stage="FINAL"))
        assert player.queued == 1.0
        player.handle(events.Interrupted(turn=1))
        assert player.queued == 0.0

    def test_whoever_listens_hears_every_read(self) -> None:
        """A recording is made of it; and silence is told apart from silent speech."""
        read = list[tuple[bytes, bool]]()
        player = Player(prebuffer=0)
        player.on_read = lambda pcm, silent: read.append((pcm, silent))
        player.read(1)
        player.play(chunk(3, value=0))
        player.read(2)
        player.read(2)
        assert read == [(bytes(2), True), (bytes(4), False), (bytes(4), False)]

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"sample_rate": 4_000}, "sample_rate is 4000"),
            ({"prebuffer": -0.1}, "prebuffer is -0.1, but must be 0 to 2 seconds"),
            ({"prebuffer": 100}, "prebuffer is 100, but"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigurationError, match=sentence):
            Player(**settings)


class TestUnderruns:
    def test_silence_within_a_response_is_an_underrun(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(100))
        player.read(480)
        player.read(480)
        assert player.underruns == 0  # the turn may be over: nobody knows
        player.play(chunk(100))
        player.play(chunk(100))
        assert player.underruns == 1

    def test_silence_after_a_response_is_none(self) -> None:
        player = Player(prebuffer=0)
        for turn in (1, 2, 3):
            player.handle(chunk(100, turn=turn))
            player.handle(ended(turn))
            player.read(480)
        assert player.underruns == 0

    def test_the_last_sample_may_be_read_just_in_time(self) -> None:
        player = Player(prebuffer=0)
        for _ in range(5):
            player.play(chunk(480))
            player.read(480)
        assert player.underruns == 0

    def test_the_pause_of_a_tool_is_none(self) -> None:
        """The model says that it will look, and goes on in the same turn once the tool has answered."""
        player = Player(prebuffer=0)
        player.handle(chunk(100))
        player.handle(events.ToolCall(turn=1, id="1", name="look", arguments={}))
        player.read(4800)
        player.handle(chunk(100))
        assert player.underruns == 0
        player.read(480)
        player.handle(chunk(100))
        assert player.underruns == 1

    def test_speech_that_goes_on_after_a_stop_is_none(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(100))
        player.read(480)
        player.stop()
        player.play(chunk(100))
        assert player.underruns == 0


class TestPrebuffer:
    def test_a_response_begins_when_enough_is_there(self) -> None:
        """Else the first late chunk tears its first word."""
        player = Player(prebuffer=0.1)
        player.play(chunk(1920))
        assert player.read(480) == bytes(960)
        player.play(chunk(1920))
        assert values(player.read(480)) == [1] * 480

    def test_it_begins_with_less_once_the_response_has_ended(self) -> None:
        player = Player(prebuffer=0.1)
        player.handle(chunk(100))
        player.handle(ended())
        assert values(player.read(100)) == [1] * 100

    def test_it_waits_no_longer_than_it_would_take_to_fill(self) -> None:
        """For whoever calls only play(), the end of a short response is never known."""
        player = Player(prebuffer=0.1)
        player.play(chunk(480))
        assert [player.read(480) != bytes(960) for _ in range(6)] == [False] * 5 + [True]
        assert player.underruns == 0

    def test_after_an_underrun_it_waits_again(self) -> None:
        player = Player(prebuffer=0.1)
        player.play(chunk(2400))
        player.read(4800)
        player.play(chunk(1920))
        assert player.read(480) == bytes(960)
        player.play(chunk(1920))
        assert values(player.read(1)) == [1]
        assert player.underruns == 1


class TestOtherRates:
    @pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
    @given(reads=st.lists(st.integers(1, 2000), min_size=1, max_size=20))
    def test_speech_is_resampled_as_if_at_once(self, rate: int, reads: list[int]) -> None:
        """A device rarely has the rate of the model; however it reads, nothing clicks and nothing is lost."""
        speech = np.round(8000 * np.sin(np.arange(12_000) / 7)).astype("<i2")
        expected = soxr.resample(speech.astype(np.float32), RATE, rate, quality="HQ")
        player = Player(rate, prebuffer=0)
        for piece in np.split(speech, 10):
            player.handle(events.AudioChunk(turn=1, pcm=piece.tobytes(), sample_rate=RATE))
        player.handle(ended())
        heard = b"".join(player.read(samples) for samples in reads)
        heard += player.read(round(player.queued * rate))
        got = np.frombuffer(heard, "<i2")
        assert np.abs(got[: len(expected)] - expected[: len(got)]).max() <= 33  # -60 dB
        assert player.heard(1) == pytest.approx(0.5, abs=0.001)

    def test_the_end_is_not_held_back_for_ever(self) -> None:
        """Without a TurnEnded, a resampler would keep the last 20 ms until the next turn."""
        player = Player(48_000, prebuffer=0)
        player.play(chunk(2400))
        player.read(4800)
        player.read(480)
        assert player.heard(1) == pytest.approx(0.1)

    def test_rates_may_change_between_turns(self) -> None:
        player = Player(prebuffer=0)
        player.play(chunk(1600, turn=1, rate=16_000))
        player.play(chunk(2400, turn=2))
        player.play(chunk(800, turn=3, rate=8_000))
        player.handle(ended(3))
        player.read(10_000)
        assert [player.heard(turn) for turn in (1, 2, 3)] == pytest.approx([0.1] * 3)

    def test_what_a_resampler_holds_back_is_dropped_with_the_rest(self) -> None:
        player = Player(48_000, prebuffer=0)
        player.play(chunk(2400, value=20_000))
        player.stop()
        assert not any(player.read(9600))
        player.play(chunk(2400, turn=2, value=0))
        assert not any(player.read(9600))


class Playing(RuleBasedStateMachine):
    """Whatever is called in whatever order, every sample is read once or dropped, and is accounted for."""

    def __init__(self) -> None:
        super().__init__()
        self.player = Player(prebuffer=0)
        self.turn, self.waiting, self.heard = 1, list[tuple[int, int]](), dict[int, int]()

    @rule(samples=st.integers(0, 300), goes_on=st.booleans())
    def play(self, samples: int, goes_on: bool) -> None:
        self.turn += not goes_on
        self.player.play(chunk(samples, turn=self.turn, value=self.turn))
        self.waiting += [(self.turn, self.turn)] * samples
        self.heard.setdefault(self.turn, 0)

    @rule(samples=st.integers(0, 400))
    def read(self, samples: int) -> None:
        expected, self.waiting = self.waiting[:samples], self.waiting[samples:]
        assert values(self.player.read(samples)) == [v for _, v in expected] + [0] * (samples - len(expected))
        for turn, _ in expected:
            self.heard[turn] += 1

    @rule()
    def stop(self) -> None:
        self.player.stop()
        self.waiting.clear()

    @rule()
    def end(self) -> None:
        self.player.handle(ended(self.turn))

    @invariant()
    def tells_the_truth(self) -> None:
        assert self.player.queued == pytest.approx(len(self.waiting) / RATE)
        assert self.player.playing == bool(self.waiting)
        for turn, samples in self.heard.items():
            assert self.player.heard(turn) == pytest.approx(samples / RATE)


TestPlaying = Playing.TestCase


def test_a_device_may_read_from_another_thread() -> None:
    """Nothing is read twice, and nothing is lost."""
    player = Player(prebuffer=0)
    got, done = bytearray(), threading.Event()

    def device() -> None:
        while not done.is_set() or player.playing:
            got.extend(player.read(64))

    thread = threading.Thread(target=device)
    thread.start()
    for value in range(1, 1001):
        player.play(chunk(100, value=value))
    done.set()
    thread.join(timeout=30)
    heard = [value for value in values(bytes(got)) if value]
    assert heard == [value for value in range(1, 1001) for _ in range(100)]
    assert player.played == pytest.approx(100_000 / RATE)
