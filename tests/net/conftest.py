"""Event loops as in a node (uvloop), nodes that remember what came, and nothing left behind after each test."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
import uvloop

from tests.net.nodes import Cluster


def pytest_configure(config: pytest.Config) -> None:
    """Choose the loop by its policy, which every version of pytest-asyncio below 2 can; later ones warn of it."""
    config.addinivalue_line("filterwarnings", "ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """Run tests on the loop that nodes run on."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Return a cluster without nodes; afterwards no task, call, assembly or socket of it may be left."""
    before = asyncio.all_tasks()
    faults: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    made = Cluster()
    yield made
    await made.close()
    await asyncio.sleep(0.05)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"
    for node in made.nodes.values():
        assert not node.links.up
        assert node.links.stranger_count == 0
        assert node.ups == node.downs
        for link in node.all_links:
            assert link.call_count == link.answering_count == 0
            assert link.connection.send_count == link.connection.control_bytes == 0
    gc.collect()
    assert not faults, faults
