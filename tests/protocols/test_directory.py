"""The directory of who offers what: heard, replaced, withdrawn, expired, and never another's word for it."""

from typing import Any

import attrs
import pytest

from protocols import envelope
from protocols.advertisement import build_token, topic_manager_name
from protocols.directory import Directory, expire, hear, role_topic
from protocols.errors import BadSignatureError, MalformedError
from protocols.messages import Advertisement, Role, Signed
from tests.network_of_keys import AGENTS, NETWORK

NOW = 1_700_000_000_000
URL = "http://127.0.0.1:8080"


def advertised(agent: int = 0, sequence: int = 1, *, ttl_ms: int = 60_000, **changes: Any) -> Signed[Advertisement]:
    key = AGENTS[agent].key
    names = [topic_manager_name(role_topic(role)) for role in (Role.NORMALIZE, Role.CERTIFY)]
    message = Advertisement(
        network=NETWORK,
        sequence=sequence,
        issued_ms=NOW,
        expires_ms=NOW + ttl_ms,
        tokens=tuple(build_token(key, "SHIP", URL, name) for name in names),
        addresses=("/ip4/127.0.0.1/tcp/4001",),
        url=URL,
        capacity=1,
        price=0,
        operator="",
        region="",
        build="",
    )
    return envelope.sign(AGENTS[agent], attrs.evolve(message, **changes))


def heard(*advertisements: Signed[Advertisement], now_ms: int = NOW) -> Directory:
    directory = Directory()
    for advertisement in advertisements:
        directory, _ = hear(directory, advertisement, now_ms, allow_local_urls=True)
    return directory


def test_roles_are_what_the_tokens_offer() -> None:
    directory = heard(advertised(0), advertised(1))
    entry = directory.entries[AGENTS[0].identity]
    assert entry.roles == (Role.NORMALIZE, Role.CERTIFY)
    assert directory.offering(Role.CERTIFY, NOW) == tuple(sorted(agent.identity for agent in AGENTS[:2]))
    assert directory.offering(Role.VALIDATE, NOW) == ()
    assert directory.offering(Role.CERTIFY, NOW + 60_000) == ()


def test_a_later_word_replaces_and_an_earlier_one_does_not() -> None:
    directory = heard(advertised(0, 5, url="http://localhost:1"), advertised(0, 4), advertised(0, 5))
    assert directory.entries[AGENTS[0].identity].advertisement.message.url == "http://localhost:1"


def test_a_withdrawal_takes_effect_at_once() -> None:
    assert heard(advertised(0, 1), advertised(0, 2, ttl_ms=0, tokens=())).entries == {}


def test_what_is_not_renewed_expires() -> None:
    directory = heard(advertised(0), advertised(1, ttl_ms=10_000))
    assert set(expire(directory, NOW + 20_000).entries) == {AGENTS[0].identity}
    assert expire(directory, NOW) is directory


@pytest.mark.parametrize(
    "broken",
    [
        advertised(0, ttl_ms=10 * 24 * 3_600_000),
        advertised(0, issued_ms=NOW + 3_600_000),
        advertised(0, tokens=advertised(1).message.tokens),
        advertised(0, tokens=(b"no script",)),
        advertised(0, tokens=(advertised(0).message.tokens[0][:-3] + b"\x6d\x6d\x6d",)),
    ],
    ids=["for ever", "from the future", "another's tokens", "no token", "other drops"],
)
def test_impossible_advertisements_are_refused(broken: Signed[Advertisement]) -> None:
    with pytest.raises((MalformedError, BadSignatureError)):
        heard(broken)


def test_local_addresses_are_refused_in_a_public_network() -> None:
    with pytest.raises(MalformedError):
        hear(Directory(), advertised(0), NOW, allow_local_urls=False)


def test_a_full_directory_drops_the_stranger_heard_of_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.directory.ADVERTISEMENTS_MAX", 3)
    directory = Directory()
    for second, agent in enumerate((0, 1, 2)):
        directory, _ = hear(directory, advertised(agent), NOW + second, allow_local_urls=True)
    stays = {AGENTS[0].identity}.__contains__
    directory, entry = hear(directory, advertised(3), NOW + 3, allow_local_urls=True, stays=stays)
    assert entry is not None
    assert set(directory.entries) == {AGENTS[each].identity for each in (0, 2, 3)}
    directory, _ = hear(directory, advertised(2, 2), NOW + 4, allow_local_urls=True, stays=stays)
    assert len(directory.entries) == 3, "a renewal takes no room"
    directory, _ = hear(directory, advertised(4), NOW + 5, allow_local_urls=True, stays=stays)
    assert set(directory.entries) == {AGENTS[each].identity for each in (0, 2, 4)}


def test_a_directory_of_those_who_stay_takes_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.directory.ADVERTISEMENTS_MAX", 2)
    directory = heard(advertised(0), advertised(1))
    full, entry = hear(directory, advertised(2), NOW, allow_local_urls=True, stays=lambda identity: True)
    assert (full, entry) == (directory, None)
