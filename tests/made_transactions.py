"""Transactions, merkle paths and BEEFs for tests: drawn by Hypothesis, or made from a number."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st

from protocols.beef import Beef, make_beef
from protocols.merkle_path import Leaf, MerklePath, make_merkle_path
from protocols.transactions import Input, Output, Transaction, double_sha256, make_transaction

SCRIPTS = st.binary(max_size=40)
UINT32 = st.integers(0, 2**32 - 1)
INPUTS = st.builds(
    Input, txid=st.binary(min_size=32, max_size=32), output_index=UINT32, unlocking_script=SCRIPTS, sequence=UINT32
)
OUTPUTS = st.builds(Output, satoshis=st.integers(0, 2**64 - 1), locking_script=SCRIPTS)


def transactions() -> st.SearchStrategy[Transaction]:
    """Any transaction, valid or not."""
    return st.builds(
        make_transaction,
        st.lists(INPUTS, max_size=4),
        st.lists(OUTPUTS, max_size=4),
        version=UINT32,
        lock_time=UINT32,
    )


@st.composite
def beefs(draw: st.DrawFn) -> Beef:
    """A BEEF of transactions that spend each other, some of them proven by blocks of their own."""
    made: list[Transaction] = []
    for number in range(draw(st.integers(1, 8))):
        parents = draw(st.lists(st.sampled_from(made), max_size=3, unique_by=id)) if made else []
        made.append(spend(parents, salt=number, outputs=draw(st.integers(1, 3))))
    blocks = draw(st.lists(st.lists(st.sampled_from(made), min_size=1, unique_by=id), max_size=3))
    paths = [block_path(block, height=100 + at, size=draw(st.integers(1, 9))) for at, block in enumerate(blocks)]
    return make_beef(made, paths)


def spend(parents: Sequence[Transaction], *, salt: int = 0, outputs: int = 1, satoshis: int = 0) -> Transaction:
    """A transaction that spends the first output of each parent."""
    inputs = [Input(txid=parent.txid, output_index=0, unlocking_script=b"") for parent in parents]
    made = [Output(satoshis=satoshis, locking_script=bytes([number])) for number in range(outputs)]
    return make_transaction(inputs, made, lock_time=salt)


def chain(length: int, *, proven: bool = True, satoshis: int = 1_000) -> Beef:
    """Transactions each of which spends the one before, the first of them in a block."""
    made = [spend([], satoshis=satoshis)]
    while len(made) < length:
        made.append(spend(made[-1:], satoshis=satoshis))
    return make_beef(made, [block_path(made[:1])] if proven else [])


def block_path(proven: Sequence[Transaction], *, height: int = 100, size: int = 1) -> MerklePath:
    """The path of some transactions into a block of them and ``size`` others after them."""
    txids = [transaction.txid for transaction in proven]
    level = [*txids, *(double_sha256(bytes([number])) for number in range(size))]
    wanted = set(range(len(txids)))
    levels: list[list[Leaf]] = []
    while len(level) > 1:
        needed = (
            sorted(wanted | {offset ^ 1 for offset in wanted})
            if not levels
            else sorted({offset ^ 1 for offset in wanted} - wanted)
        )
        levels.append(
            [
                Leaf(
                    offset=offset,
                    hash=level[offset] if offset < len(level) else None,
                    is_txid=not levels and offset in wanted,
                )
                for offset in needed
            ]
        )
        level = [*level, level[-1]] if len(level) % 2 else level
        level = [double_sha256(left + right) for left, right in list(pairwise(level))[::2]]
        wanted = {offset >> 1 for offset in wanted}
    return make_merkle_path(height, levels or [[Leaf(offset=0, hash=level[0], is_txid=True)]])
