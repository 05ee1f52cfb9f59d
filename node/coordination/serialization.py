"""How signed messages and outputs are stored as bytes in the database, and read back. One form each."""

from typing import TypeVar

from node.worker.compute import unpack
from protocols import codec
from protocols.envelope import narrow, open_frame, to_frame
from protocols.limits import LENGTH_BYTES, PAYLOAD_BYTES_MAX
from protocols.messages import Advertisement, Evidence, HoldBatch, Manifest, Message, QuorumCertificate, Signed
from storage.rows import EvidenceRow

M = TypeVar("M", bound=Message)

OUTPUTS_BYTES_MAX = 4 * PAYLOAD_BYTES_MAX


def manifest_bytes(signed: Signed[Manifest]) -> bytes:
    return to_frame(signed)


def read_manifest(data: bytes, network: str) -> Signed[Manifest]:
    """Read a stored manifest. Raises PeerFault unless it is one of this network with a valid signature."""
    return _read(Manifest, data, network)


def evidence_bytes(signed: Signed[Evidence]) -> bytes:
    return to_frame(signed)


def read_evidence(data: bytes, network: str) -> Signed[Evidence]:
    """Read stored evidence. Raises PeerFault unless it is of this network with a valid signature."""
    return _read(Evidence, data, network)


def read_advertisement(data: bytes, network: str) -> Signed[Advertisement]:
    """Read a stored advertisement. Raises PeerFault unless it is one of this network with a valid signature."""
    return _read(Advertisement, data, network)


def hold_bytes(signed: Signed[HoldBatch]) -> bytes:
    return to_frame(signed)


def read_hold(data: bytes, network: str) -> Signed[HoldBatch]:
    """Read a stored hold. Raises PeerFault unless it is one of this network with a valid signature."""
    return _read(HoldBatch, data, network)


def _read(cls: type[M], data: bytes, network: str) -> Signed[M]:
    return narrow(open_frame(data, network)[0], cls)


def certificate_bytes(certificate: QuorumCertificate) -> bytes:
    return codec.encode(certificate)


def read_certificate(data: bytes) -> QuorumCertificate:
    """Read a stored certificate. Its signatures were checked before it was stored, and are not checked again."""
    return codec.decode(QuorumCertificate, data)


def unpack_outputs(packed: bytes) -> tuple[bytes, bytes]:
    """The inverse of ``pack_outputs``."""
    joined = unpack(packed, OUTPUTS_BYTES_MAX)
    end = LENGTH_BYTES + int.from_bytes(joined[:LENGTH_BYTES], "big")
    return joined[LENGTH_BYTES:end], joined[end:]


def evidence_row(signed: Signed[Evidence], *, agrees: bool) -> EvidenceRow:
    """Evidence as a row; ``agrees``: whether it is for the result that was certified."""
    evidence = signed.message
    return EvidenceRow(
        role=evidence.role.word,
        signer=signed.signer,
        agrees=agrees,
        frame=evidence_bytes(signed),
        processing_us=evidence.processing_us,
        events=evidence.valid + evidence.invalid,
    )
