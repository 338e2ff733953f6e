"""locks.py: one process at a time, a lock ends with its process, and without locks all goes on."""
import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from conftest import LONGEST
from hybridrepair.base import locks
from hybridrepair.base.locks import locked

FORK = multiprocessing.get_context("fork")


def hold(path: Path, held) -> None:
    with locked(path):
        held.set()
        time.sleep(LONGEST)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of model.t7."""
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path / "model.t7", held), daemon=True)
    process.start()
    try:
        assert held.wait(LONGEST)
        yield process
    finally:
        process.kill()
        process.join()


def test_a_lock_is_held_by_one_at_a_time_and_ends_with_its_block(tmp_path):
    path = tmp_path / "new" / "model.t7"
    with locked(path) as held:
        with locked(path, wait=False) as second:
            assert held and not second
        with locked(path.with_name("other.t7"), wait=False) as other:
            assert other
    with locked(path, wait=False) as held:
        assert held
    assert not path.exists()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, holder):
    with locked(tmp_path / "model.t7", wait=False) as held:
        assert not held
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(tmp_path / "model.t7", wait=False) as held:
        assert held


def test_who_waits_says_so_and_goes_on_when_the_other_has_ended(tmp_path, holder, capsys, monkeypatch):
    genuine = locks.fcntl.flock

    def flock(file, how):
        if not how & locks.fcntl.LOCK_NB:  # it waits from now on
            holder.kill()
        genuine(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locked(tmp_path / "model.t7", making="the model") as held:
        assert held
    assert capsys.readouterr() == ("another process makes the model: waiting for it\n", "")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS, errno.EBADF])
def test_without_locks_all_goes_on_and_one_line_says_so(tmp_path, monkeypatch, capsys, code):
    def refuse(file, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    for wait in (True, False):
        with locked(tmp_path / "model.t7", wait=wait, making="the model") as held, locked(tmp_path / "other.t7") as other:
            assert held and other
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{tmp_path} has no file locks ({os.strerror(code)})" in err


@pytest.fixture(params=[errno.EACCES, errno.EROFS])
def closed(request, monkeypatch):
    """No file can be written or made."""
    genuine = os.open

    def refuse(path, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise OSError(request.param, os.strerror(request.param), str(path))
        return genuine(path, flags, mode)

    monkeypatch.setattr(locks.os, "open", refuse)


def test_a_lock_of_another_user_is_taken_too(tmp_path, closed):
    (tmp_path / ".model.t7.lock").touch()
    with locked(tmp_path / "model.t7") as held, locked(tmp_path / "model.t7", wait=False) as second:
        assert held and not second


def test_in_a_closed_folder_what_is_there_needs_no_lock_and_what_is_not_cannot_be_made(tmp_path, closed):
    (tmp_path / "model.t7").touch()
    with locked(tmp_path / "model.t7") as held, locked(tmp_path / "model.t7", wait=False) as second:
        assert held and second
    with pytest.raises(OSError, match="other.t7.lock"), locked(tmp_path / "other.t7"):
        pass
