"""The limit on open files."""

import resource
from collections.abc import Iterator

import pytest

from node.runtime.descriptors import WANTED, raise_limit


@pytest.fixture
def hard() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_as_far_as_it_may_be(hard: int) -> None:
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, wanted), hard))
    assert raise_limit() == wanted
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)


def test_a_limit_that_is_higher_is_left(hard: int) -> None:
    higher = WANTED + 1
    if hard != resource.RLIM_INFINITY and hard < higher:
        pytest.skip("the hard limit is lower than what is wanted")
    resource.setrlimit(resource.RLIMIT_NOFILE, (higher, hard))
    assert raise_limit() == higher
