"""Certified batches made up for the feed, with as much in them as messages are made from."""

from typing import Any

import orjson

from node.coordination.certified_result import CertifiedResult
from node.delivery.cursor import Cursor
from node.delivery.messages import Chunk, EventMessage
from protocols.envelope import sign
from protocols.messages import Certification, Level, QuorumCertificate, Statement
from tests.node.certified_batches import AGENT, DIGEST, NETWORK, NODE


def result(
    sequence: int,
    events: int = 2,
    *,
    source_id: str = "s1",
    topics: tuple[str, ...] = ("t.one",),
    level: Level = Level.ENHANCED,
    invalid: frozenset[int] = frozenset(),
    text: str = "",
) -> CertifiedResult:
    """A batch of ``events`` whose data is ``{"v": index, "text": text}``; those in ``invalid`` are rejected."""
    statement = Statement(
        network=NETWORK,
        batch_id=f"batch_{sequence:064x}",
        coordinator=NODE.identity,
        source_id=source_id,
        policy_hash=DIGEST,
        level=level,
        quorum=2,
        input_root=DIGEST,
        normalized_root=DIGEST,
        output_root=DIGEST,
        context_in=DIGEST,
        context_out=DIGEST,
        events=events,
        valid=events - len(invalid),
        invalid=len(invalid),
    )
    leaves = [_leaf(sequence, index, is_valid=index not in invalid) for index in range(events)]
    return CertifiedResult(
        certificate=QuorumCertificate(
            statement=statement,
            certifications=tuple(
                sign(
                    agent,
                    Certification(
                        network=NETWORK,
                        batch_id=statement.batch_id,
                        statement_digest=statement.digest,
                        build="test",
                        issued_ms=2,
                    ),
                )
                for agent in (NODE, AGENT)
            ),
            evidence=(),
        ),
        topics=topics,
        leaves=b"\n".join(map(orjson.dumps, leaves)),
        normalized=b"\n".join(orjson.dumps({"v": index, "text": text}) for index in range(events)),
        received_ms=1,
        certified_ms=2,
        sequence=sequence,
    )


def _leaf(sequence: int, index: int, *, is_valid: bool) -> dict[str, Any]:
    return {
        "eventId": f"event_{sequence}_{index + 1}",
        "eventType": "reading",
        "status": "valid" if is_valid else "invalid",
        "timestamp": "2026-01-01T00:00:00Z",
        "issues": [],
    }


def chunk(*cursors: tuple[int, int], size: int = 10, last: tuple[int, int] | None = None) -> Chunk:
    """A chunk with a message of ``size`` bytes at each cursor."""
    messages = tuple(EventMessage(cursor=Cursor(*each), body=b"x" * size) for each in cursors)
    return Chunk(last=Cursor(*(last or cursors[-1])), messages=messages)
