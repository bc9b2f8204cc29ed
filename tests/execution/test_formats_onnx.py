"""ONNX files answer as the network they were made of, by name, and one that cannot be served says so when loaded."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.devices.base import Fault
from symphony.execution.devices.cpu import CpuDevice
from symphony.execution.devices.cuda_graphs import CaptureError, GraphSet
from symphony.execution.formats import ModelLoadError, load_callable
from symphony.execution.profile_store import fingerprint

X = TensorSpec("x", "FP32", (4,))
Y = TensorSpec("y", "FP32", (4,))
NUMBERS = {
    **{"BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32},
    **{"INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16},
    **{"UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "FP16": TensorProto.FLOAT16},
    **{"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BF16": TensorProto.BFLOAT16},
}
"""ONNX's own number of each datatype that is not BYTES."""


def make_config(**changes: Any) -> ModelConfig:
    """Return an ONNX model with x float32[4] in and y float32[4] out."""
    return ModelConfig(
        **{
            "name": "m",
            "version": "1",
            "slo_ms": 50.0,
            "batch_size_max": 8,
            "inputs": (X,),
            "outputs": (Y,),
            "format": "onnx",
            "entry": "model.onnx",
            "device_kinds": ("cpu",),
            **changes,
        }
    )


def value(name: str, shape: Sequence[int | str | None] | None, number: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Describe an input or output of a graph; a size that is a name or None varies."""
    return helper.make_tensor_value_info(name, number, shape)


def write_graph(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
) -> None:
    """Write model.onnx, in a version of the format that every onnxruntime that is taken can read."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def write_doubling(folder: Path, x: Sequence[Any] | None = ("b", 4), y: Sequence[Any] | None = ("b", 4)) -> None:
    """Write a file that doubles x."""
    write_graph(folder, [helper.make_node("Add", ["x", "x"], ["y"])], [value("x", x)], [value("y", y)])


def run(predict: Any, **inputs: Any) -> dict[str, Any]:
    """Run a batch as a device does."""
    with torch.inference_mode():
        return dict(predict(inputs))


def load_fault(folder: Path, device: str = "cpu", **changes: Any) -> str:
    """Return why the model cannot be loaded."""
    with pytest.raises(ModelLoadError) as caught:
        load_callable(make_config(**changes), folder, device)
    assert str(caught.value).startswith('model "m"')
    return str(caught.value)


# ---- answers ---------------------------------------------------------------------------------------------------


class TwoInputs(torch.nn.Module):
    """A layer on b, plus a; and the sum of b."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, b: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.nn.functional.gelu(self.linear(b)) + a, b.sum(1)


def test_exported_network_answers_like_itself_at_every_batch_size(tmp_path: Path) -> None:
    """model.toml has the names in another order, and may leave an output out."""
    network = TwoInputs().eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, 4), torch.zeros(2, 2)),
        tmp_path / "model.onnx",
        input_names=["b", "a"],
        output_names=["y", "total"],
        dynamic_shapes=({0: "batch"}, {0: "batch"}),
        verbose=False,
    )
    inputs = (TensorSpec("a", "FP32", (2,)), TensorSpec("b", "FP32", (4,)))
    total, y = TensorSpec("total", "FP32", ()), TensorSpec("y", "FP32", (2,))
    whole = load_callable(make_config(inputs=inputs, outputs=(total, y)), tmp_path, "cpu")
    part = load_callable(make_config(inputs=inputs, outputs=(total,)), tmp_path, "cpu")
    for size in range(1, 9):
        a, b = torch.randn(size, 2), torch.randn(size, 4)
        with torch.inference_mode():
            expected, expected_total = network(b, a)
        found = run(whole, a=a, b=b)
        assert list(found) == ["total", "y"]
        assert torch.allclose(found["y"], expected, atol=1e-5) and found["y"].shape == (size, 2)
        assert torch.allclose(found["total"], expected_total, atol=1e-5) and found["total"].shape == (size,)
        assert run(part, a=a, b=b).keys() == {"total"}


def test_example_of_the_page_works(tmp_path: Path) -> None:
    """docs/models.md shows how to export; here with weights large enough to be kept beside the file."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    (exporting,) = re.findall(r"```python\n(torch\.onnx\.export.*?)```", page, re.DOTALL)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 512))
    path = tmp_path / "model.onnx"
    exec(exporting.replace('"model.onnx"', "path"), {"torch": torch, "network": network, "path": path})
    assert (tmp_path / "model.onnx.data").stat().st_size >= 64 * 512 * 4
    image, logits = TensorSpec("image", "FP32", (1, 8, 8)), TensorSpec("logits", "FP32", (512,))
    predict = load_callable(make_config(inputs=(image,), outputs=(logits,)), tmp_path, "cpu")
    x = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(run(predict, image=x)["logits"], network(x), atol=1e-5)


@pytest.mark.parametrize("datatype", sorted(NUMBERS))
def test_tensor_of_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    number = NUMBERS[datatype]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    write_graph(tmp_path, nodes, [value("x", ["b", 3], number)], [value("y", ["b", 3], number)])
    config = make_config(inputs=(TensorSpec("x", datatype, (3,)),), outputs=(TensorSpec("y", datatype, (3,)),))
    dtype = np.dtype(bool) if datatype == "BOOL" else np.dtype(np.uint8)
    rows = np.random.default_rng(0).integers(0, 2, (5, 3)).astype(dtype)
    model = CpuDevice(0, 1).load(config, tmp_path)
    wanted = {"BF16": np.uint16, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}.get(datatype)
    rows = rows.astype(wanted or np.dtype(datatype.lower()))
    answer = model.launch([{"x": row} for row in rows]).wait()["y"]
    assert answer.dtype == rows.dtype
    assert np.array_equal(answer, rows)


def test_texts_go_in_and_come_out_as_bytes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["text"], ["same"]), helper.make_node("Add", ["x", "x"], ["y"])]
    text = value("text", ["b", 2], TensorProto.STRING)
    write_graph(
        tmp_path, nodes, [text, value("x", ["b", 4])], [value("same", ["b", 2], TensorProto.STRING), value("y", None)]
    )
    config = make_config(inputs=(X, TensorSpec("text", "BYTES", (2,))), outputs=(Y, TensorSpec("same", "BYTES", (2,))))
    model = CpuDevice(0, 1).load(config, tmp_path)
    rows = [[b"a", "é".encode()], [b"", b"with\x00nul"]]
    inputs = [{"text": np.array(row, dtype=object), "x": np.full(4, 1.5, np.float32)} for row in rows]
    outputs = model.launch(inputs).wait()
    assert outputs["same"].tolist() == rows
    assert outputs["y"].tolist() == [[3.0] * 4] * 2
    with pytest.raises(ValueError, match='input "text" is not UTF-8'):
        model.launch([inputs[0] | {"text": np.array([b"\xff", b""], dtype=object)}])


def test_answer_of_one_batch_is_not_written_by_the_next(tmp_path: Path) -> None:
    """Although both are written into tensors that the session was bound to."""
    write_doubling(tmp_path)
    predict = load_callable(make_config(), tmp_path, "cpu")
    first = run(predict, x=torch.ones(2, 4))["y"]
    run(predict, x=torch.full((2, 4), 7.0))
    assert first.tolist() == [[2.0] * 4] * 2


def test_batch_that_does_not_lie_in_one_piece_is_answered_all_the_same(tmp_path: Path) -> None:
    write_doubling(tmp_path)
    predict = load_callable(make_config(), tmp_path, "cpu")
    x = torch.arange(8.0).reshape(4, 2).T
    assert run(predict, x=x)["y"].equal(2 * x)


# ---- threads and memory ----------------------------------------------------------------------------------------


def native_threads() -> set[str]:
    """Return the ids of this process's threads, those that Python does not know included."""
    return {path.name for path in Path("/proc/self/task").iterdir()}


@pytest.mark.parametrize("thread_count", [1, 3])
def test_session_computes_on_as_many_threads_as_its_device_has(tmp_path: Path, thread_count: int) -> None:
    """The caller's own is one of them; the others end with the model."""
    write_doubling(tmp_path)
    CpuDevice(0, 1).load(make_config(), tmp_path)  # what onnxruntime starts once is there
    before = native_threads()
    model = CpuDevice(0, thread_count).load(make_config(), tmp_path)
    model.launch([{"x": np.zeros(4, np.float32)}] * 8)
    started = native_threads() - before
    assert len(started) == thread_count - 1
    del model
    end = time.monotonic() + 5
    while started & native_threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not started & native_threads()


def test_idle_threads_of_a_session_do_not_spin(tmp_path: Path) -> None:
    """Spinning takes a core from the event loop."""
    write_doubling(tmp_path)
    predict: Any = load_callable(make_config(), tmp_path, "cpu", 2)
    options = predict._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_other_threads_go_on_while_a_batch_runs(tmp_path: Path) -> None:
    """A run that kept the GIL would hold up every answer of the node."""
    size, layer_count = 1024, 24
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    names = ["x", *(f"h{i}" for i in range(layer_count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(layer_count)]
    write_graph(tmp_path, nodes, [value("x", ["b", size])], [value("y", ["b", size])], [weight])
    config = make_config(
        inputs=(TensorSpec("x", "FP32", (size,)),), outputs=(TensorSpec("y", "FP32", (size,)),), batch_size_max=256
    )
    predict = load_callable(config, tmp_path, "cpu")
    x = torch.randn(256, size)
    woke_at: list[float] = []
    has_ended = threading.Event()

    def tick() -> None:
        while not has_ended.wait(0.001):
            woke_at.append(time.perf_counter())

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    answer = run(predict, x=x)["y"]
    ended = time.perf_counter()
    has_ended.set()
    ticking.join()
    assert torch.allclose(answer, x, atol=1e-4)
    during = [at for at in woke_at if began + 0.005 < at < ended - 0.005]
    assert len(during) >= 5, f"{len(during)} in {ended - began:.3f} s"


def test_batch_that_does_not_fit_is_a_fault_of_memory(tmp_path: Path) -> None:
    """So that the worker tries it again in halves."""
    count = numpy_helper.from_array(np.array([1 << 47], np.int64), "count")  # 2^49 bytes: more than can be mapped
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"]),
        helper.make_node("Expand", ["sum", "count"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    write_graph(tmp_path, nodes, [value("x", ["b", 4])], [value("y", None)], [count])
    device = CpuDevice(0, 1)
    with pytest.raises(MemoryError) as caught:
        device.load(make_config(), tmp_path).launch([{"x": np.zeros(4, np.float32)}])
    assert device.examine(caught.value) is Fault.MEMORY


def test_output_of_another_shape_than_declared_fails_the_batch_and_writes_nothing(tmp_path: Path) -> None:
    """The file leaves the shape open: a row for each number that is not 0."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["y"]),
    ]
    write_graph(tmp_path, nodes, [value("x", ["b", 4])], [value("y", None, TensorProto.INT64)])
    predict = load_callable(make_config(outputs=(TensorSpec("y", "INT64", (2,)),)), tmp_path, "cpu")
    assert run(predict, x=torch.eye(4))["y"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    with pytest.raises(Exception, match=r"\{2,2\}.*\{8,2\}"):
        run(predict, x=torch.ones(2, 4))


# ---- faults ----------------------------------------------------------------------------------------------------


def test_missing_package_is_said_with_the_extra_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_doubling(tmp_path)
    with_it = fingerprint(make_config(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fault = load_fault(tmp_path)
    assert 'format "onnx" needs onnxruntime' in fault and 'pip install "symphony-serve[onnx]"' in fault
    assert fingerprint(make_config(), tmp_path) != with_it


@pytest.mark.parametrize("version", ["1.23.2", "1.9.0", "0.5"])
def test_package_that_would_read_outside_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    write_doubling(tmp_path)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    fault = load_fault(tmp_path)
    assert f"onnxruntime {version} reads files outside" in fault and "takes 1.24 or newer" in fault


def test_profile_is_not_used_with_another_version_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the profile of another format affected by it."""
    write_doubling(tmp_path)
    before = fingerprint(make_config(), tmp_path), fingerprint(make_config(format="torch_export"), tmp_path)
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    after = fingerprint(make_config(), tmp_path), fingerprint(make_config(format="torch_export"), tmp_path)
    assert before[0] != after[0] and before[1] == after[1]


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'model.onnx'} does not exist; put it there or change entry" in load_fault(tmp_path)


def test_file_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    """However it is reached."""
    write_doubling(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    assert "leads out of its folder" in load_fault(folder)
    assert "leads out of its folder" in load_fault(folder, entry="../model.onnx")


def test_file_that_is_no_model_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    fault = load_fault(tmp_path)
    assert f"{tmp_path / 'model.onnx'} cannot be loaded on cpu by onnxruntime" in fault and "export it again" in fault


def test_operation_that_onnxruntime_does_not_know_is_refused_at_load(tmp_path: Path) -> None:
    nodes = [helper.make_node("Telepathy", ["x"], ["y"])]
    write_graph(tmp_path, nodes, [value("x", ["b", 4])], [value("y", ["b", 4])])
    assert "Telepathy" in load_fault(tmp_path)


@pytest.mark.parametrize(
    ("x", "y", "changes", "said"),
    [
        ((3, 4), (3, 4), {}, 'input "x" has a fixed batch of 3, max_batch_size is 8; export it with a first dimension'),
        (("b", 4), (3, 4), {}, 'output "y" has a fixed batch of 3'),
        ((1, 4), (1, 4), {}, "or set max_batch_size = 1"),
        ((3, 4), (3, 4), {"batch_size_max": 1}, "has a fixed batch of 3, max_batch_size is 1"),
        (("b", 5), ("b", 5), {}, 'input "x" has shape [b, 5], model.toml declares [4] behind the batch dimension'),
        ((None, 5), ("b", 5), {}, 'output "y" has shape [b, 5]'),
        ((None, 5), ("b", 5), {}, 'input "x" has shape [?, 5]'),
        (("b", 4, 1), ("b", 4, 1), {}, 'input "x" has shape [b, 4, 1]'),
        (("b",), ("b",), {}, 'output "y" has shape [b]'),
        (
            ("b", 4),
            ("b", 4),
            {"inputs": (TensorSpec("x", "FP16", (4,)),)},
            'input "x" is tensor(float), model.toml declares FP16, which is tensor(float16); change one of them',
        ),
        (("b", 4), ("b", 4), {"outputs": (TensorSpec("y", "BYTES", (4,)),)}, 'output "y" is tensor(float)'),
        (("b", 4), ("b", 4), {"inputs": (TensorSpec("a", "FP32", (4,)),)}, 'has no input "a" but "x"; use its names'),
        (
            ("b", 4),
            ("b", 4),
            {"inputs": (TensorSpec("a", "FP32", (4,)),)},
            'takes inputs that model.toml does not declare: "x"; declare them',
        ),
        (("b", 4), ("b", 4), {"outputs": (Y, TensorSpec("z", "FP32", ()))}, 'has no output "z" but "y"'),
        (
            ("b", 4),
            ("b", 4),
            {"outputs": (TensorSpec("y", "BF16", (4,)), TensorSpec("z", "BYTES", ()))},
            "has both BYTES and BF16",
        ),
    ],
)
def test_file_that_differs_from_its_declaration_is_refused_at_load(
    tmp_path: Path, x: tuple[Any, ...], y: tuple[Any, ...], changes: dict[str, Any], said: str
) -> None:
    write_doubling(tmp_path, x, y)
    fault = load_fault(tmp_path, **changes)
    assert str(tmp_path / "model.onnx") in fault and said in fault


def test_very_many_inputs_are_not_all_listed(tmp_path: Path) -> None:
    names = [f"x{i}" for i in range(20)]
    nodes = [helper.make_node("Sum", names, ["y"])]
    write_graph(tmp_path, nodes, [value(name, ["b", 4]) for name in names], [value("y", ["b", 4])])
    assert '"x7" and 12 more' in load_fault(tmp_path)


@pytest.mark.parametrize("shape", [("b", 4), (None, 4), ("b", "n"), (None, None), None])
def test_sizes_that_the_file_leaves_open_are_taken_from_the_declaration(
    tmp_path: Path, shape: tuple[Any, ...] | None
) -> None:
    write_doubling(tmp_path, shape, None)
    predict = load_callable(make_config(), tmp_path, "cpu")
    assert run(predict, x=torch.ones(3, 4))["y"].tolist() == [[2.0] * 4] * 3


def test_fixed_batch_of_one_is_taken_where_no_larger_one_comes(tmp_path: Path) -> None:
    write_doubling(tmp_path, (1, 4), (1, 4))
    predict = load_callable(make_config(batch_size_max=1), tmp_path, "cpu")
    assert run(predict, x=torch.ones(1, 4))["y"].tolist() == [[2.0] * 4]


# ---- external data ---------------------------------------------------------------------------------------------


def write_with_external_weight(folder: Path, location: str) -> None:
    """Write a file that adds a weight which is kept elsewhere."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, text
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    write_graph(folder, nodes, [value("x", ["b", 4])], [value("y", ["b", 4])], [weight])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder with weights in it, beside it, and linked."""
    inside = tmp_path / "model"
    (inside / "deeper").mkdir(parents=True)
    for place in (tmp_path / "out.bin", inside / "in.bin", inside / "deeper" / "in.bin"):
        place.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "out.bin")
    (inside / "up").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("location", ["in.bin", "deeper/in.bin"])
def test_weights_beside_the_file_are_read(folder: Path, location: str) -> None:
    write_with_external_weight(folder, location)
    assert run(load_callable(make_config(), folder, "cpu"), x=torch.ones(1, 4))["y"].tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize(
    "location", ["../out.bin", "deeper/../../out.bin", "/", "link.bin", "up/out.bin", "*/_ORT_MEM_ADDR_/*", "none.bin"]
)
def test_weights_outside_of_the_folder_are_not_read(folder: Path, location: str) -> None:
    """Nor the process's own memory, which onnxruntime has a location for."""
    write_with_external_weight(folder, str(folder.parent / "out.bin") if location == "/" else location)
    assert f"with all of its files in {folder}" in load_fault(folder)


# ---- GPUs ------------------------------------------------------------------------------------------------------


def test_package_without_gpus_refuses_a_gpu_with_both_remedies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_doubling(tmp_path)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    fault = load_fault(tmp_path, "cuda:1")
    assert "does not run on cuda:1" in fault and "(only CPUExecutionProvider)" in fault
    assert "install onnxruntime-gpu in its place" in fault and 'devices = ["cpu"]' in fault


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run on")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_session_that_fell_back_to_the_host_is_not_served_as_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Onnxruntime does so by itself, with a warning only."""
    write_doubling(tmp_path)
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    assert "could not start its CUDAExecutionProvider on cuda:1" in load_fault(tmp_path, "cuda:1")


def test_graphs_of_it_are_not_captured() -> None:
    """The device runs it without."""
    with pytest.raises(CaptureError, match="ONNX Runtime"):
        GraphSet(make_config(), None, None, [1])  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available() or "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs an NVIDIA GPU, a torch built for CUDA, and onnxruntime-gpu",
)
def test_gpu_answers_like_the_network_with_batches_in_flight(tmp_path: Path) -> None:
    """Warmed up as in a node, so that capture is tried and given up."""
    from symphony.execution.devices.cuda import CudaDevice

    write_doubling(tmp_path)
    device = CudaDevice(0)
    device.enter_thread()
    model = device.load(make_config(device_kinds=("cuda",)), tmp_path)
    model.prepare(None)
    assert model.buckets == ()
    flights = [
        (size, model.launch([{"x": np.full(4, 10 * size + row, np.float32)} for row in range(size)]))
        for size in (1, 8, 3)
    ]
    for size, flight in flights:
        assert flight.wait()["y"].tolist() == [[2.0 * (10 * size + row)] * 4 for row in range(size)]
