"""Check a workload.toml, the file that `symphony simulate` and `symphony plan` read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from symphony.config.document import Document, read_document
from symphony.config.model_document import BATCH_SIZE_LIMIT, SLO_MS_MAX, SLO_MS_MIN, Number
from symphony.config.workload import Fault, SimulatedGpus, SimulatedModel, Workload
from symphony.units import NS_PER_S, ms_to_ns, us_to_ns

GPU_COUNT_MAX = 8192
MODEL_COUNT_MAX = 4096
KIND_COUNT_MAX = 8
FAULT_COUNT_MAX = 10_000
DELAY_US_MAX = 1_000_000.0
DEFAULT_KIND = "gpu"
MEMORY_MB_MAX = 1e9
LOAD_MB_PER_MS = 25.0
"""What a model's load takes if it is not said: a bus of 25 GB/s."""
PRICE_MAX = 1e9
DURATION_S = 10.0
TRACE_PATH_CHARS_MAX = 4096
POLICIES = ("deferred", "eager", "timeout")
Policy = Literal["deferred", "eager", "timeout"]


class ProfileDocument(Document):
    """l(b) as a line or as a table."""

    alpha_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    beta_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    latency_ms: list[Number] | None = Field(default=None, max_length=BATCH_SIZE_LIMIT)

    @model_validator(mode="after")
    def _one_profile(self) -> ProfileDocument:
        has_line = self.alpha_ms is not None or self.beta_ms is not None
        if has_line and self.latency_ms is not None:
            raise ValueError(
                "give alpha_ms and beta_ms (l(b) = alpha_ms * b + beta_ms) or the table latency_ms, not both"
            )
        if has_line and (self.alpha_ms is None or self.beta_ms is None or self.alpha_ms + self.beta_ms <= 0.0):
            raise ValueError("alpha_ms and beta_ms must both be given, and not both be 0; add the other")
        before = 0.0
        for value in self.latency_ms or []:
            if not before <= value <= SLO_MS_MAX or value <= 0.0:
                raise ValueError("latency_ms must be positive and never fall; mend the table")
            before = value
        return self

    @property
    def is_given(self) -> bool:
        return self.alpha_ms is not None or bool(self.latency_ms)

    def table_ns(self, batch_size_max: int) -> tuple[int, ...]:
        """Return l(1), l(2), ... up to `batch_size_max` or to the end of the table."""
        if self.latency_ms:
            return tuple(ms_to_ns(value) for value in self.latency_ms[:batch_size_max])
        assert self.alpha_ms is not None and self.beta_ms is not None
        return tuple(ms_to_ns(self.alpha_ms * size + self.beta_ms) for size in range(1, batch_size_max + 1))


class SimulatedModelDocument(ProfileDocument):
    """One of `[[models]]`: its profile is the one written here for every kind of GPU, or one in `profiles` per kind."""

    name: str = Field(min_length=1, max_length=128)
    copies: int = Field(default=1, ge=1, le=MODEL_COUNT_MAX)
    slo_ms: Number = Field(ge=SLO_MS_MIN, le=SLO_MS_MAX)
    rate: Number | None = Field(default=None, ge=0.0, le=1e9)
    arrivals: str = Field(default="poisson", max_length=256)
    max_batch_size: int = Field(default=256, ge=1, le=BATCH_SIZE_LIMIT)
    priority: int = Field(default=4, ge=1, le=8)
    memory_mb: Number = Field(default=0.0, ge=0.0, le=MEMORY_MB_MAX)
    load_ms: Number | None = Field(default=None, ge=0.0, le=SLO_MS_MAX)
    profiles: dict[str, ProfileDocument] = Field(default_factory=dict, max_length=KIND_COUNT_MAX)

    @model_validator(mode="after")
    def _some_profile(self) -> SimulatedModelDocument:
        if self.is_given == bool(self.profiles):
            raise ValueError("give one profile (alpha_ms and beta_ms, or latency_ms) or [models.profiles.KIND] tables")
        for kind, profile in self.profiles.items():
            if not profile.is_given:
                raise ValueError(f"profile {kind!r} is empty; give alpha_ms and beta_ms, or latency_ms")
        return self


class GpusDocument(Document):
    """One of `[[gpus]]`."""

    kind: str = Field(default=DEFAULT_KIND, min_length=1, max_length=64)
    count: int = Field(ge=1, le=GPU_COUNT_MAX)
    price: Number = Field(default=0.0, ge=0.0, le=PRICE_MAX)
    memory_mb: Number = Field(default=0.0, ge=0.0, le=MEMORY_MB_MAX)


class DelaysDocument(Document):
    """The `[delays]` table: from a decision to its start (control, data), from a batch's end to its replies."""

    control_us: Number = Field(default=50.0, ge=0.0, le=DELAY_US_MAX)
    data_us: Number = Field(default=0.0, ge=0.0, le=DELAY_US_MAX)
    reply_us: Number = Field(default=0.0, ge=0.0, le=DELAY_US_MAX)
    margin_us: Number = Field(default=0.0, ge=0.0, le=DELAY_US_MAX)


class FaultDocument(Document):
    """One of `[[faults]]`."""

    at_s: Number = Field(ge=0.0)
    gpu: int = Field(ge=0, lt=GPU_COUNT_MAX)
    action: Literal["die", "slow"] = "die"
    slowness: Number = Field(default=2.0, ge=0.01, le=1000.0)


class WorkloadDocument(Document):
    """A whole workload.toml."""

    duration_s: Number | None = Field(default=None, gt=0.0, le=1e6)
    warmup_s: Number = Field(default=1.0, ge=0.0)
    trace: str = Field(default="", max_length=TRACE_PATH_CHARS_MAX)
    seed: int = Field(default=1, ge=0, le=2**63 - 1)
    policy: Policy = "deferred"
    jitter: Number = Field(default=0.0, ge=0.0, le=1.0)
    delays: DelaysDocument = DelaysDocument()
    models: list[SimulatedModelDocument] = Field(min_length=1, max_length=MODEL_COUNT_MAX)
    gpus: list[GpusDocument] = Field(min_length=1, max_length=GPU_COUNT_MAX)
    faults: list[FaultDocument] = Field(default=[], max_length=FAULT_COUNT_MAX)

    @classmethod
    def cross_faults(cls, raw: Mapping[str, Any]) -> list[str]:
        """Return where times, counts, kinds and ids do not go together."""
        faults = []
        has_trace = bool(raw.get("trace"))
        duration, warmup = raw.get("duration_s", 1e6 if has_trace else DURATION_S), raw.get("warmup_s", 1.0)
        if _are_numbers(duration, warmup) and warmup >= duration:
            faults.append(f"key 'warmup_s' is {warmup:g}: it must be below duration_s = {duration:g}; shorten it")
        gpus = [one for one in _tables(raw, "gpus") if type(one.get("count")) is int]
        total = sum(one["count"] for one in gpus)
        if total > GPU_COUNT_MAX:
            faults.append(f"key 'gpus' makes {total} GPUs: at most {GPU_COUNT_MAX} can be simulated; name fewer")
        kinds = list(dict.fromkeys(str(one.get("kind", DEFAULT_KIND)) for one in _tables(raw, "gpus")))
        if len(kinds) > KIND_COUNT_MAX:
            faults.append(f"key 'gpus' has {len(kinds)} kinds: at most {KIND_COUNT_MAX} can be told apart; merge some")
        names = [one.get("name") for one in _tables(raw, "models")]
        faults += [
            f"model {name!r} stands twice; rename one, or set copies" for name in set(names) if names.count(name) > 1
        ]
        copies = sum(one["copies"] for one in _tables(raw, "models") if type(one.get("copies")) is int)
        if copies > MODEL_COUNT_MAX:
            faults.append(f"key 'models' makes {copies} models: at most {MODEL_COUNT_MAX} can be simulated; name fewer")
        faults += _load_faults(raw, has_trace)
        unpriced = [str(one.get("kind", DEFAULT_KIND)) for one in gpus if not one.get("price")]
        if unpriced and len(unpriced) < len(gpus):
            faults.append(f"kind {unpriced[0]!r} has no price, but others have; give each kind one, or none")
        for key in ("price", "memory_mb"):
            for kind in kinds:
                told = {one.get(key, 0.0) for one in _tables(raw, "gpus") if one.get("kind", DEFAULT_KIND) == kind}
                if _are_numbers(*told) and len(told) > 1:
                    faults.append(
                        f"kind {kind!r} has the {key} {' and '.join(f'{v:g}' for v in sorted(told))}: a kind has "
                        "one; write it in each of its groups, or name the kinds apart"
                    )
        for one in _tables(raw, "models"):
            profiles = one.get("profiles")
            for kind in profiles if isinstance(profiles, dict) else ():
                if kind not in kinds:
                    faults.append(
                        f"model {one.get('name')!r} has a profile for kind {kind!r}: there is no such GPU; known are "
                        f"{', '.join(kinds)}"
                    )
        for one in _tables(raw, "faults"):
            if type(one.get("gpu")) is int and one["gpu"] >= total:
                faults.append(f"key 'faults' names GPU {one['gpu']}: there are {total}, from 0; name one of them")
        return faults


def _load_faults(raw: Mapping[str, Any], has_trace: bool) -> list[str]:
    """Return which models lack a rate where arrivals are drawn, or cannot be told apart in a trace."""
    faults = []
    for one in _tables(raw, "models"):
        name = one.get("name")
        if not has_trace and one.get("rate") is None:
            faults.append(f"model {name!r} has no key 'rate'; add it (only with a trace is it known without)")
        if has_trace and one.get("copies", 1) != 1:
            faults.append(f"model {name!r} has copies: a trace cannot tell them apart; name each model")
        if has_trace and "rate" in one:
            faults.append(f"model {name!r} has the key 'rate', but the trace has it; remove one of the two")
        if has_trace and "arrivals" in one:
            faults.append(f"model {name!r} has the key 'arrivals', but the trace has them; remove one of the two")
    return faults


def _tables(raw: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = raw.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _are_numbers(*values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)


def parse_workload(text: str, file: str) -> Workload:
    """Return the workload that `text`, the contents of `file`, describes; raise ConfigError with every fault."""
    document = read_document(WorkloadDocument, text, file)
    gpus = tuple(SimulatedGpus(one.kind, one.count, one.price, one.memory_mb) for one in document.gpus)
    kinds = tuple(dict.fromkeys(group.kind for group in gpus))
    return Workload(
        models=tuple(_model(one, kinds) for one in document.models),
        gpus=gpus,
        duration_ns=round(_duration_s(document) * NS_PER_S),
        warmup_ns=round(document.warmup_s * NS_PER_S),
        seed=document.seed,
        policy=document.policy,
        control_ns=us_to_ns(document.delays.control_us),
        data_ns=us_to_ns(document.delays.data_us),
        reply_ns=us_to_ns(document.delays.reply_us),
        margin_ns=us_to_ns(document.delays.margin_us),
        jitter=document.jitter,
        trace=document.trace,
        faults=tuple(
            sorted(
                (
                    Fault(round(one.at_s * NS_PER_S), one.gpu, one.slowness if one.action == "slow" else 0.0)
                    for one in document.faults
                ),
                key=lambda fault: fault.at_ns,
            )
        ),
    )


def _duration_s(document: WorkloadDocument) -> float:
    """Return how long requests arrive; 0: as long as the trace does."""
    if document.duration_s is not None:
        return document.duration_s
    return 0.0 if document.trace else DURATION_S


def _model(document: SimulatedModelDocument, kinds: tuple[str, ...]) -> SimulatedModel:
    profiles: Mapping[str, ProfileDocument] = document.profiles or dict.fromkeys(kinds, document)
    return SimulatedModel(
        name=document.name,
        slo_ns=ms_to_ns(document.slo_ms),
        rate=document.rate or 0.0,
        latency_ns={kind: profile.table_ns(document.max_batch_size) for kind, profile in profiles.items()},
        copies=document.copies,
        arrivals=document.arrivals,
        priority=document.priority,
        memory_mb=document.memory_mb,
        load_ns=ms_to_ns(document.memory_mb / LOAD_MB_PER_MS if document.load_ms is None else document.load_ms),
    )
