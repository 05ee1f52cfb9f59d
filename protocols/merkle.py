"""Merkle trees over records, as certificate transparency builds them (RFC 6962, RFC 9162).

A leaf is ``sha256(0x00 || record)``, a node ``sha256(0x01 || left || right)``, and a lone node at the end of a
level moves up as it is: the tree of RFC 9162, section 2.1.1, built level by level.
"""

import hashlib
from collections.abc import Sequence

from protocols.errors import InvalidProofError

HASH_BYTES = 32


def leaf_hash(record: bytes) -> bytes:
    """SHA-256 of ``0x00 || record``, 32 bytes."""
    return hashlib.sha256(b"\0" + record).digest()


def root_of_leaves(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes in order; of no leaves, the hash of nothing (RFC 9162, 2.1.1)."""
    if not leaf_hashes:
        return hashlib.sha256(b"").digest()
    level = leaf_hashes
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def root_of_records(records: Sequence[bytes]) -> bytes:
    """The root over records in order."""
    return root_of_leaves([leaf_hash(record) for record in records])


def inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from leaf to root that prove the leaf at ``index`` (RFC 9162, 2.1.3.1).

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaf_hashes):
        raise IndexError(f"no leaf {index} in a tree of {len(leaf_hashes)}")
    path = []
    level = leaf_hashes
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level)
        index //= 2
    return tuple(path)


def inclusion_paths(leaf_hashes: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """The inclusion path of every leaf, in order; the tree is built once."""
    levels: list[Sequence[bytes]] = [leaf_hashes]
    while len(levels[-1]) > 1:
        levels.append(_parents(levels[-1]))
    paths = []
    for index in range(len(leaf_hashes)):
        siblings = [(level, (index >> depth) ^ 1) for depth, level in enumerate(levels[:-1])]
        paths.append(tuple(level[sibling] for level, sibling in siblings if sibling < len(level)))
    return paths


def root_from_path(hashed: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Recompute the tree root that an inclusion path commits to.

    Args:
        hashed: Leaf hash, 32 bytes.
        index: Leaf position, 0-based; ``0 <= index < size``.
        size: Number of leaves (records, not bytes), at least 1.
        path: Sibling hashes, leaf to root.

    Raises:
        InvalidProofError: ``path`` has the wrong length for ``index`` and ``size``, or an element that is no
            hash. A root that differs is no error here: the caller compares.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise InvalidProofError(f"no leaf {index} in a tree of {size}")
    if any(len(sibling) != HASH_BYTES for sibling in path):
        raise InvalidProofError("a sibling in the path is not 32 bytes")
    siblings = iter(path)
    last = size - 1
    root = hashed
    try:
        while last > 0:
            if index % 2:
                root = _node(next(siblings), root)
            elif index < last:
                root = _node(root, next(siblings))
            index //= 2
            last //= 2
    except StopIteration:
        raise InvalidProofError("the path is too short for its tree") from None
    if next(siblings, None) is not None:
        raise InvalidProofError("the path is too long for its tree")
    return root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _parents(level: Sequence[bytes]) -> list[bytes]:
    sha256 = hashlib.sha256
    parents = [sha256(b"\1" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        parents.append(level[-1])
    return parents
