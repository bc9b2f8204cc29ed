"""Stand between two nodes and do to their bytes what networks do: delay, throttle, stall, alter, repeat, swap, cut.

Faults are set while it runs. Bytes pass through a queue bounded in size, so a stalled side is felt by the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from symphony.net.links import Address

READ_BYTES = 32 * 1024
Alter = Callable[[int, bytes], bytes | None]
"""(offset in the direction's stream, bytes) -> what goes on instead; None cuts the connection."""


class Proxy:
    """Listen, and pass connections on to `target`. `to_target` and `to_source` are applied to the two directions."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.address: Address = ("", 0)
        self.delay_s = 0.0
        self.rate_bytes_s = 0.0
        self.to_target: Alter | None = None
        self.to_source: Alter | None = None
        self.is_refusing = False
        self.accepted_count = 0
        self.passed_bytes = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> Proxy:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_BYTES)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    def stall(self) -> None:
        """Read nothing more, either way, until `resume`."""
        self._flows.clear()

    def resume(self) -> None:
        """Let bytes pass again."""
        self._flows.set()

    def cut(self) -> None:
        """Cut every connection at once; new ones are accepted."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted_count += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        self._writers.add(writer)
        other_writer = None
        try:
            if self.is_refusing:
                return
            other_reader, other_writer = await asyncio.open_connection(*self.target, limit=READ_BYTES)
            self._writers.add(other_writer)
            await asyncio.gather(
                self._pass(reader, other_writer, lambda: self.to_target),
                self._pass(other_reader, writer, lambda: self.to_source),
            )
        except (OSError, RuntimeError, asyncio.CancelledError):
            pass  # RuntimeError: uvloop's word for a transport that is closed already
        finally:
            for each in (writer, other_writer):
                if each is not None:
                    each.transport.abort()
                    self._writers.discard(each)
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, alter: Callable[[], Alter | None]
    ) -> None:
        """Pass one direction on until it ends; then end the other."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def write() -> None:
            while True:
                due_s, data = await held.get()
                await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write())
        offset = 0
        try:
            while True:
                await self._flows.wait()
                data = await reader.read(READ_BYTES)
                if not data:
                    break
                await self._flows.wait()
                if self.rate_bytes_s:
                    await asyncio.sleep(len(data) / self.rate_bytes_s)
                count = len(data)
                change = alter()
                if change is not None:
                    data = change(offset, data)
                    if data is None:
                        break
                offset += count
                self.passed_bytes += count
                if data:
                    await held.put((asyncio.get_running_loop().time() + self.delay_s, data))
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, RuntimeError):
                await writing
            writer.transport.abort()


def flip(at: int) -> Alter:
    """Flip one bit of the byte at offset `at`, once."""
    done: list[bool] = []

    def alter(offset: int, data: bytes) -> bytes:
        if done or not offset <= at < offset + len(data):
            return data
        done.append(True)
        changed = bytearray(data)
        changed[at - offset] ^= 0x10
        return bytes(changed)

    return alter


def leave_out(at: int, count: int) -> Alter:
    """Lose up to `count` bytes from offset `at` on, once."""
    done: list[bool] = []

    def alter(offset: int, data: bytes) -> bytes:
        if done or not offset <= at < offset + len(data):
            return data
        done.append(True)
        return data[: at - offset] + data[at - offset + count :]

    return alter


def repeat(at: int) -> Alter:
    """Pass what is read at offset `at` twice, once."""
    done: list[bool] = []

    def alter(offset: int, data: bytes) -> bytes:
        if done or not offset <= at < offset + len(data):
            return data
        done.append(True)
        return data + data

    return alter


def swap(at: int) -> Alter:
    """Hold what is read at offset `at` back until something else has passed, once."""
    held: list[bytes] = []
    done: list[bool] = []

    def alter(offset: int, data: bytes) -> bytes:
        if held:
            return data + held.pop()
        if done or not offset <= at < offset + len(data):
            return data
        done.append(True)
        held.append(data)
        return b""

    return alter


def cut_at(at: int) -> Alter:
    """Pass `at` bytes of each connection, then cut it in the middle of whatever it was."""
    return lambda offset, data: None if offset >= at else data[: at - offset]
