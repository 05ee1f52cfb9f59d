"""Strangers flood a running node with fresh keys and batches to hold: little of it is stored, clients are served."""

import hashlib
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest

from node.runtime.clock import clock_ms
from node.runtime.config import load
from node.runtime.containment import Quarantine
from node.runtime.workers import Workers
from protocols.envelope import sign, to_frame
from protocols.limits import ADVERTISEMENTS_MAX
from protocols.messages import HoldBatch, IdentityKey
from storage import foreign_usage, policies
from storage.database import Database
from storage.foreign_usage import Usage
from tests.network_of_keys import NETWORK, KeySigner, certified
from tests.node.coordination.workbench import POLICY, packed
from tests.node.network.hostile_transport import HostileTransport, Sent
from tests.node.network.test_any_message import advertised
from tests.node.running import until
from tests.node.test_app import ENVIRONMENT, KEY, SOURCE, made, running

if TYPE_CHECKING:
    from psycopg import Connection

KEYS = 3_500
COORDINATORS, HOLDS = 8, 10
KEPT_MAX = Usage(32, 1024 * 1024)
BATCH = certified(events=5)


def hold(coordinator: KeySigner, number: int, holder: IdentityKey) -> Sent:
    manifest = attrs.evolve(
        BATCH.manifest.message, coordinator=coordinator.identity, source_sequence=number, received_ms=clock_ms()
    )
    order = HoldBatch(
        network=NETWORK,
        manifest=sign(coordinator, manifest),
        holders=(holder,),
        stateful=False,
        after="",
        context=b"{}",
    )
    return Sent(coordinator.identity, to_frame(sign(coordinator, order), packed(BATCH)), False, order)


def stored(connection: "Connection") -> tuple[int, int, int, int]:
    """Peers; batches held, their bytes, and the most of one coordinator."""
    peers = connection.execute("SELECT count(*) FROM peers").fetchone()
    held = connection.execute(
        """SELECT coalesce(sum(held), 0), coalesce(sum(bytes), 0), coalesce(max(held), 0) FROM (
               SELECT count(*) AS held, sum(size) AS bytes FROM replicas GROUP BY coordinator) AS each"""
    ).fetchone()
    assert peers is not None
    assert held is not None
    return int(peers[0]), int(held[0]), int(held[1]), int(held[2])


@pytest.mark.slow
async def test_what_strangers_flood_a_node_with_is_bounded(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", KEPT_MAX)
    transport = HostileTransport(KEY.identity)
    coordinators = [KeySigner(f"coordinator {number}") for number in range(COORDINATORS)]
    with Database(postgres_url) as database:
        keep = partial(policies.put, policy_hash=hashlib.sha256(POLICY).digest(), document=POLICY)
        await database.run(keep)
        async with Workers(1) as workers:
            settings = load(None, ENVIRONMENT | {"OVERLAY_NETWORK": NETWORK, "OVERLAY_SHUTDOWN_GRACE_S": "0.2"})
            lone = made(settings, database, workers, transport, Quarantine())
            taken: dict[str, list[float]] = {"before": [], "during": []}

            async def post(name: str) -> None:
                began = time.monotonic()
                await lone.post(sum(map(len, taken.values())))
                taken[name].append(time.monotonic() - began)

            async def use() -> None:
                assert (await lone.call("POST", "/overlay/sources", SOURCE))[0] == 201
                for _ in range(20):
                    await post("before")
                for coordinator in coordinators:
                    await transport.hand_in(advertised(coordinator))
                for number in range(HOLDS):
                    for coordinator in coordinators:
                        await transport.hand_in(hold(coordinator, number, KEY.identity))
                for number in range(KEYS):
                    await transport.hand_in(advertised(KeySigner(f"fresh {number}")))
                    if number % 100 == 0:
                        await post("during")
                await until(lambda: lone.node.state.driver.depth == 0, 60)
                await post("during")

            await running(lone, use)
        peers, held, size, most = await database.run(stored)
    with capsys.disabled():
        for name, each in taken.items():
            print(
                f"\n{name}: median {statistics.median(each) * 1000:.0f} ms, slowest {max(each) * 1000:.0f} ms", end=""
            )
        print(f"\n{peers} peers, {held} batches held in {size} bytes, {most} of one coordinator")
    assert 0 < peers <= ADVERTISEMENTS_MAX
    assert 0 < held <= KEPT_MAX.batches // foreign_usage.STRANGERS_SHARE < COORDINATORS * HOLDS
    assert size <= KEPT_MAX.size // foreign_usage.STRANGERS_SHARE
    assert most <= KEPT_MAX.batches // foreign_usage.COORDINATOR_SHARE
