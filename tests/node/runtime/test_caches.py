"""The cache of payloads and outputs: it never holds more than its bound, and keeps what was used last."""

from hypothesis import given
from hypothesis import strategies as st

from node.runtime.caches import BytesCache

BOUND = 100
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 150)),
        st.tuples(st.just("get"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 5), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_it_behaves_like_a_list_in_the_order_of_use(actions: list[tuple[str, int, int]]) -> None:
    cache = BytesCache[int, bytes](BOUND)
    expected: dict[int, bytes] = {}  # the last used comes last
    for action, key, size in actions:
        if action == "put":
            expected.pop(key, None)
            expected[key] = bytes(size)
            cache.put(key, bytes(size))
            while sum(map(len, expected.values())) > BOUND and len(expected) > 1:
                del expected[next(iter(expected))]
        elif action == "get":
            assert cache.get(key) == expected.get(key)
            if key in expected:
                expected[key] = expected.pop(key)
        else:
            cache.drop(key)
            expected.pop(key, None)
        assert cache.size_bytes == sum(map(len, expected.values()))
        assert cache.size_bytes <= BOUND or len(expected) == 1
    for key in range(6):
        assert cache.get(key) == expected.get(key)


def test_a_tuple_counts_with_all_its_parts() -> None:
    cache = BytesCache[str, tuple[bytes, bytes]](10)
    cache.put("a", (b"123", b"4567"))
    assert cache.size_bytes == 7
    cache.put("b", (b"1", b"234"))
    assert cache.get("a") is None
    assert cache.get("b") == (b"1", b"234")
    assert cache.size_bytes == 4
