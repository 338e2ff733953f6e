"""cells.py: every point is in one cell, looks at it first, and is visited in all cells that it looks at."""
import numpy as np
import pytest
import torch

from conftest import bunches
from hybridrepair.selection.cells import cells_of, one_cell

POINTS = bunches([40, 30, 50], scattered=20)


@pytest.mark.parametrize("size", [1, 20, 60])
def test_every_point_is_in_one_cell_which_it_looks_at_first(size):
    cells = cells_of(POINTS, size, 0)
    assert cells.order.sort().values.equal(torch.arange(140)) and all(len(member) for member in cells.members)
    for point in range(140):
        assert cells.members[int(cells.seen[point, 0])][cells.place[point]] == point


def test_a_point_looks_at_the_cells_whose_means_are_nearest():
    cells = cells_of(POINTS, 10, 0, looks=3)
    mean = torch.stack([POINTS[member].double().mean(0) for member in cells.members])
    far = torch.cdist(POINTS.double(), mean)
    far[torch.arange(140), cells.seen[:, 0]] = -1  # its own is first, whatever the last step of k-means moved
    assert cells.seen.equal(far.argsort(1)[:, :3])


def test_fewer_cells_than_looks_are_all_looked_at():
    cells = cells_of(POINTS, 70, 0)
    assert cells.seen.sort(1).values.tolist() == [[0, 1]] * 140


@pytest.mark.parametrize("numbers, least", [(1, 1), (300, 1), (1, 7), (10 ** 6, 1)])
def test_visits_are_to_each_cell_that_a_point_looks_at(numbers, least):
    cells, rows = cells_of(POINTS, 20, 0), torch.arange(3, 120, 2)
    found = [(int(place), cell) for cell, some in cells.visits(rows, numbers, least) for place in some]
    assert sorted(found) == sorted((place, cell) for place, row in enumerate(rows) for cell in cells.seen[row].tolist())
    for cell, some in cells.visits(rows, numbers, least):
        assert 0 < len(some) <= max(least, numbers // len(cells.members[cell]))


def test_one_cell_is_visited_in_order():
    places = [some.tolist() for _, some in one_cell(POINTS).visits(torch.arange(10), 560, 2)]
    assert np.concatenate(places).tolist() == list(range(10)) and max(map(len, places)) == 4
