"""What the end of a batch means for taking events in: its events are counted out, and those that wait are told."""

from node.coordination.certified_result import CertifiedResult
from node.ingest.bisection import Salvage
from node.ingest.pipeline import Ingest
from node.ingest.replication import Replications
from node.ingest.trust_scores import TrustScores
from protocols.messages import IdentityKey


class Settlement:
    """Listens for the ends of batches."""

    def __init__(
        self,
        *,
        identity: IdentityKey,
        ingest: Ingest,
        replications: Replications,
        trust: TrustScores,
        salvage: Salvage,
    ) -> None:
        """``identity``: this node's own. Batches that it finished for other coordinators do not count here."""
        self._identity = identity
        self._ingest = ingest
        self._replications = replications
        self._trust = trust
        self._salvage = salvage

    def on_certified(self, result: CertifiedResult) -> None:
        """Count out a batch that is certified and stored."""
        statement = result.certificate.statement
        if statement.coordinator == self._identity:
            self._ingest.settle(statement.events)
            self._replications.held(statement.batch_id, ())  # a certified batch needs no holders any more
            self._trust.note(statement)

    def on_dead(self, batch_id: str, events: int) -> None:
        """Count out a batch that is marked dead, and have the event that caused it searched for.

        ``events`` is 0 for a batch of another node, or one that had its end before.
        """
        self._replications.held(batch_id, ())  # a request that waits for holders is answered by the end instead
        self._ingest.settle(events)
        if events:
            self._salvage.died(batch_id)
