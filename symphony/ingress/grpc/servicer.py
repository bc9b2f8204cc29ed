"""Answer the calls of the protocol's gRPC service from a `Service`, as the HTTP routes do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from symphony.errors import Reason, SymphonyError
from symphony.ingress.exchange import InferExchange
from symphony.ingress.grpc.call import infer
from symphony.ingress.grpc.errors import abort
from symphony.ingress.grpc.gate import Asker, asker_of
from symphony.ingress.grpc.messages import asks_for_final_response
from symphony.ingress.metadata import index_entry, model_config, model_metadata, server_metadata
from symphony.ingress.replies import internal_error
from symphony.ingress.service import READY, ServedModel, versions_of
from symphony.metrics import triton_statistics

_log = logging.getLogger(__name__)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The handlers; what is not here is UNIMPLEMENTED. Errors carry their token in the trailer `symphony-reason`."""

    def __init__(self, exchanges: InferExchange, stream_count_max: int, stream_requests_max: int) -> None:
        self._exchanges = exchanges
        self._service = exchanges.service
        self._stream_count_max = stream_count_max
        self._stream_requests_max = stream_requests_max
        self._stream_count = 0

    # ---- inference ---------------------------------------------------------------------------------------------

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Answer one request; the call's own deadline counts as its timeout."""
        outcome = await infer(
            self._exchanges, request, asker_of(self._exchanges.callers, context), context.time_remaining()
        )
        if isinstance(outcome, SymphonyError):
            await abort(context, outcome)
        return outcome

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answer the requests of a stream, in their order; errors are messages, and the stream goes on.

        So many of its requests are under way at once as the limit says; then no more are read.
        """
        if self._stream_count >= self._stream_count_max:
            error = SymphonyError(
                Reason.QUEUE_FULL,
                f"{self._stream_count} streams are open, allowed are {self._stream_count_max} (stream_count_max); "
                "close some, or try again later",
            )
            await abort(context, error)
        self._stream_count += 1
        asker = asker_of(self._exchanges.callers, context)
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(self._stream_requests_max)
        reader = asyncio.create_task(self._read_stream(requests, asker, answers))
        try:
            while (answer := await answers.get()) is not None:
                try:
                    yield await answer
                finally:
                    answer.cancel()
        finally:
            self._stream_count -= 1
            reader.cancel()
            while not answers.empty():
                waiting = answers.get_nowait()
                if waiting is not None:
                    waiting.cancel()

    async def _read_stream(self, requests: AsyncIterator[Any], asker: Asker, answers: asyncio.Queue[Any]) -> None:
        task: asyncio.Task[Any] | None = None
        try:
            async for request in requests:
                task = asyncio.create_task(self._stream_one(request, asker))
                await answers.put(task)
                task = None
        finally:
            if task is not None:
                task.cancel()
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await answers.put(None)

    async def _stream_one(self, request: Any, asker: Asker) -> Any:
        # A deadline of the stream is of all its requests together; each has its own timeout or the SLO.
        outcome = await infer(self._exchanges, request, asker, None)
        if isinstance(outcome, SymphonyError):
            return pb.ModelStreamInferResponse(
                error_message=outcome.message, infer_response=pb.ModelInferResponse(id=request.id)
            )
        if asks_for_final_response(request):
            outcome.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=outcome)

    # ---- what is served ----------------------------------------------------------------------------------------

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say whether the node lives."""
        return pb.ServerLiveResponse(live=self._service.health().is_live)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say whether the node should get requests."""
        return pb.ServerReadyResponse(ready=self._service.health().is_ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say whether a model is loaded, warmed and profiled; one that is unknown is not."""
        try:
            model = self._service.find(request.name, request.version or None)
        except SymphonyError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=model.state == READY)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Name the server and the extensions that it has."""
        return pb.ServerMetadataResponse(**server_metadata(self._service))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Name a model's versions and tensors."""
        model = await self._find(request, context)
        versions = versions_of(self._service, model, request.version or None)
        return pb.ModelMetadataResponse(**model_metadata(model.config, versions))

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a model's configuration in Triton's words."""
        model = await self._find(request, context)
        return json_format.ParseDict({"config": model_config(model.config)}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the counters of a model's versions, or of all models."""
        models = list(self._service.models())
        if request.name:
            found = await self._find(request, context)
            models = [found] if request.version else [each for each in models if each.config.name == request.name]
        entries = [triton_statistics(each.config.name, each.config.version, each.stats) for each in models]
        return json_format.ParseDict({"model_stats": entries}, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """List the models, those that are ready if asked for."""
        models = [model for model in self._service.models() if model.state == READY or not request.ready]
        return pb.RepositoryIndexResponse(models=[index_entry(model) for model in models])

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load a model from the repository; return when it is ready."""
        name = request.model_name
        try:
            if request.parameters:
                raise SymphonyError(
                    Reason.BAD_INPUT,
                    f'model "{name}": load takes no parameters here; change the folder in the repository, then load it',
                    model=name,
                )
            await self._service.load(name)
        except SymphonyError as error:
            await abort(context, error)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Stop serving a model; return when its accepted requests have ended."""
        try:
            await self._service.unload(request.model_name)
        except SymphonyError as error:
            await abort(context, error)
        return pb.RepositoryModelUnloadResponse()

    async def _find(self, request: Any, context: Any) -> ServedModel:
        try:
            return self._service.find(request.name, request.version or None)
        except SymphonyError as error:
            caller = self._exchanges.callers.identify(*asker_of(self._exchanges.callers, context))
            await abort(context, self._exchanges.seen_by(caller, error, request.name, request.version or None))
            raise


class ErrorsAreOurs(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Answer whatever breaks in a handler as the HTTP routes do: the client hears nothing of the inside."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wrap the handlers that answer one message."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner = handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            try:
                return await inner(request, context)
            except (grpc.aio.AbortError, asyncio.CancelledError, NotImplementedError):
                raise
            except Exception:
                _log.exception("cannot answer %s", details.method)
                await abort(context, internal_error())

        return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)
