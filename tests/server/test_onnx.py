"""An ONNX model in a node: profiled, batched on two workers and answered over HTTP; one that cannot be is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

pytestmark = pytest.mark.sockets

MODEL = """
name = "{name}"
slo_ms = 400
max_batch_size = 8
format = "onnx"
entry = "model.onnx"
[[inputs]]
name = "x"
datatype = "FP32"
shape = [{size}]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [{size}]
"""


def write_doubling(root: Path, name: str, size: int = 8) -> Path:
    """Write a model of 8 numbers that doubles them; model.toml says that there are `size`. Return its folder."""
    folder = root / name
    folder.mkdir(parents=True)
    tensors = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", 8]) for tensor in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", tensors[:1], tensors[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    (folder / "model.toml").write_text(MODEL.format(name=name, size=size))
    return folder


async def test_onnx_model_is_served_profiled_and_batched_over_http(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    folder = write_doubling(tmp_path / "models", "double")
    async with run_node("2xcpu", profile_budget_s=0.2) as node:
        answers = await asyncio.gather(*(node.infer(n, model="double") for n in range(50)))
        assert [output.tolist() for _, output in answers] == [[2.0 * n] * 8 for n in range(50)]
        async with node.session.get(f"{node.url}/v2/models/double") as reply:
            about = await reply.json()
        assert about["platform"] == "onnxruntime_onnx"  # Triton's name for it
        assert [(one["name"], one["shape"]) for one in about["inputs"]] == [("x", [-1, 8])]
        await node.assert_at_rest()
    assert len(list((folder / "profiles").glob("*.json"))) == 1


async def test_onnx_model_that_is_not_what_it_declares_is_left_out_and_says_why(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_doubling(tmp_path / "models", "double")
    write_doubling(tmp_path / "models", "wrong", size=5)
    async with run_node("cpu", profile_budget_s=0.2) as node:
        status, output = await node.infer(3.0, model="double")
        assert (status, np.asarray(output).tolist()) == (200, [6.0] * 8)
        async with node.session.post(f"{node.url}/v2/repository/index", json={}) as reply:
            (state,) = [one for one in await reply.json() if one["name"] == "wrong"]
        assert state["state"] == "UNAVAILABLE"
        assert 'input "x" has shape [batch, 8], model.toml declares [5]' in state["reason"]
