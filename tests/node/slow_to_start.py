"""A call whose module takes a worker process long to import."""

import multiprocessing
import time

START_S = 1.5

if multiprocessing.parent_process() is not None:
    time.sleep(START_S)


def answer() -> str:
    return "answered"
