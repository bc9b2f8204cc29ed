"""Serve the Open Inference Protocol over gRPC, on a port of its own: the same models, limits and answers as over HTTP.

Needs the extra `grpc`, whose package tritonclient brings the protocol's generated code. Import it only where gRPC is
asked for.
"""

from symphony.ingress.grpc.server import GrpcLimits, GrpcServer

__all__ = ["GrpcLimits", "GrpcServer"]
