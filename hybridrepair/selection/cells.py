"""Cells: a division of points into neighbourhoods, and which of these each point looks at for its neighbours.

A point near the border of its cell has neighbours on the other side, so that it looks at the nearest few cells beside its own.
"""
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hybridrepair.selection.kmeans import centroids, kmeans, squared_norms

LOOKS = 4  # cells that a point looks at: benchmarks/README.md has what more and fewer of them find
ROWS = 4096  # points beside all centres at a time


class Cells(NamedTuple):
    """Cells of N points; each point looks at L of them, its own first."""
    members: list[Tensor]  # int64, of each cell, in order
    place: Tensor  # int64 [N]: of each point, among the members of its cell
    seen: Tensor  # int64 [N, L]: cells

    @property
    def order(self) -> Tensor:
        """All points int64 [N], those of a cell together."""
        return torch.cat(self.members)

    def visits(self, rows: Tensor, numbers: int, least: int) -> Iterator[tuple[int, Tensor]]:
        """Each cell with the places in int64 rows [B] of the points that look at it, some at a time.

        So many that they and the cell's members make some `numbers` pairs, and `least` at least.
        """
        seen = self.seen[rows].flatten()
        places = seen.argsort(stable=True) // self.seen.shape[1]
        for cell, of_cell in enumerate(places.split(seen.bincount(minlength=len(self.members)).tolist())):
            for some in of_cell.split(max(least, numbers // len(self.members[cell]))) if len(of_cell) else ():
                yield cell, some


def one_cell(points: Tensor) -> Cells:
    """The cell of all points [N, D]."""
    every = torch.arange(len(points), device=points.device)
    return Cells([every], every, torch.zeros_like(every)[:, None])


def cells_of(points: Tensor, size: int, seed: int, looks: int = LOOKS) -> Cells:
    """Cells of about `size` points [N, D], by k-means; each point looks at its own, and at those whose centres are nearest."""
    label = kmeans(points, -(-len(points) // size), seed).unique(return_inverse=True)[1]  # copies can leave numbers out
    members = list(label.argsort(stable=True).split(label.bincount().tolist()))
    place = torch.empty_like(label)
    for member in members:
        place[member] = torch.arange(len(member), device=label.device)
    centre = centroids(points, label, len(members))[0].to(points.dtype)
    half = squared_norms(centre, centre.dtype) / 2
    seen = torch.empty(len(points), min(looks, len(members)), dtype=torch.int64, device=points.device)
    for part, own, out in zip(points.split(ROWS), label.split(ROWS), seen.split(ROWS)):
        far = torch.addmm(half, part, centre.T, alpha=-1).scatter_(1, own[:, None], -torch.inf)
        out.copy_(far.topk(seen.shape[1], largest=False).indices)
    return Cells(members, place, seen)
