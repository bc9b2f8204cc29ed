"""Put faults between a node and its store: cut connections, lost and late answers, a node that is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from symphony.cluster.faults import StoreUnavailable
from symphony.cluster.store import Area, Batch, Entry, Listing, Store

Result = TypeVar("Result")


class FaultyStore:
    """A store behind a connection that the test controls. `calls` counts the attempts of each kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.where = f"faulty {store.where}"
        self.calls: dict[str, int] = {}
        self.answers_to_lose = 0
        self._is_cut = False
        self._broken = asyncio.Event()
        self._thawed = asyncio.Event()
        self._thawed.set()

    def cut(self) -> None:
        """Let no call through, and break the watches."""
        self._is_cut = True
        self._broken.set()
        self._broken = asyncio.Event()

    def mend(self) -> None:
        """Undo `cut`."""
        self._is_cut = False

    def freeze(self) -> None:
        """Let calls reach the store, and hold back their answers."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._thawed.set()

    async def acquire(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int) -> int | None:
        return await self._through("acquire", self._store.acquire(area, name, value, token, ttl_ns))

    async def renew(self, area: Area, name: str, token: int, ttl_ns: int) -> bool:
        return await self._through("renew", self._store.renew(area, name, token, ttl_ns))

    async def release(self, area: Area, name: str, token: int) -> None:
        await self._through("release", self._store.release(area, name, token))

    async def read(self, area: Area, name: str) -> Entry | None:
        return await self._through("read", self._store.read(area, name))

    async def write(self, area: Area, name: str, value: bytes, expected: str) -> str | None:
        return await self._through("write", self._store.write(area, name, value, expected))

    async def erase(self, area: Area, name: str, expected: str) -> bool:
        return await self._through("erase", self._store.erase(area, name, expected))

    async def entries(self, area: Area) -> Listing:
        return await self._through("entries", self._store.entries(area))

    async def watch(self, area: Area, cursor: str) -> AsyncGenerator[Batch, None]:
        self.calls["watch"] = self.calls.get("watch", 0) + 1
        if self._is_cut:
            raise StoreUnavailable("the connection is cut")
        broken = asyncio.ensure_future(self._broken.wait())
        try:
            async with aclosing(self._store.watch(area, cursor)) as batches:
                while True:
                    waiting: asyncio.Future[Any] = asyncio.ensure_future(anext(batches, None))
                    try:
                        await asyncio.wait((waiting, broken), return_when=asyncio.FIRST_COMPLETED)
                        if broken.done():
                            raise StoreUnavailable("the connection was cut")
                        batch = waiting.result()
                    finally:
                        waiting.cancel()
                        await asyncio.wait((waiting,))
                    await self._thawed.wait()
                    if batch is None:
                        return
                    yield batch
        finally:
            broken.cancel()

    async def close(self) -> None:
        await self._store.close()

    async def _through(self, kind: str, call: Awaitable[Result]) -> Result:
        self.calls[kind] = self.calls.get(kind, 0) + 1
        if self._is_cut:
            call.close()  # type: ignore[attr-defined]
            raise StoreUnavailable("the connection is cut")
        result = await call
        await self._thawed.wait()
        if self._is_cut or self.answers_to_lose > 0:
            self.answers_to_lose -= 1
            raise StoreUnavailable("the answer was lost")
        return result
