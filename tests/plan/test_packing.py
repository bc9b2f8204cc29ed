"""Models go together as memory and cell sizes allow, on the fewest GPUs; without the optimiser almost so."""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pytest

from symphony.plan.packing import Item, Shelf, gpus_of, pack, pack_greedily


def random_items(seed: int, count: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [Item(float(rng.uniform(0.05, 2.5)), float(rng.integers(1, 9))) for _ in range(count)]


def fewest_gpus(items: list[Item], shelf: Shelf) -> int:
    """Return the best of all ways to put the items into cells."""
    best = 1 << 30
    for choice in product(range(len(items)), repeat=len(items)):
        if any(cell > max((*choice[:place], -1)) + 1 for place, cell in enumerate(choice)):
            continue  # the same with other names
        cells = [[i for i, cell in enumerate(choice) if cell == name] for name in sorted(set(choice))]
        if all(shelf.fits([items[i] for i in cell]) for cell in cells):
            best = min(best, gpus_of(cells, items, shelf))
    return best


def assert_is_packing(cells: list[list[int]], items: list[Item], shelf: Shelf) -> None:
    assert sorted(index for cell in cells for index in cell) == list(range(len(items)))
    assert all(shelf.fits([items[index] for index in cell]) for cell in cells)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shelf", [Shelf(memory_mb=12.0), Shelf(gpus_max=3), Shelf(14.0, 4, 0.3)])
def test_program_finds_the_fewest_gpus(seed: int, shelf: Shelf) -> None:
    items = random_items(seed, 6)
    cells, method = pack(items, shelf, 10.0)
    assert method in ("optimal", "one cell")
    assert_is_packing(cells, items, shelf)
    assert gpus_of(cells, items, shelf) == fewest_gpus(items, shelf)


def test_all_in_one_cell_where_nothing_speaks_against_it() -> None:
    assert pack(random_items(1, 30), Shelf(), 1.0) == ([list(range(30))], "one cell")


@pytest.mark.parametrize("seed", range(5))
def test_greedy_packing_is_valid_and_at_most_a_quarter_above_the_program(seed: int) -> None:
    items, shelf = random_items(seed, 14), Shelf(16.0, 6)
    greedy = pack_greedily(items, shelf)
    assert_is_packing(greedy, items, shelf)
    best, _ = pack(items, shelf, 5.0)
    assert gpus_of(best, items, shelf) <= gpus_of(greedy, items, shelf) <= 1.25 * gpus_of(best, items, shelf) + 1


def test_packing_too_large_for_the_program_is_greedy_and_quick() -> None:
    items, shelf = random_items(7, 600), Shelf(30.0)
    cells, method = pack(items, shelf, 5.0)
    assert method == "greedy"
    assert_is_packing(cells, items, shelf)


def test_without_scipy_the_packing_is_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    items, shelf = random_items(3, 8), Shelf(12.0)
    cells, method = pack(items, shelf, 5.0)
    assert method == "greedy"
    assert cells == pack_greedily(items, shelf)
