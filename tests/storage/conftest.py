"""A connection to a migrated database with one policy and one source."""

from collections.abc import Iterator

import psycopg
import pytest

from storage import policies, sources
from tests.storage.making import POLICY


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url) as opened:
        policies.put(opened, POLICY, b"{}")
        sources.create(opened, {"source_id": "s1", "name": "One", "source_type": "webhook", "policy_hash": POLICY})
        opened.commit()
        yield opened
