"""Documents known by their hash: policies and batch outputs, from this node or requested from a peer.

A request is a tag and a key. A policy that a peer sends is kept only if its hash is the one requested; the outputs
of a batch are for the caller to check.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog

from node.network.requests import PRESENT, Answerer
from node.network.transport import PeerUnreachableError, Transport
from protocols.envelope import digest
from protocols.limits import PAYLOAD_BYTES_MAX, POLICY_BYTES_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

POLICY: Final = b"P"
OUTPUTS: Final = b"O"
HASH_BYTES: Final = 32
POLICIES_MAX: Final = 256
REQUEST_TIMEOUT_S: Final = 5.0
BATCH_ID_BYTES_MAX: Final = 128

OutputsFinder: TypeAlias = Callable[[str], Awaitable[tuple[bytes, bytes] | None]]
"""Leaves and normalized data of a batch; None where they are not here."""


class ContentExchange:
    """Looks here first, then at the peer that must have the document."""

    def __init__(
        self,
        *,
        transport: Transport,
        find_policy: Callable[[bytes], Awaitable[bytes | None]],
        keep_policy: Callable[[bytes, bytes, IdentityKey], Awaitable[None]],
    ) -> None:
        """Args:
        keep_policy: Stores a policy, by its hash, and the peer that sent it.
        """
        self._transport = transport
        self._find_policy = find_policy
        self._keep_policy = keep_policy
        self._policies: OrderedDict[bytes, bytes] = OrderedDict()

    @property
    def identity(self) -> IdentityKey:
        """This node's own."""
        return self._transport.identity

    async def policy(self, policy_hash: bytes, holder: IdentityKey) -> bytes | None:
        """The canonical policy document of that hash; None if neither this node nor ``holder`` has it."""
        known = self._policies.get(policy_hash) or await self._find_policy(policy_hash)
        if known is None and holder != self._transport.identity:
            known = await self._ask(holder, POLICY + policy_hash)
            if known is None or len(known) > POLICY_BYTES_MAX or digest(known) != policy_hash:
                return None
            await self._keep_policy(policy_hash, known, holder)
        if known is not None:
            self._policies[policy_hash] = known
            if len(self._policies) > POLICIES_MAX:
                self._policies.popitem(last=False)
        return known

    async def outputs(self, batch_id: str, holder: IdentityKey) -> tuple[bytes, bytes] | None:
        """Leaves and normalized data of a batch as ``holder`` has them: the caller compares the root."""
        found = await self._ask(holder, OUTPUTS + batch_id.encode())
        if found is None or len(found) < 4:
            return None
        end = 4 + int.from_bytes(found[:4], "big")
        return found[4:end], found[end:]

    async def answer_policy(self, body: bytes) -> bytes:
        """Answer a peer's request for a policy; empty where it is not here."""
        policy_hash = body[len(POLICY) :]
        if len(policy_hash) != HASH_BYTES:
            return b""
        return self._policies.get(policy_hash) or await self._find_policy(policy_hash) or b""

    async def _ask(self, holder: IdentityKey, body: bytes) -> bytes | None:
        try:
            answer = await self._transport.request(holder, body, REQUEST_TIMEOUT_S)
        except PeerUnreachableError as error:
            log.info("content.unreachable", peer=holder.hex(), why=str(error))
            return None
        return answer[1:] if answer[:1] == PRESENT and len(answer) <= 3 * PAYLOAD_BYTES_MAX else None


def answer_outputs(*finders: OutputsFinder) -> Answerer:
    """The answerer of requests for a batch's outputs: the first finder that has them decides."""

    async def answer(body: bytes) -> bytes:
        key = body[len(OUTPUTS) :]
        if len(key) > BATCH_ID_BYTES_MAX:
            return b""
        for find in finders:
            outputs = await find(key.decode("ascii", "replace"))
            if outputs is not None:
                leaves, normalized = outputs
                return len(leaves).to_bytes(4, "big") + leaves + normalized
        return b""

    return answer
