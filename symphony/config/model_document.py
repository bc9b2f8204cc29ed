"""Read a model.toml into a `ModelConfig`, or say everything that is wrong with it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from symphony.config.document import Document, read_document
from symphony.config.model import EmulatedSpec, ModelConfig, TensorSpec

DATATYPES = (
    "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 FP16 FP32 FP64 BF16 BYTES"  # fmt: skip
).split()
SLO_MS_MIN, SLO_MS_MAX = 1.0, 60_000.0
BATCH_SIZE_LIMIT = 4096
TENSOR_COUNT_MAX = 64
DIMENSION_COUNT_MAX = 8
ELEMENT_COUNT_MAX = 1 << 28
VERSION_CHARS_MAX = 18
_FILE_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\.py:[A-Za-z_][A-Za-z0-9_]*")
_PACKAGE_ENTRY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")

# TOML writes 50 where a number of milliseconds is meant: whole numbers are fine, booleans and strings are not.
Number = Annotated[
    float, BeforeValidator(lambda value: float(value) if type(value) is int and abs(value) < 2**53 else value)
]


class TensorDocument(Document):
    """One `[[inputs]]` or `[[outputs]]` table."""

    name: str = Field(min_length=1, max_length=128)
    datatype: str
    shape: list[int] = Field(max_length=DIMENSION_COUNT_MAX)
    allow_nan: bool = True

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"it must be one of {', '.join(DATATYPES)}")
        return value

    @field_validator("shape")
    @classmethod
    def _fixed(cls, shape: list[int]) -> list[int]:
        elements = 1
        for size in shape:
            if size == -1:
                raise ValueError("dimensions that vary (-1) are not served; give a fixed size and pad the inputs to it")
            if size < 1:
                raise ValueError("each dimension must be at least 1; leave the batch dimension out")
            elements *= size
        if elements > ELEMENT_COUNT_MAX:
            raise ValueError(f"one request would have {elements} elements, above {ELEMENT_COUNT_MAX}; make it smaller")
        return shape


class EmulatedDocument(Document):
    """The `[emulated]` table."""

    alpha_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    beta_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    latency_ms: list[Number] | None = None
    jitter: Number = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = 0
    fail_every: int = Field(default=0, ge=0)
    hang_every: int = Field(default=0, ge=0)
    wrong_shape_every: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_profile(self) -> EmulatedDocument:
        has_line = self.alpha_ms is not None or self.beta_ms is not None
        if has_line == (self.latency_ms is not None):
            raise ValueError("give either alpha_ms and beta_ms (l(b) = alpha_ms * b + beta_ms) or the table latency_ms")
        if has_line and (self.alpha_ms is None or self.beta_ms is None or self.alpha_ms + self.beta_ms <= 0.0):
            raise ValueError("alpha_ms and beta_ms must both be given, and not both be 0")
        if self.latency_ms is not None:
            before = 0.0
            for value in self.latency_ms:
                if value <= 0.0 or value < before:
                    raise ValueError("latency_ms must be positive and must not fall from one batch size to the next")
                before = value
        return self


class ModelDocument(Document):
    """A whole model.toml."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    version: str = Field(default="1", pattern=rf"^[1-9][0-9]{{0,{VERSION_CHARS_MAX - 1}}}$")
    slo_ms: Number = Field(ge=SLO_MS_MIN, le=SLO_MS_MAX)
    max_batch_size: int = Field(ge=1, le=BATCH_SIZE_LIMIT)
    format: Literal["python", "torch_export", "torchscript", "emulated"]
    entry: str = ""
    devices: list[Literal["cpu", "cuda", "emulated"]] | None = Field(default=None, min_length=1, max_length=3)
    warmup_count: int = Field(default=3, ge=0, le=1000)
    priority_default: int = Field(default=4, ge=1, le=8)
    queue_count_max: int = Field(default=4096, ge=1, le=1 << 20)
    run_timeout_ms: Number = Field(default=10_000.0, ge=1.0, le=3_600_000.0)
    inputs: list[TensorDocument] = Field(min_length=1, max_length=TENSOR_COUNT_MAX)
    outputs: list[TensorDocument] = Field(min_length=1, max_length=TENSOR_COUNT_MAX)
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=256)
    emulated: EmulatedDocument | None = None

    @field_validator("inputs", "outputs")
    @classmethod
    def _unique(cls, tensors: list[TensorDocument]) -> list[TensorDocument]:
        names = [tensor.name for tensor in tensors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"name {name!r} stands twice; tensor names must differ")
        return tensors

    @model_validator(mode="after")
    def _fits_format(self) -> ModelDocument:
        if (self.format == "emulated") != (self.emulated is not None):
            raise ValueError('an [emulated] table is needed with format = "emulated", and allowed with no other')
        if self.format == "emulated":
            if self.entry:
                raise ValueError(f"key 'entry' is {self.entry!r}: an emulated model has no code; leave it out")
            if self.devices not in (None, ["emulated"]):
                raise ValueError(
                    f"key 'devices' is {self.devices!r}: an emulated model runs on \"emulated\" devices only"
                )
            table = self.emulated.latency_ms if self.emulated else None
            if table is not None and len(table) != self.max_batch_size:
                raise ValueError(
                    f"key 'emulated.latency_ms' has {len(table)} entries: it needs max_batch_size = {self.max_batch_size}"
                )
            return self
        if self.devices is not None and "emulated" in self.devices:
            raise ValueError(f"key 'devices' is {self.devices!r}: only format = \"emulated\" runs on emulated devices")
        pattern, wanted = _FILE, "the model's file in the folder, such as 'model.pt2'"
        if self.format == "python":
            is_file = ".py:" in self.entry
            pattern, wanted = (_FILE_ENTRY if is_file else _PACKAGE_ENTRY), "'file.py:Class' or 'package.module:Class'"
        if not pattern.fullmatch(self.entry) or ".." in self.entry:
            raise ValueError(f"key 'entry' is {self.entry!r}: format {self.format!r} needs {wanted}, inside the folder")
        return self


def parse_model_config(text: str, file: str) -> ModelConfig:
    """Return the model that `text`, the contents of `file`, describes; raise ConfigError with every fault."""
    document = read_document(ModelDocument, text, file)
    emulated = document.emulated
    return ModelConfig(
        name=document.name,
        version=document.version,
        slo_ms=document.slo_ms,
        batch_size_max=document.max_batch_size,
        inputs=_specs(document.inputs),
        outputs=_specs(document.outputs),
        format=document.format,
        entry=document.entry,
        device_kinds=tuple(document.devices or (["emulated"] if emulated else ["cpu", "cuda"])),
        warmup_count=document.warmup_count,
        priority_default=document.priority_default,
        queue_count_max=document.queue_count_max,
        run_timeout_ms=document.run_timeout_ms,
        parameters=document.parameters,
        emulated=None if emulated is None else _emulated(emulated),
    )


def _specs(tensors: list[TensorDocument]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype, tuple(one.shape), one.allow_nan) for one in tensors)


def _emulated(document: EmulatedDocument) -> EmulatedSpec:
    values = document.model_dump()
    table = values.pop("latency_ms")
    return EmulatedSpec(**values, latency_ms=None if table is None else tuple(table))
