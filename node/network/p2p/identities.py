"""Peer ids and the identity keys that they hold."""

from typing import Final

from libp2p.peer.id import ID

from protocols.messages import IdentityKey

PEER_ID_HEAD: Final = bytes((0x00, 0x25, 0x08, 0x02, 0x12, 0x21))  # identity multihash of a secp256k1 key in protobuf
IDENTITY_BYTES: Final = 33


def peer_id_of(identity: IdentityKey) -> ID:
    """The peer id that holds an identity key."""
    return ID(PEER_ID_HEAD + identity)


def identity_of(peer_id: bytes) -> IdentityKey | None:
    """The identity key in a peer id's bytes, or None for a peer id of another kind of key."""
    if len(peer_id) != len(PEER_ID_HEAD) + IDENTITY_BYTES or not peer_id.startswith(PEER_ID_HEAD):
        return None
    return peer_id[len(PEER_ID_HEAD) :]
