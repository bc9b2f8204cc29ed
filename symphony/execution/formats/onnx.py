"""Load `format = "onnx"`: a file run by ONNX Runtime, which the extra `symphony-serve[onnx]` installs.

Inputs and outputs are those of the file by their names, compared with model.toml's when it is loaded. Batches go in
and out without a copy: a session is bound to the memory of torch's tensors, on the host as on a GPU, whatever the
datatype. Models with BYTES are the exception, as texts cannot be bound.

A session has threads of its own: as many as its device has, the caller's among them, so that workers side by side
use the cores they were given and no others. They sleep when there is nothing to do instead of spinning, which would
take the cores from the event loop and from the other workers; waking them costs microseconds in each operation.

Running and loading let go of the GIL. Measured with onnxruntime 1.32: beside a run of 41 ms a thread that sleeps 1 ms
at a time woke up 36 times, 2.1 ms apart at most, and beside a load of 219 ms (160 MB) 193 times, 4.2 ms apart; the
same thread alone saw 2.7 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.formats.onnx_signature import ELEMENTS, signature_faults
from symphony.execution.trouble import ModelLoadError, file_in

VERSION_MIN = (1, 24)
"""Older ones follow a file's external data out of its folder, and into the process's own memory."""
_CUDA_PROVIDER, _CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"
_LOG_FATAL = 4
_NO_MEMORY = "Failed to allocate memory"
"""What onnxruntime says when it finds none, on the host and on GPUs."""


def runtime_version() -> str:
    """Return the installed onnxruntime's version, "" without one: what a latency was measured with."""
    try:
        return str(_runtime("").__version__)
    except ModelLoadError:
        return ""


def load_onnx(config: ModelConfig, folder: Path, torch_device: str, thread_count: int) -> OnnxModel:
    """Return the file as a callable on the device, computing on the host with `thread_count` threads.

    Raise ModelLoadError if it cannot be one, if it is not what model.toml declares, or if onnxruntime is missing.
    """
    file = file_in(folder, config.entry, config.name)
    runtime = _runtime(config.name)
    device = torch.device(torch_device)
    stream = 0
    if device.type == "cuda":
        _check_gpu(config, runtime, device)
        stream = torch.cuda.current_stream(device).cuda_stream
    try:
        session = runtime.InferenceSession(str(file), _options(runtime, thread_count), _providers(device, stream))
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {file} cannot be loaded on {torch_device} by onnxruntime {runtime.__version__}: '
            f"{type(error).__name__}: {error}; export it again, with all of its files in {folder}"
        ) from error
    if device.type == "cuda" and _CUDA_PROVIDER not in session.get_providers():
        raise ModelLoadError(
            f'model "{config.name}": onnxruntime {runtime.__version__} could not start its {_CUDA_PROVIDER} on '
            f"{torch_device} (it has said why on stderr); install the CUDA and cuDNN that it was built for, or set "
            'devices = ["cpu"] in model.toml'
        )
    # Else a run that fails on the GPU would make the session over for the host.
    session.disable_fallback()
    faults = signature_faults(config, session.get_inputs(), session.get_outputs())
    if faults:
        raise ModelLoadError(f'model "{config.name}": {file}: {"; ".join(faults)}')
    return OnnxModel(config, session, device, stream)


class OnnxModel:
    """A session called with a batch. `modules` is empty: torch has no part in it."""

    sample = None
    modules: Sequence[torch.nn.Module] = ()

    def __init__(self, config: ModelConfig, session: Any, device: torch.device, stream: int) -> None:
        self._inputs = config.inputs
        self._outputs = config.outputs
        self._session = session
        self._device = device
        self._stream = stream
        """The CUDA stream that the session computes on; 0: one of its own, or it is on the host."""
        self._has_texts = any(spec.datatype == "BYTES" for spec in (*config.inputs, *config.outputs))

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs by their names, when they are computed.

        Raise MemoryError, on a GPU torch.OutOfMemoryError, where it does not fit, and onnxruntime's own errors.
        """
        if self._device.type == "cuda":
            current = torch.cuda.current_stream(self._device)
            if not self._stream or current.cuda_stream != self._stream:
                current.synchronize()  # the session computes on another, and must find the inputs there
        try:
            return self._run_fed(batch) if self._has_texts else self._run_bound(batch)
        except Exception as error:
            if _NO_MEMORY not in str(error):
                raise
            kind = torch.OutOfMemoryError if self._device.type == "cuda" else MemoryError
            raise kind(str(error)) from error

    def _run_bound(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Run on the tensors' own memory. onnxruntime refuses to write an output of another shape than is bound."""
        size = len(batch[self._inputs[0].name])
        inputs = {spec.name: batch[spec.name].contiguous() for spec in self._inputs}
        outputs = {
            spec.name: torch.empty((size, *spec.shape), dtype=TORCH_DTYPES[spec.datatype], device=self._device)
            for spec in self._outputs
        }
        binding = self._session.io_binding()
        for spec in self._inputs:
            binding.bind_input(spec.name, *self._place(spec, inputs[spec.name]))
        for spec in self._outputs:
            binding.bind_output(spec.name, *self._place(spec, outputs[spec.name]))
        self._session.run_with_iobinding(binding)
        return outputs

    def _place(self, spec: TensorSpec, tensor: torch.Tensor) -> tuple[str, int, int, list[int], int]:
        """Return where a tensor lies and what it is, as bindings want it."""
        number = ELEMENTS[spec.datatype].number
        return self._device.type, self._device.index or 0, number, list(tensor.shape), tensor.data_ptr()

    def _run_fed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run on arrays of the host, which is where texts are."""
        feed = {
            spec.name: _texts(spec, batch[spec.name]) if spec.datatype == "BYTES" else batch[spec.name].cpu().numpy()
            for spec in self._inputs
        }
        values = self._session.run([spec.name for spec in self._outputs], feed)
        return {
            spec.name: _bytes(value) if spec.datatype == "BYTES" else torch.from_numpy(value)
            for spec, value in zip(self._outputs, values, strict=True)
        }


def _runtime(model: str) -> Any:
    """Return the onnxruntime module; raise ModelLoadError if there is none, or one too old to be trusted with files."""
    try:
        import onnxruntime  # an optional extra, and slow to import
    except ImportError as error:
        raise ModelLoadError(
            f'model "{model}": format "onnx" needs onnxruntime, which cannot be imported ({error}); '
            'pip install "symphony-serve[onnx]"'
        ) from error
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < VERSION_MIN:
        raise ModelLoadError(
            f'model "{model}": onnxruntime {onnxruntime.__version__} reads files outside of a model\'s folder where '
            f'the model asks for it; pip install "symphony-serve[onnx]", which takes {".".join(map(str, VERSION_MIN))} '
            "or newer"
        )
    return onnxruntime


def _check_gpu(config: ModelConfig, runtime: Any, device: torch.device) -> None:
    """Raise ModelLoadError if onnxruntime was built for no GPU."""
    offered = runtime.get_available_providers()
    if _CUDA_PROVIDER not in offered:
        raise ModelLoadError(
            f'model "{config.name}": onnxruntime {runtime.__version__} as installed does not run on {device}: it has '
            f"no {_CUDA_PROVIDER} (only {', '.join(offered)}); install onnxruntime-gpu in its place, or set devices = "
            '["cpu"] in model.toml'
        )


def _options(runtime: Any, thread_count: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = thread_count
    options.inter_op_num_threads = 1  # batches and operations run one after another
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _LOG_FATAL  # it raises what it would write to stderr
    return options


def _providers(device: torch.device, stream: int) -> list[Any]:
    if device.type != "cuda":
        return [_CPU_PROVIDER]
    options = {"device_id": str(device.index or 0)} | ({"user_compute_stream": str(stream)} if stream else {})
    # What no kernel for GPUs can do is done on the host, between copies that the session adds to the graph.
    return [(_CUDA_PROVIDER, options), _CPU_PROVIDER]


def _texts(spec: TensorSpec, elements: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return bytes as the texts that onnxruntime's strings are; raise ValueError for what is none."""
    texts = np.empty(elements.size, dtype=object)
    try:
        texts[:] = [element.decode() for element in elements.reshape(-1)]
    except UnicodeDecodeError as error:
        raise ValueError(f'input "{spec.name}" is not UTF-8, which texts of an ONNX model must be: {error}') from error
    return texts.reshape(elements.shape)


def _bytes(texts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    elements = np.empty(texts.size, dtype=object)
    elements[:] = [text.encode() for text in texts.reshape(-1)]
    return elements.reshape(texts.shape)
