"""Audio: any form in any pieces becomes the same frames, and a file says what is wrong with it."""

import array
import contextlib
import itertools
import math
import shutil
import struct
import subprocess
import sys
import threading
import tracemalloc
import wave
from collections.abc import Buffer, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from novasonic import audio, g711
from novasonic.audio import (
    AudioFormat,
    Chunker,
    WavReader,
    WavWriter,
    level,
    open_audio,
    peak,
    read_wav,
    silence,
    write_wav,
)
from novasonic.errors import ConfigurationError

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "audio"

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])

Samples = NDArray[Any]


def tone(rate: int, seconds: float, *, hertz: float = 440.0, channels: int = 1) -> NDArray[np.int16]:
    """A tone at half of full scale, of the shape (samples, channels)."""
    time = np.arange(round(rate * seconds)) / rate
    wave_ = np.round(16_384 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)
    return np.repeat(wave_[:, np.newaxis], channels, axis=1)


def noise(samples: int, channels: int = 1, *, seed: int = 1) -> NDArray[np.int16]:
    """White noise of full scale, of the shape (samples, channels): every sample tells where it was."""
    return np.random.default_rng(seed).integers(-32768, 32768, (samples, channels), dtype=np.int16)


def frames(chunker: Chunker, pieces: Iterable[Buffer], **form: Any) -> list[bytes]:
    """All frames of a piece after a piece, to the last."""
    fed = [chunker.feed(piece, **form) for piece in pieces]
    return list(itertools.chain(*fed, chunker.flush()))


def values(pcm: bytes | list[bytes]) -> NDArray[np.int16]:
    return np.frombuffer(pcm if isinstance(pcm, bytes) else b"".join(pcm), "<i2")


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data, cut at these places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def decibels(error: Samples) -> float:
    """The level of an error, against full scale."""
    return 20 * math.log10(float(np.abs(error).max(initial=0.0)) / 32768 + 1e-12)


class TestFormat:
    def test_it_reckons_between_bytes_and_seconds(self) -> None:
        stereo = AudioFormat(48_000, 2)
        assert (stereo.frame_bytes, stereo.bytes_per_second) == (4, 192_000)
        assert stereo.duration(96_000) == 0.5
        assert AudioFormat().duration(1024) == 0.032

    @pytest.mark.parametrize("rate", [0, -16_000, 7_999, 192_001, 16_000.0, "16000", None])
    def test_a_rate_that_cannot_be_is_refused_with_what_could(self, rate: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"sample_rate is .*, 8000 to 192000 Hz") as refused:
            AudioFormat(rate)
        assert repr(rate) in str(refused.value)

    @pytest.mark.parametrize("channels", [0, -1, 33, 2.0])
    def test_channels_that_cannot_be_are_refused_with_what_could(self, channels: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"channels is .*, 1 to 32$"):
            AudioFormat(16_000, channels)

    def test_a_whole_number_of_numpy_is_a_whole_number(self) -> None:
        """Rates come out of headers that were read with numpy."""
        assert AudioFormat(np.int64(16_000)) == AudioFormat(16_000)  # type: ignore[arg-type]

    def test_silence_is_zeros(self) -> None:
        assert silence(512) == bytes(1024)


class TestFrames:
    @given(st.binary(max_size=5000), st.lists(st.integers(0, 5000), max_size=8))
    @example(data=bytes(range(7)), cuts=[1, 2, 3])
    def test_any_split_of_bytes_gives_the_same_frames(self, data: bytes, cuts: list[int]) -> None:
        """A socket cuts where it likes, within samples too."""
        whole = frames(Chunker(16_000, 64), [data])
        assert frames(Chunker(16_000, 64), pieces_of(data, cuts)) == whole
        kept = data[: len(data) - len(data) % 2]
        assert b"".join(whole) == kept.ljust(math.ceil(len(kept) / 128) * 128, b"\0")
        assert {len(frame) for frame in whole} <= {128}

    @given(st.lists(st.integers(0, 20_000), max_size=8), st.integers(2, 6))
    def test_any_split_of_channels_gives_the_same_frames(self, cuts: list[int], channels: int) -> None:
        data = noise(1500, channels).tobytes()
        whole = frames(Chunker(), [data], channels=channels)
        assert frames(Chunker(), pieces_of(data, cuts), channels=channels) == whole

    @given(RATES, RATES, st.lists(st.integers(0, 10_000), max_size=8))
    def test_any_split_of_what_is_resampled_gives_the_same_frames(
        self, source: int, target: int, cuts: list[int]
    ) -> None:
        """A resampler begun anew at every piece clicks at every piece."""
        data = tone(source, 0.05).tobytes()
        whole = frames(Chunker(target, 100), [data], sample_rate=source)
        split = frames(Chunker(target, 100), pieces_of(data, cuts), sample_rate=source)
        assert len(split) == len(whole)
        assert decibels(values(split).astype(float) - values(whole)) < -60

    @pytest.mark.parametrize("chunk_samples", [1, 160, 512, 4096])
    def test_a_frame_has_the_length_that_was_asked_for(self, chunk_samples: int) -> None:
        chunker = Chunker(16_000, chunk_samples)
        assert {len(frame) for frame in chunker.feed(bytes(50_000))} == {2 * chunk_samples}

    def test_a_frame_comes_as_soon_as_it_is_full(self) -> None:
        """Whoever waits for one sample more is 32 ms behind."""
        chunker = Chunker()
        assert chunker.feed(bytes(1023)) == []
        assert chunker.feed(bytes(1)) == [bytes(1024)]
        assert chunker.flush() == []

    def test_the_last_frame_is_filled_up_with_silence(self) -> None:
        chunker = Chunker(16_000, 4)
        assert chunker.feed(b"\1\0" * 6) == [b"\1\0" * 4]
        assert chunker.flush() == [b"\1\0" * 2 + bytes(4)]

    def test_after_the_end_it_is_as_new(self) -> None:
        chunker = Chunker()
        first = frames(chunker, [tone(48_000, 0.1).tobytes(), b"\1"], sample_rate=48_000)
        assert frames(chunker, [tone(48_000, 0.1).tobytes()], sample_rate=48_000) == first
        assert frames(chunker, [b"\1"]) == chunker.flush() == []
        assert frames(chunker, [b"\2\0"]) == [b"\2\0".ljust(1024, b"\0")]

    @pytest.mark.parametrize(
        "nothing", [b"", bytearray(), memoryview(b""), np.empty(0, np.int16), np.empty((0, 2), np.float32)]
    )
    def test_nothing_is_no_audio_and_no_error(self, nothing: Buffer) -> None:
        """A source that has nothing to give returns nothing; that is no end."""
        chunker = Chunker()
        chunker.feed(bytes(1000))
        assert chunker.feed(nothing) == []
        assert chunker.feed(nothing, sample_rate=48_000) == []
        assert frames(chunker, [nothing]) == [bytes(1024)]

    def test_a_buffer_may_be_filled_again_at_once(self) -> None:
        """Devices lend the same memory every time."""
        chunker = Chunker(16_000, 4)
        memory = bytearray(b"\1\0" * 3)
        chunker.feed(memory)
        memory[:] = bytes(6)
        assert chunker.feed(memoryview(memory)[:2]) == [b"\1\0" * 3 + b"\0\0"]

    @pytest.mark.parametrize("chunk_samples", [0, -1, 4097, 32.0, None])
    def test_a_length_that_cannot_be_is_refused(self, chunk_samples: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"chunk_samples is .* whole number, 1 to 4096$"):
            Chunker(16_000, chunk_samples)


SAME = noise(700)[:, 0]

FORMS: dict[str, Callable[[], Buffer]] = {
    "bytes": SAME.tobytes,
    "bytearray": lambda: bytearray(SAME.tobytes()),
    "memoryview": lambda: memoryview(SAME.tobytes()),
    "a memoryview of samples": lambda: memoryview(SAME),
    "every other byte": lambda: memoryview(np.repeat(SAME.view(np.uint8), 2).tobytes())[::2],
    "array.array": lambda: array.array("h", SAME.tolist()),
    "array.array of floats": lambda: array.array("f", (SAME / 32768).tolist()),
    "int16": lambda: SAME,
    "int16, a column": lambda: SAME[:, np.newaxis],
    "int16, big-endian": lambda: SAME.astype(">i2"),
    "int16, backwards twice": lambda: SAME[::-1].copy()[::-1],
    "int32": lambda: SAME.astype(np.int32) * 65536,
    "int32, big-endian": lambda: SAME.astype(">i4") * 65536,
    "array.array of int32": lambda: array.array("i", (SAME.astype(int) * 65536).tolist()),
    "float32": lambda: SAME.astype(np.float32) / 32768,
    "float64": lambda: SAME / 32768,
    "float64, big-endian": lambda: (SAME / 32768).astype(">f8"),
    "stereo": lambda: np.stack([SAME, SAME], axis=1),
    "stereo, in the order of Fortran": lambda: np.asfortranarray(np.stack([SAME, SAME], axis=1)),
    "a row": lambda: SAME[np.newaxis],
    "stereo, channels first": lambda: np.stack([SAME, SAME]),
    "stereo of int32": lambda: np.stack([SAME, SAME], axis=1).astype(np.int32) * 65536,
    "stereo of floats": lambda: np.stack([SAME, SAME], axis=1) / 32768,
}


class TestForms:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
    def test_the_same_sound_in_any_form_gives_the_same_frames(self, form: Callable[[], Buffer]) -> None:
        assert frames(Chunker(), [form()]) == frames(Chunker(), [SAME.tobytes()])

    def test_a_file_that_is_mapped_into_memory_is_resampled_too(self, tmp_path: Path) -> None:
        """The resampler takes arrays of no other class than numpy's own."""
        path = tmp_path / "sound.raw"
        path.write_bytes(SAME.tobytes())
        mapped = np.memmap(path, np.int16, "r")
        as_bytes = frames(Chunker(), [SAME.tobytes()], sample_rate=48_000)
        assert frames(Chunker(), [mapped], sample_rate=48_000) == as_bytes

    def test_forms_may_follow_one_another(self) -> None:
        """A program plays a file between two sentences of a microphone."""
        sound = noise(2000)[:, 0]
        chunker = Chunker()
        out = [
            *chunker.feed(sound[:333].tobytes()),
            *chunker.feed(sound[333:700]),
            *chunker.feed(np.stack([sound[700:1100]] * 3, axis=1)),
            *chunker.feed(np.repeat(sound[1100:1500], 2).tobytes(), channels=2),
            *chunker.feed(sound[1500:] / 32768),
            *chunker.flush(),
        ]
        assert values(out)[:2000].tolist() == sound.tolist()

    def test_an_array_between_two_halves_of_a_sample_moves_nothing(self) -> None:
        """Bytes that went on one byte late would be noise from there on."""
        chunker = Chunker(16_000, 1)
        out = [*chunker.feed(b"\1"), *chunker.feed(np.array([7], np.int16)), *chunker.feed(b"\0\2\0")]
        assert values(out).tolist() == [7, 1, 2]

    def test_half_a_sample_ends_with_its_form(self) -> None:
        """What follows in another form begins with a sample of its own."""
        chunker = Chunker(16_000, 1)
        chunker.feed(b"\1\0\5")
        assert values(chunker.feed(b"\2\0\2\0", channels=2)).tolist() == [2]
        chunker.feed(b"\5", channels=2)
        chunker.feed(np.array([3], np.int16))
        assert values(chunker.feed(b"\4\0")).tolist() == [4]

    @given(
        hnp.arrays(
            st.sampled_from([np.float32, np.float64]),
            st.integers(1, 300),
            elements=st.floats(-16, 16, width=32),
        )
    )
    @example(samples=np.array([1.0, -1.0, 1.5, -16.0, 16.0, 0.5 / 32768, 1.5 / 32768, -0.0]))
    def test_a_float_is_rounded_and_never_wrapped(self, samples: Samples) -> None:
        """Above 1 there is only the loudest sample; a cast would make it the most negative."""
        whole = values(frames(Chunker(16_000, 1), [samples]))
        clipped = np.clip(samples.astype(np.float64), -1, 1)
        assert np.abs(whole - np.minimum(clipped * 32768, 32767)).max() <= 0.5
        assert (np.sign(whole) * np.sign(samples) >= 0).all()

    def test_channels_are_mixed_by_their_mean(self) -> None:
        """A sum would clip where both are loud; one channel alone would lose who speaks into the other."""
        stereo = np.array([[100, 200], [32767, 32767], [-32768, -32768], [-100, 100]], np.int16)
        assert values(Chunker(16_000, 4).feed(stereo)).tolist() == [150, 32767, -32768, 0]
        assert values(Chunker(16_000, 4).feed(stereo.tobytes(), channels=2)).tolist() == [
            150,
            32767,
            -32768,
            0,
        ]

    def test_loud_channels_of_floats_do_not_hide_each_other(self) -> None:
        """Each is clipped before they are mixed: what no device can play counts as the loudest."""
        assert values(Chunker(16_000, 1).feed(np.array([[9.0, 0.0]]))).tolist() == [16384]

    def test_an_array_of_one_dimension_is_interleaved_where_channels_are_declared(self) -> None:
        """So it comes from devices and from np.frombuffer."""
        assert values(Chunker(16_000, 2).feed(np.array([1, 3, 5, 7], np.int16), channels=2)).tolist() == [
            2,
            6,
        ]

    def test_an_int32_is_rounded_and_never_wrapped(self) -> None:
        samples = np.array([2**31 - 1, -(2**31), 32_768, 32_767, -32_768, -32_769, 98_304], np.int32)
        heard = values(Chunker(16_000, len(samples)).feed(samples)).tolist()
        assert heard == [32767, -32768, 0, 0, 0, -1, 2]

    @given(st.lists(st.integers(0, 700), max_size=8), st.integers(2, 4), st.booleans())
    def test_channels_may_come_first(self, cuts: list[int], channels: int, declared: bool) -> None:
        """So torch and librosa have it. A piece too short to tell is understood as those before it."""
        sound = noise(700, channels)
        chunker, edges = Chunker(), [0, 100, *sorted(cut for cut in cuts if cut > 100), 700]
        form = {"channels": channels} if declared else {}
        pieces = [sound[start:end].T for start, end in itertools.pairwise(edges) if end > start]
        assert frames(chunker, pieces, **form) == frames(Chunker(), [sound])
        assert frames(chunker, [sound[:channels]]) == frames(Chunker(), [sound[:channels]])  # as new

    @pytest.mark.parametrize("law", ["mulaw", "alaw"])
    @given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=5))
    def test_a_telephones_bytes_are_what_they_mean(self, law: Any, data: bytes, cuts: list[int]) -> None:
        pcm = g711.decode(data, law)
        expected = frames(Chunker(8_000), [pcm])
        assert frames(Chunker(8_000), pieces_of(data, cuts), encoding=law) == expected
        as_array = np.frombuffer(data, np.uint8)
        assert frames(Chunker(8_000), [as_array], encoding=law) == expected
        stereo = data[: len(data) & ~1]
        pcm = g711.decode(stereo, law)
        assert frames(Chunker(8_000), pieces_of(stereo, cuts), encoding=law, channels=2) == frames(
            Chunker(8_000), [pcm], channels=2
        )

    def test_a_telephone_may_be_resampled_and_change_to_pcm(self) -> None:
        speech = tone(8_000, 0.5).tobytes()
        law = g711.encode(speech, "mulaw")
        chunker = Chunker(16_000, 1)
        out = chunker.feed(law[:2000], sample_rate=8_000, encoding="mulaw")
        out += chunker.feed(speech[4000:], sample_rate=8_000)
        heard = values(out + chunker.flush()).astype(float)
        assert len(heard) == 8_000
        assert decibels(heard[800:-800] - tone(16_000, 0.5)[800:-800, 0]) < -30  # µ-law's own noise

    def test_thirty_two_channels_are_the_most(self) -> None:
        assert values(Chunker(16_000, 1).feed(np.full((1, 32), 5, np.int16))).tolist() == [5]


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "text": ("question.wav", {}, "audio is a str, but must be bytes or a numpy array"),
    "a list": ([1, 2], {}, "audio is a list, but must be"),
    "None": (None, {}, "audio is a NoneType, but must be"),
    "a number": (1024, {}, "audio is a int, but must be"),
    "bytes as samples": (
        np.zeros(4, np.uint8),
        {},
        "array of uint8, but must be of int16, int32, float32 or",
    ),
    "int8": (np.zeros(4, np.int8), {}, "array of int8, but must be"),
    "int64": (np.zeros(4, np.int64), {}, "array of int64, but must be"),
    "unsigned": (np.zeros(4, np.uint16), {}, "array of uint16, but must be"),
    "samples as a law": (SAME, {"encoding": "mulaw"}, "array of int16, but mulaw has bytes"),
    "an unknown law": (
        b"\0",
        {"encoding": "opus"},
        "encoding is 'opus', but must be one of 'pcm16', 'mulaw', 'alaw'",
    ),
    "float16": (np.zeros(4, np.float16), {}, "array of float16, but must be"),
    "complex": (np.zeros(4, complex), {}, "array of complex128, but must be"),
    "truth": (np.zeros(4, bool), {}, "array of bool, but must be"),
    "objects": (np.zeros(4, object), {}, "array of object, but must be"),
    "an array of long": (array.array("q", [1]), {}, "array of int64, but must be"),
    "one number": (np.zeros((), np.int16), {}, r"the shape \(\), but must have \(samples,\)"),
    "three dimensions": (np.zeros((2, 2, 2)), {}, r"the shape \(2, 2, 2\), but must have"),
    "no channels": (np.zeros((5, 0)), {}, r"the shape \(5, 0\), which is 0 channels"),
    "more channels than there are": (
        np.zeros((33, 480)),
        {},
        r"\(33, 480\), but must .* at most 32 channels",
    ),
    "other channels first": (np.zeros((2, 480)), {"channels": 3}, "is 2 channels, but channels is 3"),
    "other channels": (np.zeros((480, 2)), {"channels": 3}, "is 2 channels, but channels is 3"),
    "uneven channels": (np.zeros(5), {"channels": 2}, "5 samples, which cannot be 2 channels"),
    "16-bit numbers as floats": (np.array([0.0, -12_000.0]), {}, r"up to 12000.*divide .* by 32768"),
    "NaN": (np.array([0.0, np.nan]), {}, r"not numbers \(NaN or infinity\)"),
    "infinity": (np.array([[0.0, -np.inf]], np.float32), {}, "not numbers"),
    "no rate": (b"\0\0", {"sample_rate": 0}, "sample_rate is 0, but must be"),
    "too low a rate": (b"\0\0", {"sample_rate": 4_000}, "sample_rate is 4000, but must be"),
    "too high a rate": (np.zeros(2), {"sample_rate": 384_000}, "sample_rate is 384000, but must be"),
    "too many channels": (bytes(66), {"channels": 33}, "channels is 33, but must be"),
    "no channels declared": (bytes(66), {"channels": 0}, "channels is 0, but must be"),
}


class TestLoudness:
    def test_a_square_wave_at_full_scale_is_at_0_and_a_sine_3_below(self) -> None:
        square = np.tile(np.array([32767, -32768], np.int16), 500)
        assert level(square) == pytest.approx(0.0, abs=0.001)
        assert peak(square) == 0.0
        sine = np.sin(np.arange(48_000) * 2 * math.pi / 48)
        assert level(sine) == pytest.approx(-3.01, abs=0.01)
        assert peak(sine / 10) == pytest.approx(-20.0, abs=0.01)

    @pytest.mark.parametrize("quiet", [b"", bytes(1), bytes(1000), np.zeros((10, 2)), bytearray()])
    def test_silence_and_nothing_are_infinitely_low(self, quiet: Any) -> None:
        assert level(quiet) == peak(quiet) == -math.inf

    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
    def test_it_is_the_same_in_any_form(self, form: Callable[[], Buffer]) -> None:
        assert level(form()) == pytest.approx(level(SAME.tobytes()))
        assert peak(form()) == pytest.approx(peak(SAME.tobytes()))

    def test_a_telephone_is_as_loud_as_it_sounds(self) -> None:
        speech = tone(8_000, 1.0).tobytes()
        assert level(g711.encode(speech, "alaw"), encoding="alaw") == pytest.approx(level(speech), abs=0.1)

    def test_what_is_no_audio_has_no_level(self) -> None:
        with pytest.raises(ConfigurationError, match="not numbers"):
            level(np.array([np.nan]))
        with pytest.raises(ConfigurationError, match="encoding is 'mp3'"):
            peak(b"", encoding="mp3")  # type: ignore[arg-type]


class TestRefusals:
    @pytest.mark.parametrize(("piece", "form", "sentence"), BAD.values(), ids=BAD.keys())
    @pytest.mark.parametrize("before", [16_000, 48_000])
    def test_what_cannot_be_audio_is_refused_and_nothing_is_lost(
        self, piece: Any, form: dict[str, Any], sentence: str, before: int
    ) -> None:
        """The speech around a bad piece goes on as if that had never been."""
        speech = tone(before, 0.2).tobytes()
        undisturbed = frames(Chunker(), [speech], sample_rate=before)
        chunker = Chunker()
        out = chunker.feed(speech[:5001], sample_rate=before)
        with pytest.raises(ConfigurationError, match=sentence):
            chunker.feed(piece, **form)
        out += chunker.feed(speech[5001:], sample_rate=before)
        assert out + chunker.flush() == undisturbed


class TestResampling:
    @given(source=RATES, target=st.sampled_from([8_000, 16_000, 24_000]), seed=st.integers(0, 2**32))
    def test_in_pieces_of_any_size_it_is_as_good_as_at_once(
        self, source: int, target: int, seed: int
    ) -> None:
        """The reference is the resampler over the whole sound, with nothing of ours around it."""
        rng = np.random.default_rng(seed)
        sound = (np.cumsum(rng.normal(size=source // 4)) % 2 - 1).astype(np.float32) * 0.5
        at_once = np.round(soxr.resample(sound, source, target, quality="HQ") * 32768).clip(-32768, 32767)
        cuts = np.sort(rng.integers(0, len(sound) + 1, 12))
        pieces = np.split(sound, cuts)
        streamed = values(frames(Chunker(target, 128), pieces, sample_rate=source))
        assert 0 <= len(streamed) - len(at_once) < 128
        assert decibels(streamed[: len(at_once)] - at_once) < -60
        assert not streamed[len(at_once) :].any()

    @pytest.mark.parametrize(("source", "target"), [(48_000, 16_000), (44_100, 16_000), (8_000, 24_000)])
    def test_a_tone_keeps_its_pitch_its_level_and_its_length(self, source: int, target: int) -> None:
        """Against a tone that was made at the other rate, away from the edges."""
        heard = values(frames(Chunker(target, 1), [tone(source, 1.0).tobytes()], sample_rate=source))
        assert len(heard) == target
        middle = slice(target // 10, -target // 10)
        assert decibels(heard[middle] - tone(target, 1.0)[middle, 0].astype(float)) < -60

    def test_what_the_lower_rate_cannot_hold_is_gone_and_not_mirrored(self) -> None:
        """11 kHz would come back as 5 kHz, right among the consonants."""
        heard = values(
            frames(Chunker(16_000, 1), [tone(48_000, 1.0, hertz=11_000).tobytes()], sample_rate=48_000)
        )
        assert decibels(heard[1600:-1600]) < -60

    def test_stereo_is_resampled_as_its_mean(self) -> None:
        both = np.concatenate([tone(48_000, 0.2), tone(48_000, 0.2, hertz=700)], axis=1)
        mean = both.mean(axis=1) / 32768
        left = values(frames(Chunker(), [both], sample_rate=48_000))
        right = values(frames(Chunker(), [mean], sample_rate=48_000))
        assert decibels(left.astype(float) - right) < -80

    def test_an_overshoot_is_held_at_the_edge(self) -> None:
        """A square wave rings beyond full scale when it is resampled; wrapped, it would crackle."""
        square = np.repeat(np.tile([1.0, -1.0], 50), 48)
        heard = values(frames(Chunker(), [square], sample_rate=48_000))
        assert heard.max() == 32767
        assert heard.min() == -32768
        steps = np.abs(np.diff(heard.astype(int)))
        assert (steps > 40_000).sum() < 150

    def test_a_change_of_rate_loses_nothing(self) -> None:
        """What the old resampler held back goes out before the first sample at the new rate."""
        chunker = Chunker(16_000, 1)
        out = [
            *chunker.feed(tone(48_000, 0.25).tobytes(), sample_rate=48_000),
            *chunker.feed(tone(16_000, 0.25).tobytes()),
            *chunker.feed(tone(8_000, 0.25).tobytes(), sample_rate=8_000),
            *chunker.feed(tone(44_100, 0.25), sample_rate=44_100),
            *chunker.flush(),
        ]
        heard = values(out).astype(float)
        assert len(heard) == 16_000
        for start in range(0, 16_000, 4_000):
            middle = slice(start + 800, start + 3_200)
            expected = tone(16_000, 0.25)[800:3_200, 0]
            assert decibels(heard[middle] - expected) < -60

    def test_the_end_of_a_sound_is_not_held_back(self) -> None:
        """A word that ends with the source must arrive whole."""
        click = np.zeros(4800, np.int16)
        click[-10:] = 20_000
        heard = values(frames(Chunker(), [click], sample_rate=48_000))
        assert np.abs(heard[1500:1600]).max() > 10_000

    def test_speech_at_the_wrong_rate_is_at_most_two_frames_late(self) -> None:
        """What a resampler holds back is added to every answer of a conversation."""
        chunker = Chunker()
        came = sum(len(chunker.feed(bytes(1920), sample_rate=48_000)) for _ in range(50))
        assert came >= 1_000 // 32 - 2

    @pytest.mark.skipif(not SPEECH.is_dir(), reason="the recordings are not part of the package")
    def test_a_real_voice_at_48_khz_in_stereo_is_the_voice_at_16_khz(self) -> None:
        """Two renderings of one recording, the second one ours."""
        pcm, form = read_wav(SPEECH / "jfk-48k-stereo.wav")
        reference = values(read_wav(SPEECH / "jfk-16k.wav")[0]).astype(float)
        assert form == AudioFormat(48_000, 2)
        heard = values(frames(Chunker(), [pcm], sample_rate=48_000, channels=2)).astype(float)
        length = min(len(heard), len(reference))
        alike = np.corrcoef(heard[:length], reference[:length])[0, 1]
        assert alike > 0.99


def wav(
    *,
    data: bytes = bytes(8),
    tag: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    extra: bytes = b"",
    before: bytes = b"",
    after: bytes = b"",
    length: int | None = None,
    outer: int | None = None,
) -> bytes:
    """A WAV file, byte by byte, so that it can be wrong."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits) + extra
    body = b"WAVE" + before + chunk(b"fmt ", form)
    body += b"data" + struct.pack("<I", len(data) if length is None else length) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if outer is None else outer) + body


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


EXTENSIBLE = struct.pack("<HHI", 22, 16, 4)  # the size of what follows, valid bits, the speaker's place
GUID = bytes.fromhex("000000001000800000aa00389b71")

GOOD: dict[str, bytes] = {
    "plain": wav(data=b"\1\0\2\0"),
    "with a list before": wav(data=b"\1\0\2\0", before=chunk(b"LIST", b"INFOodd")),
    "with a long list before": wav(data=b"\1\0\2\0", before=chunk(b"JUNK", bytes(4000))),
    "with a list behind": wav(data=b"\1\0\2\0", after=chunk(b"LIST", b"INFO")),
    "extensible": wav(data=b"\1\0\2\0", tag=0xFFFE, extra=EXTENSIBLE + b"\1\0" + GUID),
    "with an extra length of nothing": wav(data=b"\1\0\2\0", extra=b"\0\0"),
    "from a pipe of ffmpeg": wav(data=b"\1\0\2\0", length=0xFFFFFFFF, outer=0xFFFFFFFF),
    "from a pipe of sox": wav(data=b"\1\0\2\0", length=0x7FFFF000, outer=0x7FFFF024),
    "never finished": wav(data=b"\1\0\2\0", length=0, outer=36),
    "never finished, with no length at all": wav(data=b"\1\0\2\0", length=0, outer=0),
    "never finished, within a sample": wav(data=b"\1\0\2\0\3", length=0, outer=0),
    "half a sample too long": wav(data=b"\1\0\2\0\3"),
}

WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a few bytes": (b"RIF", "is not a WAV file; convert it"),
    "text": (b"Hello, could you tell me", "is not a WAV file; convert it"),
    "MP3": (b"ID3\4" + bytes(20), "is an MP3 file; convert it"),
    "MP3 without a tag": (b"\xff\xfb\x90\0" + bytes(20), "is an MP3 file; convert it"),
    "Ogg": (b"OggS" + bytes(20), "is an Ogg file; convert it"),
    "FLAC": (b"fLaC" + bytes(20), "is a FLAC file; convert it"),
    "AIFF": (b"FORM" + bytes(20), "is an AIFF file; convert it"),
    "WebM": (b"\x1aE\xdf\xa3" + bytes(20), "is a WebM or Matroska file; convert it"),
    "more than 4 GiB": (b"RF64" + bytes(20), "is a 64-bit WAV file; convert it"),
    "big-endian": (b"RIFX" + bytes(20), "is a big-endian WAV file; convert it"),
    "a film": (b"RIFF\0\0\0\0AVI " + bytes(20), "is a RIFF file, but of another kind; convert it"),
    "64 bits": (wav(bits=64), "samples of 64-bit PCM, which is not read; convert it"),
    "ADPCM": (wav(tag=2, bits=4), "samples of 4-bit ADPCM, which is not read; convert it"),
    "floats of 16 bits": (wav(tag=3, bits=16), "samples of 16-bit floating point, which is not read"),
    "something else": (wav(tag=0x4242), "samples of 16-bit format 0x4242, which is not read"),
    "a form that lies": (
        b"RIFF$\0\0\0WAVE"
        + chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 16_000, 64_000, 2, 16))
        + chunk(b"data", bytes(4)),
        "is damaged: its 'fmt ' chunk has 2 bytes for 2 channels of 16 bits",
    ),
    "a rate for bats": (wav(rate=384_000), "sample_rate is 384000, but must be"),
    "no channel": (wav(channels=0), "channels is 0, but must be"),
    "cut off in its samples": (
        wav(rate=8_000, data=bytes(8_000), length=16_000),
        r"is cut off: 0\.50 s of its 1\.00 s are there",
    ),
    "cut off in its header": (wav()[:20], "'fmt ' chunk is too short"),
    "cut off before its samples": (wav()[:36], "has no samples: it ends before its data begins"),
    "without a form": (
        b"RIFF" + struct.pack("<I", 16) + b"WAVE" + chunk(b"data", b"\0\0\0\0"),
        "has no 'fmt ' chunk",
    ),
    "a form too short": (
        b"RIFF" + struct.pack("<I", 20) + b"WAVE" + chunk(b"fmt ", b"\1\0\1\0"),
        "is damaged: its 'fmt ' chunk is too short",
    ),
}


class TestWavReader:
    @pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
    def test_every_kind_of_16_bit_pcm_is_read(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(content)
        pcm, form = read_wav(path)
        assert (pcm, form) == (b"\1\0\2\0", AudioFormat(16_000, 1))

    @pytest.mark.parametrize(("content", "sentence"), WRONG.values(), ids=WRONG.keys())
    def test_a_file_that_is_not_taken_says_what_it_is(
        self, tmp_path: Path, content: bytes, sentence: str
    ) -> None:
        """Before a sample of it is sent: half a sentence that was heard cannot be taken back."""
        path = tmp_path / "sound.wav"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=sentence) as refused:
            WavReader(path)
        assert str(refused.value).startswith(str(path))

    def test_a_file_that_is_not_there_says_where_it_was_sought(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=r"question\.wav does not exist in ") as refused:
            WavReader("question.wav")
        assert str(tmp_path) in str(refused.value)
        assert isinstance(refused.value.__cause__, FileNotFoundError)

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="is a directory, not a WAV file"):
            WavReader(tmp_path)

    def test_a_name_that_the_system_refuses_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be opened: File name too long"):
            WavReader(tmp_path / ("x" * 300))

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
    def test_a_disk_that_fails_says_so(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^/proc/self/mem cannot be read: Input/output error$"):
            WavReader("/proc/self/mem")

    def test_it_is_read_block_by_block(self, tmp_path: Path) -> None:
        """An hour of speech needs no memory for an hour."""
        sound = noise(2500, 2).tobytes()
        write_wav(tmp_path / "sound.wav", sound, 10_000, 2)
        with WavReader(str(tmp_path / "sound.wav")) as reader:
            assert (reader.format, reader.duration) == (AudioFormat(10_000, 2), 0.25)
            blocks = list(reader.blocks(0.1))
            assert reader.read(1) == b""
        assert [len(block) for block in blocks] == [4000, 4000, 2000]
        assert b"".join(blocks) == sound

    def test_an_open_length_has_no_duration(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(GOOD["from a pipe of ffmpeg"])
        with WavReader(path) as reader:
            assert reader.duration is None

    def test_a_file_without_samples_is_silent_but_no_error(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "empty.wav", b"", 16_000)
        assert read_wav(tmp_path / "empty.wav") == (b"", AudioFormat(16_000))

    def test_what_stands_behind_no_samples_is_not_sound(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(wav(data=b"", after=chunk(b"LIST", b"INFO")))
        assert read_wav(path)[0] == b""

    def test_a_file_that_shrinks_while_it_is_read_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        write_wav(path, bytes(400_000), 16_000)
        with WavReader(path) as reader:
            reader.read(100)
            with path.open("r+b") as file:
                file.truncate(1000)
            with pytest.raises(ConfigurationError, match="has become shorter while it was read"):
                list(reader.blocks())

    def test_it_reads_from_a_pipe(self, tmp_path: Path) -> None:
        """`ffmpeg … | novasonic ask /dev/stdin`: no size, no way back."""
        os_pipe = tmp_path / "pipe"
        mkfifo(os_pipe)
        content = wav(
            data=b"\1\0\2\0", before=chunk(b"JUNK", bytes(400)), length=0xFFFFFFFF, outer=0xFFFFFFFF
        )
        writer = threading.Thread(target=os_pipe.write_bytes, args=(content,))
        writer.start()
        try:
            assert read_wav(os_pipe)[0] == b"\1\0\2\0"
        finally:
            writer.join(timeout=10)

    @pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
    def test_it_reads_what_sox_writes_into_a_pipe(self, tmp_path: Path) -> None:
        made = subprocess.run(
            [
                "sox",
                "-V1",
                "-n",
                "-r",
                "16000",
                "-c",
                "1",
                "-b",
                "16",
                "-t",
                "wav",
                "-",
                "synth",
                "0.5",
                "sine",
                "440",
            ],
            capture_output=True,
            check=True,
        ).stdout
        path = tmp_path / "sound.wav"
        path.write_bytes(made)
        assert len(read_wav(path)[0]) == 16_000

    @pytest.mark.skipif(not SPEECH.is_dir(), reason="the recordings are not part of the package")
    def test_it_reads_recorded_speech(self) -> None:
        with WavReader(SPEECH / "jfk-16k.wav") as reader:
            assert reader.format == AudioFormat(16_000, 1)
            assert reader.duration == pytest.approx(11.0, abs=0.01)


def mkfifo(path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("pipes have no names there")
    else:
        import os  # noqa: PLC0415 - not on every system

        os.mkfifo(path)


def data_of(samples: NDArray[np.float64], kind: str) -> tuple[int, int, bytes]:
    """The tag, the bits, and the bytes of samples between -1 and 1 in a WAV file of that kind."""
    match kind:
        case "8 bits":
            return 1, 8, (np.round(samples * 128).clip(-128, 127) + 128).astype(np.uint8).tobytes()
        case "24 bits":
            whole = np.round(samples * 2**23).clip(-(2**23), 2**23 - 1).astype("<i4")
            return 1, 24, whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        case "32 bits":
            return 1, 32, np.round(samples * 2**31).clip(-(2**31), 2**31 - 1).astype("<i4").tobytes()
        case "float32":
            return 3, 32, samples.astype("<f4").tobytes()
        case "float64":
            return 3, 64, samples.astype("<f8").tobytes()
        case _:
            pcm = np.round(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()
            return (
                {"mu-law": 7, "A-law": 6}[kind],
                8,
                g711.encode(pcm, "mulaw" if kind == "mu-law" else "alaw"),
            )


KINDS = {
    "8 bits": 257.0,
    "24 bits": 0.51,
    "32 bits": 0.51,
    "float32": 0.51,
    "float64": 0.51,
    "mu-law": 520.0,
    "A-law": 520.0,
}  # how far a sample may be from what it was


class TestWavKinds:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("extensible", [False, True])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_every_kind_of_samples_is_read_as_16_bits(
        self, tmp_path: Path, kind: str, channels: int, *, extensible: bool
    ) -> None:
        samples = np.random.default_rng(1).uniform(-0.98, 0.98, 600)
        tag, bits, data = data_of(samples, kind)
        extra = EXTENSIBLE + bytes([tag, 0]) + GUID if extensible else b""
        path = tmp_path / "sound.wav"
        path.write_bytes(
            wav(tag=0xFFFE if extensible else tag, bits=bits, data=data, extra=extra, channels=channels)
        )
        pcm, form = read_wav(path)
        assert form == AudioFormat(16_000, channels)
        assert np.abs(values(pcm) - samples * 32768).max() <= KINDS[kind]
        with WavReader(path) as reader:
            assert reader.duration == 600 / channels / 16_000
            assert b"".join(iter(lambda: reader.read(7), b"")) == pcm

    @pytest.mark.parametrize("kind", ["24 bits", "32 bits", "float32", "float64"])
    def test_the_loudest_are_held_at_the_edge(self, tmp_path: Path, kind: str) -> None:
        tag, bits, data = data_of(np.array([1.0, -1.0, 1.5, -1.5, 0.99999, 0.0]), kind)
        path = tmp_path / "sound.wav"
        path.write_bytes(wav(tag=tag, bits=bits, data=data))
        assert values(read_wav(path)[0]).tolist() == [32767, -32768, 32767, -32768, 32767, 0]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_samples_that_are_no_numbers_are_refused(self, tmp_path: Path, bad: float) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(wav(tag=3, bits=32, data=np.array([0.0, bad], "<f4").tobytes()))
        with pytest.raises(ConfigurationError, match=r"sound\.wav cannot be read: .* not numbers"):
            read_wav(path)

    def test_a_length_of_0_before_samples_is_a_length_that_nobody_knew(self, tmp_path: Path) -> None:
        """The whole was put right, and the samples were forgotten."""
        sound = noise(500).tobytes()
        path = tmp_path / "sound.wav"
        for outer in (None, 0xFFFFFFFF):
            path.write_bytes(wav(data=sound, length=0, outer=outer))
            assert read_wav(path)[0] == sound

    @pytest.mark.parametrize("kind", ["16 bits", "24 bits"])
    def test_two_hours_take_no_memory_for_two_hours(self, tmp_path: Path, kind: str) -> None:
        path, rate, seconds = tmp_path / "long.wav", 8_000, 7200
        width = 2 if kind == "16 bits" else 3
        size = rate * seconds * width
        with path.open("wb") as file:
            file.write(wav(rate=rate, bits=8 * width, data=b"", length=size, outer=size + 36))
            file.truncate(44 + size)  # a hole: zeros that take no disk
        tracemalloc.start()
        try:
            with WavReader(path) as reader:
                assert reader.duration == seconds
                chunker = Chunker()
                total = sum(
                    len(chunker.feed(block, sample_rate=reader.format.sample_rate))
                    for block in reader.blocks()
                )
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert total == pytest.approx(seconds * 16_000 / 512, abs=2)
        assert most < 20_000_000


class TestFiles:
    """Other containers, through soundfile."""

    @pytest.mark.parametrize("name", ["sound.flac", "sound.ogg", "sound.mp3", "sound.aiff"])
    def test_a_container_is_read_whatever_its_name(self, tmp_path: Path, name: str) -> None:
        sound = tone(48_000, 1.0, channels=2)
        soundfile.write(tmp_path / name, sound, 48_000)
        decoded, _ = soundfile.read(tmp_path / name)  # libsndfile's MP3 encoder adds noise of its own
        (tmp_path / name).rename(tmp_path / "unnamed")
        reader = open_audio(tmp_path / "unnamed")
        assert reader.format == AudioFormat(48_000, 2)
        assert reader.duration == pytest.approx(1.0, abs=0.05)
        pcm = b"".join(iter(lambda: reader.read(1000), b""))
        reader.close()
        assert len(pcm) / reader.format.bytes_per_second == pytest.approx(1.0, abs=0.05)
        assert np.abs(values(pcm).reshape(-1, 2) - decoded.clip(-1, 1) * 32768).max() <= 1

    @pytest.mark.parametrize("kind", [{"format": "RF64"}, {"format": "WAV", "endian": "BIG"}])
    def test_rare_kinds_of_wav_files_are_left_to_soundfile(
        self, tmp_path: Path, kind: dict[str, str]
    ) -> None:
        sound = tone(16_000, 0.1)
        soundfile.write(tmp_path / "sound.wav", sound, 16_000, subtype="PCM_16", **kind)
        reader = open_audio(tmp_path / "sound.wav")
        assert reader.read(10_000) == sound.tobytes()
        reader.close()

    def test_a_wav_file_needs_no_soundfile(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "sound.wav", bytes(100), 16_000)
        reader = open_audio(str(tmp_path / "sound.wav"))
        assert isinstance(reader, WavReader)
        reader.close()

    def test_without_soundfile_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        soundfile.write(tmp_path / "sound.flac", tone(16_000, 0.1), 16_000)
        monkeypatch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'novasonic\[files\]'; or convert it"):
            open_audio(tmp_path / "sound.flac")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"fLaC" + bytes(100), r"sound cannot be read: "),
            (b"Hello, is this audio?", "sound is not a WAV file; convert it"),
            (b"\0\0\0\x1cftypM4A " + bytes(50), "sound is an MP4 file; convert it"),
            (b"\x1aE\xdf\xa3" + bytes(50), "is a WebM or Matroska file; convert it"),
            (b"", "sound is empty"),
        ],
    )
    def test_what_cannot_be_read_says_what_it_is(self, tmp_path: Path, content: bytes, sentence: str) -> None:
        (tmp_path / "sound").write_bytes(content)
        with pytest.raises(ConfigurationError, match=sentence):
            open_audio(tmp_path / "sound")

    def test_a_file_that_is_not_there_or_a_directory_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="does not exist"):
            open_audio(tmp_path / "missing.flac")
        with pytest.raises(ConfigurationError, match="is a directory"):
            open_audio(tmp_path)

    def test_a_rate_for_bats_is_refused(self, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "sound.flac", tone(4_000, 0.1), 4_000)
        with pytest.raises(ConfigurationError, match="of a form that is not taken: sample_rate is 4000"):
            open_audio(tmp_path / "sound.flac")

    def test_a_container_that_breaks_off_is_an_error_or_an_end(self, tmp_path: Path) -> None:
        """Never an exception of somebody else's."""
        path = tmp_path / "sound.flac"
        soundfile.write(path, noise(100_000), 16_000)
        path.write_bytes(path.read_bytes()[:50_000])
        reader = open_audio(path)
        with contextlib.suppress(ConfigurationError):
            while reader.read(1000):
                pass
        reader.close()


class TestWavWriter:
    @given(st.binary(max_size=500), st.sampled_from([8_000, 24_000, 44_100]), st.integers(1, 3))
    def test_what_is_written_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes, rate: int, channels: int
    ) -> None:
        path = tmp_path_factory.mktemp("wav") / "sound.wav"
        data = data[: len(data) - len(data) % (2 * channels)]
        write_wav(path, data, rate, channels)
        assert read_wav(path) == (data, AudioFormat(rate, channels))
        with wave.open(str(path)) as other:
            assert other.readframes(other.getnframes()) == data

    def test_it_is_written_piece_by_piece(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        with WavWriter(path) as writer:
            writer.write(b"\1\0")
            writer.write(bytearray(b"\2\0"))
            writer.write(np.array([3], np.int16))
        assert read_wav(path) == (b"\1\0\2\0\3\0", AudioFormat(24_000))
        writer.close()

    def test_a_file_whose_program_died_is_read_to_its_end(self, tmp_path: Path) -> None:
        """A recording of a call is worth most when the call went wrong."""
        path = tmp_path / "sound.wav"
        with WavWriter(path) as writer:
            writer.write(bytes(50_000))
            content = path.read_bytes()  # as it lies there when the power goes
        dead = tmp_path / "dead.wav"
        dead.write_bytes(content)
        pcm, _ = read_wav(dead)
        assert len(pcm) > 40_000

    def test_it_is_a_valid_file_at_every_moment(self, tmp_path: Path) -> None:
        """Any reader opens what a program that was killed has left."""
        path, sound = tmp_path / "sound.wav", noise(5000, 2).tobytes()
        with WavWriter(path, 16_000, 2) as writer:
            for at in range(0, len(sound), 400):
                (tmp_path / "dead.wav").write_bytes(path.read_bytes())
                with wave.open(str(tmp_path / "dead.wav")) as dead:
                    assert dead.readframes(10**6) == sound[:at]
                writer.write(sound[at : at + 400])
        assert soundfile.read(path, dtype="int16")[0].tobytes() == sound

    def test_into_a_pipe_the_length_is_left_open(self, tmp_path: Path) -> None:
        path, found = tmp_path / "pipe", list[bytes]()
        mkfifo(path)
        reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
        reader.start()
        with WavWriter(path, 16_000) as writer:
            writer.write(b"\1\0")
            writer.write(b"\2\0")
        reader.join(timeout=10)
        (tmp_path / "sound.wav").write_bytes(found[0])
        assert read_wav(tmp_path / "sound.wav")[0] == b"\1\0\2\0"

    def test_half_a_sample_is_refused(self, tmp_path: Path) -> None:
        with (
            WavWriter(tmp_path / "sound.wav", channels=2) as writer,
            pytest.raises(ConfigurationError, match="pcm has 6 bytes, which is not a multiple of 4"),
        ):
            writer.write(bytes(6))

    def test_a_wrong_rate_leaves_the_old_file_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(b"old")
        with pytest.raises(ConfigurationError, match="sample_rate is 5"):
            WavWriter(path, 5)
        assert path.read_bytes() == b"old"

    def test_a_file_that_cannot_be_made_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"nowhere does not exist$"):
            WavWriter(tmp_path / "nowhere" / "sound.wav")
        with pytest.raises(ConfigurationError, match="is a directory"):
            WavWriter(tmp_path)


SOUNDS = sorted((Path(audio.__file__).parent / "emulator" / "sounds").glob("*.wav"))


class TestBuiltInSounds:
    @pytest.mark.parametrize("path", SOUNDS, ids=lambda path: path.stem)
    def test_a_sound_begins_at_once_is_loud_enough_and_does_not_clip(self, path: Path) -> None:
        """A demo is judged by its first second."""
        pcm, form = read_wav(path)
        assert form == AudioFormat(24_000 if path.stem.startswith("answer") else 16_000)
        samples = np.abs(values(pcm).astype(float)) / 32768
        assert 0.5 < samples.max() < 0.9
        assert np.argmax(samples > 0.01) < 0.1 * form.sample_rate

    def test_they_are_small_enough_to_ship(self) -> None:
        assert 0 < sum(path.stat().st_size for path in SOUNDS) < 1_000_000


def test_bytes_at_the_right_rate_need_neither_numpy_nor_soxr() -> None:
    """That is the common case, and the import of numpy alone is four frames late for everybody."""
    code = (
        "import sys; from novasonic.audio import Chunker; c = Chunker();"
        "c.feed(bytes(3001)); c.feed(memoryview(bytes(7))); c.feed(bytearray(9)); c.flush();"
        "print({'numpy', 'soxr'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_everything_public_is_there() -> None:
    assert sorted(audio.__all__) == audio.__all__
    assert all(hasattr(audio, name) for name in audio.__all__)
