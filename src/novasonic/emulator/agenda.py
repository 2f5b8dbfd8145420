"""What is to happen when: a heap of appointments, run by whoever knows the time. No clock of its own."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, order=True)
class Appointment:
    """Something that is to be done at a certain time, unless it is cancelled."""

    at: float
    order: int
    do: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Do not do it. Once it was done this means nothing."""
        self.cancelled = True


class Agenda:
    """The appointments of one stream, in order; those of one moment in the order in which they were made.

    Attributes:
        now: The time of the appointment that is being kept, or up to which all were kept.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self._heap: list[Appointment] = []
        self._made = 0

    def at(self, when: float, do: Callable[[], None]) -> Appointment:
        """Make an appointment; one in the past is kept as soon as possible."""
        self._made += 1
        appointment = Appointment(max(when, self.now), self._made, do)
        heapq.heappush(self._heap, appointment)
        return appointment

    def after(self, seconds: float, do: Callable[[], None]) -> Appointment:
        """Make an appointment so long from now."""
        return self.at(self.now + seconds, do)

    @property
    def due(self) -> float | None:
        """When the next one is; None if there is none."""
        while self._heap and self._heap[0].cancelled:
            heapq.heappop(self._heap)
        return self._heap[0].at if self._heap else None

    def run(self, now: float) -> None:
        """Keep all appointments up to `now`, each at its own time, and the ones that they make."""
        while (due := self.due) is not None and due <= now:
            appointment = heapq.heappop(self._heap)
            self.now = due
            appointment.do()
        self.now = max(self.now, now)

    def clear(self) -> None:
        """Cancel everything."""
        self._heap.clear()
