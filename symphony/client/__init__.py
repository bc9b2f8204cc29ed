"""Call a node from Python: `AsyncClient` on asyncio, `Client` on plain threads."""

from symphony.client.aio import AsyncClient
from symphony.client.blocking import Client
from symphony.client.calls import Ask, InferResult
from symphony.client.http import TransportError

__all__ = ["Ask", "AsyncClient", "Client", "InferResult", "TransportError"]
