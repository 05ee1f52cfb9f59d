"""Webhooks are delivered for as long as the caller that wrote them may read the stream, and no longer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from node.calling import SignedRequests
from node.delivery import subscriptions
from node.delivery.subscription_documents import read_values
from node.delivery.webhook_manager import NOT_AUTHORIZED
from node.runtime.access import Access, Caller, CallerRole, Credential, TrustedCertifier
from tests.node.certified_batches import AGENT, NODE, KeySigner
from tests.node.delivery.webhooks import LOOPBACK, certify, until_shown
from tests.node.running import Running, running
from tests.node.webhook_receiver import SECRET, Receiver, receiving

OPERATOR, CERTIFIER = KeySigner(7), KeySigner(8)
TYPE, SERIAL, OUTPOINT = "AA==", "c2VyaWFs", f"{'ab' * 32}.0"


@asynccontextmanager
async def private(postgres_url: str, **access: Any) -> AsyncIterator[Running]:
    """A node whose stream is for those with a role; its client is the operator's."""
    may = Access(operators=frozenset({OPERATOR.identity}), **access)
    async with running(postgres_url, access=may) as node:
        node.client.auth = SignedRequests(OPERATOR.key, NODE.identity)
        yield node


def document(receiver: Receiver) -> dict[str, Any]:
    said = {"subscriptionType": "webhook", "callbackUrl": receiver.url, "secret": SECRET, "since": "0"}
    return {**said, "delivery": {"maxEvents": 1}}


async def test_a_reader_who_is_listed_no_more_is_sent_nothing_more(postgres_url: str) -> None:
    async with receiving() as receiver:
        async with private(postgres_url, readers=frozenset({AGENT.identity})) as node:
            await node.source()
            await certify(node, 2)
            auth = SignedRequests(AGENT.key, NODE.identity)
            made = await node.client.post("/overlay/subscriptions", json=document(receiver), auth=auth)
            name = made.json()["subscriptionId"]
            await until_shown(node, name, deliveries=2)
        async with private(postgres_url) as node:
            await certify(node, 2)
            paused = await until_shown(node, name, subscriptionStatus="paused")
            assert paused["state"]["pauseReason"] == NOT_AUTHORIZED
            assert paused["state"]["cursor"] == "1.2"
            assert len(receiver.hooks) == 2
            # the operator's word stands where the reader's does not
            await node.client.patch(f"/overlay/subscriptions/{name}", json={"subscriptionStatus": "active"})
            await until_shown(node, name, deliveries=4)
        assert len(receiver.hooks) == 4


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_that_is_taken_back_ends_deliveries(postgres_url: str, trusted: bool) -> None:
    """While they go on; one of a certifier that was never trusted does not begin them."""
    spent = set[str]()

    async def is_spent(outpoint: str) -> bool:
        return outpoint in spent

    certifier = CERTIFIER if trusted else KeySigner(10)
    readers = TrustedCertifier(certifier=CERTIFIER.identity, type=TYPE, role=CallerRole.READER)
    async with receiving() as receiver, private(postgres_url, certifiers=(readers,), is_spent=is_spent) as node:
        shown = Credential(
            certifier=certifier.identity.hex(), type=TYPE, serial_number=SERIAL, revocation_outpoint=OUTPOINT
        )
        caller = Caller(identity=AGENT.identity, credentials=(shown,), roles=frozenset({CallerRole.READER}))
        await node.source()
        values = read_values(document(receiver), creates=True)
        make = partial(subscriptions.create, values=values, caller=caller, allowed=(LOOPBACK,))
        made, _ = await node.database.run(make)
        await node.webhooks.reconcile()
        await certify(node, 2)
        if trusted:
            await receiver.until(lambda: len(receiver.hooks) == 2)
            await trio.sleep(0.3)  # looked at again, and still good
            await certify(node, 1)
            await receiver.until(lambda: len(receiver.hooks) == 3)
            spent.add(OUTPOINT)
        paused = await until_shown(node, made["subscriptionId"], subscriptionStatus="paused")
        assert paused["state"]["pauseReason"] == NOT_AUTHORIZED
        await certify(node, 2)
        await trio.sleep(0.3)
        assert len(receiver.hooks) == (3 if trusted else 0)
