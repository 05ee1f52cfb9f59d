"""A node whose agent lies: it runs the roles as they are, then reports another result, and signs it.

``python -m tests.e2e.lying_node run --config FILE`` is the node's own command with one function exchanged.
"""

import hashlib
import sys
from typing import Any

import attrs

from node.cli import main
from node.coordination import role_runner
from node.worker import compute


def lying_run_roles(**arguments: Any) -> compute.Run:
    """Runs in the worker process: another output root, one more valid event."""
    run = compute.run_roles(**arguments)
    lie = hashlib.sha256(b"a lie about " + run.findings.output_root).digest()
    return attrs.evolve(run, findings=attrs.evolve(run.findings, output_root=lie))


class LyingCompute:
    """The module, but for its run_roles."""

    run_roles = staticmethod(lying_run_roles)

    def __getattr__(self, name: str) -> Any:
        return getattr(compute, name)


if __name__ == "__main__":
    from tests.e2e import lying_node  # under its own name, so that workers can find the function

    assert vars(role_runner)["compute"] is compute, "the module that runs the roles"
    vars(role_runner)["compute"] = lying_node.LyingCompute()
    sys.exit(main())
