"""ls_uhrp: this node's adverts, those of peers that hold the object now, and those submitted."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from node.network.requests import PRESENT
from node.overlay.carrier import carry
from node.overlay.lookup import InvalidQueryError, LookupOutput
from node.overlay.objects import DIGESTS_MAX, wire
from node.overlay.uhrp_lookup import UhrpLookup, advertised_holders, read_query
from protocols.beef import read_beef
from protocols.errors import InvalidUhrpUrlError
from protocols.messages import IdentityKey
from protocols.uhrp import UhrpAdvert, build_uhrp_advert, check_uhrp_advert, uhrp_url
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.memory_transport import MemoryNetwork
from tests.node.overlay.test_objects import DOCUMENT, LARGE, Member, member

HOST = KeySigner(9)
NEVER_S = 2**40
DIGEST = hashlib.sha256(DOCUMENT).digest()


def advert(signer: KeySigner = HOST, digest: bytes = DIGEST, expires_s: int = NEVER_S, host: str = "host") -> bytes:
    url = f"https://{host}.example/x"
    return build_uhrp_advert(signer.key, digest=digest, url=url, expires_s=expires_s, size=1)


def service(node: Member, *submitted: bytes) -> UhrpLookup:
    async def found(digests: Sequence[bytes]) -> Sequence[LookupOutput]:
        return [LookupOutput(beef=carry(script), output_index=0) for script in submitted]

    return UhrpLookup(objects=node.objects, submitted=found, allow_local_urls=False)


async def said(lookup: UhrpLookup, query: Any) -> list[UhrpAdvert]:
    outputs = await lookup.lookup(query)
    scripts = [
        read_beef(output.beef).subject_transaction.outputs[output.output_index].locking_script for output in outputs
    ]
    return [check_uhrp_advert(script, allow_local_urls=False) for script in scripts]


async def test_every_holder_is_named(postgres_urls: tuple[str, str]) -> None:
    network = MemoryNetwork()
    async with member(postgres_urls[0], network) as node, member(postgres_urls[1], network, AGENT) as other:
        digest = await node.put(DOCUMENT)
        await other.put(DOCUMENT)
        there = await other.put(LARGE)
        lookup = service(node, advert())
        url = uhrp_url(digest)
        for form in (url, f"uhrp:{url}", f"uhrp://{url}"):
            found = await said(lookup, {"uhrpUrl": form})
            assert [each.identity for each in found] == [NODE.identity, AGENT.identity, HOST.identity]
            assert {each.digest for each in found} == {digest}
        both = await said(service(node), {"uhrpUrls": [url, uhrp_url(there), url]})
        assert {(each.identity, each.digest) for each in both} == {
            (NODE.identity, digest),
            (AGENT.identity, digest),
            (AGENT.identity, there),
        }
        assert await said(service(node), {"uhrpUrl": uhrp_url(hashlib.sha256(b"nothing").digest())}) == []


@pytest.mark.parametrize(
    "script",
    [
        advert(HOST),
        advert(AGENT, expires_s=1),
        advert(AGENT, digest=hashlib.sha256(LARGE).digest()),
        advert(AGENT)[:-1],
        advert(AGENT)[:-10] + bytes([advert(AGENT)[-10] ^ 1]) + advert(AGENT)[-9:],
        b"?",
    ],
    ids=["of another", "expired", "of another object", "cut", "forged", "garbage"],
)
async def test_a_peer_s_word_counts_for_itself_alone_and_while_it_is_in_force(
    postgres_url: str, script: bytes
) -> None:
    async def answer(_: IdentityKey, body: bytes) -> bytes:
        return PRESENT + wire.write_adverts([script])

    network = MemoryNetwork()
    network.answers[AGENT.identity] = answer
    async with member(postgres_url, network) as node:
        assert await said(service(node), {"uhrpUrl": uhrp_url(DIGEST)}) == []
        script = advert(AGENT)
        assert len(await said(service(node), {"uhrpUrl": uhrp_url(DIGEST)})) == 1


async def test_an_answer_that_is_none_is_a_fault(postgres_url: str) -> None:
    async def answer(_: IdentityKey, body: bytes) -> bytes:
        return PRESENT + b"\xfd\xff\xff?"

    network = MemoryNetwork()
    network.answers[AGENT.identity] = answer
    async with member(postgres_url, network) as node:
        assert await said(service(node, advert()), {"uhrpUrl": uhrp_url(DIGEST)}) != []
        assert node.transport.struck == [(AGENT.identity, "malformed")]


async def test_submitted_adverts_say_whom_to_ask_first(postgres_url: str) -> None:
    async def submitted(digests: Sequence[bytes]) -> Sequence[LookupOutput]:
        return [LookupOutput(beef=carry(advert()), output_index=0)]

    assert await advertised_holders(submitted, False, DIGEST) == [HOST.identity]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        (None, InvalidQueryError),
        ({}, InvalidQueryError),
        ("findAll", InvalidQueryError),
        ({"uhrpUrl": 7}, InvalidQueryError),
        ({"uhrpUrl": uhrp_url(DIGEST), "limit": 1}, InvalidQueryError),
        ({"uhrpUrls": []}, InvalidQueryError),
        ({"uhrpUrls": [7]}, InvalidQueryError),
        ({"uhrpUrls": [uhrp_url(DIGEST)] * (DIGESTS_MAX + 1)}, InvalidQueryError),
        ({"uhrpUrl": "https://example"}, InvalidUhrpUrlError),
        ({"uhrpUrls": [uhrp_url(DIGEST), "x"]}, InvalidUhrpUrlError),
    ],
)
def test_what_is_no_query_is_refused(query: Any, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        read_query(query)
