"""Roles by key and by certificate, revocation, and what follows for a caller now and later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.access import (
    Access,
    Caller,
    CallerRole,
    Credential,
    IdentityRequiredError,
    Need,
    NotPermittedError,
    TrustedCertifier,
)
from protocols.messages import IdentityKey

KEY = IdentityKey(b"\2" + b"k" * 32)
CERTIFIER, OTHER_CERTIFIER = IdentityKey(b"\2" + b"c" * 32), IdentityKey(b"\3" + b"c" * 32)
TYPE, OTHER_TYPE = "A" * 43 + "=", "B" * 43 + "="
GROUPS = ("events", "metrics")


def shown(serial: str = "s1", *, certifier: IdentityKey = CERTIFIER, type: str = TYPE) -> Credential:
    return Credential(
        certifier=certifier.hex(), type=type, serial_number=serial, revocation_outpoint=f"{'ab' * 32}.0"
    )


def trusting(*spent: str, revoked: tuple[str, ...] = (), owners: tuple[IdentityKey, ...] = ()) -> Access:
    async def is_spent(outpoint: str) -> bool:
        return outpoint in spent

    return Access(
        certifiers=(TrustedCertifier(certifier=CERTIFIER, type=TYPE, role=CallerRole.OWNER),),
        revoked_serials=frozenset(revoked),
        owners=frozenset(owners),
        is_spent=is_spent,
    )


@pytest.mark.parametrize(
    ("credential", "roles"),
    [
        (shown(), [CallerRole.OWNER]),
        (shown(certifier=OTHER_CERTIFIER), []),
        (shown(type=OTHER_TYPE), []),
    ],
)
async def test_a_certificate_gives_the_role_of_its_certifier_and_type(
    credential: Credential, roles: list[CallerRole]
) -> None:
    assert await trusting().granted([credential]) == roles


async def test_a_certificate_gives_nothing_once_it_is_listed_or_its_outpoint_is_spent() -> None:
    credential = shown()
    assert await trusting(revoked=("s1",)).granted([credential]) == []
    assert await trusting(credential.revocation_outpoint).granted([credential]) == []
    assert await trusting(revoked=("s2",)).granted([credential, shown("s2")]) == [CallerRole.OWNER]


async def test_what_was_permitted_once_is_judged_anew() -> None:
    """A subscription is delivered for as long as its owner may read, not for as long as it once could."""
    caller = Caller(identity=KEY, form="headers", roles=frozenset({CallerRole.OWNER}), credentials=(shown(),))
    assert await trusting().still_permits(caller, Need.OWN)
    assert not await trusting(revoked=("s1",)).still_permits(caller, Need.OWN)
    listed = trusting(revoked=("s1",), owners=(KEY,))
    assert await listed.still_permits(caller, Need.OWN), "the key itself is listed"
    nobody = Caller()
    assert not await trusting().still_permits(nobody, Need.READ, "events")


def test_a_refusal_says_what_to_do() -> None:
    access = Access()
    anonymous = access.refusal(Caller(), Need.OPERATE)
    assert isinstance(anonymous, IdentityRequiredError)
    assert "prove your identity" in str(anonymous.fields["remedy"])
    known = access.refusal(Caller(identity=KEY, form="headers"), Need.OWN)
    assert isinstance(known, NotPermittedError)
    assert str(known).startswith(f"{KEY.hex()} may not do this here: the route is for source owners and operators")
    assert known.fields["identity"] == KEY.hex()


callers = st.builds(
    Caller,
    identity=st.sampled_from([None, KEY]),
    roles=st.frozensets(st.sampled_from(list(CallerRole))),
)
accesses = st.builds(
    Access,
    public_reads=st.frozensets(st.sampled_from(GROUPS)),
    identity_required=st.booleans(),
)


@given(accesses, callers, st.sampled_from(list(Need)), st.sampled_from(GROUPS), st.sampled_from(list(CallerRole)))
def test_one_more_role_never_takes_a_right_away(
    access: Access, caller: Caller, need: Need, group: str, role: CallerRole
) -> None:
    more = Caller(identity=caller.identity, roles=caller.roles | {role})
    assert access.permits(more, need, group) >= access.permits(caller, need, group)


@given(accesses, callers, st.sampled_from(GROUPS))
def test_what_each_need_takes(access: Access, caller: Caller, group: str) -> None:
    operates = CallerRole.OPERATOR in caller.roles
    assert access.permits(caller, Need.NOTHING, group)
    assert access.permits(caller, Need.OPERATE, group) is operates
    assert access.permits(caller, Need.OWN, group) is (operates or CallerRole.OWNER in caller.roles)
    assert access.permits(caller, Need.READ, group) is (group in access.public_reads or bool(caller.roles))
    is_proven = caller.identity is not None or not access.identity_required
    assert access.permits(caller, Need.SEND, group) is (operates or is_proven)
