"""What a node goes on with that was written by another version of it."""

from functools import partial

import pytest

from node.coordination.journal import EntityJournal
from protocols import codec
from protocols.entities import Chain
from protocols.errors import MalformedError
from storage import entities
from storage.database import Database

CHAIN = Chain(source_id="s1", context=b"{}")
STRANGE = b"\x82\x18\x66\x01"  # the tag of a batch, and too little of it


async def test_what_comes_back_by_itself_need_not_be_readable(postgres_url: str) -> None:
    rows = [("batch:1", STRANGE), ("lease:enhanced:2", b"?"), (CHAIN.entity_id, codec.encode(CHAIN))]
    with Database(postgres_url) as database:
        await database.run(partial(entities.commit, changed=rows, removed=[]))
        assert list(await EntityJournal(database).load()) == [CHAIN]


async def test_a_context_that_cannot_be_read_stops_the_node(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await database.run(partial(entities.commit, changed=[(CHAIN.entity_id, STRANGE)], removed=[]))
        with pytest.raises(MalformedError):
            await EntityJournal(database).load()
