"""What installed distributions say that they require, and whether it is there. No I/O: a `Lookup` looks.

As Python packaging has it ("Dependency specifiers", "Version specifiers"), as far as novasonic and what it
stands on go: no epochs, and what is required on some systems or versions of Python only is left to pip. The
library for all of it, `packaging`, is no part of Python.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

Lookup = Callable[[str], tuple[str, Sequence[str]] | None]
"""Returns the version of an installed distribution, and what it says that it requires; None if it is not."""


class Unmet(NamedTuple):
    """A requirement that is not met.

    Attributes:
        text: The requirement, as pip takes it.
        name: The distribution that is required.
        version: The one that is installed; None if none is.
        by: The distribution that requires it.
    """

    text: str
    name: str
    version: str | None
    by: str

    def __str__(self) -> str:
        there = f"is {self.version}" if self.version else "is not installed"
        return f"{self.name} {there}, but {self.by} needs {self.text}"


_REQUIREMENT: Final = re.compile(r"\s*([\w.-]+)\s*(?:\[([^]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA: Final = re.compile(r"\s*extra\s*==\s*['\"]([\w.-]+)['\"]\s*")


def unmet(lookup: Lookup, name: str, extra: str = "") -> Iterator[Unmet]:
    """Yield what is missing, or out of bounds, of what a distribution or an extra of it stands on."""
    yield from _unmet(lookup, name, extra, set())


def _unmet(lookup: Lookup, name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[Unmet]:
    found = lookup(name)
    if found is None or (name, extra) in seen:
        return
    seen.add((name, extra))
    for text in found[1]:
        parsed = _REQUIREMENT.fullmatch(text)
        if parsed is None:
            continue
        needed, extras, bounds, marker = parsed.groups(default="")
        asked_for = _EXTRA.fullmatch(marker)
        if (asked_for[1] if asked_for else marker.strip()) != extra:
            continue
        there = lookup(needed)
        if there is None or not satisfies(there[0], bounds):
            by = f"{name}[{extra}]" if extra else name
            yield Unmet(text.partition(";")[0].strip(), needed, there and there[0], by)
            continue
        for each in ("", *filter(None, re.split(r"[\s,]+", extras))):
            yield from _unmet(lookup, needed, each, seen)


_CLAUSE: Final = re.compile(r"\s*(~=|==|!=|<=|>=|<|>)\s*([^\s,]+)\s*")
_VERSION: Final = re.compile(r"\s*v?(\d+(?:\.\d+)*)(.*)", re.DOTALL)
_BEFORE_FINAL: Final = re.compile(r"[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview|dev)(?![a-z])", re.IGNORECASE)


def satisfies(version: str, bounds: str) -> bool:
    """Return whether a version lies within bounds such as `>=0.12,<0.13`; what cannot be read does."""
    return all(
        _meets(version, *clause.groups()) for each in bounds.split(",") if (clause := _CLAUSE.fullmatch(each))
    )


def _meets(version: str, comparison: str, bound: str) -> bool:
    ours, theirs = _parse(version), _parse(bound.removesuffix(".*"))
    if ours is None or theirs is None:
        return True
    match comparison:
        case "==" | "!=":
            same = _within(ours, theirs.release) if bound.endswith(".*") else ours.key == theirs.key
            return same is (comparison == "==")
        case ">=":
            return ours.key >= theirs.key
        case ">":
            return ours.key > theirs.key
        case "<=":
            return ours.key <= theirs.key
        case "<":  # which leaves out the candidates for it, too
            return ours.key[0] < theirs.key[0]
        case _:  # ~=
            return ours.key >= theirs.key and _within(ours, theirs.release[:-1])


class _Version(NamedTuple):
    release: tuple[int, ...]
    final: bool

    @property
    def key(self) -> tuple[tuple[int, ...], bool]:
        """What orders versions: 1 and 1.0 are the same, and a candidate comes before what it is one for."""
        release = self.release
        while release and release[-1] == 0:
            release = release[:-1]
        return release, self.final


def _parse(version: str) -> _Version | None:
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    return _Version(tuple(map(int, found[1].split("."))), not _BEFORE_FINAL.match(found[2]))


def _within(version: _Version, series: tuple[int, ...]) -> bool:
    """Return whether a version is one of a series: 1.2.3 is one of 1.2."""
    padded = version.release + (0,) * len(series)
    return padded[: len(series)] == series
