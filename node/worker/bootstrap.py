"""Start of a worker process. Imports little, since every worker keeps what is imported here."""

import os
import signal
import threading
import time
from contextlib import suppress

from node.worker.memory import collect_rarely, keep_freed_memory

CHECK_S = 1.0


def begin(parent: int, niceness: int, name: str) -> None:
    """Lower the priority, set the name that ``top`` shows, ignore SIGHUP, keep freed memory, and end with the node,
    even during a call.

    Between calls a worker notices that its pipe closed. Within one it does not, and the kernel's parent-death
    signal would follow the thread that started the worker, which ends long before the node.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the node, even where it is sent to all of its processes
    os.nice(niceness)
    keep_freed_memory()
    with suppress(OSError), open("/proc/self/comm", "w") as comm:  # Linux only
        comm.write(name)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def get_ready(function: object) -> None:
    """To be called once ``function`` was received: that imported what it needs."""
    collect_rarely()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_S)
    os._exit(1)
