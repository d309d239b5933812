"""Files that are replaced as a whole, by one process at a time."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NEW_MODE = 0o600


@contextmanager
def locked(path: str) -> Iterator[str]:
    """Keep others that do the same from the file until the end; give where it is, behind all symlinks.

    Waits for its turn. Raises :class:`OSError`, for a folder that is not there too.
    """
    path = os.path.realpath(path)
    # The folder: the file will be another one, and a file for the lock alone would stay.
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(folder)


def replace(path: str, text: str) -> None:
    """Put ``text`` in the place of what the file says: whoever reads it sees all of one or of the other.

    Owner and mode stay; a new file is its owner's alone. Raises :class:`OSError`, and all is as before.
    """
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".accounts-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            _like(path, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _kept(folder)


def _like(path: str, handle: int) -> None:
    try:
        before = os.stat(path)
    except FileNotFoundError:
        os.fchmod(handle, _NEW_MODE)
        return
    now = os.fstat(handle)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        # Root's own copy would be one that the gateway may not read.
        os.fchown(handle, before.st_uid, before.st_gid)
    os.fchmod(handle, stat.S_IMODE(before.st_mode))


def _kept(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not every file system can.
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
