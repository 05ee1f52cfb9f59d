"""The brokers of a source: where they are called, whether they may be, and whether one is connected."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError

from node.runtime.guarded_network import ForbiddenAddressError, OutboundFault, resolve
from node.sources.intake import Network, SourceFault
from node.sources.kafka import client
from node.sources.kafka.in_flight import EventLoop

DOWN_S: Final = 6.0  # without a broker that is connected
CHECK_S: Final = 60.0
ERRORS_MAX: Final = 16


async def address_of(broker: str, *, by_name: bool, allowed: Sequence[Network]) -> str:
    """Where to call a broker, ``host:port``: its checked address, or its name.

    Args:
        by_name: Its certificate has to be issued for its name.

    Raises:
        ForbiddenAddressError: It may not be called. SourceFault: Its name cannot be resolved.
    """
    host, _, port = broker.rpartition(":")
    try:
        address, *_ = await resolve(host.strip("[]"), int(port), allowed)
    except ForbiddenAddressError:
        raise
    except (OSError, OutboundFault):
        raise SourceFault(f"the name of a broker cannot be resolved: {host}") from None
    if by_name:
        return broker
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


async def check_addresses(brokers: frozenset[client.Broker], allowed: Sequence[Network]) -> None:
    """Raises ForbiddenAddressError when one of the brokers may not be called."""
    for host, port in sorted(brokers):
        try:
            await resolve(host.strip("[]"), port, allowed)
        except ForbiddenAddressError:
            raise
        except (OSError, OutboundFault):
            continue  # it cannot be called either


class BrokerWatch:
    """What is known of the brokers of a running client. Used by the thread that reads."""

    def __init__(self, loop: EventLoop, allowed: Sequence[Network]) -> None:
        self._loop = loop
        self._allowed = allowed
        self._errors: list[KafkaError] = []
        self._named: frozenset[client.Broker] = frozenset()
        self._checked: frozenset[client.Broker] = frozenset()
        self._checked_s = -math.inf
        self._connected_s = math.inf

    def start(self) -> None:
        """A client begins to connect."""
        self._connected_s = time.monotonic()

    def note_error(self, error: KafkaError) -> None:
        """Remember an error that may pass by itself."""
        self._errors = [*self._errors[1 - ERRORS_MAX :], error]

    def note_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Remember which brokers the client knows, and whether one is connected."""
        if any(broker["state"] == "UP" for broker in statistics["brokers"].values()):
            self._connected_s = time.monotonic()
            self._errors = []
        self._named = frozenset(client.named_brokers(statistics))

    def check(self) -> None:
        """Check brokers that are new, and all of them once in a while.

        Raises:
            ForbiddenAddressError: The cluster names a broker that may not be called.
            SourceFault: No broker can be reached, or an error will not pass by itself. StoppedError.
        """
        if not self._named <= self._checked or time.monotonic() - self._checked_s > CHECK_S:
            self.check_named(self._named)
        worst = client.worst(self._errors)
        if worst is not None and (worst.fatal() or worst.code() in client.DECISIVE):
            raise client.fault(worst)
        if time.monotonic() - self._connected_s > DOWN_S:
            raise client.fault(worst) if worst is not None else SourceFault("no broker can be reached")

    def check_named(self, brokers: frozenset[client.Broker]) -> None:
        """Check brokers that the cluster names.

        Raises:
            ForbiddenAddressError: One of them may not be called. StoppedError.
        """
        try:
            self._loop.run(check_addresses, brokers, self._allowed)
        except ForbiddenAddressError as error:
            raise ForbiddenAddressError(f"the cluster names a broker that may not be called: {error}") from None
        self._checked, self._checked_s = brokers, time.monotonic()
