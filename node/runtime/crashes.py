"""Why this process ended last, where it ended by a fault of its own: kept in a file that the next start reads."""

import faulthandler
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import structlog

log = structlog.get_logger(__name__)

TEXT_CHARS_MAX: Final = 2_000


class CrashRecord:
    """A file that is empty while all is well.

    A crash of the interpreter, as by a signal, writes it through ``faulthandler``; an error that ends the node does
    through ``note``. SIGKILL, which is nobody's fault here, leaves it empty.

    Attributes:
        previous: What ended the process before, empty where nothing of its own did.
    """

    def __init__(self, path: Path) -> None:
        """Read what the last process left, and begin anew. Without the file, crashes go to standard error."""
        self.previous = ""
        self._file: IO[str] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+", encoding="utf-8", errors="backslashreplace")
            self._file.seek(0)
            self.previous = self._file.read(TEXT_CHARS_MAX).replace("\0", "").strip()
            self._file.truncate(0)
        except (OSError, UnicodeDecodeError) as error:
            log.warning("crashes.not_kept", path=str(path), why=str(error))
        if self._file is not None:
            faulthandler.enable(self._file)

    def note(self, error: BaseException) -> None:
        """Keep an error that ends the process."""
        if self._file is not None:
            with suppress(OSError):  # a full disk: the error is on standard error too
                self._file.write(f"{type(error).__name__}: {error}\n"[:TEXT_CHARS_MAX])
                self._file.flush()

    def close(self) -> None:
        """Let crashes be reported on standard error again."""
        if self._file is not None:
            faulthandler.enable()
            with suppress(OSError):
                self._file.close()
