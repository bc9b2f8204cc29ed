"""Divide a workload into cells, and find by simulation how many GPUs each of them needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

from symphony.config.workload import SimulatedModel, Workload
from symphony.plan.budget import Budget
from symphony.plan.count import Count, find_count
from symphony.plan.demand import SPARE_GPUS, work
from symphony.plan.packing import Item, Shelf, pack
from symphony.plan.trials import Trials, with_pool
from symphony.sim.replay import LoadSource

SPARE_STEP = 0.5
TRY_COUNT_MAX = 3
PACKING_BUDGET_SHARE = 0.3
PACKING_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Part:
    """So many copies of a model in a cell, each with this share of a copy's requests."""

    model: str
    copies: int
    share: float


@dataclass(frozen=True, slots=True)
class Cell:
    """GPUs of one kind that all hold these models.

    `count` says what the simulation made of it; where it found no number in the budget, `gpus` are the packing's.
    """

    parts: tuple[Part, ...]
    gpus: int
    memory_mb: float
    count: Count


@dataclass(frozen=True, slots=True)
class Division:
    """A workload in cells, and how the packing was found (see `symphony.plan.packing.pack`)."""

    cells: tuple[Cell, ...]
    method: str

    @property
    def gpus(self) -> int:
        """Return how many GPUs all cells have together."""
        return sum(cell.gpus for cell in self.cells)


def needs_division(workload: Workload, kind: str, gpus: int, cell_gpus_max: int) -> bool:
    """Return whether one cell of so many GPUs is too large, or its models do not fit one GPU's memory together."""
    return 0 < cell_gpus_max < gpus or not fits_together(workload, kind)


def fits_together(workload: Workload, kind: str) -> bool:
    """Return whether all models that can run on this kind fit the memory of one GPU."""
    taken_mb = sum(spec.memory_mb * spec.copies for spec in workload.models if kind in spec.latency_ns)
    return taken_mb <= memory_of(workload, kind)


def memory_of(workload: Workload, kind: str) -> float:
    """Return the memory of one GPU of this kind in MB; infinite where it is not known."""
    return next((group.memory_mb for group in workload.gpus if group.kind == kind), 0.0) or float("inf")


def divide(
    workload: Workload, source: LoadSource, kind: str, cell_gpus_max: int, seed: int, budget: Budget
) -> Division:
    """Return the workload in cells of at most `cell_gpus_max` GPUs (0: no limit) of this kind, each settled alone.

    Where the simulation finds that a cell needs more GPUs than it may have, all is packed again with more to spare.
    """
    most = cell_gpus_max or 1 << 30
    spare = SPARE_GPUS
    for attempt in range(TRY_COUNT_MAX):
        shelf = Shelf(memory_of(workload, kind), most, min(spare, most - 0.1))
        items, names = _items(workload, kind, shelf)
        limit_s = min(PACKING_S_MAX, budget.left_s * PACKING_BUDGET_SHARE)
        packed, method = pack(items, shelf, limit_s)
        cells = []
        for number, cell in enumerate(packed):
            piece, parts = _piece(workload, kind, [names[index] for index in cell])
            trials = Trials(piece, source, seed, budget.part(1.0 / (len(packed) - number)))
            guessed = shelf.gpus([items[index] for index in cell])
            count = find_count(trials, kind, guessed)
            taken_mb = sum(spec.memory_mb * spec.copies for spec in piece.models)
            cells.append(Cell(parts, count.gpus or guessed, taken_mb, count))
        if attempt == TRY_COUNT_MAX - 1 or all(cell.gpus <= most for cell in cells) or budget.left_s <= 0.0:
            break
        spare += SPARE_STEP
    return Division(tuple(sorted(cells, key=lambda cell: -cell.gpus)), method)


def _items(workload: Workload, kind: str, shelf: Shelf) -> tuple[list[Item], list[tuple[int, int]]]:
    """Return what is to be packed, and for each (index of its model, into how many parts each copy is cut).

    A copy whose work is more than the largest cell carries is cut into equal parts.
    """
    items: list[Item] = []
    names: list[tuple[int, int]] = []
    for index, spec in enumerate(workload.models):
        own = work(workload, spec, kind) / spec.copies
        cuts = 1
        while not shelf.fits([Item(own, 0.0)]):
            cuts += 1
            part = replace(spec, copies=1, rate=spec.rate / spec.copies / cuts)
            own = work(workload, part, kind)
            if cuts > ceil(spec.rate) + 1:
                break  # one request a second in each part: the cell's limit is what does not fit
        items += [Item(own, spec.memory_mb)] * (spec.copies * cuts)
        names += [(index, cuts)] * (spec.copies * cuts)
    return items, names


def _piece(workload: Workload, kind: str, names: list[tuple[int, int]]) -> tuple[Workload, tuple[Part, ...]]:
    """Return the part of the workload that a cell with these items gets, and what it is in words.

    Parts of one copy that meet in a cell are its requests together: the model is held once.
    """
    models: list[SimulatedModel] = []
    parts: list[Part] = []
    for (index, cuts), many in sorted(Counter(names).items()):
        spec = workload.models[index]
        copies = -(-many // cuts)
        rate = spec.rate / spec.copies * many / cuts
        models.append(replace(spec, copies=copies, rate=rate))
        parts.append(Part(spec.name, copies, many / cuts / copies))
    return with_pool(replace(workload, models=tuple(models), faults=()), ((kind, 1),)), tuple(parts)
