"""A batch once it is certified and stored, in the form that delivery takes."""

import attrs

from protocols.messages import QuorumCertificate


@attrs.frozen(kw_only=True)
class CertifiedResult:
    """A batch of this node's that is certified and stored.

    Attributes:
        leaves, normalized: Verdict and normalized data of each event, newline-joined, in batch order.
        sequence: Its place among the certified batches of this node.
    """

    certificate: QuorumCertificate
    topics: tuple[str, ...]
    leaves: bytes
    normalized: bytes
    received_ms: int
    certified_ms: int
    sequence: int

    @property
    def took_s(self) -> float:
        """Seconds from the acknowledgement of the batch to its certificate."""
        return (self.certified_ms - self.received_ms) / 1000
