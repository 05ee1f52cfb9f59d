"""Sessions end and are bounded, and nobody can take another's away."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.authentication import SessionBook, SessionExchange, SessionLimits
from protocols.errors import NotAuthenticatedError
from protocols.keys import PrivateKey
from tests.authentication_client import MutualClient, shake_hands

NODE, ALICE, MALLORY = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
NOW_MS = 1_790_000_000_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


def shaken(book: SessionBook, key: PrivateKey, now_ms: int = NOW_MS) -> MutualClient:
    return shake_hands(book, key, now_ms=now_ms)


def use(book: SessionBook, client: MutualClient, now_ms: int = NOW_MS) -> SessionExchange:
    return book.authenticate(client.sign("GET", "/"), now_ms=now_ms)


def is_over(book: SessionBook, client: MutualClient, now_ms: int = NOW_MS) -> bool:
    try:
        use(book, client, now_ms)
    except NotAuthenticatedError:
        return True
    return False


@pytest.mark.parametrize(
    ("used_ms", "asked_ms", "over"),
    [
        ([], MINUTE_MS, False),
        ([], MINUTE_MS + 1, True),
        ([0], HOUR_MS, False),
        ([0], HOUR_MS + 1, True),
        ([0, HOUR_MS], 2 * HOUR_MS, False),
        ([hour * HOUR_MS for hour in range(24)], DAY_MS, False),
        ([hour * HOUR_MS for hour in range(25)], DAY_MS + 1, True),
    ],
)
def test_sessions_end(used_ms: list[int], asked_ms: int, over: bool) -> None:
    book = SessionBook(NODE)
    client = shaken(book, ALICE)
    for at_ms in used_ms:
        use(book, client, NOW_MS + at_ms)
    assert is_over(book, client, NOW_MS + asked_ms) is over


def test_ended_sessions_are_forgotten() -> None:
    book = SessionBook(NODE)
    use(book, shaken(book, ALICE))
    shaken(book, ALICE)
    assert book.counts() == (1, 1, 1)
    shaken(book, MALLORY, NOW_MS + DAY_MS)
    assert book.counts() == (0, 1, 0)


def test_handshakes_in_anothers_name_take_nothing_from_it() -> None:
    book = SessionBook(NODE, limits=SessionLimits(sessions_max=2, per_identity_max=2, unproven_max=3))
    mine = [shaken(book, ALICE) for _ in range(2)]
    for client in mine:
        use(book, client)
    for _ in range(20):
        shaken(book, ALICE)  # anybody can ask for these
    assert book.counts() == (2, 3, 2)
    for client in mine:
        use(book, client)


def test_an_identity_makes_room_among_its_own() -> None:
    book = SessionBook(NODE, limits=SessionLimits(per_identity_max=2))
    other = shaken(book, ALICE)
    use(book, other)
    mine = [shaken(book, MALLORY) for _ in range(3)]
    use(book, mine[0])
    use(book, mine[1])
    use(book, mine[0])
    use(book, mine[2])
    assert is_over(book, mine[1])
    assert not any(is_over(book, client) for client in (mine[0], mine[2], other))


def test_the_least_recently_used_session_makes_room_for_another_identity() -> None:
    book = SessionBook(NODE, limits=SessionLimits(sessions_max=2))
    clients = [shaken(book, PrivateKey(bytes([number]) * 32)) for number in (11, 12, 13)]
    for index in (0, 1, 0, 2):
        use(book, clients[index])
    assert book.counts()[0] == 2
    assert is_over(book, clients[1])
    assert not is_over(book, clients[0])


def test_an_answer_can_be_signed_after_its_session_is_over() -> None:
    book = SessionBook(NODE, limits=SessionLimits(per_identity_max=1))
    client = shaken(book, ALICE)
    request = client.sign("GET", "/")
    exchange = book.authenticate(request, now_ms=NOW_MS)
    use(book, shaken(book, ALICE))
    assert is_over(book, client)
    assert book.certificates(exchange, now_ms=NOW_MS) == ()
    proof = book.sign_response(exchange, status=200, headers=(), body=b"", entropy=bytes(32))
    client.check_response(request, 200, proof, b"")


def test_a_session_has_its_requests() -> None:
    book = SessionBook(NODE, limits=SessionLimits(requests_max=3))
    client = shaken(book, ALICE)
    for _ in range(3):
        use(book, client)
    assert is_over(book, client)
    assert book.counts() == (0, 0, 0)


def test_nonces_of_all_sessions_are_bounded_and_the_busiest_makes_room() -> None:
    book = SessionBook(NODE, limits=SessionLimits(nonces_max=5))
    busy, quiet = shaken(book, MALLORY), shaken(book, ALICE)
    use(book, quiet)
    for _ in range(4):
        use(book, busy)
    assert book.counts() == (2, 0, 5)
    use(book, quiet)
    assert book.counts() == (1, 0, 2)
    assert is_over(book, busy)


@given(
    st.lists(
        st.tuples(st.sampled_from(["shake", "use", "forge", "wait"]), st.integers(0, 3), st.integers(0, 5)),
        max_size=40,
    )
)
def test_limits_hold_whatever_comes(steps: list[tuple[str, int, int]]) -> None:
    limits = SessionLimits(
        sessions_max=3, per_identity_max=2, unproven_max=2, requests_max=3, nonces_max=6, idle_ms=50, life_ms=200
    )
    book, now_ms = SessionBook(NODE, limits=limits), NOW_MS
    owners = [PrivateKey(bytes([number]) * 32) for number in (11, 12, 13, 14)]
    clients: list[MutualClient] = []
    for kind, who, which in steps:
        if kind == "shake":
            clients.append(shaken(book, owners[who], now_ms))
        elif kind == "wait":
            now_ms += 10 * which
        elif clients:
            client = clients[which % len(clients)]
            request = client.sign("GET", "/")
            before = book.counts()
            if kind == "forge":
                with pytest.raises(NotAuthenticatedError):
                    book.authenticate(attrs.evolve(request, body=b"!"), now_ms=now_ms)
                assert book.counts() == before
                continue
            try:
                exchange = book.authenticate(request, now_ms=now_ms)
            except NotAuthenticatedError:
                continue
            assert exchange.identity == client.key.identity
        proven, unproven, nonces = book.counts()
        assert (proven <= 3, unproven <= 2, nonces <= 6) == (True, True, True)
