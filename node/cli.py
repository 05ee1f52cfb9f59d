"""``overlay-node``: run a node, make its key, call one, verify a certificate, try a policy, migrate, list settings.

Each command imports what it needs when it runs, so that ``verify`` loads neither network nor database.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from protocols.errors import OverlayError

if TYPE_CHECKING:
    from node.runtime.settings import Settings

Command: TypeAlias = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
CALL_TIMEOUT_S: Final = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 1 failed or not verified, 2 wrong usage or wrong settings."""
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.command(chosen))
    except OverlayError as error:
        print(f"overlay-node: {error}", file=sys.stderr)
        return USAGE if error.code == "config" else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="overlay-node", description="A node of an overlay network that certifies.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add(commands, "run", _run, "run a node until SIGTERM")
    _add_config(run)
    _add_keygen(commands)
    _add_certify_member(commands)
    _add_verify(commands)
    _add_call(commands)
    _add_policy(commands)
    migrate = _add(commands, "migrate", _migrate, "bring the database up to date; a node does so when it starts")
    _add_config(migrate)
    _add(commands, "settings", _settings, "list every setting, as Markdown")
    return parser


def _add(commands: Commands, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary)
    parser.set_defaults(command=command)
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML; the environment overrides them")


def _add_keygen(commands: Commands) -> None:
    keygen = _add(commands, "keygen", _keygen, "make an identity key; prints the public key, hex")
    keygen.add_argument("--out", type=Path, default=Path("identity.key"), metavar="FILE", help="default: %(default)s")


def _add_certify_member(commands: Commands) -> None:
    certify = _add(
        commands, "certify-member", _certify_member, "issue a membership certificate (BRC-52); prints it, JSON"
    )
    certify.add_argument("member", metavar="KEY", type=_identity, help="the node's identity key, hex")
    certify.add_argument("--key", type=Path, required=True, metavar="FILE", help="the certifier's key")
    certify.add_argument(
        "--type", required=True, metavar="BASE64", help="of the certificate: 32 bytes of your choice"
    )
    certify.add_argument(
        "--outpoint", metavar="TXID.INDEX", help="spending it revokes; unset: only OVERLAY_REVOKED_CERTIFICATES does"
    )


def _add_verify(commands: Commands) -> None:
    verify = _add(commands, "verify", _verify, "check a certificate or a receipt, offline; exits 0 if it is valid")
    verify.add_argument("file", metavar="FILE", help="the document; - for standard input")
    verify.add_argument(
        "--trust",
        type=_identity,
        action="append",
        metavar="KEY",
        help="count only this identity key, hex; repeatable",
    )
    verify.add_argument("--network", metavar="NAME", help="the network it must be of")


def _add_call(commands: Commands) -> None:
    call = _add(
        commands,
        "call",
        _call,
        "send a signed request to a node; prints the answer, exits 0 for a status below 400",
    )
    call.add_argument("method", metavar="METHOD", type=str.upper, help="GET, POST, PATCH ...")
    call.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8080/overlay/sources")
    call.add_argument("--key", type=Path, default=Path("identity.key"), metavar="FILE", help="default: %(default)s")
    call.add_argument("--data", metavar="JSON", help="the body, or @FILE to read it from there")
    call.add_argument(
        "--node", type=_identity, metavar="KEY", help="the node's identity key; unset: the node is asked"
    )


def _add_policy(commands: Commands) -> None:
    policy = commands.add_parser("policy", help="check a policy, try it on events, compare two")
    tools = policy.add_subparsers(required=True, metavar="COMMAND")
    check = _add(tools, "check", _policy_check, "check a policy, JSON or YAML; prints its hash, exits 0 if usable")
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--canonical", action="store_true", help="print the canonical document instead")
    test = _add(tools, "test", _policy_test, "show what events become under a policy, and which rule decided")
    test.add_argument("file", metavar="FILE", type=Path)
    _add_events(test)
    test.add_argument("--all", action="store_true", help="show valid events without issues too")
    test.add_argument("--json", action="store_true", help="all results as JSON")
    diff = _add(tools, "diff", _policy_diff, "show which events two policies treat differently; exits 1 if any")
    diff.add_argument("before", metavar="A", type=Path)
    diff.add_argument("after", metavar="B", type=Path)
    _add_events(diff)


def _add_events(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--events",
        type=Path,
        required=True,
        metavar="SAMPLE",
        help="events as posted: JSON lines, a JSON array, or an ingest request; CSV rows become data; .gz too",
    )
    command.add_argument(
        "--limit", type=int, default=50, metavar="N", help="events shown at most; default: %(default)s"
    )


def _identity(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 33 or key[0] not in (2, 3):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not an identity key: 66 hex digits that begin with 02 or 03"
        )
    return key


def _load_settings(chosen: argparse.Namespace) -> "Settings":
    from node.runtime.config import load

    return load(chosen.config, os.environ)


def _run(chosen: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is handled: it must not end the start
    _load_settings(chosen)  # before the imports, which take a second

    from node.process import run

    run(partial(_load_settings, chosen))
    return 0


def _keygen(chosen: argparse.Namespace) -> int:
    from node.runtime.keyring import create_key

    print(create_key(chosen.out).identity.hex())
    return 0


def _certify_member(chosen: argparse.Namespace) -> int:
    import base64
    import secrets

    from node.runtime.keyring import load_key
    from protocols.membership import NEVER_REVOKED, issue

    serial = base64.b64encode(secrets.token_bytes(32)).decode()
    outpoint = chosen.outpoint or NEVER_REVOKED
    key = load_key(chosen.key)
    print(issue(key, chosen.member, type=chosen.type, serial_number=serial, outpoint=outpoint).decode())
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    from protocols.verification import DOCUMENT_BYTES_MAX, render, verify_document

    try:
        with sys.stdin.buffer if chosen.file == "-" else Path(chosen.file).open("rb") as document:
            data = document.read(DOCUMENT_BYTES_MAX + 1)
    except OSError as error:
        print(f"overlay-node: {chosen.file} cannot be read: {error.strerror}", file=sys.stderr)
        return USAGE
    trusted = frozenset(chosen.trust) if chosen.trust else None
    report = verify_document(data, network=chosen.network, trusted=trusted)
    print(render(report))
    return 0 if report.ok else FAILED


def _call(chosen: argparse.Namespace) -> int:
    import httpx

    from node.calling import SignedRequests, identity_of
    from node.runtime.keyring import load_key

    key = load_key(chosen.key)
    try:
        data = _read_data(chosen.data)
    except OSError as error:
        print(f"overlay-node: --data {chosen.data}: {error.strerror}", file=sys.stderr)
        return FAILED
    try:
        url = httpx.URL(chosen.url)
        node = chosen.node or identity_of(f"{url.scheme}://{url.netloc.decode('ascii')}")
        answer = httpx.request(
            chosen.method,
            url,
            content=data,
            headers={"Content-Type": "application/json"} if chosen.data is not None else None,
            auth=SignedRequests(key, node),
            timeout=CALL_TIMEOUT_S,
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError, KeyError, ValueError) as error:
        print(f"overlay-node: {chosen.url}: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    print(answer.text)
    return 0 if answer.status_code < 400 else FAILED


def _read_data(data: str | None) -> bytes | None:
    if data is None:
        return None
    return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()


def _policy_check(chosen: argparse.Namespace) -> int:
    from node.policy_tools import check

    return check(chosen.file, canonical=chosen.canonical)


def _policy_test(chosen: argparse.Namespace) -> int:
    from node.policy_tools import test

    return test(chosen.file, chosen.events, show_all=chosen.all, limit=chosen.limit, as_json=chosen.json)


def _policy_diff(chosen: argparse.Namespace) -> int:
    from node.policy_tools import diff

    return diff(chosen.before, chosen.after, chosen.events, limit=chosen.limit)


def _migrate(chosen: argparse.Namespace) -> int:
    settings = _load_settings(chosen)

    from storage.embedded import EmbeddedPostgres
    from storage.migrate import migrate

    if settings.database_url is not None:
        applied = migrate(settings.database_url.get_secret_value())
    else:
        with EmbeddedPostgres(settings.overlay_data_dir) as postgres:
            applied = migrate(postgres.url)
    print("\n".join(applied) or "nothing to do")
    return 0


def _settings(_: argparse.Namespace) -> int:
    from node.runtime.config import settings_table

    print(settings_table())
    return 0
