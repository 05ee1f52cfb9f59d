"""What the fuzzer draws: everything there is, well formed, and the same every time."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import orjson
import pytest

from node.api.openapi import document
from node.api.resources import RESOURCES
from node.runtime.keyring import Keyring
from protocols.envelope import digest, open_frame, to_frame
from protocols.errors import PeerFault, UnstorableTextError
from protocols.messages import MESSAGES, Message
from scripts.fuzzing import policies, world
from scripts.fuzzing.asks import Asks
from scripts.fuzzing.calls import Call
from scripts.fuzzing.items import EVEN_EVERY, Item, Items
from scripts.fuzzing.messages import Messages
from scripts.fuzzing.operations import Operations
from scripts.fuzzing.records import FORMS, Records
from scripts.fuzzing.schemas import SchemaValues, matching, spoiled
from scripts.fuzzing.upstream import SETTINGS
from scripts.fuzzing.values import Draw, to_json
from scripts.fuzzing.world import World, agents_of, key_of

NETWORK = "test-network"
DOCUMENT: dict[str, Any] = orjson.loads(orjson.dumps(document(RESOURCES)))
POLICIES = [orjson.dumps({"required": ["a"]}), orjson.dumps({})]


def made(seed: str = "1") -> World:
    return World(
        seed=seed,
        network=NETWORK,
        node=key_of("node").identity,
        agents=agents_of(seed),
        policies={digest(each): each for each in POLICIES},
        sources={"keep-1": ({"a": 1}, {"a": "x", "b": [1, 2]})},
    )


def operations(of: World) -> Operations:
    return Operations(of, DOCUMENT, operator=key_of("node"), upstream="http://127.0.0.1:9")


def items(of: World, seed: str = "1") -> Items:
    drawn = operations(of)
    return Items(
        seed,
        tags=Asks(of, Messages(of)).tags,
        operations=tuple(drawn.described),
        changing=drawn.changing,
        sockets=drawn.sockets,
    )


@pytest.fixture
def at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "clock_ms", lambda: 1_700_000_000_000)


def sent(of: World, item: Item, peer: Keyring) -> Any:
    """What goes over the wire, but for the proof of who calls."""
    if item.carrier in ("frame", "gossip"):
        return to_frame(*Messages(of).signed(item.draw, item.message_class, peer))
    if item.carrier == "ask":
        return Asks(of, Messages(of)).request(item.draw, item.kind.encode())
    if item.carrier == "ingest":
        return without_moment(Records(of).call(item.draw, item.kind))
    return operations(of).call(item.draw, item.kind, signed=0.5)


def without_moment(call: Call) -> Call:
    """Signatures of webhooks are over the second that they are made in."""
    return attrs.evolve(call, headers=()) if call.operation == "takeDelivery" else call


def test_everything_there_is_is_drawn() -> None:
    """A message, an operation, a request between nodes or a way in that is new is fuzzed without a change here."""
    of = made()
    drawn = items(of)
    found = {(item.carrier, item.kind) for item in map(drawn.item, range(30_000))}
    carriers = {carrier: {kind for other, kind in found if other == carrier} for carrier, _ in found}
    assert carriers["frame"] | carriers["gossip"] == {cls.__name__ for cls in MESSAGES}
    assert carriers["request"] == {
        each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()
    }
    assert carriers["document"] < carriers["request"]
    assert carriers["socket"] == {"streamEvents"}
    assert carriers["ingest"] == set(FORMS)
    assert carriers["ask"] == {tag.decode() for tag in Asks(of, Messages(of)).tags}
    assert carriers["polled"] == set(SETTINGS)
    assert found >= set(drawn.kinds)


def test_no_kind_is_rare() -> None:
    drawn = items(made())
    counts = Counter((item.carrier, item.kind) for item in map(drawn.item, range(20_000)))
    assert min(counts[each] for each in drawn.kinds) >= 20_000 // EVEN_EVERY // len(drawn.kinds) > 2


@pytest.mark.usefixtures("at_one_moment")
def test_equal_seeds_draw_equal_items() -> None:
    peer = key_of("peer")
    first, again, other = (
        [
            sent(of, item, peer)
            for item in map(items(of, seed).item, range(start, start + 60))
            if item.carrier not in ("polled", "socket")
        ]
        for seed, start in (("1", 500), ("1", 500), ("2", 500))
        for of in [made(seed)]
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("cls", MESSAGES)
def test_messages_are_well_formed(cls: type[Message]) -> None:
    """Signed as they should be, of this network, in their one encoding; but a few, whose sender is at fault."""
    messages, peer = Messages(made()), key_of("peer")
    taken = 0
    for number in range(60):
        signed, attachment = messages.signed(Draw(f"{number}"), cls, peer)
        try:
            assert open_frame(to_frame(signed, attachment), NETWORK) == (signed, attachment)
            taken += 1
        except (PeerFault, UnstorableTextError):
            continue
    assert taken > 45


def test_every_number_and_size_comes_to_its_bounds() -> None:
    messages, peer = Messages(made()), key_of("peer")
    drawn = [messages.signed(Draw(f"{number}"), MESSAGES[2], peer)[0].message for number in range(400)]
    for field in ("capacity", "price"):
        values = {getattr(each, field) for each in drawn}
        assert min(values) == 0
        assert max(values) in (2**31, 2**63 - 1)
    assert max(len(getattr(each, "operator")) for each in drawn) == 512  # noqa: B009 -- of every class


def patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        for part in value.values():
            yield from patterns(part)
    elif isinstance(value, list):
        for part in value:
            yield from patterns(part)


@pytest.mark.parametrize("pattern", sorted(set(patterns(DOCUMENT))))
def test_texts_match_the_pattern_that_they_are_drawn_by(pattern: str) -> None:
    try:
        expected = re.compile(pattern)
    except re.error:
        pytest.skip("Python cannot read it")
    for number in range(50):
        assert expected.search(matching(Draw(f"{number}"), pattern)) is not None


def test_values_have_what_their_schema_requires() -> None:
    values = SchemaValues(DOCUMENT, {})
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for number in range(5):
            drawn = values.draw(Draw(f"{name} {number}"), schema)
            assert set(schema.get("required", ())) <= set(drawn), name
            to_json(drawn)


def test_a_spoiled_value_is_another_one_that_can_be_sent() -> None:
    value = {"a": [1, {"b": "c"}], "d": None}
    drawn = [to_json(spoiled(Draw(f"{number}"), value)) for number in range(200)]
    assert len(set(drawn)) > 100
    assert to_json(value) == b'{"a":[1,{"b":"c"}],"d":null}', "the value itself stays"


def test_policies_are_of_every_section() -> None:
    of_guide = {section for example in policies.examples() for section in example.policy}
    schema = orjson.loads(policies.SCHEMA.read_bytes())["properties"]
    assert of_guide >= set(schema) - {"functions"}
