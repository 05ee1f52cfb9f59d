"""The node that is fuzzed: a process as an operator runs it, with a database of its own and sources of every kind."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import httpx

from node.runtime.keyring import Keyring
from protocols.canonical import parse_json
from protocols.levels import Level
from protocols.roles import WORK_ROLES
from protocols.templates import built_in
from scripts.fuzzing import policies
from scripts.fuzzing.records import SCHEMES
from scripts.fuzzing.upstream import SETTINGS as POLLED
from scripts.fuzzing.world import KEPT, World, agents_of, key_of
from scripts.network import LocalNetwork, Node

NETWORK: Final = "overlay-fuzz"
TIMEOUT_S: Final = 60.0
STOP_S: Final = 120.0  # for the node to end by itself, on a machine that is busy with other things
REGION: Final = "home"  # where alone agents are asked at level basic: else strangers bid for it and do nothing
SETTINGS: Final[Mapping[str, Any]] = {
    "event_consensus_required": False,
    "event_parallel_workers": 1,
    "event_processing_timeout_ms": 10_000,
    "event_processing_cache_size_mb": 8,  # full before memory is compared
    "overlay_region": REGION,
    "overlay_lease_ms": 3_000,  # where a call opened the work to strangers after all, one of them does nothing for it
    "overlay_adopt_ms": 2_000,
    "overlay_outbound_allow": ["127.0.0.0/8"],
    "overlay_shutdown_grace_s": 2.0,
}


@attrs.frozen(kw_only=True)
class Target:
    """A running node.

    Attributes:
        document: Its own description.
    """

    node: Node
    world: World
    operator: Keyring
    document: Mapping[str, Any]

    @property
    def p2p_address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.node.p2p_port}"

    @property
    def pid(self) -> int:
        assert self.node.process is not None, "it was started"
        return self.node.process.pid


@contextmanager
def running_target(
    directory: Path, seed: str, upstream: str, database_url: str | None = None, module: str = "node"
) -> Iterator[Target]:
    """Start the node and create its sources, policies and subscriptions; stop it at the end of the block.

    Args:
        directory: Of its key, log and database; must let the database's user in.
        upstream: URL that polled sources and a webhook subscription call.
        database_url: A server of Postgres in place of one of the node's own.
        module: What runs the node.
    """
    operator = key_of(f"{seed} node")
    _write_key(directory / "node-1" / "identity.key", operator)
    agents = agents_of(seed)
    settings = {
        **SETTINGS,
        "overlay_owner_keys": [agents[0].identity.hex()],
        "overlay_reader_keys": [agents[1].identity.hex()],
    }
    network = LocalNetwork(directory, 1, name=NETWORK, settings=settings, database_url=database_url)
    network.nodes[0].module = module
    with network:
        node = network.nodes[0]
        with httpx.Client(base_url=node.url, auth=node.operator, timeout=TIMEOUT_S) as client:
            kept = _store_policies(client)
            sources = _create_sources(client, upstream)
            _subscribe(client, upstream)
            templates = _require_region(client)
            document = ask(client, "GET", "/openapi.json").raise_for_status().json()
        world = World(
            seed=seed,
            network=NETWORK,
            node=operator.identity,
            agents=agents,
            policies=kept,
            sources=sources,
            kept=frozenset(templates),
        )
        yield Target(node=node, world=world, operator=operator, document=document)
        node.signal(signal.SIGTERM)
        node.wait(STOP_S)


def ask(client: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    """The answer to a request, which is sent again while a busy node refuses it with 503."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        answer = client.request(method, path, **more)
        if answer.status_code != 503 or time.monotonic() > deadline_s:
            return answer
        time.sleep(0.5)


def _write_key(path: Path, key: Keyring) -> None:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.key.to_bytes().hex() + "\n")


def _store_policies(client: httpx.Client) -> dict[bytes, bytes]:
    """Every example of a policy, canonical, by its hash."""
    found = {}
    for example in policies.examples():
        answer = (
            ask(client, "POST", "/overlay/policies", json=policies.at_basic(example.policy)).raise_for_status().json()
        )
        document = ask(client, "GET", f"/overlay/policies/{answer['policyHash']}").raise_for_status().content
        parse_json(document)
        found[bytes.fromhex(answer["policyHash"])] = document
    return found


def _create_sources(client: httpx.Client, upstream: str) -> dict[str, Sequence[Any]]:
    """One for each policy, each scheme of webhooks, and each format that is polled. Returns their samples by id."""
    samples: dict[str, Sequence[Any]] = {}
    for number, example in enumerate(policies.examples()):
        source_id = f"{KEPT}{number:02}"
        _create(client, source_id, "webhook", policies.split(policies.at_basic(example.policy)))
        samples[source_id] = example.samples
    for scheme, (configuration, _) in SCHEMES.items():
        source_id = f"{KEPT}hook-{scheme}"
        _create(client, source_id, "webhook", {"configuration": configuration})
        samples[source_id] = ()
    for name, configuration in POLLED.items():
        more = {"url": f"{upstream}/{name}", "interval": 2, "jitter": 0, "eventType": "t", **configuration}
        _create(client, f"{KEPT}poll-{name}", "poll", {"configuration": more})
    return {source_id: each for source_id, each in samples.items() if each}


def _create(client: httpx.Client, source_id: str, source_type: str, more: Mapping[str, Any]) -> None:
    document = {"sourceId": source_id, "name": source_id, "sourceType": source_type, **more}
    answer = ask(client, "POST", "/overlay/sources", json=document)
    if answer.is_error:
        raise RuntimeError(f"{source_id}: {answer.status_code} {answer.text}")


def _require_region(client: httpx.Client) -> list[str]:
    """Ask for agents of the node's own region. Returns the hashes of the templates."""
    found = []
    for role in WORK_ROLES:
        template = built_in(role, Level.BASIC)
        document = attrs.evolve(template, template_id=KEPT + template.template_id, regions=(REGION,)).document
        answer = ask(client, "POST", "/overlay/job-templates", json=document).raise_for_status()
        found.append(answer.json()["templateHash"])
    return found


def _subscribe(client: httpx.Client, upstream: str) -> None:
    document = {
        "subscriptionId": f"{KEPT}webhook",
        "subscriptionType": "webhook",
        "callbackUrl": f"{upstream}/hook",
        "filterCriteria": {"status": "all"},
        "delivery": {"maxEvents": 500},
    }
    ask(client, "POST", "/overlay/subscriptions", json=document).raise_for_status()
