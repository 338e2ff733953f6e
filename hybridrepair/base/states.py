"""States of trainings, from which the same command goes on: the newest and the one before it, each proof against damage."""
import time
from collections.abc import Callable
from pathlib import Path

from hybridrepair.base import checkpoint, interruption, processes, seals
from hybridrepair.base.errors import UserError
from hybridrepair.base.files import atomic


def states_of(path: Path) -> tuple[Path, Path]:
    """Where the states of a training lie: the newest one, in `path`, and the one before it."""
    return path, path.with_name(f"{path.name}.before")


def read_state(path: Path) -> dict:
    """The content of a state. UserError if the file is not, to the last bit, what was written."""
    try:
        whole = seals.is_sealed(path)
    except OSError:  # of a damaged disk
        whole = False
    if not whole:
        raise UserError(f"{path} cannot be read: it is damaged, or a state of another version")
    return checkpoint.load(path)


def write_state(path: Path, content: dict, before: Path | None = None) -> None:
    """Write a state for `read_state`; what `path` was is kept as `before`, if that is given."""
    with atomic(path, before) as temporary:
        checkpoint.write(temporary, content)
        seals.seal(temporary)


def remove(path: Path) -> None:
    """Remove the states of a training: what they were for is finished."""
    for each in filter(Path.exists, states_of(path) if processes.first() else ()):
        each.unlink(missing_ok=True)


def forget(path: Path, settings: dict) -> None:
    """Remove the states with these settings, whose training is finished: it may have been killed before it could itself."""
    for each in filter(Path.exists, states_of(path) if processes.first() else ()):
        try:
            if read_state(each).get("settings") == settings:
                each.unlink(missing_ok=True)
        except (UserError, OSError):  # who goes on from it is told; a folder may be closed to those who read
            continue


class Kept:
    """The state of a training in `path`, from which the same command goes on: made with `settings`, and written now and then.

    The one before it is kept as well: where the newest is damaged, a line says so and `state` is that. None where there is none.
    UserError where they are of other settings, or all are damaged, unless `force`, with a line too, begins anew. Of several processes
    the first reads it, for all, and writes it.
    """

    def __init__(self, path: Path, settings: dict, every: float, force: bool = False):
        self.path, self.settings, self.every = path, settings, every
        interruption.goes_on_from(*states_of(path))
        self.sound = False  # whether the newest is one to go back to
        self.state = processes.led(lambda: self._found(force))
        self.written = time.perf_counter()

    def _found(self, force: bool) -> dict | None:
        """The state to go on from."""
        state, problem, remedy = None, "", "begin anew by --force"
        for each in filter(Path.exists, states_of(self.path)):
            try:
                content = read_state(each)
            except UserError as error:
                problem = problem or str(error)
                continue
            differ = checkpoint.difference(content.get("settings"), self.settings)
            if differ:
                problem, remedy = f"{each} exists and was made with {differ}", checkpoint.OTHER_SETTINGS
            else:
                state, self.sound = content, each == self.path
            break
        if problem and state is None and not force:
            raise UserError(f"{problem}; {remedy}")
        if problem:
            print(f"{problem}; {'going on from the state before it' if state else 'begun anew'}", flush=True)
        return state

    def save(self, state: Callable[[], dict], due: bool = False) -> None:
        """Write the state that the function gives, at once or, with `due`, only where `every` seconds have passed since the last.

        Or where a signal waits for it: all processes that share the work come here after the same step.
        """
        interruption.agree()
        if not processes.first() or due and not interruption.asked() and time.perf_counter() - self.written < self.every:
            return
        newest, before = states_of(self.path)
        write_state(newest, {"settings": self.settings, **state()}, before if self.sound else None)
        self.sound = True
        self.written = time.perf_counter()

    def remove(self) -> None:
        """Remove the states: what they were for is finished."""
        remove(self.path)
