"""files.py: a file is old or new, whatever ends its writing, and what dead processes have left is removed."""
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hybridrepair.base import checkpoint, errors, files
from hybridrepair.base.files import atomic, is_temporary, machine, temporary_of, write_json
from hybridrepair.base.rows import write_rows
from hybridrepair.base.states import Kept
from hybridrepair.images import arrays
from hybridrepair.report import plots

NOISE = np.random.default_rng(0).integers(0, 256, 2 ** 20, dtype=np.uint8)
WRITERS: dict[str, Callable[[Path], object]] = {  # each writes more than the 200,000 bytes that are allowed below
    "text": lambda path: write_json(path, {"a": "b" * 500_000}),
    "rows": lambda path: write_rows(path, ["a"], [{"a": "b" * 1000}] * 500),
    "array": lambda path: arrays.save(path, NOISE),
    "checkpoint": lambda path: checkpoint.save(path, {"a": torch.from_numpy(NOISE)}),
    "state": lambda path: state_in(path).save(lambda: {"a": torch.from_numpy(NOISE)}),
    "picture": lambda path: plots.save(path, noise()),
}


def state_in(path: Path) -> Kept:
    made = Kept(path.with_name("none"), {}, 0)
    made.path = path
    return made


def noise() -> Figure:
    figure = Figure(figsize=(6, 6))
    figure.figimage(NOISE[:360_000].reshape(600, 600))
    return figure


def in_child(call: Callable[[], object], wait: bool = True) -> tuple[int, int]:
    """The process and exit status of a call in a forked process, which ends as an entry does."""
    process = os.fork()
    if not process:
        try:
            sys.stderr = open("err.txt", "w")
            errors.run(call)
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            os._exit(99)
        os._exit(0)
    return process, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) if wait else 0


@pytest.fixture
def dead(tmp_path_factory, monkeypatch) -> int:
    """The number of a process that is dead."""
    monkeypatch.chdir(tmp_path_factory.mktemp("dead"))
    return in_child(lambda: None)[0]


def leftover(path: Path, process: int, where: str | None = None, age: float = 0) -> Path:
    """A temporary of `path` as a process has left it, on a machine, so many seconds ago."""
    made = path.with_name(f".{path.name}.{where or machine()}.{process}.0123abcd.tmp")
    made.write_text("half of the ne")
    os.utime(made, (time.time() - age,) * 2)
    return made


# what is written

def test_atomic_replaces_the_file_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("old", "new"):
        with atomic(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent and temporary.name.startswith(".")
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_in_the_block_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error):
        with atomic(path) as temporary:
            temporary.write_text("half of the ne")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]



def test_what_a_file_was_is_kept_where_that_is_asked(tmp_path):
    path, before = tmp_path / "file.txt", tmp_path / "file.before"
    for text in ("first", "second", "third"):
        with atomic(path, before) as temporary:
            temporary.write_text(text)
    assert (before.read_text(), path.read_text()) == ("second", "third") and len(list(tmp_path.iterdir())) == 2


def test_content_is_on_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name[:6]}"))
    monkeypatch.setattr(os, "replace", lambda *names, real=os.replace: (done.append("replace"), real(*names)))
    (tmp_path / "folder").mkdir()
    write_json(tmp_path / "folder" / "a.json", {})
    assert done == ["sync .a.jso", "replace", "sync folder"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_taken_as_it_is_and_a_broken_disk_is_not(tmp_path, monkeypatch, code):
    def fsync(number, real=os.fsync):
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(code, "it cannot")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    if code == errno.EINVAL:
        write_json(tmp_path / "a.json", {})
    else:
        with pytest.raises(OSError, match="it cannot"):
            write_json(tmp_path / "a.json", {})


def refused(path: Path, write: Callable[[Path], object], limit: Callable[[], object]) -> None:
    """Writing, in a process with a limit, ends in a sentence that names `path`, leaves the old file, and no other."""
    path.write_text("old")

    def call():
        limit()
        write(path)

    here = {each.name for each in path.parent.iterdir()}
    assert in_child(call)[1] == 2, Path("err.txt").read_text()
    told = Path("err.txt").read_text()
    assert told.startswith("error: ") and str(path) in told and told.count("\n") == 1 and ".tmp" not in told
    assert path.read_text() == "old" and {each.name for each in path.parent.iterdir()} == here


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_be_so_large_leaves_the_old_one_and_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    refused(tmp_path / "here" / "file.png", WRITERS[name], lambda: (
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_files_and_a_sentence(tmp_path, monkeypatch, small_disk):
    monkeypatch.chdir(tmp_path)
    (small_disk / "other").write_bytes(bytes(400_000))
    for name in WRITERS:
        refused(small_disk / f"{name}.png", WRITERS[name], lambda: None)


# what is left

def test_what_a_dead_process_left_is_removed_by_the_next_that_writes_there(tmp_path, dead):
    killed = leftover(tmp_path / "a.json", dead)
    folder = tmp_path / f".questions.{machine()}.{dead}.0123abcd.tmp"
    (folder / "images").mkdir(parents=True)
    write_json(tmp_path / "b.json", {})
    assert not killed.exists() and not folder.exists() and [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_what_a_living_process_writes_stays(tmp_path):
    with atomic(tmp_path / "a.json") as ours:
        ours.write_text("half")
        os.utime(ours, (0, 0))
        theirs = leftover(tmp_path / "a.json", 1, age=10 * files.LONG)  # the first process never dies
        write_json(tmp_path / "b.json", {})
        assert ours.exists() and theirs.exists()
    assert (tmp_path / "a.json").read_text() == "half"


def test_of_another_machine_what_nobody_touched_for_a_day_is_left_and_a_process_of_the_same_number_says_nothing(tmp_path, dead):
    new, old = (leftover(tmp_path / name, dead, "01234567", age) for name, age in (("a", 60), ("b", files.LONG + 60)))
    alive = leftover(tmp_path / "c", os.getpid(), "01234567", files.LONG + 60)
    write_json(tmp_path / "b.json", {})
    assert new.exists() and not old.exists() and not alive.exists()


def test_machines_and_writes_have_names_of_their_own_however_the_process_is_numbered(tmp_path, monkeypatch):
    here = {temporary_of(tmp_path / "a.json").name for _ in range(100)}
    machine.cache_clear()
    monkeypatch.setattr(files.platform, "node", lambda: "another")
    there = temporary_of(tmp_path / "a.json").name
    machine.cache_clear()
    assert len(here) == 100 and len({name.split(".")[-4] for name in (*here, there)}) == 2
    assert all(map(is_temporary, (*here, there)))


@pytest.mark.parametrize("name", [".a.json.tmp", "a.json", ".a.json.12.tmp", ".a.json.lock", "a.0123abcd.12.0123abcd.tmp"])
def test_files_of_others_are_not_taken_for_ours(tmp_path, name):
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    write_json(tmp_path / "b.json", {})
    assert not is_temporary(name) and (tmp_path / name).exists()


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path):
    write_json(tmp_path / ("ä" * 120 + ".json"), {})
    assert is_temporary(temporary_of(tmp_path / "a\nb").name)


def test_a_folder_that_cannot_be_listed_can_be_written_into(tmp_path, monkeypatch):
    def closed(folder):
        raise PermissionError(errno.EACCES, "closed", str(folder))

    monkeypatch.setattr(os, "listdir", closed)
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").read_text() == "{}\n"
