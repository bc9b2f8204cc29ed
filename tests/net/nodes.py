"""Nodes for tests: links of a name, a receiver that remembers, and answers chosen by the call's metadata."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from symphony.errors import Reason, SymphonyError
from symphony.links.clocks import ClockJumped
from symphony.links.frames import Kind
from symphony.links.handshake import ClusterKey
from symphony.links.messages import Message
from symphony.links.records import Records
from symphony.net import Answer, Link, Links, LinkSettings, TlsContexts
from symphony.net.links import Address

KEY = ClusterKey(b"the key of the tests, 32 bytes or more")
QUICK = LinkSettings(
    ping_s=0.05,
    peer_timeout_s=1.0,
    connect_timeout_s=1.0,
    handshake_timeout_s=0.5,
    backoff_min_s=0.01,
    backoff_max_s=0.1,
    close_timeout_s=0.3,
)


class Node:
    """One node. Calls are answered by what their metadata ask for (`do`)."""

    def __init__(
        self,
        name: str,
        key: ClusterKey = KEY,
        settings: LinkSettings = QUICK,
        tls: TlsContexts | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.links = Links(name, key, self, settings=settings, tls=tls, clock_ns=clock_ns)
        self.address: Address = ("", 0)
        self.all_links: list[Link] = []
        self.ups = self.downs = 0
        self.reasons: list[str] = []
        self.jumps: list[ClockJumped] = []
        self.records: list[tuple[Kind, Records, int]] = []
        self.messages: list[tuple[Message, int]] = []
        self.calls: list[Message] = []
        self.cancelled_count = 0

    def link_up(self, link: Link) -> None:
        self.all_links.append(link)
        self.ups += 1

    def link_down(self, link: Link, reason: str) -> None:
        assert link.call_count == 0
        self.downs += 1
        self.reasons.append(reason)

    def clock_jumped(self, link: Link, jump: ClockJumped) -> None:
        self.jumps.append(jump)

    def records_received(self, link: Link, kind: Kind, records: Records) -> None:
        self.records.append((kind, records, time.monotonic_ns()))

    def message_received(self, link: Link, message: Message) -> None:
        self.messages.append((message, time.monotonic_ns()))
        if message.metadata.get("do") == "raise":
            raise RuntimeError("a receiver with a bug")

    async def call_received(self, link: Link, message: Message) -> Answer:
        self.calls.append(message)
        wanted = message.metadata.get("do")
        try:
            if wanted == "wait":
                await asyncio.sleep(message.metadata.get("s", 60))
            elif wanted == "raise":
                raise RuntimeError("a secret of this node")
            elif wanted == "refuse":
                raise SymphonyError(Reason.WOULD_MISS, "no time left", model="m")
            elif wanted == "deadline":
                return Answer({"deadline": link.deadline_here(message)})
            elif wanted == "give":
                return Answer({"n": message.metadata["n"]}, [bytes(message.metadata["bytes"])])
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        return Answer(message.metadata, message.segments)


class Cluster:
    """Nodes of one test. `through` are addresses by which some are reached instead of their own, such as a proxy's."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.through: dict[str, Address] = {}
        self.closers: list[Callable] = []

    async def add(self, *names: str, **options) -> list[Node]:
        """Start nodes, not yet linked."""
        for name in names:
            node = self.nodes[name] = Node(name, **options)
            node.address = await node.links.start()
        return [self.nodes[name] for name in names]

    def introduce(self) -> None:
        """Tell every node of all."""
        members = {name: self.through.get(name, node.address) for name, node in self.nodes.items()}
        for node in self.nodes.values():
            node.links.set_members(members)

    async def link(self, *names: str, **options) -> list[Node]:
        """Start nodes and wait until all are linked."""
        nodes = await self.add(*names, **options)
        self.introduce()
        await self.wait_linked()
        return nodes

    async def wait_linked(self, timeout_s: float = 5.0) -> None:
        """Wait until every node has a link to every other."""
        async with asyncio.timeout(timeout_s):
            for name, node in self.nodes.items():
                await node.links.wait_up(*(self.nodes.keys() - {name}))

    async def close(self) -> None:
        """Close all nodes, and whatever else the test has opened."""
        await asyncio.gather(*(node.links.close() for node in self.nodes.values()))
        for closer in self.closers:
            await closer()


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until `condition` holds; fail after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
