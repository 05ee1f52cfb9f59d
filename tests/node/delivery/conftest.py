"""A node that takes webhooks, for the tests of deliveries."""

from collections.abc import AsyncIterator

import pytest

from tests.node.running import Running, running


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        yield started
