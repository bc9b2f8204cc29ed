"""Scripted servers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.client.script import Script


@pytest.fixture
def serve() -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def make(*acts: bytes | float | None) -> Script:
        scripts.append(Script(*acts))
        return scripts[-1]

    yield make
    for script in scripts:
        script.close()
