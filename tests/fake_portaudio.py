"""Sound devices in memory: what stands in for the module `sounddevice`, and the test's hand on it."""

import threading
from typing import Any


class PortAudioError(Exception):
    """As sounddevice's: a sentence, and a number."""


class Stream:
    """A stream; the test calls the device's thread's part."""

    latency = 0.02

    def __init__(self, owner: "FakePortAudio", settings: dict[str, Any]) -> None:
        self.settings = settings
        self.state = "made"
        self.is_closed = threading.Event()
        self._owner = owner
        self._callback = settings["callback"]
        self._finished = settings["finished_callback"]

    def start(self) -> None:
        self._owner.gate.wait(10)
        self.state = "running"

    def abort(self) -> None:
        self._owner.closing_gate.wait(10)
        if self.state == "running":
            self._finished()
        self.state = "aborted"

    def close(self) -> None:
        self.state = "closed"
        self.is_closed.set()

    def hear(self, pcm: bytes, *, overflow: bool = False) -> None:
        self._callback(memoryview(pcm), len(pcm) // 2, None, overflow)

    def play(self, *, underflow: bool = False) -> bytes:
        out = bytearray(2 * self.settings["blocksize"])
        self._callback(memoryview(out), self.settings["blocksize"], None, underflow)
        return bytes(out)

    def unplug(self) -> None:
        self.state = "gone"
        self._finished()


class FakePortAudio:
    """The module.

    Args:
        names: Of the devices; one with "mic" in its name captures, one with "spk" plays.
        rates: At which they play.
    """

    PortAudioError = PortAudioError

    def __init__(self, *names: str, rates: tuple[int, ...] = (24_000, 48_000)) -> None:
        self.streams: list[Stream] = []
        self.gate = threading.Event()  # cleared, a driver hangs at opening
        self.gate.set()
        self.closing_gate = threading.Event()
        self.closing_gate.set()
        self._asked = threading.Condition()
        self.refusal: str | None = None
        self._rates = rates
        self._devices = [
            {
                "index": at,
                "name": name,
                "hostapi": 0,
                "max_input_channels": 2 if "mic" in name else 0,
                "max_output_channels": 2 if "spk" in name else 0,
                "default_samplerate": 48_000.0,
                "default_low_input_latency": 0.009,
                "default_low_output_latency": 0.009,
            }
            for at, name in enumerate(names)
        ]

    def wait_for_streams(self, count: int) -> list[Stream]:
        """Wait until so many were asked for; in a thread."""
        with self._asked:
            assert self._asked.wait_for(lambda: len(self.streams) >= count, 10)
        return self.streams

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "Memory"}]

    def query_devices(self, device: int | None = None, kind: str | None = None) -> Any:
        if device is not None:
            return self._devices[device]
        if kind is None:
            return self._devices
        able = [each for each in self._devices if each[f"max_{kind}_channels"]]
        if not able:
            raise PortAudioError("Error querying device -1")
        return able[-1]

    def check_output_settings(self, *, samplerate: int, **_: Any) -> None:
        if samplerate not in self._rates:
            raise PortAudioError("Invalid sample rate", -9997)

    def RawInputStream(self, **settings: Any) -> Stream:  # noqa: N802 - sounddevice's name
        return self._open(settings)

    def RawOutputStream(self, **settings: Any) -> Stream:  # noqa: N802 - sounddevice's name
        return self._open(settings)

    def _open(self, settings: dict[str, Any]) -> Stream:
        if self.refusal is not None:
            raise PortAudioError(self.refusal, -9985)
        stream = Stream(self, settings)
        with self._asked:
            self.streams.append(stream)
            self._asked.notify_all()
        return stream
