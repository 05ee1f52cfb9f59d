"""The cache of results: found by content alone, for as long as its kind lasts, within its bytes."""

from collections.abc import Iterator

import attrs
import pytest

from node.coordination.result_cache import ENTRY_BYTES, TTL_MS, ResultCache, content_key
from node.runtime import clock
from node.worker.compute import Run
from protocols.messages import Level
from tests.node.certified_batches import FOUND, MANIFEST

RUN = Run(findings=FOUND, leaves=b"l", normalized=b"n", outputs=b"o", issues_by_rule=(), cpu_us=9)
BARE = attrs.evolve(RUN, leaves=b"", normalized=b"", outputs=b"")


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def time() -> Iterator[Clock]:
    made = Clock()
    token = clock.UTC_MS.set(made)
    yield made
    clock.UTC_MS.reset(token)


@pytest.mark.parametrize("volatile", [True, False])
@pytest.mark.parametrize("kind", ["normalization", "certification"])
def test_an_entry_lives_as_long_as_its_kind_and_volatility_say(time: Clock, kind: str, volatile: bool) -> None:
    looked: list[tuple[str, bool]] = []
    cache = ResultCache(10_000, lambda *args: looked.append(args))
    run = attrs.evolve(RUN, is_volatile=volatile)
    cache.put(kind, "k", run)  # type: ignore[arg-type]
    lasts_ms = {("normalization", True): 300_000, ("normalization", False): 3_600_000}.get(
        (kind, volatile), 86_400_000
    )
    assert TTL_MS[kind, volatile] == lasts_ms  # type: ignore[index]
    time.now_ms += lasts_ms - 1
    assert cache.get(kind, "k", with_outputs=True) == run  # type: ignore[arg-type]
    time.now_ms += 1
    assert cache.get(kind, "k", with_outputs=True) is None  # type: ignore[arg-type]
    assert looked == [(kind, True), (kind, False)]
    assert cache.size_bytes == 0


def test_bytes_are_bounded_and_the_least_recently_used_goes_first() -> None:
    cache = ResultCache(3 * (ENTRY_BYTES + 3))
    for key in "abc":
        cache.put("normalization", key, RUN)
    assert cache.get("normalization", "a", with_outputs=True) is not None
    cache.put("normalization", "d", RUN)
    assert cache.size_bytes == 3 * (ENTRY_BYTES + 3)
    assert [cache.get("normalization", key, with_outputs=True) is not None for key in "abcd"] == [
        True,
        False,
        True,
        True,
    ]
    cache.put("normalization", "e", attrs.evolve(RUN, leaves=b"x" * 10_000))
    assert cache.get("normalization", "e", with_outputs=True) is None, "larger than all there is"
    assert cache.size_bytes == 3 * (ENTRY_BYTES + 3)


def test_what_has_no_lines_is_found_where_none_are_wanted() -> None:
    cache = ResultCache(10_000)
    cache.put("normalization", "k", RUN)
    cache.strip("normalization", "k")
    assert cache.size_bytes == ENTRY_BYTES
    assert cache.get("normalization", "k", with_outputs=False) == BARE
    assert cache.get("normalization", "k", with_outputs=True) is None
    cache.strip("normalization", "unknown")


def test_kinds_are_apart_and_nothing_is_kept_without_room() -> None:
    cache = ResultCache(10_000)
    cache.put("normalization", "k", RUN)
    assert cache.get("certification", "k", with_outputs=False) is None, "one node's word is no quorum's"
    off = ResultCache(0)
    off.put("normalization", "k", RUN)
    assert off.get("normalization", "k", with_outputs=False) is None


def test_the_key_is_what_the_result_depends_on() -> None:
    manifest = MANIFEST
    key = content_key(manifest, b"{}")
    same = attrs.evolve(manifest, source_sequence=2, received_ms=2, level=Level.CRITICAL, quorum=3, topics=("t",))
    assert content_key(same, b"{}") == key
    other = bytes(31) + b"\1"
    others = [
        (attrs.evolve(manifest, source_id="t"), b"{}"),
        (attrs.evolve(manifest, network="n"), b"{}"),
        (attrs.evolve(manifest, policy_hash=other), b"{}"),
        (attrs.evolve(manifest, input_root=other), b"{}"),
        (manifest, b'{"a":1}'),
    ]
    assert len({key, *(content_key(*each) for each in others)}) == 6
