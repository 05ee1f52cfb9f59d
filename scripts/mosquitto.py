"""A Mosquitto of one's own on this machine, for tests and benches: started in a directory, killed, started again."""

import contextlib
import getpass
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from scripts.network import die_with_parent, free_ports

READY_S = 10.0
STOP_S = 10.0
WHERE = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

LOSSLESS: Mapping[str, str] = {
    "max_queued_messages": "0",
    "persistence": "true",
    "autosave_on_changes": "true",
    "autosave_interval": "1",
}
"""Whatever waits is kept, on disk too: Mosquitto drops what is beyond 1,000 messages a client by default."""


def binary(name: str = "mosquitto") -> str:
    """Where a program of Mosquitto is. Raises RuntimeError where it is not installed."""
    found = shutil.which(name) or next((path for at in WHERE if (path := shutil.which(name, path=at))), None)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install mosquitto")
    return found


class Mosquitto:
    """``with Mosquitto(directory) as broker``: listens on ``broker.port`` of 127.0.0.1, the same after a restart."""

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        """Args:
        settings: Lines of its configuration file; any client may connect unless they refuse it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.log = directory / "mosquitto.log"
        self._configuration = directory / "mosquitto.conf"
        values = {
            "user": getpass.getuser(),  # as root it would become a user that cannot read the directory
            "allow_anonymous": "true",
            "persistence_location": f"{directory}/",
            "log_type": "all",
            **(settings or {}),
        }
        lines = [f"listener {self.port} 127.0.0.1", *(f"{name} {value}" for name, value in values.items())]
        self._configuration.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it listens. Raises RuntimeError with its last words where it does not."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [binary(), "-c", str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"mosquitto does not listen:\n{self.log.read_text(errors='replace')[-2_000:]}")

    def kill(self) -> None:
        """kill -9: nothing is written any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it writes down what it holds."""
        self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(STOP_S)

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
