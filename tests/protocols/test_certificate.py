"""Documents that prove something: any change anywhere makes them fail, and the report says where."""

import copy
from collections.abc import Iterator
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.certificate import QuorumError, event_document, receipt_document, verify_quorum
from protocols.errors import BadSignatureError, OverlayError, WrongNetworkError
from protocols.merkle import leaf_hash
from protocols.messages import Level, QuorumCertificate
from protocols.verification import render, verify_document
from tests.network_of_keys import AGENTS, NETWORK, certified, certify, witness


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


@pytest.mark.parametrize("make", [certificate, receipt])
def test_missing_unknown_and_reordered_members_fail(make: Any) -> None:
    good = make()
    for name in good:
        broken = copy.deepcopy(good)
        del broken[name]
        if name not in ("record", "recordHashes"):  # what may be shown or not
            assert name in " ".join(verify_document(orjson.dumps(broken)).failed)
    assert "extra" in verify_document(orjson.dumps({**good, "extra": 1})).failed
    for name, value in good.items():
        if isinstance(value, list) and len(value) > 1 and name not in ("signatures", "evidence"):  # sets
            assert not verify_document(orjson.dumps({**good, name: value[::-1]})).ok


@pytest.mark.parametrize("position", [0, 5, -1])
def test_any_change_of_a_receipt_fails(position: int) -> None:
    good = receipt()
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


GOOD = orjson.dumps(certificate()), orjson.dumps(receipt())


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


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(sorted(certificate())),
)
def test_any_member_replaced_by_any_json_fails(value: Any, name: str) -> None:
    document = certificate()
    if document[name] != value:
        try:
            assert not verify_document(orjson.dumps({**document, name: value})).ok
        except OverlayError as error:
            pytest.fail(f"raised {error!r}")
