"""Seals of files that this project alone reads: the end of one tells whether all before it is, to the last bit, what was written."""
import hashlib
from pathlib import Path

MARK = b"\nhybridrepair state 1, SHA-256 "  # begins a seal; the hex digits of all before it follow
LENGTH = len(MARK) + 64  # bytes
CHUNK = 2 ** 20  # bytes of a file that are read together


def seal_of(path: Path, size: int) -> bytes:
    """The seal of the first `size` bytes of a file."""
    made = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(min(CHUNK, size)):
            made.update(part)
            size -= len(part)
    return MARK + made.hexdigest().encode()


def seal(path: Path) -> None:
    """Put its seal at the end of a file."""
    made = seal_of(path, path.stat().st_size)
    with open(path, "ab") as file:
        file.write(made)


def is_sealed(path: Path) -> bool:
    """Whether a file ends with its seal. OSError where it cannot be read."""
    size = path.stat().st_size - LENGTH
    with open(path, "rb") as file:
        file.seek(max(size, 0))
        return size > 0 and file.read() == seal_of(path, size)
