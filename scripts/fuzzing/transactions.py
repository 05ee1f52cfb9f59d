"""BEEFs for topic managers: transactions that spend each other, with tokens of every kind and hostile scripts."""

from collections.abc import Sequence
from typing import Final

import orjson

from node.network.discovery import Offer, make_tokens
from protocols.beef import make_beef, write_beef
from protocols.compact_size import write_sized
from protocols.roles import Role
from protocols.scripts import pushdrop
from protocols.transactions import Input, Output, Transaction, make_transaction
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import World, key_of
from tests.made_transactions import block_path

TOPICS: Final = ("tm_ship", "tm_slap", "tm_uhrp", "tm_gitdata_events_ingest")
KEYS: Final = 24
CHAIN_MAX: Final = 6


def submission(draw: Draw, world: World) -> tuple[bytes, bytes]:
    """A body for submission, and the header that names its topics."""
    made: list[Transaction] = []
    for _ in range(1 + draw.below(CHAIN_MAX)):
        made.append(_transaction(draw, world, made))
    proven = made[:1] if draw.chance(0.8) else draw.pick((made, []))
    path = [block_path(proven, height=draw.number(2**32 - 1), size=draw.below(6))] if proven else []
    beef = make_beef(made, path)
    body = write_beef(beef, version=draw.pick((1, 2)), atomic=draw.chance(0.2))
    if draw.chance(0.1):
        body = write_sized(body) + draw.bytes(300)
    names = [draw.pick(TOPICS) for _ in range(1 + draw.below(3))]
    if draw.chance(0.1):
        names.append(draw.text(60))
    topics: object = names if draw.chance(0.95) else draw.pick(({"a": 1}, "tm_ship", None, [1], [names]))
    return body, orjson.dumps(topics).replace(b"\x7f", b"")


def _transaction(draw: Draw, world: World, made: Sequence[Transaction]) -> Transaction:
    inputs = [
        Input(
            txid=draw.pick(made).txid if made and draw.chance(0.95) else draw.rng.randbytes(32),
            output_index=draw.below(2) if draw.chance(0.9) else draw.number(2**32 - 1),
            unlocking_script=draw.bytes(100),
            sequence=draw.number(2**32 - 1),
        )
        for _ in range(1 + draw.size(40, usual=2))
    ]
    outputs = [
        Output(
            satoshis=draw.below(3) if draw.chance(0.8) else draw.number(2**64 - 1),
            locking_script=_script(draw, world),
        )
        for _ in range(1 + draw.size(40, usual=3))
    ]
    if not made and draw.chance(0.8):
        inputs = []
    return make_transaction(inputs, outputs, version=draw.number(2**32 - 1), lock_time=draw.number(2**32 - 1))


def _script(draw: Draw, world: World) -> bytes:
    match draw.below(5):
        case 0 | 1:
            key = key_of(f"{world.seed} host {draw.below(KEYS)}")
            offer = Offer(
                roles=(draw.pick(tuple(Role)),),
                topics=(draw.pick(("gitdata.events.iot", "a.b")),),
                url="https://host.example",
                capacity=1,
                price=0,
                operator="",
                region="",
                build="",
                ttl_ms=60_000,
                allow_local_urls=False,
                services=("ls_ship",),
            )
            return draw.pick(make_tokens(key.key, offer))
        case 2 | 3:
            fields = [
                draw.pick((b"SHIP", b"SLAP", draw.text(200).encode(), draw.bytes(300))) for _ in range(draw.size(30))
            ]
            return pushdrop(draw.pick(world.agents).identity, fields)
        case _:
            return draw.bytes(600)
