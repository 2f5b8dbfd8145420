"""What keeps the assistant from hearing itself, on sound that was made for it."""

import math
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from novasonic import echo, events
from novasonic.audio import Resampler, read_wav
from novasonic.echo import EchoCanceller, EchoWatch, HalfDuplex, repeats
from novasonic.errors import ConfigurationError
from test_cli import ROOT

SOUNDS = ROOT / "src" / "novasonic" / "emulator" / "sounds"


def sound(name: str, rate: int) -> Any:
    pcm, form = read_wav(SOUNDS / name)
    resampler = Resampler(form.sample_rate, rate)
    return np.frombuffer(resampler.feed(pcm) + resampler.flush(), "<i2").astype(float)


def pcm(samples: Any) -> bytes:
    return bytes(np.clip(samples, -32768, 32767).astype("<i2").tobytes())


def loud(samples: Any) -> float:
    return 20 * math.log10(math.sqrt(float(np.mean(samples**2))) / 32768 + 1e-9)


class Room:
    """A loudspeaker at 24 kHz and a microphone at 48 kHz, and walls."""

    def __init__(self, assistant: Any, user: Any, *, user_at: float, delay: float = 0.06) -> None:
        far = np.repeat(assistant, 2)  # coarse; its overtones are echo as well
        walls = np.zeros(4800)
        walls[0] = 0.5
        random = np.random.default_rng(1)
        walls[random.integers(100, 4000, 40)] = random.normal(0, 0.06, 40)
        late = np.zeros(int(delay * 48_000))
        heard = np.concatenate([late, np.convolve(far, walls)])[: len(far)] + random.normal(0, 8, len(far))
        at = int(user_at * 48_000)
        heard[at : at + len(user)] += user[: max(0, len(heard) - at)]
        self.played, self.heard = assistant, heard

    def through(self, canceller: EchoCanceller, order: str = "ssm") -> Any:
        """Let both devices work in steps of 10 ms and 20 ms, in some order; return what comes out."""
        out, played = bytearray(), 0
        for at in range(0, len(self.heard) - 960, 960):
            for who in order:
                if who == "s":
                    canceller.played(pcm(self.played[played : played + 240]))
                    played += 240
                else:
                    out += canceller.clean(pcm(self.heard[at : at + 960]))
        return np.frombuffer(bytes(out), "<i2").astype(float)


@pytest.mark.parametrize("order", ["ssm", "sms", "mss"])
def test_an_echo_is_cancelled_and_the_user_is_not(order: str) -> None:
    """Whatever the order in which the threads of the two devices happen to run."""
    assistant = np.tile(sound("answer-1.wav", 24_000), 3)
    user = sound("interruption.wav", 48_000)
    seconds = len(assistant) / 24_000
    room = Room(assistant, user, user_at=seconds - 2.0)
    out = room.through(EchoCanceller(48_000, 24_000), order)
    assert len(out) / 16_000 == pytest.approx(seconds, abs=0.1)
    learnt, user_at = int(3.0 * 16_000), int((seconds - 2.1) * 16_000)
    echo_before = loud(room.heard[3 * learnt : 3 * user_at])
    assert loud(out[learnt:user_at]) < echo_before - 25
    assert loud(out[user_at + 3200 :]) > loud(user[: 48_000 * 2]) - 12


def test_sound_waits_for_no_loudspeaker_that_never_plays() -> None:
    canceller = EchoCanceller(16_000, 24_000)
    out = sum(len(canceller.clean(bytes(640))) for _ in range(50))
    assert out == 640 * 50


def test_a_loudspeaker_that_stops_holds_up_nothing_for_long() -> None:
    """Its stream ends when it is unplugged; the microphone's goes on."""
    canceller = EchoCanceller(16_000, 16_000)
    out = 0
    for at in range(200):
        if at < 50:
            canceller.played(bytes(640))
        out += len(canceller.clean(bytes(640)))
    assert 0 <= 640 * 200 - out <= 640 * 11


@pytest.mark.parametrize(("played", "captured"), [(1000, 990), (990, 1000)])
def test_clocks_that_drift_apart_are_kept_together(played: int, captured: int) -> None:
    """Two devices have two clocks. Over an hour, a hundred parts in a million are a third of a second."""
    canceller = EchoCanceller(16_000, 16_000)
    out = total = handed = 0
    for at in range(3000):
        while handed * captured <= at * played:
            canceller.played(bytes(320))
            handed += 1
        out += len(canceller.clean(bytes(320)))
        total += 320
    assert total - out < 2 * 16_000 * 0.06  # nothing waits for long
    assert len(canceller._far._pcm) < 2 * 16_000 * 0.06  # no public way to see that no reference piles up


def test_a_canceller_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with pytest.raises(ImportError, match=r"novasonic\[aec\]"):
        EchoCanceller(16_000, 24_000)


def test_half_duplex_is_deaf_while_the_assistant_sounds_and_a_little_longer() -> None:
    quiet, speech = bytes(320), b"\1\1" * 160
    half = HalfDuplex(16_000, tail=0.03)
    half.played(quiet)
    assert half.clean(speech) == speech
    half.played(speech)
    assert half.clean(speech) == quiet
    half.played(quiet)
    assert [half.clean(speech) == quiet for _ in range(3)] == [True, True, False]


def test_auto_cancels_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(echo.remover("auto", 48_000, 24_000, delay=0.1), EchoCanceller)
    monkeypatch.setattr(echo, "can_cancel", lambda: False)  # as if the extra were not installed
    half = echo.remover("auto", 48_000, 24_000, delay=0.1)
    assert isinstance(half, HalfDuplex)
    assert half.sample_rate == 48_000
    assert echo.remover("off", 48_000, 24_000, delay=0.1) is None
    with pytest.raises(ConfigurationError, match="echo is 'loud', but must be one of auto, cancel"):
        echo.remover("loud", 48_000, 24_000, delay=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("user", "assistant", "expected"),
    [
        ("it is sunny in paris today", "Of course! It is sunny in Paris today, with a light wind.", True),
        ("of course it's sunny in parish today", "Of course! It's sunny in Paris today.", True),
        ("sorry and what about tomorrow", "Of course! It is sunny in Paris today, with a light wind.", False),
        ("yes it is", "Yes, it is.", False),
        ("is it sunny in paris today or will it rain there", "It is sunny in Paris today.", False),
        ("", "It is sunny in Paris today.", False),
        ("it is sunny in paris", "", False),
        ("hace sol en parís hoy", "¡Claro! Hace sol en París hoy, con viento.", True),
        ("one two three four five", "One two three four five. " + "And so on and on. " * 12, False),
    ],
)
def test_what_repeats_the_assistant_is_told_from_what_answers_it(
    user: str, assistant: str, *, expected: bool
) -> None:
    assert repeats(user, assistant) is expected


def said(role: str, text: str, stage: str = "FINAL") -> events.Transcript:
    return events.Transcript(turn=1, role=role, text=text, stage=stage)


def test_an_echo_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = EchoWatch()
    watch.handle(said("ASSISTANT", "It is sunny in Paris", "SPECULATIVE"))
    watch.handle(said("ASSISTANT", " today, with a light wind.", "SPECULATIVE"))
    watch.handle(said("USER", "and in oslo what is the weather"))
    assert not watch.heard
    with pytest.warns(UserWarning, match="the microphone hears the loudspeaker.*headphones"):
        watch.handle(said("USER", "sunny in paris today with a light wind"))
    assert watch.heard
    assert "sunny" not in caplog.text  # transcripts are nobody's business
    assert "the microphone hears the loudspeaker" in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.handle(said("USER", "sunny in paris today with a light wind"))


def test_looking_for_the_extra_does_not_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pywebrtc_audio", raising=False)
    assert echo.can_cancel()
    assert "pywebrtc_audio" not in sys.modules
