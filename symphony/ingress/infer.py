"""Answer `POST .../infer` over aiohttp: read the body, run the exchange, write its reply."""

from __future__ import annotations

import asyncio

from aiohttp import web

from symphony.errors import Reason, SymphonyError
from symphony.ingress.bodies import deflate, inflate, read_body, reply_coding
from symphony.ingress.callers import Caller
from symphony.ingress.exchange import InferExchange
from symphony.ingress.replies import EncodedReply


class InferHandler:
    """Serve infer calls. Needs `handler_cancellation` (see `make_runner`), so that a client may leave."""

    def __init__(self, exchanges: InferExchange) -> None:
        self._exchanges = exchanges

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer one call; raise SymphonyError for a body that cannot be taken."""
        exchanges = self._exchanges
        name = request.match_info["model"]
        try:
            caller = exchanges.check_call(request.headers, peer_of(exchanges, request), "infer", name)
            body = await self._body(request, caller)
        except SymphonyError as error:
            error.model = name
            exchanges.service.stats.request_refused(error.reason)
            raise
        answered: asyncio.Future[EncodedReply] = asyncio.get_running_loop().create_future()

        def on_reply(reply: EncodedReply) -> None:
            if not answered.done():
                answered.set_result(reply)

        version = request.match_info.get("version")
        exchange = exchanges.start(name, version, request.headers, body, on_reply, caller=caller)
        try:
            reply = await answered
        finally:
            exchange.cancel()
        coding = reply_coding(request.headers.get("Accept-Encoding", ""))
        if coding is None or reply.status != 200:
            return to_response(reply)
        # Inference-Header-Content-Length stays what it is: it counts bytes without compression, as in requests.
        packed = await deflate(reply.body(), coding)
        headers = [*reply.headers, ("Content-Encoding", coding)]
        return to_response(EncodedReply(reply.status, reply.content_type, headers, [packed]))

    async def _body(self, request: web.Request, caller: Caller) -> bytes | bytearray:
        exchanges = self._exchanges
        limits = exchanges.limits
        # A body without a declared length is counted at its largest until it is read.
        declared = request.content_length
        reserved = limits.body_bytes_max if declared is None and request.can_read_body else declared or 0
        refusal = exchanges.refusal(reserved, caller)
        if refusal is not None:
            raise refusal
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            reserved = limits.body_bytes_max
        exchanges.reserve(reserved, caller)
        try:
            body: bytes | bytearray = await read_body(request, limits.body_bytes_max, limits.body_timeout_s)
            if encoding != "identity":
                body = await inflate(body, encoding, limits.body_bytes_max)
        finally:
            exchanges.reserve(-reserved, caller)
        return body


def peer_of(exchanges: InferExchange, request: web.BaseRequest) -> Caller:
    """Return who is at the other end of the request's connection."""
    transport = request.transport
    return exchanges.callers.peer(None if transport is None else transport.get_extra_info("peername"))


def to_response(reply: EncodedReply) -> web.Response:
    """Return aiohttp's form of a reply. A body refused for its size closes its connection."""
    response = web.Response(status=reply.status, body=reply.body(), headers={"Content-Type": reply.content_type})
    response.headers.extend(reply.headers)
    if reply.status == Reason.TOO_LARGE.http_status:
        response.force_close()
    return response
