# Feeds the core from one ring and performs its decisions through others. No clock, no thread, no system call: the
# loop that owns the driver (symphony/loop) tells it the time and wakes those it names.
#
# Threads: any thread may push(); one thread calls advance(); one thread per GPU reads that GPU's lane; one thread
# reads the outcomes.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

from symphony.core.engine cimport Engine
from symphony.core.margins cimport Margins
from symphony.core.residency cimport Residency

cdef extern from "symphony/mpsc_ring.h" namespace "symphony" nogil:
    cppclass MpscRing[T]:
        void reset(size_t capacity)
        cbool push(const T& value)
        cbool pop(T& value)
        cbool empty()

cdef extern from "symphony/message_ring.h" namespace "symphony" nogil:
    cppclass MessageRing:
        void reset(size_t capacity)
        cbool push(const uint64_t* first, size_t first_count, const uint32_t* ids, size_t id_count)
        int64_t peek_count()
        void pop(uint64_t* payload)

cdef enum EventKind:
    ON_REQUEST_ARRIVED
    ON_REQUEST_CANCELLED
    ON_BATCH_STARTED
    ON_BATCH_FINISHED
    ON_MODEL_ADDED
    ON_MODEL_REMOVED
    ON_PROFILE_CHANGED
    ON_MARGIN_CHANGED
    ON_GPU_JOINED
    ON_GPU_LEFT
    ON_GPU_DRAINED
    ON_GPU_RESTORED
    ON_MODEL_PLACED
    ON_MODEL_EVICTED
    ON_MEMORY_DECLARED
    ON_FOOTPRINT_DECLARED
    ON_LOAD_FINISHED

cdef struct DriverEvent:
    int32_t kind              # EventKind
    int32_t model
    int32_t gpu               # a GPU, or a kind of GPU
    uint32_t slot             # a request, or a batch size
    int32_t priority
    int64_t at_ns             # deadline, instant or duration, as the event needs
    uint64_t plan_id
    int64_t* table            # malloc'ed l(1..); the driver frees it

# Words of a plan in a GPU's lane, before the request ids. Of a load: its id, its model, and the models that leave for it
# in place of requests.
cdef enum:
    PLAN_ID = 0
    PLAN_MODEL = 1
    PLAN_START_AT = 2
    PLAN_FINISH_AT = 3
    PLAN_DECIDED_AT = 4
    PLAN_IS_LOAD = 5
    PLAN_WORD_COUNT = 6
    OUTCOME_CANCELLED = 100   # beside the core's drop reasons

cdef class Driver:
    cdef readonly Engine engine
    cdef Margins margins
    cdef readonly Residency residency
    cdef MpscRing[DriverEvent] ring
    cdef vector[unique_ptr[MessageRing]] lanes
    cdef MessageRing outcomes
    cdef vector[int32_t] touched_gpus     # GPUs whose lanes got a plan in the last advance
    cdef cbool has_outcomes               # whether the last advance put something into `outcomes`
    cdef readonly int fault               # 0, or the EventStatus of an event that broke an invariant
    cdef readonly uint64_t dispatch_count
    cdef readonly uint64_t drop_count

    cdef cbool push(self, const DriverEvent& event) noexcept nogil
    cdef int64_t advance(self, int64_t now) noexcept nogil
    cdef int apply(self, const DriverEvent& event) noexcept nogil
    cdef void report(self, uint32_t slot, uint64_t reason) noexcept nogil
    cdef void perform(self, int64_t now) noexcept nogil
