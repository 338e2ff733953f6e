"""batchnorm.py: shares of a batch are normalised, and learned from, as the whole of it is by torch's own layer."""
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridrepair.base import processes
from hybridrepair.training.batchnorm import OverProcesses, Synchronised


@pytest.fixture
def side_by_side(monkeypatch) -> Callable[[list[Callable[[], object]]], list]:
    """Runs functions in threads that stand for processes: what one adds up is the sum over all."""
    def run(works: list[Callable[[], object]]) -> list:
        meet, given, results = threading.Barrier(len(works)), dict[int, Tensor](), [None] * len(works)

        def add_up(values: Tensor) -> None:
            given[threading.get_ident()] = values.clone()
            meet.wait(60)
            values.copy_(sum(given.values()))
            meet.wait(60)

        def start(place: int) -> None:
            results[place] = works[place]()

        monkeypatch.setattr(processes, "add_up", add_up)
        threads = [threading.Thread(target=start, args=(place,)) for place in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert None not in results
        return results
    return run


def test_by_hand_two_shares_of_one_channel(side_by_side):
    """Rows 1, 3, 8 of one process and 0 of the other: mean 3, variance 9.5, unbiased 38 / 3."""
    def of(rows: list[float]):
        def work() -> tuple[Tensor, Tensor, Tensor]:
            mean, var = torch.zeros(1), torch.ones(1)
            return OverProcesses.apply(torch.tensor(rows)[:, None], mean, var, None, None, 0.5, 0.0), mean, var
        return work
    for (out, mean, var), rows in zip(side_by_side([of([1.0, 3.0, 8.0]), of([0.0])]), ([1, 3, 8], [0])):
        torch.testing.assert_close(out, torch.tensor(rows)[:, None].sub(3) / 9.5 ** 0.5)
        assert (mean.item(), var.item()) == pytest.approx((1.5, 0.5 + 19 / 3))


@pytest.mark.parametrize("shape", [(9, 5), (9, 5, 4), (9, 5, 4, 3)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shares", [2, 3])
def test_shares_are_normalised_and_learned_from_as_the_whole_is(side_by_side, shape, affine, shares):
    x, grad = torch.randn(shape).double() * 2 + 1, torch.randn(shape).double()
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](5, affine=affine, momentum=0.3).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    start = {name: value.clone() for name, value in layer.state_dict().items()}

    def work(rows: slice, synchronised: bool):
        def on() -> tuple[Tensor, ...]:
            mine = type(layer)(5, affine=affine, momentum=0.3).double()
            mine.load_state_dict(start)
            inputs = x[rows].clone().requires_grad_()
            if synchronised:
                with Synchronised():
                    out = mine(inputs)
            else:
                out = mine(inputs)
            out.backward(grad[rows])
            return out.detach(), inputs.grad, mine.running_mean, mine.running_var, *(each.grad for each in mine.parameters())
        return on

    whole = work(slice(None), False)()
    parts = side_by_side([work(slice(rank, None, shares), True) for rank in range(shares)])
    for rank, part in enumerate(parts):
        for found, expected in zip(part[:2], whole[:2]):
            torch.testing.assert_close(found, expected[rank::shares])
        for found, expected in zip(part[2:4], whole[2:4]):
            torch.testing.assert_close(found, expected)
    for place in range(4, len(whole)):
        torch.testing.assert_close(sum(part[place] for part in parts), whole[place])


def test_in_eval_mode_and_beside_a_channel_far_from_0_nothing_is_lost(side_by_side):
    x = torch.randn(64, 2, 3, 3) + torch.tensor([0.0, 1000.0])[:, None, None]
    running = torch.zeros(2), torch.ones(2)
    with Synchronised():
        torch.testing.assert_close(F.batch_norm(x, *running), F.batch_norm(x, *running, training=False), rtol=0, atol=0)
    expected = F.batch_norm(x.double(), None, None, training=True).float()
    for rank, out in enumerate(side_by_side([lambda rank=rank: OverProcesses.apply(x[rank::2], None, None, None, None, 0.1, 1e-5)
                                             for rank in range(2)])):
        torch.testing.assert_close(out, expected[rank::2], rtol=0, atol=2e-3)
