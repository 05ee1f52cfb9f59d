"""Events of certified batches, from real certificates: what is believed, chosen, and made of them."""

from functools import partial
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.worker.parsing.foreign_events import (
    CHAIN_MAX,
    BatchSelection,
    UnreadableBatchError,
    chain_of,
    choose,
    manifest_problem,
    read_events,
)
from protocols.codec import encode
from protocols.errors import MalformedError
from protocols.limits import EXTERNAL_ID_CHARS_MAX
from protocols.merkle import leaf_hash, root_of_leaves
from protocols.messages import Level
from tests.network_of_keys import AGENTS, NETWORK, certified

BATCH = certified()
ENCODED = encode(BATCH.certificate)
STATEMENT = BATCH.certificate.statement
SELECTION = BatchSelection(network=NETWORK, reader=AGENTS[4].identity)
EVENT = "event_" + "0" * 64
read = partial(read_events, encoded=ENCODED, selection=SELECTION, include_reference=False)


def test_valid_events_are_read_unless_others_are_asked_for() -> None:
    verdicts = list(map(orjson.loads, BATCH.leaves))
    for statuses in ({"valid"}, {"invalid"}, {"valid", "invalid"}):
        found = read(
            BATCH.output.leaves,
            BATCH.output.normalized,
            selection=attrs.evolve(SELECTION, statuses=frozenset(statuses)),
        )
        wanted = [
            (verdict, data)
            for verdict, data in zip(verdicts, BATCH.data, strict=True)
            if verdict["status"] in statuses
        ]
        assert [(each.external_id, each.data) for each in found] == [
            (verdict["eventId"], data) for verdict, data in wanted
        ]
        assert {each.event_type for each in found} == {"weather.observation"}
    assert {verdict["status"] for verdict in verdicts} == {"valid", "invalid"}


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    parts = [bytearray(BATCH.output.leaves), bytearray(BATCH.output.normalized)]
    spoiled = data.draw(st.sampled_from(parts))
    spoil = data.draw(st.sampled_from(["change", "cut", "add"]))
    at = data.draw(st.integers(0, len(spoiled) - 1))
    if spoil == "change":
        spoiled[at] ^= data.draw(st.integers(1, 255))
    elif spoil == "cut":
        del spoiled[at]
    else:
        spoiled.insert(at, data.draw(st.integers(0, 255).filter(lambda byte: byte != spoiled[at])))
    with pytest.raises(MalformedError):
        read(*map(bytes, parts))


def test_a_quorum_of_liars_cannot_pass_other_lines_as_verdicts() -> None:
    for line in (b"{}", b"nonsense", b"[1]", b'{"eventId":1}', b"\xff"):
        leaves = b"\n".join([line] * STATEMENT.events)
        root = root_of_leaves([leaf_hash(line)] * STATEMENT.events)
        lie = attrs.evolve(BATCH.certificate, statement=attrs.evolve(STATEMENT, output_root=root))
        with pytest.raises(UnreadableBatchError):
            read(leaves, BATCH.output.normalized, encoded=encode(lie))


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        ({}, True),
        ({"coordinators": frozenset({AGENTS[0].identity})}, True),
        ({"coordinators": frozenset({AGENTS[1].identity})}, False),
        ({"reader": AGENTS[0].identity}, False),
        ({"source_ids": frozenset({"another"})}, False),
        ({"level": Level.CRITICAL}, False),
        ({"statuses": frozenset({"invalid"})}, True),
    ],
)
def test_certificates_are_chosen_by_what_they_say(selection: dict[str, Any], wanted: bool) -> None:
    ((found, why),) = choose([ENCODED], attrs.evolve(SELECTION, **selection))
    assert (found == BATCH.certificate, why) == (wanted, "")


def test_a_certificate_that_is_not_valid_comes_with_the_reason() -> None:
    certificate = BATCH.certificate
    lacking = attrs.evolve(certificate, certifications=certificate.certifications[:1])
    lowered = attrs.evolve(certificate, statement=attrs.evolve(STATEMENT, quorum=1))
    for spoiled in (encode(lacking), encode(lowered), ENCODED[:-1], b""):
        ((found, why), (other, _)) = choose([spoiled, ENCODED], SELECTION)
        assert found is None
        assert "its certificate is not valid" in why
        assert other == certificate, "it does not affect the others"
    ((_, why),) = choose([ENCODED], attrs.evolve(SELECTION, network="another"))
    assert "network" in why


def test_a_manifest_is_the_statements_own() -> None:
    manifest = BATCH.manifest.message
    assert manifest_problem(manifest, STATEMENT) == ""
    assert "source_id" in manifest_problem(manifest, attrs.evolve(STATEMENT, source_id="another"))
    assert "input_root" in manifest_problem(attrs.evolve(manifest, input_root=bytes(32)), STATEMENT)


def test_the_longest_chain_of_ids_is_an_external_id() -> None:
    assert len(" ".join([EVENT] * CHAIN_MAX)) <= EXTERNAL_ID_CHARS_MAX
    assert chain_of(f"{EVENT} {EVENT}") == [EVENT, EVENT]
    for other in (None, "", "order 7", f"{EVENT} ", f" {EVENT}", EVENT + "0", f"{EVENT}\n"):
        assert chain_of(other) == []
