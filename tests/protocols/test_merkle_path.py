"""Merkle paths: every txid of a path leads to the root of the whole tree, and nothing else passes for a path."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MalformedError
from protocols.limits import PATH_DEPTH_MAX
from protocols.merkle_path import (
    BLOCK_HEIGHT_MAX,
    Leaf,
    MerklePath,
    make_merkle_path,
    read_merkle_path,
    write_merkle_path,
)
from protocols.transactions import double_sha256
from tests.made_transactions import block_path, spend

# The example of BRC-74: three txids of a block, two of them neighbours, and computable nodes given all the same.
BRC74 = bytes.fromhex(
    "fe8a6a0c000c04fde80b0011774f01d26412f0d16ea3f0447be0b5ebec67b0782e321a7a01cbdf7f734e30fde90b02004e53753e3fe4"
    "667073063a17987292cfdea278824e9888e52180581d7188d8fdea0b025e441996fc53f0191d649e68a200e752fb5f39e0d561708340"
    "8fa179ddc5c998fdeb0b0102fdf405000671394f72237d08a4277f4435e5b6edf7adc272f25effef27cdfe805ce71a81fdf50500262b"
    "ccabec6c4af3ed00cc7a7414edea9c5efa92fb8623dd6160a001450a528201fdfb020101fd7c010093b3efca9b77ddec914f8effac69"
    "1ecb54e2c81d0ab81cbc4c4b93befe418e8501bf01015e005881826eb6973c54003a02118fe270f03d46d02681c8bc71cd44c613e863"
    "02f8012e00e07a2bb8bb75e5accff266022e1e5e6e7b4d6d943a04faadcf2ab4a22f796ff30116008120cafa17309c0bb0e0ffce8352"
    "86b3a2dcae48e4497ae2d2b7ced4f051507d010a00502e59ac92f46543c23006bff855d96f5e648043f0fb87a7a5949e6a9bebae4301"
    "04001ccd9f8f64f4d0489b30cc815351cf425e0e78ad79a589350e4341ac165dbe45010301010000af8764ce7e1cc132ab5ed2229a00"
    "5c87201c9a5ee15c0f91dd53eff31ab30cd4"
)
BRC74_ROOT = "57aab6e6fb1b697174ffb64e062c4728f2ffd33ddcfa02a43b64d8cd29b483b4"
A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))


def whole_tree(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [*hashes, hashes[-1]] if len(hashes) % 2 else hashes
        hashes = [double_sha256(hashes[at] + hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def test_the_example_of_the_specification() -> None:
    path = read_merkle_path(BRC74)
    assert path.root[::-1].hex() == BRC74_ROOT
    assert path.block_height == 813_706
    assert [leaf.is_txid for leaf in path.levels[0]] == [False, True, True, False]
    assert write_merkle_path(path) == BRC74


def test_any_change_to_a_hash_or_an_offset_moves_the_root_or_is_refused() -> None:
    for at in range(len(BRC74)):
        broken = BRC74[:at] + bytes([BRC74[at] ^ 1]) + BRC74[at + 1 :]
        try:
            path = read_merkle_path(broken)
        except MalformedError:
            continue
        assert write_merkle_path(path) == broken
        same = path.root[::-1].hex() == BRC74_ROOT
        assert not same or path.txids == read_merkle_path(BRC74).txids


@given(st.integers(1, 20), st.data())
def test_txids_lead_to_the_root_of_the_whole_tree(size: int, data: st.DataObject) -> None:
    proven = [spend([], salt=number) for number in range(data.draw(st.integers(1, size)))]
    path = block_path(proven, size=size - len(proven))
    txids = [transaction.txid for transaction in proven]
    others = [double_sha256(bytes([number])) for number in range(size - len(proven))]
    assert path.root == whole_tree(txids + others)
    assert set(txids) <= path.txids
    assert read_merkle_path(write_merkle_path(path)) == path
    for cut in range(len(write_merkle_path(path))):
        with pytest.raises(MalformedError):
            read_merkle_path(write_merkle_path(path)[:cut])


def leaf(offset: int, digest: bytes | None) -> Leaf:
    return Leaf(offset=offset, hash=digest)


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ([[]], "must name a txid"),
        ([[leaf(1, None)]], "must name a txid"),
        ([[leaf(0, A)], []], "lacks node 1"),
        ([[leaf(1, A)]], "lacks node 0"),
        ([[leaf(0, A), leaf(1, B)], []], "lacks node 1 of level 1"),
        ([[leaf(0, A), leaf(1, B), leaf(2, C)]], "has no node 2"),
        ([[leaf(0, A), leaf(1, B)], [leaf(2, C)]], "has no node 2"),
        ([[leaf(0, A), leaf(0, B), leaf(1, C)]], "twice"),
        ([[leaf(0, None), leaf(1, A)]], "cannot be a duplicate"),
        ([[leaf(0, A), leaf(1, None), leaf(2, B), leaf(3, C)], []], "cannot be a duplicate"),
        ([[leaf(0, A), leaf(1, B)], [leaf(0, C), leaf(1, C)]], "not what the level below makes it"),
    ],
)
def test_what_is_no_path(levels: list[list[Leaf]], why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        make_merkle_path(1, levels)


def test_flags_depth_and_height_are_bounded() -> None:
    good = write_merkle_path(make_merkle_path(1, [[leaf(0, A), leaf(1, B)], [leaf(1, C)]]))
    assert read_merkle_path(good).root == double_sha256(double_sha256(A + B) + C)
    at_flag, at_upper_flag = good.index(A) - 1, good.index(C) - 1
    high = make_merkle_path(BLOCK_HEIGHT_MAX + 1, [[leaf(0, A)]])
    for broken in (
        good[:at_flag] + b"\3" + good[at_flag + 1 :],
        good[:at_upper_flag] + b"\2" + good[at_upper_flag + 1 :],
        b"\1\0",
        bytes([1, PATH_DEPTH_MAX + 1]) + bytes(200),
        write_merkle_path(high),
    ):
        with pytest.raises(MalformedError):
            read_merkle_path(broken)


def test_the_only_transaction_of_a_block_is_its_root() -> None:
    path = make_merkle_path(1, [[leaf(0, A)]])
    assert path.root == A


def test_equal_paths_are_equal() -> None:
    path: MerklePath = read_merkle_path(BRC74)
    assert path == read_merkle_path(BRC74)
    assert hash(path) == hash(read_merkle_path(BRC74))
    assert path != attrs.evolve(path, block_height=1)
