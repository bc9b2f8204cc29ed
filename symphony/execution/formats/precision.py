"""Run a loaded model as model.toml's `[execution]` table says: precision, memory format, compilation.

"fp16" and "bf16" convert the weights once, which is the fastest and halves their memory; the model's code must not
insist on another type. The autocast precisions leave the weights alone and let torch choose per operation, at the
price of converting weights in every batch. Either way outputs come back in the declared datatype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from symphony.config import ModelConfig
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.trouble import ModelLoadError

if TYPE_CHECKING:
    from symphony.execution.formats import Predict, Sample

_CONVERTED = {"fp16": torch.float16, "bf16": torch.bfloat16}
_AUTOCAST = {"autocast_fp16": torch.float16, "autocast_bf16": torch.bfloat16}
_IMAGE_DIMENSIONS = 4


def prepared(predict: Predict, config: ModelConfig) -> Predict:
    """Return the model run as its `[execution]` table says, itself where that asks for nothing.

    Raise ModelLoadError where it asks to change modules and the model holds none.
    """
    spec = config.execution
    dtype = _CONVERTED.get(spec.precision)
    autocast = _AUTOCAST.get(spec.precision)
    if dtype is None and autocast is None and not spec.channels_last and not spec.compile:
        return predict
    if not predict.modules and (dtype is not None or spec.channels_last or spec.compile):
        raise ModelLoadError(
            f'model "{config.name}": [execution] asks to convert or compile its torch modules, but {config.entry} is '
            "no torch.nn.Module and holds none as an attribute; keep the network in one, or leave the keys out"
        )
    for module in predict.modules:
        if dtype is not None:
            module.to(dtype)
        if spec.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if spec.compile:
            # Without torch's own graph trees, which assert when another thread replays them.
            module.compile(options={"triton.cudagraphs": False})
    return _Prepared(predict, config, dtype, autocast)


class _Prepared:
    """A model whose inputs and outputs are converted around each batch."""

    def __init__(
        self, predict: Predict, config: ModelConfig, dtype: torch.dtype | None, autocast: torch.dtype | None
    ) -> None:
        self._predict = predict
        self._dtype = dtype
        self._autocast = autocast
        self._channels_last = config.execution.channels_last
        self._is_compiled = config.execution.compile
        self._declared = {spec.name: TORCH_DTYPES[spec.datatype] for spec in config.outputs if spec.datatype != "BYTES"}

    @property
    def sample(self) -> Sample | None:
        return self._predict.sample

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        return self._predict.modules

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs, floating ones in the declared datatype."""
        inputs = {name: self._converted(value) for name, value in batch.items()}
        with self._context(inputs):
            outputs = self._predict(inputs)
        if not isinstance(outputs, Mapping):
            return outputs
        return {name: self._declared_type(name, value) for name, value in outputs.items()}

    def _converted(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if self._dtype is not None and value.is_floating_point():
            value = value.to(self._dtype)
        if self._channels_last and value.dim() == _IMAGE_DIMENSIONS:
            value = value.contiguous(memory_format=torch.channels_last)
        if self._is_compiled and value.dim() and value.shape[0] > 1:
            # One compilation for all batch sizes but 1.
            torch._dynamo.maybe_mark_dynamic(value, 0)
        return value

    def _context(self, inputs: Mapping[str, Any]) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        on_cuda = any(isinstance(value, torch.Tensor) and value.is_cuda for value in inputs.values())
        # Weights cached inside a capture would outlive it in the graph's own memory.
        return torch.autocast("cuda" if on_cuda else "cpu", dtype=self._autocast, cache_enabled=False)

    def _declared_type(self, name: str, value: Any) -> Any:
        wanted = self._declared.get(name)
        if wanted is None or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value.to(wanted) if wanted.is_floating_point else value
