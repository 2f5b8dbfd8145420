"""What a recording tells of a conversation: the same as the session that held it, and at the same moments."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clocks import pass_time
from novasonic import audio, events, mixdown
from novasonic.account import Account, account
from novasonic.continuation import Renewal, Retry
from novasonic.emulator import Fault, MemoryConnector, Say, Scenario, ToolCall, Turn
from novasonic.importing import MAPPINGS, import_capture
from novasonic.messages import ToolSpec
from novasonic.recording import Recording
from novasonic.session import SonicSession
from running import speech
from taped import demo, demo_scenario, read

pytestmark = pytest.mark.clock("virtual")

SESSION_1 = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "session-1.jsonl"


async def account_of(path: Path) -> Account:
    return await asyncio.to_thread(account, await read(path))


async def test_a_demo_is_told_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    before = await demo(MemoryConnector(await demo_scenario()), record=path)
    told = await account_of(path)
    (cut,) = [event for event in before if isinstance(event, events.Interrupted)]
    ends = [event for event in before if isinstance(event, events.TurnEnded)]
    assert told.voice == "matthew"
    assert [speech.text for speech in told.speech] == [
        "hello, could you tell me what the weather is like in paris today?",
        "sorry, and what about tomorrow?",
    ]
    assert [response.turn for response in told.responses] == [1, 2]
    assert [response.turn for response in told.interrupted] == [cut.turn]
    assert [each.latency.audio for each in told.responses] == [
        pytest.approx(end.latency.audio, abs=0.001) for end in ends
    ]
    assert [(each.call.name, each.call.arguments, each.result is not None) for each in told.tools] == [
        ("weather", {"city": "Paris"}, True),
        ("weather", {"city": "Paris", "day": "tomorrow"}, True),
    ]
    usage = [event.total for event in before if isinstance(event, events.UsageUpdated)]
    assert told.tokens.total == usage[-1].total
    assert told.tokens.cost() == pytest.approx(usage[-1].cost())


async def test_what_was_heard_of_a_response_ends_where_the_user_broke_in(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    before = await demo(MemoryConnector(await demo_scenario()), record=path)
    told = await account_of(path)
    first, second = told.responses
    whole = [
        sum(event.duration for event in before if isinstance(event, events.AudioChunk) and event.turn == turn)
        for turn in (1, 2)
    ]
    assert first.seconds == pytest.approx(whole[0], abs=0.01)
    assert second.seconds_heard == second.seconds == pytest.approx(whole[1], abs=0.01)
    # The user breaks in 5.5 s after the first sound; 0.1 s later the service knows.
    assert first.seconds_heard == pytest.approx(5.6, abs=0.1)
    assert first.interrupted_at == pytest.approx(first.heard[0].start + first.seconds_heard)
    assert first.unheard is not None
    assert first.unheard.seconds == pytest.approx(first.seconds - first.seconds_heard)
    assert "umbrella" not in first.text
    assert "umbrella" in second.text


async def test_the_sound_of_a_recording_is_that_of_the_conversation(tmp_path: Path) -> None:
    """Sample by sample: a session can write that itself, too, from the moment when it is open."""
    path, wav = tmp_path / "call.jsonl", tmp_path / "call.wav"
    await demo(MemoryConnector(await demo_scenario()), record=path, record_audio=wav)
    told = await account_of(path)
    pcm, form = await asyncio.to_thread(audio.read_wav, wav)
    assert mixdown.sample_rate(told) == form.sample_rate
    sound = np.frombuffer(b"".join(mixdown.mix(told)), "<i2").reshape(-1, 2).astype(int)
    written = np.frombuffer(pcm, "<i2").reshape(-1, 2).astype(int)
    before = round((told.legs[0].listens_at or 0) * form.sample_rate)
    rest = len(sound) - before
    assert np.abs(sound[before:] - written[:rest]).max() <= 2  # where a resampler begins
    assert not written[rest:].any()
    assert not sound[:before].any()


async def test_the_picture_of_a_sound_is_as_loud_as_the_sound(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    await demo(MemoryConnector(await demo_scenario()), record=path)
    told = await account_of(path)
    levels = mixdown.levels(told)
    assert levels.shape == (pytest.approx(told.duration * 100, abs=2), 2)
    (question, _), (first, _) = told.speech, told.responses
    for side, loud, silent in (
        (0, question.span, first.heard[0]),
        (1, first.heard[0], question.span),
    ):
        assert levels[int(loud.start * 100) : int(loud.end * 100), side].max() > 0.1
        quiet = levels[int(silent.start * 100) + 30 : int(silent.start * 100) + 300, side]
        assert quiet.max() < 0.01


async def test_without_audio_the_times_are_the_same(tmp_path: Path) -> None:
    accounts = list[Account]()
    for redact in (False, True):
        path = tmp_path / f"{redact}.jsonl"
        await demo(MemoryConnector(await demo_scenario()), record=Recording(path, redact=redact))
        accounts.append(await account_of(path))
    whole, redacted = accounts
    assert [each.span for each in redacted.speech] == [each.span for each in whole.speech]
    assert [each.heard for each in redacted.responses] == [each.heard for each in whole.responses]
    assert not mixdown.levels(redacted).any()


async def chat(transport: Any, **options: Any) -> None:
    """Two spoken questions at 1 and at 12 s, and one that is typed."""
    async with SonicSession(transport=transport, **options) as session:

        async def read() -> None:
            async for _ in session:
                pass

        reading = asyncio.create_task(read())
        for _ in range(2):
            await pass_time(1.0)
            await session.play_file(options["record"].with_suffix(".wav"))
            await pass_time(9.0)
        await session.send_text("And typed?")
        await pass_time(8.0)
        await session.end()
        await reading


STORY = [Turn(heard=f"question {n}", says=[Say(f"Answer {n}.", seconds=2.0)]) for n in range(3)]
LOST = [Fault("cut", in_speech=1, delay=0.5, stream=1), Fault("refuse", code="ThrottlingException", stream=2)]


@pytest.mark.parametrize(
    ("faults", "options", "legs"),
    [
        ([], {}, [(1, True, "")]),
        ([], {"renewal": Renewal(after=17, at_latest=18)}, [(1, True, ""), (2, True, "")]),
        (
            LOST,
            {"retry": Retry(delay=1.5, jitter=0)},
            [(1, True, "StreamLostError"), (2, False, "ThrottledError"), (3, True, "")],
        ),
    ],
    ids=["one", "renewed", "lost"],
)
async def test_who_spoke_when_does_not_depend_on_the_streams(
    tmp_path: Path, faults: list[Fault], options: dict[str, Any], legs: list[tuple[int, bool, str]]
) -> None:
    """What is sent again is heard once, and what is sent late was spoken before."""
    path = tmp_path / "call.jsonl"
    await asyncio.to_thread(audio.write_wav, path.with_suffix(".wav"), speech(2.0), 16_000)
    scenario = Scenario(turns=STORY, faults=faults, shared=True)
    await chat(MemoryConnector(scenario), record=path, **options)
    told = await account_of(path)
    assert [
        (leg.number, leg.listens_at is not None, leg.failure.error if leg.failure else "")
        for leg in told.legs
    ] == legs
    spoken = [each for each in told.speech if not each.typed]
    assert [each.span.start for each in spoken] == pytest.approx([1.05, 13.05], abs=0.05)
    assert [each.span.end for each in spoken] == pytest.approx([3.05, 15.05], abs=0.2)
    assert [each.text for each in spoken] == ["question 0", "question 1"]
    typed = [(each.text, each.span.seconds) for each in told.speech if each.typed]
    assert ("And typed?", 0) in typed
    left = np.frombuffer(b"".join(mixdown.mix(told)), "<i2")[::2].astype(int)
    loud = np.flatnonzero(np.abs(left) > 4000) / mixdown.sample_rate(told)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1.0) + 1)
    assert [run[0] for run in runs] == pytest.approx([1.05, 13.05], abs=0.1)
    assert [run[-1] for run in runs] == pytest.approx([3.05, 15.05], abs=0.1)


FORECAST = ToolSpec(name="weather", description="The weather.", schema={"type": "object"})


async def test_a_tool_that_was_not_answered_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    scenario = Scenario(turns=[Turn(typed="*", calls=[ToolCall("weather", arguments={"city": "Oslo"})])])
    session = SonicSession(transport=MemoryConnector(scenario), record=path, tools=[FORECAST])
    async with session:
        assert (await session.ask("Hello?")).tool_calls
    (call,) = (await account_of(path)).tools
    assert (call.call.name, call.result) == ("weather", None)


@pytest.mark.skipif(not SESSION_1.exists(), reason="the recording is no part of the package")
def test_a_recorded_session_of_the_real_service_is_told_as_it_was_measured() -> None:
    """By hand, before: where each of the four interruptions cut, and how long each response was."""
    told = account(import_capture(SESSION_1, MAPPINGS["condensed"]))
    assert [(round(each.seconds_heard, 2), round(each.seconds, 2)) for each in told.responses] == [
        (pytest.approx(0.775, abs=0.01), 2.2),
        (pytest.approx(5.241, abs=0.01), 6.96),
        (pytest.approx(8.233, abs=0.01), 8.4),
        (pytest.approx(5.361, abs=0.01), 8.12),
        (3.44, 3.44),
    ]
    assert [response.turn for response in told.interrupted] == [1, 2, 3, 4]
    assert [round(speech.span.start - 0.284, 2) for speech in told.speech] == [
        1.72,
        5.4,
        6.64,
        15.52,
        25.76,
        35.16,
    ]
    assert told.tokens.total == 1940
    assert told.duration == pytest.approx(41.15, abs=0.01)
