"""Progress of what takes more than a second."""
from tqdm import tqdm


def progress(steps, title: str):
    """A tqdm bar over a sized iterable, drawn only once it has run for a second, and only on a terminal."""
    return tqdm(steps, desc=title, delay=1, leave=False, disable=None)
