"""The demo tells right answers from wrong ones: here the node is faked by the models themselves."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import symphony
from symphony.config import ModelConfig
from symphony.config.lengths import padded
from symphony.errors import Reason, SymphonyError
from symphony.execution.devices.cpu import CpuDevice
from symphony.execution.processing import ProcessingPool
from symphony.execution.repository import Repository

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGE_COUNT = 100
REFUSE_EVERY = 25


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Return, by name, a function from one request's inputs to its outputs, as a node would process them."""
    device = CpuDevice(0, 1)
    return {
        config.name: answering(device.load(at_longest(config.network), folder), config, folder)
        for config, folder in Repository(EXAMPLES / "models").scan()
    }


def at_longest(network: ModelConfig) -> ModelConfig:
    return network.at_length(network.length_buckets[-1]) if network.length_buckets else network


def answering(model: Any, config: ModelConfig, folder: Path) -> Any:
    pool = ProcessingPool(config, folder) if config.processing is not None else None

    def answer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if pool is not None and "preprocess" in pool.steps:
            inputs = pool.submit("preprocess", inputs).result()
        if model.config.length:
            specs = config.network.inputs
            inputs = {spec.name: padded(inputs[spec.name], spec, model.config.length) for spec in specs}
        outputs = {name: value[0] for name, value in model.launch([inputs]).wait().items()}
        if pool is not None and "postprocess" in pool.steps:
            outputs = pool.submit("postprocess", outputs).result()
        return outputs

    return answer


@pytest.fixture
def run_demo(loaded, monkeypatch):
    """Return a function that runs the demo; `spoil(model, outputs)` changes what the faked node answers."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(spoil) -> Any:
        class FakeClient:
            asked_count = 0

            def __init__(self, url: str) -> None:
                assert url == "http://fake"

            async def __aenter__(self) -> FakeClient:
                return self

            async def __aexit__(self, *_: object) -> None:
                pass

            async def infer(self, model: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                FakeClient.asked_count += 1
                if FakeClient.asked_count % REFUSE_EVERY == 0:
                    raise SymphonyError(Reason.WOULD_MISS, "too late", model=model, retry_after_s=0.001)
                return spoil(model, loaded[model](inputs))

        monkeypatch.setattr(symphony, "AsyncClient", FakeClient)
        import train_digits

        images, held_out_images, labels, held_out_labels = train_digits.split_digits()
        few = (images, held_out_images[:IMAGE_COUNT], labels, held_out_labels[:IMAGE_COUNT])
        monkeypatch.setattr(train_digits, "split_digits", lambda: few)
        import demo

        monkeypatch.delitem(sys.modules, "demo")
        return CliRunner().invoke(demo.main, ["--url", "http://fake"])

    return run


def test_demo_ends_well_when_every_answer_is_right(run_demo) -> None:
    result = run_demo(lambda _, outputs: outputs)
    assert result.exit_code == 0, result.output
    assert "WRONG" not in result.output
    assert result.output.count("right") == 6
    assert re.search(r"the images, twice:.* [1-9]\d* refused and sent again", result.output)


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("minilm", lambda outputs: {"embedding": outputs["embedding"] + np.float32(1e-4)}),
        ("digits", lambda outputs: {"logits": -outputs["logits"]}),
        ("digits_export", lambda outputs: {"logits": outputs["logits"] + np.float32(0.01)}),
    ],
)
def test_demo_ends_with_a_failure_when_an_answer_is_wrong(run_demo, model, change) -> None:
    result = run_demo(lambda asked, outputs: change(outputs) if asked == model else outputs)
    assert result.exit_code == 1, result.output
    assert "WRONG" in result.output
