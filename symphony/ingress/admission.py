"""Check a decoded request against a model's schema and split it into the requests it holds. Pure: no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from symphony.config import ModelConfig, TensorSpec
from symphony.config.lengths import VARIES, LengthError, fits, length_of
from symphony.errors import Reason, SymphonyError
from symphony.ingress.deadline import check_timeout, parse_timeout_ms
from symphony.units import ms_to_ns
from symphony.wire import bf16_to_fp32, datatype_of, dtype_of
from symphony.wire.messages import NO_NAMES

PRIORITY_MAX = 8
LENGTH_MAX = 1 << 28
"""Of what preprocessing takes: the body's size is the limit there."""

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Array]


class Admission:
    """Admit requests to one model, by one loaded configuration. `rows` costs under 1 us for a single input tensor."""

    __slots__ = (
        "_bf16_names",
        "_first_dtype",
        "_first_name",
        "_first_shape",
        "_has_finite_check",
        "_specs",
        "_varies",
        "bf16_output_names",
        "config",
        "slo_ns",
    )

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.slo_ns = ms_to_ns(config.slo_ms)
        self._specs = {spec.name: (spec, np.dtype(dtype_of(spec.datatype))) for spec in config.inputs}
        self._bf16_names = frozenset(spec.name for spec in config.inputs if spec.datatype == "BF16")
        self.bf16_output_names = frozenset(spec.name for spec in config.outputs if spec.datatype == "BF16")
        self._varies = any(VARIES in spec.shape for spec in config.inputs)
        self._has_finite_check = any(_is_finite_only(spec) for spec in config.inputs)
        # The fast path is for one input without a look at its numbers; no tensor is called "".
        is_fast = len(config.inputs) == 1 and not self._has_finite_check
        self._first_name = config.inputs[0].name if is_fast else ""
        self._first_shape: tuple[int, ...] = config.inputs[0].shape if is_fast else ()
        self._first_dtype: Any = self._specs[self._first_name][1] if is_fast else None

    def rows(self, inputs: Inputs, bf16_names: frozenset[str] = NO_NAMES) -> tuple[list[Inputs], bool]:
        """Return the inputs of each request inside, and whether they carry a leading batch dimension.

        Each tensor has exactly the shape of the model's input (one request), or that shape behind a leading n, the
        same for all inputs, 1 <= n <= batch_size_max: n requests answered together. The arrays are views of the given
        ones. `bf16_names`: which of the uint16 arrays are BF16. Raises SymphonyError `bad_input` naming the input, what
        came and what is expected.
        """
        array = inputs.get(self._first_name)
        if (
            array is not None
            and len(inputs) == 1
            and array.shape == self._first_shape
            and array.dtype == self._first_dtype
            and bf16_names == self._bf16_names
        ):
            return [inputs], False
        count = self._check(inputs, bf16_names)
        if count == 0:
            return [inputs], False
        return [{name: array[row, ...] for name, array in inputs.items()} for row in range(count)], True

    def deadline_ns(
        self, arrived_ns: int, timeout_ns: int | None, timeout_ms: str | None, slo_ms: str | None, timeout_ns_max: int
    ) -> int:
        """Return the instant by which the answer is wanted.

        The model's SLO after the arrival, unless the request says otherwise: `timeout_ns` from its body, `timeout_ms`
        and `slo_ms` the texts of the headers X-Request-Timeout-Ms and Symphony-Slo-Ms; of several the shortest. Raises
        SymphonyError `bad_input` for one that is no number, not above 0, or above `timeout_ns_max`.
        """
        if timeout_ns is None and timeout_ms is None and slo_ms is None:
            return arrived_ns + self.slo_ns
        name = self.config.name
        wanted_ns = []
        if timeout_ns is not None:
            wanted_ns.append(check_timeout(timeout_ns, timeout_ns_max, name))
        if timeout_ms is not None:
            wanted_ns.append(parse_timeout_ms(timeout_ms, "X-Request-Timeout-Ms", timeout_ns_max, name))
        if slo_ms is not None:
            wanted_ns.append(parse_timeout_ms(slo_ms, "Symphony-Slo-Ms", timeout_ns_max, name))
        return arrived_ns + min(wanted_ns)

    def priority(self, priority: int) -> int:
        """Return the scheduler's priority, 1 (highest) to 8, the model's default for 0; raise `bad_input` otherwise."""
        if priority == 0:
            return self.config.priority_default
        if not 1 <= priority <= PRIORITY_MAX:
            self._refuse(
                f"parameters.priority is {priority}, expected 1 (highest) to {PRIORITY_MAX}, "
                "or 0 for the model's default"
            )
        return priority

    def check_output_names(self, names: tuple[str, ...]) -> None:
        """Raise SymphonyError `bad_input` unless each name is an output of the model."""
        known = [spec.name for spec in self.config.outputs]
        for name in names:
            if name not in known:
                self._refuse(f"no output {_quoted(name)}; outputs: {', '.join(map(_quoted, known))}")

    def check_class_counts(self, class_counts: Mapping[str, int]) -> None:
        """Raise SymphonyError `bad_input` unless each of these outputs of the model holds numbers to rank."""
        for spec in self.config.outputs:
            if spec.name in class_counts and spec.datatype in ("BOOL", "BYTES"):
                self._refuse(f"output {_quoted(spec.name)} is {spec.datatype}, whose elements are no scores to rank")

    def _check(self, inputs: Inputs, bf16_names: frozenset[str]) -> int:
        """Return n of the leading batch dimension, 0 when there is none; raise on any mismatch."""
        for name in inputs:
            if name not in self._specs:
                self._refuse(f"no input {_quoted(name)}; inputs: {', '.join(map(_quoted, self._specs))}")
        counts: dict[str, int] = {}
        for name, (spec, dtype) in self._specs.items():
            array = inputs.get(name)
            if array is None:
                self._refuse(f"input {_quoted(name)} is missing; expected {_described(spec)}")
            if array.dtype != dtype or (name in bf16_names) != (name in self._bf16_names):
                sent = "BF16" if name in bf16_names else datatype_of(array.dtype)
                self._refuse(f"input {_quoted(name)} has datatype {sent}, expected {_described(spec)}")
            counts[name] = self._count_of(spec, array.shape)
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{_quoted(name)} {_counted(count)}" for name, count in counts.items())
            self._refuse(f"inputs disagree on the leading batch dimension: {found}; give all of them the same")
        if self._has_finite_check:
            for name, (spec, _) in self._specs.items():
                numbers = bf16_to_fp32(inputs[name]) if spec.datatype == "BF16" else inputs[name]
                if _is_finite_only(spec) and has_nonfinite(numbers):
                    self._refuse(
                        f"input {_quoted(name)} holds NaN or infinities, which this model refuses (allow_nan = false)"
                    )
        count = next(iter(counts.values()), 0)
        if self._varies:
            self._check_length(inputs, count)
        return count

    def _check_length(self, inputs: Inputs, count: int) -> None:
        """Refuse inputs that differ in length or are longer than the longest bucket."""
        buckets = self.config.network.length_buckets
        rows = inputs if count == 0 else {name: array[0, ...] for name, array in inputs.items()}
        try:
            length_of(rows, self.config.inputs, buckets[-1] if buckets else LENGTH_MAX)
        except LengthError as error:
            self._refuse(str(error))

    def _count_of(self, spec: TensorSpec, shape: tuple[int, ...]) -> int:
        if fits(shape, spec):
            return 0
        batch_size_max = self.config.batch_size_max
        if len(shape) == len(spec.shape) + 1 and fits(shape[1:], spec):
            if 1 <= shape[0] <= batch_size_max:
                return shape[0]
            self._refuse(
                f"input {_quoted(spec.name)} holds {shape[0]} requests, allowed are 1 to {batch_size_max} "
                "(max_batch_size); send the rest in further calls"
            )
        self._refuse(
            f"input {_quoted(spec.name)} has shape {list(shape)}, expected {list(spec.shape)} or, for n requests, "
            f"{['n', *spec.shape]!s} with n from 1 to {batch_size_max}".replace("'", "")
        )

    def _refuse(self, what: str) -> NoReturn:
        name = self.config.name
        raise SymphonyError(Reason.BAD_INPUT, f'model "{name}": {what}', model=name)


def has_nonfinite(array: Array) -> bool:
    """Say whether a floating-point array holds a NaN or an infinity. One pass; two when the sum is not finite."""
    # NaN and infinities make the sum NaN or infinite; large finite numbers may do so too, hence the second look.
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.float32 if array.dtype.itemsize < 4 else None)
    return not np.isfinite(total) and not bool(np.isfinite(array).all())


def _is_finite_only(spec: TensorSpec) -> bool:
    return not spec.allow_nan and spec.datatype in ("FP16", "BF16", "FP32", "FP64")


def _described(spec: TensorSpec) -> str:
    return f"{spec.datatype}{list(spec.shape)}"


def _counted(count: int) -> str:
    return "has none" if count == 0 else f"has {count}"


def _quoted(name: str) -> str:
    shown = name if len(name) <= 64 else name[:61] + "..."
    return f'"{shown}"'
