"""Recordings of sessions while they go on: whole, private, and no burden."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clocks import pass_time
from fakes import FakeService
from novasonic import Recording, capture, events, messages, recording
from novasonic.emulator import Fault, MemoryConnector, Scenario
from novasonic.emulator.identity import MADE_UP
from novasonic.errors import ConfigurationError, ThrottledError
from novasonic.messages import InputMessage, OutputMessage
from novasonic.session import SonicSession
from running import over_the_wire
from taped import demo, demo_scenario, read, text_of

pytestmark = pytest.mark.clock("virtual")

HELLO = "Hello, this is Grace."


def said(text: str) -> list[OutputMessage]:
    return [
        messages.OutputContentStart(content_id="t", type="TEXT", role="ASSISTANT", stage="SPECULATIVE"),
        messages.TextOutput(content_id="t", role="ASSISTANT", content=text),
        messages.OutputContentEnd(content_id="t", type="TEXT", stop_reason="PARTIAL_TURN"),
        messages.OutputContentStart(content_id="a", type="AUDIO", role="ASSISTANT", sample_rate=24_000),
        messages.AudioOutput(content_id="a", content=bytes(range(1, 101))),
        messages.AudioOutput(content_id="a", content=bytes(range(101, 152))),
        messages.OutputContentEnd(content_id="a", type="AUDIO", stop_reason="END_TURN"),
    ]


async def until(session: SonicSession, kind: type[events.EventBase]) -> None:
    async for event in session:
        if isinstance(event, kind):
            return


async def test_both_sides_of_a_session_are_written_as_they_went_over_its_stream(tmp_path: Path) -> None:
    service, path, passed = FakeService(), tmp_path / "call.jsonl", list[tuple[float, Any]]()
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with SonicSession(transport=service, record=path) as session:
        session.on_message(lambda message, now: passed.append((round(now - start, 6), message)))
        await session.send_audio(bytes(1024))
        await pass_time(1.0)
        service.say(*said(HELLO))
        await until(session, events.TurnEnded)
    tape = await read(path)
    assert tape.header == recording.Header(
        novasonic=1, provenance="recorded", library="0.1.0", model="amazon.nova-2-sonic-v1:0"
    )
    opening, *lines = [line for line in tape.lines if line.event][4:]
    assert opening.name == "contentEnd"  # of the system prompt: the program could not listen yet
    read_back = [(line.time, message_of(tape, line)) for line in lines]
    # The session tells of what it has sent once that is on its way, the recording once it is given away.
    for sender in (0, 1):
        assert [each for each in read_back if is_output(each[1]) == sender] == [
            each for each in passed if is_output(each[1]) == sender
        ]
    accepted, ended = (line for line in tape.lines if not line.event)
    assert accepted.accepted == recording.Acceptance(request_id="request-1")
    assert ended.ended
    assert ended is tape.lines[-1]


def message_of(tape: recording.Tape, line: recording.Line) -> InputMessage | OutputMessage:
    decode = messages.decode_input if line.sender == "client" else messages.decode_output
    return decode(tape.document(line))


def is_output(message: object) -> bool:
    return isinstance(message, messages.OutputBase)


async def test_what_nobody_knows_and_what_is_no_message_is_kept(tmp_path: Path) -> None:
    """A recording is for finding out what happened, and that may be the very thing."""
    service, path = FakeService(), tmp_path / "call.jsonl"
    async with SonicSession(transport=service, record=path) as session:
        service.say_raw(b'{"event":\n {"whatever": {"is":\n\t"new"}}}')
        await until(session, events.UnknownEvent)
        service.say_raw(b'{"event": not JSON}')
        await until(session, events.UnknownEvent)
        service.say_raw(b'{"event": {}}')
        await until(session, events.UnknownEvent)
    tape = await read(path)
    found = [line for line in tape.lines if line.sender == "service"][1:4]
    assert (found[0].name, found[0].body()) == ("whatever", {"is": "new"})
    assert [line.raw for line in found[1:]] == ['{"event": not JSON}', '{"event": {}}']
    assert [tape.document(line) for line in found[1:]] == [b'{"event": not JSON}', b'{"event": {}}']


async def test_what_passes_before_the_program_has_a_turn_has_one_time(tmp_path: Path) -> None:
    """So a replay knows when to let the program have one."""
    service, path = FakeService(), tmp_path / "call.jsonl"
    async with SonicSession(transport=service, record=path) as session:
        service.say(*said(HELLO))
        await until(session, events.TurnEnded)
        await pass_time(0.5)
        service.say(messages.UserSpeechStart())
        await until(session, events.UserSpeechStarted)
    lines = [line for line in (await read(path)).lines if line.sender == "service" and line.event]
    assert len({line.time for line in lines[:-2]}) == 1
    assert lines[-2].time - lines[0].time == pytest.approx(0.5)


async def test_the_file_is_whole_while_the_conversation_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    async with SonicSession(transport=FakeService(), record=str(path)):
        for number in range(1, 6):
            await pass_time(1.03)  # it is written four times a second, and not whole at that very moment
            tape = await read(path)
            assert number * 1.03 - 0.5 <= tape.duration <= number * 1.03


def test_a_program_that_is_killed_leaves_what_it_had(tmp_path: Path) -> None:
    program = (
        "import asyncio, os\n"
        "from novasonic import SonicSession\n"
        "from novasonic.emulator import MemoryConnector\n"
        "async def main():\n"
        "    async with SonicSession(transport=MemoryConnector(), record='call.jsonl') as session:\n"
        "        await session.ask('Hello?')\n"
        "        os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False, timeout=50)
    assert done.returncode == 9
    tape = recording.read(tmp_path / "call.jsonl")
    assert {"textInput", "audioOutput"} <= {line.name for line in tape.lines}


@pytest.mark.parametrize("kept", ["beside", "counts"])
async def test_audio_can_be_elsewhere_or_left_out(tmp_path: Path, kept: Any) -> None:
    async def record(name: str, audio: Any) -> tuple[recording.Tape, str]:
        service, path = FakeService(), tmp_path / f"{name}.jsonl"
        async with SonicSession(transport=service, record=Recording(path, audio=audio)) as session:
            await session.send_audio(bytes(range(256)) * 8)
            service.say(*said(HELLO), *said(HELLO))
            await until(session, events.TurnEnded)
            await until(session, events.TurnEnded)
        return await read(path), await text_of(path)

    inline, _ = await record("inline", "inline")
    other, text = await record("other", kept)
    expected, found = (
        [
            each.content
            for line in tape.lines
            if line.name in recording.AUDIO and isinstance(each := message_of(tape, line), audio_messages)
        ]
        for tape in (inline, other)
    )
    assert len(text) < 12_000
    assert other.header.audio == kept
    wavs = sorted(name for name in await asyncio.to_thread(os.listdir, tmp_path) if name.endswith(".wav"))
    if kept == "beside":
        assert found == expected  # one has an odd number of bytes
        assert wavs == ["other.client.wav", "other.service.wav"]
    else:
        assert [len(each) for each in found] == [len(each) for each in expected]
        assert not any(b"".join(found))
        assert wavs == []


audio_messages = (messages.AudioInput, messages.AudioOutput)


async def test_a_redacted_recording_has_nothing_of_what_was_said(tmp_path: Path) -> None:
    """Equal texts stay equal: what was planned is found again in what was heard, and so is an echo."""
    path = tmp_path / "call.jsonl"
    before = await demo(
        MemoryConnector(await demo_scenario()), record=Recording(path, redact=True), system="For Grace only."
    )
    text = await text_of(path)
    for secret in ("weather is like", "sunny", "Paris", "paris", "celsius", "Grace", "AAAAAAAA"):
        assert secret not in text, secret
    tape = await read(path)
    assert tape.header.redacted
    assert tape.header.audio == "counts"
    spoken = {event.text for event in before if isinstance(event, events.Transcript)}
    texts = [line.body()["content"].strip() for line in tape.lines if line.name == "textOutput"]
    assert len({each for each in texts if each.startswith("text ")}) == len(spoken)
    assert texts.count('{"interrupted":true}') == 1
    calls = [json.loads(line.body()["content"]) for line in tape.lines if line.name == "toolUse"]
    assert [list(call) for call in calls] == [["city"], ["city", "day"]]
    assert calls[0]["city"] == calls[1]["city"]
    results = [json.loads(line.body()["content"]) for line in tape.lines if line.name == "toolResult"]
    assert [sorted(map(str, result.values())) for result in results] == [["1", "text 3"], ["2", "text 3"]]


async def test_texts_can_be_redacted_by_a_function(tmp_path: Path) -> None:
    def hide(text: str) -> str:
        if "brief" in text:
            raise RuntimeError("it does not like that")
        return text.replace("Grace", "[name]")

    service, path = FakeService(), tmp_path / "call.jsonl"
    record = Recording(path, redact=hide, audio="inline")
    async with SonicSession(transport=service, record=record, system="Be brief.") as session:
        service.say(*said(HELLO))
        await until(session, events.TurnEnded)
    tape = await read(path)
    assert [line.body()["content"] for line in tape.lines if line.name in {"textInput", "textOutput"}] == [
        "text 1",
        "Hello, this is [name].",
    ]
    assert "AQIDBAUG" in await text_of(path)


@pytest.mark.clock("fast")
async def test_no_credentials_are_written(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    async with (
        over_the_wire(None) as service,
        SonicSession(transport=service.connect, record=path) as session,
    ):
        await session.ask("Hello?")
    text = await text_of(path)
    assert "You typed" in text
    for secret in (MADE_UP.access_key, MADE_UP.secret_key):
        assert secret
        assert secret not in text


async def test_all_streams_of_a_conversation_are_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    faults = [Fault("cut", after_audio=20, stream=1), Fault("refuse", code="ThrottlingException", stream=2)]
    async with SonicSession(transport=MemoryConnector(Scenario(faults=faults)), record=path) as session:
        await until(session, events.SessionRenewed)
        await session.ask("Hello?")
    tape = await read(path)
    assert tape.streams == 3
    failures = {line.stream: line.failed for line in tape.lines if line.failed}
    assert {stream: failed.error for stream, failed in failures.items()} == {
        1: "StreamLostError",
        2: "ThrottledError",
    }
    assert failures[2].code == "ThrottlingException"
    assert isinstance(failures[2].exception(), ThrottledError)
    assert [line.stream for line in tape.lines if line.accepted] == [1, 3]
    assert [line.stream for line in tape.lines if line.ended] == [3]


async def test_a_file_that_cannot_be_created_opens_no_session(tmp_path: Path) -> None:
    service = FakeService()
    with pytest.raises(ConfigurationError, match=r"call\.jsonl cannot be written: No such file or directory"):
        async with SonicSession(transport=service, record=tmp_path / "nowhere" / "call.jsonl"):
            pass
    assert service.opened == 0


async def test_a_session_that_does_not_open_leaves_a_recording_that_says_why(tmp_path: Path) -> None:
    """But not what another library has said: that may hold anything."""
    service, path = FakeService(), tmp_path / "call.jsonl"
    service.refusal = OSError("no way to https://me:secret@proxy")
    with pytest.raises(OSError, match="no way"):
        async with SonicSession(transport=service, record=path):
            pass
    assert (await read(path)).lines[-1].failed == recording.Failure(error="OSError")


async def test_a_full_disk_ends_the_recording_and_not_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    service, path = FakeService(), tmp_path / "call.jsonl"
    async with SonicSession(transport=service, record=path) as session:
        monkeypatch.setattr(recording.Writer, "write", full)
        await pass_time(3.0)
        service.say(*said(HELLO))
        await until(session, events.TurnEnded)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"{path} cannot be written any more: No space left on device"
    ]


async def test_a_slow_disk_holds_up_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is watched for whatever blocks it; a thread may wait as long as it takes."""
    write = recording.Writer.write

    def slow(self: recording.Writer, notes: Any) -> None:
        time.sleep(0.02)
        write(self, notes)

    monkeypatch.setattr(recording.Writer, "write", slow)
    path = tmp_path / "call.jsonl"
    async with SonicSession(transport=FakeService(), record=path):
        await pass_time(5.0)
    tape = await read(path)
    assert len([line for line in tape.lines if line.name == "audioInput"]) == pytest.approx(156, abs=3)


async def test_what_a_disk_is_too_slow_for_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded; and whoever reads the recording must not take it for whole."""
    monkeypatch.setattr(capture, "_MAX_BYTES", 20_000)
    service, path = FakeService(), tmp_path / "call.jsonl"
    async with SonicSession(transport=service, record=path) as session:
        await pass_time(1.0)
        for _ in range(100):
            await session.send_audio(bytes(1024))
        await pass_time(1.0)
    with pytest.warns(UserWarning, match=r"call\.jsonl lacks \d+ messages: the disk was too slow"):
        tape = await read(path)
    missing = [line.missing for line in tape.lines if line.missing]
    assert sum(missing) > 50
    everything = len(service.heard) + 3  # the service has accepted, said one thing, and ended the stream
    assert len(tape.lines) - len(missing) + sum(missing) == everything


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: SonicSession(record=5), "record is of type int, but must be a path or a Recording"),  # type: ignore[arg-type]
        (lambda: Recording("a", audio="loud"), "audio is 'loud', but must be one of inline, beside, counts"),  # type: ignore[arg-type]
        (lambda: Recording("a", redact="yes"), "redact is 'yes', but must be True, False or a function"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_recorded_is_refused(wrong: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        wrong()


async def test_cancelling_the_opening_leaves_nothing_behind(tmp_path: Path) -> None:
    service = FakeService()
    service.accepting.clear()
    session = SonicSession(transport=service, record=tmp_path / "call.jsonl")
    opening = asyncio.create_task(session.__aenter__())
    await pass_time(1.0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    assert (await read(tmp_path / "call.jsonl")).lines[-1].name == "contentEnd"
