"""Errors that a user can cause, and how an entry script ends on them: one sentence, exit status 2."""
import io
import os
import re
import signal
import sys
from typing import NoReturn

from hybridrepair.base import interruption, processes
from hybridrepair.base.text import line_of


class UserError(Exception):
    """Bad input. The message is one sentence: the thing, what is wrong with it, what to do. It is one line, whatever a name holds."""

    def __init__(self, message: str):
        super().__init__(line_of(message))


def reason_of(error: BaseException) -> str:
    """The type and first line of an error, to stand inside a sentence."""
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".: ")


def run(main, *args) -> None:
    """Run `main(*args)`; on a UserError, or a file that cannot be used, print one sentence to stderr and exit with status 2.

    A signal that interrupts it ends in a line that says how to go on, and status 130 (SIGINT) or 143 (SIGTERM). What the terminal's
    encoding lacks, of a file's or a class's name, is printed as an escape. Of several processes one tells why all end.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with interruption.handled():
        try:
            with processes.started():
                main(*args)
        except UserError as error:
            end(f"error: {error}", 2)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and is_unread():
                sys.exit(128 + signal.SIGPIPE)
            end(f"error: {error.filename or 'a file'} cannot be used ({error.strerror or error}); check the path, the permissions "
                "and the room on the disk", 2)
        except KeyboardInterrupt as stop:
            line, status = interruption.end_of(stop)
            end(line, status, tells=processes.first())  # which knows whether the state is saved
        except processes.Gone as error:
            end(f"error: another process of this run has ended ({error}); see what it says, or give the same command again", 1)
        except Exception as error:
            if is_of_memory(error):
                end(f"error: the memory does not suffice ({reason_of(error)}); a smaller --batch_size or --micro_batch takes less, for "
                    "regions --cell_size", 2)
            if processes.speaks():
                raise
            sys.exit(1)


def is_unread() -> bool:
    """Whether whoever read the output has ended, as head does: there is nobody to tell, and Python writes nothing more at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def is_of_memory(error: Exception) -> bool:
    """Whether there was no memory for something: numpy has a type for it, torch has one of a GPU's alone."""
    of_torch = isinstance(error, RuntimeError) and re.search("out of memory|not enough memory|can.t allocate", str(error))
    return bool(of_torch) or isinstance(error, MemoryError)


def end(line: str, status: int, tells: bool = True) -> NoReturn:
    """Exit with a status and a line on stderr, if none of several processes has told one before."""
    if tells and processes.speaks():
        print(line, file=sys.stderr)
    sys.exit(status)
