"""Who may do what: the whole table, and routes that nobody thought of."""

import pytest

from node.api.access import RULES, rule_of
from node.runtime.access import (
    Access,
    Caller,
    CallerRole,
    IdentityRequiredError,
    Need,
    NotPermittedError,
)
from protocols.messages import IdentityKey

KEY = IdentityKey(b"\2" + b"k" * 32)
OTHER = IdentityKey(b"\3" + b"o" * 32)


def caller(*roles: CallerRole, identity: IdentityKey | None = KEY) -> Caller:
    return Caller(identity=identity, form="headers", roles=frozenset(roles))


ANONYMOUS = caller(identity=None)


@pytest.mark.parametrize(
    ("need", "who", "permitted"),
    [
        (Need.NOTHING, ANONYMOUS, True),
        (Need.READ, ANONYMOUS, False),
        (Need.READ, caller(), False),
        (Need.READ, caller(CallerRole.READER), True),
        (Need.READ, caller(CallerRole.OWNER), True),
        (Need.SEND, ANONYMOUS, True),
        (Need.SEND, caller(), True),
        (Need.OWN, ANONYMOUS, False),
        (Need.OWN, caller(), False),
        (Need.OWN, caller(CallerRole.READER), False),
        (Need.OWN, caller(CallerRole.OWNER), True),
        (Need.OPERATE, caller(CallerRole.OWNER, CallerRole.READER), False),
        *((need, caller(CallerRole.OPERATOR), True) for need in Need),
    ],
)
def test_what_a_caller_may(need: Need, who: Caller, permitted: bool) -> None:
    assert Access().permits(who, need, "events") is permitted


def test_a_group_that_is_public_is_read_by_anybody() -> None:
    access = Access(public_reads=frozenset({"events"}))
    assert access.permits(ANONYMOUS, Need.READ, "events")
    assert not access.permits(ANONYMOUS, Need.READ, "metrics")


def test_events_are_taken_of_proven_identities_alone_where_the_operator_wants_it() -> None:
    access = Access(identity_required=True)
    assert not access.permits(ANONYMOUS, Need.SEND)
    assert access.permits(caller(), Need.SEND)


def test_roles_are_listed_or_granted() -> None:
    access = Access(operators=frozenset({KEY}), readers=frozenset({KEY, OTHER}))
    assert access.roles_of(KEY) == {CallerRole.OPERATOR, CallerRole.READER}
    assert access.roles_of(OTHER, [CallerRole.OWNER]) == {CallerRole.READER, CallerRole.OWNER}
    assert access.roles_of(None) == frozenset()
    assert Access(open_admin=True).roles_of(None) == {CallerRole.OPERATOR}


def test_who_is_unknown_is_asked_to_say_who_and_who_is_known_is_told_no() -> None:
    assert isinstance(Access().refusal(ANONYMOUS, Need.OPERATE), IdentityRequiredError)
    assert isinstance(Access().refusal(caller(), Need.OPERATE), NotPermittedError)


def test_a_route_that_stands_in_no_table_is_the_operators() -> None:
    assert rule_of("sources.burn_everything").need is Need.OPERATE
    assert rule_of(None).need is Need.NOTHING
    assert {rule.group for rule in RULES.values() if rule.need is Need.READ} <= {
        "events", "stream", "sources", "network", "metrics", "lookup", "objects",
    }  # fmt: skip
