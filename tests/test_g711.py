"""G.711: every byte and every sample, against the standard's own words and against another implementation."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from novasonic import g711
from novasonic.errors import ConfigurationError
from novasonic.g711 import LAWS, Law

EVERY_BYTE = bytes(range(256))
EVERY_SAMPLE = np.arange(-32768, 32768).astype("<i2")


def decoded(data: bytes, law: Law) -> NDArray[Any]:
    return np.frombuffer(g711.decode(data, law), "<i2").astype(int)


# ITU-T G.711, tables 1a to 2b, column 8 (the value at the decoder), in units of its own: 14 bits for the
# µ-law and 13 for the A-law. Here the bytes are as on the line, and the samples have 16 bits.
KNOWN: dict[Law, dict[int, int]] = {
    "mulaw": {
        0x80: 4 * 8031,
        0x8F: 4 * 4191,
        0x9F: 4 * 2079,
        0xAF: 4 * 1023,
        0xBF: 4 * 495,
        0xCF: 4 * 231,
        0xDF: 4 * 99,
        0xEF: 4 * 33,
        0xFE: 4 * 2,
        0xFF: 0,
        0x00: -4 * 8031,
        0x7F: 0,
    },
    "alaw": {
        0xAA: 8 * 4032,
        0xA5: 8 * 2112,
        0xB5: 8 * 1056,
        0x85: 8 * 528,
        0x95: 8 * 264,
        0xE5: 8 * 132,
        0xF5: 8 * 66,
        0xD5: 8 * 1,
        0x2A: -8 * 4032,
        0x55: -8 * 1,
    },
}


@pytest.mark.parametrize("law", LAWS)
def test_bytes_have_the_values_of_the_standard(law: Law) -> None:
    for byte, value in KNOWN[law].items():
        assert decoded(bytes([byte]), law).tolist() == [value], hex(byte)


@pytest.mark.parametrize(("law", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
class TestAnotherImplementation:
    def test_every_byte_is_decoded_alike(self, law: Law, subtype: str) -> None:
        other, _ = soundfile.read(
            io.BytesIO(EVERY_BYTE),
            dtype="int16",
            format="RAW",
            subtype=subtype,
            samplerate=8_000,
            channels=1,
        )
        assert decoded(EVERY_BYTE, law).tolist() == other.tolist()

    def test_every_sample_is_encoded_alike(self, law: Law, subtype: str) -> None:
        """But for those that lie right on a limit, where the standard leaves open which side is meant."""
        file = io.BytesIO()
        soundfile.write(file, EVERY_SAMPLE, 8_000, format="RAW", subtype=subtype)
        other = np.frombuffer(file.getvalue(), np.uint8)
        mine = np.frombuffer(g711.encode(EVERY_SAMPLE, law), np.uint8)
        differing = np.flatnonzero(mine != other)
        assert len(differing) < 128
        limit = 4 if law == "mulaw" else 16
        assert not (EVERY_SAMPLE[differing] % limit).any()


@pytest.mark.parametrize("law", LAWS)
class TestEncoding:
    def test_a_level_is_encoded_to_the_byte_that_it_came_from(self, law: Law) -> None:
        """A telephone call may be converted any number of times, and gets no worse."""
        again = g711.encode(g711.decode(EVERY_BYTE, law), law)
        same = [a == b for a, b in zip(again, EVERY_BYTE, strict=True)]
        # µ-law has two zeros, and only one of them can come back.
        assert [at for at, alike in enumerate(same) if not alike] == ([0x7F] if law == "mulaw" else [])

    def test_a_louder_sample_is_never_encoded_to_a_softer_level(self, law: Law) -> None:
        levels = decoded(g711.encode(EVERY_SAMPLE, law), law)
        assert (np.diff(levels) >= 0).all()

    def test_no_sample_is_further_from_its_level_than_half_a_step(self, law: Law) -> None:
        """Steps are an eighth of what they code, at most, so that soft speech is as clear as loud."""
        levels = decoded(g711.encode(EVERY_SAMPLE, law), law)
        inside = np.abs(EVERY_SAMPLE.astype(int)) < 32_124  # beyond, there is only the loudest level
        error = np.abs(levels - EVERY_SAMPLE)[inside]
        allowed = np.maximum(np.abs(EVERY_SAMPLE.astype(int)) / 32 + 8, 8)[inside]
        assert (error <= allowed).all()

    @given(st.binary(max_size=2000))
    def test_there_are_as_many_samples_as_bytes(self, law: Law, data: bytes) -> None:
        pcm = g711.decode(data, law)
        assert len(pcm) == 2 * len(data)
        assert g711.decode(g711.encode(bytearray(pcm), law), law) == pcm


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pcm has 3 bytes, which is not a multiple of 2"):
        g711.encode(b"\0\0\0", "mulaw")


@pytest.mark.parametrize("function", [g711.decode, g711.encode])
def test_an_unknown_law_is_refused(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="law is 'ulaw', but must be 'mulaw' or 'alaw'"):
        function(b"\0\0", "ulaw")
