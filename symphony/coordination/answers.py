"""Take values out of a server's JSON: what is not as it must be is refused with the place, and never a stray error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from symphony.cluster.faults import CoordinatorRefused

Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """Read the answers of the server `where`. Each method raises CoordinatorRefused for anything else."""

    where: str

    def number(self, answer: Mapping[str, Any], *path: str) -> int:
        """Return the whole number at `path`; etcd writes int64 as text, and leaves out what is 0."""
        *parents, key = path
        value = self.table(answer, *parents).get(key, 0)
        if isinstance(value, int | str) and len(str(value)) < 20:
            try:
                return int(value)
            except ValueError:
                pass
        raise self.fault(f"{'.'.join(path)} is no whole number")

    def table(self, answer: Mapping[str, Any], *path: str) -> Table:
        """Return the object at `path`, an empty one if there is none."""
        value: Any = answer
        for key in path:
            value = value.get(key, {})
            if not isinstance(value, dict):
                raise self.fault(f"{'.'.join(path)} is no object")
        return dict(value)

    def tables(self, answer: Mapping[str, Any], key: str) -> list[Table]:
        """Return the list of objects at `key`, an empty one if there is none."""
        value = answer.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.fault(f"{key} is no list of objects")
        return value

    def fault(self, what: str) -> CoordinatorRefused:
        """Return the error that says what is wrong."""
        return CoordinatorRefused(
            f"{self.where} sent an answer that cannot be understood: {what}; is it what it should be?"
        )
