"""BEEF: what is written is read, what is merged or cut out is whole, and money comes from somewhere."""

import time
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.beef import (
    ATOMIC,
    COINBASE,
    SATOSHIS_MAX,
    V1,
    V2,
    Beef,
    BeefTransaction,
    ancestry,
    check_amounts,
    make_beef,
    merge_beefs,
    read_beef,
    write_beef,
)
from protocols.errors import InvalidTransactionError, MalformedError
from protocols.limits import BEEF_BYTES_MAX, LIST_ITEMS_MAX
from protocols.merkle_path import Leaf, make_merkle_path, write_merkle_path
from protocols.transactions import Input, Output, Transaction, make_transaction
from tests.made_transactions import beefs, block_path, chain, spend

CPU_S_MAX = 1.0  # ten times what the largest input takes; quadratic work would take minutes


@given(beefs(), st.sampled_from([1, 2]), st.booleans())
def test_what_is_written_is_read(beef: Beef, version: Literal[1, 2], atomic: bool) -> None:
    data = write_beef(beef, version=version, atomic=atomic)
    assert data.startswith(ATOMIC if atomic else V1 if version == 1 else V2)
    assert read_beef(data) == beef


@given(beefs(), st.data())
def test_what_is_cut_or_added_to_is_refused(beef: Beef, data: st.DataObject) -> None:
    written = write_beef(beef, version=2)
    cut = data.draw(st.integers(0, len(written) - 1))
    for broken in (written[:cut], written + b"\0"):
        with pytest.raises(MalformedError):
            read_beef(broken)


@given(st.lists(beefs(), min_size=1, max_size=4))
def test_a_merged_beef_has_all_transactions_after_their_parents(several: list[Beef]) -> None:
    merged = merge_beefs(several)
    places = {entry.txid: place for place, entry in enumerate(merged.transactions)}
    assert set(places) == {entry.txid for beef in several for entry in beef.transactions}
    assert len(places) == len(merged.transactions)
    for entry in merged.transactions:
        assert entry.transaction is not None
        proven = any(beef.path(entry.txid) for beef in several)
        assert (entry.path_index is not None) is proven
        assert proven or all(
            places[source.txid] < places[entry.txid] for source in entry.transaction.inputs if source.txid in places
        )
    assert len(set(merged.paths)) == len(merged.paths)
    assert read_beef(write_beef(merged)) == merged
    assert merge_beefs([merged]).transactions == merged.transactions


@given(beefs(), st.data())
def test_an_ancestry_goes_back_to_what_is_proven(beef: Beef, data: st.DataObject) -> None:
    txid = data.draw(st.sampled_from([entry.txid for entry in beef.transactions]))
    part = ancestry(beef, txid)
    assert part.subject == txid
    due, expected = [txid], set()
    while due:
        at = due.pop()
        expected.add(at)
        transaction = beef.transaction(at)
        assert transaction is not None
        if beef.path(at) is None:
            due += [source.txid for source in transaction.inputs]
    assert {entry.txid for entry in part.transactions} == expected
    assert read_beef(write_beef(part, version=1)) == part


def test_a_bare_txid_is_completed_by_a_beef_that_has_it() -> None:
    whole = chain(3)
    first = whole.transactions[0]
    part = attrs.evolve(whole, paths=(), transactions=(BeefTransaction(txid=first.txid), *whole.transactions[1:]))
    assert read_beef(write_beef(part, version=2)) == part
    for order in ([part, whole], [whole, part]):
        assert merge_beefs(order) == whole
    with pytest.raises(MalformedError, match="has no transaction"):
        ancestry(part, first.txid)


def test_the_subject_is_the_named_one_or_the_last() -> None:
    beef = chain(3)
    middle = beef.transactions[1].txid
    renamed = attrs.evolve(beef, subject=middle)
    assert read_beef(write_beef(renamed, atomic=True)).subject_transaction.txid == middle
    with pytest.raises(ValueError, match="only an Atomic BEEF"):
        write_beef(renamed)
    bare = read_beef(V2 + b"\0\1\2" + bytes(32))
    with pytest.raises(MalformedError, match="subject"):
        assert bare.subject_transaction


ONE = spend([], satoshis=5)
PATH = write_merkle_path(block_path([ONE]))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "expected 4 bytes"),
        (b"0100beef", "unknown version"),
        (b"\3" + V1[1:] + b"\0\0", "unknown version"),
        (ATOMIC + ONE.txid + ATOMIC + ONE.txid + V1 + b"\0\1" + ONE.raw + b"\0", "unknown version"),
        (V1 + b"\0\0", "must hold a transaction"),
        (V1 + b"\0\2" + (ONE.raw + b"\0") * 2, "twice"),
        (V2 + b"\0\2\0" + ONE.raw + b"\2" + ONE.txid, "twice"),
        (V1 + b"\0\1" + ONE.raw + b"\2", "must end with"),
        (V2 + b"\0\1\3" + ONE.raw, "must start with"),
        (V1 + b"\0\1" + ONE.raw + b"\1\0", "does not prove"),
        (V1 + b"\1" + PATH + b"\1" + ONE.raw + b"\1\1", "does not prove"),
        (V1 + b"\1" + PATH + b"\1" + spend([ONE]).raw + b"\1\0", "does not prove"),
        (ATOMIC + bytes(32) + V1 + b"\0\1" + ONE.raw + b"\0", "subject"),
        (ATOMIC + ONE.txid + V2 + b"\0\1\2" + ONE.txid, "subject"),
        (V1 + b"\xfd\xff\xff", "exceeds the data"),
        (V1 + b"\0\xff" + b"\xff" * 8, "exceeds the data"),
        (bytes(BEEF_BYTES_MAX + 1), "at most 4194304 bytes"),
    ],
)
def test_what_is_no_beef(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        read_beef(data)


def test_a_path_proves_what_it_has_though_no_index_says_so() -> None:
    beef = make_beef([ONE], [block_path([ONE])])
    unnamed = attrs.evolve(beef, transactions=(BeefTransaction(txid=ONE.txid, transaction=ONE),))
    assert read_beef(write_beef(unnamed)).path(ONE.txid) == beef.paths[0]
    check_amounts(unnamed)


def test_the_path_that_is_named_is_the_one_that_counts() -> None:
    other = spend([], salt=1)
    paths = (block_path([ONE]), block_path([other, ONE], height=101))
    beef = make_beef([ONE, other], paths)
    assert beef.path(ONE.txid) == paths[0]
    named = tuple(attrs.evolve(entry, path_index=1) for entry in beef.transactions)
    again = read_beef(write_beef(attrs.evolve(beef, transactions=named)))
    assert again.path(ONE.txid) == paths[1]
    assert merge_beefs([again]).paths == paths[1:]


def spending(*sources: tuple[Transaction, int], pays: tuple[int, ...] = (1,)) -> Transaction:
    inputs = [Input(txid=parent.txid, output_index=index, unlocking_script=b"") for parent, index in sources]
    return make_transaction(inputs, [Output(satoshis=amount, locking_script=b"") for amount in pays])


RICH = make_transaction([], [Output(satoshis=amount, locking_script=b"") for amount in (SATOSHIS_MAX - 5, 5)])


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ([spending((ONE, 0), pays=(6,))], "inflating"),
        ([spending((ONE, 0), pays=(3, 3))], "inflating"),
        ([spending((ONE, 0), pays=())], "no-outputs"),
        ([spending(pays=(0,))], "no-inputs"),
        ([spending((ONE, 0), (ONE, 0))], "spent-twice"),
        ([spending((ONE, 0)), spending((ONE, 0), pays=(2,))], "spent-twice"),
        ([spending((ONE, 1))], "no-such-output"),
        ([spending((ONE, 2**32 - 1))], "no-such-output"),
        ([spending((spend([], salt=9), 0))], "missing-parent"),
        ([spending((ONE, 0), pays=(2**64 - 1,))], "impossible-amount"),
        ([spending((RICH, 0), (ONE, 0), pays=(SATOSHIS_MAX, 1))], "impossible-amount"),
        ([spending((ONE, 0), pays=(5,)), spending((spending((ONE, 0), pays=(5,)), 0), pays=(6,))], "inflating"),
    ],
)
def test_money_comes_from_somewhere(made: list[Transaction], why: str) -> None:
    beef = make_beef([ONE, RICH, *made], [block_path([ONE, RICH])])
    with pytest.raises(InvalidTransactionError) as refusal:
        check_amounts(read_beef(write_beef(beef)))
    assert refusal.value.fields == {"txid": made[-1].txid_hex, "why": why}


def test_sound_money_passes() -> None:
    first = spending((ONE, 0), (RICH, 1), pays=(4, 6))
    last = spending((first, 0), (first, 1), (RICH, 0), pays=(SATOSHIS_MAX, 0))
    check_amounts(make_beef([ONE, RICH, first, last], [block_path([ONE, RICH])]))
    check_amounts(chain(50))


def test_new_coins_have_one_source_in_name_only() -> None:
    coinbases = [
        make_transaction(
            [Input(txid=COINBASE[0], output_index=COINBASE[1], unlocking_script=bytes([number]))],
            [Output(satoshis=50, locking_script=b"")],
        )
        for number in range(2)
    ]
    check_amounts(make_beef(coinbases, [block_path(coinbases[:1]), block_path(coinbases[1:], height=101)]))
    with pytest.raises(InvalidTransactionError, match="not in the BEEF"):
        check_amounts(make_beef(coinbases[:1]))


def test_bare_parents_prove_nothing() -> None:
    whole = chain(2)
    bare = attrs.evolve(
        whole, paths=(), transactions=(BeefTransaction(txid=whole.transactions[0].txid), whole.transactions[1])
    )
    with pytest.raises(InvalidTransactionError) as refusal:
        check_amounts(bare)
    assert refusal.value.fields["why"] == "missing-parent"


def full_block() -> Beef:
    made = [spend([], salt=number, outputs=1) for number in range(2**12)]
    leaves = [Leaf(offset=at, hash=transaction.txid, is_txid=True) for at, transaction in enumerate(made)]
    return make_beef(made, [make_merkle_path(1, [leaves, *([[]] * 11)])])


@pytest.mark.parametrize(
    "beef",
    [chain(LIST_ITEMS_MAX // 3 - 10), full_block()],
    ids=["chain", "block"],
)
def test_the_largest_beefs_cost_what_their_bytes_cost(beef: Beef) -> None:
    start = time.process_time()
    data = write_beef(beef)
    again = read_beef(data)
    merge_beefs([again, again, beef])
    assert ancestry(again, again.subject).subject == again.subject
    assert time.process_time() - start < CPU_S_MAX
