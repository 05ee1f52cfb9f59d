"""The signed head of a node's feed: a client that receives nothing can tell silence from loss, and prove it."""

from typing import Any, Final

from protocols import keys
from protocols.canonical import canonical_json, parse_json
from protocols.errors import BadSignatureError, MalformedError

PROTOCOL: Final = (2, "overlay log checkpoint")
KEY_ID: Final = "1"
TYPE: Final = "overlay-log-checkpoint"


def checkpoint_document(
    key: keys.PrivateKey, *, network: str, place: str, batch_id: str, timestamp: str
) -> dict[str, Any]:
    """Sign where a feed stands.

    Args:
        place: The last event's ``<sequence>.<position>``. batch_id: of its batch; empty where there is none.
        timestamp: RFC 3339.
    """
    message = {"type": TYPE, "network": network, "place": place, "batchId": batch_id, "timestamp": timestamp}
    signed = canonical_json(message)
    return {
        "place": place,
        "batchId": batch_id,
        "identityKey": key.identity.hex(),
        "protocolID": list(PROTOCOL),
        "keyID": KEY_ID,
        "signed": signed.hex(),
        "signature": key.sign(PROTOCOL, KEY_ID, signed).hex(),
    }


def verify_checkpoint(document: dict[str, Any], *, network: str, identity: bytes) -> dict[str, Any]:
    """What a node signed of its feed's head: ``place``, ``batchId`` and ``timestamp``.

    Args:
        identity: The node's identity key, 33 bytes.

    Raises:
        MalformedError: the document is not a checkpoint. BadSignatureError: not this node's, or not of this network.
    """
    try:
        signed, signature = bytes.fromhex(document["signed"]), bytes.fromhex(document["signature"])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError("the document must be a signed checkpoint") from error
    if not keys.verify(identity, PROTOCOL, KEY_ID, signed, signature):
        raise BadSignatureError("the checkpoint is not signed by this node")
    message = parse_json(signed)
    if not isinstance(message, dict) or message.get("type") != TYPE or message.get("network") != network:
        raise BadSignatureError("the signature is over another checkpoint")
    if any(document.get(name) != message[name] for name in ("place", "batchId")):
        raise BadSignatureError("the readable members are not what is signed")
    return message
