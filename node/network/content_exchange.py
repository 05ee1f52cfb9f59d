"""Documents known by their hash: policies and batch outputs, from this node or asked of a peer.

A request is one letter and a key; an answer is one byte of presence and the document. What a peer sends is
kept only if its hash is the one asked for. Other letters are answered by whoever was named for them.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from node.network.transport import PeerUnreachableError, Transport
from protocols.envelope import digest
from protocols.limits import PAYLOAD_BYTES_MAX, POLICY_BYTES_MAX
from protocols.messages import IdentityKey

log = structlog.get_logger(__name__)

POLICY, OUTPUTS = b"P", b"O"
ABSENT, PRESENT = b"\0", b"\1"
POLICIES_MAX = 256
REQUEST_TIMEOUT_S = 5.0
BATCH_ID_BYTES_MAX = 128

Answerer: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Answers a whole request, letter and all; empty where there is nothing. Raises only ``OverlayError``."""


class ContentExchange:
    """Looks here first, then at the peer that must have it."""

    def __init__(
        self,
        *,
        transport: Transport,
        find_policy: Callable[[bytes], Awaitable[bytes | None]],
        keep_policy: Callable[[bytes, bytes], Awaitable[None]],
        find_outputs: Callable[[str], Awaitable[tuple[bytes, bytes] | None]],
        others: Mapping[bytes, Answerer] | None = None,
    ) -> None:
        """``others``: who answers requests of further letters."""
        self._transport = transport
        self._find_policy = find_policy
        self._keep_policy = keep_policy
        self._find_outputs = find_outputs
        self._others = others or {}
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
            await self._keep_policy(policy_hash, known)
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

    async def answer(self, sender: IdentityKey, body: bytes) -> bytes:
        """Serve a peer's request. Garbage is answered like an absent document."""
        kind, key = body[:1], body[1:]
        found: bytes | None = None
        if kind == POLICY and len(key) == 32:
            found = self._policies.get(key) or await self._find_policy(key)
        elif kind == OUTPUTS and len(key) <= BATCH_ID_BYTES_MAX:
            outputs = await self._find_outputs(key.decode("ascii", "replace"))
            if outputs is not None:
                leaves, normalized = outputs
                found = len(leaves).to_bytes(4, "big") + leaves + normalized
        elif kind in self._others:
            found = await self._others[kind](body) or None
        return ABSENT if found is None else PRESENT + found

    async def _ask(self, holder: IdentityKey, body: bytes) -> bytes | None:
        try:
            answer = await self._transport.request(holder, body, REQUEST_TIMEOUT_S)
        except PeerUnreachableError as error:
            log.info("library.unreachable", peer=holder.hex(), why=str(error))
            return None
        return answer[1:] if answer[:1] == PRESENT and len(answer) <= 3 * PAYLOAD_BYTES_MAX else None
