"""Locks among processes: who makes one thing at a time. A lock ends with its process, however that ends."""
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridrepair.base import processes

CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}  # folders that cannot be written to
told: set[Path] = set()  # folders of which it has been said that they have no locks


@contextmanager
def locked(path: Path | str, wait: bool = True, making: str = "") -> Iterator[bool]:
    """Hold the lock that belongs to `path`, or yield False at once where another process has it and `wait` is off.

    One that waits says so, where `making` names what the other process is making. The lock is a hidden file beside `path`. Where
    none are to be had, as on some network filesystems, one line on stderr says so and all goes on: what is written is whole
    without them, but a thing may be made twice. A thing that is there, in a folder that cannot be written to, needs no lock.
    Processes that share the work hold it together.
    """
    path, file = Path(path), None

    def take() -> bool:
        nonlocal file
        path.parent.mkdir(parents=True, exist_ok=True)
        file = opened(path.with_name(f".{path.name}.lock"), needed=not path.exists())
        return file is None or taken(file, path, wait, making)

    try:
        yield processes.led(take)
    finally:
        if file is not None:
            os.close(file)


def opened(path: Path, needed: bool) -> int | None:
    """The file descriptor of a lock file, which may be another user's; None for one that cannot be made and is not `needed`."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        if path.exists():
            return os.open(path, os.O_RDONLY)
        if needed:
            raise
        return None


def taken(file: int, path: Path, wait: bool, making: str) -> bool:
    """Whether the lock of an open file is held now, or none is to be had."""
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                return False
            if making:
                print(f"another process makes {making}: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if path.parent not in told:
            told.add(path.parent)
            print(f"{path.parent} has no file locks ({error.strerror}): processes side by side may do the same work twice",
                  file=sys.stderr)
    return True
