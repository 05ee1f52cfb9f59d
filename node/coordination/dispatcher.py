"""The one table from effect to handler, and the tasks that carry effects out.

The driver hands over effects after the commit that caused them. Those in ``IN_ORDER`` reach their handler one after
the other, in the order of the commits; the others run side by side, up to ``TASKS_MAX`` at once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import structlog
import trio

from node.runtime.containment import Quarantine
from protocols import effects
from protocols.effects import Effect, Publish, Send, SetAlarm
from protocols.errors import WorldFault
from storage.errors import StorageRefusedError

log = structlog.get_logger(__name__)

TASKS_MAX: Final = 256  # effects under way at once; past it the driver waits
IN_ORDER: Final = frozenset({Publish, Send})
BY_DRIVER: Final = frozenset({SetAlarm})
CATALOGUE: Final = (
    frozenset(
        found
        for found in vars(effects).values()
        if isinstance(found, type) and issubclass(found, Effect) and found is not Effect
    )
    - BY_DRIVER
)
"""Every type of effect that leaves the driver: those that ``protocols.effects`` defines.

Not ``Effect.__subclasses__()``: a slotted attrs class leaves the class it replaced behind until that is collected.
"""

Handlers: TypeAlias = Mapping[type[Effect], Callable[[Any], Awaitable[None]]]
"""What a part of the node carries out: each handler takes an effect of exactly the type it is registered for."""


class Dispatcher:
    """Takes each effect to its handler."""

    def __init__(self, *tables: Handlers, quarantine: Quarantine | None = None) -> None:
        """Args:
        tables: The handlers of each part. Together they name every type in ``CATALOGUE`` once.
        quarantine: Counts the effects with a value that the database cannot hold.
        """
        self._quarantine = quarantine or Quarantine()
        self._handlers = {effect: handler for table in tables for effect, handler in table.items()}
        twice = sum(map(len, tables)) - len(self._handlers)
        assert not twice, f"{twice} types of effect have more than one handler"
        missing = sorted(effect.__name__ for effect in CATALOGUE - self._handlers.keys())
        assert not missing, f"no handler for {', '.join(missing)}"
        unknown = sorted(effect.__name__ for effect in self._handlers.keys() - CATALOGUE)
        assert not unknown, f"never dispatched: {', '.join(unknown)}"
        self._tasks = trio.Semaphore(TASKS_MAX)
        self._send, self._receive = trio.open_memory_channel[Effect](TASKS_MAX)

    async def dispatch(self, caused: Sequence[Effect]) -> None:
        """Hand effects over; waits while too many are under way, and with it the driver."""
        for effect in caused:
            if type(effect) in IN_ORDER:
                await self._handlers[type(effect)](effect)
            else:
                await self._send.send(effect)

    async def run(self) -> None:
        """Carry effects out until cancelled."""
        async with trio.open_nursery() as nursery:
            async for effect in self._receive:
                await self._tasks.acquire()
                nursery.start_soon(self._carry_out, effect)

    async def _carry_out(self, effect: Effect) -> None:
        try:
            await self._handlers[type(effect)](effect)
        except WorldFault as fault:
            # The entity still needs the effect: its alarm, or the next start, causes it again.
            log.error("effect.failed", effect=type(effect).__name__, why=str(fault))
        except StorageRefusedError as fault:  # a value from outside: others of its kind can be stored
            self._quarantine.keep("effect", type(effect).__name__, b"", fault)
        finally:
            self._tasks.release()
