"""Interruptions: SIGINT and SIGTERM end an entry at once, or, in a training, after the step that runs, whose state is then saved.

Processes that share the work stop after the same step.
"""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridrepair.base import processes
from hybridrepair.base.text import line_of

SIGNALS = signal.SIGINT, signal.SIGTERM

_asked: int | None = None  # the first signal
_heard = 0  # that this process has got, of several; all `agree` on it
_deferred = False
_states: list[Path] = []  # where something to go on from may lie, that of the last stage first


class Interruption(KeyboardInterrupt):
    """The end that a signal asks for."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def _take(number: int, frame: object) -> None:
    """Note the first signal where it is deferred; else end, and leave a further one to the system, which always ends the process.

    One of several processes ignores further ones, which torchrun may send too: it kills what has not ended after 30 seconds.
    """
    global _asked, _heard
    if processes.several():
        again, _heard = bool(_heard), _heard or number
        if again or _deferred or _asked is not None:
            return
    first, _asked = _asked is None, number
    if first and _deferred:
        return
    if not first:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
    raise Interruption(number)


@contextmanager
def handled() -> Iterator[None]:
    """Let the signals raise an Interruption within the block. What the process ignores, as under nohup, it goes on to ignore."""
    global _asked, _heard
    _asked, _heard, before = None, 0, {}
    _states.clear()
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, _take) for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked, _heard = None, 0


@contextmanager
def deferred() -> Iterator[None]:
    """Let the first signal wait until the block ends, or one within it; a second one ends it at once."""
    global _deferred
    outer, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = outer
    if not outer:
        agree()
    if _asked is not None:
        raise Interruption(_asked)


def agree() -> None:
    """Let a signal that any of several processes has got end all of them here, at the same step; unless this one has begun to end."""
    global _asked
    if _asked is None and processes.size() > 1:
        _asked = processes.largest(_heard) or None


def asked() -> bool:
    """Whether a signal waits for the step to end: then the state is to be saved, even if it is not due."""
    return _asked is not None


def goes_on_from(*paths: Path) -> None:
    """Tell where the state of what begins now lies, once there is one: the first of the paths that is there."""
    _states[:0] = paths


def end_of(stop: KeyboardInterrupt) -> tuple[str, int]:
    """How the same command goes on, in one line, and the exit status; what comes now is ignored, since the end is near."""
    number = getattr(stop, "number", signal.SIGINT)
    if threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
    state = next((path for path in _states if path.exists()), None)
    told = f"the same command goes on from {state}" if state else "there was nothing to be saved, give the same command again"
    return line_of(f"interrupted; {told}"), 128 + number
