"""Outputs of a batch that a peer gives, held against the certificate and the batch's own records."""

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.coordination.serialization import unpack_outputs
from node.worker.compute import check_outputs, pack
from protocols.canonical import canonical_json, parse_json
from protocols.errors import MalformedError
from protocols.identifiers import content_hash, version_id
from protocols.merkle import leaf_hash, root_of_leaves
from protocols.messages import Statement
from tests.network_of_keys import certified

BATCH = certified()
STATEMENT = BATCH.certificate.statement
LEAVES, DATA = BATCH.output.leaves, BATCH.output.normalized
PACKED = pack(b"\n".join(BATCH.records))


def check(leaves: bytes, data: bytes, statement: Statement = STATEMENT, packed: bytes = PACKED) -> bytes:
    return check_outputs(leaves, data, packed=packed, statement=statement)


def certified_by_liars(leaves: list[bytes], data: list[bytes]) -> tuple[bytes, bytes, Statement]:
    """Outputs that a dishonest quorum signed for: the root fits."""
    root = root_of_leaves([leaf_hash(line) for line in leaves])
    return b"\n".join(leaves), b"\n".join(data), attrs.evolve(STATEMENT, output_root=root)


def changed(index: int, **members: Any) -> tuple[bytes, bytes, Statement]:
    """The same, with other members in one verdict."""
    verdict: Any = parse_json(BATCH.leaves[index])
    leaves = list(BATCH.leaves)
    leaves[index] = canonical_json({**verdict, **members})
    return certified_by_liars(leaves, list(BATCH.data))


def test_true_outputs_are_packed_as_they_are_stored() -> None:
    assert unpack_outputs(check(LEAVES, DATA)) == (LEAVES, DATA)


@given(st.booleans(), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_no_byte_can_be_changed(in_leaves: bool, place: int, flip: int) -> None:
    spoilt = bytearray(LEAVES if in_leaves else DATA)
    spoilt[place % len(spoilt)] ^= flip
    outputs = (bytes(spoilt), DATA) if in_leaves else (LEAVES, bytes(spoilt))
    with pytest.raises(MalformedError):
        check(*outputs)


@given(st.permutations(range(5)))
def test_no_other_order_passes(order: list[int]) -> None:
    leaves = b"\n".join(BATCH.leaves[index] for index in order)
    data = b"\n".join(BATCH.data[index] for index in order)
    if order == list(range(5)):
        check(leaves, data)
        return
    with pytest.raises(MalformedError):
        check(leaves, data)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"eventId": "event_" + 64 * "0"}, "eventId"),
        ({"eventType": "other"}, "eventType"),
        ({"externalId": None}, "externalId"),
        ({"recordHash": 64 * "0"}, "recordHash"),
        ({"timestamp": "2013-02-12T09:00:00Z"}, "timestamp"),
        ({"versionId": "ver_" + 64 * "0"}, "versionId"),
        ({"status": "fine"}, "status"),
        ({"status": "invalid"}, "3 valid events"),
        ({"issues": {}}, "issues"),
        ({"contentHash": 7}, "content hash"),
        ({"more": 1}, "other members"),
        ({"contentHash": "sha256:" + 64 * "0"}, "the data of event 1"),
    ],
)
def test_what_a_dishonest_quorum_signs_must_still_be_about_the_records(members: dict[str, Any], why: str) -> None:
    leaves, data, statement = changed(1, **members)
    with pytest.raises(MalformedError, match=why):
        check(leaves, data, statement)


@pytest.mark.parametrize("verdict", [b"\xff", b"null", b"[]", b"{}", b'{"a": 1}', b"{" * 200, b""])
def test_a_line_that_is_not_a_verdict(verdict: bytes) -> None:
    leaves, data, statement = certified_by_liars([*BATCH.leaves[:4], verdict], list(BATCH.data))
    with pytest.raises(MalformedError):
        check(leaves, data, statement)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe", "not JSON"),
        (b'{"a":', "not JSON"),
        (b'{"a": 1}', "RFC 8785"),
        (b'{"b":1,"a":2}', "RFC 8785"),
        (b'{"a":1,"a":1}', "not JSON"),
        (b'"\\u0000"', r"U\+0000"),
        (b"1e400", "not JSON"),
    ],
)
def test_data_that_the_database_cannot_take(line: bytes, why: str) -> None:
    """A quorum can sign a verdict with the content hash of anything."""
    verdict: Any = parse_json(BATCH.leaves[0])
    content = content_hash(line)
    verdict |= {"contentHash": content, "versionId": version_id(verdict["eventId"], content, None)}
    outputs = certified_by_liars([canonical_json(verdict), *BATCH.leaves[1:]], [line, *BATCH.data[1:]])
    with pytest.raises(MalformedError, match=why):
        check(*outputs)


def test_an_escaped_backslash_is_not_a_nul() -> None:
    line = b'"\\\\u0000"'
    verdict: Any = parse_json(BATCH.leaves[0])
    content = content_hash(line)
    verdict |= {"contentHash": content, "versionId": version_id(verdict["eventId"], content, None)}
    outputs = certified_by_liars([canonical_json(verdict), *BATCH.leaves[1:]], [line, *BATCH.data[1:]])
    assert unpack_outputs(check(*outputs)) == outputs[:2]


def test_a_statement_over_another_payload_is_refused() -> None:
    fewer = pack(b"\n".join(BATCH.records[:4]))
    with pytest.raises(MalformedError, match="5 verdicts on 4 records"):
        check(LEAVES, DATA, packed=fewer)
    with pytest.raises(MalformedError):
        check(LEAVES, DATA, packed=b"no zstd")
