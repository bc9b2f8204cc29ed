# Margins that follow how much batches overrun their profile. One thread at a time, like the engine beside it.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libcpp.vector cimport vector

from symphony.core.engine cimport Engine


cdef class Margins:
    cdef Engine engine
    cdef vector[int64_t] configured       # by model: the margin it was added with
    cdef vector[int64_t] applied          # by model: what was added to it last
    cdef vector[double] excess            # by model: the quantile of its overruns
    cdef vector[double] spread            # by model: how far they lie from it
    cdef vector[int64_t] ended_at         # by GPU: its last batch

    cdef void configure(self, int32_t model, int64_t margin) noexcept nogil
    cdef void forget(self, int32_t model) noexcept nogil
    cdef int batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t finished) noexcept nogil
    cdef void learn(self, int32_t model, double overrun) noexcept nogil
