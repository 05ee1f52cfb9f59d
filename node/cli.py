"""``overlay-node``: run a node, make its key, call one, verify a certificate, try a policy, migrate, list settings.

Each command imports what it needs when it runs: verifying loads neither network nor database.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from protocols.errors import OverlayError

FAILED, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the process's exit code: 0 done, 1 failed or not verified, 2 wrongly called."""
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.command(chosen))
    except OverlayError as error:
        print(f"overlay-node: {error}", file=sys.stderr)
        return USAGE if error.code == "config" else FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="overlay-node", description="A node of an overlay network that certifies.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a node until SIGTERM")
    _takes_config(run)
    run.set_defaults(command=_run)

    keygen = commands.add_parser("keygen", help="make an identity key; prints the public key, hex")
    keygen.add_argument("--out", type=Path, default=Path("identity.key"), metavar="FILE", help="default: %(default)s")
    keygen.set_defaults(command=_keygen)

    certify = commands.add_parser("certify-member", help="issue a membership certificate (BRC-52); prints it, JSON")
    certify.add_argument("member", metavar="KEY", type=_identity, help="the node's identity key, hex")
    certify.add_argument("--key", type=Path, required=True, metavar="FILE", help="the certifier's key")
    certify.add_argument(
        "--type", required=True, metavar="BASE64", help="of the certificate: 32 bytes of your choice"
    )
    certify.add_argument(
        "--outpoint", metavar="TXID.INDEX", help="spend it to revoke; unset: listed serials alone do"
    )
    certify.set_defaults(command=_certify_member)

    verify = commands.add_parser("verify", help="check a certificate or a receipt, offline; exits 0 if it holds")
    verify.add_argument("file", metavar="FILE", help="the document; - for standard input")
    verify.add_argument(
        "--trust",
        type=_identity,
        action="append",
        metavar="KEY",
        help="count only this identity key, hex; repeatable",
    )
    verify.add_argument("--network", metavar="NAME", help="the network it must be of")
    verify.set_defaults(command=_verify)

    call = commands.add_parser("call", help="send a signed request to a node; prints the answer, exits 0 below 400")
    call.add_argument("method", metavar="METHOD", type=str.upper, help="GET, POST, PATCH ...")
    call.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8080/overlay/sources")
    call.add_argument("--key", type=Path, default=Path("identity.key"), metavar="FILE", help="default: %(default)s")
    call.add_argument("--data", metavar="JSON", help="the body, or @FILE to read it from there")
    call.add_argument(
        "--node", type=_identity, metavar="KEY", help="the node's identity key; unset: the node is asked"
    )
    call.set_defaults(command=_call)

    policy = commands.add_parser("policy", help="check a policy, try it on events, compare two").add_subparsers(
        required=True, metavar="COMMAND"
    )
    check = policy.add_parser("check", help="check a policy, JSON or YAML; prints its hash, exits 0 if it is usable")
    check.add_argument("file", metavar="FILE", type=Path)
    check.add_argument("--canonical", action="store_true", help="print the canonical document instead")
    check.set_defaults(command=_policy_check)
    test = policy.add_parser("test", help="show what events become under a policy, and which rule decided")
    test.add_argument("file", metavar="FILE", type=Path)
    _takes_events(test)
    test.add_argument("--all", action="store_true", help="show valid events without issues too")
    test.add_argument("--limit", type=int, default=50, metavar="N", help="events shown at most; default: %(default)s")
    test.add_argument("--json", action="store_true", help="all results as JSON")
    test.set_defaults(command=_policy_test)
    diff = policy.add_parser("diff", help="show which events two policies treat differently; exits 1 if any")
    diff.add_argument("before", metavar="A", type=Path)
    diff.add_argument("after", metavar="B", type=Path)
    _takes_events(diff)
    diff.add_argument("--limit", type=int, default=50, metavar="N", help="events shown at most; default: %(default)s")
    diff.set_defaults(command=_policy_diff)

    migrate = commands.add_parser("migrate", help="bring the database up to date; a node does so when it starts")
    _takes_config(migrate)
    migrate.set_defaults(command=_migrate)

    settings = commands.add_parser("settings", help="list every setting, as Markdown")
    settings.set_defaults(command=_settings)
    return parser


def _takes_events(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--events",
        type=Path,
        required=True,
        metavar="SAMPLE",
        help="events as posted: JSON lines, a JSON array, or an ingest request; CSV rows become data; .gz too",
    )


def _takes_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML; the environment overrides them")


def _identity(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 33 or key[0] not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no identity key: 66 hex digits that begin with 02 or 03")
    return key


def _run(chosen: argparse.Namespace) -> int:
    from node.runtime.config import load

    settings = load(chosen.config, os.environ)

    from node.process import run

    run(settings)
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
        url = httpx.URL(chosen.url)
        node = chosen.node or identity_of(f"{url.scheme}://{url.netloc.decode('ascii')}")
        answer = httpx.request(
            chosen.method,
            url,
            content=_read_data(chosen.data),
            headers={"Content-Type": "application/json"} if chosen.data is not None else None,
            auth=SignedRequests(key, node),
            timeout=60,
        )
    except (httpx.HTTPError, httpx.InvalidURL, OSError, KeyError, ValueError) as error:
        print(f"overlay-node: {chosen.url}: {error or type(error).__name__}", file=sys.stderr)
        return FAILED
    print(answer.text)
    return 0 if answer.status_code < 400 else FAILED


def _read_data(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    return Path(data[1:]).read_bytes()


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
    from node.runtime.config import load

    settings = load(chosen.config, os.environ)

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
