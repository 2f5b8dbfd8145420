"""The file of a recording: what is read of it, what is refused, and that nothing is lost on the way."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novasonic import errors, messages, recording
from novasonic.audio import write_wav
from novasonic.errors import ConfigurationError, ServiceError, SonicError, TransportError
from novasonic.recording import Acceptance, Failure, Note, Recording, Tape, Writer, read
from strategies import input_messages, output_messages

HEADER = '{"novasonic": 1, "provenance": "written by hand"}'
HELLO = '{"at": 1.5, "from": "service", "event": {"textOutput": {"role": "USER", "content": "hello"}}}'


def written(tmp_path: Path, *lines: str, end: str = "\n") -> Path:
    path = tmp_path / "call.jsonl"
    path.write_text("\n".join(lines) + end)
    return path


def test_a_recording_can_be_written_by_hand(tmp_path: Path) -> None:
    """What is not said is the likeliest: the first stream, and the moment of the line before."""
    tape = read(
        written(
            tmp_path,
            HEADER,
            '{"from": "client", "event": {"sessionStart": {}}}',
            "",
            HELLO,
            '{"from": "service", "event": {"completionEnd": {}}, "comment": "members of others are fine"}',
            '{"at": 2, "stream": 2, "from": "client", "event": {"sessionStart": {}}}',
        )
    )
    assert tape.header.provenance == "written by hand"
    assert [(line.time, line.stream, line.sender, line.name) for line in tape.lines] == [
        (0.0, 1, "client", "sessionStart"),
        (1.5, 1, "service", "textOutput"),
        (1.5, 1, "service", "completionEnd"),
        (2.0, 2, "client", "sessionStart"),
    ]
    assert (tape.streams, tape.duration) == (2, 2.0)
    assert messages.decode_output(tape.document(tape.lines[1])) == messages.TextOutput(
        role="USER", content="hello"
    )


@pytest.mark.parametrize(
    "broken", ['{"at": 2, "fr', HELLO[:-1], '{"at": 2.0, "from": "service"}', "\x00\x00"]
)
def test_a_last_line_that_breaks_off_is_left_out_with_a_warning(tmp_path: Path, broken: str) -> None:
    """So ends the recording of a program that was killed, or of a disk that was full."""
    path = written(tmp_path, HEADER, HELLO, broken, end="")
    with pytest.warns(UserWarning, match=r"call\.jsonl breaks off in line 3, and is read up to there"):
        assert len(read(path).lines) == 1


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "is no recording: its first line is no header"),
        (['{"t": 0.1, "dir": "in", "event": {}}', HELLO], "import it with `novasonic replay --import`"),
        (["hello"], "is no recording"),
        (['{"novasonic": 2, "provenance": "recorded"}'], r"is of version 2 of the format.*update novasonic"),
        (['{"novasonic": 1}'], "is no recording.*`provenance`"),
        ([HEADER, "{", HELLO], "line 2: "),
        ([HEADER, '{"at": 1, "from": "me", "event": {"a": 1}}', HELLO], r"line 2: .*\$\.from"),
        ([HEADER, '{"at": "1", "from": "client", "event": {"a": 1}}', HELLO], r"line 2: .*\$\.at"),
        ([HEADER, '{"from": "client"}', HELLO], "line 2: a line holds one event, or one of raw"),
        ([HEADER, '{"from": "client", "event": {"a": 1, "b": 2}}', HELLO], "line 2: a line holds one event"),
        ([HEADER, '{"from": "client", "event": {"a": 1}, "raw": "x"}', HELLO], "a line holds one event"),
        ([HEADER, '{"from": "client", "raw": "x", "stream": 0}', HELLO], "stream is 0, but"),
        ([HEADER, '{"from": "client", "raw": "x", "at": -1}', HELLO], "at is -1, but"),
    ],
)
def test_what_is_no_recording_is_refused_and_the_line_named(
    tmp_path: Path, lines: Sequence[str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        read(written(tmp_path, *lines))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.jsonl cannot be read: No such file"):
        read(tmp_path / "missing.jsonl")


def test_audio_that_should_stand_beside_a_recording_is_missed(tmp_path: Path) -> None:
    line = '{"from": "client", "event": {"audioInput": {"content": {"sample": 0, "bytes": 4}}}}'
    with pytest.raises(ConfigurationError, match=r"call\.client\.wav does not exist"):
        read(written(tmp_path, HEADER, line))


def test_audio_that_is_not_all_there_ends_in_silence(tmp_path: Path) -> None:
    """The WAV file is written first; whoever has cut it gets what is left."""
    line = '{"from": "client", "event": {"audioInput": {"content": {"sample": 1, "bytes": 6}}}}'
    write_wav(tmp_path / "call.client.wav", b"\1\2\3\4\5\6", 16_000)
    tape = read(written(tmp_path, HEADER, line))
    body = {"promptName": "", "contentName": ""}
    assert tape.with_audio("client", {**body, **tape.lines[0].body()})["content"] == b"\3\4\5\6\0\0"


NOTES = st.lists(
    st.one_of(
        input_messages().map(lambda message: ("client", messages.encode(message))),
        output_messages().map(lambda message: ("service", messages.encode(message))),
        st.binary(max_size=30).map(lambda data: ("service", data)),
        st.just(("service", Acceptance(request_id="r"))),
        st.just(("service", Failure(error="ServiceError", message="It failed.", retryable=True))),
        st.just(("service", None)),
    ),
    max_size=12,
)


@given(notes=NOTES, kept=st.sampled_from(["inline", "beside"]), again=st.booleans())
def test_what_is_written_is_read(notes: list[Any], kept: Any, *, again: bool) -> None:
    """All messages of both sides, whatever they hold, and whatever was no message."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "call.jsonl"
        writer = Writer(Recording(path, audio=kept), model="some.model")
        writer.write([Note(n / 10, sender, 1 + n % 2, what) for n, (sender, what) in enumerate(notes)])
        writer.close()
        tape = read(path)
        if again:
            tape.save(Path(folder) / "again.jsonl")
            tape = read(Path(folder) / "again.jsonl")
    assert tape.header.model == "some.model"
    assert [(line.time, line.sender, line.stream) for line in tape.lines] == [
        (n / 10, sender, 1 + n % 2) for n, (sender, _) in enumerate(notes)
    ]
    for line, (_, what) in zip(tape.lines, notes, strict=True):
        if isinstance(what, bytes):
            document = tape.document(line)
            assert document == what.decode(errors="replace").encode() or json.loads(document) == json.loads(
                what
            )
        else:
            assert (line.accepted or line.failed) == what
            assert line.ended is (what is None)


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_a_failure_comes_back_as_it_was(name: str) -> None:
    kind = getattr(errors, name)
    exc = kind("it went wrong")
    if isinstance(exc, TransportError):
        exc.code, exc.request_id, exc.retryable = "SomeException", "r-1", not exc.retryable
    again = Failure.of(exc).exception()
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(exc), vars(exc))


def test_a_failure_of_another_library_comes_back_without_its_words() -> None:
    """They may hold anything, such as the password of a proxy."""
    again = Failure.of(OSError("no way to https://me:secret@proxy")).exception()
    assert isinstance(again, ServiceError)
    assert isinstance(again, SonicError)
    assert str(again) == "OSError"
    assert not again.retryable


def test_a_tape_can_be_made_in_memory() -> None:
    line = recording.Line(sender="service", event=recording.event_of(b'{"event": {"completionEnd": {}}}'))
    tape = Tape(header=recording.Header(novasonic=1, provenance="made up"), lines=[line])
    assert json.loads(tape.document(line)) == {"event": {"completionEnd": {}}}
    assert tape.with_model("x").header.model == "x"
    assert (tape.streams, tape.duration) == (1, 0.0)


def test_a_recording_that_cannot_be_saved_says_so(tmp_path: Path) -> None:
    tape = Tape(header=recording.Header(novasonic=1, provenance="made up"), lines=[])
    with pytest.raises(ConfigurationError, match="cannot be written: Is a directory"):
        tape.save(tmp_path)
