"""Triton's own gRPC clients, blocking and asyncio, against a node: unary calls, streams, deadlines, limits."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator

import numpy as np
import pytest

from symphony.config import NodeConfig, parse_devices
from symphony.errors import ConfigError
from symphony.server.front import Front
from symphony.server.node import Node
from tests.foreign.conftest import Served
from tests.foreign.test_tritonclient_http import NUMPY
from tests.server.conftest import write_echo

grpc = pytest.importorskip("grpc", reason="tritonclient[grpc] is not installed")
triton = pytest.importorskip("tritonclient.grpc", exc_type=ImportError)
triton_aio = pytest.importorskip("tritonclient.grpc.aio", exc_type=ImportError)
pb = pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=ImportError)
pb_grpc = pytest.importorskip("tritonclient.grpc.service_pb2_grpc", exc_type=ImportError)
utils = pytest.importorskip("tritonclient.utils")

pytestmark = [pytest.mark.sockets, pytest.mark.slow]


@pytest.fixture
def client(served: Served) -> Iterator:
    client = triton.InferenceServerClient(served.grpc)
    yield client
    client.close()


def tensor_of(array: np.ndarray, datatype: str = "FP32", name: str = "x"):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def number_of(value: float, size: int = 5):
    return tensor_of(np.full(size, value, np.float32))


def test_what_is_served_is_told_as_over_http(client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mirror") and client.is_model_ready("twice", "1")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata().name == "symphony"
    metadata = client.get_model_metadata("twice")
    assert list(metadata.versions) == ["1", "2"] and list(metadata.inputs[0].shape) == [-1, 2]
    config = client.get_model_config("scores").config
    assert (config.name, config.max_batch_size, config.input[0].dims[0]) == ("scores", 8, 5)
    assert {model.name for model in client.get_model_repository_index().models} == {"mirror", "most", "scores", "twice"}
    with pytest.raises(utils.InferenceServerException, match="is not served here") as caught:
        client.get_model_metadata("absent")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("rows", [0, 2])
def test_every_datatype_goes_there_and_back(client, rows: int) -> None:
    arrays = {name: np.stack([one] * rows) if rows else one for name, one in NUMPY.items()}
    inputs = [tensor_of(array, name, name.lower()) for name, array in arrays.items()]
    result = client.infer("mirror", inputs, request_id="r-7")
    assert result.get_response().id == "r-7"
    for name, expected in arrays.items():
        found = result.as_numpy(name)
        assert found.dtype == expected.dtype and found.tolist() == expected.tolist()


def test_outputs_are_chosen_and_versions_too(client) -> None:
    inputs = [tensor_of(array, name, name.lower()) for name, array in NUMPY.items()]
    result = client.infer("mirror", inputs, outputs=[triton.InferRequestedOutput("INT8")])
    assert [output.name for output in result.get_response().outputs] == ["INT8"]
    for version, expected in (("1", [3, 4]), ("2", [6, 8]), ("", [6, 8])):
        found = client.infer("twice", [tensor_of(np.array([3, 4], np.int32), "INT32")], model_version=version)
        assert found.as_numpy("X").tolist() == expected


def test_classes_are_the_highest_scores(client) -> None:
    x = tensor_of(np.array([0.5, 3.25, -1.0, 3.25, 2.0], np.float32))
    found = client.infer("scores", [x], outputs=[triton.InferRequestedOutput("X", class_count=2)])
    assert found.as_numpy("X").tolist() == [b"3.250000:1", b"3.250000:3"]


def test_tensors_in_typed_lists_are_taken_too(served: Served) -> None:
    """Clients of the protocol that know nothing of raw contents fill the lists; FP16 has none."""
    with grpc.insecure_channel(served.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="scores")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[5])
        tensor.contents.fp32_contents.extend([0.5, 1, 2, 3, 4])
        assert np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], "<f4").tolist() == [0.5, 1, 2, 3, 4]
        request.raw_input_contents.append(bytes(20))
        with pytest.raises(grpc.RpcError, match="both contents and raw_input_contents"):
            stub.ModelInfer(request)
        request.raw_input_contents.append(bytes(20))
        with pytest.raises(grpc.RpcError, match="raw_input_contents has 2 entries for 1 inputs"):
            stub.ModelInfer(request)
        request = pb.ModelInferRequest(model_name="twice")
        tensor = request.inputs.add(name="x", datatype="INT32", shape=[2])
        tensor.contents.int_contents.extend([3, -4])
        assert np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], "<i4").tolist() == [6, -8]
        tensor.datatype = "FP16"
        with pytest.raises(grpc.RpcError, match="FP16 has no list in contents"):
            stub.ModelInfer(request)
        tensor.datatype = "INT8"
        tensor.contents.int_contents[0] = 300
        with pytest.raises(grpc.RpcError, match="300"):
            stub.ModelInfer(request)


def test_errors_have_codes_words_and_tokens(served: Served, client) -> None:
    with pytest.raises(utils.InferenceServerException, match="has datatype FP64") as caught:
        client.infer("scores", [tensor_of(np.zeros(5), "FP64")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(utils.InferenceServerException, match="deadline") as caught:
        client.infer("scores", [number_of(0)], timeout=1)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    with grpc.insecure_channel(served.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failed:
            stub.ModelInfer(pb.ModelInferRequest(model_name="absent"))
        assert dict(failed.value.trailing_metadata())["symphony-reason"] == "unknown_model"
        with pytest.raises(grpc.RpcError) as failed:
            stub.TraceSetting(pb.TraceSettingRequest())
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_statistics_are_those_of_http(client) -> None:
    before = client.get_inference_statistics("scores").model_stats[0]
    client.infer("scores", [tensor_of(np.zeros((3, 5), np.float32))])
    after = client.get_inference_statistics("scores", "1").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert len(client.get_inference_statistics().model_stats) == 5


def test_model_is_unloaded_and_loaded_again(client) -> None:
    client.unload_model("twice")
    assert not client.is_model_ready("twice")
    client.load_model("twice")
    assert client.is_model_ready("twice", "1")
    with pytest.raises(utils.InferenceServerException, match="takes no parameters"):
        client.load_model("twice", config="{}")


def test_stream_answers_in_order_and_goes_on_after_an_error(client) -> None:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(50):
        x = tensor_of(np.zeros(5), "FP64") if number % 10 == 3 else number_of(number)
        client.async_stream_infer("scores", [x], request_id=str(number), enable_empty_final_response=number == 0)
    for number in range(50):
        result, error = answers.get(timeout=20)
        if number % 10 == 3:
            assert "has datatype FP64" in str(error)
            continue
        assert error is None and result.get_response().id == str(number)
        assert result.as_numpy("X").tolist() == [number] * 5
        assert ("triton_final_response" in result.get_response().parameters) == (number == 0)
    client.stop_stream()


async def test_asyncio_client_makes_the_same_calls(served: Served) -> None:
    async with triton_aio.InferenceServerClient(served.grpc) as client:
        assert await client.is_server_ready() and await client.is_model_ready("mirror")
        results = await asyncio.gather(*(client.infer("scores", [number_of(number)]) for number in range(20)))
        assert [float(result.as_numpy("X")[0]) for result in results] == list(range(20))

        async def requests():
            for number in range(10):
                yield {"model_name": "scores", "inputs": [number_of(number)]}

        found = [float(result.as_numpy("X")[0]) async for result, _ in client.stream_infer(requests())]
        assert found == list(range(10))


@pytest.fixture
async def node(tmp_path):
    """Yield a node in this process with a slow model and small limits, and its gRPC address."""
    write_echo(tmp_path / "models", alpha_ms=0.5, beta_ms=60.0, slo_ms=2000)
    config = NodeConfig(
        port=0,
        grpc_port=0,
        repository=tmp_path / "models",
        devices=parse_devices("1xemulated"),
        body_bytes_max=64 << 10,
        request_count_max=8,
    )
    faults: list[BaseException] = []
    node = Node(config, faults.append)
    front = await Front.open(node, config)
    await node.start()
    yield node, f"127.0.0.1:{front.grpc.port}"
    await node.stop()
    await front.close()
    assert faults == []


async def empty(node: Node) -> None:
    """Wait until the node holds no request."""
    ends_at = time.monotonic() + 5
    while node.find("echo", None).stats.in_flight or len(node._table):
        assert time.monotonic() < ends_at, "a request is still held"
        await asyncio.sleep(0.01)


async def test_client_that_gives_up_cancels_its_request(node) -> None:
    served, address = node
    stats = served.find("echo", None).stats
    async with triton_aio.InferenceServerClient(address) as client:
        tasks = [asyncio.create_task(client.infer("echo", [number_of(0, 8)])) for _ in range(3)]
        while stats.in_flight < 3:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await empty(served)


async def test_stream_that_is_cut_leaves_nothing(node) -> None:
    served, address = node
    stats = served.find("echo", None).stats

    async def requests():
        for _ in range(6):
            yield {"model_name": "echo", "inputs": [number_of(0, 8)]}
        await asyncio.sleep(60)

    async with triton_aio.InferenceServerClient(address) as client:
        stream = client.stream_infer(requests())
        await anext(aiter(stream))
        while not stats.in_flight and not stats.good:
            await asyncio.sleep(0.001)
        stream.cancel()
        await empty(served)


async def test_deadline_of_the_call_is_what_the_scheduler_sees(node) -> None:
    """60 ms are needed: with 50 ms of the call's deadline left, the request is refused at once and not run late."""
    _, address = node
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(32)])
        request.inputs.add(name="x", datatype="FP32", shape=[8])
        assert len((await stub.ModelInfer(request, timeout=1)).raw_output_contents[0]) == 8
        with pytest.raises(grpc.aio.AioRpcError, match=r"l\(1\) = 60"):
            await stub.ModelInfer(request, timeout=0.05)


async def test_message_above_the_limit_is_refused(node) -> None:
    _, address = node
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ModelInfer(pb.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(65 << 10)]))
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_above_the_limit_are_refused_and_the_others_answered(node) -> None:
    """8 calls may be in flight, 7 of one caller (the last eighth is the others'); what a flood of 64 leaves is zero."""
    served, address = node
    async with triton_aio.InferenceServerClient(address) as client:
        found = await asyncio.gather(
            *(client.infer("echo", [number_of(number, 8)]) for number in range(64)), return_exceptions=True
        )
        good = [number for number, each in enumerate(found) if not isinstance(each, Exception)]
        assert 7 <= len(good) < 64
        assert all(found[number].as_numpy("y").tolist() == [number, number] for number in good)
        codes = {each.status() for each in found if isinstance(each, Exception)}
        assert codes <= {"StatusCode.RESOURCE_EXHAUSTED", "StatusCode.UNAVAILABLE"}
        assert await client.is_server_ready()
    await empty(served)


async def test_port_that_is_taken_is_a_configuration_error(tmp_path, node) -> None:
    _, address = node
    port = int(address.rpartition(":")[2])
    config = NodeConfig(port=0, grpc_port=port, repository=tmp_path / "models", devices=parse_devices("1xemulated"))
    other = Node(config, lambda error: None)
    with pytest.raises(ConfigError, match="choose another --grpc-port"):
        await Front.open(other, config)
