# distutils: language = c++
"""Hold what every baseline needs: tables, queues in deadline order, GPUs; a subclass says what to decide and when.

Baselines are written to be read beside their papers, not to be fast: a decision may look at all models or GPUs.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool

from symphony.core.state cimport (
    DECISION_DISPATCH,
    DECISION_DROP,
    DROP_EXPIRED,
    DROP_WOULD_MISS,
    KIND_COUNT,
    NativeDecision,
    largest_within,
)


cdef class Baseline(SimPolicy):
    """A policy over one queue per model; override `queue_of` for others, `decide` to decide."""

    def __init__(self, workload, int request_count):
        """Take a `symphony.config.workload.Workload` and how many requests there will be."""
        cdef int32_t number = 0
        kinds = list(dict.fromkeys(workload.gpu_kinds))
        self.model_count = workload.model_count
        self.gpu_count = len(workload.gpu_kinds)
        self.control_ns = workload.control_ns + workload.data_ns
        self.margin_ns = workload.margin_ns + workload.reply_ns
        self.tables.resize(self.model_count * KIND_COUNT)
        for spec in workload.models:
            for _ in range(spec.copies):
                for kind, table in spec.latency_ns.items():
                    self.tables[number * KIND_COUNT + <int>kinds.index(kind)] = [0, *table[: spec.batch_size_max]]
                self.slo_ns.push_back(spec.slo_ns)
                self.size_max.push_back(spec.batch_size_max)
                number += 1
        for kind in workload.gpu_kinds:
            self.gpu_kind.push_back(<int>kinds.index(kind))
        self.is_alive.assign(self.gpu_count, 1)
        self.flight_count.assign(self.gpu_count, 0)
        self.free_at.assign(self.gpu_count, 0)
        self.make_queues(self.model_count)
        self.slots.resize(request_count)
        self.deadlines.assign(request_count, 0)
        self.model_of.assign(request_count, 0)

    # ---- what the simulator calls ----------------------------------------------------------------------------

    cdef void begin(self, int64_t now) noexcept nogil:
        self.decisions.clear()
        self.ids.clear()
        self.now_ns = now

    cdef void request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil:
        self.deadlines[slot] = deadline - self.margin_ns
        self.model_of[slot] = model
        self.enqueue(self.queue_of(slot, model), slot)

    cdef void batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t now) noexcept nogil:
        self.flight_count[gpu] -= 1
        if self.flight_count[gpu] == 0:
            self.free_at[gpu] = now

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        self.is_alive[gpu] = 0
        self.flight_count[gpu] = 0

    cdef void run(self, int64_t now) noexcept nogil:
        self.wake_ns = INT64_MAX
        self.decide()

    cdef int64_t wakeup(self) noexcept nogil:
        return self.wake_ns

    # ---- what subclasses use ---------------------------------------------------------------------------------

    cdef void decide(self) noexcept nogil:
        pass

    cdef void make_queues(self, int32_t count):
        """Have `count` empty queues; before the first request."""
        cdef int32_t number
        self.queues.resize(count)
        for number in range(count):
            self.queues[number].reset(&self.chunks)

    cdef int32_t queue_of(self, uint32_t slot, int32_t model) noexcept nogil:
        return model

    cdef const int64_t* table(self, int32_t model, int32_t gpu) noexcept nogil:
        return self.tables[model * KIND_COUNT + self.gpu_kind[gpu]].data()

    cdef cbool is_resident(self, int32_t model, int32_t gpu) noexcept nogil:
        return self.is_alive[gpu] != 0 and not self.tables[model * KIND_COUNT + self.gpu_kind[gpu]].empty()

    cdef void enqueue(self, int32_t queue, uint32_t slot) noexcept nogil:
        self.sequence += 1
        self.slots[slot].sequence = self.sequence
        self.queues[queue].push(self.deadlines[slot], self.sequence, slot)

    cdef int32_t fit(self, int32_t queue, int32_t model, int32_t gpu, int64_t start) noexcept nogil:
        """Return the largest batch that ends before the first request's deadline if it starts then."""
        cdef int32_t upto
        if self.queues[queue].empty():
            return 0
        upto = <int32_t>min(<int64_t>self.queues[queue].live_count(), <int64_t>self.size_max[model])
        return largest_within(self.table(model, gpu), 0, upto, self.queues[queue].front().deadline - start)

    cdef void drop_late(self, int32_t queue, int64_t start, int64_t duration) noexcept nogil:
        """Drop the first requests as long as a batch of this duration would miss their deadlines."""
        while not self.queues[queue].empty() and start + duration > self.queues[queue].front().deadline:
            self.drop_first(queue)

    cdef void drop_all(self, int32_t queue) noexcept nogil:
        """Drop what waits where nothing will ever run."""
        while not self.queues[queue].empty():
            self.drop_first(queue)

    cdef void drop_first(self, int32_t queue) noexcept nogil:
        """Drop the first request of a queue."""
        cdef NativeDecision d
        cdef uint32_t slot = self.queues[queue].front().slot
        d.kind = DECISION_DROP
        d.reason = DROP_EXPIRED if self.queues[queue].front().deadline <= self.now_ns else DROP_WOULD_MISS
        d.gpu = -1
        d.model = self.model_of[slot]
        d.plan_id = 0
        d.first = <uint32_t>self.ids.size()
        d.count = 1
        d.start_at_ns = d.finish_at_ns = 0
        self.slots[slot].sequence = 0
        self.queues[queue].pop(self.slots.data())
        self.ids.push_back(slot)
        self.decisions.push_back(d)

    cdef uint64_t dispatch(self, int32_t queue, int32_t model, int32_t gpu, int32_t count, int64_t start) noexcept nogil:
        """Run the first `count` requests of a queue on the GPU from `start`, or from when it is free; return the plan."""
        cdef NativeDecision d
        cdef int32_t k
        cdef uint32_t slot
        if self.flight_count[gpu] > 0 and self.free_at[gpu] > start:
            start = self.free_at[gpu]
        self.plan_count += 1
        d.kind = DECISION_DISPATCH
        d.reason = 0
        d.gpu = gpu
        d.model = model
        d.plan_id = self.plan_count
        d.first = <uint32_t>self.ids.size()
        d.count = <uint32_t>count
        d.start_at_ns = start
        d.finish_at_ns = start + self.table(model, gpu)[count]
        for k in range(count):
            slot = self.queues[queue].front().slot
            self.slots[slot].sequence = 0
            self.queues[queue].pop(self.slots.data())
            self.ids.push_back(slot)
        self.decisions.push_back(d)
        self.flight_count[gpu] += 1
        self.free_at[gpu] = d.finish_at_ns
        return self.plan_count
