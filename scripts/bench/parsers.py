"""What the costliest bodies take of a parser: CPU seconds and memory per MB, each in a process of its own.

scripts/bench/run parsers [--kib 1024] [--only WORD]
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable

from tests.costly_bodies import CostlyBody, costly_bodies

MB = 1024 * 1024


def measure(kind: CostlyBody, size: int) -> tuple[float, float]:
    """CPU seconds and the growth of the process in MB, per MB of the body."""
    kind.attempt(kind.make(1_000))
    body = kind.make(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_s = time.process_time()
    kind.attempt(body)
    spent_s = time.process_time() - started_s
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return spent_s / (len(body) / MB), grown / (len(body) / MB)


def apart(measured: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The figures of a process of its own, since memory that was used once is not given back."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"%f %f" % measured())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        cpu, grown = pipe.read().split()
    return float(cpu), float(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kib", type=int, default=1024, help="size of the bodies")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    options = parser.parse_args()
    kinds = [kind for kind in costly_bodies() if options.only in kind.name]
    found = {kind.name: apart(lambda kind=kind: measure(kind, options.kib * 1024)) for kind in kinds}  # type: ignore[misc]
    print(f"{'kind of body':66} CPU s/MB  MB/MB")
    for name, (cpu, grown) in sorted(found.items(), key=lambda item: -item[1][0]):
        print(f"{name:66} {cpu:8.3f} {grown:6.0f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
