"""The programs in examples/: each runs as it stands, against an emulator that the environment leads to.

Whoever copies a program from there gets one that has just run.
"""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from novasonic import g711
from novasonic.audio import read_wav
from novasonic.emulator import Emulator, Say, Scenario, SessionLog, ToolCall, Turn
from running import speech
from sound_server import sound_server, why_not
from test_cli import BARE, QUESTION, ROOT

EXAMPLES = ROOT / "examples"
LONGEST = 60  # lines of an example: what is longer is no example
CALLS = [
    ToolCall("weather", arguments={"city": "Oslo"}),
    ToolCall("clock", arguments={"hours": 1}),
    ToolCall("search", arguments={"question": "Oslo"}),
]
STORY = Turn(
    heard="tell me a story", says=[Say("Once upon a time.", seconds=5.0), Say("The end.", seconds=5.0)]
)
SHORTER = Turn(heard="a shorter one", says=[Say("The end.", seconds=0.5)])


@contextlib.asynccontextmanager
async def program(
    name: str, *arguments: object, bedrock: Emulator, folder: Path, **env: str
) -> AsyncIterator[Process]:
    """Start an example, with every warning an error; end it in any case."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-Werror",
        *(["-mpytest", "-pno:cacheprovider"] if name.startswith("test_") else []),
        EXAMPLES / name,
        *map(str, arguments),
        cwd=folder,
        env=BARE | env | bedrock.env | {"PYTHONUNBUFFERED": "1"},
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(
    name: str,
    *arguments: object,
    folder: Path,
    turns: Sequence[Turn] = (),
    speed: float = 3.0,
    typed: str = "",
) -> tuple[str, Sequence[SessionLog]]:
    """Run an example to its good end; return what it has printed, and what the service noticed."""
    async with (
        Emulator(Scenario(turns=turns), speed=speed) as bedrock,
        program(name, *arguments, bedrock=bedrock, folder=folder) as process,
    ):
        printed, _ = await process.communicate(typed.encode())
        assert process.returncode == 0, printed.decode()
        assert {log.outcome for log in bedrock.sessions} == {"completed"}
        return printed.decode(), bedrock.sessions


def test_every_example_is_run_here() -> None:
    run_here = re.findall(r'(?:run|program)\(\s*"(\w+\.py)"', Path(__file__).read_text())
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(run_here)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) < LONGEST


async def test_the_model_says_hello(tmp_path: Path) -> None:
    says = ["Hello!", " Bonjour!", " Hola!"]
    printed, _ = await run("hello.py", folder=tmp_path, turns=[Turn(typed="*three languages*", says=says)])
    assert printed.split() == ["Hello!", "Bonjour!", "Hola!"]
    pcm, form = await asyncio.to_thread(read_wav, tmp_path / "hello.wav")
    assert (form.sample_rate, form.channels) == (24_000, 1)
    assert max(pcm[1::2]) > 10


async def test_a_question_is_answered_into_a_file(tmp_path: Path, utterance: Path) -> None:
    turns = [Turn(heard="what is the weather like?", says=[Say("Sunny.", seconds=1.0)])]
    printed, _ = await run("ask.py", utterance, "answer.wav", folder=tmp_path, turns=turns)
    assert printed == "what is the weather like? -> Sunny.\n"
    pcm, form = await asyncio.to_thread(read_wav, tmp_path / "answer.wav")
    assert form.duration(len(pcm)) == pytest.approx(1.0, abs=0.1)


async def test_recorded_questions_are_answered_and_the_whole_is_recorded(
    tmp_path: Path, utterance: Path
) -> None:
    turns = [Turn(heard="what is the weather like?", says=[Say("Sunny.", seconds=1.0)])] * 2
    printed, _ = await run("wav_to_wav.py", "both.wav", utterance, utterance, folder=tmp_path, turns=turns)
    assert printed == "what is the weather like?\n  Sunny.\n" * 2
    both, form = await asyncio.to_thread(read_wav, tmp_path / "both.wav")
    left, right = both[1::4], both[3::4]
    assert (form.channels, max(left) > 10, max(right) > 10) == (2, True, True)


async def test_tools_run_and_what_they_found_is_said(tmp_path: Path) -> None:
    """One asks for something to be said meanwhile; one runs in a thread; all of them are answered."""
    turns = [
        Turn(typed="*Oslo*", calls=CALLS, then="It is cloudy in {city}."),
        Turn(typed="*take a moment*", says="I am looking for it."),
    ]
    printed, [log] = await run("tools.py", "What about Oslo?", folder=tmp_path, turns=turns)
    assert re.search(
        r"weather\({'city': 'Oslo'}\) -> {'city': 'Oslo', 'temperature': 7, .* after 0\.5 s", printed
    )
    assert re.search(r"clock\({'hours': 1}\) -> {'result': '\d\d:\d\d'}", printed)
    assert "search({'question': 'Oslo'}) -> {'result': [\"nothing about 'Oslo'\"]} after 5.0 s" in printed
    assert printed.endswith("It is cloudy in Oslo.\n")
    assert len(log.tool_results) == len(CALLS)


async def test_an_interruption_cuts_what_is_said_and_what_is_remembered(
    tmp_path: Path, utterance: Path
) -> None:
    """At the pace of a clock, as the service and whoever listens must agree on what was heard."""
    turns = [STORY, SHORTER]
    printed, _ = await run("interruptions.py", utterance, utterance, folder=tmp_path, turns=turns, speed=1.0)
    lines = printed.splitlines()
    assert lines[0] == "USER: tell me a story"
    assert re.fullmatch(r"-- interrupted after [2-4]\.\d s", lines[1])
    assert lines[2:5] == ["ASSISTANT: Once upon a time.", "USER: a shorter one", "ASSISTANT: The end."]
    remembered = [line.removeprefix("remembered: ") for line in lines[5:]]
    assert remembered == ["tell me a story", remembered[1], "a shorter one", "The end."]
    assert len(remembered[1]) < len("Once upon a time.")
    assert "Once upon a time.".startswith(remembered[1])


async def test_what_is_typed_is_answered_until_there_is_no_more(tmp_path: Path) -> None:
    turns = [Turn(typed="*hello*", says="Hello!"), Turn(typed="*bye*", says="Goodbye!")]
    printed, _ = await run("text_chat.py", folder=tmp_path, turns=turns, typed="hello\nand bye\n")
    assert re.fullmatch(r"nova: Hello!\nnova: Goodbye!\n\d+ tokens, \$0\.\d{4}\n", printed)
    assert (await asyncio.to_thread(read_wav, tmp_path / "reply.wav"))[0]


async def test_many_sessions_wait_in_line_for_a_few_places(tmp_path: Path) -> None:
    turns = [Turn(typed="Who are you?", says=[Say("Nobody.", seconds=1.0)])]
    arguments = ("Who are you?", 4)
    printed, logs = await run("many_sessions.py", *arguments, folder=tmp_path, turns=turns, speed=5.0)
    heading, *rows = printed.splitlines()
    assert heading.split() == ["voice", "language", "answered", "speech", "cost"]
    assert len(rows) == len(logs) == 16
    assert re.search(r"amy +English \(UK\) +\d\.\d\d s +1\.0 s \$0\.\d{4}", printed)


class Telephone:
    """A caller's end of the line. The line is the clock: for each 20 ms that is heard, 20 ms are said."""

    QUIET: Final = g711.encode(bytes(320), "mulaw")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._silent = 0  # frames in a row

    async def say(self, line: bytes) -> None:
        for at in range(0, len(line), 160):
            self._silent = self._silent + 1 if await self._reader.readexactly(160) == self.QUIET else 0
            self._writer.write(line[at : at + 160])

    async def hear(self, *, speech: bool) -> None:
        """Wait for speech, or for a fifth of a second without any."""
        while (self._silent >= 10) is speech or (self._silent > 0) is speech:
            await self.say(self.QUIET)

    async def hang_up(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_a_caller_is_heard_answered_and_may_break_in(tmp_path: Path) -> None:
    wave = speech(0.8)
    line = g711.encode(b"".join(wave[at : at + 2] for at in range(0, len(wave), 4)), "mulaw")
    async with (
        Emulator(Scenario(turns=[STORY, SHORTER])) as bedrock,
        program("telephone.py", 0, bedrock=bedrock, folder=tmp_path) as process,
    ):
        assert process.stdout is not None
        started = re.search(r"on port (\d+)", (await process.stdout.readline()).decode())
        assert started
        phone = Telephone(*await asyncio.open_connection("127.0.0.1", int(started[1])))
        await phone.say(line)
        await phone.hear(speech=True)
        await phone.say(100 * Telephone.QUIET)  # two seconds of a story of ten
        await phone.say(line)
        await phone.hear(speech=False)
        await phone.hear(speech=True)
        await phone.hear(speech=False)
        await phone.hang_up()
        lines = [(await process.stdout.readline()).decode().strip() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert lines[0] == "USER: tell me a story"
    assert re.fullmatch(r"-- the caller broke in after [2-4]\.\d s", lines[1])
    assert lines[2:5] == ["ASSISTANT: Once upon a time.", "USER: a shorter one", "ASSISTANT: The end."]
    assert lines[5] == "-- the call is over"
    assert [log.outcome for log in bedrock.sessions] == ["completed"]


async def test_a_recording_is_replayed_and_a_difference_is_named(tmp_path: Path, utterance: Path) -> None:
    turns = [Turn(heard="what is the weather like?", says=[Say("Sunny.", seconds=1.0)])]
    printed, [_] = await run("record_and_replay.py", utterance, folder=tmp_path, turns=turns)
    assert printed.startswith("recorded: Sunny.\nreplayed: Sunny.\nwith another system prompt: ")
    assert "Be brief." in printed
    assert "Be rude." in printed


async def test_tests_of_an_app_pass(tmp_path: Path) -> None:
    async with Emulator() as bedrock, program("test_your_app.py", bedrock=bedrock, folder=tmp_path) as tests:
        printed, _ = await tests.communicate()
        assert (tests.returncode, b"3 passed" in printed) == (0, True), printed.decode()
    assert not bedrock.sessions  # they bring a service of their own


async def test_a_microphone_is_heard_and_a_loudspeaker_plays(tmp_path: Path) -> None:
    if reason := await asyncio.to_thread(why_not):
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, sound_server(tmp_path, source="room.monitor"))
        async with (
            Emulator(speed=3.0) as bedrock,
            program("microphone.py", bedrock=bedrock, folder=tmp_path, **server.env) as process,
        ):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"default -> default, echo: cancel\n"
            speaking = ["paplay", "--device=room", str(QUESTION)]
            await asyncio.to_thread(subprocess.run, speaking, env=BARE | server.env, check=True)
            heard = [(await process.stdout.readline()).decode() for _ in range(2)]
            assert re.match(r"USER: \((3|4)\.\d seconds of speech\)", heard[0])
            assert re.match(r"ASSISTANT: I heard (3|4)\.\d seconds", heard[1])
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
            assert (rest, process.returncode) == (b"Goodbye.\n", 0)
