"""Which sound devices there are, and the way to PortAudio: the only file that imports sounddevice.

It is imported when a device is first asked for: PortAudio then looks for devices, once.
"""

import atexit
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast

from novasonic import models
from novasonic.errors import ConfigurationError, DeviceError

DeviceKind = Literal["input", "output"]
"""What a device does: it captures, or it plays."""

NAMES: Final[dict[DeviceKind, str]] = {"input": "microphone", "output": "loudspeaker"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A sound device of this machine.

    Attributes:
        index: Names the device as long as none is plugged in or out.
        name: Names it for longer.
        system: The sound system that offers it: "ALSA", "Core Audio", "MME" and so on.
        inputs: How many channels it captures; 0 for a loudspeaker.
        outputs: How many it plays; 0 for a microphone.
        sample_rate: Its own, in Hz.
        is_default_input: Whether it is the microphone unless one is chosen.
        is_default_output: Whether it is the loudspeaker unless one is chosen.
    """

    index: int
    name: str
    system: str
    inputs: int
    outputs: int
    sample_rate: int
    is_default_input: bool
    is_default_output: bool

    def channels(self, kind: DeviceKind) -> int:
        """Return how many channels it captures ("input") or plays ("output")."""
        return self.inputs if kind == "input" else self.outputs

    def is_default(self, kind: DeviceKind) -> bool:
        """Return whether it is what captures ("input") or plays ("output") unless another is chosen."""
        return self.is_default_input if kind == "input" else self.is_default_output


class DeviceStream(Protocol):
    """What is used of a stream of sounddevice."""

    latency: float

    def start(self) -> None:
        """Begin."""
        ...

    def abort(self) -> None:
        """End at once; what the device holds may be lost."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


class PortAudio(Protocol):
    """What is used of sounddevice, which has no types of its own."""

    PortAudioError: type[Exception]
    RawInputStream: Callable[..., DeviceStream]
    RawOutputStream: Callable[..., DeviceStream]
    query_hostapis: Callable[[], Iterable[dict[str, Any]]]
    query_devices: Callable[..., Any]
    check_output_settings: Callable[..., None]


def portaudio_library() -> PortAudio:
    """Return sounddevice; importing it takes a fraction of a second.

    Raises:
        ImportError: If the extra `devices` is not installed.
        DeviceError: If PortAudio is missing, or does not start.
    """
    try:
        return cast("PortAudio", importlib.import_module("sounddevice"))
    except ImportError as exc:
        raise ImportError("microphones and loudspeakers need: pip install 'novasonic[devices]'") from exc
    except OSError as exc:
        raise DeviceError(
            "PortAudio is not installed, which finds sound devices; on Debian: apt install libportaudio2"
        ) from exc
    except Exception as exc:  # sounddevice's own; its class is not to be had, as the import failed
        raise DeviceError(f"PortAudio does not start: {exc}; check this machine's sound system") from exc


def leave_at_exit() -> None:
    """Let the program end without PortAudio's goodbye.

    sounddevice ends PortAudio as the interpreter exits, which waits for every stream: for ever for one that
    hangs, as those of ALSA now and then do when their sound server dies.
    """
    goodbye = getattr(sys.modules.get("sounddevice"), "_exit_handler", None)
    if goodbye is not None:
        atexit.unregister(goodbye)


@contextlib.contextmanager
def no_chatter() -> Generator[None]:
    """Keep what libraries in C print out of the terminal: ALSA tells it of every underrun."""
    if logging.getLogger("novasonic").isEnabledFor(logging.DEBUG):
        yield  # whoever wants to see what happens inside wants this, too
        return
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def explained(portaudio: PortAudio, what: str) -> Generator[None]:
    """Raise PortAudio's errors as `DeviceError`, which begins with `what`."""
    try:
        yield
    except portaudio.PortAudioError as exc:
        raise DeviceError(f"{what}: {exc.args[0]}") from exc


def list_devices() -> tuple[Device, ...]:
    """Return the sound devices of this machine: those that were there when they were first asked for.

    The first time takes a fraction of a second, in which an event loop would stand still: use a thread.

    Raises:
        ImportError: If the extra `devices` is not installed.
        DeviceError: If PortAudio is missing, or fails.
    """
    portaudio = portaudio_library()
    with explained(portaudio, "the sound devices cannot be listed"):
        systems = [each["name"] for each in portaudio.query_hostapis()]
        found: list[dict[str, Any]] = list(portaudio.query_devices())
    default_input, default_output = _default(portaudio, "input"), _default(portaudio, "output")
    return tuple(
        Device(
            index=at,
            name=each["name"],
            system=systems[each["hostapi"]],
            inputs=each["max_input_channels"],
            outputs=each["max_output_channels"],
            sample_rate=round(each["default_samplerate"]),
            is_default_input=at == default_input,
            is_default_output=at == default_output,
        )
        for at, each in enumerate(found)
    )


def _default(portaudio: PortAudio, kind: DeviceKind) -> int | None:
    none = (portaudio.PortAudioError, ValueError)  # the latter where a program has set one that is not there
    try:
        index: int = portaudio.query_devices(kind=kind)["index"]
    except none:
        return None
    return index


def find_device(device: str | int | None, kind: DeviceKind) -> Device:
    """Return the device of an index or of a name, or of a part of a name; the default one for None.

    Raises:
        ConfigurationError: If there is none, or several; it names those that may have been meant.
        ImportError: If the extra `devices` is not installed.
        DeviceError: If there is no device at all, or PortAudio is missing.
    """
    what = NAMES[kind]
    devices = [each for each in list_devices() if each.channels(kind)]
    if not devices:
        raise DeviceError(f"this machine has no {what}; plug one in and start again")
    if device is None:
        return next((each for each in devices if each.is_default(kind)), devices[0])
    if isinstance(device, int):
        for each in devices:
            if each.index == device:
                return each
        known = ", ".join(str(each.index) for each in devices)
        raise ConfigurationError(f"device {device} is no {what}; those that are have the indexes {known}")
    return _find_named(device, devices, what)


def _find_named(name: str, devices: list[Device], what: str) -> Device:
    wanted = name.casefold()
    # Windows offers each device once for every sound system it has; the first one is its default.
    for each in devices:
        if each.name.casefold() == wanted:
            return each
    partly = [each for each in devices if wanted and wanted in each.name.casefold()]
    names = list(dict.fromkeys(each.name for each in partly or devices))
    if len(names) == 1 and partly:
        return partly[0]
    known = ", ".join(map(repr, names))
    if partly:
        raise ConfigurationError(f"device {name!r} is one of several {what}s: {known}; give one in full")
    nearest = models.suggest(name, names)
    hint = f"did you mean {nearest!r}?" if nearest else f"there are {known}"
    raise ConfigurationError(f"no {what} is called {name!r}; {hint}")
