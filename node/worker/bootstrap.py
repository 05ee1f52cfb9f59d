"""What a worker process does before its first call. Imports little: whatever is imported here, every worker keeps."""

import os
import threading
import time
from contextlib import suppress

CHECK_S = 1.0


def begin(parent: int, niceness: int, name: str) -> None:
    """Lower the priority, take a name that ``top`` shows, and end with the node even in the middle of a call.

    Between calls a worker notices that its pipe closed. Within one it does not, and the kernel's parent-death
    signal would follow the thread that started the worker, which ends long before the node.
    """
    os.nice(niceness)
    with suppress(OSError), open("/proc/self/comm", "w") as comm:  # there is none but on Linux
        comm.write(name)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_S)
    os._exit(1)
