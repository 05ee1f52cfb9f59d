"""BEEF: transactions with their ancestors, back to merkle paths (BRC-62 V1, BRC-96 V2, BRC-95 Atomic).

Order is not relied upon: parents should stand before children, and do in what is made here, but the official SDK
itself writes other orders where ancestors are missing. What is missing is seen by ``check_amounts``, not by the
reader. No path is checked against a chain, and no script is run.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Final, Literal

import attrs

from protocols.compact_size import ByteReader, write_compact_size
from protocols.errors import InvalidTransactionError, MalformedError
from protocols.limits import BEEF_BYTES_MAX
from protocols.merkle_path import PATH_BYTES_MIN, MerklePath, take_merkle_path, write_merkle_path
from protocols.transactions import TXID_BYTES, Transaction, Txid, take_transaction, txid_hex

V1, V2, ATOMIC = bytes.fromhex("0100beef"), bytes.fromhex("0200beef"), bytes.fromhex("01010101")
MAGIC_BYTES: Final = 4
ENTRY_BYTES_MIN: Final = 11
UNPROVEN, PROVEN, TXID_ONLY = 0, 1, 2  # how an entry begins in V2; V1 has the first two, after the transaction
SATOSHIS_MAX: Final = 21 * 10**14
COINBASE: Final = (bytes(TXID_BYTES), 0xFFFF_FFFF)  # the outpoint that new coins name as their source


@attrs.frozen(kw_only=True)
class BeefTransaction:
    """A transaction in a BEEF, or only its txid if the receiver is expected to know it."""

    txid: Txid
    transaction: Transaction | None = None
    path_index: int | None = None


@attrs.frozen(kw_only=True)
class Beef:
    """Transactions, no txid twice, and the paths that prove some of them."""

    paths: tuple[MerklePath, ...]
    transactions: tuple[BeefTransaction, ...]
    subject: Txid  # the txid of an Atomic BEEF, else the last transaction's

    def transaction(self, txid: Txid) -> Transaction | None:
        """The whole transaction, where it is here."""
        entry = self._entries.get(txid)
        return None if entry is None else entry.transaction

    def path(self, txid: Txid) -> MerklePath | None:
        """The path that proves a txid: the one its transaction names, or else any that has it at its lowest level."""
        return self._proofs.get(txid)

    @property
    def subject_transaction(self) -> Transaction:
        """The transaction that this BEEF is about.

        Raises:
            MalformedError: only its txid is here.
        """
        transaction = self.transaction(self.subject)
        if transaction is None:
            raise MalformedError("the subject of the BEEF is not in it")
        return transaction

    @cached_property
    def _entries(self) -> Mapping[Txid, BeefTransaction]:
        return {entry.txid: entry for entry in self.transactions}

    @cached_property
    def _proofs(self) -> Mapping[Txid, MerklePath]:
        proofs = {txid: path for path in reversed(self.paths) for txid in path.txids}
        for entry in self.transactions:
            if entry.path_index is not None:
                proofs[entry.txid] = self.paths[entry.path_index]
        return proofs


def make_beef(transactions: Sequence[Transaction], paths: Sequence[MerklePath] = ()) -> Beef:
    """A BEEF of transactions, parents first, the subject last, each with the path that proves it if one does."""
    index_of = {txid: index for index, path in reversed([*enumerate(paths)]) for txid in path.txids}
    entries = tuple(
        BeefTransaction(txid=known.txid, transaction=known, path_index=index_of.get(known.txid))
        for known in transactions
    )
    return Beef(paths=tuple(paths), transactions=entries, subject=entries[-1].txid)


def read_beef(data: bytes) -> Beef:
    """Read a BEEF of any version.

    Raises:
        MalformedError: it is longer than ``BEEF_BYTES_MAX``, no BEEF, holds nothing, a txid twice, a transaction
            whose path does not have it, or not the subject it names; or there is anything after its end.
    """
    if len(data) > BEEF_BYTES_MAX:
        raise MalformedError(f"a BEEF must have at most {BEEF_BYTES_MAX} bytes, not {len(data)}")
    reader = ByteReader(data)
    magic, atomic_subject = reader.take(MAGIC_BYTES), None
    if magic == ATOMIC:
        atomic_subject, magic = reader.take(TXID_BYTES), reader.take(MAGIC_BYTES)
    if magic not in (V1, V2):
        raise MalformedError("the bytes are not a BEEF: unknown version")
    take_entry = _take_entry_v1 if magic == V1 else _take_entry_v2
    paths = tuple(take_merkle_path(reader) for _ in range(reader.count(bytes_each=PATH_BYTES_MIN)))
    entries = tuple(take_entry(reader) for _ in range(reader.count(bytes_each=ENTRY_BYTES_MIN)))
    reader.finish()
    if not entries:
        raise MalformedError("a BEEF must hold a transaction")
    beef = Beef(paths=paths, transactions=entries, subject=atomic_subject or entries[-1].txid)
    _check_entries(beef)
    if atomic_subject is not None and beef.transaction(atomic_subject) is None:
        raise MalformedError("the subject of an Atomic BEEF is not in it")
    return beef


def write_beef(beef: Beef, *, version: Literal[1, 2] = 1, atomic: bool = False) -> bytes:
    """The binary form, everything in the order of the BEEF.

    Raises:
        ValueError: version 1 cannot say a txid alone; or the subject is not the last transaction, which a form
            that is not Atomic cannot say either. ``ancestry`` makes a BEEF that all forms can say.
    """
    if not atomic and beef.transactions[-1].txid != beef.subject:
        raise ValueError("only an Atomic BEEF names a subject that is not its last transaction")
    write_entry = _write_entry_v1 if version == 1 else _write_entry_v2
    return b"".join(
        (
            ATOMIC + beef.subject if atomic else b"",
            V1 if version == 1 else V2,
            write_compact_size(len(beef.paths)),
            *map(write_merkle_path, beef.paths),
            write_compact_size(len(beef.transactions)),
            *map(write_entry, beef.transactions),
        )
    )


def merge_beefs(beefs: Sequence[Beef]) -> Beef:
    """All transactions of some BEEFs, at least one, in one: the most that any says of each, parents first."""
    entries: dict[Txid, BeefTransaction] = {}
    proofs: dict[Txid, MerklePath] = {}
    alike: dict[MerklePath, MerklePath] = {}  # one object for equal paths, so that each is compared once
    for beef in beefs:
        same = {id(path): alike.setdefault(path, path) for path in beef.paths}
        for entry in beef.transactions:
            if entry.transaction is not None or entry.txid not in entries:
                entries[entry.txid] = entry
            path = beef.path(entry.txid)
            if path is not None:
                proofs.setdefault(entry.txid, same[id(path)])
    return _in_order(entries, proofs)


def ancestry(beef: Beef, txid: Txid) -> Beef:
    """A transaction of a BEEF with its ancestors back to what is proven, parents first and nothing else.

    Raises:
        MalformedError: the transaction is not here.
    """
    if beef.transaction(txid) is None:
        raise MalformedError(f"the BEEF has no transaction {txid_hex(txid)}")
    entries: dict[Txid, BeefTransaction] = {}
    proofs: dict[Txid, MerklePath] = {}
    due = [txid]
    while due:
        entry = beef._entries.get(due.pop())
        if entry is None or entry.txid in entries:
            continue
        entries[entry.txid] = entry
        path = beef.path(entry.txid)
        if path is not None:
            proofs[entry.txid] = path
        else:
            due += _parents(entry)
    return _in_order(entries, proofs)


def check_amounts(beef: Beef) -> None:
    """Check what needs no chain and no script: where the money of the unproven transactions comes from.

    Of every transaction: outputs, their amounts possible, no outpoint spent twice in the whole BEEF. Of every one
    that no path proves: inputs, their transactions here, and outputs worth no more than the inputs.

    Raises:
        InvalidTransactionError: with ``txid`` and ``why``: ``no-inputs``, ``no-outputs``, ``impossible-amount``,
            ``spent-twice``, ``missing-parent``, ``no-such-output`` or ``inflating``.
    """
    spent: set[tuple[Txid, int]] = set()
    for entry in beef.transactions:
        transaction = entry.transaction
        if transaction is None:
            continue
        proven = beef.path(entry.txid) is not None
        paid = _check_outputs(transaction)
        for source in transaction.inputs:
            outpoint = (source.txid, source.output_index)
            if outpoint in spent:
                raise _invalid(transaction, "spent-twice", f"{_show(outpoint)} is spent twice")
            if not (proven and outpoint == COINBASE):
                spent.add(outpoint)
        if not proven and paid > _funds(beef, transaction):
            raise _invalid(transaction, "inflating", "its outputs are worth more than its inputs")


def _check_outputs(transaction: Transaction) -> int:
    if not transaction.outputs:
        raise _invalid(transaction, "no-outputs", "it has no outputs")
    paid = sum(made.satoshis for made in transaction.outputs)
    if paid > SATOSHIS_MAX:
        raise _invalid(transaction, "impossible-amount", f"its outputs are worth {paid} satoshis")
    return paid


def _funds(beef: Beef, transaction: Transaction) -> int:
    if not transaction.inputs:
        raise _invalid(transaction, "no-inputs", "it has no inputs")
    funds = 0
    for source in transaction.inputs:
        parent = beef.transaction(source.txid)
        if parent is None:
            raise _invalid(transaction, "missing-parent", f"its parent {txid_hex(source.txid)} is not in the BEEF")
        if source.output_index >= len(parent.outputs):
            outpoint = (source.txid, source.output_index)
            raise _invalid(transaction, "no-such-output", f"{_show(outpoint)} does not exist")
        funds += parent.outputs[source.output_index].satoshis
    return funds


def _invalid(transaction: Transaction, why: str, text: str) -> InvalidTransactionError:
    txid = transaction.txid_hex
    return InvalidTransactionError(f"the transaction {txid} is not valid: {text}", txid=txid, why=why)


def _show(outpoint: tuple[Txid, int]) -> str:
    return f"output {outpoint[1]} of {txid_hex(outpoint[0])}"


def _parents(entry: BeefTransaction) -> Iterable[Txid]:
    return [source.txid for source in entry.transaction.inputs] if entry.transaction else ()


def _in_order(entries: Mapping[Txid, BeefTransaction], proofs: Mapping[Txid, MerklePath]) -> Beef:
    """Bare txids, then what is proven, then the rest, parents first."""
    paths: dict[MerklePath, int] = {}
    bare, proven, unproven = [], [], {}
    for txid, entry in entries.items():
        if txid in proofs and entry.transaction is not None:
            index = paths.setdefault(proofs[txid], len(paths))
            proven.append(attrs.evolve(entry, path_index=index))
        elif entry.transaction is None:
            bare.append(entry)
        else:
            unproven[txid] = entry
    sorter: TopologicalSorter[Txid] = TopologicalSorter()
    for txid, entry in unproven.items():
        sorter.add(txid, *(parent for parent in _parents(entry) if parent in unproven))
    ordered = (*bare, *proven, *(unproven[txid] for txid in sorter.static_order()))
    return Beef(paths=tuple(paths), transactions=ordered, subject=ordered[-1].txid)


def _check_entries(beef: Beef) -> None:
    if len({entry.txid for entry in beef.transactions}) != len(beef.transactions):
        raise MalformedError("a BEEF must not hold a transaction twice")
    for entry in beef.transactions:
        index = entry.path_index
        if index is not None and (index >= len(beef.paths) or entry.txid not in beef.paths[index].txids):
            raise MalformedError(f"path {index} of a BEEF does not prove {txid_hex(entry.txid)}")


def _take_entry_v1(reader: ByteReader) -> BeefTransaction:
    transaction = take_transaction(reader)
    kind = reader.byte()
    if kind not in (UNPROVEN, PROVEN):
        raise MalformedError(f"a transaction of a BEEF V1 must end with 00 or 01, not {kind:02x}")
    index = reader.compact_size() if kind == PROVEN else None
    return BeefTransaction(txid=transaction.txid, transaction=transaction, path_index=index)


def _take_entry_v2(reader: ByteReader) -> BeefTransaction:
    kind = reader.byte()
    if kind == TXID_ONLY:
        return BeefTransaction(txid=reader.take(TXID_BYTES))
    if kind not in (UNPROVEN, PROVEN):
        raise MalformedError(f"a transaction of a BEEF V2 must start with 00, 01 or 02, not {kind:02x}")
    index = reader.compact_size() if kind == PROVEN else None
    transaction = take_transaction(reader)
    return BeefTransaction(txid=transaction.txid, transaction=transaction, path_index=index)


def _write_entry_v1(entry: BeefTransaction) -> bytes:
    if entry.transaction is None:
        raise ValueError("BEEF V1 holds whole transactions only")
    return entry.transaction.raw + _write_proof(entry)


def _write_entry_v2(entry: BeefTransaction) -> bytes:
    if entry.transaction is None:
        return bytes([TXID_ONLY]) + entry.txid
    return _write_proof(entry) + entry.transaction.raw


def _write_proof(entry: BeefTransaction) -> bytes:
    if entry.path_index is None:
        return bytes([UNPROVEN])
    return bytes([PROVEN]) + write_compact_size(entry.path_index)
