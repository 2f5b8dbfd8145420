"""`novasonic replay`, run as users run it."""

import asyncio
import json
import sys
import wave
from pathlib import Path
from typing import Any

import pytest

from novasonic import review
from novasonic.account import Account, Call, Leg, Response, Sentence, Span, Speech, account
from novasonic.emulator import MemoryConnector
from novasonic.events import Latency, ToolCall, ToolResult
from novasonic.models import Usage
from novasonic.recording import Failure, Header, Tape, read
from taped import demo, demo_scenario
from test_cli import run

SHARED = Path(__file__).resolve().parents[2] / "shared" / "recordings"


def made_up() -> Account:
    """A conversation with a bit of everything."""
    header = Header(novasonic=1, provenance="made up", model="amazon.nova-2-sonic-v1:0")
    call = ToolCall(turn=1, id="t", name="weather", arguments={"city": "Oslo"})
    result = ToolResult(turn=1, id="t", name="weather", result={"celsius": 7}, elapsed=0.5)
    return Account(
        tape=Tape(header=header, lines=[]),
        voice="amy",
        duration=20.0,
        speech=[
            Speech(span=Span(1.0, 2.0), text="how is the weather?"),
            Speech(span=Span(9.0, 10.0), text="stop"),
            Speech(span=Span(15.0, 15.0), text="typed", typed=True),
        ],
        responses=[
            Response(
                turn=1,
                at=4.0,
                heard=[Span(4.0, 9.1)],
                unheard=Span(9.1, 12.0),
                interrupted_at=9.1,
                sentences=[Sentence(text="It is fine.", said=True), Sentence(text=" And warm.")],
                latency=Latency(audio=2.0),
            ),
            Response(turn=2, at=16.0, heard=[Span(16.0, 18.0)], sentences=[Sentence(text="Bye.")]),
        ],
        tools=[Call(at=2.5, call=call, result=result), Call(at=17.0, call=call)],
        legs=[
            Leg(
                number=1,
                opened_at=0.0,
                listens_at=0.1,
                failure=Failure(error="StreamLostError"),
                failed_at=12.5,
            ),
            Leg(number=2, opened_at=12.5, listens_at=12.75),
        ],
        usage=[(3.0, Usage(text_input=50)), (10.0, Usage(text_input=50, speech_output=50))],
    )


def texts(lines: object) -> list[str]:
    return ["".join(part.text for part in line).rstrip() for line in lines]  # type: ignore[attr-defined]


def test_the_story_is_told_in_the_order_in_which_it_was_heard() -> None:
    assert texts(review.story(made_up())) == [
        "   1.00  you   how is the weather?",
        "   2.50  tool  weather(city='Oslo') → {'celsius': 7} after 0.50 s",
        "   4.00  nova  It is fine.",
        "   9.00  you   stop",
        "   9.10        interrupted after 5.1 s of 8.0 s",
        "  12.50        the stream failed: StreamLostError",
        "  12.75        goes on over stream 2",
        "  15.00  you   typed",
        "  16.00  nova  Bye.",
        "  17.00  tool  weather(city='Oslo') was not answered",
    ]


def test_the_lanes_show_who_spoke_when() -> None:
    """Half a second a column: what was cut is shown with what was heard."""
    assert texts(review.lanes(made_up(), 54)) == [
        "       you      ███             ███         ◆",
        "       tool        ▒▒                           ▒",
        "       nova           ██████████✂░░░░░░       █████",
        "       tokens       ▄▄▄▄▄▄▄▄▄▄▄▄▄▄████████████████████",
        "       s      0         5         10        15",
    ]


def test_the_lanes_of_a_long_conversation_have_rows() -> None:
    account = made_up()
    account.duration = 250.0
    lines = texts(review.lanes(account, 94))
    assert max(map(len, lines)) <= 94
    assert sum("you" in line for line in lines) == 4
    scales = [line.split()[1:] for line in lines if line.startswith("       s")]
    assert [scale[0] for scale in scales] == ["0", "80", "160", "240"]


def test_what_is_counted_is_summed_up() -> None:
    assert texts(review.sums(made_up())) == [
        "  recording  made up · amazon.nova-2-sonic-v1:0 · amy",
        "  length     20.0 s over 2 streams",
        "  responses  2, of which 1 interrupted",
        "  waited     2.00 s from the end of speech to the first sound",
        "  tools      2 calls",
        "  tokens     100: 50 in, 50 out, which would cost $0.0006",
    ]


@pytest.fixture
async def call(tmp_path: Path) -> Path:
    """A recording of the demo."""
    await demo(MemoryConnector(await demo_scenario()), record=tmp_path / "call.jsonl")
    return tmp_path / "call.jsonl"


async def command(*arguments: object, cwd: Path, **env: str) -> Any:
    return await asyncio.to_thread(lambda: run("replay", *arguments, cwd=cwd, **env))


@pytest.mark.clock("virtual")
async def test_a_recording_is_shown_heard_and_drawn(tmp_path: Path, call: Path) -> None:
    done = await command(call, "--wav", "c.wav", "--svg", "c.svg", "--png", "c.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "you   hello, could you tell me what the weather is like in paris today?",
        "tool  weather(city='Paris') → {'city': 'Paris', 'celsius': 21} after 0.40 s",
        "interrupted after 5.6 s of 1",
        "✂",
        "responses  2, of which 1 interrupted",
        "tokens     1",
    ):
        assert part in done.stdout
    with await asyncio.to_thread(wave.open, str(tmp_path / "c.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (2, 24_000)
        assert sound.getnframes() / 24_000 == pytest.approx(21.3, abs=0.2)
    svg, png = await asyncio.to_thread(
        lambda: [(tmp_path / f"c.{kind}").read_bytes() for kind in ("svg", "png")]
    )
    assert svg.startswith(b"<svg")
    assert png.startswith(b"\x89PNG")


@pytest.mark.clock("virtual")
async def test_a_terminal_that_knows_no_such_characters_gets_others(tmp_path: Path, call: Path) -> None:
    done = await command(call, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "weather(city='Paris') > {" in done.stdout
    assert "####X....." in done.stdout


@pytest.mark.clock("virtual")
async def test_without_colours_it_is_all_there(
    call: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are an extra."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    told = await asyncio.to_thread(lambda: account(read(call)))
    review.show(told, 100)
    assert "sorry, and what about tomorrow?" in capsys.readouterr().out


CAPTURE = [
    {"ms": 0, "kind": "send", "event": {"sessionStart": {}}},
    {"ms": 500, "kind": "recv", "event": {"userSpeechStart": {"inputAudioOffsetMs": 0}}},
    {"ms": 900, "kind": "recv", "event": {"textOutput": {"role": "USER", "content": "hello there"}}},
]
MAPPING = {
    "at": "ms",
    "unit": 0.001,
    "from": "kind",
    "client": ["send"],
    "service": ["recv"],
    "event": "event",
}


def test_a_capture_of_another_shape_is_imported(tmp_path: Path) -> None:
    (tmp_path / "capture.jsonl").write_text("\n".join(map(json.dumps, CAPTURE)))
    (tmp_path / "mapping.json").write_text(json.dumps({**MAPPING, "event": "event"}))
    arguments = [
        "capture.jsonl",
        "--import",
        "--mapping",
        "mapping.json",
        "--model",
        "amazon.nova-2-sonic-v1:0",
    ]
    done = run("replay", *arguments, "--out", "call.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported from capture.jsonl · amazon.nova-2-sonic-v1:0" in done.stdout
    tape = read(tmp_path / "call.jsonl")
    assert tape.header.provenance == "imported from capture.jsonl"
    assert [line.time for line in tape.lines] == [0.0, 0.5, 0.9]
    assert run("replay", "call.jsonl", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings are no part of the package")
def test_a_recorded_session_of_the_real_service_is_shown(tmp_path: Path) -> None:
    done = run("replay", "--import", SHARED / "session-1.jsonl", "--svg", "s.svg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "responses  5, of which 4 interrupted" in done.stdout
    assert done.stdout.count(" nova  ") == 5 + 1  # and the lane
    assert (tmp_path / "s.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.jsonl"], "missing.jsonl cannot be read"),
        (["capture.jsonl"], "import it with `novasonic replay --import`"),
        (["capture.jsonl", "--out", "x"], "--mapping and --out are for captures; give --import, too"),
        (
            ["capture.jsonl", "--import", "--mapping", "some"],
            "some is neither a mapping (condensed) nor a file",
        ),
        (["capture.jsonl", "--import"], "capture.jsonl has no messages where the mapping looks for them"),
        (["call.jsonl", "--svg", "no/x.svg"], "no/x.svg cannot be written"),
        (["call.jsonl", "--wav", "no/x.wav"], "no does not exist"),
    ],
)
def test_what_goes_wrong_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "capture.jsonl").write_text("\n".join(map(json.dumps, CAPTURE)))
    (tmp_path / "call.jsonl").write_text(HAND_MADE)
    done = run("replay", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


HAND_MADE = """\
{"novasonic": 1, "provenance": "written by hand"}
{"from": "service", "event": {"textOutput": {"role": "USER", "content": "hello there"}}}
"""


def test_a_recording_that_breaks_off_is_shown_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "call.jsonl").write_text(HAND_MADE + '{"from": "ser')
    done = run("replay", "call.jsonl", cwd=tmp_path)
    assert done.returncode == 0
    assert "you   hello there" in done.stdout
    assert done.stderr == "novasonic: call.jsonl breaks off in line 3, and is read up to there\n"
