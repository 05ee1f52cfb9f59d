"""Pages of a log of certificates, as peers give them to each other. Imports the pure packages only.

Two requests: ``I`` and a number asks for the ids of the entries after it, ``L`` and SHA-256s for the certificates of
those batches. So nobody sends what the other has already, and what is there is found out by 40 bytes an entry.
``F`` asks for the latest proofs against agents.
"""

from collections.abc import Collection
from typing import Final

import attrs

from protocols import certificate, codec, envelope
from protocols.errors import MalformedError, OverlayError
from protocols.limits import CONTEXT_BYTES_MAX
from protocols.messages import BatchSealed, Evidence, FraudProof, QuorumCertificate, Signed
from protocols.proofs import proof_of, proof_problem

IDS, ENTRIES, PROOFS = b"I", b"L", b"F"
PROOFS_MAX: Final = 256
ENTRIES_MAX: Final = 64
ENTRIES_BYTES_MAX: Final = 1024 * 1024
NUMBER_BYTES: Final = 8
PREFIX: Final = "batch_"


@attrs.frozen(kw_only=True)
class IdPage:
    """Ids of log entries after a number, in their order.

    Attributes:
        last: Number of the log's latest entry.
        entries: (number, SHA-256 of the batch id).
    """

    last: int
    entries: tuple[tuple[int, bytes], ...]


@attrs.frozen(kw_only=True)
class EntryPage:
    """(quorum certificate, context left behind), encoded."""

    entries: tuple[tuple[bytes, bytes], ...]


@attrs.frozen(kw_only=True)
class ProofPage:
    """The two signed answers of each proof, as frames."""

    entries: tuple[tuple[bytes, bytes], ...]


def read_proofs(page: ProofPage, network: str) -> list[FraudProof]:
    """The proofs in a page, every signature checked.

    Raises:
        PeerFault: there are too many, or one is not what it should be.
    """
    if len(page.entries) > PROOFS_MAX:
        raise MalformedError(f"{len(page.entries)} proofs, at most {PROOFS_MAX} are asked for")
    found = []
    for frames in page.entries:
        first, second = (envelope.open_frame(frame, network)[0] for frame in frames)
        if not isinstance(first.message, Evidence) or not isinstance(second.message, Evidence):
            raise MalformedError("a proof that is not of evidence")
        proof = proof_of(
            Signed(message=first.message, signer=first.signer, signature=first.signature),
            Signed(message=second.message, signer=second.signer, signature=second.signature),
        )
        if proof_problem(proof):
            raise MalformedError(f"a proof that proves nothing: {proof_problem(proof)}")
        found.append(proof)
    return found


def check_entries(page: EntryPage, network: str, wanted: Collection[str]) -> tuple[list[BatchSealed], str]:
    """Check the certificates of a page. Returns those that hold, and what is wrong with the first that does not.

    Runs in a worker process: there can be thousands after a long absence.
    """
    good, problem = [], ""
    for encoded, context in page.entries:
        try:
            found = codec.decode(QuorumCertificate, encoded)
            certificate.verify_quorum(found, network=network)
            if found.statement.batch_id not in wanted or len(context) > CONTEXT_BYTES_MAX:
                raise MalformedError("a certificate that was not asked for")
        except OverlayError as error:
            problem = problem or str(error)
            continue
        good.append(BatchSealed(network=network, certificate=found, context=context))
    return good, problem
