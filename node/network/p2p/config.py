"""Settings of the transport."""

import attrs


@attrs.define
class Members:
    """Who is let in; can be replaced while the transport is open."""

    identities: frozenset[bytes] | None = None  # None: everybody


def _members(given: "Members | frozenset[bytes] | None") -> Members:
    return given if isinstance(given, Members) else Members(given)


@attrs.frozen(kw_only=True)
class TransportConfig:
    """Settings of one node's end of the network."""

    secret: bytes = attrs.field(repr=False)  # 32 bytes: the identity key is the host key
    network: str  # stands in every protocol and topic name, so that networks never mix
    topics: tuple[str, ...]  # short names of the gossip topics to take part in
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)  # multiaddrs; port 0 picks one
    announce: tuple[str, ...] = ()  # given to peers in place of ``listen``: behind NAT, or listening on a wildcard
    bootstrap: tuple[str, ...] = ()  # multiaddrs, with or without ``/p2p/...``; any may be dead
    members: Members = attrs.field(default=None, converter=_members)  # identities, or None for all
    eclipse_protection: bool = False  # wants neighbours from 3 addresses or more: off where peers share one
    silence_s: float = 45.0  # a peer that sends nothing for so long is taken for dead
    redial_s_max: float = 5.0  # the longest pause between two attempts to reach a peer

    def admits(self, identity: bytes) -> bool:
        """Whether an identity may connect."""
        identities = self.members.identities
        return identities is None or identity in identities
