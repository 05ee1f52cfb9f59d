"""How many connections there may be, and which of them makes room."""

from itertools import count

import attrs
import pytest

from node.api.client_address import is_loopback
from node.api.open_connections import OpenConnections
from node.api.server_limits import ServerLimits

NUMBERS = count()


@attrs.define(eq=False)
class Fake:
    client: str = "192.0.2.1"
    dropped: bool = False
    has_request: bool = False
    number: int = attrs.field(factory=lambda: next(NUMBERS))

    @property
    def is_shared(self) -> bool:
        return self.client == "proxy" or is_loopback(self.client)

    def drop(self) -> None:
        self.dropped = True


def admitted(connections: OpenConnections, *clients: str, busy: bool = False) -> list[Fake]:
    made = [Fake(client) for client in clients]
    for each in made:
        assert connections.admit(each)
        if busy:
            connections.become_busy(each)
    return made


def test_the_one_that_is_idle_for_longest_makes_room() -> None:
    connections = OpenConnections(ServerLimits(connections_max=3))
    first, second, third = admitted(connections, "a", "b", "c")
    connections.become_busy(first)
    admitted(connections, "d")
    assert [each.dropped for each in (first, second, third)] == [False, True, False]
    connections.become_idle(first)
    admitted(connections, "e")
    assert [each.dropped for each in (first, second, third)] == [False, True, True]
    assert len(connections) == 3


def test_where_all_are_busy_a_new_one_is_refused() -> None:
    connections = OpenConnections(ServerLimits(connections_max=2))
    first, _ = admitted(connections, "a", "b", busy=True)
    assert not connections.admit(Fake("c"))
    connections.forget(first)
    assert connections.admit(Fake("c"))


def test_what_one_client_leaves_idle_is_bounded() -> None:
    connections = OpenConnections(ServerLimits(idle_per_client_max=2))
    mine = admitted(connections, *["192.0.2.1"] * 5)
    other = admitted(connections, "192.0.2.2")
    assert [each.dropped for each in (*mine, *other)] == [True, True, True, False, False, False]
    assert connections.idle == (*mine[3:], *other)


def test_a_proxy_on_this_machine_may_keep_as_many_idle_as_it_likes() -> None:
    connections = OpenConnections(ServerLimits(idle_per_client_max=2))
    assert not any(each.dropped for each in admitted(connections, *["127.0.0.1"] * 5))


def test_what_one_client_has_in_use_is_bounded_but_for_loopback() -> None:
    connections = OpenConnections(ServerLimits(connections_per_client_max=2))
    admitted(connections, *["192.0.2.1"] * 2, busy=True)
    assert not connections.admit(Fake("192.0.2.1"))
    admitted(connections, "192.0.2.2", *["127.0.0.1"] * 5, *["::/64"] * 5, *["local"] * 5, *["proxy"] * 5, busy=True)


def test_a_client_at_its_bound_makes_room_among_its_own() -> None:
    connections = OpenConnections(ServerLimits(connections_per_client_max=2))
    other, first, second = admitted(connections, "192.0.2.2", "192.0.2.1", "192.0.2.1")
    admitted(connections, "192.0.2.1")
    assert [each.dropped for each in (other, first, second)] == [False, True, False]


def test_what_is_gone_is_forgotten_whatever_it_does_then() -> None:
    connections = OpenConnections(ServerLimits())
    (gone,) = admitted(connections, "a")
    for _ in range(2):
        connections.forget(gone)
        connections.become_idle(gone)
        connections.become_busy(gone)
    assert len(connections) == 0
    assert connections.idle == ()


def test_files_for_the_rest_of_the_node_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (258, 258))
    connections = OpenConnections(ServerLimits())
    admitted(connections, "a", "b", busy=True)
    assert not connections.admit(Fake("c"))


def test_a_few_more_have_a_place_in_reserve_and_make_room_for_each_other() -> None:
    connections = OpenConnections(ServerLimits(connections_max=1, reserved_max=3))
    admitted(connections, "a", busy=True)
    reserved = [Fake("b"), Fake("b"), Fake("c")]
    for each in reserved:
        connections.reserve(each)
    reserved[0].has_request = True
    connections.reserve(Fake("d"))
    assert [each.dropped for each in reserved] == [False, True, False], "the one with a request is spared"
    reserved[2].has_request = True
    connections.reserve(Fake("e"))
    connections.reserve(Fake("f"))
    assert [each.dropped for each in reserved] == [False, True, False]
    for _ in range(4):
        connections.reserve(Fake("g", has_request=True))
    assert all(each.dropped for each in reserved), "the oldest goes where all have one"
    assert len(connections) == 1
