"""The events of one certified batch, parsed on demand and once: what messages and filters are made from."""

import functools
from collections.abc import Sequence
from typing import Any

import orjson

from node.coordination.certified_result import CertifiedResult
from node.runtime.formats import sha256_text, whole_ms
from protocols.certificate import STEPS, agent_id, certificate_document, proof_document, rfc3339
from protocols.merkle import inclusion_paths, leaf_hash
from protocols.messages import Evidence, Signed


class BatchContent:
    """A batch's events by their 0-based index. Used by one thread at a time."""

    def __init__(self, sealed: CertifiedResult) -> None:
        self.sealed = sealed

    @functools.cached_property
    def leaf_lines(self) -> list[bytes]:
        """What was certified of each event, as canonical JSON."""
        return self.sealed.leaves.split(b"\n")

    @functools.cached_property
    def leaves(self) -> list[dict[str, Any]]:
        """What was certified of each event; see ``agents.roles``."""
        leaves: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(self.leaf_lines) + b"]")
        return leaves

    @functools.cached_property
    def data_lines(self) -> list[bytes]:
        """The normalized data of each event, as canonical JSON."""
        return self.sealed.normalized.split(b"\n")

    @functools.cached_property
    def _data(self) -> list[Any]:
        found: list[Any] = orjson.loads(b"[" + b",".join(self.data_lines) + b"]")
        return found

    def scope(self, index: int) -> dict[str, Any]:
        """What an expression may refer to: a value for each of ``filters.NAMES``."""
        leaf, statement = self.leaves[index], self.sealed.certificate.statement
        return {
            "data": self._data[index],
            "eventType": leaf["eventType"],
            "eventId": leaf["eventId"],
            "sourceId": statement.source_id,
            "timestamp": leaf["timestamp"],
            "level": statement.level.word,
            "issues": leaf["issues"],
        }

    @functools.cached_property
    def _proven(self) -> tuple[dict[str, Any], list[tuple[bytes, ...]]]:
        """The members that the certificates of all events share, and each event's path in the tree."""
        paths = inclusion_paths([leaf_hash(line) for line in self.leaf_lines])
        leaf, data = self.leaves[0], orjson.loads(self.data_lines[0])
        first = certificate_document(
            self.sealed.certificate, leaf=leaf, data=data, record=None, index=0, path=paths[0]
        )
        return first, paths

    def certificate(self, index: int) -> bytes:
        """What proves an event offline: the document of GET /overlay/events/{eventId}/certificate without record."""
        first, paths = self._proven
        leaf = self.leaves[index]
        document = first | {
            "status": "certified" if leaf["status"] == "valid" else "rejected",
            "event": leaf,
            "data": orjson.Fragment(self.data_lines[index]),
            "proof": proof_document(leaf_hash(self.leaf_lines[index]), index, len(paths), paths[index]),
        }
        return orjson.dumps(document)


def batch_evidence(evidence: Sequence[Signed[Evidence]]) -> list[dict[str, Any]]:
    """The agents' statements about a batch, in the words of the API. Times in milliseconds."""
    return [
        {
            "step": STEPS[signed.message.role],
            "agentId": agent_id(signed.signer),
            "timestamp": rfc3339(signed.message.finished_ms),
            "processingTime": whole_ms(signed.message.processing_us),
            "inputHash": sha256_text(signed.message.input_digest),
            "outputHash": sha256_text(signed.message.output_digest),
            "brc31Signature": signed.signature.hex(),
        }
        for signed in sorted(evidence, key=lambda signed: (signed.message.role, signed.signer))
        if signed.message.role in STEPS
    ]
