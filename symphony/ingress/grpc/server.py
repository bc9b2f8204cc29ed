"""Open and close the gRPC port, and bound what comes through it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2_grpc

from symphony.ingress.app import ALL_SCOPES
from symphony.ingress.exchange import InferExchange
from symphony.ingress.grpc.gate import Gate
from symphony.ingress.grpc.servicer import ErrorsAreOurs, Servicer

_REPLY_BYTES_MAX = (1 << 31) - 1
"""gRPC's own limit: how large an answer is, the model says."""


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Bound what gRPC clients may hold.

    `connection_calls_max`: calls under way on one connection. `stream_count_max`: streams open at once, of all
    connections. `stream_requests_max`: requests of one stream under way at once; the next is read when one of them is
    answered. `metadata_bytes_max`: headers of a call. `idle_timeout_s`: a connection without calls is closed then.
    """

    connection_calls_max: int = 1024
    stream_count_max: int = 1024
    stream_requests_max: int = 256
    metadata_bytes_max: int = 16 << 10
    idle_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"gRPC limit {name} must be above 0, got {getattr(self, name)}")


class GrpcServer:
    """The gRPC port of a node; make it with `open`. `port` is the one that it got."""

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    @classmethod
    async def open(
        cls,
        exchanges: InferExchange,
        host: str,
        port: int,
        limits: GrpcLimits | None = None,
        scopes: Collection[str | None] = ALL_SCOPES,
    ) -> GrpcServer:
        """Listen (port 0: on a free one); raise OSError when that is not possible.

        A message has at most `body_bytes_max` of the ingress, and at most its `in_flight_max` calls are under way.
        `scopes`: which methods it has, of the scopes of keys, and None for those that need no key.
        """
        limits = GrpcLimits() if limits is None else limits
        server = grpc.aio.server(
            interceptors=(ErrorsAreOurs(), Gate(exchanges, scopes)),
            options=(
                ("grpc.max_receive_message_length", exchanges.limits.body_bytes_max),
                ("grpc.max_send_message_length", _REPLY_BYTES_MAX),
                ("grpc.max_concurrent_streams", limits.connection_calls_max),
                ("grpc.max_metadata_size", limits.metadata_bytes_max),
                ("grpc.absolute_max_metadata_size", 2 * limits.metadata_bytes_max),
                ("grpc.max_connection_idle_ms", round(limits.idle_timeout_s * 1000)),
                # Another node on the same port must fail, not share it.
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=exchanges.limits.in_flight_max,
        )
        servicer = Servicer(exchanges, limits.stream_count_max, limits.stream_requests_max)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if bound == 0:
            raise OSError(f"cannot bind {address}")
        await server.start()
        return cls(server, bound)

    async def close(self, grace_s: float = 1.0) -> None:
        """Take no more calls; those under way have `grace_s` seconds."""
        await self._server.stop(grace_s)
