"""Captures of other programs: whatever shape they have, if somebody can tell it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from novasonic.errors import ConfigurationError
from novasonic.importing import MAPPINGS, Mapping, import_capture, load_mapping
from novasonic.recording import read

SHARED = Path(__file__).resolve().parents[2] / "shared" / "recordings"
HELLO = {"textOutput": {"role": "USER", "content": "hello"}}


def captured(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "capture.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def mapping(tmp_path: Path, **members: Any) -> Mapping:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"from": "kind", "client": ["out"], "service": ["in"], **members}))
    return load_mapping(str(path))


def found(path: Path, how: Mapping) -> list[tuple[float, str, int, str, Any]]:
    tape = import_capture(path, how)
    return [(line.time, line.sender, line.stream, line.name, line.body()) for line in tape.lines]


@pytest.mark.parametrize(
    "event",
    [
        HELLO,
        {"event": HELLO},
        json.dumps(HELLO),
        json.dumps({"event": HELLO}),
    ],
)
def test_a_message_is_found_with_its_envelope_or_without_and_as_text(tmp_path: Path, event: Any) -> None:
    path = captured(tmp_path, {"ms": 1500, "kind": "in", "data": {"payload": event}}, {"kind": "comment"})
    how = mapping(tmp_path, at="ms", unit=0.001, event="data.payload")
    assert found(path, how) == [(1.5, "service", 1, "textOutput", HELLO["textOutput"])]


def test_a_name_and_a_body_may_stand_apart(tmp_path: Path) -> None:
    path = captured(tmp_path, {"kind": "in", "type": "textOutput", "body": json.dumps(HELLO["textOutput"])})
    how = mapping(tmp_path, name="type", body="body")
    assert found(path, how) == [(0.0, "service", 1, "textOutput", HELLO["textOutput"])]


def test_times_may_be_dates_and_count_from_the_first_line(tmp_path: Path) -> None:
    path = captured(
        tmp_path,
        {"kind": "out", "when": "2026-03-01T10:00:00.250Z", "event": {"sessionStart": {}}},
        {"kind": "in", "when": "2026-03-01T11:00:01.750+01:00", "event": HELLO},
    )
    assert [line[0] for line in found(path, mapping(tmp_path, at="when", event="event"))] == [0.0, 1.5]


def test_numbers_count_from_the_first_line_if_they_are_told_to(tmp_path: Path) -> None:
    rows = [{"kind": "in", "t": 1_700_000_000 + n, "event": HELLO} for n in range(2)]
    path = captured(tmp_path, *rows)
    assert [line[0] for line in found(path, mapping(tmp_path, at="t", event="event", from_first=True))] == [
        0,
        1,
    ]
    with pytest.raises(ConfigurationError, match=r'begins at 1.7e\+09 s; put `"from_first": true`'):
        import_capture(path, mapping(tmp_path, at="t", event="event"))


def test_without_times_the_order_is_kept(tmp_path: Path) -> None:
    """All at once would be one go, in which no program gets to read anything."""
    path = captured(tmp_path, *({"kind": "in", "t": None, "event": {"new": n}} for n in range(3)))
    times, bodies = zip(
        *((line[0], line[4]) for line in found(path, mapping(tmp_path, at="t", event="event"))), strict=True
    )
    assert bodies == (0, 1, 2)
    assert times == (0.0, 0.001, 0.002)


def test_streams_are_numbered_as_they_come(tmp_path: Path) -> None:
    path = captured(tmp_path, *({"kind": "in", "id": name, "event": HELLO} for name in ("x", "y", "x")))
    assert [line[2] for line in found(path, mapping(tmp_path, event="event", stream="id"))] == [1, 2, 1]


def test_a_line_may_stand_for_many_and_an_audio_for_its_size(tmp_path: Path) -> None:
    """What stood between them comes between them again, and the audio is silence."""
    audio = {"audioInput": {"promptName": "p", "contentName": "c", "length": 640}}
    path = captured(
        tmp_path,
        {"kind": "out", "t": 1.0, "count": 3, "last": 2.0, "event": audio},
        {"kind": "in", "t": 1.2, "event": HELLO},
    )
    how = mapping(tmp_path, at="t", event="event", size="length", repeat="count", until="last")
    tape = import_capture(path, how)
    assert [(line.time, line.name) for line in tape.lines] == [
        (1.0, "audioInput"),
        (1.2, "textOutput"),
        (1.5, "audioInput"),
        (2.0, "audioInput"),
    ]
    assert tape.with_audio("client", tape.lines[0].body())["content"] == bytes(640)


def test_a_line_that_breaks_off_at_the_end_is_left_out(tmp_path: Path) -> None:
    path = captured(tmp_path, {"kind": "in", "event": HELLO}, '{"kind": "in", "ev')
    with pytest.warns(UserWarning, match="breaks off in line 2"):
        assert len(found(path, mapping(tmp_path, event="event"))) == 1


@pytest.mark.parametrize(
    ("rows", "members", "sentence"),
    [
        ([{"kind": "in", "event": 5}], {}, "line 1: Expected `object`, got `int`"),
        ([{"kind": "in"}], {}, "line 1: Expected `object`, got `null`"),
        ([{"kind": "in", "event": {"a": 1, "b": 2}}], {}, "line 1: event holds 2 messages instead of one"),
        ([{"kind": "in", "event": HELLO, "t": [1]}], {"at": "t"}, r"line 1: t is \[1\], which is no time"),
        ([{"kind": "in", "event": HELLO, "t": "noon"}], {"at": "t"}, "line 1: Invalid isoformat"),
        ([{"kind": "in", "event": HELLO, "n": 0}], {"repeat": "n"}, "line 1: n is 0, but must be 1 to"),
        ([{"kind": "in", "event": HELLO, "n": 10**9}], {"repeat": "n"}, "line 1: n is 1000000000, but"),
        (["[1, 2"], {}, "line 1: "),
        ([{"kind": "else"}] * 2, {}, "has no messages where the mapping looks for them"),
    ],
)
def test_what_is_not_where_it_should_be_is_named(
    tmp_path: Path, rows: Sequence[Any], members: dict[str, Any], sentence: str
) -> None:
    path = captured(tmp_path, *rows, {"kind": "else"})
    with pytest.raises(ConfigurationError, match=sentence):
        import_capture(path, mapping(tmp_path, event="event", **members))


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "it has to say where the event is"),
        ({"event": "e", "name": "n", "body": "b"}, "it has to say where the event is"),
        ({"event": "e", "colour": "red"}, "unknown field `colour`"),
        ({"event": 5}, r"Expected `str \| null`, got `int`"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path: Path, members: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        mapping(tmp_path, **members)


def test_a_mapping_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing is neither a mapping \(condensed\) nor a file"):
        load_mapping("nothing")


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings are no part of the package")
def test_a_recorded_session_of_the_real_service_is_imported_whole(tmp_path: Path) -> None:
    """1,818 messages in 243 lines."""
    tape = import_capture(SHARED / "session-1.jsonl", MAPPINGS["condensed"])
    assert tape.header.provenance == "imported from session-1.jsonl"
    assert (len(tape.lines), tape.lines[0].time, tape.header.audio) == (1818, 0.122313, "counts")
    counts = {
        name: sum(line.name == name for line in tape.lines)
        for name in ("audioInput", "audioOutput", "usageEvent")
    }
    assert counts == {"audioInput": 1272, "audioOutput": 353, "usageEvent": 84}
    tape.save(tmp_path / "call.jsonl")
    assert [line.time for line in read(tmp_path / "call.jsonl").lines] == [line.time for line in tape.lines]


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings are no part of the package")
def test_a_capture_without_times_is_imported_in_its_order() -> None:
    tape = import_capture(SHARED / "tool-turn.jsonl", MAPPINGS["condensed"])
    assert [line.name for line in tape.lines][:3] == ["userSpeechStart", "completionStart", "userSpeechEnd"]
    assert len(tape.lines) == 20
