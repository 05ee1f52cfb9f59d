"""How signed things and outputs are kept as bytes in the database, and read back. One form each."""

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
    """Raises PeerFault subclasses where the bytes are not a manifest of this network with its signature."""
    return _read(Manifest, data, network)


def evidence_bytes(signed: Signed[Evidence]) -> bytes:
    return to_frame(signed)


def read_evidence(data: bytes, network: str) -> Signed[Evidence]:
    """Raises PeerFault subclasses where the bytes are not evidence of this network with its signature."""
    return _read(Evidence, data, network)


def read_advertisement(data: bytes, network: str) -> Signed[Advertisement]:
    """Raises PeerFault subclasses where the bytes are not an advertisement of this network with its signature."""
    return _read(Advertisement, data, network)


def hold_bytes(signed: Signed[HoldBatch]) -> bytes:
    return to_frame(signed)


def read_hold(data: bytes, network: str) -> Signed[HoldBatch]:
    """Raises PeerFault subclasses where the bytes are not a hold of this network with its signature."""
    return _read(HoldBatch, data, network)


def _read(cls: type[M], data: bytes, network: str) -> Signed[M]:
    return narrow(open_frame(data, network)[0], cls)


def certificate_bytes(certificate: QuorumCertificate) -> bytes:
    return codec.encode(certificate)


def read_certificate(data: bytes) -> QuorumCertificate:
    """Signatures are not checked again: they were before it was stored, and are by whoever keeps it."""
    return codec.decode(QuorumCertificate, data)


def unpack_outputs(packed: bytes) -> tuple[bytes, bytes]:
    """The inverse of ``pack_outputs``."""
    joined = unpack(packed, OUTPUTS_BYTES_MAX)
    end = LENGTH_BYTES + int.from_bytes(joined[:LENGTH_BYTES], "big")
    return joined[LENGTH_BYTES:end], joined[end:]


def evidence_row(signed: Signed[Evidence], *, agrees: bool) -> EvidenceRow:
    """Evidence as a row; ``agrees``: whether it is for the result that was certified."""
    said = signed.message
    return EvidenceRow(
        role=said.role.word,
        signer=signed.signer,
        agrees=agrees,
        frame=evidence_bytes(signed),
        processing_us=said.processing_us,
        events=said.valid + said.invalid,
    )
