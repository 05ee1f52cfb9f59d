"""Queries of the lookup services: the forms that are accepted, and what the errors of others state."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.overlay import advert_lookup, certificate_lookup, uhrp_lookup
from node.overlay.advert_lookup import ANSWERED_MAX, TOPICS_MAX, AdvertLookup, AdvertQuery
from node.overlay.certificate_lookup import CertificateLookupQuery
from node.overlay.lookup import InvalidQueryError
from node.overlay.objects import DIGESTS_MAX
from protocols.advertisement import Kind, build_token, check_token
from protocols.errors import ClientFault
from protocols.uhrp import uhrp_url
from storage.database import Database
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.overlay.test_overlay import look
from tests.node.running import PUBLIC_URL, running

KEY = AGENT.identity.hex()
BATCH = "batch_" + "ab" * 32
EVENT = "event_" + "cd" * 32
HASH = "ef" * 32


@pytest.mark.parametrize(
    ("kind", "query", "wanted"),
    [
        ("SHIP", "findAll", AdvertQuery()),
        ("SLAP", {"findAll": True}, AdvertQuery()),
        ("SHIP", {"topics": ["tm_a", "tm_b"]}, AdvertQuery(names=("tm_a", "tm_b"))),
        ("SHIP", {"topics": []}, AdvertQuery(names=())),
        ("SLAP", {"service": "ls_a"}, AdvertQuery(names=("ls_a",))),
        ("SHIP", {"domain": "https://a.example/"}, AdvertQuery(domain="https://a.example")),
        ("SHIP", {"identityKey": KEY}, AdvertQuery(identity=AGENT.identity)),
        ("SHIP", {"findAll": True, "limit": 10**9}, AdvertQuery(limit=ANSWERED_MAX)),
        ("SHIP", {"findAll": True, "skip": 3, "limit": 0}, AdvertQuery(skip=3, limit=0)),
        ("SHIP", {"findAll": True, "sortOrder": "asc"}, AdvertQuery()),
        ("SLAP", {"service": "ls_a", "domain": "d"}, AdvertQuery(names=("ls_a",), domain="d")),
    ],
)
def test_advert_queries_of_the_official_services(kind: Kind, query: Any, wanted: AdvertQuery) -> None:
    assert advert_lookup.read_query(query, kind) == wanted


@pytest.mark.parametrize(
    ("kind", "query", "words"),
    [
        ("SHIP", None, "must be an object"),
        ("SHIP", "findall", "must be an object"),
        ("SHIP", {}, "must have one of topics, domain, identityKey, or findAll true"),
        ("SLAP", {}, "must have one of service, domain, identityKey, or findAll true"),
        ("SHIP", {"findAll": False}, "must have one of"),
        ("SHIP", {"findAll": "yes"}, "must have one of"),
        ("SHIP", {"topics": "tm_a"}, "'topics' an array of at most 64 strings"),
        ("SHIP", {"topics": ["t"] * (TOPICS_MAX + 1)}, "'topics' an array of at most 64 strings"),
        ("SHIP", {"topics": ["tm_a", 1]}, "'topics' an array of at most 64 strings"),
        ("SLAP", {"topics": ["tm_a"]}, "/query/topics: unknown member"),
        ("SHIP", {"service": "ls_a"}, "/query/service: unknown member"),
        ("SLAP", {"service": ""}, "'service' a string of 1 to 2048 characters"),
        ("SLAP", {"service": "x" * 2_049}, "'service' a string of 1 to 2048 characters"),
        ("SHIP", {"domain": 1}, "'domain' a string"),
        ("SHIP", {"identityKey": KEY.upper()}, "'identityKey' a compressed public key in hexadecimal"),
        ("SHIP", {"identityKey": None, "limit": 1}, "must have one of"),
        ("SHIP", {"findAll": True, "skip": -1}, "'skip' an integer of at least 0"),
        ("SHIP", {"findAll": True, "limit": True}, "'limit' an integer of at least 0"),
        ("SHIP", {"findAll": True, "limit": 1.5}, "'limit' an integer of at least 0"),
    ],
)
def test_advert_queries_that_are_refused(kind: Kind, query: Any, words: str) -> None:
    with pytest.raises(InvalidQueryError) as refused:
        advert_lookup.read_query(query, kind)
    assert words in str(refused.value)
    assert refused.value.fields["service"] == f"ls_{kind.lower()}"
    assert refused.value.fields["remedy"]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"eventId": EVENT}, CertificateLookupQuery(event_id=EVENT)),
        ({"batchId": BATCH}, CertificateLookupQuery(batch_id=BATCH)),
        ({"contentHash": HASH}, CertificateLookupQuery(content_hash=f"sha256:{HASH}")),
        (
            {"contentHash": f"sha256:{HASH}", "limit": 1},
            CertificateLookupQuery(content_hash=f"sha256:{HASH}", limit=1),
        ),
        (
            {"sourceId": "s", "limit": 10**9},
            CertificateLookupQuery(source_id="s", limit=certificate_lookup.ANSWERED_MAX),
        ),
        (
            {"sourceId": "s", "from": "1970-01-01T00:00:01Z", "to": "1970-01-01T01:00:02+01:00"},
            CertificateLookupQuery(source_id="s", from_ms=1_000, to_ms=2_000),
        ),
        ({"sourceId": "s", "from": "1970-01-01"}, CertificateLookupQuery(source_id="s", from_ms=0)),
    ],
)
def test_certificate_queries(query: Any, wanted: CertificateLookupQuery) -> None:
    assert certificate_lookup.read_query(query) == wanted


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (None, "must have exactly one of eventId, batchId, contentHash and sourceId"),
        ([], "must have exactly one of"),
        ({}, "must have exactly one of"),
        ({"eventId": "event_1"}, "must have exactly one of"),
        ({"eventId": EVENT, "batchId": BATCH}, "must have exactly one of"),
        ({"contentHash": HASH[:-1]}, "must have exactly one of"),
        ({"sourceId": ""}, "must have exactly one of"),
        ({"sourceId": "s", "since": 1}, "/query/since: unknown member"),
        ({"sourceId": "s", "skip": -1}, "'skip' must be an integer of at least 0"),
        ({"sourceId": "s", "limit": "1"}, "'limit' must be an integer of at least 0"),
        ({"sourceId": "s", "from": "yesterday"}, "'from' must be a time as in RFC 3339"),
        ({"sourceId": "s", "to": 7}, "'to' must be a time as in RFC 3339"),
    ],
)
def test_certificate_queries_that_are_refused(query: Any, words: str) -> None:
    with pytest.raises(InvalidQueryError, match=words) as refused:
        certificate_lookup.read_query(query)
    assert refused.value.fields["service"] == "ls_event_certificates"


def test_uhrp_queries_name_each_object_once_within_their_bound() -> None:
    urls = [uhrp_url(bytes([number]) * 32) for number in range(DIGESTS_MAX + 1)]
    assert uhrp_lookup.read_query({"uhrpUrl": urls[1]}) == [bytes([1]) * 32]
    assert uhrp_lookup.read_query({"uhrpUrls": [urls[1], urls[0], urls[1]]}) == [bytes([1]) * 32, bytes(32)]
    assert len(uhrp_lookup.read_query({"uhrpUrls": urls[:DIGESTS_MAX]})) == DIGESTS_MAX
    refused: list[Any] = [
        {"uhrpUrls": urls},
        {"uhrpUrls": []},
        {"uhrpUrls": urls[0]},
        {"uhrpUrl": urls[0], "limit": 1},
    ]
    for query in refused:
        with pytest.raises(InvalidQueryError, match="array of 1 to 16 strings"):
            uhrp_lookup.read_query(query)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["topics", "service", "domain", "identityKey", "findAll", "limit", "skip", "eventId", "sourceId"]
)


@given(query=JSON | st.dictionaries(NAMES, JSON, max_size=3), kind=st.sampled_from(["SHIP", "SLAP"]))
def test_whatever_is_asked_is_read_or_is_the_client_s_fault(query: Any, kind: Kind) -> None:
    """Nothing else is raised, and every refusal has a remedy."""
    remedies = []
    for read in (lambda: advert_lookup.read_query(query, kind), lambda: certificate_lookup.read_query(query)):
        try:
            read()
        except ClientFault as refused:
            remedies.append(refused.fields.get("remedy"))
    assert all(remedies)


def tokens(signer: KeySigner, *names: str, url: str = PUBLIC_URL) -> list[bytes]:
    return [build_token(signer.key, kind="SHIP", url=url, name=name) for name in names]


async def test_gossiped_adverts_are_paged_in_one_order(postgres_url: str) -> None:
    scripts = tokens(NODE, "tm_a", "tm_b", "tm_c") + tokens(AGENT, "tm_a", "tm_b")
    async with running(postgres_url, adverts=scripts) as node:
        everything = await look(node, "ls_ship", "findAll")
        assert len(everything) == 5
        paged = []
        for skip in range(0, 6, 2):
            paged += await look(node, "ls_ship", {"findAll": True, "skip": skip, "limit": 2})
        assert paged == everything
        assert await look(node, "ls_ship", {"findAll": True, "limit": 0}) == []
        assert await look(node, "ls_ship", {"topics": []}) == []
        both = {"topics": ["tm_a"], "identityKey": KEY}
        assert len(await look(node, "ls_ship", both)) == 1, "an advertisement matches all that is given"
        assert await look(node, "ls_slap", "findAll") == []


async def test_the_hosts_of_a_name_are_those_that_advertise_it_by_gossip(postgres_url: str) -> None:
    scripts = tokens(NODE, "tm_a", "tm_b") + tokens(AGENT, "tm_a", url="https://other.example")
    with Database(postgres_url) as database:
        adverts = [(check_token(script, allow_local_urls=True), script) for script in scripts]
        lookup = AdvertLookup("SHIP", database=database, adverts=lambda: adverts)
        assert sorted(lookup.hosts("tm_a")) == [PUBLIC_URL, "https://other.example"]
        assert lookup.hosts("tm_b") == [PUBLIC_URL]
        assert lookup.hosts("tm_c") == []
        assert "tm_x" in lookup.documentation
        assert "lookup services" in AdvertLookup("SLAP", database=database, adverts=lambda: ()).documentation
