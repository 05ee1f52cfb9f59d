"""Merkle paths of transactions into blocks (BRC-74, "BUMP"): one block's tree, as far as some txids need it.

Level 0 holds txids and their neighbours, each level above the nodes that cannot be computed from below. A
neighbour that is only the node itself again, at the odd end of a level, is marked as a duplicate and not written.

Every hash of level 0 leads to the same root here, so whatever stands there is proven if the root is a block's.
That the root *is* the root of the block at that height only a chain tracker knows.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from protocols.compact_size import ByteReader, write_compact_size
from protocols.errors import MalformedError
from protocols.limits import PATH_DEPTH_MAX
from protocols.transactions import TXID_BYTES, Txid, double_sha256

BLOCK_HEIGHT_MAX: Final = 0xFFFF_FFFF
LEAF_BYTES_MIN: Final = 2
PATH_BYTES_MIN: Final = 5
NEIGHBOUR, DUPLICATE, TXID = 0, 1, 2  # the flags of a leaf


@attrs.frozen(kw_only=True)
class Leaf:
    """A node at ``offset`` in its level, counted from the left."""

    offset: int
    hash: bytes | None  # None: the same as its left neighbour
    is_txid: bool = False  # one of the txids that the path was made for


@attrs.frozen(kw_only=True, cache_hash=True)
class MerklePath:
    """A path as ``make_merkle_path`` and ``read_merkle_path`` give it: it leads to ``root``."""

    block_height: int
    levels: tuple[tuple[Leaf, ...], ...]
    root: bytes = attrs.field(eq=False)  # as computed, 32 bytes; shown in reverse like a txid
    txids: frozenset[Txid] = attrs.field(eq=False)  # all hashes of level 0


def make_merkle_path(block_height: int, levels: Sequence[Sequence[Leaf]]) -> MerklePath:
    """A path of these leaves, level 0 first, computed to its root.

    Raises:
        MalformedError: not every hash of level 0 leads to the same root, a node is given twice or wrongly, or a
            duplicate is not the last of its level.
    """
    frozen = tuple(tuple(level) for level in levels)
    root = _root(frozen)
    txids = frozenset(leaf.hash for leaf in frozen[0] if leaf.hash is not None)
    return MerklePath(block_height=block_height, levels=frozen, root=root, txids=txids)


def read_merkle_path(data: bytes) -> MerklePath:
    """Read one path.

    Raises:
        MalformedError: the bytes are not a path, continue after its end, or ``make_merkle_path`` refuses it.
    """
    reader = ByteReader(data)
    path = take_merkle_path(reader)
    reader.finish()
    return path


def take_merkle_path(reader: ByteReader) -> MerklePath:
    """Read a path from within other data."""
    block_height = reader.compact_size()
    if block_height > BLOCK_HEIGHT_MAX:
        raise MalformedError(f"the block height {block_height} is out of range")
    depth = reader.byte()
    if not 1 <= depth <= PATH_DEPTH_MAX:
        raise MalformedError(f"a merkle path must have 1 to {PATH_DEPTH_MAX} levels, not {depth}")
    return make_merkle_path(block_height, [_take_level(reader, level) for level in range(depth)])


def write_merkle_path(path: MerklePath) -> bytes:
    """The binary form, leaves in the order of the path."""
    parts = [write_compact_size(path.block_height), bytes([len(path.levels)])]
    for level in path.levels:
        parts.append(write_compact_size(len(level)))
        for leaf in level:
            flag = DUPLICATE if leaf.hash is None else TXID if leaf.is_txid else NEIGHBOUR
            parts += (write_compact_size(leaf.offset), bytes([flag]), leaf.hash or b"")
    return b"".join(parts)


def _take_level(reader: ByteReader, level: int) -> list[Leaf]:
    return [_take_leaf(reader, level) for _ in range(reader.count(bytes_each=LEAF_BYTES_MIN))]


def _take_leaf(reader: ByteReader, level: int) -> Leaf:
    offset, flag = reader.compact_size(), reader.byte()
    if flag > TXID or (flag == TXID and level > 0):
        raise MalformedError(f"a leaf of level {level} has unknown flags {flag:#04x}")
    return Leaf(offset=offset, hash=None if flag == DUPLICATE else reader.take(TXID_BYTES), is_txid=flag == TXID)


def _root(levels: Sequence[Sequence[Leaf]]) -> bytes:
    """Compute upwards, all txids at once: one hash for each two nodes, however many paths share them."""
    depth = len(levels)
    known: dict[int, bytes] = {leaf.offset: leaf.hash for leaf in levels[0] if leaf.hash is not None}
    if not known:
        raise MalformedError("a merkle path must name a txid")
    if depth == 1 and len(levels[0]) == 1 and 0 in known:
        return known[0]  # the only transaction of its block
    for level, leaves in enumerate(levels):
        given = {leaf.offset: leaf.hash for leaf in leaves}
        if len(given) != len(leaves):
            raise MalformedError(f"level {level} of a merkle path gives a node twice")
        last = max((*given, *known))
        if last >> (depth - level):
            raise MalformedError(f"level {level} of a merkle path of {depth} levels has no node {last}")
        for offset, digest in given.items():
            if digest is None and (offset != last or offset % 2 == 0):
                raise MalformedError(f"node {offset} of level {level} cannot be a duplicate")
            if offset in known and digest != known[offset]:
                raise MalformedError(f"node {offset} of level {level} is not what the level below makes it")
        known = _parents(known, given, level)
    return known[0]


def _parents(known: dict[int, bytes], given: dict[int, bytes | None], level: int) -> dict[int, bytes]:
    parents: dict[int, bytes] = {}
    for offset, digest in known.items():
        if offset >> 1 in parents:
            continue
        other = known.get(offset ^ 1)
        if other is None:
            if offset ^ 1 not in given:
                raise MalformedError(f"a merkle path lacks node {offset ^ 1} of level {level}")
            other = given[offset ^ 1] or digest
        parents[offset >> 1] = double_sha256(other + digest if offset % 2 else digest + other)
    return parents
