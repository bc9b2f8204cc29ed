# What a scheduling policy must be for the simulator: told what happened, it decides when it is run. Times are int64
# nanoseconds that never decrease. A request is known by its slot; a batch by its plan id, which the policy gives.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from symphony.core.engine cimport Engine
from symphony.core.margins cimport Margins
from symphony.core.residency cimport LoadDecision, Residency
from symphony.core.state cimport NativeDecision

cdef enum:
    DECISION_PREEMPT = 2      # stop `plan_id` on `gpu`: its requests stay with the policy, its time is lost


cdef class SimPolicy:
    cdef vector[NativeDecision] decisions    # of the last run
    cdef vector[uint32_t] ids                # slots of each decision, from `first` on
    cdef vector[LoadDecision] loads          # of the last run
    cdef void begin(self, int64_t now) noexcept nogil
    cdef void request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil
    cdef void batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t now) noexcept nogil
    cdef void gpu_left(self, int32_t gpu) noexcept nogil
    cdef void load_finished(self, uint64_t load_id, int32_t gpu) noexcept nogil
    cdef void run(self, int64_t now) noexcept nogil
    cdef int64_t wakeup(self) noexcept nogil


cdef class CorePolicy(SimPolicy):
    cdef readonly Engine engine
    cdef Margins margins                     # None if they stay as configured
    cdef readonly Residency residency
