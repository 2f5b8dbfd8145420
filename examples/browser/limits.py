"""What pages may ask for: so much at once, so much in a second, and no more."""

import asyncio

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one page, and all of them together, may ask for.

    Attributes:
        sessions: Conversations at once. Whoever comes then is told so. AWS's own quota is 20 streams.
        message_bytes: The longest message of a page; a longer one closes its socket.
        messages_per_second: And as many as `messages_at_once` after a pause.
        audio_per_second: Seconds of audio in a second, and `audio_at_once` after a pause: a client may send
            a recording faster than it plays.
        initialize_within: Seconds in which a socket has to say `initialize`.
        idle_after: Seconds in which nobody says anything, until a conversation ends.
        send_within: Seconds in which a page has to take what is sent, or its socket is closed.
        ahead: Seconds of speech that a page is sent before they are heard: networks of telephones pause for
            some tenths of one.
    """

    sessions: int = 20
    message_bytes: int = 256 * 1024
    messages_per_second: float = 200.0
    messages_at_once: float = 1000.0
    audio_per_second: float = 2.0
    audio_at_once: float = 60.0
    initialize_within: float = 10.0
    idle_after: float = 300.0
    send_within: float = 10.0
    ahead: float = 0.5


class Allowance:
    """So much in a second, and more at once after a pause."""

    def __init__(self, per_second: float, at_once: float) -> None:
        self._per_second, self._at_once = per_second, at_once
        self._left, self._at = at_once, asyncio.get_running_loop().time()

    def take(self, amount: float) -> bool:
        """Take so much, and return whether there was so much left."""
        now = asyncio.get_running_loop().time()
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_second) - amount
        self._at = now
        return self._left >= 0
