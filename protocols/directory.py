"""The directory of advertisements: which node offers what, until when. Pure values."""

from collections.abc import Callable, Mapping

import attrs

from protocols.advertisement import Token, check_token, topic_manager_name, topic_of
from protocols.errors import MalformedError
from protocols.limits import ADVERTISEMENTS_MAX
from protocols.messages import Advertisement, IdentityKey, Role, Signed

TTL_MS_MAX = 24 * 3_600_000
CLOCK_SKEW_MS_MAX = 60_000


def role_topic(role: Role) -> str:
    """The overlay topic whose SHIP token offers a role, after the spec's ``gitdata.events.${jobType}``."""
    return f"gitdata.events.{role.word}"


@attrs.frozen(kw_only=True)
class DirectoryEntry:
    """One node's advertisement as this node knows it."""

    advertisement: Signed[Advertisement]
    tokens: tuple[Token, ...]
    first_heard_ms: int
    heard_ms: int

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles its SHIP tokens offer."""
        names = {token.name for token in self.tokens if token.kind == "SHIP"}
        return tuple(role for role in Role if topic_manager_name(role_topic(role)) in names)

    @property
    def topics(self) -> tuple[str, ...]:
        """The dotted topics its SHIP tokens name, those of roles among them."""
        return tuple(topic_of(token.name) for token in self.tokens if token.kind == "SHIP")


@attrs.frozen(kw_only=True)
class Directory:
    """Advertisements in force, by identity."""

    entries: Mapping[IdentityKey, DirectoryEntry] = attrs.Factory(dict)

    def offering(self, role: Role, now_ms: int) -> tuple[IdentityKey, ...]:
        """The nodes that offer a role now, sorted."""
        return tuple(
            sorted(
                identity
                for identity, entry in self.entries.items()
                if role in entry.roles and entry.advertisement.message.expires_ms > now_ms
            )
        )


def _nobody(identity: IdentityKey) -> bool:
    return False


def hear(
    directory: Directory,
    signed: Signed[Advertisement],
    now_ms: int,
    *,
    allow_local_urls: bool,
    stays: Callable[[IdentityKey], bool] = _nobody,
) -> tuple[Directory, DirectoryEntry | None]:
    """Take in an advertisement whose signature was checked.

    Args:
        stays: Whether an entry may not make room for another one where the directory is full. Of the others, the one
            that was heard of longest ago goes.

    Returns:
        The directory after it, and its entry; None when it was old news or a withdrawal, or there was no room.

    Raises:
        MalformedError, BadSignatureError: a token is not its signer's, or the times make no sense.
    """
    message = signed.message
    known = directory.entries.get(signed.signer)
    if known is not None and message.sequence <= known.advertisement.message.sequence:
        return directory, None
    if message.expires_ms > now_ms + TTL_MS_MAX or message.issued_ms > now_ms + CLOCK_SKEW_MS_MAX:
        raise MalformedError("the advertisement is from the future")
    if message.expires_ms <= now_ms:
        return _without(directory, signed.signer), None
    tokens = tuple(check_token(token, allow_local_urls=allow_local_urls) for token in message.tokens)
    if any(token.identity != signed.signer for token in tokens):
        raise MalformedError("the advertisement carries a token of another identity")
    first_ms = known.first_heard_ms if known is not None else now_ms
    if known is None and len(directory.entries) >= ADVERTISEMENTS_MAX:
        others = [identity for identity in directory.entries if not stays(identity)]
        if not others:
            return directory, None
        directory = _without(directory, min(others, key=lambda each: directory.entries[each].heard_ms))
    entry = DirectoryEntry(advertisement=signed, tokens=tokens, first_heard_ms=first_ms, heard_ms=now_ms)
    return Directory(entries={**directory.entries, signed.signer: entry}), entry


def expire(directory: Directory, now_ms: int) -> Directory:
    """Drop expired advertisements."""
    kept = {
        identity: entry
        for identity, entry in directory.entries.items()
        if entry.advertisement.message.expires_ms > now_ms
    }
    return directory if len(kept) == len(directory.entries) else Directory(entries=kept)


def _without(directory: Directory, identity: IdentityKey) -> Directory:
    return Directory(entries={key: entry for key, entry in directory.entries.items() if key != identity})
