"""What a peer's log gives: every certificate checked whole, the bad left out, the good kept."""

import attrs
import pytest

from node.network.sync_messages import EntryPage, check_entries
from protocols import codec
from protocols.messages import BatchSealed
from tests.network_of_keys import NETWORK, certified

CERTIFICATE = certified().certificate
BATCH_ID = CERTIFICATE.statement.batch_id
GOOD = codec.encode(CERTIFICATE), b"{}"
SHORT = codec.encode(attrs.evolve(CERTIFICATE, certifications=CERTIFICATE.certifications[:1])), b"{}"
FORGED = attrs.evolve(CERTIFICATE, statement=attrs.evolve(CERTIFICATE.statement, valid=5, invalid=0))


def test_a_certificate_that_holds_is_taken() -> None:
    found, problem = check_entries(EntryPage(entries=(GOOD,)), NETWORK, {BATCH_ID})
    assert found == [BatchSealed(network=NETWORK, certificate=CERTIFICATE, context=b"{}")]
    assert problem == ""


@pytest.mark.parametrize(
    "bad",
    [SHORT, (codec.encode(FORGED), b"{}"), (b"garbage", b"{}"), (GOOD[0][:-1], b"{}"), (GOOD[0], b"x" * 300_000)],
    ids=["without its quorum", "another statement", "garbage", "cut short", "a context without bounds"],
)
def test_one_that_does_not_hold_is_left_out_and_the_others_stay(bad: tuple[bytes, bytes]) -> None:
    found, problem = check_entries(EntryPage(entries=(bad, GOOD)), NETWORK, {BATCH_ID})
    assert [each.certificate for each in found] == [CERTIFICATE]
    assert problem


@pytest.mark.parametrize(("network", "wanted"), [("elsewhere", {BATCH_ID}), (NETWORK, {"batch_other"})])
def test_of_another_network_or_not_asked_for_is_a_fault(network: str, wanted: set[str]) -> None:
    found, problem = check_entries(EntryPage(entries=(GOOD,)), network, wanted)
    assert found == []
    assert problem
