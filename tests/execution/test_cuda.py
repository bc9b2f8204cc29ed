"""The CUDA device, where a GPU is present: right answers, order, two batches in flight, contained errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.errors import ConfigError

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
