"""A network of real nodes on this machine: own key, database, ports and data directory each. For demo, bench, tests.

Every process it starts ends with it: at ``close``, at an exception, and (Linux) when this process is killed.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from node.calling import SignedRequests
from node.runtime.keyring import load_key

ROOT = Path(__file__).resolve().parent.parent
READY_S = 180.0  # a busy machine takes long to start several; this bounds what hangs
STOP_S = 120.0
PR_SET_PDEATHSIG = 1


def free_ports(count: int) -> list[int]:
    """Ports that are free now; held open together, so no two are the same."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def consecutive_ports(first: int, count: int) -> list[int] | None:
    """``count`` ports from ``first`` on, or None where one of them is taken."""
    with contextlib.ExitStack() as stack:
        for port in range(first, first + count):
            each = stack.enter_context(socket.socket())
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                each.bind(("127.0.0.1", port))
            except OSError:
                return None
    return list(range(first, first + count))


class Node:
    """One node process and where to find it."""

    def __init__(
        self, index: int, directory: Path, http_port: int, p2p_port: int, *, host: str = "127.0.0.1"
    ) -> None:
        self.index = index
        self.directory = directory
        self.host = host
        self.http_port = http_port
        self.p2p_port = p2p_port
        self.url = f"http://{host}:{http_port}"
        self.config = directory / "node.toml"
        self.log = directory / "node.log"
        self.module = "node"
        self.within: tuple[str, ...] = ()  # the command that starts it somewhere else, such as in a network namespace
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def operator(self) -> SignedRequests:
        """The node's own key signs what its operator asks of it."""
        key = load_key(self.directory / "identity.key")
        return SignedRequests(key, key.identity)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        assert not self.running, "a node is started once at a time"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", self.module, "run", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def kill(self) -> None:
        """SIGKILL: the process sends and flushes nothing more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when the process is still there after the timeout."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class LocalNetwork:
    """``with LocalNetwork(directory, 3) as network``: three nodes, the others join through the first."""

    def __init__(
        self,
        directory: Path,
        nodes: int,
        *,
        name: str = "overlay-demo",
        settings: Mapping[str, Any] | None = None,
        per_node: Sequence[Mapping[str, Any]] = (),
        database_url: str | None = None,
        http_port: int | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        """``http_port``: the first node's, the others take the next ones; free ports where one of them is taken.
        ``hosts``: an address for each node, of this machine or of the namespace it is started in.
        """
        ports = free_ports(2 * nodes)
        wanted = None if http_port is None else consecutive_ports(http_port, nodes)
        self.nodes = [
            Node(index, directory / f"node-{index + 1}", http, p2p, host=hosts[index] if hosts else "127.0.0.1")
            for index, (http, p2p) in enumerate(zip(wanted or ports[:nodes], ports[nodes:], strict=True))
        ]
        for node in self.nodes:
            node.directory.mkdir(parents=True, exist_ok=True)
            key = node.directory / "identity.key"
            if not key.exists():
                _overlay_node("keygen", "--out", str(key))
            extra = per_node[node.index] if node.index < len(per_node) else {}
            values = self._settings(node, name, database_url) | dict(settings or {}) | dict(extra)
            node.config.write_text(_toml(values))

    def _settings(self, node: Node, name: str, database_url: str | None) -> dict[str, Any]:
        first = self.nodes[0]
        values: dict[str, Any] = {
            "overlay_node_name": f"node-{node.index + 1}",
            "overlay_network": name,
            "overlay_operator": f"operator-{node.index + 1}",
            "overlay_data_dir": str(node.directory),
            "overlay_key_file": str(node.directory / "identity.key"),
            "overlay_http_bind": f"{node.host}:{node.http_port}",
            "overlay_public_url": node.url,
            "overlay_p2p_listen": [f"/ip4/{node.host}/tcp/{node.p2p_port}"],
            "overlay_bootstrap": [] if node is first else [f"/ip4/{first.host}/tcp/{first.p2p_port}"],
            "overlay_eclipse_protection": False,
        }
        if database_url:
            values["database_url"] = own_database(database_url, f"overlay_{name}_{node.index + 1}")
        return values

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            self.wait_ready(node)

    def wait_ready(self, node: Node) -> None:
        """Wait until a node is ready. Raises RuntimeError with its last log lines if it does not get there."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if not node.running:
                raise RuntimeError(f"node-{node.index + 1} ended:\n{node.tail()}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{node.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"node-{node.index + 1} is not ready after {READY_S:.0f} s:\n{node.tail()}")

    def wait_agents(self, timeout_s: float = 60.0, *, agents: int | None = None) -> None:
        """Wait until every node knows that many agents; None: on all nodes, itself included."""
        wanted = len(self.nodes) if agents is None else agents
        deadline = time.monotonic() + timeout_s
        counts: list[int] = []
        while time.monotonic() < deadline:
            counts = [len(get(node, "/overlay/agents")["agents"]) for node in self.nodes]
            if min(counts) >= wanted:
                return
            time.sleep(0.2)
        raise RuntimeError(f"the nodes know {counts} agents after {timeout_s:.0f} s")

    def close(self) -> None:
        """SIGTERM to all, then SIGKILL to those that do not go."""
        for node in self.nodes:
            if node.running:
                node.signal(signal.SIGCONT)
                node.signal(signal.SIGTERM)
        for node in self.nodes:
            if node.wait(STOP_S) is None:
                node.kill()

    def __enter__(self) -> "LocalNetwork":
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def get(node: Node, path: str) -> Any:
    """A node's JSON answer. Raises httpx.HTTPError when it has none."""
    response = httpx.get(node.url + path, timeout=30)
    response.raise_for_status()
    return response.json()


def own_database(server_url: str, name: str) -> str:
    """A new database of that name on the server, in place of an earlier run's; its URL."""
    import psycopg  # the one database tool of the scripts, and only with DATABASE_URL

    safe = "".join(letter if letter.isalnum() else "_" for letter in name).lower()
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{safe}" WITH (FORCE)'.encode())  # letters and digits only
        connection.execute(f'CREATE DATABASE "{safe}"'.encode())
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{safe}"))


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _overlay_node(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "node", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ
    )


def _toml(values: Mapping[str, Any]) -> str:
    """Flat TOML: strings, booleans, integers and lists of strings. JSON's forms of these are TOML's."""
    import json

    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
