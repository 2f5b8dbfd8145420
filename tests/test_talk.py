"""`novasonic talk`: what it shows, and a whole conversation in a terminal with a real sound server."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from novasonic.audio import read_wav
from novasonic.talk import Response
from sound_server import SoundServer, sound_server, why_not
from test_cli import BARE, QUESTION, bedrock, run

__all__ = ["bedrock"]  # a fixture

pty = pytest.importorskip("pty", reason="needs a terminal of Unix")


# --- what is spoken, and what is planned ------------------------------------------------------------------


def test_words_are_spoken_once_they_were_played() -> None:
    """What is dimmed on the screen becomes bright word by word, as the loudspeaker gets there."""
    response = Response()
    response.plan("It is sunny.")
    response.sound(1.0)
    response.sound(1.0)
    response.plan(" Take a hat.")
    response.sound(2.0)
    assert response.seconds == 4.0
    assert response.split(0.0) == ("", "It is sunny. Take a hat.")
    assert response.split(0.9) == ("It is", "sunny. Take a hat.")
    assert response.split(2.0) == ("It is sunny.", "Take a hat.")
    assert response.split(3.0) == ("It is sunny. Take", "a hat.")
    assert response.split(4.0) == ("It is sunny. Take a hat.", "")


def test_what_was_shown_is_not_shown_again_when_the_service_confirms_it() -> None:
    response = Response()
    response.plan("It is sunny.")
    response.sound(1.0)
    assert response.take(0.6) == ("It is", "sunny.")
    response.confirm("It is sunny.")
    assert response.split(0.6) == ("", "")
    response.plan("And warm.")
    response.sound(1.0)
    assert response.split(1.0) == ("", "And warm.")
    assert response.split(2.0) == ("And warm.", "")


def test_text_without_sound_is_spoken_when_the_service_says_so() -> None:
    response = Response()
    response.plan("It is sunny.")
    assert response.split(0.0) == ("", "It is sunny.")
    response.confirm("It is sunny.")
    assert response.split(0.0) == ("It is sunny.", "")
    response.confirm("Nobody planned this.")
    assert response.split(0.0) == ("It is sunny. Nobody planned this.", "")


# --- in a terminal ----------------------------------------------------------------------------------------


class Terminal:
    """A program in a terminal, and what it has written so far."""

    def __init__(self, *arguments: str, env: dict[str, str], cwd: Path) -> None:
        self.text = ""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "novasonic", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            if self._process.poll() is None:
                self._process.kill()
        os.close(self._master)

    def reads(self, pattern: str, seconds: float = 25.0) -> None:
        """Wait until something is written after all that was found before."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text[-3000:]!r}"
            with contextlib.suppress(OSError):
                if more := os.read(self._master, 65_536).decode(errors="replace"):
                    self.text += more
                    continue
            raise AssertionError(f"ended without {pattern!r}: {self.text[-3000:]!r}")
        self.text = self.text[found.end() :]

    def presses(self, key: str) -> None:
        os.write(self._master, key.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def ends(self) -> tuple[int, str]:
        """Wait for the end; return the status and what was written since."""
        with contextlib.suppress(OSError):
            while more := os.read(self._master, 65_536):
                self.text += more.decode(errors="replace")
        return self._process.wait(20), self.text


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SoundServer]:
    if reason := why_not():
        pytest.skip(reason)
    with sound_server(tmp_path, source="room.monitor") as running:
        yield running


def test_a_conversation_in_a_terminal(server: SoundServer, tmp_path: Path) -> None:
    env = BARE | server.env
    with Terminal("talk", "--emulator", "--record", "call.wav", env=env, cwd=tmp_path) as terminal:
        terminal.reads("default → default")
        terminal.reads("say something")
        terminal.reads("m mutes · q ends")
        subprocess.run(["paplay", "--device=room", QUESTION], env=env, check=True)
        terminal.reads(r"\((3|4)\.\d seconds of speech\)")
        terminal.reads(r"\x1b\[2m[^\x1b]*heard")  # planned words are dim
        terminal.reads("█.*\n.*█|spk.*█")
        terminal.reads(r"tokens, \$")
        terminal.reads(r"answered after \d\.\d\d s")
        terminal.presses("m")
        terminal.reads("muted")
        terminal.reads("m unmutes")
        terminal.presses("m?")
        terminal.reads("m mutes")
        terminal.presses("q")
        status, rest = terminal.ends()
    assert status == 0
    assert "Traceback" not in rest
    assert "ALSA" not in rest
    pcm, form = read_wav(tmp_path / "call.wav")
    assert form.channels == 2
    assert form.duration(len(pcm)) > 5
    assert max(pcm[1::4]) > 10
    assert max(pcm[3::4]) > 10


def test_ctrl_c_ends_a_conversation_quietly(server: SoundServer, tmp_path: Path) -> None:
    env = BARE | server.env
    with Terminal("talk", "--emulator", "--device", "pulse", env=env, cwd=tmp_path) as terminal:
        terminal.reads("pulse → pulse")
        terminal.reads("q ends")
        terminal.interrupt()
        status, rest = terminal.ends()
    assert (status, "Traceback" in rest) == (0, False)


def test_the_devices_are_listed(server: SoundServer, tmp_path: Path) -> None:
    done = run("talk", "--list-devices", cwd=tmp_path, **server.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"default +microphone \(default\), loudspeaker \(default\) +\d+ Hz +ALSA", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "pulze"], "did you mean 'pulse'?"),
        (["--device", "99"], "device 99 is no microphone"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(
    server: SoundServer, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = run("talk", *arguments, cwd=tmp_path, **server.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_without_devices_is_one_sentence(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    nowhere = {"PULSE_SERVER": f"unix:{tmp_path}/none", "XDG_RUNTIME_DIR": str(tmp_path)}
    if run("talk", "--list-devices", cwd=tmp_path, **nowhere).stdout.strip():
        pytest.skip("this machine has a sound card")
    done = run("talk", cwd=tmp_path, **nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "novasonic: this machine has no loudspeaker; plug one in and start again\n"
