"""Take requests over HTTP: read, decode, admit, submit, reply.

`InferExchange` is the part without a transport; `build_app` is the aiohttp application around it. What answers is
behind the `Service` protocol. This package never schedules and never runs a model.
"""

from symphony.ingress.app import build_app, guarded, make_runner
from symphony.ingress.exchange import Exchange, InferExchange
from symphony.ingress.limits import IngressLimits
from symphony.ingress.replies import EncodedReply
from symphony.ingress.service import Health, ServedModel, Service, unknown_model

__all__ = [
    "EncodedReply",
    "Exchange",
    "Health",
    "InferExchange",
    "IngressLimits",
    "ServedModel",
    "Service",
    "build_app",
    "guarded",
    "make_runner",
    "unknown_model",
]
