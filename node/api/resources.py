"""All resources of the interface, in the order in which the description lists them."""

from typing import Any, Final

from node.api.authentication import handshakes
from node.api.dead_letters import dead_letters
from node.api.docs import docs
from node.api.events import events
from node.api.health import health
from node.api.ingest import ingest
from node.api.market import market
from node.api.network import network
from node.api.objects import objects
from node.api.operations import Resource
from node.api.overlay import overlay
from node.api.policies import policies
from node.api.sources import sources
from node.api.stream import stream
from node.api.subscriptions import subscriptions
from node.api.webhooks import webhooks

SERVED_RESOURCES: Final[tuple[Resource[Any], ...]] = (
    ingest,
    stream,
    events,
    subscriptions,
    sources,
    policies,
    webhooks,
    objects,
    overlay,
    network,
    market,
    dead_letters,
    health,
    docs,
)
"""Those that the app serves as they are; the handshakes come with the gate before all routes."""
RESOURCES: Final[tuple[Resource[Any], ...]] = (*SERVED_RESOURCES, handshakes)
