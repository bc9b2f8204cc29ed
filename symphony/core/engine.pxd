# The native door of the scheduling core: no Python objects, no GIL, no allocation in steady state.
#
# Call begin(now), then any number of event methods (some are State's), then run(now); read `decisions` and `ids`; the next
# begin() clears them. docs/core.md is the contract; times are int64 nanoseconds that never decrease.

from libc.stdint cimport int32_t, int64_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.core.containers cimport Bitmap
from symphony.core.state cimport DropReason
from symphony.core.windows cimport Windows


cdef class Engine(Windows):
    cdef void begin(self, int64_t now) noexcept nogil
    cdef void run(self, int64_t now) noexcept nogil
    cdef int64_t wakeup(self) noexcept nogil
    cdef int model_added(self, int32_t model, int64_t slo, int32_t batch_size_max, int64_t margin, int64_t delay,
                         int32_t preferred) noexcept nogil
    cdef int model_removed(self, int32_t model) noexcept nogil
    cdef int profile_changed(self, int32_t model, int32_t kind, const int64_t* latency) noexcept nogil
    cdef int margin_changed(self, int32_t model, int64_t margin) noexcept nogil
    cdef int absence_allowed(self, int32_t model, int64_t alone) noexcept nogil
    cdef int model_hurried(self, int32_t model) noexcept nogil
    cdef int gpu_left(self, int32_t gpu) noexcept nogil
    cdef int model_placed(self, int32_t model, int32_t gpu) noexcept nogil
    cdef int model_evicted(self, int32_t model, int32_t gpu) noexcept nogil
    cdef void residency_changed(self, int32_t model) noexcept nogil
    cdef void drop_all(self, int32_t model, DropReason reason) noexcept nogil
    cdef void drop_hopeless(self) noexcept nogil
    cdef void match(self) noexcept nogil
    cdef int32_t most_urgent(self, cbool is_confined, int32_t* best_kind, int32_t* best_count) noexcept nogil
    cdef cbool goes_first(self, int32_t confined, int32_t confined_count, int32_t model, int32_t count) noexcept nogil
    cdef cbool may_open(self, cbool is_confined) noexcept nogil
    cdef Bitmap* pool(self, int32_t kind, cbool is_confined) noexcept nogil
    cdef void set_aside(self, int32_t model, int32_t kind) noexcept nogil
    cdef cbool waits_for_faster(self, int32_t model, int32_t kind) noexcept nogil
    cdef void take_back(self, vector[int32_t]* pairs) noexcept nogil
    cdef cbool shed_one(self, int32_t model, int32_t kind, int32_t count) noexcept nogil
    cdef void dispatch(self, int32_t model, int32_t gpu, int32_t count, int64_t start) noexcept nogil
