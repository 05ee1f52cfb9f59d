"""The market over HTTP: templates set and withdrawn, agents explained, auctions read afterwards."""

import copy
import hashlib
from functools import partial
from typing import Any

from node.api.market import EXAMPLE_TEMPLATE
from node.runtime.clock import clock_ms
from protocols.certificate import agent_id
from storage import auctions, peers, reputations
from storage.reputations import Incident
from tests.node.certified_batches import AGENT, NODE
from tests.node.running import running


def template(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(EXAMPLE_TEMPLATE)
    document["agentRequirements"]["minimumReputation"] = changes.get("reputation", 70)
    return document


async def test_a_template_is_used_until_it_is_withdrawn(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        path = "/overlay/job-templates"
        built_in = (await node.client.get(path)).json()["templates"]
        assert len(built_in) == 12
        assert all(each["builtIn"] and each["inUse"] for each in built_in)
        first = (await node.client.post(path, json=template())).json()
        second = (await node.client.post(path, json=template(reputation=80))).json()
        used = [each for each in (await node.client.get(path)).json()["templates"] if not each["builtIn"]]
        assert [each["templateHash"] for each in used] == [second["templateHash"]]
        document = await node.client.get(f"{path}/{first['templateHash']}")
        assert hashlib.sha256(document.content).hexdigest() == first["templateHash"]
        await node.client.delete(f"{path}/{second['templateHash']}")
        versions = (await node.client.get(path, params={"templateId": "validate-iot"})).json()["templates"]
        assert [each["inUse"] for each in versions] == [False, True]
        assert (await node.client.delete(f"{path}/{'0' * 64}")).status_code == 404
        wrong = await node.client.post(path, json={**template(), "jobType": "guess"})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "/jobType")
    async with running(postgres_url) as node:
        await node.market.load()
        used = [each for each in await node.market.templates() if not each["builtIn"]]
        assert [each["templateHash"] for each in used] == [first["templateHash"]]


async def test_an_agent_is_explained(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        incident = Incident(
            agent=AGENT.identity, role="validate", outcome="dissented", batch_id="batch_1", at_ms=clock_ms()
        )
        await node.database.run(partial(reputations.save, changed=[], incidents=[incident]))
        await node.database.run(
            lambda connection: peers.keep_equivocation(
                connection,
                peers.StoredEquivocation(
                    signer=AGENT.identity, batch_id="batch_1", role="validate", first=b"1", second=b"2"
                ),
            )
        )
        found = (await node.client.get(f"/overlay/agents/{agent_id(AGENT.identity)}")).json()
        assert found["roles"] == ["normalize"]
        assert found["reputation"] == 50
        assert [each["outcome"] for each in found["blemishes"]] == ["dissented"]
        assert [each["batchId"] for each in found["proofs"]] == ["batch_1"]
        assert (await node.client.get("/overlay/proofs")).json()["proofs"] == found["proofs"]
        assert (await node.client.get(f"/overlay/agents/{agent_id(NODE.identity)}")).status_code == 404
        assert (await node.client.get("/overlay/agents/nobody")).status_code == 404


async def test_an_auction_is_read_afterwards(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        record = {
            "jobId": "job_1",
            "leaseId": "lease_1",
            "level": "enhanced",
            "quorum": 2,
            "strategy": "reputation",
            "closedAt": "2024-01-01T00:00:00.000Z",
            "bids": [],
            "ranking": [],
        }
        put = partial(auctions.put, announcement_id="job_1", lease_id="lease_1", record=record, at_ms=1)
        await node.database.run(put)
        assert (await node.client.get("/overlay/jobs")).json() == {"jobs": [record]}
        for name in ("job_1", "lease_1"):
            assert (await node.client.get(f"/overlay/jobs/{name}")).json() == record
        assert (await node.client.get("/overlay/jobs/job_2")).status_code == 404
