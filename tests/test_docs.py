"""The documentation: what it shows runs, what it names is there, and what it draws is current."""

import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import SkipTest

import pytest
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import novasonic
from novasonic import messages
from novasonic.cli import _parser  # the only way to know which commands there are
from novasonic.emulator import Emulator, Say, Scenario, ToolCall, Turn
from novasonic.emulator.scenario import segments
from test_cli import BARE, QUESTION, ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(each for each in DOCS.rglob("*.md") if "_build" not in each.parts),
]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- what it shows runs -----------------------------------------------------------------------------------

# What the programs say and ask, and what they are answered. A page that shows a scenario has its own, and one
# that starts an emulator without any has none.
PLAIN = {"docs/tutorial/first-conversation.md"}
WEATHER = ToolCall("weather", arguments={"city": "Paris"})
TURNS = [
    Turn(typed="*three languages*", says=[Say("Hello! Bonjour! Hola!", seconds=2.0)]),
    Turn(typed="*weather*paris*", calls=[WEATHER], then="It is {celsius} degrees in {city}."),
    Turn(typed="*table*", calls=[ToolCall("book", arguments={"guests": 4})], then="I have booked it."),
    Turn(typed="*", says=[Say("Of course.", seconds=0.8)]),
    Turn(typed="*", says=[Say("Anything else?", seconds=0.8)]),
    Turn(heard="what is the weather like in paris today?", says=[Say("It is sunny.", seconds=1.0)]),
    Turn(heard="and tomorrow?", says=[Say("It will rain.", seconds=1.0)]),
]


@pytest.fixture
def _never_blocks() -> None:
    """A program that somebody begins with may write a file wherever it likes."""


class Page:
    """Runs what a page shows, block after block, in one namespace and one folder."""

    _python: Final = PythonEvaluator()

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._printed: str | None = None
        self.blocks = 0

    def run(self, path: Path) -> None:
        parsers: list[Any] = [
            *(CodeBlockParser(language, self._count(how)) for language, how in self._languages().items()),
            SkipParser(),
        ]
        document = Document.parse(str(path), *parsers)
        document.namespace["__name__"] = "__main__"
        for example in document.examples():
            with contextlib.suppress(SkipTest):
                example.evaluate()

    def _languages(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "output": self.output,
            "json": self.json,
            "toml": self.toml,
            "console": self.console,
        }

    def _count(self, evaluate: Any) -> Any:
        def counted(example: Example) -> None:
            self.blocks += 1
            evaluate(example)

        return counted

    def python(self, example: Example) -> None:
        """A block that begins with the name of a file is that file; one with tests is run by pytest."""
        source = str(example.parsed)
        if file := re.match(r"# (\w+\.py)\n", source):
            Path(file[1]).write_text(source)
        if "def test_" in source:
            assert file, f"the tests in line {example.line} need the name of their file in the first line"
            self._pytest(file[1])
            return
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self._python(example)
        self._printed = printed.getvalue()

    def _pytest(self, file: str) -> None:
        done = subprocess.run(
            # pytest-asyncio advises whoever has not said so to set a scope, and goes on.
            [sys.executable, "-mpytest", "-q", "-Werror", "-Wignore:The configuration option", file],
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._printed = None

    def output(self, example: Example) -> None:
        """What the program before it prints; `...` stands for anything."""
        assert self._printed is not None, f"no program has printed what line {example.line} shows"
        same = doctest.OutputChecker().check_output(
            example.parsed, self._printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        assert same, f"line {example.line} shows\n{example.parsed}\nbut it prints\n{self._printed}"

    def json(self, example: Example) -> None:
        """A scenario, or a message in one direction or the other."""
        for line in [example.parsed] if "turns" in example.parsed else str(example.parsed).splitlines():
            data = json.loads(line)
            if "turns" in data:
                Scenario.parse(data)
            elif "contentId" in line or "completionId" in line or "inputAudioOffsetMs" in line:
                assert not isinstance(messages.decode_output(line.encode()), messages.UnknownMessage)
            else:
                messages.decode_input(line.encode())

    def toml(self, example: Example) -> None:
        """What belongs into the project's own pyproject.toml."""
        tomllib.loads(example.parsed)
        Path("pyproject.toml").write_text(example.parsed)

    def console(self, example: Example) -> None:
        """Commands: those of novasonic, pip and make are what they should be, and programs are there."""
        for line in re.findall(r"^\$ (.*)$", example.parsed, re.MULTILINE):
            words = [word for word in shlex.split(line, comments=True) if word != "&&"]
            if "novasonic" in words and "pip" not in words:
                _parser().parse_args(words[words.index("novasonic") + 1 :])
            for target in words[words.index("make") + 1 :] if "make" in words else ():
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
            for program in words:
                assert not program.startswith("examples/") or (ROOT / program).exists(), line


def scenario_of(page: Path) -> Scenario | None:
    for block in re.findall(r"^```json\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        if '"turns"' in block:
            return Scenario.parse(json.loads(block))
    return None if named(page) in PLAIN else Scenario(turns=TURNS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=named)
async def test_what_a_page_shows_runs_as_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment alone leads its programs to the emulator, as it would lead a reader's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "question.wav").symlink_to(QUESTION)
    async with Emulator(scenario_of(page), speed=5.0) as bedrock:
        for name, value in (BARE | bedrock.env).items():
            monkeypatch.setenv(name, value)
        before = set(sys.modules)
        try:
            await asyncio.to_thread(Page(BARE | bedrock.env).run, page)
        finally:
            for name in set(sys.modules) - before:  # a page's own files
                if not str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                    continue
                del sys.modules[name]


def test_the_first_screen_of_the_readme_is_a_sentence_an_install_line_and_a_program() -> None:
    text = (ROOT / "README.md").read_text()
    shown = r"# novasonic\n\n[^\n]+\.\n\n```console\n\$ pip install novasonic\n```\n\n```python\n(.*?)```\n"
    first = re.match(shown, text, re.DOTALL)
    assert first
    assert len(first[1].splitlines()) < 20


def test_whatever_does_not_run_says_why() -> None:
    for page in PAGES:
        for skipped in re.findall(r"<!-- skip: (.*?)-->", page.read_text()):
            assert re.fullmatch(r'next "\w.+" ', skipped), f"{named(page)}: {skipped}"


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """Or is prose: what a terminal shows, the code of others, and what Sphinx makes of it."""
    checked = {"python", "output", "json", "toml", "console"}
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)[::2]
        assert {each.strip() for each in fences if not each.startswith("{")} <= {*checked, "text"}, named(
            page
        )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_extra_that_is_named_is_there(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named_extras in re.findall(r"novasonic\[([\w,]+)\]", page.read_text()):
        assert set(named_extras.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES[:2], ids=named)
def test_every_link_of_a_page_that_sphinx_does_not_read_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (ROOT / target).exists(), target


# --- what it names is there -------------------------------------------------------------------------------

# What the reference promises, beside the names at the top. What else is a module is no promise.
MODULES = (
    "audio",
    "credentials",
    "devices",
    "dialogue",
    "echo",
    "emulator",
    "errors",
    "events",
    "g711",
    "messages",
    "models",
    "playback",
    "sinks",
    "testing",
    "transport",
)


def written_in(module: ModuleType) -> Iterator[str]:
    """The names that a module without `__all__` makes: its own, and none that it only uses."""
    source = inspect.getsource(module)
    yield from re.findall(r"^(?:async def|def|class|type) ([A-Za-z]\w*)", source, re.MULTILINE)
    yield from re.findall(r"^([A-Z]\w*)(?:: Final[^=]*)? = ", source, re.MULTILINE)


def public() -> Iterator[str]:
    """The full name of everything public, each once: at the top, where it is there."""
    yield from (f"novasonic.{name}" for name in novasonic.__all__)
    at_the_top = {id(getattr(novasonic, name)) for name in novasonic.__all__}
    for name in MODULES:
        module = importlib.import_module(f"novasonic.{name}")
        names: Sequence[str] = getattr(module, "__all__", None) or list(written_in(module))
        yield from (
            f"novasonic.{name}.{each}" for each in names if id(getattr(module, each)) not in at_the_top
        )


def documented() -> Iterator[str]:
    for page in DOCS.glob("reference/*.md"):
        module = ""
        for directive, name in re.findall(
            r"^\.\. (currentmodule|auto\w+):: (\S+)$", page.read_text(), re.MULTILINE
        ):
            if directive == "currentmodule":
                module = name
            else:
                yield f"{module}.{name}"


def test_the_reference_holds_every_public_name_once_and_nothing_else() -> None:
    assert sorted(documented()) == sorted(set(public()))


def test_the_reference_of_the_command_holds_every_command_and_nothing_else() -> None:
    [commands] = [each for each in _parser()._actions if isinstance(each.choices, dict)]
    shown = re.findall(
        r"^## `novasonic (\w+)`$", (DOCS / "reference" / "command.md").read_text(), re.MULTILINE
    )
    assert shown == list(commands.choices or ())


# --- what it draws is current -----------------------------------------------------------------------------


def test_the_picture_of_the_protocol_is_drawn_from_the_tables_as_they_are() -> None:
    """`make pictures` draws it again."""
    script = runpy.run_path(str(ROOT / "tools" / "draw_protocol.py"))
    assert (DOCS / "protocol.svg").read_text() == script["svg"](script["machines"]())


def test_the_picture_of_the_demo_shows_what_the_demo_says() -> None:
    """`make pictures` draws it again, from a real run."""
    picture = re.sub(r"&#160;|\s+", " ", (DOCS / "demo.svg").read_text())
    scenario = Scenario.load(ROOT / "src" / "novasonic" / "emulator" / "demo.json")
    for turn in scenario.turns:
        for each in (*turn.pieces, *segments(turn.then)[:2]):  # the third is never heard
            assert each.text.strip() in picture
    for part in ("interrupted after", "✂", "tokens", "answer.wav"):
        assert part in picture
