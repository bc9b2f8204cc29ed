"""Hold a latency profile: how long a batch of each size takes on one kind of device, as measured."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from symphony.errors import ConfigError
from symphony.units import ms_to_ns

FORMAT_VERSION = 2
BATCH_SIZE_LIMIT = 4096
DURATION_NS_MAX = 3_600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """l(b) at the measured batch sizes: median and 99th percentile in nanoseconds, and what they were measured on.

    `sample_counts` says of how many runs each figure is made (with under 100 the 99th percentile is the largest).
    `input_ns` and `output_ns` are the medians of the copies to the device and back, which l(b) leaves out where they
    overlap other batches (on a GPU). `buckets`: batches were padded to these sizes, as CUDA graphs are; empty: not.
    `memory_bytes`: what the loaded model took of the device's memory; 0: not known.
    """

    batch_sizes: tuple[int, ...]
    median_ns: tuple[int, ...]
    p99_ns: tuple[int, ...]
    sample_counts: tuple[int, ...]
    model: str
    version: str
    device: str
    torch_version: str
    measured_on: str
    fingerprint: str
    input_ns: tuple[int, ...] = ()
    output_ns: tuple[int, ...] = ()
    buckets: tuple[int, ...] = ()
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] != 1 or any(b <= a for a, b in pairwise(sizes)):
            raise ConfigError(f"profile of {self.model}: batch sizes {list(sizes)} must start at 1 and grow")
        if not len(sizes) == len(self.median_ns) == len(self.p99_ns) == len(self.sample_counts):
            raise ConfigError(f"profile of {self.model}: its columns differ in length; measure it again")
        for copies in (self.input_ns, self.output_ns):
            if len(copies) not in (0, len(sizes)) or any(not 0 <= value <= DURATION_NS_MAX for value in copies):
                raise ConfigError(f"profile of {self.model}: copies of {list(copies)} ns cannot be; measure again")
        if self.buckets and (self.buckets[0] < 1 or any(b <= a for a, b in pairwise(self.buckets))):
            raise ConfigError(f"profile of {self.model}: buckets {list(self.buckets)} must grow; measure again")
        if self.buckets and self.buckets[-1] != sizes[-1]:
            raise ConfigError(f"profile of {self.model}: its buckets end at {self.buckets[-1]}; measure again")
        if self.memory_bytes < 0:
            raise ConfigError(f"profile of {self.model}: {self.memory_bytes} bytes cannot be; measure again")
        for size, median, p99 in zip(sizes, self.median_ns, self.p99_ns, strict=True):
            if not 0 < median <= DURATION_NS_MAX or not median <= p99 <= DURATION_NS_MAX:
                raise ConfigError(
                    f"profile of {self.model}: l({size}) = {median} ns, p99 {p99} ns cannot be; measure again"
                )

    @classmethod
    def from_table(cls, latency_ns: Sequence[int], model: str = "", version: str = "1") -> LatencyProfile:
        """Return an exact profile from l(1), l(2), ..., as declared and not measured."""
        count = len(latency_ns)
        table = tuple(latency_ns)
        return cls(
            tuple(range(1, count + 1)), table, table, (1,) * count, model, version, "declared", "", "", "declared"
        )

    @classmethod
    def linear(
        cls, alpha_ms: float, beta_ms: float, batch_size_max: int, model: str = "", version: str = "1"
    ) -> LatencyProfile:
        """Return the exact profile l(b) = alpha b + beta for b in 1..`batch_size_max`, as declared and not measured."""
        table = [ms_to_ns(alpha_ms * size + beta_ms) for size in range(1, batch_size_max + 1)]
        return cls.from_table(table, model, version)

    def table_ns(self, batch_size_max: int) -> tuple[int, ...]:
        """Return l(1..batch_size_max): the medians, made monotone, straight lines between measured sizes.

        Raise ConfigError if `batch_size_max` was not covered: nothing is extrapolated.
        """
        if batch_size_max > self.batch_sizes[-1]:
            raise ConfigError(
                f"profile of {self.model} ends at batch size {self.batch_sizes[-1]}, max_batch_size is "
                f"{batch_size_max}; measure it again"
            )
        return _interpolate(self.batch_sizes, _monotone(self.median_ns), batch_size_max)

    def jitter_ns(self) -> int:
        """Return the largest p99 minus median over the sizes: what a scheduler should keep free for jitter alone."""
        return max(p99 - median for median, p99 in zip(_monotone(self.median_ns), _monotone(self.p99_ns), strict=True))

    def fit(self) -> tuple[float, float]:
        """Return (alpha_ns, beta_ns) of the least-squares line through the medians; of one size: (l(1), 0)."""
        count = len(self.batch_sizes)
        if count == 1:
            return float(self.median_ns[0]), 0.0
        mean_b = sum(self.batch_sizes) / count
        mean_l = sum(self.median_ns) / count
        spread = sum((size - mean_b) ** 2 for size in self.batch_sizes)
        points = zip(self.batch_sizes, self.median_ns, strict=True)
        alpha = sum((size - mean_b) * (median - mean_l) for size, median in points) / spread
        return alpha, mean_l - alpha * mean_b

    def matches(self, device: str, torch_version: str, fingerprint: str) -> bool:
        """Return whether it was measured on such a device, with this torch and this model's files."""
        return (self.device, self.torch_version, self.fingerprint) == (device, torch_version, fingerprint)

    def to_json(self) -> str:
        """Return the profile as indented JSON."""
        return json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, file: str) -> LatencyProfile:
        """Return the profile that `to_json` wrote; raise ConfigError naming `file` for anything else."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file} is no latency profile: {error}; delete it to measure again") from None
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT_VERSION or set(raw) != set(cls.__slots__):
            raise ConfigError(f"{file} is no latency profile of format {FORMAT_VERSION}; delete it to measure again")
        for name, value in raw.items():
            raw[name] = _checked(name, value, file)
        try:
            return cls(**raw)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None


def _checked(name: str, value: Any, file: str) -> Any:
    """Return the value in the type its field has."""
    if name == "memory_bytes":
        if type(value) is int:
            return value
    elif name in ("batch_sizes", "median_ns", "p99_ns", "sample_counts", "input_ns", "output_ns", "buckets"):
        if isinstance(value, list) and len(value) <= BATCH_SIZE_LIMIT and all(type(item) is int for item in value):
            return tuple(value)
    elif isinstance(value, str) and len(value) <= 1024:
        return value
    raise ConfigError(f"{file}: {name} is not what a latency profile holds; delete the file to measure again")


def _monotone(values: Sequence[int]) -> list[int]:
    """Return the running maximum: a staircase stays one, a dip is raised to what came before."""
    result: list[int] = []
    for value in values:
        result.append(max(value, result[-1]) if result else value)
    return result


def _interpolate(sizes: Sequence[int], values: Sequence[int], batch_size_max: int) -> tuple[int, ...]:
    table = []
    for size in range(1, batch_size_max + 1):
        at = bisect_left(sizes, size)
        if sizes[at] == size:
            table.append(values[at])
            continue
        low, high = sizes[at - 1], sizes[at]
        rise = (values[at] - values[at - 1]) * (size - low)
        table.append(values[at - 1] + -(-rise // (high - low)))
    return tuple(table)
