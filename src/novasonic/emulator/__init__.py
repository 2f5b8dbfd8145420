"""Bedrock on localhost: what novasonic, or any client of Nova Sonic, can be run against without AWS.

`Emulator` is the service over TLS, HTTP/2 and event-stream frames, for programs that run unchanged; it needs
the extra `emulator`. `MemoryConnector` is the same service without a wire, to be given to a session as its
transport. A `Scenario` tells both what is heard and answered::

    scenario = Scenario(turns=[Turn(heard="what time is it?", says=["Time to talk."])])
    async with Emulator(scenario, speed=10) as bedrock:
        os.environ.update(bedrock.env)
"""

from typing import TYPE_CHECKING

from novasonic.emulator.log import SessionLog
from novasonic.emulator.memory import MemoryConnector, MemoryTransport
from novasonic.emulator.scenario import Behaviour, Fault, Heard, Say, Scenario, ToolCall, Turn
from novasonic.emulator.service import Service, Stream

if TYPE_CHECKING:
    from novasonic.emulator.server import Emulator

__all__ = [
    "Behaviour",
    "Emulator",
    "Fault",
    "Heard",
    "MemoryConnector",
    "MemoryTransport",
    "Say",
    "Scenario",
    "Service",
    "SessionLog",
    "Stream",
    "ToolCall",
    "Turn",
]


def __getattr__(name: str) -> object:
    """Import the server when it is asked for: h2 and trustme are an extra."""
    if name != "Emulator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from novasonic.emulator.server import Emulator  # noqa: PLC0415 - see above

    return Emulator
