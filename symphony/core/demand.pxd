# Demand shares and target batch sizes; the fields are State's.

from libc.stdint cimport int32_t, int64_t

from symphony.core.state cimport State


cdef class Demand(State):
    cdef void roll(self, int64_t now) noexcept nogil
    cdef void measure_shares(self) noexcept nogil
    cdef void measure_speeds(self) noexcept nogil
    cdef double speed_of_all(self, int32_t model, double* gpus) noexcept nogil
    cdef int32_t active_set(self) noexcept nogil
    cdef double work(self, int32_t model) noexcept nogil
    cdef void measure_targets(self) noexcept nogil
    cdef void measure_target(self, int32_t model) noexcept nogil
    cdef int32_t target(self, int32_t model, int32_t kind) noexcept nogil
