"""Locks between the processes of one pod: files that the kernel unlocks when their holder dies."""

import fcntl
import os
import stat
import threading
from pathlib import Path
from types import TracebackType


class FileLock:
    """One lock of this process on the file ``path``, which is made and never removed.

    Its name in a directory that all may write to is no secret: a file of somebody else, who could hold the
    lock for ever, is not used. Make it where it is used: a child process must not inherit an open one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._held = False

    def take(self, *, wait: bool = False) -> bool:
        """Take the lock if nobody has it, or wait for it; whether it is held. Raises :class:`OSError`."""
        with self._lock:
            if self._file is None:
                self._file = self._open()
            if not self._held:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._held = True
                except BlockingIOError:
                    pass
            return self._held

    def release(self) -> None:
        """Let go of it."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file, self._held = None, False

    def __enter__(self) -> None:
        self.take(wait=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        opened = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(opened)
            raise OSError(
                f"{self._path} is not a file of our own: remove it, it is for this port's registration"
            )
        return opened
