"""``overlay-node`` against a node that runs, and over documents that it made: what is printed, and the exit code."""

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import trio

from node import cli
from node.calling import SignedRequests, identity_of
from node.runtime.access import Access
from node.runtime.keyring import create_key
from node.runtime.settings import ReadGroup
from protocols.membership import check_membership
from tests.node.running import NODE, Running, running

Call = Callable[..., Any]
SOURCE = {"sourceId": "farm", "name": "Farm", "sourceType": "webhook"}


async def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, run beside the node."""
    code = await trio.to_thread.run_sync(cli.main, arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def guarded(*operators: bytes) -> Access:
    return Access(operators=frozenset(operators), public_reads=frozenset(get_args(ReadGroup)))


def url(node: Running, path: str) -> str:
    return f"{node.url}{path}"


async def test_a_call_is_signed_with_the_key_that_is_given(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator, stranger = create_key(tmp_path / "operator.key"), create_key(tmp_path / "stranger.key")
    document = json.dumps(SOURCE)
    async with running(postgres_url, access=guarded(operator.identity)) as node:
        for key, expected in (("stranger.key", 1), ("operator.key", 0)):
            code, out, err = await call(
                capsys, "call", "post", url(node, "/overlay/sources"),
                "--key", str(tmp_path / key), "--data", document,
            )  # fmt: skip
            assert (code, err) == (expected, "")
            answer = json.loads(out)
            assert answer.get("sourceId") == ("farm" if expected == 0 else None)
        assert stranger.identity.hex() in json.dumps(await _refusal(node, tmp_path / "stranger.key", capsys))


async def _refusal(node: Running, key: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    _, out, _ = await call(capsys, "call", "DELETE", url(node, "/overlay/sources/farm"), "--key", str(key))
    return json.loads(out)


async def test_the_body_can_be_a_file(postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator = create_key(tmp_path / "identity.key")
    (tmp_path / "source.json").write_text(json.dumps(SOURCE))
    async with running(postgres_url, access=guarded(operator.identity)) as node:
        arguments = ["call", "POST", url(node, "/overlay/sources"), "--key", str(tmp_path / "identity.key")]
        code, out, _ = await call(capsys, *arguments, "--data", f"@{tmp_path / 'source.json'}")
        assert (code, json.loads(out)["sourceId"]) == (0, "farm")
        code, out, err = await call(capsys, *arguments, "--data", f"@{tmp_path / 'none.json'}")
        assert (code, out) == (1, "")
        assert err == f"overlay-node: --data @{tmp_path / 'none.json'}: No such file or directory\n"


async def test_a_request_for_another_node_is_refused(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was signed for one node is of no use at another."""
    operator = create_key(tmp_path / "identity.key")
    other = create_key(tmp_path / "other.key")
    async with running(postgres_url, access=guarded(operator.identity)) as node:
        code, _, _ = await call(
            capsys, "call", "GET", url(node, "/overlay/dead-letters"),
            "--key", str(tmp_path / "identity.key"), "--node", other.identity.hex(),
        )  # fmt: skip
        assert code == 1
        code, _, _ = await call(
            capsys, "call", "GET", url(node, "/overlay/dead-letters"),
            "--key", str(tmp_path / "identity.key"), "--node", NODE.identity.hex(),
        )  # fmt: skip
        assert code == 0


async def test_a_node_is_asked_for_its_identity(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        assert await trio.to_thread.run_sync(identity_of, node.url) == NODE.identity
        with pytest.raises(httpx.HTTPStatusError):
            await trio.to_thread.run_sync(identity_of, f"{node.url}/nowhere")


async def test_each_signed_request_has_a_nonce_of_its_own(postgres_url: str, tmp_path: Path) -> None:
    """Many in one tick of the clock, too: none is taken for a repeat of another."""
    operator = create_key(tmp_path / "identity.key")
    async with running(postgres_url, access=guarded(operator.identity)) as node:
        auth = SignedRequests(operator, NODE.identity)
        async with httpx.AsyncClient(base_url=node.url, auth=auth) as client:
            answers = [await client.get("/overlay/dead-letters") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        nonces = [answer.request.headers["X-Nonce"] for answer in answers]
        assert len(set(nonces)) == len(nonces)
        again = await node.client.get("/overlay/dead-letters", headers=answers[0].request.headers)
        assert again.status_code == 401, "sent a second time"


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/overlay/node", "nonsense", "ftp://127.0.0.1/x"])
def test_a_url_that_nobody_answers_is_named(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_key(tmp_path / "identity.key")
    assert cli.main(["call", "GET", target, "--key", str(tmp_path / "identity.key")]) == 1
    assert capsys.readouterr().err.startswith(f"overlay-node: {target}: ")


def test_a_call_without_a_key_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "identity.key"
    assert cli.main(["call", "GET", "http://127.0.0.1:1/", "--key", str(missing)]) == 1
    assert f"make a key with 'overlay-node keygen --out {missing}'" in capsys.readouterr().err


def test_a_membership_certificate_counts_for_its_member_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certifier, member = create_key(tmp_path / "certifier.key"), create_key(tmp_path / "member.key")
    kind = base64.b64encode(bytes(range(32))).decode()
    outpoint = f"{'ab' * 32}.3"
    issue = partial(cli.main, ["certify-member", member.identity.hex(), "--key", str(tmp_path / "certifier.key"),
                               "--type", kind, "--outpoint", outpoint])  # fmt: skip
    assert issue() == 0
    document = capsys.readouterr().out.encode()
    found = check_membership(document, member.identity, {(certifier.identity, kind)})
    assert (found.certifier, found.type, found.revocation_outpoint) == (certifier.identity, kind, outpoint)
    assert issue() == 0
    again = check_membership(capsys.readouterr().out.encode(), member.identity, {(certifier.identity, kind)})
    assert again.serial_number != found.serial_number, "each certificate can be revoked alone"


@pytest.mark.parametrize("kind", ["", "AAAA", "not base64"])
def test_a_certificate_of_no_type_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certifier = create_key(tmp_path / "certifier.key")
    arguments = ["certify-member", certifier.identity.hex(), "--key", str(tmp_path / "certifier.key"), "--type", kind]
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err.startswith("overlay-node: ")


@pytest.mark.parametrize(
    "arguments",
    [["run", "--help"], ["keygen", "--help"], ["certify-member", "--help"], ["verify", "--help"], ["call", "--help"],
     ["policy", "check", "--help"], ["policy", "test", "--help"], ["policy", "diff", "--help"],
     ["migrate", "--help"], ["settings", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_describes_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: overlay-node {' '.join(arguments[:-1])}")


def test_an_interrupted_command_ends_with_the_code_of_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_settings", interrupted)
    assert cli.main(["settings"]) == 130
