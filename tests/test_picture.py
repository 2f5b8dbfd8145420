"""The picture of a recording: everything that happened is in it, where it happened."""

import asyncio
import builtins
import re
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from novasonic import picture
from novasonic.account import Account, Leg, Response, Sentence, Span, Speech, account
from novasonic.emulator import MemoryConnector
from novasonic.errors import ConfigurationError
from novasonic.importing import MAPPINGS, import_capture
from novasonic.models import Usage
from novasonic.recording import Failure, Header, Tape
from taped import demo, demo_scenario, read

SESSION_1 = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "session-1.jsonl"
SVG = "{http://www.w3.org/2000/svg}"


class Drawn:
    """A picture, to be asked what is in it."""

    def __init__(self, told: Account) -> None:
        self.svg = picture.draw(told)
        self.root = ET.fromstring(self.svg)
        self.texts = [(words_of(each), float(each.attrib["x"])) for each in self.root.iter(f"{SVG}text")]
        self.words = [words for words, _ in self.texts]
        self.width = float(self.root.attrib["width"])
        self.height = float(self.root.attrib["height"])

    def bars(self, colour: str) -> list[tuple[float, float, float]]:
        """Where bars of a colour are: left, right and top; but for those of the legend."""
        found = [each.attrib for each in self.root.findall(f"{SVG}rect") if each.attrib["fill"] == colour]
        return [
            (float(each["x"]), float(each["x"]) + float(each["width"]), float(each["y"]))
            for each in found
            if float(each["y"]) < self.height - 40
        ]

    @property
    def crosses(self) -> list[float]:
        found = [each.attrib for each in self.root.iter(f"{SVG}circle")]
        return [float(each["cx"]) for each in found if float(each["cy"]) < self.height - 40]

    def second(self, text: str) -> float:
        """Where a second of the scale is."""
        return dict(self.texts)[text]


def words_of(text: ET.Element) -> str:
    """What is written: the tip of a text stands inside it, and is not."""
    return (text.text or "") + "".join(tip.tail or "" for tip in text)


@pytest.mark.skipif(not SESSION_1.exists(), reason="the recording is no part of the package")
def test_a_recorded_session_shows_its_five_responses_and_four_interruptions() -> None:
    drawn = Drawn(account(import_capture(SESSION_1, MAPPINGS["condensed"])))
    assert len(drawn.bars(picture._NOVA)) == 5
    assert len(drawn.bars(picture._USER)) == 6
    assert len(drawn.bars("url(#unheard)")) == 4
    scale = (drawn.second("40 s") - drawn.second("0 s")) / 40
    cuts = [(x - drawn.second("0 s")) / scale for x in drawn.crosses]
    assert cuts == pytest.approx([5.7358, 15.905, 26.15, 35.498], abs=0.05)
    for number, what in (("5", "responses"), ("4", "interruptions"), ("1,940", "tokens")):
        assert drawn.words[drawn.words.index(what) - 1] == number
    assert "imported from session-1.jsonl  ·  voice tiffany" in drawn.words
    assert "#2: 5.2 of 7.0 s, after 1.16 s" in drawn.words


@pytest.mark.clock("virtual")
async def test_a_demo_shows_words_tools_sounds_and_what_it_cost(tmp_path: Path) -> None:
    await demo(MemoryConnector(await demo_scenario()), record=tmp_path / "call.jsonl")
    drawn = Drawn(await asyncio.to_thread(account, await read(tmp_path / "call.jsonl")))
    for words in (
        "call.jsonl",
        "weather",
        "sorry, and what about tomorrow?",
        "User",
        "Nova",
        "Tools",
        "Tokens",
    ):
        assert words in drawn.words
    assert any(re.match(r"tokens: \$0\.\d{4}", each) for each in drawn.words)
    assert "weather(city='Paris'): {'city': 'Paris', 'celsius': 21}" in drawn.svg
    waves = [
        each.attrib["d"].count("M") for each in drawn.root.iter(f"{SVG}path") if "stroke-width" in each.attrib
    ]
    assert sum(count > 20 for count in waves) == 4


def made_up(**members: Any) -> Account:
    header = Header(novasonic=1, provenance="made up")
    return Account(tape=Tape(header=header, lines=[], name="x.jsonl"), **members)


def said(start: float, end: float, *, turn: int = 1) -> Response:
    return Response(
        turn=turn, at=start, heard=[Span(start, end)], sentences=[Sentence(text="Words.", said=True)]
    )


def test_a_long_conversation_is_drawn_in_rows() -> None:
    told = made_up(
        duration=150.0,
        responses=[said(10.0, 20.0), said(45.0, 55.0, turn=2), said(140.0, 150.0, turn=3)],
        usage=[(10.0, Usage(text_input=10)), (120.0, Usage(text_input=20))],
    )
    drawn = Drawn(told)
    bars = drawn.bars(picture._NOVA)
    assert len({top for _, _, top in bars}) == 3
    assert len(bars) == 4  # one goes over the end of a row
    assert all(0 <= left <= right <= drawn.width for left, right, _ in bars)
    assert {"0 s", "50 s", "1:40", "2:30"} <= set(drawn.words)


def test_words_that_have_no_room_are_cut_and_whole_in_the_tip() -> None:
    words = "a very long sentence " * 20
    speech = [Speech(span=Span(at, at + 0.5), text=words) for at in (1.0, 1.1, 1.2, 9.0)]
    drawn = Drawn(made_up(duration=10.0, speech=speech))
    shown = [each for each in drawn.words if each.endswith("…")]
    assert shown
    assert all(len(each) < len(words) for each in shown)
    assert " ".join(words.split()) in drawn.svg


def test_another_stream_and_the_reason_for_it_are_marked() -> None:
    lost, refused = (Failure(error=name) for name in ("StreamLostError", "ThrottledError"))
    legs = [
        Leg(number=1, opened_at=0.0, listens_at=0.1),
        Leg(number=2, opened_at=3.0, listens_at=4.0, failure=lost, failed_at=6.0),
        Leg(number=3, opened_at=6.0, listens_at=7.0, failure=refused, failed_at=9.0),
    ]
    drawn = Drawn(made_up(duration=10.0, legs=legs))
    scale = (drawn.second("10 s") - drawn.second("0 s")) / 10
    where = {words: (x - drawn.second("0 s")) / scale for words, x in drawn.texts}
    for words, at in (
        ("stream 2", 4),
        ("stream 3 after StreamLostError", 7),
        ("the end after ThrottledError", 9),
    ):
        assert where[words] == pytest.approx(at, abs=0.1)
    assert drawn.words[drawn.words.index("streams") - 1] == "3"


def test_what_was_typed_is_a_mark_of_its_own() -> None:
    typed = Speech(span=Span(5.0, 5.0), text="Hello?", typed=True)
    drawn = Drawn(made_up(duration=10.0, speech=[typed]))
    assert {"Hello?", "typed"} <= set(drawn.words)
    assert drawn.bars(picture._USER) == []


def test_words_of_wide_characters_have_less_room() -> None:
    shown = list[int]()
    for letter in "a多":
        speech = [Speech(span=Span(at, at + 0.5), text=letter * 300) for at in (1.0, 5.0)]
        drawn = Drawn(made_up(duration=10.0, speech=speech))
        shown.append(max(len(each) for each in drawn.words if each.startswith(letter)))
    assert shown[0] == pytest.approx(shown[1] / 0.52, rel=0.1)


@pytest.mark.parametrize("text", ["<b>&amp;\"'", "\x00\x1b[31m\ud800", "多语言 🎤 العربية", "]]>"])
def test_whatever_was_said_makes_a_picture(text: str) -> None:
    """Not all that JSON can say is allowed in XML."""
    drawn = Drawn(made_up(duration=10.0, speech=[Speech(span=Span(1.0, 2.0), text=text)]))
    cleaned = re.sub("[\x00\x1b\ud800]", "", text)
    assert any(cleaned in each for each in drawn.words)


def test_a_recording_of_nothing_is_a_picture_too() -> None:
    drawn = Drawn(made_up())
    assert {"0.0 s", "0", "?"} <= set(drawn.words)


def test_a_png_is_twice_as_large_and_shows_the_words() -> None:
    svg = picture.draw(made_up(duration=10.0, responses=[said(1.0, 2.0)]))
    data = picture.png(svg)
    assert data.startswith(b"\x89PNG")
    root = ET.fromstring(svg)
    assert struct.unpack(">II", data[16:24]) == (
        2 * int(root.attrib["width"]),
        2 * int(root.attrib["height"]),
    )
    assert len(picture.png(re.sub("<text.*?</text>", "", svg))) < len(data) * 0.8


def test_without_the_extra_a_png_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ImportError, match=r"pip install 'novasonic\[picture\]'"):
        picture.png("<svg/>")


def test_without_fonts_a_png_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture without words looks like one, and is none."""
    import resvg_py  # noqa: PLC0415

    real = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **given: real(**given, skip_system_fonts=True))
    with pytest.raises(ConfigurationError, match="this machine has no fonts"):
        picture.png("<svg/>")


def test_an_svg_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        assert name != "resvg_py"
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert picture.draw(made_up()).startswith("<svg")
