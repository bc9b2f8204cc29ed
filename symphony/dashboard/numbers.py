"""Give models numbers that stay theirs for the life of the node, unlike the scheduler's, which are used again."""

from __future__ import annotations

NUMBER_COUNT_MAX = 8_192
"""Versions of models that are told apart; those that come later share number 0, "others"."""


class Numbers:
    """(name, version) to number: 1, 2, ... in the order of their coming."""

    def __init__(self, limit: int = NUMBER_COUNT_MAX) -> None:
        self._limit = limit
        self._numbers: dict[tuple[str, str], int] = {}
        self._models: list[tuple[str, str] | None] = [None]

    def __call__(self, model: tuple[str, str]) -> int:
        """Return the model's number, a new one if it is not known yet, 0 if there are too many."""
        found = self._numbers.get(model)
        if found is None:
            if len(self._numbers) >= self._limit:
                return 0
            found = self._numbers[model] = len(self._models)
            self._models.append(model)
        return found

    def model(self, number: int) -> tuple[str, str] | None:
        """Return the model with this number, None for the others."""
        return self._models[number]
