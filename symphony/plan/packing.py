"""Put models together into cells: groups of GPUs that each hold all models of their cell.

A cell needs its models' work and some spare, in whole GPUs; its models must fit one GPU's memory together. The fewest
GPUs are found by a mixed-integer program (HiGHS, through scipy) that starts from a greedy packing's number of cells.
The greedy packing is the answer where the program is too large, out of time, or scipy is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

BINARY_COUNT_MAX = 4000
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Item:
    """A model, or a part of one: its work in GPUs, and what it takes of each GPU's memory."""

    work: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a cell may be: memory of one GPU (infinite: not known), most GPUs, and the spare work each cell keeps."""

    memory_mb: float = float("inf")
    gpus_max: int = 1 << 30
    spare: float = 0.5

    def gpus(self, items: Sequence[Item]) -> int:
        """Return how many GPUs a cell of these items needs."""
        return max(1, ceil(sum(item.work for item in items) + self.spare - ROUNDING))

    def fits(self, items: Sequence[Item]) -> bool:
        """Return whether one cell may hold these items."""
        memory_mb = sum(item.memory_mb for item in items)
        return memory_mb <= self.memory_mb + ROUNDING and self.gpus(items) <= self.gpus_max


Cells = list[list[int]]
"""Indices of the items of each cell."""


def gpus_of(cells: Cells, items: Sequence[Item], shelf: Shelf) -> int:
    """Return how many GPUs all cells need together."""
    return sum(shelf.gpus([items[index] for index in cell]) for cell in cells)


def pack(items: Sequence[Item], shelf: Shelf, time_limit_s: float) -> tuple[Cells, str]:
    """Return a packing and how it was found: "one cell", "optimal", "best in the time allowed" or "greedy".

    Every item must fit alone.
    """
    if shelf.fits(items):
        return [list(range(len(items)))], "one cell"
    greedy = pack_greedily(items, shelf)
    if len(items) * len(greedy) > BINARY_COUNT_MAX or time_limit_s <= 0.0:
        return greedy, "greedy"
    try:
        found, is_optimal = _pack_by_program(items, shelf, len(greedy), time_limit_s)
    except ImportError:
        return greedy, "greedy"
    if found is None or gpus_of(found, items, shelf) > gpus_of(greedy, items, shelf):
        return greedy, "greedy"
    return found, "optimal" if is_optimal else "best in the time allowed"


def pack_greedily(items: Sequence[Item], shelf: Shelf) -> Cells:
    """Return a packing: the largest first, each where it costs the fewest GPUs, and the least room is left.

    Cost: items times cells.
    """
    cells: Cells = []

    def size(index: int) -> float:
        return max(items[index].memory_mb / shelf.memory_mb, items[index].work / shelf.gpus_max)

    for index in sorted(range(len(items)), key=lambda index: (-size(index), index)):
        best, cost = -1, (shelf.gpus([items[index]]), 0.0)
        for number, cell in enumerate(cells):
            now = [items[one] for one in cell]
            then = [*now, items[index]]
            if shelf.fits(then):
                room = shelf.memory_mb - sum(item.memory_mb for item in then) if shelf.memory_mb < float("inf") else 0.0
                found = (shelf.gpus(then) - shelf.gpus(now), room)
                if best < 0 or found < cost:
                    best, cost = number, found
        if best < 0:
            cells.append([index])
        else:
            cells[best].append(index)
    return cells


def _pack_by_program(
    items: Sequence[Item], shelf: Shelf, cell_count: int, time_limit_s: float
) -> tuple[Cells | None, bool]:
    """Return the packing with the fewest GPUs into at most `cell_count` cells, and whether that is proven.

    Variables: x[i, c] item i is in cell c; y[c] the cell is used; n[c] its GPUs. Least sum of n, where
    sum x[i, c] = 1 for each i, and for each c sum memory_i x[i, c] <= memory y[c] and
    sum work_i x[i, c] + spare y[c] <= n[c] <= most y[c].
    Item i goes into one of the first i + 1 cells only: renaming cells gives no new packing.
    Raise ImportError without scipy.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    count = len(items)
    most = min(shelf.gpus_max, sum(shelf.gpus([item]) for item in items))
    x = np.arange(count * cell_count).reshape(count, cell_count)
    y = x.size + np.arange(cell_count)
    n = x.size + cell_count + np.arange(cell_count)
    rows: list[tuple[dict[int, float], float, float]] = [(dict.fromkeys(one.tolist(), 1.0), 1.0, 1.0) for one in x]
    for cell in range(cell_count):
        own = x[:, cell].tolist()
        if shelf.memory_mb < float("inf"):
            memory = {own[i]: items[i].memory_mb / shelf.memory_mb for i in range(count)}
            rows.append((memory | {int(y[cell]): -1.0}, -np.inf, ROUNDING))
        load = {own[i]: items[i].work for i in range(count)}
        rows.append((load | {int(y[cell]): shelf.spare, int(n[cell]): -1.0}, -np.inf, ROUNDING / 2))
        rows.append(({int(n[cell]): 1.0, int(y[cell]): -float(most)}, -np.inf, 0.0))
        rows += [({own[i]: 1.0, int(y[cell]): -1.0}, -np.inf, 0.0) for i in range(count)]
    at = [(row, column, value) for row, (terms, _, _) in enumerate(rows) for column, value in terms.items()]
    row_of, column_of, values = (np.array(part) for part in zip(*at, strict=True))
    size = x.size + 2 * cell_count
    matrix = coo_array((values, (row_of, column_of)), shape=(len(rows), size)).tocsr()
    upper = np.ones(size)
    upper[x[np.triu_indices(count, 1, cell_count)]] = 0.0
    upper[n] = most
    cost = np.zeros(size)
    cost[n] = 1.0
    cost[y] = 0.001  # of equal packings the one with fewer cells
    found = milp(
        cost,
        integrality=np.ones(size),
        bounds=Bounds(0.0, upper),
        constraints=LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows]),
        options={"time_limit": time_limit_s},
    )
    if found.x is None:
        return None, False
    chosen = found.x[x].argmax(axis=1)
    cells = [np.flatnonzero(chosen == cell).tolist() for cell in range(cell_count)]
    return [cell for cell in cells if cell], found.status == 0
