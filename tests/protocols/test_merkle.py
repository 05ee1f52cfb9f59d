"""Trees of RFC 6962: roots as the definition says, proofs for every place, and no proof for anything else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import InvalidProofError
from protocols.merkle import inclusion_path, leaf_hash, root_from_path, root_of_leaves, root_of_records


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, to the letter: split at the largest power of two below the size."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(b"record %d" % n) for n in range(size)]


@pytest.mark.parametrize("size", [*range(34), 63, 64, 65, 127, 128, 129, 500, 1000])
def test_the_root_is_that_of_the_definition(size: int) -> None:
    assert root_of_leaves(leaves_of(size)) == by_definition(leaves_of(size))


def test_a_leaf_is_no_node() -> None:
    """The prefixes keep a node from passing for a record."""
    left, right = leaves_of(2)
    assert leaf_hash(left + right) != root_of_leaves([left, right])
    assert root_of_records([b"a"]) == leaf_hash(b"a") == hashlib.sha256(b"\0a").digest()


@pytest.mark.parametrize("size", [*range(1, 34), 100, 129])
def test_every_place_has_a_proof(size: int) -> None:
    leaves = leaves_of(size)
    root = root_of_leaves(leaves)
    for index in range(size):
        path = inclusion_path(leaves, index)
        assert root_from_path(leaves[index], index, size, path) == root
        assert len(path) <= (size - 1).bit_length()


@given(st.integers(1, 70), st.data())
def test_a_changed_proof_leads_elsewhere(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    path = list(inclusion_path(leaves, index))
    root = root_of_leaves(leaves)
    assert root_from_path(leaf_hash(b"another"), index, size, path) != root
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        flipped = bytearray(path[place])
        flipped[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        assert root_from_path(leaves[index], index, size, [*path[:place], bytes(flipped), *path[place + 1 :]]) != root
        with pytest.raises(InvalidProofError, match="too short"):
            root_from_path(leaves[index], index, size, path[:-1])
    with pytest.raises(InvalidProofError, match="too long"):
        root_from_path(leaves[index], index, size, [*path, bytes(32)])


def test_impossible_places_and_siblings_are_refused() -> None:
    for index, size in ((0, 0), (-1, 3), (3, 3), (9, 3)):
        with pytest.raises(InvalidProofError, match="no leaf"):
            root_from_path(bytes(32), index, size, [])
    with pytest.raises(InvalidProofError, match="32 bytes"):
        root_from_path(bytes(32), 0, 2, [b"short"])
    with pytest.raises(IndexError):
        inclusion_path(leaves_of(3), 3)
