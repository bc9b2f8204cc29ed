"""Compare the inputs and outputs of an ONNX file, as onnxruntime tells them, with those that model.toml declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from symphony.config import ModelConfig, TensorSpec

NAMES_SHOWN_MAX = 8


class Element(NamedTuple):
    """What onnxruntime calls tensors of a datatype, and the datatype's number in ONNX (TensorProto.DataType)."""

    kind: str
    number: int


ELEMENTS = {
    "FP32": Element("tensor(float)", 1),
    "UINT8": Element("tensor(uint8)", 2),
    "INT8": Element("tensor(int8)", 3),
    "UINT16": Element("tensor(uint16)", 4),
    "INT16": Element("tensor(int16)", 5),
    "INT32": Element("tensor(int32)", 6),
    "INT64": Element("tensor(int64)", 7),
    "BYTES": Element("tensor(string)", 8),
    "BOOL": Element("tensor(bool)", 9),
    "FP16": Element("tensor(float16)", 10),
    "FP64": Element("tensor(double)", 11),
    "UINT32": Element("tensor(uint32)", 12),
    "UINT64": Element("tensor(uint64)", 13),
    "BF16": Element("tensor(bfloat16)", 16),
}


def signature_faults(config: ModelConfig, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[str]:
    """Return every difference between the file's inputs and outputs (onnxruntime's NodeArg) and model.toml's.

    An output of the file that model.toml leaves out is none: it is not computed.
    """
    faults = []
    for kind, specs, nodes in (("input", config.inputs, inputs), ("output", config.outputs, outputs)):
        found = {node.name: node for node in nodes}
        for spec in specs:
            if spec.name not in found:
                faults.append(
                    f'has no {kind} "{spec.name}" but {_listed(list(found))}; use its names in model.toml, or export '
                    "it with these"
                )
                continue
            fault = _tensor_fault(spec, found[spec.name], config.batch_size_max)
            if fault:
                faults.append(f'{kind} "{spec.name}" {fault}')
        declared = {spec.name for spec in specs}
        missing = [name for name in found if name not in declared]
        if kind == "input" and missing:
            faults.append(f"takes inputs that model.toml does not declare: {_listed(missing)}; declare them")
    if {spec.datatype for spec in (*config.inputs, *config.outputs)} >= {"BYTES", "BF16"}:
        faults.append(
            "has both BYTES and BF16: onnxruntime gives texts to numpy only, which has no BF16; export it with FP32"
        )
    return faults


def _tensor_fault(spec: TensorSpec, node: Any, batch_size_max: int) -> str:
    """Return how an input or output differs from its declaration, "" if it does not; free sizes are not compared."""
    wanted = ELEMENTS[spec.datatype].kind
    if node.type != wanted:
        return f"is {node.type}, model.toml declares {spec.datatype}, which is {wanted}; change one of them"
    shape = list(node.shape)
    if not shape:
        return ""  # what onnxruntime says of one whose number of dimensions it does not know
    differs = any(isinstance(size, int) and size != one for size, one in zip(shape[1:], spec.shape, strict=False))
    if len(shape) != len(spec.shape) + 1 or differs:
        return (
            f"has shape [{', '.join(map(_size_text, shape))}], model.toml declares {list(spec.shape)} behind the batch "
            "dimension; change one of them"
        )
    size = shape[0]
    if isinstance(size, int) and not size == batch_size_max == 1:
        instead = ", or set max_batch_size = 1" if size == 1 else ""
        return (
            f"has a fixed batch of {size}, max_batch_size is {batch_size_max}; export it with a first dimension that "
            f"varies (dynamic_shapes of torch.onnx.export){instead}"
        )
    return ""


def _size_text(size: int | str | None) -> str:
    return "?" if size is None else str(size)


def _listed(names: Sequence[str]) -> str:
    """Return names for a message, the first of very many."""
    shown = ", ".join(f'"{name}"' for name in names[:NAMES_SHOWN_MAX]) or "none"
    more = len(names) - NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown
