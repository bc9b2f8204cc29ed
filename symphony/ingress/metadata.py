"""Describe models as the Open Inference Protocol and Triton's extensions do. Pure: plain dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symphony.config import ModelConfig, TensorSpec
from symphony.ingress.admission import PRIORITY_MAX
from symphony.ingress.service import ServedModel, Service

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_profiling",
    "model_repository",
    "schedule_policy",
    "statistics",
)
"""What is served of the extensions of the protocol, by the names that Triton gave them, and of our own."""
_PLATFORMS = {
    "python": "pytorch_python",
    "torch_export": "pytorch_export",
    "torchscript": "pytorch_libtorch",
    "onnx": "onnxruntime_onnx",
    "emulated": "symphony_emulated",
}
_INSTANCE_KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU", "emulated": "KIND_CPU"}


def server_metadata(service: Service) -> dict[str, Any]:
    """Return the body of `GET /v2`."""
    return {"name": service.name, "version": service.version, "extensions": list(EXTENSIONS)}


def model_metadata(config: ModelConfig, versions: Sequence[str]) -> dict[str, Any]:
    """Return the body of `GET /v2/models/{m}`: shapes begin with -1, the batch dimension that requests may carry.

    `versions`: those that are served.
    """
    return {
        "name": config.name,
        "versions": list(versions),
        "platform": platform(config),
        "inputs": [_metadata_tensor(spec) for spec in config.inputs],
        "outputs": [_metadata_tensor(spec) for spec in config.outputs],
    }


def model_config(config: ModelConfig) -> dict[str, Any]:
    """Return the body of `GET .../config`: Triton's ModelConfig, dims without the batch dimension.

    What Triton's clients read is there, also where it says what Symphony does not do. The scheduler's own settings are
    parameters, as Triton has no field for an SLO.
    """
    texts = {key: _text(value) for key, value in config.parameters.items()} | {"slo_ms": f"{config.slo_ms:g}"}
    return {
        "name": config.name,
        "platform": platform(config),
        "backend": "symphony",
        "version_policy": {"specific": {"versions": [int(config.version)]}},
        "max_batch_size": config.batch_size_max,
        "input": [
            _config_tensor(spec)
            | {"format": "FORMAT_NONE", "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
            for spec in config.inputs
        ],
        "output": [_config_tensor(spec) | {"label_filename": "", "is_shape_tensor": False} for spec in config.outputs],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [
            {"name": f"{config.name}_{kind}", "kind": _INSTANCE_KINDS[kind], "count": 1, "gpus": []}
            for kind in config.device_kinds
            if kind in _INSTANCE_KINDS
        ],
        "default_model_filename": config.entry,
        "cc_model_filenames": {},
        "metric_tags": {},
        "dynamic_batching": {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": PRIORITY_MAX,
            "default_priority_level": config.priority_default,
        },
        "parameters": {key: {"string_value": text} for key, text in texts.items()},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }


def index_entry(model: ServedModel) -> dict[str, str]:
    """Return a model's entry in the repository index."""
    config = model.config
    return {"name": config.name, "version": config.version, "state": model.state, "reason": model.reason}


def platform(config: ModelConfig) -> str:
    """Return the protocol's `<framework>_<format>` for a model."""
    return _PLATFORMS.get(config.format, f"symphony_{config.format}")


def _metadata_tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape)}


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
