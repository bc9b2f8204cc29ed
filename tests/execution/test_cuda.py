"""The CUDA device, where a GPU is present: right answers, order, two batches in flight, contained errors."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.config.model import ExecutionSpec
from symphony.errors import ConfigError
from symphony.execution.staging import StagingRing

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch built for CUDA"),
]

MODEL = """
import torch


class Affine:
    def load(self, folder, device, parameters):
        self.weight = torch.arange(4.0, device=device)

    def predict(self, batch):
        x = batch["x"]
        if (x[:, 0] < 0).any():
            raise ValueError("a negative number")
        return {"y": x * 2 + self.weight}
"""


def make_config() -> ModelConfig:
    """Return a model of four numbers in and out."""
    return ModelConfig(
        name="affine",
        version="1",
        slo_ms=50.0,
        batch_size_max=8,
        inputs=(TensorSpec("x", "FP32", (4,)),),
        outputs=(TensorSpec("y", "FP32", (4,)),),
        format="python",
        entry="model.py:Affine",
        device_kinds=("cuda",),
    )


def test_batches_in_flight_keep_their_answers_apart(tmp_path: Path) -> None:
    """Three slots are reused over 50 batches, two of them in flight at any time."""
    from symphony.execution.devices.cuda import CudaDevice

    (tmp_path / "model.py").write_text(MODEL)
    device = CudaDevice(0)
    device.enter_thread()
    model = device.load(make_config(), tmp_path)
    before = None
    for number in range(50):
        flight = model.launch([{"x": np.full(4, number + row, np.float32)} for row in range(1 + number % 8)])
        if before is not None:
            earlier, value, size = before
            outputs = earlier.wait()["y"]
            assert outputs.shape == (size, 4)
            expected = 2 * (value + np.arange(size, dtype=np.float32))[:, None] + np.arange(4, dtype=np.float32)
            np.testing.assert_allclose(outputs, expected)
            assert earlier.started_ns > 0
        before = (flight, number, 1 + number % 8)


def test_error_stays_in_its_batch(tmp_path: Path) -> None:
    """The next batch runs."""
    from symphony.execution.devices.cuda import CudaDevice

    (tmp_path / "model.py").write_text(MODEL)
    device = CudaDevice(0)
    device.enter_thread()
    model = device.load(make_config(), tmp_path)
    with pytest.raises(ValueError, match="negative"):
        model.launch([{"x": np.full(4, -1, np.float32)}])
    assert model.launch([{"x": np.zeros(4, np.float32)}]).wait()["y"].tolist() == [[0, 1, 2, 3]]


def test_gpu_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """By its index."""
    from symphony.execution.devices.cuda import CudaDevice

    with pytest.raises(ConfigError, match="this machine has"):
        CudaDevice(torch.cuda.device_count())


NETWORK = """
import torch


class Network:
    def load(self, folder, device, parameters):
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU()]
        for _ in range(6):
            layers += [torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).to(device)

    def predict(self, batch):
        return {"y": self.network(batch["image"])}


class Noisy(Network):
    def predict(self, batch):
        y = self.network(batch["image"])
        return {"y": y + torch.randn_like(y)}


class Synchronising(Network):
    def predict(self, batch):
        y = self.network(batch["image"])
        if y.sum().item() > 1e30:
            raise ValueError("too much")
        return {"y": y}
"""


def make_image_config(entry: str = "model.py:Network", size_max: int = 24, **execution: object) -> ModelConfig:
    """Return a small convolutional network with this [execution] table."""
    return ModelConfig(
        name="network",
        version="1",
        slo_ms=50.0,
        batch_size_max=size_max,
        inputs=(TensorSpec("image", "FP32", (3, 32, 32)),),
        outputs=(TensorSpec("y", "FP32", (16,)),),
        format="python",
        entry=entry,
        device_kinds=("cuda",),
        execution=ExecutionSpec(**execution),  # type: ignore[arg-type]
    )


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Return random images."""
    rng = np.random.default_rng(seed)
    return [{"image": rng.standard_normal((3, 32, 32)).astype(np.float32)} for _ in range(count)]


def load(device: Any, folder: Path, config: ModelConfig, buckets: tuple[int, ...] | None = None) -> Any:
    """Return the model, prepared."""
    (folder / "model.py").write_text(NETWORK)
    device.enter_thread()
    model = device.load(config, folder)
    model.prepare(buckets)
    return model


@pytest.fixture
def device() -> Any:
    from symphony.execution.devices.cuda import CudaDevice

    return CudaDevice(0)


def test_graphs_answer_as_eager_does_at_every_size(device: Any, tmp_path: Path) -> None:
    graphs = load(device, tmp_path, make_image_config())
    eager = load(device, tmp_path, make_image_config(cuda_graphs=False))
    assert graphs.buckets[-1] == 24 and eager.buckets == ()
    assert graphs.memory_bytes > 0
    for size in range(1, 25):
        batch = images(size, size)
        ours, theirs = graphs.launch(batch).wait()["y"], eager.launch(batch).wait()["y"]
        assert ours.shape == (size, 16)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_given_buckets_are_captured_as_they_are(device: Any, tmp_path: Path) -> None:
    assert load(device, tmp_path, make_image_config(), (3, 24)).buckets == (3, 24)
    assert load(device, tmp_path, make_image_config(), ()).buckets == ()


def test_model_that_cannot_be_captured_runs_without_and_says_why(
    device: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(device, tmp_path, make_image_config("model.py:Synchronising"))
    assert model.buckets == ()
    assert 'model "network" runs without CUDA graphs on cuda:0' in caplog.text
    assert "could not be captured" in caplog.text
    assert model.launch(images(5)).wait()["y"].shape == (5, 16)


def test_capture_beside_a_running_model_harms_neither(device: Any, tmp_path: Path) -> None:
    running = load(device, tmp_path, make_image_config())
    batch = images(24)
    expected = running.launch(batch).wait()["y"]
    is_done = threading.Event()
    faults: list[BaseException] = []
    counts = [0]

    def run() -> None:
        device.enter_thread()
        try:
            while not is_done.is_set():
                np.testing.assert_allclose(running.launch(batch).wait()["y"], expected, rtol=1e-3, atol=1e-4)
                counts[0] += 1
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        (tmp_path / "other").mkdir()
        for _ in range(3):
            other = load(device, tmp_path / "other", make_image_config())
            assert other.buckets
            np.testing.assert_allclose(other.launch(batch).wait()["y"], expected, rtol=1e-3, atol=1e-4)
    finally:
        is_done.set()
        thread.join()
    assert not faults
    assert counts[0] > 10


def test_answers_are_not_overwritten_by_later_batches(device: Any, tmp_path: Path) -> None:
    model = load(device, tmp_path, make_image_config())
    kept = []
    for seed in range(20):
        outputs = model.launch(images(8, seed)).wait()["y"]
        kept.append((outputs, outputs.copy()))
    for outputs, copy in kept:
        np.testing.assert_array_equal(outputs, copy)


@pytest.mark.parametrize(
    "execution",
    [
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"precision": "autocast_fp16"},
        {"precision": "fp16", "channels_last": True},
    ],
)
def test_precisions_answer_within_their_tolerance(device: Any, tmp_path: Path, execution: dict[str, object]) -> None:
    exact = load(device, tmp_path, make_image_config()).launch(images(6)).wait()["y"]
    model = load(device, tmp_path, make_image_config(**execution))
    assert model.buckets
    rough = model.launch(images(6)).wait()["y"]
    assert rough.dtype == np.float32
    assert np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.02


def test_compiled_model_is_captured_and_answers_the_same(device: Any, tmp_path: Path) -> None:
    exact = load(device, tmp_path, make_image_config(size_max=4)).launch(images(3)).wait()["y"]
    model = load(device, tmp_path, make_image_config(size_max=4, compile=True))
    assert model.buckets
    np.testing.assert_allclose(model.launch(images(3)).wait()["y"], exact, rtol=1e-2, atol=1e-3)


def test_next_batch_is_copied_while_one_runs_and_follows_without_a_gap(device: Any, tmp_path: Path) -> None:
    size = 1024
    config = make_image_config(size_max=size)
    model = load(device, tmp_path, config, (size,))
    ring = StagingRing(config)
    batch = [staged for one in images(size) if (staged := ring.stage(one)) is not None]
    model.launch(batch).wait()
    gaps, durations, waits = [], [], []
    for _ in range(20):
        first, second = model.launch(batch), model.launch(batch)
        begin_ns = time.monotonic_ns()
        first.wait()
        second.wait()
        waits.append(time.monotonic_ns() - begin_ns)
        gaps.append(second.gap_ns)
        durations.append(second.timing.duration_ns)
    assert sorted(gaps)[10] < 50_000, gaps
    # The second copy takes its time, but not after the first batch.
    assert sorted(waits)[10] < 2.6 * sorted(durations)[10], (waits, durations, second.timing)


def test_staged_and_gathered_requests_mix_in_a_batch(device: Any, tmp_path: Path) -> None:
    config = make_image_config()
    model = load(device, tmp_path, config)
    ring = StagingRing(config)
    plain = images(12)
    mixed: list[Any] = list(plain)
    for place in (1, 2, 3, 7, 8, 11):
        mixed[place] = ring.stage(plain[place])
        ring.stage(plain[0])  # a row in between, freed at once
    expected = model.launch(plain).wait()["y"]
    np.testing.assert_array_equal(model.launch(mixed).wait()["y"], expected)


def test_model_that_draws_random_numbers_is_not_captured(
    device: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(device, tmp_path, make_image_config("model.py:Noisy"))
    assert model.buckets == ()
    assert "it draws random numbers" in caplog.text
    one = images(1)
    assert not np.array_equal(model.launch(one).wait()["y"], model.launch(one).wait()["y"])


def test_memory_comes_back_with_the_model(device: Any, tmp_path: Path) -> None:
    load(device, tmp_path, make_image_config())
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        model = load(device, tmp_path, make_image_config())
        model.launch(images(4)).wait()
        del model
        gc.collect()
    assert torch.cuda.memory_allocated() - before < 1 << 20


def test_weights_come_back_at_the_rate_of_the_bus_and_give_memory_back(tmp_path: Path) -> None:
    """256 MB from pinned memory, at 10 GB/s or more; while they are away the GPU does not hold them."""
    from symphony.execution.devices.weights import Weights

    gpu = torch.device("cuda", 0)
    network = torch.nn.Linear(8192, 8192, device=gpu)
    load, compute = torch.cuda.Stream(gpu), torch.cuda.Stream(gpu)
    batch = torch.randn(4, 8192, device=gpu)
    expected = network(batch)
    held = torch.cuda.memory_allocated(gpu)
    weights = Weights([network], gpu)
    weights.evict()
    assert torch.cuda.memory_allocated(gpu) <= held - weights.byte_count
    weights.restore(load, compute)
    with torch.cuda.stream(compute):
        assert torch.equal(network(batch), expected)
    best_ns = min(weights.measure_ns(load, compute) for _ in range(5))
    print(f"{weights.byte_count / best_ns:.1f} GB/s")
    assert weights.byte_count / best_ns >= 10


def test_text_encoder_is_captured_and_answers_as_on_the_cpu(device: Any, tmp_path: Path) -> None:
    """And an id that it does not know, which would end the process, spoils its own request alone."""
    pytest.importorskip("transformers", minversion="5")
    from symphony.execution.devices.cpu import CpuDevice
    from tests.encoder_files import HIDDEN_SIZE, VOCABULARY, write_encoder

    write_encoder(tmp_path)
    names = ("input_ids", "attention_mask")
    config = ModelConfig(
        name="encoder",
        version="1",
        slo_ms=50.0,
        batch_size_max=8,
        inputs=tuple(TensorSpec(name, "INT64", (8,)) for name in names),
        outputs=(TensorSpec("embedding", "FP32", (HIDDEN_SIZE,)),),
        format="python",
        entry="symphony.execution.encoders:TextEncoder",
        device_kinds=("cpu", "cuda"),
        parameters={"task": "embedding"},
    )
    model = load(device, tmp_path, config)
    assert model.buckets
    rng = np.random.default_rng(0)
    requests = [
        {"input_ids": rng.integers(0, len(VOCABULARY), 8), "attention_mask": (np.arange(8) < real).astype(np.int64)}
        for real in (8, 5, 1, 7)
    ]
    expected = CpuDevice(0, 1).load(config, tmp_path).launch(requests).wait()["embedding"]
    np.testing.assert_allclose(model.launch(requests).wait()["embedding"], expected, atol=1e-4)
    requests[1]["input_ids"][2] = 1 << 40
    found = model.launch(requests).wait()["embedding"]
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-4)
