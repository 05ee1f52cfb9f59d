"""GET /overlay/node, /overlay/caller, /overlay/agents and /overlay/peers: who is there, as this node sees it."""

from quart import Blueprint, Response, g

from node.api.services import Services
from node.api.wire import answer
from node.runtime.access import Caller
from node.runtime.build import build_id
from protocols.certificate import agent_id


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("network", __name__)

    @blueprint.get("/overlay/node")
    async def get_node() -> Response:
        """Whose node this is: what a client must know to prove its identity here."""
        identity = services.key.identity
        return answer(
            {
                "agentId": agent_id(identity),
                "identityKey": identity.hex(),
                "network": services.settings.network,
                "build": build_id(),
                "identityRequired": services.access.identity_required,
            }
        )

    @blueprint.get("/overlay/caller")
    async def get_caller() -> Response:
        """Who the caller proved to be, and what it is to this node."""
        caller: Caller = g.caller
        return answer(
            {
                "identityKey": None if caller.identity is None else caller.identity.hex(),
                "form": caller.form,
                "roles": sorted(role.value for role in caller.roles),
            }
        )

    @blueprint.get("/overlay/agents")
    async def list_agents() -> Response:
        return answer({"agents": list(services.network_view.agents())})

    @blueprint.get("/overlay/peers")
    async def list_peers() -> Response:
        return answer({"peers": list(services.network_view.peers())})

    return blueprint
