"""The seam between a session and the way to the service: whole messages, and nothing about AWS.

`novasonic.bedrock` is the real way; a fake for tests is a few lines.
"""

from collections.abc import Sequence
from typing import Protocol


class Transport(Protocol):
    """An open duplex stream of whole messages, each the JSON text of one document."""

    @property
    def request_id(self) -> str | None:
        """The service's id of this stream, for its support; None where there is none."""
        ...

    @property
    def expires_in(self) -> float | None:
        """Seconds from the stream's acceptance until its credentials expire; later, nothing sent is accepted.

        It does not count down. None if they do not expire, or nobody knows when.
        """
        ...

    async def send(self, data: bytes) -> None:
        """Send one message; wait while the service is slow to take it.

        Cancelling is safe: the message goes out whole or not at all.

        Raises:
            TransportError: If the stream has ended.
        """
        ...

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the service has ended the stream in good order.

        Cancelling is safe: no message is lost.

        Raises:
            TransportError: If the stream ended in any other way.
            RemoteProtocolError: If what arrived cannot be told apart into messages.
        """
        ...

    async def end_input(self) -> None:
        """Tell the service that no more messages will come. Returns at once."""
        ...

    async def aclose(self) -> None:
        """Give up the stream, whatever its state, within about a second. Twice is fine; never raises."""
        ...


class Connector(Protocol):
    """Opens streams. One connector may open many, one after the other or at once."""

    async def __call__(self, first: Sequence[bytes], *, timeout: float) -> Transport:  # noqa: ASYNC109 - see Raises
        """Open a stream, send `first` on it, and return once the service has accepted it.

        The service accepts a stream only after it has read the first messages, so they are sent without
        waiting. A cancelled or failed call leaves nothing behind.

        Args:
            first: The messages that open a session.
            timeout: Seconds for all of it.

        Raises:
            TransportError: If the stream could not be opened within `timeout`; it says which step failed,
                as only the connector knows.
        """
        ...
