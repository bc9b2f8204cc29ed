"""Triton's own HTTP clients, blocking and asyncio, against a node: every call that they have, unchanged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.foreign.conftest import DATATYPES, Served

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed", exc_type=ImportError)
http_aio = pytest.importorskip("tritonclient.http.aio", exc_type=ImportError)
utils = pytest.importorskip("tritonclient.utils")
ml_dtypes = pytest.importorskip("ml_dtypes")

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

STATE = {"READY"}
NUMPY = {
    "BOOL": np.array([True, False, True]),
    "BYTES": np.array([b"one", b"", "zw\u00f6lf".encode()], object),
    "BF16": np.array([1.5, -2.0, 0.0], ml_dtypes.bfloat16),
} | {
    name: np.array([0, 1, 100]).astype(name.replace("FP", "float").lower())
    for name in DATATYPES
    if name not in ("BOOL", "BYTES", "BF16")
}
"""One request's tensor of each datatype."""
ONLY_BINARY = ("FP16", "BF16")
"""Datatypes that the client refuses to write as JSON."""


def everything(module, is_binary: bool = True, rows: int = 0) -> list:
    """Return the inputs of `mirror`: one request, or `rows` of them behind a batch dimension."""
    inputs = []
    for datatype, one in NUMPY.items():
        array = np.stack([one] * rows) if rows else one
        tensor = module.InferInput(datatype.lower(), list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=is_binary or datatype in ONLY_BINARY)
        inputs.append(tensor)
    return inputs


def one_input(module, array: np.ndarray, datatype: str, **options):
    tensor = module.InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **options)
    return tensor


def assert_same(found: np.ndarray, expected: np.ndarray, is_listed: bool) -> None:
    if expected.dtype == object and is_listed:
        expected = np.vectorize(bytes.decode, otypes=[object])(expected)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@pytest.fixture
def client(served: Served) -> Iterator:
    client = http.InferenceServerClient(served.http, concurrency=8)
    yield client
    client.close()


def test_health_is_seen(client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mirror") and client.is_model_ready("twice", "1")
    assert not client.is_model_ready("absent") and not client.is_model_ready("twice", "9")


def test_metadata_names_versions_tensors_and_extensions(client) -> None:
    server = client.get_server_metadata()
    assert server["name"] == "symphony" and server["version"]
    assert {"binary_tensor_data", "classification", "statistics", "model_configuration"} <= set(server["extensions"])
    model = client.get_model_metadata("twice")
    assert model["versions"] == ["1", "2"]
    assert model["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [-1, 2]}]
    assert client.get_model_metadata("twice", "1")["versions"] == ["1"]


def test_config_is_a_model_config(client) -> None:
    config = client.get_model_config("scores")
    assert (config["name"], config["max_batch_size"]) == ("scores", 8)
    assert config["input"][0]["data_type"] == "TYPE_FP32" and config["input"][0]["dims"] == [5]
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    json_format = pytest.importorskip("google.protobuf.json_format")
    parsed = json_format.ParseDict(config, model_config.ModelConfig())  # refuses names that Triton does not have
    assert parsed.parameters["slo_ms"].string_value == "1000"


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("rows", [0, 2])
def test_every_datatype_goes_there_and_back(client, datatype: str, is_binary: bool, rows: int) -> None:
    outputs = [http.InferRequestedOutput(datatype, binary_data=is_binary)]
    result = client.infer("mirror", everything(http, is_binary, rows), outputs=outputs, request_id="r-7")
    expected = np.stack([NUMPY[datatype]] * rows) if rows else NUMPY[datatype]
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-7", "mirror", "1")
    assert [output["name"] for output in response["outputs"]] == [datatype]
    assert list(result.get_output(datatype)["shape"]) == list(expected.shape)
    if datatype == "BF16" and not is_binary:
        assert result.get_output(datatype)["data"] == expected.astype(float).reshape(-1).tolist()
    else:
        assert_same(result.as_numpy(datatype), expected, is_listed=not is_binary)


def test_all_outputs_come_when_none_is_named(client) -> None:
    result = client.infer("mirror", everything(http))
    for datatype, expected in NUMPY.items():
        assert_same(result.as_numpy(datatype), expected, is_listed=False)


def test_json_and_binary_are_mixed_both_ways(client) -> None:
    outputs = [http.InferRequestedOutput(name, binary_data=name in ("FP32", "BYTES")) for name in DATATYPES]
    inputs = everything(http)
    for tensor in inputs[::2]:
        if tensor.datatype() not in ONLY_BINARY:
            tensor.set_data_from_numpy(NUMPY[tensor.datatype()], binary_data=False)
    result = client.infer("mirror", inputs, outputs=outputs)
    assert_same(result.as_numpy("FP32"), NUMPY["FP32"], is_listed=False)
    assert_same(result.as_numpy("BYTES"), NUMPY["BYTES"], is_listed=False)
    assert result.get_output("INT8")["data"] == NUMPY["INT8"].tolist()


@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [True, False])
def test_bodies_are_compressed_both_ways(client, sent: str | None, asked: str | None, is_binary: bool) -> None:
    outputs = [http.InferRequestedOutput("INT64", binary_data=is_binary)]
    result = client.infer(
        "mirror",
        everything(http, is_binary),
        outputs=outputs,
        request_compression_algorithm=sent,
        response_compression_algorithm=asked,
    )
    assert_same(result.as_numpy("INT64"), NUMPY["INT64"], is_listed=not is_binary)


def test_versions_are_chosen_and_none_means_the_latest(client) -> None:
    x = one_input(http, np.array([3, 4], np.int32), "INT32")
    for version, expected in (("1", [3, 4]), ("2", [6, 8]), ("", [6, 8])):
        result = client.infer("twice", [x], model_version=version)
        assert result.as_numpy("X").tolist() == expected
        assert result.get_response()["model_version"] == (version or "2")
    with pytest.raises(utils.InferenceServerException, match='model "twice" version "3" is not served'):
        client.infer("twice", [x], model_version="3")


def test_timeout_is_the_deadline_and_its_miss_is_said(client) -> None:
    x = one_input(http, np.zeros(5, np.float32), "FP32")
    assert client.infer("scores", [x], timeout=500_000, priority=1).as_numpy("X").shape == (5,)
    with pytest.raises(utils.InferenceServerException, match="deadline") as caught:
        client.infer("scores", [x], timeout=1)
    assert caught.value.status() == "503"


def test_own_parameters_pass(client) -> None:
    x = one_input(http, np.zeros(5, np.float32), "FP32")
    client.infer("scores", [x], parameters={"slo_ms": 20, "who": "me", "share": 0.5, "is_test": True})


@pytest.mark.parametrize("is_binary", [True, False])
def test_classes_are_the_highest_scores(client, is_binary: bool) -> None:
    rows = np.array([[0.5, 3.25, -1.0, 3.25, 2.0], [9.0, 8.0, 7.0, 6.0, 5.0]], np.float32)
    outputs = [http.InferRequestedOutput("X", binary_data=is_binary, class_count=3)]
    found = client.infer("scores", [one_input(http, rows, "FP32")], outputs=outputs).as_numpy("X")
    texts = [[text if isinstance(text, str) else text.decode() for text in row] for row in found]
    assert texts == [["3.250000:1", "3.250000:3", "2.000000:4"], ["9.000000:0", "8.000000:1", "7.000000:2"]]
    found = client.infer("scores", [one_input(http, rows[0], "FP32")], outputs=outputs).as_numpy("X")
    assert found.shape == (3,)


def test_errors_are_the_servers_words(client) -> None:
    with pytest.raises(utils.InferenceServerException, match='input "x" has datatype FP64'):
        client.infer("scores", [one_input(http, np.zeros(5), "FP64")])
    with pytest.raises(utils.InferenceServerException, match='model "absent" is not served here'):
        client.infer("absent", [one_input(http, np.zeros(5, np.float32), "FP32")])
    with pytest.raises(utils.InferenceServerException, match="not supported"):
        client.get_log_settings()


def test_async_infer_answers_each_its_own(client) -> None:
    pending = [
        client.async_infer("scores", [one_input(http, np.full(5, number, np.float32), "FP32")]) for number in range(20)
    ]
    assert [float(each.get_result(timeout=10).as_numpy("X")[0]) for each in pending] == list(range(20))


def test_statistics_count_calls_rows_and_batches(client) -> None:
    def now() -> dict:
        (entry,) = client.get_inference_statistics("scores", "1")["model_stats"]
        return entry

    before = now()
    client.infer("scores", [one_input(http, np.zeros((4, 5), np.float32), "FP32")])
    client.infer("scores", [one_input(http, np.zeros(5, np.float32), "FP32")])
    with pytest.raises(utils.InferenceServerException):
        client.infer("scores", [one_input(http, np.zeros(5), "FP64")])
    after = now()
    assert after["inference_count"] - before["inference_count"] == 5
    assert 2 <= after["execution_count"] - before["execution_count"] <= 5
    assert abs(after["last_inference"] - time.time() * 1000) < 60_000
    sums, earlier = after["inference_stats"], before["inference_stats"]
    for key in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert sums[key]["count"] - earlier[key]["count"] == 2, key
        assert sums[key]["ns"] > earlier[key]["ns"], key
    assert sums["fail"]["count"] - earlier["fail"]["count"] == 1
    parts = sum(sums[key]["ns"] for key in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert parts <= sums["success"]["ns"]
    assert (
        sum(each["batch_size"] * each["compute_infer"]["count"] for each in after["batch_stats"])
        == (after["inference_count"])
    )


def test_statistics_come_for_all_models_and_for_all_versions(client) -> None:
    names = [(each["name"], each["version"]) for each in client.get_inference_statistics()["model_stats"]]
    assert {("mirror", "1"), ("scores", "1"), ("twice", "1"), ("twice", "2")} <= set(names)
    found = client.get_inference_statistics("twice")["model_stats"]
    assert [each["version"] for each in found] == ["1", "2"]


def test_model_is_unloaded_and_loaded_again(client) -> None:
    def states() -> set[tuple[str, str]]:
        return {(each["name"], each["state"]) for each in client.get_model_repository_index()}

    assert ("twice", "READY") in states()
    client.unload_model("twice", unload_dependents=True)
    assert ("twice", "READY") not in states() and ("twice", "UNAVAILABLE") in states()
    assert not client.is_model_ready("twice")
    with pytest.raises(utils.InferenceServerException, match="is not ready"):
        client.infer("twice", [one_input(http, np.array([3, 4], np.int32), "INT32")])
    client.load_model("twice")
    assert client.is_model_ready("twice", "1") and client.is_model_ready("twice", "2")
    with pytest.raises(utils.InferenceServerException, match="load takes no parameters here"):
        client.load_model("twice", config=json.dumps({"max_batch_size": 1}))
    with pytest.raises(utils.InferenceServerException, match='holds no model "absent"'):
        client.load_model("absent")


async def test_asyncio_client_makes_the_same_calls(served: Served) -> None:
    async with http_aio.InferenceServerClient(served.http) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("mirror", "1")
        assert (await client.get_server_metadata())["name"] == "symphony"
        assert (await client.get_model_metadata("mirror"))["versions"] == ["1"]
        assert (await client.get_model_config("mirror"))["max_batch_size"] == 8
        assert (await client.get_inference_statistics("mirror"))["model_stats"][0]["name"] == "mirror"
        assert "mirror" in {each["name"] for each in await client.get_model_repository_index()}
        await client.unload_model("scores")
        assert not await client.is_model_ready("scores")
        await client.load_model("scores")
        assert await client.is_model_ready("scores")


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [True, False])
async def test_asyncio_client_gets_every_datatype(served: Served, is_binary: bool, coding: str | None) -> None:
    async with http_aio.InferenceServerClient(served.http) as client:
        result = await client.infer(
            "mirror",
            everything(http_aio, is_binary),
            outputs=[http_aio.InferRequestedOutput(name, binary_data=is_binary) for name in DATATYPES],
            request_id="r-8",
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert result.get_response()["id"] == "r-8"
        for datatype, expected in NUMPY.items():
            if is_binary or datatype != "BF16":
                assert_same(result.as_numpy(datatype), expected, is_listed=not is_binary)
