"""A node in a process of its own: answers calls with what they bring, and says on stdout when links come and go.

python -m tests.net.process_node NAME PORT KEY_FILE MEMBERS_JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from symphony.net import read_key
from tests.net.nodes import QUICK, Node


async def main(name: str, port: str, key_file: str, members: str) -> None:
    """Serve until stdin ends."""
    # More patient than the test's own node, whose process has pytest's work to do as well.
    node = Node(name, key=read_key(Path(key_file)), settings=replace(QUICK, peer_timeout_s=5.0))
    address = await node.links.start(port=int(port))
    node.links.set_members({peer: tuple(at) for peer, at in json.loads(members).items()})
    print(json.dumps(address), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await node.links.close()
    print(json.dumps({"calls": len(node.calls), "ups": node.ups, "downs": node.downs}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
