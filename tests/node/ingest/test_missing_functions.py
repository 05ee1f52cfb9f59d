"""Functions of policies whose package was removed after the policy was registered."""

import hashlib
from functools import partial
from typing import Any

import httpx
import trio

from agents.functions import DeclaredFunction
from protocols.canonical import canonical_json
from storage import policies, sources
from tests.node.running import Running, running

HASH = 64 * "a"
POLICY = {
    "functions": [{"name": "acme.check", "version": "1.0", "hash": HASH}],
    "rules": [{"name": "check", "check": "acme.check(data)"}],
}
IN_LEVELS = {
    "functions": POLICY["functions"],
    "certification": {"levels": [{"when": "acme.check(data)", "level": "critical"}]},
}


class Installed:
    """The functions of the packages that are installed; packages come and go."""

    def __init__(self, *functions: tuple[str, str, str]) -> None:
        self.functions = list(functions)

    def __call__(self) -> tuple[DeclaredFunction, ...]:
        return tuple(
            DeclaredFunction(name=name, version=version, hash=hash_) for name, version, hash_ in self.functions
        )


def reading(number: int) -> dict[str, Any]:
    return {"externalId": f"e{number}", "eventType": "t", "data": number}


async def use(node: Running, policy: Any, source_id: str) -> None:
    """Give a source a policy as if its functions had been installed at the time."""
    document = canonical_json(policy)
    digest = hashlib.sha256(document).digest()
    await node.database.run(partial(policies.put, policy_hash=digest, document=document))
    values = {"policy_hash": digest, "validation_rules": policy}
    await node.database.run(partial(sources.update, source_id=source_id, values=values))


def assert_refused(answer: httpx.Response, source_id: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:overlay:problem:missing-function")
    assert problem["source"] == source_id
    assert (problem["name"], problem["version"], problem["hash"]) == ("acme.check", "1.0", HASH)
    assert source_id in problem["detail"]
    assert "acme.check 1.0" in problem["detail"]
    assert "acme.check 1.0" in problem["remedy"]


async def test_only_requests_of_that_source_are_refused_in_a_group(postgres_url: str) -> None:
    async with running(postgres_url, installed=Installed()) as node:
        for name in ("s1", "s2", "lost"):
            await node.source(name)
        await use(node, POLICY, "lost")
        node.recorder.open = trio.Event()  # the committer waits, so that what follows becomes one group
        answers: dict[str, httpx.Response] = {}

        async def post(name: str, number: int) -> None:
            answers[f"{name}/{number}"] = await node.post(reading(number), source=name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, "s1", 0)
            while node.ingest.admission.backlog.unsettled < 1:
                await trio.sleep(0.01)
            for number in range(1, 6):
                for name in ("s1", "lost", "s2"):
                    nursery.start_soon(post, name, number)
            with trio.fail_after(30):
                while node.ingest.admission.backlog.unsettled < 16:
                    await trio.sleep(0.01)
            node.recorder.open.set()
        for number in range(1, 6):
            assert answers[f"s1/{number}"].status_code == 202
            assert answers[f"s2/{number}"].status_code == 202
            assert_refused(answers[f"lost/{number}"], "lost")
        assert node.ingest.admission.backlog.unsettled == 11, "what was refused does not count"


async def test_the_source_goes_on_once_its_package_is_back(postgres_url: str) -> None:
    installed = Installed(("acme.check", "1.0", HASH))
    async with running(postgres_url, installed=installed) as node:
        await node.source("s1")
        await use(node, POLICY, "s1")
        assert (await node.post(reading(1))).status_code == 202
        installed.functions.clear()
        assert_refused(await node.post(reading(2)), "s1")
        installed.functions.append(("acme.check", "1.0", HASH))
        assert (await node.post(reading(2))).status_code == 202


async def test_another_version_or_other_code_is_not_that_function(postgres_url: str) -> None:
    installed = Installed(("acme.check", "1.1", HASH), ("acme.check", "1.0", 64 * "b"), ("acme.other", "1.0", HASH))
    async with running(postgres_url, installed=installed) as node:
        await node.source("s1")
        await use(node, POLICY, "s1")
        assert_refused(await node.post(reading(1)), "s1")


async def test_a_function_that_only_level_rules_call_is_missed_too(postgres_url: str) -> None:
    async with running(postgres_url, installed=Installed()) as node:
        await node.source("s1")
        await use(node, IN_LEVELS, "s1")
        assert_refused(await node.post(reading(1)), "s1")


async def test_a_source_with_a_lost_function_can_be_given_another_policy(postgres_url: str) -> None:
    async with running(postgres_url, installed=Installed()) as node:
        await node.source("s1")
        await use(node, POLICY, "s1")
        assert_refused(await node.post(reading(1)), "s1")
        plain = (await node.client.post("/overlay/policies", json={})).json()["policyHash"]
        changed = await node.client.patch("/overlay/sources/s1", json={"policyHash": plain})
        assert changed.status_code == 200, changed.text
        taken = await node.post(reading(1))
        assert taken.status_code == 202, taken.text


async def test_a_source_with_a_lost_function_can_be_disabled(postgres_url: str) -> None:
    async with running(postgres_url, installed=Installed()) as node:
        await node.source("s1")
        await use(node, POLICY, "s1")
        changed = await node.client.patch("/overlay/sources/s1", json={"enabled": False})
        assert changed.status_code == 200, changed.text
        assert (await node.post(reading(1))).json()["type"] == "urn:overlay:problem:source-disabled"
