"""Transactions that carry a token which is on no chain, for those who read tokens out of transactions.

A lookup answers with outputs of transactions. A node's own tokens travel by gossip or are minted when asked for, so
the transaction around one is made from it: no inputs, one output without an amount, the same bytes every time.
"""

from protocols.beef import make_beef, write_beef
from protocols.transactions import Output, make_transaction


def carry(script: bytes) -> bytes:
    """A BEEF whose subject has this locking script as its only output."""
    transaction = make_transaction((), (Output(satoshis=0, locking_script=script),))
    return write_beef(make_beef([transaction]))
