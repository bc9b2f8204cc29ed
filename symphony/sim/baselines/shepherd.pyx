# distutils: language = c++
"""Shepherd (Zhang et al., NSDI 2023), its online algorithm Flex: the largest feasible batch first, with preemption.

When a GPU is idle, it gets the largest batch that any model can still run in time. When all are busy and some model's
largest feasible batch has at least `THRESHOLD` times the requests of a batch that runs, that one is preempted: its
requests go back to their queue, and the time spent on them is lost. All GPUs are one group here, the best case of its
planner.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from symphony.core.state cimport NativeDecision
from symphony.sim.baselines.base cimport Baseline
from symphony.sim.policy cimport DECISION_PREEMPT

cdef double THRESHOLD = 3.03
"""The paper's lambda: it maximises the competitive ratio it proves."""


cdef class ShepherdPolicy(Baseline):
    """Largest feasible batch first; preempt what is `THRESHOLD` times smaller."""

    cdef vector[uint64_t] running_plan                # by GPU
    cdef vector[vector[uint32_t]] running_slots

    def __init__(self, workload, int request_count):
        """Take the workload and how many requests there will be."""
        super().__init__(workload, request_count)
        self.running_plan.assign(self.gpu_count, 0)
        self.running_slots.resize(self.gpu_count)

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        Baseline.gpu_left(self, gpu)
        self.running_slots[gpu].clear()

    cdef void decide(self) noexcept nogil:
        cdef int32_t gpu, model, size
        cdef int32_t best_gpu, best_model, best_size
        for model in range(self.model_count):
            if not self.queues[model].empty():
                self.drop_late(model, self.now_ns + self.control_ns, self.shortest(model))
        while True:
            best_gpu = -1
            best_model = -1
            best_size = 0
            for gpu in range(self.gpu_count):
                if not self.is_alive[gpu] or self.flight_count[gpu] > 0:
                    continue
                for model in range(self.model_count):
                    if self.is_resident(model, gpu):
                        size = self.fit(model, model, gpu, self.now_ns + self.control_ns)
                        if size > best_size:
                            best_gpu, best_model, best_size = gpu, model, size
                if best_gpu >= 0:
                    break
            if best_gpu < 0:
                break
            self.start(best_gpu, best_model, best_size)
        self.preempt_smallest()
        for model in range(self.model_count):
            if not self.queues[model].empty():
                self.wake_ns = min(self.wake_ns, max(self.now_ns + 1, self.queues[model].front().deadline
                                                     - self.control_ns - self.shortest(model) + 1))

    cdef void preempt_smallest(self) noexcept nogil:
        cdef int32_t gpu, model, size
        cdef int32_t victim, best_model, best_size
        while True:
            victim = -1
            for gpu in range(self.gpu_count):
                if self.is_alive[gpu] and self.flight_count[gpu] == 1 and (
                        victim < 0 or self.running_slots[gpu].size() < self.running_slots[victim].size()):
                    victim = gpu
            if victim < 0:
                return
            best_model = -1
            best_size = 0
            for model in range(self.model_count):
                if self.is_resident(model, victim):
                    size = self.fit(model, model, victim, self.now_ns + self.control_ns)
                    if size > best_size:
                        best_model, best_size = model, size
            if best_size < THRESHOLD * <double>self.running_slots[victim].size():
                return
            self.preempt(victim)
            self.start(victim, best_model, best_size)

    cdef void preempt(self, int32_t gpu) noexcept nogil:
        cdef NativeDecision d
        cdef size_t i
        d.kind = DECISION_PREEMPT
        d.reason = 0
        d.gpu = gpu
        d.model = -1
        d.plan_id = self.running_plan[gpu]
        d.first = d.count = 0
        d.start_at_ns = d.finish_at_ns = 0
        self.decisions.push_back(d)
        self.flight_count[gpu] = 0
        self.free_at[gpu] = self.now_ns
        for i in range(self.running_slots[gpu].size()):
            self.enqueue(self.model_of[self.running_slots[gpu][i]], self.running_slots[gpu][i])
        self.running_slots[gpu].clear()

    cdef void start(self, int32_t gpu, int32_t model, int32_t size) noexcept nogil:
        cdef size_t first = self.ids.size()
        self.running_plan[gpu] = self.dispatch(model, model, gpu, size, self.now_ns + self.control_ns)
        self.running_slots[gpu].assign(self.ids.begin() + first, self.ids.end())

    cdef int64_t shortest(self, int32_t model) noexcept nogil:
        """Return the smallest l(1) over the GPUs that hold the model, 0 if none does."""
        cdef int32_t gpu
        cdef int64_t least = INT64_MAX
        for gpu in range(self.gpu_count):
            if self.is_resident(model, gpu):
                least = min(least, self.table(model, gpu)[1])
        return least if least < INT64_MAX else 0
