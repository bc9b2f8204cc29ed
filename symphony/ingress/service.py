"""Declare what the ingress needs from the node behind it. The composition root implements it; tests fake it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from symphony.config import ModelConfig
from symphony.driver.requests import PendingRequest
from symphony.errors import Reason, SymphonyError
from symphony.ingress.callers import Caller
from symphony.metrics import ModelStats, NodeStats

READY = "READY"
"""The state of a model that is served."""
KNOWN_NAMES_SHOWN_MAX = 20
"""How many model names an `unknown_model` message lists."""


class Health(NamedTuple):
    """Say whether the node lives, whether it should get requests, and if not why ("" when ready)."""

    is_live: bool
    is_ready: bool
    reason: str


class ServedModel(Protocol):
    """One version of one model as the node knows it; read-only for the ingress."""

    @property
    def config(self) -> ModelConfig:
        """Return its configuration; a new object after a reload."""
        ...

    @property
    def index(self) -> int:
        """Return the number by which the scheduler knows it."""
        ...

    @property
    def state(self) -> str:
        """Return "READY", "LOADING" or "UNAVAILABLE"."""
        ...

    @property
    def reason(self) -> str:
        """Return why it is not ready ("" when it is)."""
        ...

    def refusal(self, caller: Caller) -> SymphonyError | None:
        """Return why a call of the caller's that arrives now is refused unread (overload), None when it is not."""
        ...

    def enter(self, caller: Caller, count: int, priority: int) -> int:
        """Count requests of the caller's as under way; return the priority to submit them with.

        It is the one asked for, or the lowest where others would suffer from the caller's having more than its share.
        """
        ...

    def leave(self, caller: Caller, count: int) -> None:
        """Count as many as ended."""
        ...

    @property
    def stats(self) -> ModelStats:
        """Return its counters. The ingress counts only `request_rejected`: whatever ends before or in `submit`."""
        ...


class Service(Protocol):
    """What answers behind the ingress. Everything is called on the asyncio thread, except `metrics_text`."""

    name: str
    version: str
    stats: NodeStats

    def health(self) -> Health:
        """Return the node's health now."""
        ...

    def models(self) -> Sequence[ServedModel]:
        """Return every model known, in any state."""
        ...

    def find(self, name: str, version: str | None) -> ServedModel:
        """Return the model, of any version when None; raise SymphonyError `unknown_model` (see `unknown_model`)."""
        ...

    def submit(self, request: PendingRequest) -> None:
        """Take the request and count it accepted, or raise SymphonyError (`queue_full`, `not_ready`, `draining`,
        `would_miss`, `no_gpu`) and count nothing. `request.on_done` is called once, later or before this returns.
        """
        ...

    def cancel(self, request: PendingRequest) -> None:
        """Forget a submitted request and count it cancelled; `on_done` is not called afterwards."""
        ...

    async def load(self, name: str) -> None:
        """Load (or load again) the model from the repository; return when it is ready, raise SymphonyError if not."""
        ...

    async def unload(self, name: str) -> None:
        """Stop serving the model; return when its accepted requests have ended."""
        ...

    async def profile(self, name: str) -> list[dict[str, Any]]:
        """Measure every ready version of the model again; return the new profiles as JSON values.

        Raise SymphonyError when it cannot be measured now.
        """
        ...

    def metrics_text(self, accept: str) -> tuple[bytes, str]:
        """Return (exposition, content type) for the `Accept` header. Called from another thread; only reads."""
        ...


def versions_of(service: Service, model: ServedModel, version: str | None) -> list[str]:
    """Return the ready versions of a model in their order, those of one `version` if it was named.

    Where none is ready, the model's own.
    """
    if version is not None:
        return [model.config.version]
    name = model.config.name
    ready = [each.config.version for each in service.models() if each.config.name == name and each.state == READY]
    return sorted(ready, key=int) or [model.config.version]


def unknown_model(name: str, version: str | None, known: Iterable[str]) -> SymphonyError:
    """Return the error for a model that is not served: it names some of those that are."""
    names = sorted(set(known))
    shown = ", ".join(f'"{known_name}"' for known_name in names[:KNOWN_NAMES_SHOWN_MAX]) or "none"
    more = f" and {len(names) - KNOWN_NAMES_SHOWN_MAX} more" if len(names) > KNOWN_NAMES_SHOWN_MAX else ""
    asked = f'model "{name}"' if version is None else f'model "{name}" version "{version}"'
    return SymphonyError(Reason.UNKNOWN_MODEL, f"{asked} is not served here; known models: {shown}{more}", model=name)


def not_ready(model: ServedModel) -> SymphonyError:
    """Return the error for a model that is known and not served now: it says why."""
    config = model.config
    return SymphonyError(
        Reason.NOT_READY,
        f'model "{config.name}" version {config.version} is not ready: {model.reason}; try again later',
        model=config.name,
        retry_after_s=1,
    )
