"""Pages of a log of certificates, as peers give them to each other. Imports the pure packages only.

Two requests: ``I`` and a number asks for the ids of the entries after it, ``L`` and SHA-256s for the certificates of
those batches. So no certificate is sent that the other node has, and a comparison costs 40 bytes an entry. ``F`` asks
for the latest proofs against agents. ``M`` and SHA-256s asks for the manifests of those batches: each has that hash,
so a peer cannot invent the topics of a certified batch.
"""

from collections.abc import Collection
from typing import Any, Final

import attrs

from protocols import certificate, codec, envelope
from protocols.errors import MalformedError, OverlayError
from protocols.identifiers import batch_digest, batch_of
from protocols.limits import CONTEXT_BYTES_MAX
from protocols.messages import BatchSealed, Evidence, FraudProof, Manifest, QuorumCertificate
from protocols.proofs import proof_of, proof_problem

IDS, ENTRIES, PROOFS, MANIFESTS = b"I", b"L", b"F", b"M"
PROOFS_MAX: Final = 256
ENTRIES_MAX: Final = 64
MANIFESTS_MAX: Final = 64
ENTRIES_BYTES_MAX: Final = 1024 * 1024
NUMBER_BYTES: Final = 8
NUMBER_MAX: Final = 2**63 - 1  # what a column for it holds


def is_number(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
    """A validator: the number of a log entry."""
    if not 0 <= value <= NUMBER_MAX:
        raise ValueError(f"{attribute.name} must be 0 to {NUMBER_MAX}")


def have_numbers(_: object, attribute: "attrs.Attribute[Any]", value: tuple[tuple[int, bytes], ...]) -> None:
    """A validator: entries that are led by their numbers."""
    if any(not 0 <= number <= NUMBER_MAX for number, _ in value):
        raise ValueError(f"the numbers of {attribute.name} must be 0 to {NUMBER_MAX}")


@attrs.frozen(kw_only=True)
class IdPage:
    """Ids of log entries after a number, in their order.

    Attributes:
        last: Number of the log's latest entry.
        entries: (number, SHA-256 of the batch id); numbers are at most ``NUMBER_MAX``.
    """

    last: int = attrs.field(validator=is_number)
    entries: tuple[tuple[int, bytes], ...] = attrs.field(validator=have_numbers)


@attrs.frozen(kw_only=True)
class EntryPage:
    """(quorum certificate, context left behind), encoded."""

    entries: tuple[tuple[bytes, bytes], ...]


@attrs.frozen(kw_only=True)
class ProofPage:
    """The two signed answers of each proof, as frames."""

    entries: tuple[tuple[bytes, bytes], ...]


@attrs.frozen(kw_only=True)
class ManifestPage:
    """Signed manifests, as frames."""

    entries: tuple[bytes, ...]


def read_keys(body: bytes, count_max: int) -> list[str]:
    """The batch ids that a request names by their hashes; none where it is malformed."""
    if not body or len(body) % 32 or len(body) > 32 * count_max:
        return []
    return [batch_of(body[at : at + 32]) for at in range(0, len(body), 32)]


def write_keys(batch_ids: Collection[str]) -> bytes:
    """The inverse of ``read_keys``."""
    return b"".join(batch_digest(batch_id) for batch_id in batch_ids)


def read_manifests(body: bytes, network: str, wanted: Collection[str]) -> dict[str, tuple[bytes, Manifest]]:
    """The manifests of a page with their frames, by batch id: each was requested, and is signed.

    Raises:
        PeerFault: one is not.
    """
    found: dict[str, tuple[bytes, Manifest]] = {}
    for frame in codec.decode(ManifestPage, body).entries:
        signed, attachment = envelope.open_frame(frame, network)
        manifest = signed.message
        if not isinstance(manifest, Manifest) or attachment:
            raise MalformedError("a page of manifests must hold manifests alone, without attachments")
        if manifest.batch_id not in wanted or manifest.batch_id in found:
            raise MalformedError("the page holds a manifest that was not requested, or one twice")
        if signed.signer != manifest.coordinator:
            raise MalformedError("a manifest must be signed by its coordinator")
        found[manifest.batch_id] = frame, manifest
    return found


def read_proofs(page: ProofPage, network: str) -> list[FraudProof]:
    """The proofs in a page, every signature checked.

    Raises:
        PeerFault: there are too many, or one is not a proof.
    """
    if len(page.entries) > PROOFS_MAX:
        raise MalformedError(f"{len(page.entries)} proofs, at most {PROOFS_MAX} are allowed")
    found = []
    for frames in page.entries:
        first, second = (envelope.narrow(envelope.open_frame(frame, network)[0], Evidence) for frame in frames)
        proof = proof_of(first, second)
        if proof_problem(proof):
            raise MalformedError(f"a proof is invalid: {proof_problem(proof)}")
        found.append(proof)
    return found


def check_entries(page: EntryPage, network: str, wanted: Collection[str]) -> tuple[list[BatchSealed], str]:
    """Check the certificates of a page. Returns the valid ones, and what is wrong with the first invalid one.

    Runs in a worker process: there can be thousands after a long absence.
    """
    good, problem = [], ""
    for encoded, context in page.entries:
        try:
            found = codec.decode(QuorumCertificate, encoded)
            envelope.check_texts(found)
            certificate.verify_quorum(found, network=network)
            if found.statement.batch_id not in wanted:
                raise MalformedError("the page holds a certificate that was not requested")
            if len(context) > CONTEXT_BYTES_MAX:
                raise MalformedError(f"a context must have at most {CONTEXT_BYTES_MAX} bytes, not {len(context)}")
        except OverlayError as error:
            problem = problem or str(error)
            continue
        good.append(BatchSealed(network=network, certificate=found, context=context))
    return good, problem
