"""Files that others read: they are old or new, never partial, whatever ends their writing, and on the disk once they are there."""
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from hybridrepair.base import processes

TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})\.(\d+)\.[0-9a-f]{8}\.tmp", re.DOTALL)  # the machine, the process, chance
LONG = 24 * 60 * 60  # seconds in which a process on another machine has written something, if it lives
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}  # of folders, where the file system or their rights forbid it


@cache
def machine() -> str:
    """8 hex digits that differ wherever processes are counted anew: on each machine, after each start of it, in each container."""
    told = [platform.node()]
    for look in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        with suppress(OSError):
            told.append(look())
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:8]


def temporary_of(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has: machines that share a folder have processes of the same number."""
    return path.with_name(f".{path.name[:24]}.{machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_of`, of whatever process."""
    return TEMPORARY.fullmatch(name) is not None


def is_left(path: Path) -> bool:
    """Whether nobody writes the temporary any more: its process is dead, or, of another machine, has not touched it for long."""
    made = TEMPORARY.fullmatch(path.name)
    assert made
    if made[1] != machine():
        return time.time() - path.stat().st_mtime > LONG
    try:
        os.kill(int(made[2]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # another user's; a number that no process has
        pass
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes have left in `folder` of what they wrote."""
    with suppress(OSError):  # another process removes them too; a folder may be closed to those who read
        for path in [folder / name for name in os.listdir(folder) if is_temporary(name)]:
            with suppress(OSError):
                if is_left(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_SYNC):
            raise


@contextmanager
def atomic(path: Path | str, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it replaces `path` when the block ends well, else it is removed.

    With `before`, what `path` was is kept there. The OSError of a file that cannot be written names `path`.
    """
    path = Path(path)
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        try:
            yield temporary
            sync(temporary)
            if before and path.exists():
                os.replace(path, before)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None and type(error) is OSError:  # numpy's, of a write that fell short
            raise OSError(errno.EIO, str(error), str(path)) from error
        if error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise


def write_text(path: Path, content: str) -> None:
    """Write a file; of processes that share the work the first does."""
    if processes.first():
        with atomic(path) as temporary:
            temporary.write_text(content, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")
