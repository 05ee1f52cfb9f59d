"""What worker processes compute over batches: bytes in, bytes out. Imports pure packages only, to stay lean."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import attrs
import zstandard

from agents.certify import INVALID, VALID, event_id
from agents.reading import read_payload, read_record
from agents.roles import event_level, execute
from node.worker.parsing.certified import read_certified
from node.worker.parsing.text import holds_nul
from node.worker.plugins import functions_for
from protocols.entities import Findings
from protocols.errors import InvalidJsonError, MalformedError, NotCanonicalizableError
from protocols.identifiers import EventIds, version_id
from protocols.limits import LENGTH_BYTES, PAYLOAD_BYTES_MAX
from protocols.merkle import leaf_hash, root_of_leaves
from protocols.messages import Statement

COMPRESSION_LEVEL = 3
VERDICT_KEYS: Final = [
    "contentHash",
    "eventId",
    "eventType",
    "externalId",
    "issues",
    "recordHash",
    "status",
    "timestamp",
    "versionId",
]


@attrs.frozen(kw_only=True)
class Run:
    """What the roles made of a batch, with the time it took.

    Attributes:
        is_volatile: By the policy, results are not worth caching for long.
        level: The highest that the policy asks for, for any event; 0 for none.
        leaves, normalized: Newline-joined; ``outputs`` both as one zstd frame. Empty where they were not asked for.
    """

    findings: Findings
    leaves: bytes
    normalized: bytes
    outputs: bytes
    issues_by_rule: tuple[tuple[str, int], ...]
    cpu_us: int
    level: int = 0
    is_volatile: bool = False


def pack(data: bytes) -> bytes:
    """Compress a payload for storage and for the wire, once for both."""
    return zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(data)


def pack_outputs(leaves: bytes, normalized: bytes) -> bytes:
    """Leaves and normalized data, each newline-joined, as one zstd frame."""
    return pack(len(leaves).to_bytes(LENGTH_BYTES, "big") + leaves + normalized)


def unpack(data: bytes, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
    """Decompress within a bound.

    Raises:
        MalformedError: no zstd frame, or larger than ``bytes_max``.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= bytes_max:
            raise MalformedError(f"a payload of {size} bytes, at most {bytes_max} are taken")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=bytes_max)
    except zstandard.ZstdError as error:
        raise MalformedError("the payload is not a zstd frame") from error


def run_roles(
    *, network: str, source_id: str, packed: bytes, policy: bytes, context: bytes, keep_outputs: bool
) -> Run:
    """Normalize and validate a batch, with all roots.

    Args:
        keep_outputs: Whether the lines are wanted, or the roots alone.

    Raises:
        MalformedError: the payload is not in record form. InvalidPolicyError: The policy is wrong.
        MissingFunctionError: it names a function that is not installed on this node.
    """
    started = time.process_time_ns()
    output = execute(
        network=network,
        source_id=source_id,
        payload=unpack(packed),
        policy=policy,
        context=context,
        functions=functions_for(policy),
    )
    findings = Findings(
        input_root=output.input_root,
        normalized_root=output.normalized_root,
        output_root=output.output_root,
        context_out=output.context_out,
        events=output.events,
        valid=output.valid,
        invalid=output.invalid,
    )
    return Run(
        findings=findings,
        leaves=output.leaves if keep_outputs else b"",
        normalized=output.normalized if keep_outputs else b"",
        outputs=pack_outputs(output.leaves, output.normalized) if keep_outputs else b"",
        issues_by_rule=output.issues_by_rule,
        cpu_us=(time.process_time_ns() - started) // 1_000,
        level=output.level,
        is_volatile=output.is_volatile,
    )


def event_levels(policy: bytes, lines: Sequence[bytes]) -> list[str | None]:
    """The certification level that a policy's level rules ask for, for each record; None where they ask for none.

    A rule whose condition cannot be evaluated, whatever its functions raise, asks for its level: the stricter choice.

    Args:
        lines: Records in canonical form, as ``admit`` makes them.

    Raises:
        MissingFunctionError: The policy names a function that is not installed on this node.
    """
    functions = functions_for(policy)
    return [event_level(policy, line, functions) for line in lines]


@attrs.frozen(kw_only=True)
class BatchIndex:
    """The events of a batch, in batch order: ids, and leaf hashes of the records. ``unpacked_bytes``: their size."""

    event_ids: list[str]
    record_hashes: list[bytes]
    unpacked_bytes: int


def index_batch(packed: bytes, *, network: str, source_id: str, input_root: bytes) -> BatchIndex:
    """Check that a payload is the one that a manifest names, and list its events.

    Raises:
        MalformedError: It is not, is not in record form, or holds an event twice or the character U+0000: the events
            of a batch are written with one statement, which then fails.
    """
    payload = unpack(packed)
    lines, records = read_payload(payload)
    if holds_nul(payload):
        raise MalformedError("a record holds the character U+0000")
    hashes = [leaf_hash(line) for line in lines]
    if root_of_leaves(hashes) != input_root:
        raise MalformedError("the payload is not the one the manifest names")
    ids = EventIds(network, source_id)
    event_ids = [event_id(ids, record) for record in records]
    (repeated, times), *_ = Counter(event_ids).most_common(1)
    if times > 1:
        raise MalformedError(f"the batch holds the event {repeated} {times} times")
    return BatchIndex(event_ids=event_ids, record_hashes=hashes, unpacked_bytes=len(payload))


def check_outputs(leaves: bytes, normalized: bytes, *, packed: bytes, statement: Statement) -> bytes:
    """Check that outputs are those that were certified, of this payload, in a form that the database takes.

    A quorum can sign what no honest agent makes. So each verdict is also held against the record that it is about.

    Args:
        leaves, normalized: Newline-joined, as a peer sent them.
        packed: The batch's payload, known to be the one under the statement's input root.

    Returns:
        Both, as ``pack_outputs`` packs them.

    Raises:
        MalformedError: they are not.
    """
    verdicts, data = read_certified(leaves, normalized, statement, _read_verdict)
    lines, records = read_payload(unpack(packed))
    if len(records) != len(verdicts):
        raise MalformedError(f"{len(verdicts)} verdicts on {len(records)} records")
    ids = EventIds(statement.network, statement.source_id)
    for index, (verdict, record, line) in enumerate(zip(verdicts, records, lines, strict=True)):
        event = event_id(ids, record)
        expected = {
            "eventId": event,
            "eventType": record["eventType"],
            "externalId": record["externalId"],
            "recordHash": leaf_hash(line).hex(),
            "timestamp": record["timestamp"],
            "versionId": version_id(event, verdict["contentHash"], record["previous"]),
        }
        differing = [name for name, value in expected.items() if verdict[name] != value]
        if differing:
            raise MalformedError(f"verdict {index} differs from its record in {', '.join(differing)}", index=index)
    valid = sum(verdict["status"] == VALID.decode() for verdict in verdicts)
    if valid != statement.valid:
        raise MalformedError(f"{valid} valid events, certified were {statement.valid}")
    for index, line in enumerate(data):
        _check_json(line, f"the data of event {index}")
    return pack_outputs(leaves, normalized)


def _read_verdict(line: bytes) -> dict[str, Any]:
    verdict = _check_json(line, "a verdict")
    if type(verdict) is not dict or list(verdict) != VERDICT_KEYS:
        raise MalformedError(f"a verdict has other members than {', '.join(VERDICT_KEYS)}")
    if verdict["status"] not in (VALID.decode(), INVALID.decode()) or type(verdict["issues"]) is not list:
        raise MalformedError("the status of a verdict must be valid or invalid, and its issues an array")
    if type(verdict["contentHash"]) is not str:
        raise MalformedError("the content hash of a verdict must be a string")
    return verdict


def _check_json(line: bytes, what: str) -> Any:
    """Parse a line that must be canonical JSON which the database can store."""
    try:
        value, canonical = read_record(line)
    except (InvalidJsonError, NotCanonicalizableError) as error:
        raise MalformedError(f"{what} is not JSON: {error}") from error
    if not canonical:
        raise MalformedError(f"{what} is not in RFC 8785 form")
    if holds_nul(line):
        raise MalformedError(f"{what} holds the character U+0000")
    return value
