"""A process that campaigns, and acts whenever it leads: one line for each act, with the instant and the term.

python -m tests.coordination.holder URL NODE_ID FILE
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from symphony.cluster import NodeRecord
from symphony.coordination import open_coordinator

ACT_S = 0.01


async def main(url: str, node_id: str, file: str) -> None:
    """Campaign for ever."""
    node = await open_coordinator(url)
    with Path(file).open("a", buffering=1) as acts:  # noqa: ASYNC230 - a line now and then
        while True:
            leadership = await node.campaign(NodeRecord(node_id, "127.0.0.1:1"))
            while True:
                now_ns = time.monotonic_ns()
                if not leadership.is_held():
                    break
                acts.write(f"{now_ns} {leadership.term}\n")
                await asyncio.sleep(ACT_S)
            acts.write(f"{time.monotonic_ns()} -{leadership.term}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
