"""Describe one model as its folder's model.toml does: a frozen, checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of ONE request: OIP `datatype`, `shape` without the batch dimension.

    A size of -1 varies from request to request, and `pad` fills it up to the length that its batch runs at. `allow_nan`
    false refuses NaN and infinities in requests, and fails those whose outputs hold them.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    allow_nan: bool = True
    pad: float = 0.0

    def at_length(self, length: int) -> TensorSpec:
        """Return the tensor with `length` in place of the dimension that varies."""
        return replace(self, shape=tuple(length if size == -1 else size for size in self.shape))


@dataclass(frozen=True, slots=True)
class EmulatedSpec:
    """How an emulated device runs the model: l(b) as alpha and beta or as a table, jitter, faults.

    `jitter` is a standard deviation as a share of l(b). `*_every` inject a fault in each n-th batch (0: never);
    batches larger than `memory_size_max` run out of memory, and after `lost_after` batches the device is lost (0: not).
    Batches grow longer by the share `drift` within `drift_s` seconds of the first, and by `slow_factor` on the device
    with the index `slow_device` (-1: on none). It takes `memory_mb` of a device's memory, `load_ms` to be brought
    there, and every `load_fail_every`-th load fails.
    """

    alpha_ms: float | None = None
    beta_ms: float | None = None
    latency_ms: tuple[float, ...] | None = None
    jitter: float = 0.0
    seed: int = 0
    fail_every: int = 0
    hang_every: int = 0
    wrong_shape_every: int = 0
    nan_every: int = 0
    memory_size_max: int = 0
    lost_after: int = 0
    drift: float = 0.0
    drift_s: float = 60.0
    slow_device: int = -1
    slow_factor: float = 1.0
    memory_mb: float = 0.0
    load_ms: float = 0.0
    load_fail_every: int = 0


@dataclass(frozen=True, slots=True)
class ExecutionSpec:
    """How a model's code is run.

    `precision`: "as_loaded", "fp16" and "bf16" (weights and floating inputs are converted), "autocast_fp16" and
    "autocast_bf16" (torch chooses per operation). `cuda_graphs`: capture one graph per batch bucket where that works.
    """

    precision: str = "as_loaded"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = True


@dataclass(frozen=True, slots=True)
class ProcessingSpec:
    """What is done to one request before and after its batch, in a pool of `worker_count` "threads" or "processes".

    `inputs` and `outputs` are the network's, of one request, where they differ from the model's: empty, they do not.
    """

    entry: str
    kind: str = "threads"
    worker_count: int = 2
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One version of one model; docs/models.md explains each key with its unit and limits.

    `length_buckets`: where a dimension varies (-1), the lengths that batches run at, ascending. `length`: that of
    `at_length`.
    """

    name: str
    version: str
    slo_ms: float
    batch_size_max: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    format: str
    entry: str
    device_kinds: tuple[str, ...]
    warmup_count: int = 3
    priority_default: int = 4
    queue_count_max: int = 4096
    run_timeout_ms: float = 10_000.0
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    execution: ExecutionSpec = ExecutionSpec()
    processing: ProcessingSpec | None = None
    emulated: EmulatedSpec | None = None
    length_buckets: tuple[int, ...] = ()
    length: int = 0

    @property
    def network(self) -> ModelConfig:
        """Return the model as its devices see it: between preprocessing and postprocessing."""
        if self.processing is None:
            return self
        inputs, outputs = self.processing.inputs or self.inputs, self.processing.outputs or self.outputs
        return replace(self, inputs=inputs, outputs=outputs, processing=None)

    def at_length(self, length: int) -> ModelConfig:
        """Return the network for requests padded to `length`, one of `length_buckets`: all its dimensions are fixed."""
        return replace(
            self,
            inputs=tuple(spec.at_length(length) for spec in self.inputs),
            outputs=tuple(spec.at_length(length) for spec in self.outputs),
            length=length,
        )
