"""The driver's state on disk: what a node goes on with, and the job rows beside it."""

from functools import partial

import pytest

from node.coordination.journal import EntityJournal
from protocols import codec
from protocols.certificate import agent_id
from protocols.effects import Transition
from protocols.entities import Batch, Chain, Stage
from protocols.errors import MalformedError
from protocols.messages import Award, Role
from protocols.rules import Rules
from storage import batches, entities, jobs
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from tests.network_of_keys import NETWORK, certified
from tests.node.coordination.workbench import AGENT, COORDINATOR, enter
from tests.outage import out_of_order

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


# --- job rows ------------------------------------------------------------------------------------------------

BATCH = certified()
RULES = Rules(network=NETWORK, self_key=COORDINATOR.identity, attempts_max=4)
NORMALIZE, VALIDATE, CERTIFY = Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY


def in_stage(stage: Stage, attempt: int = 0, *roles: Role) -> Batch:
    award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="job",
        agent=AGENT.identity,
        roles=roles,
        batches=1,
        expires_ms=1,
    )
    awards = (award,) if roles else ()
    return Batch(
        manifest=BATCH.manifest,
        stage=stage,
        stateful=False,
        attempt=attempt,
        awards=awards,
        alarm_ms=1_700_000_000_000,
    )


async def jobs_after(database: Database, *changes: Batch | None) -> dict[str, tuple[str | None, str, int]]:
    """The job rows once these states, in turn, were noted and written; None removes the batch."""
    await enter(database, BATCH)
    await database.run(partial(batches.materialise, received_before_ms=2**62))
    journal = EntityJournal(database)
    for each in changes:
        removed = () if each is not None else (in_stage(Stage.PROCESSING).entity_id,)
        journal.note(Transition(changed=() if each is None else (each,), removed=removed), RULES)
    await journal._changes.flush()
    rows = await database.run(partial(jobs.of_batch, batch_id=BATCH.manifest.message.batch_id))
    return {role: (agent, status, attempts) for _, role, agent, status, attempts in rows}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], {"normalize": (None, "queued", 0)}),
        (
            [in_stage(Stage.PROCESSING, 0, NORMALIZE, VALIDATE)],
            {
                "normalize": (agent_id(AGENT.identity), "running", 1),
                "validate": (agent_id(AGENT.identity), "running", 1),
            },
        ),
        (
            [in_stage(Stage.PROCESSING), in_stage(Stage.CERTIFYING, 0, CERTIFY)],
            {
                "normalize": (None, "running", 1),
                "validate": (None, "running", 1),
                "certify": (agent_id(AGENT.identity), "running", 1),
            },
        ),
        (
            [in_stage(Stage.PROCESSING), in_stage(Stage.BACKOFF, 1)],
            {"normalize": (None, "queued", 1), "validate": (None, "running", 1)},
        ),
        ([in_stage(Stage.PROCESSING), None], {"normalize": (None, "queued", 0)}),
        ([in_stage(Stage.PROCESSING), in_stage(Stage.PROCESSING, 0, NORMALIZE)], {"normalize": (None, "running", 1)}),
    ],
    ids=["nothing changed", "processing", "certifying", "waiting", "ended before it was written", "the same stage"],
)
async def test_job_rows_follow_the_stage_of_a_batch(
    postgres_url: str, changes: list[Batch | None], expected: dict[str, tuple[str | None, str, int]]
) -> None:
    with Database(postgres_url) as database:
        found = await jobs_after(database, *changes)
        assert {role: found[role] for role in expected} == expected


async def test_what_was_committed_is_loaded_again(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        journal = EntityJournal(database)
        await journal.commit([CHAIN], [])
        assert list(await EntityJournal(database).load()) == [CHAIN]
        later = Chain(source_id="s1", context=b'{"last":1}')
        await journal.commit([later], [])
        assert list(await EntityJournal(database).load()) == [later]
        await journal.commit([], [later.entity_id])
        assert list(await EntityJournal(database).load()) == []


async def test_a_commit_that_fails_stores_nothing(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        journal = EntityJournal(database)
        with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
            await journal.commit([CHAIN], [])
        assert list(await journal.load()) == []
