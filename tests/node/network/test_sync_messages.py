"""What a peer's log gives: every certificate checked whole, the bad left out, the good kept."""

import attrs
import pytest

from node.network.sync_messages import NUMBER_MAX, EntryPage, IdPage, check_entries
from protocols import codec
from protocols.envelope import sign
from protocols.errors import MalformedError
from protocols.messages import BatchSealed
from tests.network_of_keys import AGENTS, NETWORK, certified

CERTIFICATE = certified().certificate
BATCH_ID = CERTIFICATE.statement.batch_id
GOOD = codec.encode(CERTIFICATE), b"{}"
SHORT = codec.encode(attrs.evolve(CERTIFICATE, certifications=CERTIFICATE.certifications[:1])), b"{}"
UNSTORABLE = attrs.evolve(
    CERTIFICATE,
    evidence=(*CERTIFICATE.evidence[1:], sign(AGENTS[1], attrs.evolve(CERTIFICATE.evidence[0].message, build="\0"))),
)
FORGED = attrs.evolve(CERTIFICATE, statement=attrs.evolve(CERTIFICATE.statement, valid=5, invalid=0))


def test_a_certificate_that_holds_is_taken() -> None:
    found, problem = check_entries(EntryPage(entries=(GOOD,)), NETWORK, {BATCH_ID})
    assert found == [BatchSealed(network=NETWORK, certificate=CERTIFICATE, context=b"{}")]
    assert problem == ""


BAD = {
    "without its quorum": SHORT,
    "another statement": (codec.encode(FORGED), b"{}"),
    "U+0000 in a text": (codec.encode(UNSTORABLE), b"{}"),
    "garbage": (b"garbage", b"{}"),
    "cut short": (GOOD[0][:-1], b"{}"),
    "a context without bounds": (GOOD[0], b"x" * 300_000),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_one_that_does_not_hold_is_left_out_and_the_others_stay(bad: tuple[bytes, bytes]) -> None:
    found, problem = check_entries(EntryPage(entries=(bad, GOOD)), NETWORK, {BATCH_ID})
    assert [each.certificate for each in found] == [CERTIFICATE]
    assert problem


@pytest.mark.parametrize(("network", "wanted"), [("elsewhere", {BATCH_ID}), (NETWORK, {"batch_other"})])
def test_of_another_network_or_not_asked_for_is_a_fault(network: str, wanted: set[str]) -> None:
    found, problem = check_entries(EntryPage(entries=(GOOD,)), network, wanted)
    assert found == []
    assert problem


@pytest.mark.parametrize("number", [-1, NUMBER_MAX + 1, 2**200])
def test_a_number_that_no_column_holds_is_refused(number: int) -> None:
    entry = bytes(32)
    for last, entries in ((number, ()), (1, ((number, entry),))):
        page = IdPage(last=0, entries=())
        object.__setattr__(page, "last", last)
        object.__setattr__(page, "entries", entries)
        with pytest.raises(MalformedError, match="must be 0 to"):
            codec.decode(IdPage, codec.encode(page))
    largest = IdPage(last=NUMBER_MAX, entries=((NUMBER_MAX, entry),))
    assert codec.decode(IdPage, codec.encode(largest)) == largest
