"""Documents that prove something: any change anywhere makes them fail, and the report says where."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import codec, envelope
from protocols.canonical import canonical_json
from protocols.certificate import (
    QuorumError,
    event_document,
    event_receipt_document,
    receipt_document,
    verify_quorum,
)
from protocols.errors import BadSignatureError, WrongNetworkError
from protocols.limits import SIGNERS_MAX
from protocols.merkle import leaf_hash
from protocols.messages import Level, Message, QuorumCertificate, Role, Signed
from protocols.verification import DIFFERENCES_MAX, LINE_CHARS_MAX, render, verify_document
from tests.network_of_keys import AGENTS, NETWORK, certified, certify, witness

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # of secp256k1


def certificate(index: int = 0, *, events: int = 5, with_record: bool = True) -> dict[str, Any]:
    batch = certified(events)
    document = event_document(
        batch.certificate,
        leaves=batch.leaves,
        index=index,
        data=batch.data[index],
        record=batch.records[index] if with_record else None,
    )
    return dict(orjson.loads(orjson.dumps(document)))


def receipt(*, with_hashes: bool = True) -> dict[str, Any]:
    batch = certified()
    hashes = [leaf_hash(record) for record in batch.records] if with_hashes else None
    return dict(orjson.loads(orjson.dumps(receipt_document(batch.manifest, hashes))))


def event_receipt(index: int = 3) -> dict[str, Any]:
    batch = certified()
    document = event_receipt_document(batch.manifest, [leaf_hash(record) for record in batch.records], index)
    return dict(orjson.loads(orjson.dumps(document)))


def values(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every leaf value of a document."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from values(item, (*path, name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from values(item, (*path, at))
    else:
        yield path


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def changed(value: Any, position: int) -> Any:
    """The value with one character, digit or bit different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if value is None:
        return "x"
    if not value:
        return "x"
    place = position % len(value)
    letter = "0" if value[place] != "0" else "1"
    return value[:place] + letter + value[place + 1 :]


def expected_parts(path: tuple[Any, ...]) -> set[str]:
    """Which part a change at a path may be blamed on: the member itself, in a list its element."""
    head = str(path[0])
    if head in ("signatures", "evidence"):
        return {f"{head}[{path[1]}]", "quorum"}
    if head == "event":
        return {"event", "data", "record", "status"}
    return {head}


def blamed(document: dict[str, Any]) -> set[str]:
    report = verify_document(orjson.dumps(document))
    assert not report.ok
    assert "NOT VALID" in render(report)
    return {
        part.split(".")[0].split("[")[0] if part.count("[") == 0 else part.split(".")[0] for part in report.failed
    }


@pytest.mark.parametrize("index", range(5))
def test_certificates_of_valid_and_rejected_events_verify(index: int) -> None:
    report = verify_document(orjson.dumps(certificate(index)), network=NETWORK)
    assert report.ok, render(report)
    facts = dict(report.facts)
    assert facts["verdict"] == ("rejected at level enhanced" if index == 4 else "certified at level enhanced")
    assert ("issue" in facts) is (index == 4)
    assert report.warnings  # nobody said whom he trusts


def test_the_rejection_names_rule_and_bound() -> None:
    issue = certificate(4)["event"]["issues"][0]
    assert issue["rule"] == "bounds"
    assert issue["path"] == "/windSpeedMps"
    assert issue["found"] == pytest.approx(468.659, abs=0.001)
    assert issue["expected"]["max"] == 96.2


@pytest.mark.parametrize("index", [0, 4])
@pytest.mark.parametrize("position", [0, 7, -1])
def test_any_change_fails_and_names_its_part(index: int, position: int) -> None:
    good = certificate(index)
    for path in values(good):
        broken = copy.deepcopy(good)
        holder = at(broken, path[:-1])
        holder[path[-1]] = changed(holder[path[-1]], position)
        parts = blamed(broken)
        assert parts & expected_parts(path), f"{path}: blamed {parts}"


def test_every_byte_of_signed_bytes_signatures_and_keys_counts() -> None:
    good = certificate(4, with_record=False)
    for holder, name in [("statement", "signed"), ("signatures", "signed"), ("signatures", "signature")]:
        text = at(good, (holder, 0, name) if holder == "signatures" else (holder, name))
        for place in range(0, len(text), 3):
            broken = copy.deepcopy(good)
            entry = broken[holder][0] if holder == "signatures" else broken[holder]
            entry[name] = text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]
            assert not verify_document(orjson.dumps(broken)).ok


@pytest.mark.parametrize("make", [certificate, receipt, event_receipt])
def test_missing_unknown_and_reordered_members_fail(make: Any) -> None:
    good = make()
    optional = {"record"} if make is certificate else {"recordHashes", "proof"}
    for name in good:
        broken = copy.deepcopy(good)
        del broken[name]
        if name not in optional:
            assert name in " ".join(verify_document(orjson.dumps(broken)).failed)
    assert "extra" in verify_document(orjson.dumps({**good, "extra": 1})).failed
    for name, value in good.items():
        if isinstance(value, list) and len(value) > 1:
            assert not verify_document(orjson.dumps({**good, name: value[::-1]})).ok


@pytest.mark.parametrize("make", [receipt, event_receipt])
@pytest.mark.parametrize("position", [0, 5, -1])
def test_any_change_of_a_receipt_fails(make: Any, position: int) -> None:
    good = make()
    assert verify_document(orjson.dumps(good), network=NETWORK).ok
    for path in values(good):
        broken = copy.deepcopy(good)
        holder = at(broken, path[:-1])
        holder[path[-1]] = changed(holder[path[-1]], position)
        assert str(path[0]) in " ".join(verify_document(orjson.dumps(broken)).failed)


def test_another_network_fails() -> None:
    for document in (certificate(), receipt()):
        assert verify_document(orjson.dumps(document), network="other").failed == ("network",)


def test_trust_counts_known_signers() -> None:
    keys = [agent.identity for agent in AGENTS]
    document = orjson.dumps(certificate())
    assert verify_document(document, trusted=frozenset(keys[:2])).ok
    assert verify_document(document, trusted=frozenset(keys[1:])).failed == ("trust",)
    assert verify_document(orjson.dumps(receipt()), trusted=frozenset(keys[1:])).failed == ("trust",)


def rebuilt(**changes: Any) -> QuorumCertificate:
    """A certificate over a changed statement, signed anew by as many agents as it had."""
    good = certified().certificate
    statement = attrs.evolve(good.statement, **changes)
    return QuorumCertificate(
        statement=statement,
        certifications=tuple(certify(statement, agent) for agent in AGENTS[:2]),
        evidence=tuple(witness(statement, each.message.role, AGENTS[n % 2]) for n, each in enumerate(good.evidence)),
    )


def test_a_quorum_certificate_holds_or_says_why() -> None:
    good = certified().certificate
    verify_quorum(good, network=NETWORK)
    first, second = good.certifications
    cases = [
        (attrs.evolve(good, certifications=(first,)), QuorumError, "1 of 2 signatures"),
        (attrs.evolve(good, certifications=(first, first)), QuorumError, "twice"),
        (attrs.evolve(good, evidence=good.evidence[1:]), QuorumError, "normalization"),
        (attrs.evolve(good, evidence=good.evidence[:-1]), QuorumError, "validation"),
        (rebuilt(level=Level.CRITICAL), QuorumError, "critical asks for 3"),
        (rebuilt(quorum=1), QuorumError, "enhanced asks for 2"),
        (rebuilt(valid=5), QuorumError, "add up"),
        (attrs.evolve(good, statement=rebuilt(source_id="x").statement), QuorumError, "another statement"),
        (
            attrs.evolve(good, certifications=(first, attrs.evolve(second, signature=first.signature))),
            BadSignatureError,
            "not signed",
        ),
    ]
    for broken, error, text in cases:
        with pytest.raises(error, match=text):
            verify_quorum(broken, network=NETWORK)
    with pytest.raises(WrongNetworkError):
        verify_quorum(good, network="other")


@pytest.mark.parametrize("events", [1, 2, 3, 7, 8, 9, 33])
def test_every_place_in_batches_of_many_sizes(events: int) -> None:
    for index in {0, events // 2, events - 1}:
        batch = certified(events)
        document = event_document(batch.certificate, leaves=batch.leaves, index=index, data=batch.data[index])
        assert verify_document(orjson.dumps(document)).ok


def test_the_receipt_of_an_event_proves_it_at_every_place() -> None:
    for index, record in enumerate(certified().records):
        document = event_receipt(index)
        assert document["proof"]["leafHash"] == leaf_hash(record).hex()
        assert verify_document(orjson.dumps(document)).ok
        elsewhere = {**document, "proof": {**document["proof"], "index": (index + 1) % 5}}
        assert verify_document(orjson.dumps(elsewhere)).failed == ("proof",)


# --- forgeries: documents that are consistent in themselves -------------------------------------------------


def signed_again(signed: Signed[Message], **changes: Any) -> Signed[Any]:
    """The same signer's word, changed before it is signed."""
    signer = next(agent for agent in AGENTS if agent.identity == signed.signer)
    return envelope.sign(signer, attrs.evolve(signed.message, **changes))


def high_s(signature: bytes) -> bytes:
    """The other signature over the same bytes that plain ECDSA takes: order minus S."""
    end = 4 + signature[3]
    s = ORDER - int.from_bytes(signature[end + 2 :], "big")
    raw = s.to_bytes(s.bit_length() // 8 + 1, "big")
    body = signature[2:end] + b"\x02" + bytes([len(raw)]) + raw
    return b"\x30" + bytes([len(body)]) + body


Forgery = tuple[str, QuorumCertificate, set[str]]  # what was done, the result, the parts to be blamed

BOTH_SIGNATURES = {"signatures[0]", "signatures[1]"}


def forged_signatures() -> Iterator[Forgery]:
    good = certified().certificate
    first, second = good.certifications

    def of(*entries: Signed[Any]) -> QuorumCertificate:
        return attrs.evolve(good, certifications=entries)

    low = attrs.evolve(good, statement=attrs.evolve(good.statement, level=Level.BASIC, quorum=1))
    yield "level lowered under old signatures", low, BOTH_SIGNATURES | {"quorum"}
    yield "quorum below its level", rebuilt(quorum=1), {"quorum"}
    yield "one signature", of(first), {"quorum"}
    yield "a signer twice", of(first, first), {"quorum"}
    yield "a signer twice at other times", of(first, signed_again(first, issued_ms=1)), {"quorum"}
    yield "signers in another order", of(second, first), {"quorum"}
    crossed = attrs.evolve(first, signature=second.signature), attrs.evolve(second, signature=first.signature)
    yield "signatures swapped", of(*crossed), BOTH_SIGNATURES
    claimed = attrs.evolve(second, signer=AGENTS[2].identity)
    yield "another's signature claimed", of(first, claimed), {"signatures[1]"}
    assert high_s(high_s(second.signature)) == second.signature
    yield "high S", of(first, attrs.evolve(second, signature=high_s(second.signature))), {"signatures[1]"}
    elsewhere = signed_again(second, network="other")
    yield "a signature for another network", of(first, elsewhere), {"signatures[1]", "quorum"}
    others = certified(3).certificate.certifications
    yield "signatures of another batch", of(*others), BOTH_SIGNATURES | {"quorum"}


def forged_evidence() -> Iterator[Forgery]:
    good = certified().certificate
    other = certified(3).certificate.evidence[3]
    *most, last = good.evidence

    def of(*entries: Signed[Any]) -> QuorumCertificate:
        return attrs.evolve(good, evidence=entries)

    yield "evidence of another batch", of(*most, other), {"evidence[3]", "quorum"}
    yield "evidence of another batch besides", of(*most, last, other), {"evidence[4]", "quorum"}
    changes: list[tuple[str, Any]] = [
        ("network", "other"),
        ("policy_hash", bytes(32)),
        ("input_digest", bytes(32)),
        ("output_digest", bytes(32)),
        ("context_in", bytes(32)),
        ("context_out", bytes(32)),
        ("valid", 0),
        ("invalid", 9),
        ("role", Role.CERTIFY),
        ("role", Role.NORMALIZE),
    ]
    for name, value in changes:
        yield (
            f"evidence with another {name}",
            of(*most, signed_again(last, **{name: value})),
            {
                "evidence[3]",
                "quorum",
            },
        )
    yield "evidence twice", of(most[0], *most, last), {"quorum"}
    yield "evidence in another order", of(most[1], most[0], most[2], last), {"quorum"}
    yield "no evidence of validation", of(*most[:2]), {"quorum"}


FORGERIES = [*forged_signatures(), *forged_evidence()]


@pytest.mark.parametrize(("name", "forged", "parts"), FORGERIES, ids=[name for name, _, _ in FORGERIES])
def test_a_forgery_fails_in_its_parts(name: str, forged: QuorumCertificate, parts: set[str]) -> None:
    """Each is made anew from forged messages, so nothing but the forgery itself can be blamed."""
    batch = certified()
    document = event_document(forged, leaves=batch.leaves, index=0, data=batch.data[0])
    assert set(verify_document(orjson.dumps(document)).failed) == parts, name
    with pytest.raises((BadSignatureError, QuorumError, WrongNetworkError)):
        verify_quorum(forged, network=NETWORK)


def test_a_receipt_that_another_node_signed_fails() -> None:
    forged = envelope.sign(AGENTS[1], certified().manifest.message)
    assert verify_document(orjson.dumps(receipt_document(forged))).failed == ("coordinator",)


def test_signed_bytes_in_another_encoding_fail() -> None:
    document = certificate()
    padded = codec.encode(certified().certificate.statement) + b"\0"
    document["statement"]["signed"] = padded.hex()
    assert verify_document(orjson.dumps(document)).failed == ("statement",)


# --- what must not crash or mislead -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["signatures", "evidence"])
def test_more_entries_than_any_quorum_are_refused_unread(name: str) -> None:
    document = certificate()
    document[name] = document[name][:1] * (2 * SIGNERS_MAX + 1)
    assert verify_document(orjson.dumps(document)).failed == (name,)


def test_a_name_in_the_document_cannot_write_the_report() -> None:
    """Clearing the screen and printing a better verdict is one key of JSON away."""
    forged = "\x1b[2J\rx\n  ok    everything\u202e\u2028" + "y" * 5_000
    text = render(verify_document(orjson.dumps({**certificate(), forged: 1})))
    assert all(line.isprintable() and len(line) < LINE_CHARS_MAX * 2 for line in text.split("\n"))
    assert sum(line.startswith("  ok    everything") for line in text.split("\n")) == 0
    assert "\\x1b[2J\\rx\\n" in text


def test_a_document_of_nothing_but_unknown_members_is_reported_in_bounds() -> None:
    report = verify_document(orjson.dumps(certificate() | {f"x{n}": n for n in range(1_000)}))
    assert len(report.failed) == DIFFERENCES_MAX


GOOD = orjson.dumps(certificate()), orjson.dumps(receipt()), orjson.dumps(event_receipt())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_no_mutation_is_taken_and_none_crashes(good: bytes, data: st.DataObject) -> None:
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(broken) - 1))
        broken[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    if verify_document(bytes(broken)).ok:
        assert orjson.loads(bytes(broken)) == orjson.loads(good)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_failing_report(data: bytes) -> None:
    assert not verify_document(data).ok


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a document, objects and lists included."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for step in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[step], (*path, step))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(GOOD), ANY_JSON, st.data())
def test_any_value_replaced_by_any_json_fails(good: bytes, value: Any, data: st.DataObject) -> None:
    document = orjson.loads(good)
    path = data.draw(st.sampled_from(list(places(document))))
    at(document, path[:-1])[path[-1]] = value
    report = verify_document(json.dumps(document).encode())
    assert not report.ok or canonical_json(document) == canonical_json(orjson.loads(good))
    assert render(report)


@pytest.mark.parametrize("value", [5, True, "x", {"rule": 1}, [5], None])
def test_issues_of_another_shape_are_a_failing_check(value: Any) -> None:
    document = certificate(4)
    document["event"]["issues"] = value
    assert "event" in verify_document(orjson.dumps(document)).failed
