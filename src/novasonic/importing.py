"""Makes a recording of what another program has captured as JSON lines. A small mapping tells how.

A mapping is a JSON object, most members of which are *paths*: `data.payload` is where the member `payload`
of the member `data` of a line is. For lines such as
`{"ms": 1712, "kind": "send", "data": {"payload": {"event": {"sessionEnd": {}}}}}` it is

    {"at": "ms", "unit": 0.001, "from": "kind", "client": ["send"], "service": ["recv"],
     "event": "data.payload"}

- `at`: when, in numbers of `unit` seconds (1 by default), or as text in ISO 8601. Texts count from the first
  line, and so do numbers with `"from_first": true`. A line that has no time comes a millisecond after the one
  before.
- `from`: who says it; `client` and `service` list the values for either. Other lines are passed over.
- `event`: the message, such as `{"textOutput": {...}}`, with an `{"event": ...}` around it or not, as JSON or
  as a text with JSON in it. Where its name and its body stand apart, it is `name` and `body` instead.
- `stream`: what is the same in all lines of one stream, and in no others.
- `size`: in the body of an audio message whose audio was not kept, how many bytes it had.
- `repeat` and `until`: how many equal messages the line stands for, and when the last of them came.
- `model`: no path, but the id of the model.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from novasonic.errors import ConfigurationError
from novasonic.recording import AUDIO, VERSION, Header, Line, Sender, Tape, decoded, numbered_lines

_LATEST_START: Final = 86_400  # seconds: beyond a day, times are dates
_UNTIMED: Final = 0.001  # seconds from one line without a time to the next
_MOST_REPEATS: Final = 100_000  # most of an hour of audio; more is a mistake


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to read a capture: the module's docstring explains the members, of which `sender` is `from`."""

    sender: str = msgspec.field(name="from")
    client: Sequence[str | int | bool]
    service: Sequence[str | int | bool]
    at: str | None = None
    unit: float = 1.0
    from_first: bool = False
    event: str | None = None
    name: str | None = None
    body: str | None = None
    stream: str | None = None
    size: str | None = None
    repeat: str | None = None
    until: str | None = None
    model: str = ""

    def __post_init__(self) -> None:
        if (self.event is None) is (self.name is None or self.body is None):
            raise ValueError("it has to say where the event is, or where its name and its body are")


MAPPINGS: Final = {
    "condensed": Mapping(
        sender="dir",
        client=["in"],
        service=["out"],
        at="t",
        event="event",
        repeat="repeat",
        until="t_last",
    )
}
"""The mappings that have a name. "condensed" is for transcriptions that hold runs of equal audio messages in
one line, with sizes in place of audio."""


def load_mapping(name: str) -> Mapping:
    """Return the mapping of that name, or the one in the file of that name.

    Raises:
        ConfigurationError: If there is none, or it is wrong.
    """
    if name in MAPPINGS:
        return MAPPINGS[name]
    try:
        return msgspec.json.decode(Path(name).read_bytes(), type=Mapping)
    except OSError as exc:
        names = ", ".join(MAPPINGS)
        raise ConfigurationError(f"{name} is neither a mapping ({names}) nor a file: {exc.strerror}") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise ConfigurationError(f"{name} is no mapping: {exc}") from exc


def import_capture(path: str | os.PathLike[str], mapping: Mapping) -> Tape:
    """Return a recording of what was captured.

    Raises:
        ConfigurationError: If it cannot be read in this way; it names the line.
    """
    path = Path(path)
    reader = _Reader(mapping)
    rows = decoded(path, numbered_lines(path), reader.read)
    # What was folded into one line stood between others.
    lines = sorted((line for row in rows for line in row), key=lambda line: line.time)
    if not lines:
        raise ConfigurationError(f"{path} has no messages where the mapping looks for them")
    if lines[0].time > _LATEST_START:
        raise ConfigurationError(
            f'{path} begins at {lines[0].time:.3g} s; put `"from_first": true` or a `unit` into the mapping'
        )
    audible = all(isinstance(line.body().get("content"), str) for line in lines if line.name in AUDIO)
    header = Header(
        novasonic=VERSION,
        provenance=f"imported from {path.name}",
        model=mapping.model,
        audio="inline" if audible else "counts",
    )
    return Tape(header=header, lines=lines, name=str(path))


class _Reader:
    """Reads one capture, line by line."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._first: float | None = None
        self._latest = -_UNTIMED
        self._streams = dict[object, int]()

    def read(self, text: bytes) -> list[Line]:
        """Return what a line stands for.

        Raises:
            ValueError: If it is not what the mapping says.
        """
        mapping, row = self._mapping, msgspec.json.decode(text)
        sender = self._sender(_look(row, mapping.sender))
        if sender is None:
            return []
        self._latest = start = self._time(_look(row, mapping.at))
        stream = self._streams.setdefault(str(_look(row, mapping.stream)), len(self._streams) + 1)
        name, body = self._message(row)
        event = {name: msgspec.Raw(msgspec.json.encode(body))}
        return [
            Line(at=round(at, 6), sender=sender, stream=stream, event=event) for at in self._times(row, start)
        ]

    def _sender(self, value: object) -> Sender | None:
        if value in self._mapping.client:
            return "client"
        return "service" if value in self._mapping.service else None

    def _time(self, value: object) -> float:
        match value:
            case None:
                return self._latest + _UNTIMED
            case str():
                at, from_first = datetime.fromisoformat(value).timestamp(), True
            case int() | float():
                at, from_first = value * self._mapping.unit, self._mapping.from_first
            case _:
                raise ValueError(f"{self._mapping.at} is {value!r}, which is no time")
        if self._first is None:
            self._first = at
        return at - self._first if from_first else at

    def _message(self, row: object) -> tuple[str, Any]:
        mapping = self._mapping
        if mapping.event is None:
            name = msgspec.convert(_look(row, mapping.name), str)
            body = _opened(_look(row, mapping.body))
        else:
            event = msgspec.convert(_opened(_look(row, mapping.event)), dict[str, Any])
            if list(event) == ["event"]:
                event = msgspec.convert(event["event"], dict[str, Any])
            if len(event) != 1:
                raise ValueError(f"{mapping.event} holds {len(event)} messages instead of one")
            ((name, body),) = event.items()
        if name in AUDIO:
            body = msgspec.convert(body, dict[str, Any])
            if isinstance(size := _look(body, mapping.size), int):
                body["content"] = {"bytes": size}
        return name, body

    def _times(self, row: object, start: float) -> Iterator[float]:
        count, until = _look(row, self._mapping.repeat), _look(row, self._mapping.until)
        if not isinstance(count, int):
            yield start
            return
        if not 1 <= count <= _MOST_REPEATS:
            raise ValueError(f"{self._mapping.repeat} is {count}, but must be 1 to {_MOST_REPEATS}")
        last = start if until is None else self._time(until)
        for number in range(count):
            yield start + (last - start) * number / max(1, count - 1)


def _look(value: Any, path: str | None) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at a path; None if nothing does, or there is no path."""
    if path is None:
        return None
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(key)
    return value


def _opened(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON that stands in a text; what is no text is JSON already."""
    return msgspec.json.decode(value) if isinstance(value, str) else value
