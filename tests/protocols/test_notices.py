"""Notices of certified batches: their bounds, and that the largest fits a gossiped message."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import decode, encode
from protocols.envelope import open_frame, sign, to_frame
from protocols.errors import OverlayError
from protocols.limits import NOTICE_BATCHES_MAX, TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.messages import CertifiedBatch, CertifiedNotice
from tests.network_of_keys import AGENTS, NETWORK

DIGEST = hashlib.sha256(b"batch").digest()
TEXT = st.characters(codec="utf-8", exclude_characters="\0")
digests = st.binary(min_size=32, max_size=32)
topics = st.lists(st.text(TEXT, min_size=1, max_size=TOPIC_CHARS_MAX), max_size=TOPICS_PER_BATCH_MAX).map(tuple)
batches = st.builds(
    CertifiedBatch, batch=digests, topics=topics, certificate=digests, records=digests, outputs=digests
)


def batch(**fields: Any) -> CertifiedBatch:
    said = {"batch": DIGEST, "topics": ("weather",), "certificate": DIGEST, "records": DIGEST, "outputs": DIGEST}
    return CertifiedBatch(**{**said, **fields})


@given(st.lists(batches, max_size=3).map(tuple), st.integers(0, 2**40))
def test_a_notice_is_read_as_it_was_written(named: tuple[CertifiedBatch, ...], issued_ms: int) -> None:
    notice = CertifiedNotice(network=NETWORK, issued_ms=issued_ms, batches=named)
    assert decode(CertifiedNotice, encode(notice)) == notice
    signed, attachment = open_frame(to_frame(sign(AGENTS[0], notice)), NETWORK)
    assert (signed.message, signed.signer, attachment) == (notice, AGENTS[0].identity, b"")


@pytest.mark.parametrize(
    "spoiled",
    [
        {"topics": ("",)},
        {"topics": ("t" * (TOPIC_CHARS_MAX + 1),)},
        {"topics": ("t",) * (TOPICS_PER_BATCH_MAX + 1)},
        {"batch": DIGEST[1:]},
        {"certificate": b""},
        {"outputs": DIGEST + b"x"},
    ],
)
def test_what_is_past_its_bounds_is_no_notice(spoiled: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must have|must be at most"):
        batch(**spoiled)


def test_a_notice_names_so_many_batches_and_no_more() -> None:
    many = (batch(),) * NOTICE_BATCHES_MAX
    assert CertifiedNotice(network=NETWORK, issued_ms=1, batches=many)
    with pytest.raises(ValueError, match="must be at most"):
        CertifiedNotice(network=NETWORK, issued_ms=1, batches=(*many, batch()))


@given(st.data())
def test_a_spoiled_notice_is_refused_or_says_what_was_signed(data: st.DataObject) -> None:
    frame = bytearray(to_frame(sign(AGENTS[0], CertifiedNotice(network=NETWORK, issued_ms=1, batches=(batch(),)))))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(OverlayError):
        open_frame(bytes(frame), NETWORK)
