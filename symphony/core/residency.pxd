# More models than memory: which GPU holds which model, and what to load next. One thread at a time, like the engine
# beside it. Sizes are bytes, times int64 nanoseconds.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.core.containers cimport IndexedHeap
from symphony.core.engine cimport Engine


cdef enum:
    CONSIDERED_MAX = 32       # absent models looked at in one plan
    VICTIM_COUNT_MAX = 64     # models that leave for one


# A model's weights on GPUs of one kind.
cdef struct Footprint:
    int64_t memory_bytes      # -1: it cannot be loaded there by demand
    int64_t load_ns           # how long bringing them there takes: as declared, then as measured


# A GPU's memory for models.
cdef struct Store:
    int64_t budget_bytes      # -1: its memory is not managed here
    int64_t used_bytes        # of what it holds and of what is being loaded
    int32_t loading           # the model on its way there, -1: none; one at a time
    uint64_t load_id
    int64_t loading_since_ns


# Evict `victims` (from `first` on, `count` of them), then load `model`; it should be there by `finish_at_ns`.
cdef struct LoadDecision:
    uint64_t load_id
    int32_t gpu
    int32_t model
    uint32_t first
    uint32_t count
    int64_t finish_at_ns


cdef class Residency:
    cdef readonly Engine engine
    cdef readonly cbool is_active             # some GPU's memory is managed
    cdef cbool by_recency
    cdef vector[Footprint] footprints         # by (model, kind)
    cdef vector[Store] stores                 # by GPU
    cdef vector[vector[int32_t]] held         # by GPU: the models there, if its memory is managed
    cdef vector[int32_t] managed              # the GPUs whose memory is, ascending
    cdef vector[int32_t] loading_count        # by model: GPUs it is on its way to
    cdef vector[int64_t] retry_at_ns          # by model: not loaded before, because it failed
    cdef IndexedHeap absent                   # model with requests and no GPU that holds it, by its earliest deadline
    cdef int64_t seen_epoch
    cdef cbool has_hurried
    cdef int64_t wake_at_ns
    cdef vector[int32_t] order                # absent models in this plan, most urgent first
    cdef vector[int32_t] chosen               # of them, those that a load can still help
    cdef vector[int32_t] spare                # victims of the GPU looked at
    cdef vector[int32_t] best                 # victims of the best GPU
    cdef vector[LoadDecision] decisions       # of the last plan
    cdef vector[int32_t] victims
    cdef readonly uint64_t load_count
    cdef cbool may_fill                       # a model or memory came since the last plan that filled nothing

    cdef int memory_declared(self, int32_t gpu, int64_t budget) noexcept nogil
    cdef int footprint_declared(self, int32_t model, int32_t kind, int64_t memory, int64_t load) noexcept nogil
    cdef int load_finished(self, uint64_t load_id, int32_t gpu, cbool is_there) noexcept nogil
    cdef int model_placed(self, int32_t model, int32_t gpu) noexcept nogil
    cdef int model_evicted(self, int32_t model, int32_t gpu) noexcept nogil
    cdef int model_removed(self, int32_t model) noexcept nogil
    cdef int gpu_left(self, int32_t gpu) noexcept nogil
    cdef int gpu_drained(self, int32_t gpu, cbool is_drained) noexcept nogil
    cdef void observe(self) noexcept nogil
    cdef void plan(self, int64_t now) noexcept nogil
    cdef int64_t wakeup(self) noexcept nogil
    cdef void allow_absence(self, int32_t model) noexcept nogil
    cdef void forget(self, int32_t model, int32_t gpu) noexcept nogil
    cdef cbool is_homeless(self, int32_t model) noexcept nogil
    cdef cbool has_channel(self) noexcept nogil
    cdef void choose(self, int64_t now) noexcept nogil
    cdef double load_share(self, int32_t model) noexcept nogil
    cdef double per_request(self, int32_t model) noexcept nogil
    cdef int64_t alone_of(self, int32_t model) noexcept nogil
    cdef cbool place(self, int32_t model, cbool is_crowded, cbool is_replica, int64_t now) noexcept nogil
    cdef cbool gather_victims(self, int32_t gpu, int64_t need) noexcept nogil
    cdef cbool goes_before(self, int32_t one, int32_t other) noexcept nogil
    cdef cbool is_busy(self, int32_t model, int32_t gpu) noexcept nogil
    cdef cbool is_needed(self, int32_t model, int32_t gpu) noexcept nogil
    cdef double assigned(self, int32_t gpu) noexcept nogil
    cdef double demand(self, int32_t model) noexcept nogil
    cdef void start(self, int32_t model, int32_t gpu, int64_t now) noexcept nogil
    cdef void hurry(self, int32_t model) noexcept nogil
    cdef void replicate(self, int64_t now) noexcept nogil
    cdef void fill(self, int64_t now) noexcept nogil
