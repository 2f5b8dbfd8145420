"""The command, run as users run it: a process with arguments, output, and a status."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from novasonic.audio import read_wav, write_wav

ROOT = Path(__file__).resolve().parents[1]
QUESTION = ROOT / "src" / "novasonic" / "emulator" / "sounds" / "question.wav"
SHARED = ROOT.parent / "shared"

# Whoever runs the tests may have an account, and none of them is to see it.
BARE = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
BARE |= {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "COLUMNS": "120",
}


def run(*arguments: object, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "novasonic", *map(str, arguments)],
        cwd=cwd,
        env=BARE | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def bedrock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An emulator in a process of its own: the environment that leads there."""
    command = [sys.executable, "-m", "novasonic", "emulator", "--port", "0", "--speed", "3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=BARE, cwd=tmp_path_factory.mktemp("emulator")
    ) as process:
        assert process.stdout is not None
        env = dict[str, str]()
        for line in process.stdout:
            if found := re.fullmatch(r"export (\w+)='?(.*?)'?\n", line):
                env[found[1]] = found[2]
            else:
                assert "until Ctrl-C" in line
                break
        yield env
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_the_demo_holds_a_whole_conversation(tmp_path: Path) -> None:
    """It is what newcomers see first: transcripts, an interruption, a picture, a sum, and a sound."""
    done = run("demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "hello, could you tell me what the weather is like in paris today?",
        "(about to say)",
        "playback stops",
        "sorry, and what about tomorrow?",
        "Tomorrow it will rain",
        "✂",
        "first sound of the user -> interrupted",
        "tokens",
        "answer.wav",
    ):
        assert part in done.stdout
    pcm, form = read_wav(tmp_path / "answer.wav")
    # Interrupted, it is shorter than the 15.8 s of the answers, and it is no silence.
    assert 7 < form.duration(len(pcm)) < 13
    assert max(pcm[1::2]) > 30


def test_a_spoken_question_is_answered_into_a_file(tmp_path: Path, bedrock: dict[str, str]) -> None:
    done = run("ask", QUESTION, "--out", "a.wav", cwd=tmp_path, **bedrock)
    assert (done.returncode, done.stderr) == (0, "")
    heard = re.search(r"nova: I heard (\d\.\d) seconds", done.stdout)
    assert heard
    assert float(heard[1]) == pytest.approx(4.1, abs=0.4)
    assert (tmp_path / "a.wav").exists()


def test_a_typed_question_is_answered_by_an_emulator_of_its_own(tmp_path: Path) -> None:
    done = run("ask", "Hello?", "--emulator", "--voice", "amy", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "you:  Hello?" in done.stdout
    assert "nova: " in done.stdout


@pytest.mark.skipif(not SHARED.exists(), reason="needs the project's shared recordings of real speech")
@pytest.mark.parametrize(("name", "seconds"), [("jfk-16k.wav", 11.0), ("jfk-48k-stereo.wav", 2.1)])
def test_real_speech_is_heard_at_its_true_length(tmp_path: Path, name: str, seconds: float) -> None:
    done = run("ask", SHARED / "audio" / name, "--emulator", "--out", "a.wav", cwd=tmp_path)
    heard = re.search(r"nova: I heard (\d+\.\d) seconds", done.stdout)
    assert heard
    assert float(heard[1]) == pytest.approx(seconds, abs=0.3)
    assert (tmp_path / "a.wav").exists()


def test_the_voices_are_listed(tmp_path: Path) -> None:
    done = run("voices", cwd=tmp_path)
    assert len(done.stdout.splitlines()) == 16
    assert re.search(r"tiffany +English \(US\) +feminine", done.stdout)
    done = run("voices", "--model", "amazon.nova-9-sonic", cwd=tmp_path)
    assert "not a known model" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (["ask", "missing.wav"], {"AWS_REGION": "us-east-1"}, "credentials"),
        (["ask", "Hello?"], {}, "egion"),
        (["ask", "Hello?", "--profile", "nobody"], {"AWS_REGION": "us-east-1"}, "nobody"),
        (["emulator", "--scenario", "missing.json"], {}, "missing.json cannot be read"),
        (["emulator", "--port", "1", "--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    tmp_path: Path, arguments: list[str], env: dict[str, str], sentence: str
) -> None:
    """A traceback tells a user nothing; `--verbose` shows one to those who want it."""
    done = run(*arguments, cwd=tmp_path, **env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in run(*arguments, "--verbose", cwd=tmp_path, **env).stderr


def test_a_file_that_is_no_speech_is_refused(tmp_path: Path, bedrock: dict[str, str]) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    done = run("ask", "text.wav", cwd=tmp_path, **bedrock)
    assert done.returncode == 1
    assert "is not a WAV file" in done.stderr
    write_wav(tmp_path / "cut.wav", bytes(32_000), 16_000)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:10_000])
    assert "is cut off" in run("ask", "cut.wav", cwd=tmp_path, **bedrock).stderr


def test_an_unknown_voice_passes_with_a_warning(tmp_path: Path, bedrock: dict[str, str]) -> None:
    """AWS may have a new one; the service decides. When it refuses, the error names the likely typo."""
    done = run("ask", "Hello?", "--voice", "tifany", cwd=tmp_path, **bedrock)
    assert "did you mean 'tiffany'" in done.stderr.splitlines()[0]
    assert done.returncode == 1
    assert "voice" in done.stderr.splitlines()[1].lower()
