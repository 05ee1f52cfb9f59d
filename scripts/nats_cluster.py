"""A NATS JetStream cluster of one's own on this machine, for benches: servers on free ports, files in a directory."""

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from scripts.network import die_with_parent, free_ports

BINARY: Final = Path(sys.executable).parent / "nats-server"
READY_S: Final = 30.0
STOP_S: Final = 10.0


class NatsCluster:
    """``with NatsCluster(directory) as cluster``: clients connect to ``cluster.urls``, without a password."""

    def __init__(self, directory: Path, *, servers: int = 3, sync_always: bool = False) -> None:
        """``sync_always``: what is acknowledged is on the disk; else it is within two minutes, NATS's default."""
        ports = free_ports(3 * servers)
        self._monitors = ports[2 * servers :]
        self._configurations: list[Path] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.urls = [f"nats://127.0.0.1:{port}" for port in ports[:servers]]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[servers : 2 * servers])
        for number in range(servers):
            home = directory / f"nats-{number + 1}"
            home.mkdir(parents=True)
            lines = [
                f"server_name: nats-{number + 1}",
                f'listen: "127.0.0.1:{ports[number]}"',
                f'http: "127.0.0.1:{self._monitors[number]}"',
                f'log_file: "{home / "server.log"}"',
                f'jetstream {{ store_dir: "{home}"{", sync_interval: always" if sync_always else ""} }}',
                f'cluster {{ name: bench, listen: "127.0.0.1:{ports[servers + number]}", routes: [{routes}] }}',
            ]
            self._configurations.append(home / "server.conf")
            self._configurations[-1].write_text("\n".join(lines) + "\n")

    def cpu_s(self) -> float:
        """Processor time of all servers so far."""
        return sum(sum(psutil.Process(each.pid).cpu_times()[:2]) for each in self._processes)

    def start(self) -> None:
        """Returns once every server takes part in JetStream. Raises RuntimeError with the first log otherwise."""
        for configuration in self._configurations:
            self._processes.append(
                subprocess.Popen(
                    [str(BINARY), "--config", str(configuration)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    preexec_fn=die_with_parent,
                )
            )
        deadline = time.monotonic() + READY_S
        while not all(map(_is_ready, self._monitors)):
            if time.monotonic() > deadline:
                log = (self._configurations[0].parent / "server.log").read_text(errors="replace")
                raise RuntimeError(f"the NATS cluster is not ready after {READY_S:.0f} s:\n{log[-2_000:]}")
            time.sleep(0.1)

    def close(self) -> None:
        for each in self._processes:
            each.terminate()
        for each in self._processes:
            try:
                each.wait(STOP_S)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()

    def __enter__(self) -> "NatsCluster":
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
