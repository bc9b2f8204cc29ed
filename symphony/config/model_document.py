"""Read a model.toml into a `ModelConfig`, or say everything that is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainValidator, field_validator, model_validator

from symphony.config.document import Document, read_document, shown
from symphony.config.lengths import VARIES
from symphony.config.model import EmulatedSpec, ExecutionSpec, ModelConfig, ProcessingSpec, Scalar, TensorSpec

DATATYPES = [
    *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES"),
]
SLO_MS_MIN, SLO_MS_MAX = 1.0, 60_000.0
BATCH_SIZE_LIMIT = 4096
TENSOR_COUNT_MAX = 64
DIMENSION_COUNT_MAX = 8
ELEMENT_COUNT_MAX = 1 << 28
ENTRY_CHARS_MAX = 512
PARAMETER_COUNT_MAX = 256
WORKER_COUNT_MAX = 256
LENGTH_BUCKET_COUNT_MAX = 32
LENGTH_MAX = 1 << 20
PYTHON_ENTRY = "'file.py:Class', the file in the model's folder, or 'package.module:Class'"
"""What an entry of Python code looks like, in the words of an error."""
FAULT_PERIOD_MAX = 1 << 31
VERSION_CHARS_MAX = 18
NAMES_TAKEN = ("stats",)
"""Names that paths of the inference protocol use where a model's name stands: `/v2/models/stats`."""
Format = Literal["python", "torch_export", "torchscript", "onnx", "emulated"]
DeviceKind = Literal["cpu", "cuda", "emulated"]
Precision = Literal["as_loaded", "fp16", "bf16", "autocast_fp16", "autocast_bf16"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(rf"[1-9][0-9]{{0,{VERSION_CHARS_MAX - 1}}}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_FILE_ENTRY = re.compile(_FILE.pattern + r"\.py:[A-Za-z_][A-Za-z0-9_]*")
_PACKAGE_ENTRY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")


def _whole_as_number(value: Any) -> Any:
    """Take 50 where 50.0 is meant: whole numbers are fine, booleans and strings are not."""
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, (str, int, float, bool)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a parameter must be text, a finite number, true or false; write lists as text")
    return value


Number = Annotated[float, BeforeValidator(_whole_as_number)]


class TensorDocument(Document):
    """One `[[inputs]]` or `[[outputs]]` table."""

    name: str = Field(min_length=1, max_length=128)
    datatype: str
    shape: list[int] = Field(max_length=DIMENSION_COUNT_MAX)
    allow_nan: bool = True
    pad: Number = 0.0

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"it must be one of {', '.join(DATATYPES)}; choose one")
        return value

    @field_validator("shape")
    @classmethod
    def _in_range(cls, shape: list[int]) -> list[int]:
        elements = 1
        for size in shape:
            if size < 1 and size != VARIES:
                raise ValueError(
                    "each dimension must be at least 1, or -1 for one that varies; leave the batch dimension out"
                )
            elements *= abs(size)
        if shape.count(VARIES) > 1:
            raise ValueError("one dimension of a tensor may vary (-1), not several; give the others a size")
        if elements > ELEMENT_COUNT_MAX:
            raise ValueError(f"one request would have {elements} elements, above {ELEMENT_COUNT_MAX}; make it smaller")
        return shape


class EmulatedDocument(Document):
    """The `[emulated]` table."""

    alpha_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    beta_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    latency_ms: list[Annotated[Number, Field(le=SLO_MS_MAX)]] | None = Field(default=None, max_length=BATCH_SIZE_LIMIT)
    jitter: Number = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = 0
    fail_every: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)
    hang_every: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)
    wrong_shape_every: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)
    nan_every: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)
    memory_size_max: int = Field(default=0, ge=0, le=BATCH_SIZE_LIMIT)
    lost_after: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)
    drift: Number = Field(default=0.0, ge=-0.9, le=10.0)
    drift_s: Number = Field(default=60.0, ge=0.001, le=86_400.0)
    slow_device: int = Field(default=-1, ge=-1, le=1 << 16)
    slow_factor: Number = Field(default=1.0, ge=0.1, le=100.0)
    memory_mb: Number = Field(default=0.0, ge=0.0, le=1e9)
    load_ms: Number = Field(default=0.0, ge=0.0, le=SLO_MS_MAX)
    load_fail_every: int = Field(default=0, ge=0, le=FAULT_PERIOD_MAX)

    @model_validator(mode="after")
    def _one_profile(self) -> EmulatedDocument:
        has_line = self.alpha_ms is not None or self.beta_ms is not None
        if has_line == (self.latency_ms is not None):
            raise ValueError("give either alpha_ms and beta_ms (l(b) = alpha_ms * b + beta_ms) or the table latency_ms")
        if has_line and (self.alpha_ms is None or self.beta_ms is None or self.alpha_ms + self.beta_ms <= 0.0):
            raise ValueError("alpha_ms and beta_ms must both be given, and not both be 0; add the other")
        if self.latency_ms is not None:
            before = 0.0
            for value in self.latency_ms:
                if value <= 0.0 or value < before:
                    raise ValueError(
                        "latency_ms must be positive and must not fall from one batch size to the next; mend the table"
                    )
                before = value
        return self


class ExecutionDocument(Document):
    """The `[execution]` table."""

    precision: Precision = "as_loaded"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = True


class ProcessingDocument(Document):
    """The `[processing]` table."""

    entry: str = Field(min_length=1, max_length=ENTRY_CHARS_MAX)
    kind: Literal["threads", "processes"] = "threads"
    worker_count: int = Field(default=2, ge=1, le=WORKER_COUNT_MAX)
    inputs: list[TensorDocument] = Field(default=[], max_length=TENSOR_COUNT_MAX)
    outputs: list[TensorDocument] = Field(default=[], max_length=TENSOR_COUNT_MAX)

    @field_validator("entry")
    @classmethod
    def _is_python(cls, value: str) -> str:
        if not _names_python(value):
            raise ValueError(f"it must be {PYTHON_ENTRY}")
        return value

    @field_validator("inputs", "outputs")
    @classmethod
    def _unique(cls, tensors: list[TensorDocument]) -> list[TensorDocument]:
        return _with_names_that_differ(tensors)


class ModelDocument(Document):
    """A whole model.toml."""

    name: str
    version: str = "1"
    slo_ms: Number = Field(ge=SLO_MS_MIN, le=SLO_MS_MAX)
    max_batch_size: int = Field(ge=1, le=BATCH_SIZE_LIMIT)
    format: Format
    entry: str = Field(default="", max_length=ENTRY_CHARS_MAX)
    devices: list[DeviceKind] = Field(default=[], min_length=1, max_length=len(get_args(DeviceKind)))
    warmup_count: int = Field(default=3, ge=0, le=1000)
    priority_default: int = Field(default=4, ge=1, le=8)
    queue_count_max: int = Field(default=4096, ge=1, le=1 << 20)
    run_timeout_ms: Number = Field(default=10_000.0, ge=1.0, le=3_600_000.0)
    inputs: list[TensorDocument] = Field(min_length=1, max_length=TENSOR_COUNT_MAX)
    outputs: list[TensorDocument] = Field(min_length=1, max_length=TENSOR_COUNT_MAX)
    parameters: dict[str, Annotated[Scalar, PlainValidator(_scalar)]] = Field(
        default_factory=dict, max_length=PARAMETER_COUNT_MAX
    )
    execution: ExecutionDocument = ExecutionDocument()
    processing: ProcessingDocument | None = None
    emulated: EmulatedDocument | None = None
    length_buckets: list[int] = Field(default=[], max_length=LENGTH_BUCKET_COUNT_MAX)

    @field_validator("name")
    @classmethod
    def _fits_a_path(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                "it must be 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit; rename the model"
            )
        if value in NAMES_TAKEN:
            raise ValueError(f"/v2/models/{value} is a path of the inference protocol; rename the model")
        return value

    @field_validator("version")
    @classmethod
    def _counts_up(cls, value: str) -> str:
        if not _VERSION.fullmatch(value):
            raise ValueError(
                f"it must be a positive whole number of at most {VERSION_CHARS_MAX} digits, in quotes; "
                'write for example "1"'
            )
        return value

    @field_validator("length_buckets")
    @classmethod
    def _ascends(cls, value: list[int]) -> list[int]:
        if any(one < 1 or one > LENGTH_MAX for one in value) or sorted(set(value)) != value:
            raise ValueError(f"it must be lengths from 1 to {LENGTH_MAX} that ascend; write for example [32, 64, 128]")
        return value

    @field_validator("devices")
    @classmethod
    def _once(cls, value: list[DeviceKind]) -> list[DeviceKind]:
        if len(set(value)) < len(value):
            raise ValueError("a kind of device stands twice; name each once")
        return value

    @field_validator("inputs", "outputs")
    @classmethod
    def _unique(cls, tensors: list[TensorDocument]) -> list[TensorDocument]:
        return _with_names_that_differ(tensors)

    @classmethod
    def cross_faults(cls, raw: Mapping[str, Any]) -> list[str]:
        """Return what does not go together: entry, devices and [emulated] with `format`; lengths with their buckets."""
        form = raw.get("format")
        faults = _length_faults(raw)
        if form == "emulated":
            return faults + _emulated_faults(raw)
        if form not in get_args(Format):
            return faults
        if "emulated" in raw:
            faults.append(
                f'table [emulated] is not allowed with format = "{form}"; leave it out, or set format = "emulated"'
            )
        devices = raw.get("devices")
        if isinstance(devices, list) and "emulated" in devices:
            faults.append(
                f"key 'devices' is {shown(devices)}: only format = \"emulated\" runs on emulated devices; "
                'leave "emulated" out'
            )
        faults += _execution_faults(str(form), raw.get("execution"))
        return faults + _entry_faults(str(form), raw.get("entry", ""))


def _with_names_that_differ(tensors: list[TensorDocument]) -> list[TensorDocument]:
    names = [tensor.name for tensor in tensors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"name {name!r} stands twice: tensor names must differ; rename one")
    return tensors


def _names_python(entry: str) -> bool:
    pattern = _FILE_ENTRY if ".py:" in entry else _PACKAGE_ENTRY
    return bool(pattern.fullmatch(entry)) and ".." not in entry


def _length_faults(raw: Mapping[str, Any]) -> list[str]:
    """Return where dimensions that vary, their buckets and the tensors' sizes do not go together."""
    processing = raw.get("processing")
    own = processing if isinstance(processing, dict) else {}
    inputs = _shapes(own.get("inputs") or raw.get("inputs"))
    outputs = _shapes(own.get("outputs") or raw.get("outputs"))
    varies = any(VARIES in shape for shape in inputs.values())
    buckets = raw.get("length_buckets")
    faults = []
    if varies and not buckets:
        name = next(name for name, shape in inputs.items() if VARIES in shape)
        faults.append(
            f"key 'length_buckets' is missing: input {name!r} varies in length (-1); say which lengths batches run at, "
            "for example length_buckets = [32, 64, 128]"
        )
    if buckets and not varies:
        faults.append(
            f"key 'length_buckets' is {shown(buckets)}: no input of the network varies in length; leave it out, or "
            "give an input a dimension of -1"
        )
    for name, shape in outputs.items():
        if VARIES in shape and not varies:
            faults.append(f"output {name!r} varies in length (-1): no input of the network does; give it a size")
    longest = buckets[-1] if isinstance(buckets, list) and buckets and type(buckets[-1]) is int else 1
    for name, shape in (inputs | outputs).items():
        elements = math.prod(longest if size == VARIES else size for size in shape)
        if VARIES in shape and elements > ELEMENT_COUNT_MAX:
            faults.append(
                f"tensor {name!r} would have {elements} elements at length {longest}, above {ELEMENT_COUNT_MAX}; "
                "make it smaller"
            )
    return faults


def _shapes(tensors: Any) -> dict[str, list[int]]:
    """Return name -> shape of the tables that are well-formed; what is wrong with others is said elsewhere."""
    found = {}
    for one in tensors if isinstance(tensors, list) else ():
        shape = one.get("shape") if isinstance(one, dict) else None
        if isinstance(shape, list) and all(type(size) is int for size in shape):
            found[str(one.get("name"))] = shape
    return found


def _emulated_faults(raw: Mapping[str, Any]) -> list[str]:
    faults = []
    if "emulated" not in raw:
        faults.append('table [emulated] is missing: format = "emulated" needs it; add it with alpha_ms and beta_ms')
    if raw.get("entry", "") != "":
        faults.append(f"key 'entry' is {shown(raw['entry'])}: an emulated model has no code; leave it out")
    if "execution" in raw:
        faults.append('table [execution] is not allowed with format = "emulated", which runs no code; leave it out')
    if raw.get("devices", ["emulated"]) != ["emulated"]:
        faults.append(
            f"key 'devices' is {shown(raw['devices'])}: an emulated model runs on emulated devices only; "
            'write ["emulated"] or leave it out'
        )
    emulated, size_max = raw.get("emulated"), raw.get("max_batch_size")
    table = emulated.get("latency_ms") if isinstance(emulated, dict) else None
    if isinstance(table, list) and type(size_max) is int and len(table) != size_max:
        faults.append(
            f"key 'emulated.latency_ms' has {len(table)} entries: it must have max_batch_size = {size_max}, one for "
            "each batch size from 1; change one of them"
        )
    return faults


def _execution_faults(form: str, execution: Any) -> list[str]:
    """Return what the [execution] table asks for that the model's format cannot be given."""
    if form == "python" or not isinstance(execution, dict):
        return []
    autocast = ("autocast_fp16", "autocast_bf16") if form == "onnx" else ()
    asked = [key for key in ("channels_last", "compile") if execution.get(key) is True]
    asked += ["precision"] if execution.get("precision") in ("fp16", "bf16", *autocast) else []
    why = "ONNX Runtime runs the file as it is" if form == "onnx" else 'it works with format = "python" only'
    return [
        f"key 'execution.{key}' is {shown(execution[key])}: {why}; export the model that way instead, or leave it out"
        for key in asked
    ]


def _entry_faults(form: str, entry: Any) -> list[str]:
    if not isinstance(entry, str) or len(entry) > ENTRY_CHARS_MAX:
        return []  # said already
    if form == "python":
        fits, wanted = _names_python(entry), PYTHON_ENTRY
    else:
        fits = bool(_FILE.fullmatch(entry)) and ".." not in entry
        wanted = f"a file in the model's folder, such as '{'model.onnx' if form == 'onnx' else 'model.pt2'}'"
    if fits:
        return []
    return [f"key 'entry' is {shown(entry)}: format = \"{form}\" needs {wanted}"]


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
        device_kinds=tuple(document.devices) or (("emulated",) if emulated else ("cpu", "cuda")),
        warmup_count=document.warmup_count,
        priority_default=document.priority_default,
        queue_count_max=document.queue_count_max,
        run_timeout_ms=document.run_timeout_ms,
        parameters=document.parameters,
        execution=ExecutionSpec(**document.execution.model_dump()),
        processing=None if document.processing is None else _processing(document.processing),
        emulated=None if emulated is None else _emulated(emulated),
        length_buckets=tuple(document.length_buckets),
    )


def _specs(tensors: list[TensorDocument]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype, tuple(one.shape), one.allow_nan, one.pad) for one in tensors)


def _processing(document: ProcessingDocument) -> ProcessingSpec:
    return ProcessingSpec(
        document.entry, document.kind, document.worker_count, _specs(document.inputs), _specs(document.outputs)
    )


def _emulated(document: EmulatedDocument) -> EmulatedSpec:
    values = document.model_dump()
    table = values.pop("latency_ms")
    return EmulatedSpec(**values, latency_ms=None if table is None else tuple(table))
