"""A sound server without a sound card: PulseAudio, with its own directory, socket and null sinks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STARTING = 20.0

# What each device plays is heard at its monitor. `room` is heard by the default microphone; `loop` is the
# same for whoever wants to hear the loudspeaker itself.
_MODULES = """
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=loud rate=48000 channels=2
load-module module-null-sink sink_name=room rate=48000 channels=2
set-default-sink loud
set-default-source {source}
"""

_ALSA = """
</usr/share/alsa/alsa.conf>
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


def why_not() -> str | None:
    """Why there can be no sound server here; None if there can."""
    for program, package in (("pulseaudio", "pulseaudio"), ("pactl", "pulseaudio-utils")):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: {package})"
    if not Path("/usr/share/alsa/alsa.conf").exists():
        return "needs ALSA's configuration (Debian: libasound2-plugins)"
    try:
        subprocess.run([sys.executable, "-c", "import sounddevice"], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        return "needs sounddevice and PortAudio (Debian: libportaudio2)"
    return None


@contextmanager
def sound_server(folder: Path, *, source: str = "loud.monitor") -> Iterator["SoundServer"]:
    """Run a sound server whose default microphone is the monitor of a null sink."""
    socket, log = folder / "native", folder / "pulse.log"
    (folder / "script.pa").write_text(_MODULES.format(socket=socket, source=source))
    (folder / "asound.conf").write_text(_ALSA)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    env |= {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "PULSE_RUNTIME_PATH": str(folder / "runtime"),
        "DBUS_SESSION_BUS_ADDRESS": "disabled:",
    }
    command = ["pulseaudio", "-n", "--daemonize=no", "--system=false", "--exit-idle-time=-1"]
    command += ["--use-pid-file=no", "--disallow-exit=yes", "--log-target=stderr", "-F", "script.pa"]
    with (
        log.open("wb") as written,
        subprocess.Popen(command, cwd=folder, env=env, stdout=written, stderr=written) as process,
    ):
        try:
            clients = env | {
                "PULSE_SERVER": f"unix:{socket}",
                "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
            }
            server = SoundServer(process, clients)
            server.wait(log)
            yield server
        finally:
            if process.poll() is None:
                process.kill()


class SoundServer:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", env: dict[str, str]) -> None:
        self.env = env
        self._process = process

    def wait(self, log: Path) -> None:
        """Wait until it answers and has its devices."""
        deadline = time.monotonic() + _STARTING
        while self._process.poll() is None and time.monotonic() < deadline:
            command = ["pactl", "list", "short", "sinks"]
            listed = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
            if "room" in listed.stdout:
                return
            time.sleep(0.05)
        raise AssertionError(f"the sound server does not start: {log.read_text()}")

    def freeze(self) -> None:
        """Stand still: whoever waits for an answer waits for ever."""
        self._process.send_signal(signal.SIGSTOP)

    def die(self) -> None:
        """End at once, as if everything were unplugged."""
        self._process.send_signal(signal.SIGKILL)
