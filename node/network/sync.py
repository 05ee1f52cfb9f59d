"""Catching up: after an absence this node reads its peers' logs of certificates from its last position on.

Every certificate is checked whole before it is stored. An invalid one is the peer's fault and left out; the others
stay. How fresh the node is follows from when it had last read the logs of all connected peers to their ends.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import attrs
import structlog
import trio

from node.network.certificate_log import CertificateLog
from node.network.checker import Checker
from node.network.inbound_fence import InboundFence
from node.network.requests import PRESENT
from node.network.sync_messages import (
    ENTRIES,
    ENTRIES_BYTES_MAX,
    ENTRIES_MAX,
    IDS,
    NUMBER_BYTES,
    PROOFS,
    EntryPage,
    IdPage,
    ProofPage,
    check_entries,
    read_proofs,
    write_keys,
)
from node.network.transport import Transport
from node.runtime.clock import clock_ms
from protocols import codec
from protocols.errors import MalformedError, WorldFault
from protocols.identifiers import batch_of
from protocols.limits import LOG_PAGE_MAX
from protocols.messages import FraudProof, IdentityKey
from storage import certificate_log
from storage.certificate_log import CURSORS_MAX
from storage.database import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")

ROUND_S: Final = 30.0
RETRY_S: Final = 4.0  # after a failure: it may not know yet that this node is a member
LOOK_S: Final = 0.5
ALONE_S: Final = 10.0  # a node that reaches no peer for so long goes on without having caught up
REQUEST_S: Final = 10.0
PAGES_MAX: Final = 1_000  # of one peer in one round: a log that never ends must not delay the others
ANSWER_BYTES_MAX: Final = 4 * ENTRIES_BYTES_MAX


@attrs.frozen(kw_only=True)
class Freshness:
    """How far this node has caught up.

    Attributes:
        synced: It has read the log of every connected peer to its end, and no round has failed since.
        as_of_ms: When that was; 0 for never.
        peers: Connected peers whose logs were read to the end, of ``connected``.
        alone: No peer was ever reached: there is nothing to catch up with, as far as this node knows.
    """

    synced: bool
    as_of_ms: int
    peers: int
    connected: int
    alone: bool

    @property
    def settles(self) -> bool:
        """Whether a certificate that this node does not have can be taken not to exist."""
        return self.synced or self.alone


class Synchronizer:
    """Reads peers' logs: at the start, when a peer connects, and once in a while."""

    def __init__(
        self,
        *,
        network: str,
        database: Database,
        transport: Transport,
        checker: Checker,
        certificates: CertificateLog,
        expects_peers: Callable[[], bool],
        on_proof: Callable[[FraudProof, IdentityKey], Awaitable[None]],
        fence: InboundFence,
    ) -> None:
        """Args:
        expects_peers: Whether this node has peers to join; without any it is caught up from the start.
        on_proof: Called with each proof that a peer has, and the peer.
        """
        self._network = network
        self._database = database
        self._transport = transport
        self._checker = checker
        self._certificates = certificates
        self._on_proof = on_proof
        self._fence = fence
        self._level_ms: dict[IdentityKey, int] = {}  # when a peer's log was last read to its end
        self._cursors: dict[IdentityKey, int] = {}
        self._expects_peers = expects_peers
        self._started_ms = clock_ms()
        self._rng = random.Random(transport.identity)  # noqa: S311 -- jitter, no secret

    def freshness(self) -> Freshness:
        connected = self._connected()
        level = [self._level_ms[peer] for peer in connected if peer in self._level_ms]
        lasting_ms = int(3_000 * ROUND_S)
        patience_ms = int(1_000 * ALONE_S) if self._expects_peers() else 0
        fresh = bool(level) and len(level) == len(connected) and min(level) > clock_ms() - lasting_ms
        return Freshness(
            synced=fresh,
            as_of_ms=max(self._level_ms.values(), default=0),
            peers=len(level),
            connected=len(connected),
            alone=not connected and not self._level_ms and clock_ms() >= self._started_ms + patience_ms,
        )

    async def run(self) -> None:
        self._cursors = await self._database.run(certificate_log.cursors)
        due_s: dict[IdentityKey, float] = {}
        while True:
            connected = self._connected()
            for peer in connected:
                if trio.current_time() >= due_s.get(peer, 0.0):
                    pause_s = ROUND_S if await self._catch_up(peer) else RETRY_S
                    due_s[peer] = trio.current_time() + pause_s * self._rng.uniform(0.7, 1.3)
            due_s = {peer: at_s for peer, at_s in due_s.items() if peer in connected}
            self._level_ms = {peer: at for peer, at in self._level_ms.items() if peer in connected or not connected}
            if len(self._cursors) > CURSORS_MAX:
                self._cursors = {peer: at for peer, at in self._cursors.items() if peer in connected}
            await trio.sleep(LOOK_S)

    def _connected(self) -> tuple[IdentityKey, ...]:
        return tuple(peer.identity for peer in self._transport.peers() if peer.connected)

    async def _catch_up(self, peer: IdentityKey) -> bool:
        """Read what a peer has; False where that should be tried again soon."""
        try:
            with self._fence.contain("answer", peer):
                await self._read_all(peer)
                return True
            self._level_ms.pop(peer, None)
            return True
        except WorldFault as error:  # of the peer, the worker that checks its answers, or the database
            log.info("sync.unreachable", peer=peer.hex(), why=str(error))
        return False

    async def _read_all(self, peer: IdentityKey) -> None:
        learned = await self._read(peer)
        if peer not in self._level_ms:
            page = await self._ask(ProofPage, peer, PROOFS)
            for proof in await self._checker.admit(partial(read_proofs, page, self._network)):
                await self._on_proof(proof, peer)
        self._level_ms[peer] = clock_ms()
        if learned:
            log.info("sync.caught_up", peer=peer.hex(), certificates=learned, number=self._cursors.get(peer, 0))

    async def _read(self, peer: IdentityKey) -> int:
        """Read a peer's log from the cursor to its end. Returns how many certificates were new here."""
        learned = 0
        for _ in range(PAGES_MAX):
            cursor = self._cursors.get(peer, 0)
            page = await self._ask(IdPage, peer, IDS + cursor.to_bytes(NUMBER_BYTES, "big"))
            numbers = [number for number, _ in page.entries]
            if page.last < cursor:
                cursor = 0  # the peer lost its log, or began another: it is read from the start
                await self._set_cursor(peer, 0)
                if page.last == 0:
                    return learned
                continue
            if numbers != sorted(set(numbers)) or any(number <= cursor for number in numbers):
                raise MalformedError(f"the numbers of log entries must rise from {cursor + 1} on")
            if len(numbers) > LOG_PAGE_MAX or any(len(digest) != 32 for _, digest in page.entries):
                raise MalformedError(
                    f"a page of the log must have at most {LOG_PAGE_MAX} entries with digests of 32 bytes"
                )
            learned += await self.fetch(peer, [batch_of(digest) for _, digest in page.entries])
            if numbers:
                await self._set_cursor(peer, numbers[-1])
            if len(numbers) < LOG_PAGE_MAX:
                return learned
        return learned

    async def _set_cursor(self, peer: IdentityKey, number: int) -> None:
        self._cursors[peer] = number
        await self._database.run(partial(certificate_log.set_cursor, peer=peer, number=number))

    async def fetch(self, peer: IdentityKey, batch_ids: Sequence[str]) -> int:
        """Request the certificates that are not here yet, check and store them. Returns how many were new here.

        Raises:
            PeerUnreachableError: The peer does not answer. PeerFault: one is invalid; the others are stored.
        """
        missing = await self._database.run(partial(certificate_log.unknown, batch_ids=batch_ids))
        learned = 0
        while missing:
            wanted, missing = missing[:ENTRIES_MAX], missing[ENTRIES_MAX:]
            page = await self._ask(EntryPage, peer, ENTRIES + write_keys(wanted))
            good, why = await self._checker.admit(partial(check_entries, page, self._network, frozenset(wanted)))
            if len(good) < len(wanted) and len(page.entries) < len(wanted) and page.entries and not why:
                received = {each.certificate.statement.batch_id for each in good}
                unsent = [batch_id for batch_id in wanted if batch_id not in received]
                missing = [*unsent, *missing]  # they did not fit the page
            admitted = [each for each in good if self._certificates.admits(each.certificate)]
            learned += await self._certificates.put(admitted) if admitted else 0
            if why:
                raise MalformedError(why)
        return learned

    async def _ask(self, cls: type[T], peer: IdentityKey, body: bytes) -> T:
        answer = await self._transport.request(peer, body, REQUEST_S)
        if answer[:1] != PRESENT or len(answer) > ANSWER_BYTES_MAX:
            raise MalformedError(f"a page of a log must be present, in at most {ANSWER_BYTES_MAX} bytes")
        return codec.decode(cls, answer[1:])
