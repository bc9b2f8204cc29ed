# distutils: language = c++
"""Open the scheduling core to Python: one event in, a list of decisions out. For tests, tools and experiments.

docs/core.md is the contract. The live node uses the native door (engine.pxd) instead.
"""

from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint64_t
from libcpp.vector cimport vector

from symphony.core.engine cimport Engine
from symphony.core.residency cimport LoadDecision, Residency
from symphony.core.state cimport (
    DECISION_DISPATCH,
    DROP_EXPIRED,
    DROP_NO_GPU,
    DROP_NOT_READY,
    DROP_WOULD_MISS,
    EVENT_GPU_EXISTS,
    EVENT_ID_IN_USE,
    EVENT_ID_OUT_OF_RANGE,
    EVENT_MODEL_EXISTS,
    EVENT_NO_PROFILE,
    EVENT_OK,
    EVENT_OUT_OF_RANGE,
    EVENT_UNKNOWN_GPU,
    EVENT_UNKNOWN_MODEL,
    KIND_COUNT,
    LEVEL_COUNT,
    POLICY_DEFERRED,
    POLICY_EAGER,
    POLICY_TIMEOUT,
    NativeDecision,
)

from symphony.core import events

POLICIES = {"deferred": POLICY_DEFERRED, "eager": POLICY_EAGER, "timeout": POLICY_TIMEOUT}
REQUEST_COUNT_LIMIT = 1 << 30
MODEL_COUNT_LIMIT = 1 << 16
GPU_COUNT_LIMIT = 1 << 18
BATCH_SIZE_LIMIT = 1 << 16
DROP_TOKENS = {
    DROP_WOULD_MISS: "would_miss",
    DROP_EXPIRED: "expired",
    DROP_NO_GPU: "no_gpu",
    DROP_NOT_READY: "not_ready",
}
# Instants and durations stay in half the range of int64, so that sums of a few of them cannot overflow.
cdef int64_t TIME_LIMIT = INT64_MAX // 8


def make_engine(*, policy="deferred", request_count_max=65536, model_count_max=1024, gpu_count_max=1024, control_ns=0,
                lead_ns=0, window_ns=0, shed=None, early=None, target_share=0.9, epoch_ns=100_000_000):
    """Return an `Engine` from checked settings (see docs/core.md); raise ValueError naming the setting and its limit."""
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}: choose one of {', '.join(POLICIES)}")
    check_range("request_count_max", request_count_max, 1, REQUEST_COUNT_LIMIT)
    check_range("model_count_max", model_count_max, 1, MODEL_COUNT_LIMIT)
    check_range("gpu_count_max", gpu_count_max, 1, GPU_COUNT_LIMIT)
    check_range("control_ns", control_ns, 0, TIME_LIMIT)
    check_range("lead_ns", lead_ns, 0, TIME_LIMIT)
    check_range("window_ns", window_ns, 0, TIME_LIMIT)
    check_range("epoch_ns", epoch_ns, 1, TIME_LIMIT)
    if not 0.0 < target_share <= 1.0:
        raise ValueError(f"target_share is {target_share}: it must be above 0 and at most 1")
    if shed is None:
        shed = policy != "timeout"
    if early is None:
        early = policy == "deferred"
    elif early and policy != "deferred":
        raise ValueError(f"early is set with policy {policy!r}: only the deferred policy waits, so only it can start early")
    return Engine(POLICIES[policy], request_count_max, model_count_max, gpu_count_max, control_ns, lead_ns, window_ns, shed,
                  early, target_share, epoch_ns)


def check_range(name, value, lowest, highest):
    """Raise ValueError naming `name`, the value and its limits unless lowest <= value <= highest; TypeError if no int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}: it must be an integer")
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}: it must be from {lowest} to {highest}")


cdef class Scheduler:
    """Schedule requests onto GPUs in batches, each inside its schedulable window (docs/core.md)."""

    def __init__(self, *, eviction="popularity", **settings):
        """Take the settings of docs/core.md as keywords."""
        self.engine = make_engine(**settings)
        self.residency = Residency(self.engine, eviction=eviction)

    def step(self, now_ns, event=None):
        """Apply `event` at `now_ns` and return the decisions due, in the order made.

        Raise ValueError (or TypeError) for a caller's mistake; nothing changes then.
        """
        cdef Engine engine = self.engine
        check_range("now_ns", now_ns, -TIME_LIMIT, TIME_LIMIT)
        if now_ns < engine.now_ns:
            raise ValueError(f"now_ns is {now_ns}, before the last step's {engine.now_ns}: time must not decrease")
        if event is not None:
            self._check(event)
        engine.begin(now_ns)
        if event is not None:
            self._apply(event)
        self.residency.observe()
        engine.run(now_ns)
        self.residency.plan(now_ns)
        return self._decisions()

    @property
    def wakeup_ns(self):
        """Return the instant of the next step that could decide something without an event, or NEVER_NS."""
        return min(self.engine.wakeup(), self.residency.wakeup())

    @property
    def queued_count(self):
        """Return how many live requests wait inside."""
        return self.engine.queued

    def queued_count_of(self, model):
        """Return how many live requests of `model` wait inside."""
        self._check_model(model)
        return self.engine.models[<int32_t>model].live_count

    def target_batch_size(self, model, kind=0):
        """Return the batch size under which shedding sets in for `model` on GPUs of `kind`."""
        self._check_model(model)
        check_range("kind", kind, 0, KIND_COUNT - 1)
        return self.engine.target(model, kind)

    def _check_model(self, model):
        check_range("model", model, 0, self.engine.model_count_max - 1)
        if not self.engine.models[<int32_t>model].exists:
            raise ValueError(f"model {model} is unknown: add it first")

    def _check_gpu(self, gpu):
        check_range("gpu", gpu, 0, self.engine.gpu_count_max - 1)
        if not self.engine.gpus[<int32_t>gpu].is_joined:
            raise ValueError(f"GPU {gpu} is unknown: it has not joined, or it left")

    def _check(self, event):
        cdef Engine engine = self.engine
        if isinstance(event, events.RequestArrived):
            check_range("request id", event.id, 0, engine.request_count_max - 1)
            self._check_model(event.model)
            check_range("deadline_ns", event.deadline_ns, -TIME_LIMIT, TIME_LIMIT)
            check_range("priority", event.priority, 1, LEVEL_COUNT)
            if engine.slots[<size_t>event.id].sequence != 0:
                raise ValueError(f"request id {event.id} is in use: wait until it has left")
        elif isinstance(event, events.RequestCancelled):
            check_range("request id", event.id, 0, engine.request_count_max - 1)
        elif isinstance(event, (events.BatchStarted, events.BatchFinished)):
            check_range("gpu", event.gpu, 0, engine.gpu_count_max - 1)
            check_range("plan_id", event.plan_id, 0, INT64_MAX)
            at = event.started_ns if isinstance(event, events.BatchStarted) else event.finished_ns
            check_range("the batch's instant", at, -TIME_LIMIT, TIME_LIMIT)
        elif isinstance(event, events.ModelAdded):
            check_range("model", event.model, 0, engine.model_count_max - 1)
            if engine.models[<int32_t>event.model].exists:
                raise ValueError(f"model {event.model} exists already: remove it first")
            check_range("slo_ns", event.slo_ns, 1, TIME_LIMIT)
            check_range("batch_size_max", event.batch_size_max, 1, BATCH_SIZE_LIMIT)
            check_range("margin_ns", event.margin_ns, 0, TIME_LIMIT)
            check_range("delay_ns", event.delay_ns, 0, TIME_LIMIT)
            check_range("batch_size_preferred", event.batch_size_preferred, 0, event.batch_size_max)
        elif isinstance(event, events.ProfileChanged):
            self._check_model(event.model)
            check_range("kind", event.kind, 0, KIND_COUNT - 1)
            self._check_profile(event)
        elif isinstance(event, events.MarginChanged):
            self._check_model(event.model)
            check_range("margin_ns", event.margin_ns, 0, TIME_LIMIT)
        elif isinstance(event, events.ModelRemoved):
            self._check_model(event.model)
        elif isinstance(event, events.GpuJoined):
            check_range("gpu", event.gpu, 0, engine.gpu_count_max - 1)
            check_range("kind", event.kind, 0, KIND_COUNT - 1)
            if engine.gpus[<int32_t>event.gpu].is_joined:
                raise ValueError(f"GPU {event.gpu} has joined already: it must leave first")
        elif isinstance(event, (events.GpuLeft, events.GpuDrained, events.GpuRestored)):
            self._check_gpu(event.gpu)
        elif isinstance(event, events.ModelPlaced):
            self._check_model(event.model)
            self._check_gpu(event.gpu)
            kind = engine.gpus[<int32_t>event.gpu].kind
            if not engine.models[<int32_t>event.model].profile_mask >> kind & 1:
                raise ValueError(f"model {event.model} has no profile for kind {kind} of GPU {event.gpu}: give one first")
        elif isinstance(event, events.MemoryDeclared):
            self._check_gpu(event.gpu)
            check_range("memory_bytes", event.memory_bytes, 0, TIME_LIMIT)
            for model in range(engine.model_count_max):
                if engine.models[<int32_t>model].exists and engine.resident[<int32_t>model].test(event.gpu):
                    raise ValueError(f"GPU {event.gpu} holds model {model}: declare its memory before models are placed")
        elif isinstance(event, events.LoadFinished):
            check_range("gpu", event.gpu, 0, engine.gpu_count_max - 1)
            check_range("load_id", event.load_id, 0, INT64_MAX)
        elif isinstance(event, events.FootprintDeclared):
            self._check_model(event.model)
            check_range("kind", event.kind, 0, KIND_COUNT - 1)
            check_range("memory_bytes", event.memory_bytes, 0, TIME_LIMIT)
            check_range("load_ns", event.load_ns, 0, TIME_LIMIT)
            if not engine.models[<int32_t>event.model].profile_mask >> event.kind & 1:
                raise ValueError(f"model {event.model} has no profile for kind {event.kind}: give one first")
        elif isinstance(event, events.ModelEvicted):
            self._check_model(event.model)
            self._check_gpu(event.gpu)
        else:
            raise TypeError(f"{event!r} is not an event of symphony.core.events")

    def _check_profile(self, event):
        size = self.engine.models[<int32_t>event.model].batch_size_max
        if len(event.latency_ns) != size:
            raise ValueError(f"profile of model {event.model} has {len(event.latency_ns)} entries: batch_size_max is {size}")
        before = 1
        for b, duration in enumerate(event.latency_ns, 1):
            check_range(f"l({b}) of model {event.model}", duration, 1, TIME_LIMIT)
            if duration < before:
                raise ValueError(f"l({b}) of model {event.model} is {duration}, below l({b - 1}) = {before}: "
                                 "make the profile monotone")
            before = duration

    cdef object _apply(self, object event):
        cdef Engine engine = self.engine
        cdef vector[int64_t] latency
        if isinstance(event, events.RequestArrived):
            engine.request_arrived(event.id, event.model, event.deadline_ns, event.priority)
        elif isinstance(event, events.RequestCancelled):
            engine.request_cancelled(event.id)
        elif isinstance(event, events.BatchStarted):
            engine.batch_started(event.plan_id, event.gpu, event.started_ns)
        elif isinstance(event, events.BatchFinished):
            engine.batch_finished(event.plan_id, event.gpu, event.finished_ns)
        elif isinstance(event, events.ModelAdded):
            engine.model_added(event.model, event.slo_ns, event.batch_size_max, event.margin_ns, event.delay_ns,
                               event.batch_size_preferred)
        elif isinstance(event, events.ModelRemoved):
            self.residency.model_removed(event.model)
        elif isinstance(event, events.ProfileChanged):
            latency = event.latency_ns
            engine.profile_changed(event.model, event.kind, latency.data())
        elif isinstance(event, events.MarginChanged):
            engine.margin_changed(event.model, event.margin_ns)
        elif isinstance(event, events.GpuJoined):
            engine.gpu_joined(event.gpu, event.kind)
        elif isinstance(event, events.GpuLeft):
            self.residency.gpu_left(event.gpu)
        elif isinstance(event, (events.GpuDrained, events.GpuRestored)):
            self.residency.gpu_drained(event.gpu, isinstance(event, events.GpuDrained))
        elif isinstance(event, events.ModelPlaced):
            self.residency.model_placed(event.model, event.gpu)
        elif isinstance(event, events.MemoryDeclared):
            self.residency.memory_declared(event.gpu, event.memory_bytes)
        elif isinstance(event, events.LoadFinished):
            self.residency.load_finished(event.load_id, event.gpu, event.is_there)
        elif isinstance(event, events.FootprintDeclared):
            self.residency.footprint_declared(event.model, event.kind, event.memory_bytes, event.load_ns)
        else:
            self.residency.model_evicted(event.model, event.gpu)

    cdef list _decisions(self):
        cdef Engine engine = self.engine
        cdef NativeDecision decision
        cdef LoadDecision load
        cdef size_t i, j
        result = []
        for i in range(engine.decisions.size()):
            decision = engine.decisions[i]
            if decision.kind == DECISION_DISPATCH:
                ids = tuple([engine.ids[decision.first + j] for j in range(decision.count)])
                result.append(events.Dispatch(decision.plan_id, decision.gpu, decision.model, ids,
                                              decision.start_at_ns, decision.finish_at_ns))
            else:
                result.append(events.Drop(engine.ids[decision.first], DROP_TOKENS[decision.reason]))
        for i in range(self.residency.decisions.size()):
            load = self.residency.decisions[i]
            victims = tuple([self.residency.victims[load.first + j] for j in range(load.count)])
            result.append(events.Load(load.load_id, load.gpu, load.model, victims, load.finish_at_ns))
        return result
