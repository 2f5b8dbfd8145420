"""What the service counts: tokens of speech and text, in both directions, and when it tells. No clock."""

from typing import Final

from novasonic.emulator.outbox import Outbox
from novasonic.messages import UsageEvent
from novasonic.models import Usage

TOKENS_A_SECOND: Final = 25
"""Of speech: in 12 of 12 recorded responses, exactly."""

_BATCH: Final = 20
"""Tokens, of speech and text together, that are told at a time while a response is generated."""


def text_tokens(text: str) -> int:
    """Return about how many tokens a text has. The real tokenizer is not known."""
    return len(text) // 4 + 1


class UsageCounter:
    """Counts one stream, and says so: at once for what came in, in batches for what is generated.

    Attributes:
        total: What was told so far.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.total = Usage()
        self._outbox = outbox
        self._speech = 0  # generated and not told yet
        self._text = 0

    def spend(self, now: float, *, speech: int = 0, text: int = 0) -> None:
        """Tell what came in."""
        self._tell(Usage(speech_input=speech, text_input=text), now)

    def make(self, now: float, *, speech: int = 0, text: int = 0) -> None:
        """Count what was generated, and tell it by full batches."""
        self._speech += speech
        self._text += text
        while self._speech + self._text >= _BATCH:
            text = min(self._text, _BATCH)
            self._tell_made(_BATCH - text, text, now)

    def settle(self, now: float) -> bool:
        """Tell what is left of what was generated; whether there was anything."""
        left = self._speech + self._text > 0
        if left:
            self._tell_made(self._speech, self._text, now)
        return left

    def _tell_made(self, speech: int, text: int, now: float) -> None:
        self._speech -= speech
        self._text -= text
        self._tell(Usage(speech_output=speech, text_output=text), now)

    def _tell(self, delta: Usage, now: float) -> None:
        self.total += delta
        self._outbox.say(UsageEvent(delta=delta, total=self.total), now)
