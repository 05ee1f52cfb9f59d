"""Bitcoin transactions in their raw form (BRC-12): bytes to values and back, without validation.

Inputs and outputs may be none, amounts anything in 64 bits: ``protocols.beef.check_amounts`` judges those.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Final, TypeAlias

import attrs

from protocols.compact_size import UINT32, UINT64, ByteReader, write_compact_size, write_sized
from protocols.errors import MalformedError
from protocols.limits import TRANSACTION_BYTES_MAX

Txid: TypeAlias = bytes  # the double SHA-256 as computed, 32 bytes; shown to people reversed, see txid_hex

TXID_BYTES: Final = 32
INPUT_BYTES_MIN: Final = 41
OUTPUT_BYTES_MIN: Final = 9
SEQUENCE_FINAL: Final = 0xFFFF_FFFF


def double_sha256(data: bytes) -> bytes:
    """SHA-256 of the SHA-256, 32 bytes: Bitcoin's hash for txids, merkle nodes and checksums."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def txid_hex(txid: Txid) -> str:
    """A txid as people and JSON write it: in reverse, 64 hex digits."""
    return txid[::-1].hex()


@attrs.frozen(kw_only=True)
class Input:
    """The output that an input spends: output ``output_index`` of the transaction ``txid``."""

    txid: Txid
    output_index: int
    unlocking_script: bytes
    sequence: int = SEQUENCE_FINAL


@attrs.frozen(kw_only=True)
class Output:
    """An output of a transaction: an amount, and the script that must be satisfied to spend it."""

    satoshis: int
    locking_script: bytes


@attrs.frozen(kw_only=True)
class Transaction:
    """A transaction. It has one raw form, so its fields decide its txid."""

    version: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    lock_time: int

    @cached_property
    def raw(self) -> bytes:
        """The raw form (BRC-12)."""
        parts = [UINT32.pack(self.version), write_compact_size(len(self.inputs))]
        for spent in self.inputs:
            parts += (spent.txid, UINT32.pack(spent.output_index), write_sized(spent.unlocking_script))
            parts.append(UINT32.pack(spent.sequence))
        parts.append(write_compact_size(len(self.outputs)))
        for made in self.outputs:
            parts += (UINT64.pack(made.satoshis), write_sized(made.locking_script))
        parts.append(UINT32.pack(self.lock_time))
        return b"".join(parts)

    @cached_property
    def txid(self) -> Txid:
        return double_sha256(self.raw)

    @property
    def txid_hex(self) -> str:
        return txid_hex(self.txid)


def make_transaction(
    inputs: Sequence[Input], outputs: Sequence[Output], *, version: int = 1, lock_time: int = 0
) -> Transaction:
    """A transaction of these inputs and outputs."""
    return Transaction(version=version, inputs=tuple(inputs), outputs=tuple(outputs), lock_time=lock_time)


def read_transaction(data: bytes) -> Transaction:
    """Read one raw transaction.

    Raises:
        MalformedError: it is longer than ``TRANSACTION_BYTES_MAX``, ends early, goes on after its end, or holds a
            number that is not in its shortest form.
    """
    if len(data) > TRANSACTION_BYTES_MAX:
        raise MalformedError(f"a transaction must have at most {TRANSACTION_BYTES_MAX} bytes, not {len(data)}")
    reader = ByteReader(data)
    transaction = take_transaction(reader)
    reader.finish()
    return transaction


def take_transaction(reader: ByteReader) -> Transaction:
    """Read a raw transaction from within other data."""
    version = reader.uint32()
    inputs = tuple(_take_input(reader) for _ in range(reader.count(bytes_each=INPUT_BYTES_MIN)))
    outputs = tuple(_take_output(reader) for _ in range(reader.count(bytes_each=OUTPUT_BYTES_MIN)))
    return Transaction(version=version, inputs=inputs, outputs=outputs, lock_time=reader.uint32())


def _take_input(reader: ByteReader) -> Input:
    return Input(
        txid=reader.take(TXID_BYTES),
        output_index=reader.uint32(),
        unlocking_script=reader.sized(),
        sequence=reader.uint32(),
    )


def _take_output(reader: ByteReader) -> Output:
    return Output(satoshis=reader.uint64(), locking_script=reader.sized())
