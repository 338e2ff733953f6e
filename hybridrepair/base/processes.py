"""The processes that torchrun starts for one run: which of them this is, what part of the work is its own, what they tell each other.

All take the same steps, on the same numbers. The first alone writes and prints, and tells the others what the disk holds. A process
that was started by itself does everything, at no cost.
"""
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:  # slow to import, and whoever is alone does without
    import torch
    from torch import Tensor

T = TypeVar("T")
ALL = slice(None)  # rows
VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # that torchrun sets
WAIT = timedelta(days=7)  # for the slowest: the first may cluster a pool for hours; that one has died is noticed at once

_rank, _size = 0, 1
_alone = False  # while the first leads
_store: Any = None  # where they leave word for each other


class Gone(Exception):
    """Another process of the run has ended, so that this one cannot go on."""


@contextmanager
def started() -> Iterator[None]:
    """Join the processes that torchrun has started beside this one, for the block, in which all but the first are silent."""
    global _rank, _size, _store
    if not os.environ.keys() >= VARIABLES or int(os.environ["WORLD_SIZE"]) < 2:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous
    with _attended():
        _store, _rank, _size = next(rendezvous("env://", timeout=WAIT))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=_store, rank=_rank, world_size=_size, timeout=WAIT)
    largest(0)  # all have joined before one may end, which others would wait for
    with open(os.devnull, "w", encoding="utf-8", errors="backslashreplace") as nowhere, contextlib.ExitStack() as silent:
        if _rank:
            silent.enter_context(contextlib.redirect_stdout(nowhere))
            silent.enter_context(contextlib.redirect_stderr(nowhere))
        yield
    with contextlib.suppress(Gone):
        largest(0)  # none ends before all have heard what it told
    dist.destroy_process_group()


def size() -> int:
    """How many processes share the work."""
    return 1 if _alone else _size


def several() -> bool:
    """Whether there are others, also while the first leads."""
    return _size > 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return _rank == 0


def apart(seed: int) -> int:
    """A 64-bit seed for what each process draws for its own rows: that of the first is `seed`."""
    return (seed + _rank) % 2 ** 64 if size() > 1 else seed


def speaks() -> bool:
    """Whether this process is to say why the run ends: the first that asks."""
    try:
        return _store is None or _store.add("said", 1) == 1
    except RuntimeError:  # the store has ended with the process that held it
        return first()


# --- what they tell each other

@contextmanager
def _attended() -> Iterator[None]:
    """Turn what torch raises where another process is not there (any more) into a Gone."""
    try:
        yield
    except RuntimeError as error:
        raise Gone(f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".: ")) from error


def told(value: T) -> T:
    """What the first process gives, on all; tensors in it are to be on the CPU."""
    if size() == 1:
        return value
    import torch.distributed as dist
    box = [value]
    with _attended():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def led(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, which does it as if it were alone; the others get a copy.

    What all compute together, and is kept, must be asked for before: the first would have it, and the others wait for each other.
    """
    global _alone
    if size() == 1:
        return work()
    result: Any = None
    if first():
        _alone = True
        try:
            result = work()
        finally:
            _alone = False
    return told(result)


def largest(number: int) -> int:
    """The largest of the numbers that all give."""
    if size() == 1:
        return number
    import torch
    import torch.distributed as dist
    given = torch.tensor(number)
    with _attended():
        dist.all_reduce(given, dist.ReduceOp.MAX)
    return int(given)


def add_up(values: "Tensor") -> None:
    """Make `values` the sum of those of all processes."""
    if size() > 1:
        import torch.distributed as dist
        with _attended():
            dist.all_reduce(values)


# --- forward passes: whole batches, in order

def _begins(rank: int, n: int, batch: int) -> range:
    """Where the batches of a process begin, of those of n images: about as many for each, in a row; the first has one at least."""
    begins = range(0, n, batch)
    return begins[-(-len(begins) * rank // size()):-(-len(begins) * (rank + 1) // size())]


def begins_of(n: int, batch: int) -> range:
    """Where this process's batches of n images begin. They are those of one process, so that results are equal to the bit."""
    return _begins(_rank, n, batch)


def gathered(found: Sequence["Tensor"], n: int, batch: int, device: "torch.device") -> list["Tensor"]:
    """Tensors [n, ...], in which each process has filled the rows of its batches, with those of all; without a batch it gives []."""
    if size() == 1:
        return [*found]
    import torch
    import torch.distributed as dist
    kinds = told([(each.shape, each.dtype) for each in found])
    found = [*found] or [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in kinds]
    for rank in range(size()):
        begins = _begins(rank, n, batch)
        for each in found if begins else []:
            with _attended():
                dist.broadcast(each[begins[0]:begins[-1] + batch], src=rank)
    return found


# --- steps of a training: the rows of a batch

class Share(NamedTuple):
    """The rows of a batch of n that this process computes, and their weight: less than 1 for rows that others compute too."""
    n: int
    rows: slice
    weight: float

    def of(self, rows: range) -> slice:
        """Those of the rows that this process computes."""
        own = rows[self.rows]
        return slice(own.start, own.stop, own.step)

    def joined(self, values: "Tensor") -> "Tensor":
        """All rows [n, ...] from the values of this process's and the others', without gradient."""
        if self.rows == ALL:
            return values
        joined = values.new_zeros(self.n, *values.shape[1:])
        joined[self.rows] = values
        add_up(joined)
        return joined


def share(n: int) -> Share:
    """This process's share of n rows. Where there are fewer rows than processes, each computes all of them."""
    if size() == 1 or n < size():
        return Share(n, ALL, 1 / size())
    return Share(n, slice(_rank, None, size()), 1)
