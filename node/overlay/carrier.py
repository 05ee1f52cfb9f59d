"""Carrier transactions: around tokens that are not on a chain, for clients that read tokens from transactions.

A lookup answers with outputs of transactions. A node's own tokens travel by gossip or are made on request, so a
transaction is made around each: no inputs, one output without an amount, the same bytes every time.
"""

from protocols.beef import make_beef, write_beef
from protocols.transactions import Output, make_transaction


def carry(script: bytes) -> bytes:
    """A BEEF whose subject has this locking script as its only output."""
    transaction = make_transaction((), (Output(satoshis=0, locking_script=script),))
    return write_beef(make_beef([transaction]))
