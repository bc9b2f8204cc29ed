"""Check the header of a frame: what it says of each tensor and of the request or response.

What comes out is plain and immutable, so that a header met again need not be checked again (see framed.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from symphony.wire.faults import bad_input, quoted, shown
from symphony.wire.limits import WireLimits
from symphony.wire.many import holds_many, read_requests
from symphony.wire.messages import NO_NAMES, NO_PARAMETERS, Failure
from symphony.wire.oip import check_id, check_name, check_parameters, check_priority, check_text, timeout_to_ns
from symphony.wire.tensors import Datatype, check_shape, find_datatype

VERSION: Final = 1
ALIGNMENT: Final = 64
_U32: Final = Struct("<I")


class Place(NamedTuple):
    """Where a tensor lies: `offset` from the 64-byte boundary behind the header, `length` bytes."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    element_count: int
    offset: int
    length: int
    is_view: bool


class Head(NamedTuple):
    """A checked header: the part common to requests and responses, then either's own."""

    tensors: tuple[Place, ...]
    bf16_names: frozenset[str]
    id: str | None
    model: str | None
    output_names: tuple[str, ...] | None = None
    timeout_ns: int | None = None
    priority: int = 0
    parameters: Mapping[str, Any] = NO_PARAMETERS
    version: str = ""

    def end_of(self, taken: int) -> int:
        """Return where the data of its tensors end, counted from where data begin; `taken` if it has none."""
        return self.tensors[-1].offset + self.tensors[-1].length if self.tensors else taken


class ManyHeads(NamedTuple):
    """A checked header of many requests: each one's head, or what is wrong with it. `id`: not None if any has one."""

    heads: tuple[Head | Failure, ...]
    id: str | None = None


def cut_header(body: bytes | memoryview, limits: WireLimits) -> tuple[bytes, int]:
    """Return the packed header and the offset at which tensors start."""
    size = len(body)
    if size < 4:
        raise bad_input(f"the frame has {size} bytes, expected at least the 4 of its header's length")
    (length,) = _U32.unpack_from(body)
    if length > limits.header_bytes_max:
        raise bad_input(
            f"the frame's header has a length of {length}, allowed are {limits.header_bytes_max} (header_bytes_max)"
        )
    end = 4 + length
    if end > size:
        raise bad_input(f"the frame's header has a length of {length}, but {size - 4} bytes follow")
    return bytes(body[4:end]), (end + ALIGNMENT - 1) & -ALIGNMENT


def unpack_header(packed: bytes, limits: WireLimits) -> dict[str, Any]:
    """Return the map of a packed header of our version."""
    try:
        header = msgpack.unpackb(packed, use_list=False, max_array_len=limits.header_array_length_max)
    except Exception as error:  # the library has many; each means that the text is at fault
        raise bad_input(f"the frame's header is not valid msgpack: {error or type(error).__name__}") from None
    if type(header) is not dict:
        raise bad_input(f"the frame's header is {shown(header)}, expected a map")
    version = header.get("v")
    if version != VERSION or type(version) is not int:
        raise bad_input(f"the frame's version v is {shown(version)}, known is {VERSION}")
    return header


def request_heads_of(header: dict[str, Any], limits: WireLimits) -> Head | ManyHeads:
    """Return the checked header of one request or of many."""
    if not holds_many(header):
        return request_head(header, limits, 0)
    taken = 0

    def read_one(item: Any) -> Head:
        nonlocal taken
        if type(item) is not dict:
            raise bad_input(f"it is {shown(item)}, expected a map")
        head = request_head(item, limits, taken)
        taken = head.end_of(taken)
        return head

    heads = tuple(read_requests(header, read_one, limits))
    return ManyHeads(heads, "" if any(head.id is not None for head in heads) else None)


def request_head(header: dict[str, Any], limits: WireLimits, taken: int) -> Head:
    """Return the checked header of a request whose tensors lie behind `taken` bytes of others."""
    get = header.get
    names = get("outputs")
    timeout_us = get("timeout_us")
    parameters = get("parameters")
    request_id = get("id")
    model = get("model")
    return Head(
        *_check_tensors(get("inputs"), "input", limits, taken),
        None if request_id is None else check_id(request_id, limits),
        None if model is None else check_text(model, "model", limits.name_length_max, "name_length_max"),
        None if names is None else _check_output_names(names, limits),
        None if timeout_us is None else timeout_to_ns(timeout_us, "timeout_us", limits),
        check_priority(get("priority", 0), "priority"),
        NO_PARAMETERS if parameters is None else check_free_parameters(parameters, limits),
    )


def response_head(header: dict[str, Any], limits: WireLimits, taken: int = 0) -> Head:
    """Return the checked header of a response whose tensors lie behind `taken` bytes of others."""
    return Head(
        *_check_tensors(header.get("outputs"), "output", limits, taken),
        check_id(header.get("id"), limits),
        check_text(header.get("model", ""), "model", limits.name_length_max, "name_length_max"),
        version=check_text(header.get("version", ""), "version", limits.name_length_max, "name_length_max"),
    )


def _check_tensors(items: Any, role: str, limits: WireLimits, taken: int) -> tuple[tuple[Place, ...], frozenset[str]]:
    """Return what the header says of each tensor, and the names of the BF16 ones. `taken`: bytes of others."""
    if type(items) is not tuple:
        raise bad_input(f"{role}s is {shown(items)}, expected a list of tensors")
    if len(items) > limits.tensor_count_max:
        raise bad_input(f"{len(items)} {role}s, allowed are {limits.tensor_count_max} (tensor_count_max)")
    tensors: dict[str, Place] = {}
    bf16_names = NO_NAMES
    for item in items:
        try:
            name = item["name"]
            shape = item["shape"]
            word = item["dtype"]
            offset = item["off"]
            length = item["n"]
        except (KeyError, TypeError):
            raise bad_input(f"an {role} is {shown(item)}, expected a map with name, dtype, shape, off and n") from None
        check_name(name, role, limits)
        what = f"{role} {quoted(name)}"
        if name in tensors:
            raise bad_input(f"{what} is given twice; give each tensor a name of its own")
        datatype = find_datatype(word, what)
        count = check_shape(shape, what, limits)
        if type(offset) is not int or offset < 0 or offset % ALIGNMENT or offset < taken:
            raise bad_input(
                f"{what}: off is {shown(offset)}, expected a multiple of {ALIGNMENT}, "
                f"{taken} or more (behind the tensor before)"
            )
        if type(length) is not int or length < 0:
            raise bad_input(f"{what}: n is {shown(length)}, expected a number of bytes")
        taken = offset + length
        is_view = 0 < length == count * datatype.itemsize and datatype.name != "BOOL"
        tensors[name] = Place(name, datatype, shape, count, offset, length, is_view)
        if datatype.code == "bf16":
            bf16_names |= {name}
    return tuple(tensors.values()), bf16_names


def _check_output_names(names: Any, limits: WireLimits) -> tuple[str, ...] | None:
    if type(names) is not tuple:
        raise bad_input(f"outputs is {shown(names)}, expected a list of names")
    if len(names) > limits.tensor_count_max:
        raise bad_input(f"{len(names)} outputs asked for, allowed are {limits.tensor_count_max} (tensor_count_max)")
    for name in names:
        check_name(name, "output", limits)
    if len(set(names)) != len(names):
        raise bad_input("an output is asked for twice")
    return names or None


def check_free_parameters(parameters: Any, limits: WireLimits) -> Mapping[str, Any]:
    """Return `parameters`; raise `bad_input` for those that have a place of their own in a header."""
    checked = check_parameters(parameters, limits)
    for name, instead in (("timeout", "timeout_us"), ("priority", "priority")):
        if name in checked:
            raise bad_input(f'parameter "{name}" has a place of its own in a frame\'s header: "{instead}"')
    return checked or NO_PARAMETERS
