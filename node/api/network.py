"""GET /overlay/agents and /overlay/peers: who is there, as this node sees it."""

from quart import Blueprint, Response

from node.api.services import Services
from node.api.wire import answer


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("network", __name__)

    @blueprint.get("/overlay/agents")
    async def list_agents() -> Response:
        return answer({"agents": list(services.network_view.agents())})

    @blueprint.get("/overlay/peers")
    async def list_peers() -> Response:
        return answer({"peers": list(services.network_view.peers())})

    return blueprint
