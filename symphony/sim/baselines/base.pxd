# What the baselines share: models, GPUs, and one deadline-ordered queue per number (of a model, or as the policy says).

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.core.containers cimport DeadlineQueue, EntryPool, RequestSlot
from symphony.sim.policy cimport SimPolicy


cdef class Baseline(SimPolicy):
    cdef int32_t model_count
    cdef int32_t gpu_count
    cdef int64_t control_ns
    cdef int64_t margin_ns
    cdef int64_t now_ns
    cdef int64_t wake_ns                        # set by decide()
    cdef uint64_t plan_count
    cdef uint32_t sequence
    cdef vector[vector[int64_t]] tables         # by (model, kind): l(b) at [b]; empty where it is not resident
    cdef vector[int64_t] slo_ns
    cdef vector[int32_t] size_max
    cdef vector[int32_t] gpu_kind
    cdef vector[uint8_t] is_alive
    cdef vector[int32_t] flight_count           # by GPU
    cdef vector[int64_t] free_at                # by GPU: predicted end of all it holds
    cdef EntryPool chunks
    cdef vector[DeadlineQueue] queues
    cdef vector[RequestSlot] slots
    cdef vector[int64_t] deadlines              # by slot, without the margin
    cdef vector[int32_t] model_of               # by slot

    cdef void make_queues(self, int32_t count)
    cdef const int64_t* table(self, int32_t model, int32_t gpu) noexcept nogil
    cdef cbool is_resident(self, int32_t model, int32_t gpu) noexcept nogil
    cdef int32_t queue_of(self, uint32_t slot, int32_t model) noexcept nogil
    cdef void enqueue(self, int32_t queue, uint32_t slot) noexcept nogil
    cdef int32_t fit(self, int32_t queue, int32_t model, int32_t gpu, int64_t start) noexcept nogil
    cdef void drop_late(self, int32_t queue, int64_t start, int64_t duration) noexcept nogil
    cdef void drop_all(self, int32_t queue) noexcept nogil
    cdef void drop_first(self, int32_t queue) noexcept nogil
    cdef uint64_t dispatch(self, int32_t queue, int32_t model, int32_t gpu, int32_t count, int64_t start) noexcept nogil
    cdef void decide(self) noexcept nogil
