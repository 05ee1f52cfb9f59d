"""Agents and peers as the API shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from node.coordination.reputations import Reputations
from node.network.discovery import Discovery, Offer
from node.network.transport import Transport
from protocols.certificate import agent_id, rfc3339
from protocols.directory import DirectoryEntry

OUTCOMES = ("agreed", "dissented", "late", "equivocated")


class DirectoryView:
    """Advertisements in force and connections, this node among the agents."""

    def __init__(self, discovery: Discovery, transport: Transport, reputations: Reputations, offer: Offer) -> None:
        self._discovery = discovery
        self._transport = transport
        self._reputations = reputations
        self._offer = offer

    def agents(self) -> Sequence[Mapping[str, Any]]:
        entries = self._discovery.directory.entries
        return [self._agent(identity, entries[identity]) for identity in sorted(entries)]

    def agent(self, identity: bytes) -> dict[str, Any] | None:
        """What one agent advertises; None if it does not."""
        entry = self._discovery.directory.entries.get(identity)
        return None if entry is None else dict(self._agent(identity, entry))

    def peers(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "agentId": agent_id(peer.identity),
                "identityKey": peer.identity.hex(),
                "addresses": list(peer.addresses),
                "connected": peer.connected,
                "connectedSince": None if peer.connected_since_ms is None else rfc3339(peer.connected_since_ms),
                "queuedFrames": peer.queued,
                "refusal": peer.refusal or None,
            }
            for peer in self._transport.peers()
        ]

    def _agent(self, identity: bytes, entry: DirectoryEntry) -> Mapping[str, Any]:
        advertised = entry.advertisement.message
        reputations = self._reputations.by_role(identity)
        return {
            "agentId": agent_id(identity),
            "identityKey": identity.hex(),
            "self": identity == self._transport.identity,
            "roles": [role.word for role in entry.roles],
            "tokens": [{"kind": token.kind, "name": token.name, "url": token.url} for token in entry.tokens],
            "url": advertised.url,
            "operator": advertised.operator,
            "region": advertised.region,
            "price": advertised.price,
            "capacity": advertised.capacity,
            "build": advertised.build,
            "reputation": self._reputations.overall(identity),
            "reputationByRole": {role.word: reputations[role] for role in entry.roles},
            "outcomes": self._outcomes(identity),
            "firstHeardAt": rfc3339(entry.first_heard_ms),
            "expiresAt": rfc3339(advertised.expires_ms),
        }

    def _outcomes(self, identity: bytes) -> Mapping[str, int]:
        seen = self._reputations.counts(identity).values()
        return {name: sum(getattr(each, name) for each in seen) for name in OUTCOMES} if seen else {}
