"""Read and write the structure of Open Inference Protocol messages, shared by the JSON and the msgpack form.

Works on decoded maps and lists; how a tensor's data is found is the caller's (`DataReader`). Keys that mean nothing
here are ignored, as the protocol asks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from symphony.units import NS_PER_US
from symphony.wire.faults import bad_input, quoted, shown
from symphony.wire.limits import DEFAULT_LIMITS, WireLimits
from symphony.wire.messages import (
    NO_CHOICES,
    NO_COUNTS,
    NO_NAMES,
    NO_PARAMETERS,
    Array,
    Form,
    FormKind,
    InferRequest,
    InferResponse,
    Scalar,
)
from symphony.wire.tensors import Datatype, check_shape, find_datatype

PRIORITY_MAX: Final = 8
_RESERVED: Final = ("timeout", "priority", "binary_data_output")


class DataReader(Protocol):
    """Find the data of a message's tensors, one after the other."""

    is_binary: bool
    """Whether replies are raw when the request does not say; asked after all tensors were taken."""

    def take(self, item: dict[str, Any], datatype: Datatype, shape: Any, count: int, what: str) -> Array:
        """Return a tensor's array, given its map, datatype, checked shape, element count and name in errors."""
        ...


@dataclass(slots=True)
class Parameters:
    """A request's `parameters`: those with a meaning here, and the rest."""

    timeout_ns: int | None = None
    priority: int = 0
    binary_data_output: bool | None = None
    rest: Mapping[str, Scalar] = field(default_factory=lambda: NO_PARAMETERS)


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a message, and which of them are BF16."""

    arrays: dict[str, Array]
    bf16_names: frozenset[str]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a map's pairs as a dict; raise ValueError for a repeated key, whose meaning would be the parser's whim."""
    message = dict(pairs)
    if len(message) != len(pairs):
        raise ValueError("a map has the same key twice")
    return message


def check_message(message: Any) -> dict[str, Any]:
    """Return the decoded message if it is a map; raise `bad_input` otherwise."""
    if type(message) is not dict:
        raise bad_input(f'the message is {shown(message)}, expected a map with "inputs" (see docs/wire.md)')
    return message


def check_text(value: Any, what: str, length_max: int, limit_name: str) -> str:
    """Return a text of at most `length_max` characters that UTF-8 can hold; raise `bad_input` naming `what` if not."""
    if type(value) is not str:
        raise bad_input(f"{what} is {shown(value)}, expected a text")
    if len(value) > length_max:
        raise bad_input(f"{what} has {len(value)} characters, allowed are {length_max} ({limit_name})")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad_input(f"{what} holds half of a surrogate pair, which UTF-8 cannot hold") from None
    return value


def check_name(value: Any, role: str, limits: WireLimits) -> str:
    """Return a tensor's name; raise `bad_input` unless it is a text of 1 to `name_length_max` characters."""
    if value == "":
        raise bad_input(f"an {role} has an empty name")
    return check_text(value, f"the name of an {role}", limits.name_length_max, "name_length_max")


def check_id(value: Any, limits: WireLimits) -> str | None:
    """Return a message's id, None for none."""
    return None if value is None else check_text(value, "id", limits.id_length_max, "id_length_max")


def timeout_to_ns(timeout_us: Any, what: str, limits: WireLimits) -> int:
    """Return a timeout in microseconds as nanoseconds; raise `bad_input` unless it is an integer above 0."""
    if type(timeout_us) is not int or timeout_us <= 0:
        raise bad_input(f"{what} is {shown(timeout_us)}, expected an integer of microseconds above 0")
    if timeout_us > limits.timeout_us_max:
        raise bad_input(
            f"{what} is {shown(timeout_us)} microseconds, allowed are {limits.timeout_us_max} (timeout_us_max)"
        )
    return timeout_us * NS_PER_US


def check_priority(priority: Any, what: str) -> int:
    """Return a priority, 0 to `PRIORITY_MAX`; raise `bad_input` otherwise."""
    if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        raise bad_input(
            f"{what} is {shown(priority)}, expected 1 (highest) to {PRIORITY_MAX}, or 0 for the model's default"
        )
    return priority


def check_parameters(parameters: Any, limits: WireLimits) -> dict[str, Scalar]:
    """Return `parameters` (texts, numbers and truths by name); raise `bad_input` otherwise. {} for None."""
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise bad_input(f"parameters is {shown(parameters)}, expected a map")
    if len(parameters) > limits.parameter_count_max:
        raise bad_input(f"{len(parameters)} parameters, allowed are {limits.parameter_count_max} (parameter_count_max)")
    for name, value in parameters.items():
        check_text(name, "the name of a parameter", limits.name_length_max, "name_length_max")
        what = f"parameter {quoted(name)}"
        if type(value) is str:
            check_text(value, what, limits.parameter_length_max, "parameter_length_max")
        elif type(value) is float:
            if not math.isfinite(value):
                raise bad_input(f"{what} is {shown(value)}, expected a finite number")
        elif type(value) is not int and type(value) is not bool:
            raise bad_input(f"{what} is {shown(value)}, expected a text, a number, true or false")
    return parameters


def read_parameters(parameters: Any, limits: WireLimits) -> Parameters:
    """Return a request's parameters, those with a meaning taken out and checked."""
    checked = check_parameters(parameters, limits)
    if not checked:
        return Parameters()
    timeout_ns = None
    if "timeout" in checked:
        timeout_ns = timeout_to_ns(checked["timeout"], "parameters.timeout", limits)
    priority = check_priority(checked.get("priority", 0), "parameters.priority")
    is_binary = checked.get("binary_data_output")
    if is_binary is not None and type(is_binary) is not bool:
        raise bad_input(f"parameters.binary_data_output is {shown(is_binary)}, expected true or false")
    rest = {name: value for name, value in checked.items() if name not in _RESERVED}
    return Parameters(timeout_ns, priority, is_binary, rest or NO_PARAMETERS)


def read_tensors(items: Any, role: str, reader: DataReader, limits: WireLimits) -> Tensors:
    """Return the tensors of a list of maps {name, datatype, shape, ...}, in their order.

    `role` ("input", "output") names them in errors. In msgpack `items` may be a map name -> {dtype, shape, ...}.
    """
    if type(items) is dict:
        pairs = list(items.items())
    elif type(items) is list:
        pairs = [(None, item) for item in items]
    else:
        raise bad_input(f"{role}s is {shown(items)}, expected a list of tensors")
    if len(pairs) > limits.tensor_count_max:
        raise bad_input(f"{len(pairs)} {role}s, allowed are {limits.tensor_count_max} (tensor_count_max)")
    arrays: dict[str, Array] = {}
    bf16_names: list[str] = []
    for key, item in pairs:
        if type(item) is not dict:
            raise bad_input(f"an {role} is {shown(item)}, expected a map with its name, datatype, shape and data")
        name = check_name(item.get("name") if key is None else key, role, limits)
        what = f"{role} {quoted(name)}"
        if name in arrays:
            raise bad_input(f"{what} is given twice; give each tensor a name of its own")
        datatype = find_datatype(item.get("datatype", item.get("dtype")), what)
        shape = item.get("shape")
        count = check_shape(shape, what, limits)
        arrays[name] = reader.take(item, datatype, shape, count, what)
        if datatype.name == "BF16":
            bf16_names.append(name)
    return Tensors(arrays, frozenset(bf16_names) if bf16_names else NO_NAMES)


def tensor_parameters(item: dict[str, Any], what: str) -> dict[str, Any]:
    """Return a tensor's own parameters; raise `bad_input` for those whose absence would change the answer."""
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise bad_input(f"{what}: parameters is {shown(parameters)}, expected a map")
    if "shared_memory_region" in parameters:
        raise bad_input(f"{what}: shared memory is not served; send the tensor in the body")
    return parameters


class OutputsWanted(NamedTuple):
    """The names of the outputs asked for (None: all), which of them say how they are to be carried, and which are
    wanted as their so many highest elements.
    """

    names: tuple[str, ...] | None
    is_binary: Mapping[str, bool]
    class_counts: Mapping[str, int]


def read_outputs(items: Any, limits: WireLimits) -> OutputsWanted:
    """Return what a request's `outputs` asks for."""
    if items is None:
        return OutputsWanted(None, NO_CHOICES, NO_COUNTS)
    if type(items) is not list:
        raise bad_input(f"outputs is {shown(items)}, expected a list")
    if len(items) > limits.tensor_count_max:
        raise bad_input(f"{len(items)} outputs asked for, allowed are {limits.tensor_count_max} (tensor_count_max)")
    names: dict[str, None] = {}
    choices: dict[str, bool] = {}
    class_counts: dict[str, int] = {}
    for each in items:
        item = {"name": each} if type(each) is str else each
        if type(item) is not dict:
            raise bad_input(f"an output asked for is {shown(item)}, expected a map with its name")
        name = check_name(item.get("name"), "output", limits)
        what = f"output {quoted(name)}"
        if name in names:
            raise bad_input(f"{what} is asked for twice")
        names[name] = None
        parameters = tensor_parameters(item, what)
        class_count = parameters.get("classification")
        if class_count is not None:
            if type(class_count) is not int or class_count < 0:
                raise bad_input(f"{what}: classification is {shown(class_count)}, expected a number of classes")
            if class_count > 0:
                class_counts[name] = class_count
        is_binary = parameters.get("binary_data")
        if is_binary is not None:
            if type(is_binary) is not bool:
                raise bad_input(f"{what}: binary_data is {shown(is_binary)}, expected true or false")
            choices[name] = is_binary
    # An empty list asks for nothing in particular, as a missing one does.
    return OutputsWanted(tuple(names) or None, choices or NO_CHOICES, class_counts or NO_COUNTS)


def read_request(message: Any, kind: FormKind, reader: DataReader, limits: WireLimits) -> InferRequest:
    """Return the request that a decoded message holds; raise `bad_input` saying what is wrong with it."""
    fields = check_message(message)
    if "inputs" not in fields:
        raise bad_input('the message has no "inputs"')
    items = fields["inputs"]
    is_map = type(items) is dict
    if is_map and kind is FormKind.JSON:
        raise bad_input("inputs is a map, expected a list of tensors")
    tensors = read_tensors(items, "input", reader, limits)
    parameters = read_parameters(fields.get("parameters"), limits)
    wanted = read_outputs(fields.get("outputs"), limits)
    is_binary = reader.is_binary if parameters.binary_data_output is None else parameters.binary_data_output
    return InferRequest(
        tensors.arrays,
        check_id(fields.get("id"), limits),
        wanted.names,
        parameters.timeout_ns,
        parameters.priority,
        parameters.rest,
        Form(kind, is_binary, wanted.is_binary, is_map),
        tensors.bf16_names,
        class_counts=wanted.class_counts,
    )


def read_response(message: Any, reader: DataReader, limits: WireLimits) -> InferResponse:
    """Return the response that a decoded message holds; raise `bad_input` saying what is wrong with it."""
    fields = check_message(message)
    if "outputs" not in fields:
        raise bad_input('the message has no "outputs"')
    tensors = read_tensors(fields["outputs"], "output", reader, limits)
    return InferResponse(
        check_text(fields.get("model_name", ""), "model_name", limits.name_length_max, "name_length_max"),
        check_text(fields.get("model_version", ""), "model_version", limits.name_length_max, "name_length_max"),
        tensors.arrays,
        check_id(fields.get("id"), limits),
        tensors.bf16_names,
    )


def write_outputs_wanted(request: InferRequest) -> list[dict[str, Any]]:
    """Return the `outputs` of a request that names some, as the message carries them."""
    items = []
    for name in request.output_names or ():
        parameters: dict[str, Any] = {"binary_data": wants_binary(request.form, name)}
        if name in request.class_counts:
            parameters["classification"] = request.class_counts[name]
        items.append({"name": name, "parameters": parameters})
    return items


def write_parameters(request: InferRequest) -> dict[str, Scalar]:
    """Return a request's parameters as the message carries them; raise `bad_input` for one that has a field."""
    parameters = check_parameters(dict(request.parameters), DEFAULT_LIMITS)
    for name in _RESERVED:
        if name in parameters:
            raise bad_input(f'parameter "{name}" has a field of its own in InferRequest; set that instead')
    if request.timeout_ns is not None:
        parameters["timeout"] = timeout_to_us(request.timeout_ns)
    if request.priority:
        parameters["priority"] = check_priority(request.priority, "priority")
    return parameters


def timeout_to_us(timeout_ns: int) -> int:
    """Return a timeout in whole microseconds, at least 1; raise `bad_input` unless it is above 0."""
    if timeout_ns <= 0:
        raise bad_input(f"timeout is {timeout_ns} ns, expected more than 0")
    return max(1, timeout_ns // NS_PER_US)


def wants_binary(form: Form, name: str) -> bool:
    """Say whether the output `name` is carried as raw bytes in a reply of this form."""
    return form.is_binary_by_name.get(name, form.is_binary) if form.is_binary_by_name else form.is_binary
