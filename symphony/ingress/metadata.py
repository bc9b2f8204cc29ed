"""Describe models as the Open Inference Protocol and Triton's extensions do. Pure: plain dictionaries for JSON."""

from __future__ import annotations

from typing import Any

from symphony.config import ModelConfig, TensorSpec
from symphony.ingress.service import ServedModel, Service

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_profiling", "model_repository", "statistics")
_PLATFORMS = {
    "python": "pytorch_python",
    "torch_export": "pytorch_export",
    "torchscript": "pytorch_libtorch",
    "onnx": "onnxruntime_onnx",
    "emulated": "symphony_emulated",
}


def server_metadata(service: Service) -> dict[str, Any]:
    """Return the body of `GET /v2`."""
    return {"name": service.name, "version": service.version, "extensions": list(EXTENSIONS)}


def model_metadata(config: ModelConfig) -> dict[str, Any]:
    """Return the body of `GET /v2/models/{m}`: shapes begin with -1, the batch dimension that requests may carry."""
    return {
        "name": config.name,
        "versions": [config.version],
        "platform": platform(config),
        "inputs": [_metadata_tensor(spec, config.batch_size_max) for spec in config.inputs],
        "outputs": [_metadata_tensor(spec, config.batch_size_max) for spec in config.outputs],
    }


def model_config(config: ModelConfig) -> dict[str, Any]:
    """Return the body of `GET .../config`: Triton's ModelConfig, dims without the batch dimension, SLO as parameter."""
    texts = {key: _text(value) for key, value in config.parameters.items()} | {"slo_ms": f"{config.slo_ms:g}"}
    return {
        "name": config.name,
        "platform": platform(config),
        "backend": "symphony",
        "version_policy": {"specific": {"versions": [config.version]}},
        "max_batch_size": config.batch_size_max,
        "input": [_config_tensor(spec) for spec in config.inputs],
        "output": [_config_tensor(spec) for spec in config.outputs],
        "dynamic_batching": {},
        "parameters": {key: {"string_value": text} for key, text in texts.items()},
    }


def index_entry(model: ServedModel) -> dict[str, str]:
    """Return a model's entry in the repository index."""
    config = model.config
    return {"name": config.name, "version": config.version, "state": model.state, "reason": model.reason}


def platform(config: ModelConfig) -> str:
    """Return the protocol's `<framework>_<format>` for a model."""
    return _PLATFORMS.get(config.format, f"symphony_{config.format}")


def _metadata_tensor(spec: TensorSpec, batch_size_max: int) -> dict[str, Any]:
    shape = [-1, *spec.shape] if batch_size_max > 0 else list(spec.shape)
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape)}


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
