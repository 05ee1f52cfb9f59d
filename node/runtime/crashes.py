"""Why this process ended last, where it ended by a fault of its own: kept in a file that the next start reads."""

import faulthandler
from pathlib import Path
from typing import IO, Final

TEXT_CHARS_MAX: Final = 2_000


class CrashRecord:
    """A file that is empty while all is well.

    A crash of the interpreter, as by a signal, writes it through ``faulthandler``; an error that ends the node does
    through ``note``. SIGKILL, which is nobody's fault here, leaves it empty.

    Attributes:
        previous: What ended the process before, empty where nothing of its own did.
    """

    def __init__(self, path: Path) -> None:
        """Read what the last process left, and begin anew.

        Raises:
            OSError: The file cannot be read or written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(errors="replace") if path.exists() else ""
        self.previous = text[:TEXT_CHARS_MAX].strip()
        self._file: IO[str] = path.open("w")
        faulthandler.enable(self._file)

    def note(self, error: BaseException) -> None:
        """Keep an error that ends the process."""
        self._file.write(f"{type(error).__name__}: {error}\n"[:TEXT_CHARS_MAX])
        self._file.flush()

    def close(self) -> None:
        """Let crashes be reported on standard error again."""
        faulthandler.enable()
        self._file.close()
