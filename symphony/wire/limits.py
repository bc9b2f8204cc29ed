"""Name every count and size inside a message that its sender controls, with the maximum taken."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bound what one message may hold; a larger one is refused with `bad_input`. Body sizes are the ingress's matter.

    `request_count_max`: requests in one body. `tensor_count_max`: inputs, outputs asked for, or outputs of a response.
    `dimension_count_max`: of one tensor. `element_count_max`: of one tensor, the product of its dimensions (a zero
    counts as one). `bytes_element_count_max`: of one BYTES tensor, whose elements each become an object.
    `name_length_max`, `id_length_max`, `parameter_length_max`: characters of a tensor's, model's or parameter's name,
    of an id, of a parameter's text. `parameter_count_max`: entries of `parameters`. `timeout_us_max`: microseconds a
    request may give itself. `header_bytes_max`: the framed form's header. `json_bytes_max`: JSON text, without the raw
    tensors behind it. `list_body_bytes_max`: a msgpack body that may carry tensors as lists; a larger one must carry
    its bulk as `bin`, and hold at most `token_count_max` values in all. Nesting is bounded by the parsers themselves.
    """

    request_count_max: int = 256
    tensor_count_max: int = 64
    dimension_count_max: int = 16
    element_count_max: int = 1 << 28
    bytes_element_count_max: int = 1 << 18
    name_length_max: int = 256
    id_length_max: int = 256
    parameter_count_max: int = 64
    parameter_length_max: int = 4096
    timeout_us_max: int = 86_400_000_000
    header_bytes_max: int = 64 * KIB
    json_bytes_max: int = 4 * MIB
    list_body_bytes_max: int = 256 * KIB
    token_count_max: int = 1 << 16
    header_array_length_max: int = field(init=False, default=0)
    """The longest array a framed header can need, and one more so that each limit is told apart by name."""

    def __post_init__(self) -> None:
        """Refuse a limit that is not above 0, or more dimensions than numpy has."""
        longest = max(self.request_count_max, self.tensor_count_max, self.dimension_count_max)
        object.__setattr__(self, "header_array_length_max", longest + 1)
        for each in fields(self):
            value = getattr(self, each.name)
            if value <= 0:
                raise ValueError(f"wire limit {each.name} must be above 0, got {value}")
        if self.dimension_count_max > 32:
            raise ValueError(f"wire limit dimension_count_max must be at most 32, got {self.dimension_count_max}")


DEFAULT_LIMITS = WireLimits()
