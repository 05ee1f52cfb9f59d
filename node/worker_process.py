"""What a worker process does before its first call. Imports little: whatever is imported here, every worker keeps."""

import os
import threading
import time

CHECK_S = 1.0


def begin(parent: int, niceness: int) -> None:
    """Lower the priority, and end with the node even in the middle of a call.

    Between calls a worker notices that its pipe closed. Within one it does not, and the kernel's parent-death
    signal would follow the thread that started the worker, which ends long before the node.
    """
    os.nice(niceness)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_S)
    os._exit(1)
