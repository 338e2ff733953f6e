"""processes.py: who leads and who follows, how work is cut and joined, and how processes end together."""
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from conftest import in_processes
from hybridrepair.base import interruption, processes
from hybridrepair.base.checkpoint import save
from hybridrepair.base.errors import UserError
from hybridrepair.base.processes import ALL, Share, add_up, begins_of, gathered, largest, led, share, told
from hybridrepair.base.states import Kept

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be forked")


@pytest.fixture
def among(monkeypatch):
    """Be one of several processes that are not there."""
    def be(rank: int, size: int) -> None:
        monkeypatch.setattr(processes, "_rank", rank)
        monkeypatch.setattr(processes, "_size", size)
    return be


def test_alone_a_process_is_the_first_and_does_everything():
    values = torch.tensor([1.0, 2.0])
    add_up(values)
    assert (processes.size(), processes.first(), processes.speaks(), processes.apart(7)) == (1, True, True, 7)
    assert led(lambda: 3) == told(3) == largest(3) == 3 and values.tolist() == [1, 2]
    assert [*begins_of(5, 2)] == [0, 2, 4] and gathered([values], 2, 1, values.device)[0] is values
    assert share(4) == Share(4, ALL, 1) and share(4).joined(values) is values


@pytest.mark.parametrize("n, batch, size", [(10, 2, 2), (10, 2, 3), (11, 3, 3), (64, 64, 2), (1, 5, 4), (0, 5, 2), (7, 1, 8)])
def test_batches_are_those_of_one_process_cut_between_them_in_a_row_about_as_many_for_each(among, n, batch, size):
    found = []
    for rank in range(size):
        among(rank, size)
        found.append([*begins_of(n, batch)])
    assert sum(found, []) == [*range(0, n, batch)]
    assert max(map(len, found)) - min(map(len, found)) <= 1 and (not n or found[0])


@pytest.mark.parametrize("n, size", [(64, 2), (65, 2), (64, 3), (3, 3)])
def test_each_row_has_one_process_and_about_as_many_of_all_kinds_each(among, n, size):
    found = []
    for rank in range(size):
        among(rank, size)
        made = share(n)
        assert made.n == n and made.weight == 1
        found.append([*range(n)][made.rows])
    assert sorted(sum(found, [])) == [*range(n)] and max(map(len, found)) - min(map(len, found)) <= 1


def test_rows_fewer_than_processes_are_computed_by_each_and_count_in_part(among):
    among(2, 3)
    assert share(2) == Share(2, ALL, 1 / 3)


def test_each_draws_for_its_own_rows_from_another_seed(among):
    seeds = []
    for rank in range(3):
        among(rank, 3)
        seeds.append(processes.apart(2 ** 64 - 1))
    assert seeds == [2 ** 64 - 1, 0, 1]


def converse(rank: int) -> None:
    """What three processes tell each other."""
    assert (processes.size(), processes.first()) == (3, rank == 0)
    assert told(rank + 5) == 5 and largest(rank * 2) == 4
    done = []
    assert led(lambda: (done.append(1), processes.size(), led(lambda: rank), [*begins_of(4, 1)]))[1:] == (1, 0, [0, 1, 2, 3])
    assert len(done) == (rank == 0)
    values = torch.tensor([1.0, rank])
    add_up(values)
    assert values.tolist() == [3, 3]
    with torch.inference_mode():
        for n in (7, 2, 0):  # with 2 images the last one has no batch
            found = []
            for begin in begins_of(n, 2):
                found = found or [torch.full((n, 2), -1.0), torch.full((n,), -1)]
                for each in found:
                    each[begin:begin + 2] = begin
            expected = torch.arange(n) // 2 * 2
            joined = gathered(found, n, 2, torch.device("cpu"))
            assert not n or joined[0].equal(expected[:, None].expand(-1, 2).float()) and joined[1].equal(expected)
    own = share(8)
    assert own.joined(torch.arange(8.0)[own.rows, None]).flatten().tolist() == [*range(8)]
    save(f"by_{rank}.pt", {})
    print(f"I am {rank}")
    if rank:
        print("\udcff")  # of a file name that is not UTF-8
    print(f"I am {rank}", file=sys.stderr)


def test_three_processes_lead_tell_cut_and_join_and_the_first_alone_prints_and_writes(tmp_path):
    ended = in_processes(3, tmp_path, converse)
    assert ended == [(0, "I am 0\n", "I am 0\n"), (0, "", ""), (0, "", "")]
    assert [path.name for path in tmp_path.glob("by_*")] == ["by_0.pt"]


def refused(rank: int) -> None:
    if rank == 1:
        raise UserError("it is bad; make it good")
    told(0), told(0)


def broken(rank: int) -> None:
    if rank == 1:
        raise ZeroDivisionError("a fault of ours")
    largest(0)


def killed(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    largest(0)


def refused_by_all(rank: int) -> None:
    raise UserError("it is bad; make it good")


@pytest.mark.parametrize("work, status", [(refused, 2), (refused_by_all, 2), (broken, 1), (killed, -signal.SIGKILL)])
def test_a_process_that_fails_ends_all_and_one_tells_why(tmp_path, work, status):
    ended = in_processes(3, tmp_path, work)
    assert ended[1].status == status and {each.status for each in (ended[0], ended[2])} == {2 if work is refused_by_all else 1}
    said = [each.err for each in ended if each.err]
    assert len(said) == 1
    if status == 2:
        assert said == ["error: it is bad; make it good\n"]
    elif status == 1:
        assert said == [ended[1].err] and "ZeroDivisionError: a fault of ours" in said[0]
    else:
        assert said[0].startswith("error: another process of this run has ended (") and said[0].count("\n") == 1


def steps(rank: int) -> None:
    """Ten steps, in the fourth of which the second process gets two signals."""
    kept = Kept(Path("state.pt"), {}, every=1000)
    for step in range(10):
        with interruption.deferred():
            if step == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            kept.save(lambda: {"step": step, "rank": rank}, due=True)  # noqa: B023
            (print if rank == 0 else open(f"steps_{rank}", "a").write)(f"{step} ")




def test_a_signal_to_any_ends_all_after_the_same_step_of_which_the_first_saves_the_state(tmp_path):
    ended = in_processes(3, tmp_path, steps)
    assert [each.status for each in ended] == [143] * 3
    assert ended[0].err == "interrupted; the same command goes on from state.pt\n" and ended[1].err == ended[2].err == ""
    assert ended[0].out.split() == [*"0123"] and [(tmp_path / f"steps_{rank}").read_text() for rank in (1, 2)] == ["0 1 2 3 "] * 2
    state = Kept(tmp_path / "state.pt", {}, every=0).state
    assert (state["step"], state["rank"]) == (3, 0)
