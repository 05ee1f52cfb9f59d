"""CompactSize numbers and raw transactions: one value, one form, and no more work than bytes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.compact_size import COMPACT_SIZE_MAX, ByteReader, read_compact_size, write_compact_size, write_sized
from protocols.errors import MalformedError
from protocols.limits import LIST_ITEMS_MAX, TRANSACTION_BYTES_MAX
from protocols.transactions import Output, Transaction, make_transaction, read_transaction, txid_hex
from tests.made_transactions import transactions

# The first transaction with an input that anyone was paid by: block 170, txid as everybody shows it.
FIRST_PAYMENT = bytes.fromhex(
    "0100000001c997a5e56e104102fa209c6a852dd90660a20b2d9c352423edce25857fcd3704000000004847304402204e45e16932b8af"
    "514961a1d3a1a25fdf3f4f7732e9d624c6c61548ab5fb8cd410220181522ec8eca07de4860a4acdd12909d831cc56cbbac4622082221"
    "a8768d1d0901ffffffff0200ca9a3b00000000434104ae1a62fe09c5f51b13905f07f06b99a2f7159b2225f374cd378d71302fa28414"
    "e7aab37397f554a7df5f142c21c1b7303b8a0626f1baded5c72a704f7e6cd84cac00286bee0000000043410411db93e1dcdb8a016b49"
    "840f8c53bc1eb68a382e97b1482ecad7b148a6909a5cb2e0eaddfb84ccf9744464f82e160bfa9b8b64f9d4c03f999b8643f656b412a3"
    "ac00000000"
)
FIRST_PAYMENT_TXID = "f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16"


@given(st.integers(0, COMPACT_SIZE_MAX))
@example(252)
@example(253)
@example(0xFFFF)
@example(0x1_0000)
@example(0xFFFF_FFFF)
@example(0x1_0000_0000)
def test_a_compact_size_has_one_form(value: int) -> None:
    form = write_compact_size(value)
    assert read_compact_size(form) == value
    with pytest.raises(MalformedError):
        read_compact_size(form[:-1])
    with pytest.raises(MalformedError):
        read_compact_size(form + b"\0")


@pytest.mark.parametrize("longer", ["fd0000", "fdfc00", "fefdff0000", "feffff0000", "ffffffffff00000000"])
def test_a_longer_form_than_needed_is_refused(longer: str) -> None:
    with pytest.raises(MalformedError, match="shortest"):
        read_compact_size(bytes.fromhex(longer))


def test_lists_share_one_allowance() -> None:
    reader = ByteReader(b"\2\2\1" + bytes(9), items_max=4)
    assert reader.count(bytes_each=1) == 2
    assert reader.count(bytes_each=1) == 2
    with pytest.raises(MalformedError, match="exceeds the data"):
        reader.count(bytes_each=1)


def test_a_claimed_length_allocates_nothing() -> None:
    for claim in (b"\xff" * 9, b"\xfe\xff\xff\xff\x7f"):
        with pytest.raises(MalformedError):
            ByteReader(claim).sized()
        with pytest.raises(MalformedError):
            ByteReader(claim).count(bytes_each=1)


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_sized_bytes(data: bytes, more: bytes) -> None:
    reader = ByteReader(write_sized(data) + more)
    assert reader.sized() == data
    assert reader.rest() == more
    reader.finish()


def test_a_transaction_of_the_chain() -> None:
    transaction = read_transaction(FIRST_PAYMENT)
    assert transaction.txid_hex == FIRST_PAYMENT_TXID
    assert txid_hex(transaction.inputs[0].txid).startswith("0437cd7f8525ceed")
    assert [output.satoshis for output in transaction.outputs] == [10 * 10**8, 40 * 10**8]
    assert transaction.raw == FIRST_PAYMENT


@given(transactions())
def test_what_is_made_is_read(made: Transaction) -> None:
    assert read_transaction(made.raw) == made
    assert made.txid_hex == made.txid[::-1].hex()


@given(transactions(), st.data())
def test_what_is_cut_or_added_to_is_refused(made: Transaction, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(made.raw) - 1))
    for broken in (made.raw[:cut], made.raw + b"\0"):
        with pytest.raises(MalformedError):
            read_transaction(broken)


def test_bounds() -> None:
    fits = make_transaction([], [Output(satoshis=0, locking_script=b"")] * LIST_ITEMS_MAX)
    assert len(read_transaction(fits.raw).outputs) == LIST_ITEMS_MAX
    with pytest.raises(MalformedError, match="exceeds the data"):
        read_transaction(make_transaction([], [*fits.outputs, fits.outputs[0]]).raw)
    with pytest.raises(MalformedError, match="bytes"):
        read_transaction(bytes(TRANSACTION_BYTES_MAX + 1))
