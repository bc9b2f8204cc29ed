# Candidates and their windows; the fields are State's.

from libc.stdint cimport int32_t, int64_t
from libcpp cimport bool as cbool

from symphony.core.demand cimport Demand


cdef struct Window:
    int64_t confined_ns       # from then on the candidate may start on the active set
    int64_t ready_ns          # from then on on any GPU


cdef class Windows(Demand):
    cdef int64_t urgency(self, int32_t model, int32_t kind, int32_t count) noexcept nogil
    cdef void place(self, int32_t model, int32_t kind) noexcept nogil
    cdef Window window(self, int32_t model, int32_t kind, int32_t count) noexcept nogil
    cdef cbool is_nearly_whole(self, int32_t model, int32_t count) noexcept nogil
    cdef int64_t last_call(self, int32_t model, int32_t kind, int32_t live) noexcept nogil
    cdef int32_t foreseen(self, int32_t model, int32_t kind, int32_t count, int32_t most, Window& window) noexcept nogil
    cdef void set_quiet(self, int32_t model, int32_t kind, int32_t count) noexcept nogil
    cdef void unplace(self, int32_t model, int32_t kind) noexcept nogil
    cdef void place_all(self, int32_t model) noexcept nogil
    cdef void refresh(self, int32_t model) noexcept nogil
    cdef void refresh_hopeless(self, int32_t model) noexcept nogil
