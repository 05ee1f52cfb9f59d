"""Submissions (BRC-22): checked, admitted by each topic's manager, on disk before the answer, then propagated.

As in BRC-22, topics that this node does not manage are left out of the answer, provided that it manages one of those
named: a broadcaster that requires all topics sees which ones were not acknowledged.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from node.overlay.checking import TransactionChecker
from node.runtime.clock import clock_ms
from protocols.beef import Beef, ancestry, check_amounts, read_beef, write_beef
from protocols.errors import ClientFault, InvalidTransactionError, MalformedError
from protocols.topics import Facts, TopicManager
from protocols.transactions import Transaction
from storage import outputs
from storage.database import Database
from storage.outputs import Applied, NewOutput, NewTransaction

log = structlog.get_logger(__name__)

SUBMISSIONS_AT_ONCE: Final = 2  # read and admitted on threads
WAITING_MAX: Final = 64
TOPICS_MAX: Final = 32


class InvalidBeefError(ClientFault):
    code = "invalid-beef"


class UnknownTopicsError(ClientFault):
    code = "unknown-topics"


class SubmissionsBusyError(ClientFault):
    code = "overloaded"


@attrs.frozen(kw_only=True)
class Accepted:
    """A submission's outcome by topic. ``unchecked`` names the checks that this node cannot make."""

    txid: bytes
    topics: Mapping[str, Applied]
    unchecked: frozenset[str]


@attrs.frozen(kw_only=True)
class Broadcast:
    """An admitted transaction, to be sent to the hosts of its topics."""

    beef: bytes
    off_chain_values: bytes | None
    topics: tuple[str, ...]


class Submissions:
    """Accepts transactions for the topics that this node manages."""

    def __init__(
        self,
        *,
        database: Database,
        managers: Sequence[TopicManager],
        checker: TransactionChecker,
        propagate: Callable[[Broadcast], None],
    ) -> None:
        self.managers: Mapping[str, TopicManager] = {manager.name: manager for manager in managers}
        self._database = database
        self._checker = checker
        self._propagate = propagate
        self._places = trio.CapacityLimiter(SUBMISSIONS_AT_ONCE)

    async def submit(self, data: bytes, topics: Sequence[str], off_chain_values: bytes | None) -> Accepted:
        """Accept a transaction. Returns once its effects are on disk.

        Args:
            data: A BEEF; its subject is submitted.

        Raises:
            InvalidBeefError: ``data`` is not a BEEF. InvalidTransactionError: The transaction cannot be valid.
            UnknownTopicsError: This node manages none of the topics. SubmissionsBusyError: Too many wait.
            DoubleSpendError, TopicFullError: See ``storage.outputs``.
        """
        managers = [self.managers[topic] for topic in dict.fromkeys(topics) if topic in self.managers]
        if not managers:
            raise UnknownTopicsError(
                "this node manages none of the topics named",
                field="X-Topics",
                remedy=f"name some of {', '.join(self.managers)}",
            )
        if self._places.statistics().tasks_waiting >= WAITING_MAX:
            raise SubmissionsBusyError(f"{WAITING_MAX} submissions wait already", retryAfter=1)
        async with self._places:
            admit = partial(_admit, data, managers, off_chain_values)
            new = await trio.to_thread.run_sync(admit)
        unchecked = await self._checker.check(new.beef)
        applied = await self._database.run(partial(outputs.apply, new=new))
        fresh = tuple(topic for topic, result in applied.items() if result.is_new and result.admitted)
        if fresh:
            log.info("submit.admitted", txid=new.txid[::-1].hex(), topics=fresh)
            self._propagate(Broadcast(beef=new.beef, off_chain_values=off_chain_values, topics=fresh))
        return Accepted(txid=new.txid, topics=applied, unchecked=unchecked)


def _admit(data: bytes, managers: Sequence[TopicManager], off_chain_values: bytes | None) -> NewTransaction:
    """Read a BEEF and ask each topic's manager which outputs it admits. Runs on a thread."""
    try:
        beef = read_beef(data)
        subject = beef.subject_transaction
    except MalformedError as error:
        raise InvalidBeefError(
            f"the body must be a BEEF: {error}", remedy="send a BEEF (BRC-62, BRC-95, BRC-96) with all parents"
        ) from error
    if not subject.inputs:  # refused whatever its merkle path: a transaction without inputs needs no coin
        txid = subject.txid_hex
        raise InvalidTransactionError(f"the transaction {txid} must have inputs", txid=txid, why="no-inputs")
    check_amounts(beef)
    return NewTransaction(
        txid=subject.txid,
        beef=_own_form(beef, subject),
        off_chain_values=off_chain_values,
        inputs=tuple((spent.txid, spent.output_index) for spent in subject.inputs),
        admitted={
            manager.name: [_row(facts) for facts in manager.admit(subject, off_chain_values)] for manager in managers
        },
        received_ms=clock_ms(),
    )


def _own_form(beef: Beef, subject: Transaction) -> bytes:
    """The subject with its ancestry and nothing else, in the version that every client reads."""
    return write_beef(ancestry(beef, subject.txid), version=1)


def _row(facts: Facts) -> NewOutput:
    return NewOutput(
        output_index=facts.output_index,
        identity=facts.identity,
        url=facts.url,
        name=facts.name,
        digest=facts.digest,
        batch_id=facts.batch_id,
        expires_s=facts.expires_s,
    )


async def outpoint_is_spent(database: Database, outpoint: str) -> bool:
    """Whether a transaction submitted here spends an outpoint ``txid.index``: how certifiers revoke (BRC-52)."""
    txid, _, index = outpoint.partition(".")
    key = bytes.fromhex(txid)[::-1], int(index)
    return await database.run(partial(outputs.is_spent, outpoint=key))
