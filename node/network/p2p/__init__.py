"""The network over libp2p. Nothing outside this package imports libp2p."""

from node.network.p2p.config import TransportConfig
from node.network.p2p.connector import AddressError, identity_in
from node.network.p2p.opening import ListenError, open_transport

__all__ = ["AddressError", "ListenError", "TransportConfig", "identity_in", "open_transport"]
