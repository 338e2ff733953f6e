"""Progress of what takes more than a second: a bar on a terminal, elsewhere a line now and then."""
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

SECONDS, SHARE = 60, 0.1  # between lines, at least: of time, and of the steps


def progress(steps, title: str, skipped: int = 0):
    """The steps of a sized iterable, with a tqdm bar on stderr after a second; where that is no terminal, with lines.

    The first `skipped` steps were done before an interruption.
    """
    return tqdm(steps, desc=title, delay=1, leave=False) if sys.stderr.isatty() else lines(steps, title, skipped)


def lines(steps, title: str, skipped: int) -> Iterator:
    """The steps of a sized iterable; where they take minutes, a line tells now and then how far they are, and since when."""
    start = written = time.perf_counter()
    told = skipped / max(len(steps), 1)
    for done, step in enumerate(steps, 1):
        yield step
        now, share = time.perf_counter(), done / len(steps)
        if now - written >= SECONDS and told + SHARE <= share < 1:
            print(f"{title}: {100 * share:.0f} % after {clock(now - start)}", flush=True)
            written, told = now, share


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return "{}:{:02}".format(*divmod(int(seconds), 60))
