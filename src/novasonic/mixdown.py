"""A recorded conversation as one sound: the user on the left, the assistant on the right. No files.

What was not kept of a recording's audio is silence.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from novasonic.account import Account
from novasonic.events import AudioChunk
from novasonic.recorder import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE: Final = 5.0  # seconds, at most, that are laid out before they are taken
LEVELS_PER_SECOND: Final = 100


def sample_rate(account: Account) -> int:
    """Return the rate of the sound, in Hz: that of the better of the two voices."""
    return max([account.sample_rate, *(chunk.sample_rate for _, chunk in account.chunks[:1])])


def mix(account: Account) -> Iterator[bytes]:
    """Yield what was heard, piece by piece: 16-bit PCM, two channels interleaved.

    The assistant is heard as if each response was played at once, and cut where the user broke in.
    """
    line, taken = Timeline(sample_rate(account), start=0.0), 0.0
    # What comes a little late belongs to the moment before, but not before anybody has listened.
    deaf = next((leg.listens_at for leg in account.legs if leg.listens_at is not None), 0.0)
    line.user(bytes(2 * round(deaf * account.sample_rate)), account.sample_rate, 0.0)
    what: list[tuple[float, bytes | AudioChunk | None]] = [
        *account.chunks,
        *((frame.at, frame.pcm) for frame in account.frames),
        *((response.interrupted_at or 0.0, None) for response in account.interrupted),
    ]
    for at, piece in sorted(what, key=lambda each: each[0]):
        if at - taken > _PIECE:
            yield line.take(at)
            taken = at
        match piece:
            case AudioChunk():
                line.assistant(piece, at)
            case bytes():
                line.user(piece, account.sample_rate, at)
            case None:
                line.interrupted(at)
    yield line.finish(account.duration)


def levels(account: Account) -> "NDArray[Any]":
    """Return how loud both voices were: peaks from 0 to 1, in the shape (hundredths of a second, 2)."""
    import numpy as np  # noqa: PLC0415 - heavy; only for who has a picture drawn

    size, rest, found = sample_rate(account) // LEVELS_PER_SECOND, b"", list[Any]()
    for piece in mix(account):
        data = rest + piece
        whole = len(data) // (4 * size) * 4 * size
        rest = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").reshape(-1, size, 2).astype(np.int32)
        found.append(np.abs(samples).max(axis=1, initial=0) / 32768)
    return np.concatenate(found)
