"""Rows that the tests of repositories are made with."""

import hashlib

import orjson
import zstandard

from storage.replicas import NewReplica
from storage.rows import EvidenceRow, NewBatch, SealedBatch

POLICY = hashlib.sha256(b"{}").digest()
AGENT = b"\x02" + bytes(32)
RECEIVED_MS = 1_700_000_000_000
CERTIFIED_MS = RECEIVED_MS + 250


def event_id(key: str) -> str:
    return "event_" + hashlib.sha256(key.encode()).hexdigest()


def new_batch(name: str, keys: list[str], version: int = 1, sequence: int = 1) -> NewBatch:
    batch_id = f"batch_{name}"
    lines = [
        orjson.dumps({"data": {"name": f"{name} {key}"}, "externalId": key, "eventType": "reading"}) for key in keys
    ]
    return NewBatch(
        batch_id=batch_id,
        source_id="s1",
        source_sequence=sequence,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=["gitdata.events.iot"],
        manifest=b"manifest",
        payload=zstandard.compress(b"\n".join(lines)),
        received_ms=RECEIVED_MS,
        event_ids=[event_id(key) for key in keys],
        record_hashes=[hashlib.sha256(line).hexdigest() for line in lines],
        versions=[version] * len(keys),
    )


def replica(
    batch_id: str,
    payload: bytes = b"payload",
    *,
    hold: bytes = b"hold",
    coordinator: bytes = b"\x02" * 33,
    kept_ms: int = 1,
    policy_hash: bytes = bytes(32),
) -> NewReplica:
    """A batch that another node has this one hold."""
    return NewReplica(
        batch_id=batch_id,
        coordinator=coordinator,
        policy_hash=policy_hash,
        hold=hold,
        payload=payload,
        policy_bytes=0,
        kept_ms=kept_ms,
    )


def records_of(batch: NewBatch) -> list[bytes]:
    """The records of a batch that ``new_batch`` made."""
    return zstandard.decompress(batch.payload).split(b"\n")


def keys_of(batch: NewBatch) -> list[str]:
    """The external ids of its events."""
    return [orjson.loads(record)["externalId"] for record in records_of(batch)]


def sealed_batch(batch: NewBatch, invalid: tuple[str, ...] = ()) -> SealedBatch:
    statuses = ["invalid" if key in invalid else "valid" for key in keys_of(batch)]
    return SealedBatch(
        context_out=b"{}",
        batch_id=batch.batch_id,
        certificate=b"certificate",
        outputs=b"outputs",
        valid=statuses.count("valid"),
        invalid=statuses.count("invalid"),
        attempts=1,
        certified_ms=CERTIFIED_MS,
        level="enhanced",
        agents=["agent_1", "agent_2"],
        leaves=b"\n".join(
            orjson.dumps(
                {
                    "eventId": event_id,
                    "externalId": key,
                    "eventType": "reading",
                    "status": status,
                    "issues": [{"rule": "bounds"}] if status == "invalid" else [],
                    "contentHash": f"sha256:{digest}",
                    "versionId": f"ver_{digest}",
                    "recordHash": digest,
                }
            )
            for event_id, key, status, digest in zip(
                batch.event_ids, keys_of(batch), statuses, batch.record_hashes, strict=True
            )
        ),
        normalized=b"\n".join([b'{"value":1}'] * len(statuses)),
        evidence=(
            EvidenceRow(
                role="normalize", signer=AGENT, agrees=True, frame=b"f", processing_us=10, events=len(statuses)
            ),
        ),
    )
