"""The [execution] table: weights and inputs are converted, outputs come back as declared; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.config.model import ExecutionSpec
from symphony.execution.devices.cpu import CpuDevice
from symphony.execution.formats import ModelLoadError, load_callable

NETWORK = """
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 8, 3)
        self.seen = []

    def forward(self, image):
        self.seen.append((image.dtype, image.is_contiguous(memory_format=torch.channels_last)))
        return self.convolution(image).mean((2, 3))


class Model:
    def load(self, folder, device, parameters):
        self.network = Network().to(device)

    def predict(self, batch):
        return {"y": self.network(batch["image"])}


class Bare:
    def predict(self, batch):
        return {"y": batch["image"].mean((2, 3)).repeat(1, 3)[:, :8]}
"""


def make_config(entry: str = "model.py:Model", **execution: object) -> ModelConfig:
    """Return an image model with this [execution] table."""
    return ModelConfig(
        name="m",
        version="1",
        slo_ms=50.0,
        batch_size_max=4,
        inputs=(TensorSpec("image", "FP32", (3, 6, 6)),),
        outputs=(TensorSpec("y", "FP32", (8,)),),
        format="python",
        entry=entry,
        device_kinds=("cpu",),
        execution=ExecutionSpec(**execution),  # type: ignore[arg-type]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(NETWORK)
    return tmp_path


def answers(config: ModelConfig, folder: Path) -> np.ndarray:
    """Return what the model answers to four fixed images."""
    model = CpuDevice(0, 1).load(config, folder)
    rng = np.random.default_rng(1)
    images = [{"image": rng.standard_normal((3, 6, 6)).astype(np.float32)} for _ in range(4)]
    return model.launch(images).wait()["y"]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "autocast_bf16"])
def test_lower_precision_answers_almost_the_same_in_the_declared_type(folder: Path, precision: str) -> None:
    exact = answers(make_config(), folder)
    rough = answers(make_config(precision=precision), folder)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.02


@pytest.mark.parametrize(
    ("execution", "dtype", "channels_last"),
    [
        ({}, torch.float32, False),
        ({"precision": "fp16"}, torch.float16, False),
        ({"channels_last": True}, torch.float32, True),
        ({"precision": "autocast_bf16"}, torch.float32, False),
    ],
)
def test_network_sees_inputs_as_asked(
    folder: Path, execution: dict[str, object], dtype: torch.dtype, channels_last: bool
) -> None:
    predict = load_callable(make_config(**execution), folder, "cpu")
    with torch.inference_mode():
        predict({"image": torch.zeros(2, 3, 6, 6)})
    (network,) = predict.modules
    assert network.seen == [(dtype, channels_last)]
    expected = torch.float16 if execution.get("precision") == "fp16" else torch.float32
    assert network.convolution.weight.dtype is expected


def test_model_without_modules_cannot_be_converted(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r'model "m".*model.py:Bare.*holds none.*leave the keys out'):
        load_callable(make_config("model.py:Bare", precision="fp16"), folder, "cpu")


def test_autocast_needs_no_modules(folder: Path) -> None:
    assert answers(make_config("model.py:Bare", precision="autocast_bf16"), folder).shape == (4, 8)
