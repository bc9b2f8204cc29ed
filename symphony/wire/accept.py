"""Say in which form a reply is written: the request's, unless `Accept` asks for another one. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from symphony.wire.messages import Form, FormKind

_KINDS: Final = {
    "application/json": FormKind.JSON,
    "application/msgpack": FormKind.MSGPACK,
    "application/x-msgpack": FormKind.MSGPACK,
    "application/vnd.msgpack": FormKind.MSGPACK,
    FormKind.FRAMED.value: FormKind.FRAMED,
}
_RANGES: Final = ("*/*", "application/*")
_ACCEPT_LENGTH_MAX: Final = 1024
"""A longer header says nothing to us."""


@lru_cache(maxsize=256)
def reply_kind(accept: str, kind: FormKind) -> FormKind:
    """Return the form that `Accept` likes best; `kind`, the request's, where that is as good, or nothing is named."""
    if not accept or len(accept) > _ACCEPT_LENGTH_MAX:
        return kind
    weights: dict[FormKind, float] = {}
    range_weight = 0.0
    for item in accept.split(","):
        word, _, rest = item.partition(";")
        word = word.strip().lower()
        weight = _weight(rest)
        if word in _KINDS:
            weights[_KINDS[word]] = max(weight, weights.get(_KINDS[word], 0.0))
        elif word in _RANGES:
            range_weight = max(weight, range_weight)
    weights.setdefault(kind, range_weight)
    best = max(weights, key=lambda each: (weights[each], each is kind))
    return best if weights[best] > 0.0 else kind


def replied_in(form: Form, kind: FormKind) -> Form:
    """Return the reply's form where `kind` was asked for: msgpack carries tensors as `bin` then, JSON as lists.

    An output that says itself how it wants to be carried keeps that.
    """
    if kind is form.kind:
        return form
    return replace(form, kind=kind, is_binary=kind is not FormKind.JSON, is_map=False, is_bare=False)


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
