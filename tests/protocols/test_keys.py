"""What a private key keeps between calls. Derivation itself is tested against golden vectors in tests/interop."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from protocols import keys
from protocols.keys import CHILDREN_CACHED, PrivateKey, verify_from

KEY, OTHER = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32)
PROTOCOL = (2, "tests of keys")


@given(st.text("abc 123", min_size=1, max_size=20), st.sampled_from(["self", "anyone", OTHER.identity]))
def test_a_key_id_that_comes_once_signs_alike(key_id: str, counterparty: bytes | str) -> None:
    signatures = [KEY.sign(PROTOCOL, key_id, b"data", counterparty, once=once) for once in (False, True)]  # type: ignore[arg-type]
    assert signatures[0] == signatures[1]


def test_key_ids_that_come_once_take_no_place() -> None:
    key = PrivateKey(b"\x03" * 32)
    key.sign(PROTOCOL, "kept", b"")
    for number in range(2 * CHILDREN_CACHED):
        key.sign(PROTOCOL, str(number), b"", once=True)
    key.sign(PROTOCOL, "kept", b"")
    cached = key._child.cache_info()
    assert (cached.hits, cached.misses, cached.currsize) == (1, 1, 1)


def test_a_counterparty_costs_one_shared_point() -> None:
    key = PrivateKey(b"\x03" * 32)
    for number in range(10):
        signature = OTHER.sign(PROTOCOL, str(number), b"data", key.identity, once=True)
        assert verify_from(key, OTHER.identity, PROTOCOL, str(number), b"data", signature)
        key.sign(PROTOCOL, str(number), b"data", OTHER.identity, once=True)
    assert key._shared.cache_info().misses == 1


def test_the_shared_points_kept_are_bounded() -> None:
    assert KEY._shared.cache_info().maxsize == keys.SHARED_CACHED


def test_threads_may_share_a_key() -> None:
    key = PrivateKey(b"\x04" * 32)
    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(lambda number: key.sign(PROTOCOL, str(number % 7), b""), range(700)))
    assert len(set(signed)) == 7
