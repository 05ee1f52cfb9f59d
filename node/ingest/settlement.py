"""What follows from the end of a batch: its events are counted out, and requests that wait for it are answered."""

from node.coordination.certified_result import CertifiedResult
from node.ingest.admission_control import AdmissionControl
from node.ingest.bisection import Bisection
from node.ingest.coalescing import Coalescer
from node.ingest.replication import Replications
from node.ingest.trust_scores import TrustScores
from protocols.messages import IdentityKey


class Settlement:
    """Listens for the ends of batches."""

    def __init__(
        self,
        *,
        identity: IdentityKey,
        admission: AdmissionControl,
        coalescer: Coalescer,
        replications: Replications,
        trust: TrustScores,
        bisection: Bisection,
    ) -> None:
        """``identity``: this node's own. Batches that it finished for other coordinators do not count here."""
        self._identity = identity
        self._admission = admission
        self._coalescer = coalescer
        self._replications = replications
        self._trust = trust
        self._bisection = bisection

    def on_certified(self, result: CertifiedResult) -> None:
        """Count out a batch that is certified and stored."""
        statement = result.certificate.statement
        if statement.coordinator == self._identity:
            self._admission.backlog.leave(statement.batch_id, has_ended=True)
            self._coalescer.ended(statement.batch_id)
            self._replications.held(statement.batch_id, ())  # a certified batch needs no holders any more
            self._trust.note(statement)

    def on_dead(self, batch_id: str, events: int) -> None:
        """Count out a batch that is marked dead, and have the events that caused it searched for.

        ``events`` is 0 for a batch of another node, or one that had its end before.
        """
        self._replications.held(batch_id, ())  # a request that waits for holders is answered by the end instead
        if events:
            self._admission.backlog.leave(batch_id)
            self._coalescer.ended(batch_id)
            self._bisection.enqueue(batch_id)
