"""Serve many DNN models under latency objectives with deferred batch scheduling.

The clients are here: `symphony.Client`, `symphony.AsyncClient`, and the errors they raise. They are loaded when first
used, so that `import symphony` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symphony.client import Ask, AsyncClient, Client, InferResult, TransportError
    from symphony.errors import Reason, SymphonyError

__all__ = ["Ask", "AsyncClient", "Client", "InferResult", "Reason", "SymphonyError", "TransportError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'symphony' has no attribute {name!r}")
    import importlib

    module = "symphony.errors" if name in ("Reason", "SymphonyError") else "symphony.client"
    return getattr(importlib.import_module(module), name)
