"""The emulated service against a recorded session of the real one: 41 s, five responses, four interruptions.

The recording is no part of the package; without it, these tests are skipped. Its client's side (the offsets
at which the user spoke, the pace of the audio, the goodbye) is played to the emulator, and a scenario has its
responses: as many segments, as long. What must come out is the same order of the same blocks, with the same
stop reasons and sizes, and the same delays. Delays that vary in the recording vary within the tolerance here.

Texts and ids are not compared: those of the recording are placeholders.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from emulated import GOODBYE, Block, Client, audio, audio_start, fold, setup, tone
from novasonic import messages
from novasonic.emulator import Behaviour, Heard, Say, Scenario, Turn
from novasonic.messages import OutputMessage

RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "session-1.jsonl"

pytestmark = pytest.mark.skipif(not RECORDING.exists(), reason="the recording is no part of the package")

Told = list[tuple[float, OutputMessage]]


@pytest.fixture(scope="module")
def recorded() -> Told:
    """The service's side of the recording."""
    told: Told = []
    for line in RECORDING.read_text().splitlines():
        row = json.loads(line)
        if row["dir"] == "out":
            told += _messages_of(row)
    return told


def _messages_of(row: dict[str, Any]) -> Told:
    """Return the messages of a line: a run of equal ones is one line, with its first and last time."""
    ((name, body),) = row["event"].items()
    if name == "audioOutput":
        body = {**body, "content": ""}
    message = messages.decode_output(json.dumps({"event": {name: body}}).encode())
    if isinstance(message, messages.AudioOutput):
        size = row["event"]["audioOutput"]["content"]["bytes"]
        message = messages.AudioOutput(content_id=message.content_id, content=bytes(size))
    count, last = row.get("repeat", 1), row.get("t_last", row["t"])
    step = (last - row["t"]) / max(count - 1, 1)
    return [(row["t"] + number * step, message) for number in range(count)]


@pytest.fixture(scope="module")
def emulated(recorded: Told) -> Client:
    """The same session with the emulator."""
    windows = _windows(recorded)
    responses = _responses(recorded)
    starts = [at for at, each in recorded if isinstance(each, messages.UserSpeechStart)]
    ends = [at for at, each in recorded if isinstance(each, messages.UserSpeechEnd)]
    answers = [
        _first_text(response).at - max(at for at in ends if at < response[0].at) for response in responses
    ]
    early = (
        next(b.at for b in _blocks(recorded) if b.role == "USER" and starts[4] < b.at < ends[4]) - starts[4]
    )
    # The second stretch of the user's speech had no response, as the third came too soon: one turn has both.
    heard: list[Sequence[Heard]] = [
        [Heard("one", place="before")],
        [Heard("two", place="after"), Heard("three", place="after", window=2)],
        [Heard("four", place="before")],
        [Heard("five", place="early", at=early + 0.1), Heard("six", place="before")],
        [Heard("seven", place="before")],
    ]
    silences = [windows[0], windows[1], *windows[3:]]
    turns = [
        Turn(
            heard=pieces,
            says=[
                Say(f"segment {block.id}", seconds=block.seconds)
                for block in response
                if block.type == "AUDIO"
            ],
            answer=answer,
            silence=(window[2] - window[1]) / 1000,
        )
        for pieces, response, answer, window in zip(heard, responses, answers, silences, strict=True)
    ]
    client = Client(Scenario(turns=turns, behaviour=Behaviour(marker="compact")), now=0.1223)
    client.send(*setup())
    client.send(audio_start())
    track = bytearray(round(40.704 * 16_000) * 2)
    for start, end, _ in windows:
        speech = tone((end - start) / 1000)
        track[start * 32 : start * 32 + len(speech)] = speech
    for number in range(1272):
        client.wait(0.28393 + number * 0.032 - client.now)
        client.send(audio(bytes(track[number * 1024 : (number + 1) * 1024])))
    for at, message in zip((41.0726, 41.0734, 41.0739), GOODBYE, strict=True):
        client.wait(at - client.now)
        client.send(message)
    client.wait(1)
    return client


def _windows(told: Told) -> list[tuple[int, int, int]]:
    """Return start, end and detection of each stretch of speech, in ms of audio."""
    starts = [each.offset_ms for _, each in told if isinstance(each, messages.UserSpeechStart)]
    ends = [each for _, each in told if isinstance(each, messages.UserSpeechEnd)]
    return [(start, end.offset_ms, end.detected_at_ms) for start, end in zip(starts, ends, strict=True)]


def _blocks(told: Told) -> list[Block]:
    return [each for each in fold(told) if isinstance(each, Block)]


def _shape(told: Told) -> list[str]:
    return [each.short if isinstance(each, Block) else each for each in fold(told)]


def _responses(told: Told) -> list[list[Block]]:
    """Return the generated blocks of each response: its texts as planned, and its audio."""
    responses: list[list[Block]] = [[]]
    for block in _blocks(told):
        if block.type == "AUDIO" or block.stage == "SPECULATIVE":
            responses[-1].append(block)
            if block.stop_reason == "END_TURN":
                responses.append([])
    return responses[:-1]


def _first_text(response: Sequence[Block]) -> Block:
    return next(block for block in response if block.type == "TEXT")


def _audio(told: Told) -> list[Block]:
    return [block for block in _blocks(told) if block.type == "AUDIO"]


def test_the_same_things_happen_in_the_same_order(recorded: Told, emulated: Client) -> None:
    """Windows, transcripts before and after their ends, segments, FINAL texts, interruptions, the end."""
    assert _shape(emulated.told) == _shape(recorded)


def test_speech_is_found_where_it_is(recorded: Told, emulated: Client) -> None:
    """Within two steps of the service's grid of 40 ms."""
    for found, expected in zip(_windows(emulated.told), _windows(recorded), strict=True):
        assert found[0] == pytest.approx(expected[0], abs=80)
        assert found[1] == pytest.approx(expected[1], abs=80)


def test_speech_is_reported_about_as_soon(recorded: Told, emulated: Client) -> None:
    """0.05 to 0.37 s after its start, the longest for the first words out of silence."""
    for told in (recorded, emulated.told):
        delays = [
            at - 0.28393 - each.offset_ms / 1000
            for at, each in told
            if isinstance(each, messages.UserSpeechStart)
        ]
        assert all(0.03 <= delay <= 0.45 for delay in delays), delays
        assert delays[0] == max(delays)
        ends = [
            at - 0.28393 - each.detected_at_ms / 1000
            for at, each in told
            if isinstance(each, messages.UserSpeechEnd)
        ]
        assert all(0.1 <= delay <= 0.3 for delay in ends), ends


def test_audio_comes_in_the_same_pieces(recorded: Told, emulated: Client) -> None:
    """80 ms each, and what is left of a segment in the last: 200 or 240 ms, as its tokens are odd or even."""
    sizes = [[size for _, size in block.chunks] for block in _audio(emulated.told)]
    assert sizes == [[size for _, size in block.chunks] for block in _audio(recorded)]


def test_audio_comes_at_the_same_pace(recorded: Told, emulated: Client) -> None:
    """Five times as fast as it plays, or a bit more."""
    for told in (recorded, emulated.told):
        for block in _audio(told):
            took = block.chunks[-1][0] - block.chunks[0][0]
            assert 5.0 <= block.seconds / took <= 5.8
        gaps = [
            later[0] - earlier[0]
            for block in _audio(told)
            for earlier, later in zip(block.chunks, block.chunks[1:], strict=False)
        ]
        assert mean(gaps) == pytest.approx(0.0158, abs=0.0005)


def test_audio_follows_its_text_after_the_same_pause(recorded: Told, emulated: Client) -> None:
    """0.127 s for the first segment of a response, and a little less for those that follow."""
    for told in (recorded, emulated.told):
        for response in _responses(told):
            for text, sound in zip(response[::2], response[1::2], strict=True):
                assert 0.095 <= sound.chunks[0][0] - text.ended_at <= 0.135
                assert sound.chunks[0][0] - sound.at <= 0.002
            for sound, text in zip(response[1::2], response[2::2], strict=False):
                assert text.at - sound.ended_at <= 0.001


def test_a_text_is_final_when_it_was_heard(recorded: Told, emulated: Client) -> None:
    """0.11 to 0.18 s after its playback would have ended, on a clock that starts with the first audio."""
    for told in (recorded, emulated.told):
        finals = [block for block in _blocks(told) if block.short == "F END_TURN"]
        lags = []
        for final in finals:
            response = max((r for r in _responses(told) if r[0].at < final.at), key=lambda r: r[0].at)
            sound = response[1]
            lags.append(final.at - (sound.chunks[0][0] + sound.seconds))
        assert len(lags) == 2
        assert all(0.10 <= lag <= 0.19 for lag in lags), lags


def test_an_interruption_is_told_at_once(recorded: Told, emulated: Client) -> None:
    """The marker and the text that was being said leave within 10 ms of the start of the user's speech."""
    for told in (recorded, emulated.told):
        starts = [at for at, each in told if isinstance(each, messages.UserSpeechStart)]
        blocks = _blocks(told)
        marks = [number for number, block in enumerate(blocks) if block.is_marker]
        assert len(marks) == 4
        for number in marks:
            start = max(at for at in starts if at <= blocks[number].at)
            assert blocks[number + 1].short == "F PARTIAL_TURN"
            assert blocks[number + 1].ended_at - start < 0.01


def test_speech_is_counted_alike(recorded: Told, emulated: Client) -> None:
    """25 tokens a second, of what the model says exactly; of the user's, with a second before each onset.

    The user's side differs by as much as the ends of stretches are detected at other places.
    """
    theirs = [each for _, each in recorded if isinstance(each, messages.UsageEvent)][-1].total
    ours = emulated.all_of(messages.UsageEvent)[-1].total
    assert ours.speech_output == theirs.speech_output == 728
    late = sum(
        max(0, found[2] - expected[2]) // 40 + 2
        for found, expected in zip(_windows(emulated.told), _windows(recorded), strict=True)
    )
    assert ours.speech_input == pytest.approx(theirs.speech_input, abs=late)


def test_usage_comes_in_the_same_portions(recorded: Told, emulated: Client) -> None:
    """Before any speech, four; then twenty output tokens at a time; two text tokens for an interruption."""
    for told in (recorded, emulated.told):
        usage = [each.delta for _, each in told if isinstance(each, messages.UsageEvent)]
        assert [(each.speech_input, each.text_input) for each in usage[:4]] == [
            (0, 22),
            (157, 0),
            (0, 1),
            (0, 43),
        ]
        made = [each.speech_output + each.text_output for each in usage if each.speech_output]
        assert sum(each == 20 for each in made) / len(made) > 0.75
        assert sum(each.text_input == 2 for each in usage) == 4
        assert sum(each.text_input == 288 for each in usage) == 1


def test_the_session_ends_alike(recorded: Told, emulated: Client) -> None:
    """One last usage event, completionEnd, and nothing of the text that was not heard to its end."""
    for told in (recorded, emulated.told):
        (last_usage, usage), (end, _) = told[-2:]
        assert isinstance(usage, messages.UsageEvent)
        assert last_usage - 41.0739 == pytest.approx(0.035, abs=0.01)
        assert end - 41.0739 == pytest.approx(0.070, abs=0.01)
    assert emulated.ended
