"""The states of events, batches and jobs. SQL writes them as literals; whoever lists them reads them here."""

from typing import Final

BATCH_STATES: Final = ("pending", "certified", "dead", "split", "merged")
EVENT_STATUSES: Final = ("pending", "certified", "invalid", "dead")
JOB_STATUSES: Final = ("queued", "running", "completed", "failed", "dead")
