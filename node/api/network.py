"""GET /overlay/node, /overlay/caller, /overlay/agents and /overlay/peers: the node, its caller and its peers."""

from quart import Response, g

from node.api.models.market import AgentList
from node.api.models.node import CallerDocument, NodeIdentity, PeerList
from node.api.operations import Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import answer
from node.runtime.access import Caller
from node.runtime.build import build_id
from protocols.certificate import agent_id

network = Resource("network", lambda services: services)


@network.get(
    "/overlay/node",
    Operation(
        operation_id="getNode",
        tag="identity",
        summary="Whose node this is",
        answers={200: json_answer("Its identity.", NodeIdentity)},
    ),
)
async def get_node(services: Services) -> Response:
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


@network.get(
    "/overlay/caller",
    Operation(
        operation_id="getCaller",
        tag="identity",
        summary="Who the caller proved to be, and its roles here",
        answers={200: json_answer("The caller.", CallerDocument)},
        problems=("invalid-authentication", "not-authenticated", "body-too-large"),
    ),
)
async def get_caller(_: Services) -> Response:
    """Who the caller proved to be, and what it is to this node."""
    caller: Caller = g.caller
    return answer(
        {
            "identityKey": None if caller.identity is None else caller.identity.hex(),
            "form": caller.form,
            "roles": sorted(role.value for role in caller.roles),
        }
    )


@network.get(
    "/overlay/agents",
    Operation(
        operation_id="listAgents",
        tag="node",
        summary="Who offers which roles",
        answers={200: json_answer("As this node sees it.", AgentList)},
    ),
)
async def list_agents(services: Services) -> Response:
    return answer({"agents": list(services.network_view.agents())})


@network.get(
    "/overlay/peers",
    Operation(
        operation_id="listPeers",
        tag="node",
        summary="Connections",
        answers={200: json_answer("As this node sees it.", PeerList)},
    ),
)
async def list_peers(services: Services) -> Response:
    return answer({"peers": list(services.network_view.peers())})
