"""Sources whose policy names a function that is not installed any more: shown, changed, and their data deleted."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.coordination.retention import DAY_MS, Retention
from node.runtime.clock import UTC_MS, clock_ms
from node.worker import plugins
from protocols.canonical import parse_json
from tests.node.operator_packages import Entry, install, rule_policy
from tests.node.running import Running, running

SOURCE = "def f(value):\n    return True\n"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        yield started


def uninstall(site: Path) -> None:
    for entry in site.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    plugins.forget()


def rules_of(entry: Entry, **sections: Any) -> dict[str, Any]:
    policy: Any = parse_json(rule_policy(entry))
    return {**policy, **sections}


async def test_a_source_is_made_with_what_is_installed_alone(node: Running, site: Path) -> None:
    entry = install(site, "calm", SOURCE)
    assert (await node.source(validationRules=rules_of(entry))).status_code == 201
    for wrong in ({**entry, "version": "1.1"}, {**entry, "hash": "00" * 32}, {**entry, "name": "acme.other"}):
        refused = await node.source("s2", validationRules=rules_of(wrong))
        assert (refused.status_code, refused.json()["path"]) == (422, "/validationRules/functions")
        assert "is not installed on this node" in refused.json()["detail"]


async def test_making_a_source_runs_nothing_of_its_package(node: Running, site: Path) -> None:
    """A module that ends the process when it is imported costs the node nothing."""
    entry = install(site, "ending", "import os\nos._exit(1)\n")
    assert (await node.source(validationRules=rules_of(entry))).status_code == 201
    assert (await node.client.post("/overlay/policies", json=rules_of(entry))).status_code == 201


@pytest.mark.parametrize("change", [{"enabled": False}, {"name": "Renamed"}, {"overlayTopics": ["a"]}])
async def test_a_source_whose_function_is_gone_can_be_changed(
    node: Running, site: Path, change: dict[str, Any]
) -> None:
    made = (await node.source(validationRules=rules_of(install(site, "calm", SOURCE)))).json()
    uninstall(site)
    changed = await node.client.patch("/overlay/sources/s1", json=change)
    assert changed.status_code == 200, changed.text
    assert changed.json() == made | change | {"updatedAt": changed.json()["updatedAt"]}
    assert (await node.client.get("/overlay/sources/s1")).json()["policyHash"] == made["policyHash"]


async def test_a_whole_document_with_the_same_policy_is_taken(node: Running, site: Path) -> None:
    entry = install(site, "calm", SOURCE)
    made = (await node.source(validationRules=rules_of(entry))).json()
    uninstall(site)
    document = {"name": "A", "sourceType": "webhook", "enabled": False, "validationRules": rules_of(entry)}
    changed = await node.client.put("/overlay/sources/s1", json=document)
    assert changed.status_code == 200, changed.text
    assert (changed.json()["enabled"], changed.json()["policyHash"]) == (False, made["policyHash"])


async def test_another_policy_with_what_is_gone_is_refused(node: Running, site: Path) -> None:
    entry = install(site, "calm", SOURCE)
    made = (await node.source(validationRules=rules_of(entry))).json()
    uninstall(site)
    refused = await node.client.patch(
        "/overlay/sources/s1", json={"validationRules": rules_of(entry, required=["v"])}
    )
    assert (refused.status_code, refused.json()["path"]) == (422, "/validationRules/functions")
    refused = await node.client.patch("/overlay/sources/s1", json={"mappingPolicy": {"required": ["v"]}})
    assert refused.status_code == 422
    assert (await node.client.get("/overlay/sources/s1")).json() == made
    without = await node.client.patch("/overlay/sources/s1", json={"validationRules": {}})
    assert without.status_code == 200
    assert without.json()["policyHash"] != made["policyHash"]


async def test_true_for_one_is_a_change_of_the_policy(node: Running) -> None:
    """They are equal to Python, and not to JSON."""
    assert (await node.source(mappingPolicy={"version": 1})).status_code == 201
    refused = await node.client.patch("/overlay/sources/s1", json={"mappingPolicy": {"version": True}})
    assert (refused.status_code, refused.json()["path"]) == (422, "/mappingPolicy/version")


async def test_data_is_deleted_when_its_time_is_over_though_the_function_is_gone(node: Running, site: Path) -> None:
    entry = install(site, "calm", SOURCE)
    rules = rules_of(entry, certification={"retention": {"days": 30}})
    assert (await node.source(validationRules=rules)).status_code == 201
    answer = await node.post({"externalId": "e", "eventType": "t", "data": {"v": 1}})
    event_id = answer.json()["processedEvents"][0]["eventId"]
    await node.seal(node.recorder.told[0].manifest)
    uninstall(site)
    retention = Retention(node.database)
    assert await retention.round() == 0
    later = clock_ms() + 31 * DAY_MS
    token = UTC_MS.set(lambda: later)
    try:
        assert await retention.round() == 1
    finally:
        UTC_MS.reset(token)
    gone = await node.client.get(f"/overlay/events/{event_id}")
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:overlay:problem:event-expired")


async def test_the_kinds_of_rules_are_shown_though_the_function_is_gone(node: Running, site: Path) -> None:
    """The evidence of an event names the kinds of rules that its policy has."""
    entry = install(site, "calm", SOURCE)
    assert (await node.source(validationRules=rules_of(entry, required=["v"]))).status_code == 201
    answer = await node.post({"externalId": "e", "eventType": "t", "data": {"v": 1}})
    event_id = answer.json()["processedEvents"][0]["eventId"]
    await node.seal(node.recorder.told[0].manifest)
    uninstall(site)
    found = (await node.client.get(f"/overlay/events/{event_id}/certification")).json()
    validations = [each for each in found["certification"]["processingEvidence"] if each["step"] == "validation"]
    assert validations
    assert all(each["validationRules"] == ["required", "rule"] for each in validations)
