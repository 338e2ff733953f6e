"""Errors that a user can cause, and how an entry script reports them: one sentence, exit status 2."""
import sys


class UserError(Exception):
    """Bad input. The message is one sentence: the thing, what is wrong with it, what to do."""


def report(main, *args) -> None:
    """Run `main(*args)`; on a UserError print its sentence to stderr and exit with status 2."""
    try:
        main(*args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
