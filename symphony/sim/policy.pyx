# distutils: language = c++
"""Put the scheduling core, as it is, under the simulator's interface of a policy; baselines implement the same one."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t

from symphony.core.engine cimport Engine
from symphony.core.margins cimport Margins
from symphony.core.residency cimport Residency


cdef class SimPolicy:
    """Decide nothing: every request waits for ever. Baselines override all of it."""

    cdef void begin(self, int64_t now) noexcept nogil:
        pass

    cdef void request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil:
        pass

    cdef void batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t now) noexcept nogil:
        pass

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        pass

    cdef void load_finished(self, uint64_t load_id, int32_t gpu) noexcept nogil:
        pass

    cdef void run(self, int64_t now) noexcept nogil:
        pass

    cdef int64_t wakeup(self) noexcept nogil:
        return INT64_MAX


cdef class CorePolicy(SimPolicy):
    """The core behind its native door, margins beside it: the code that the live node runs, byte for byte."""

    def __init__(self, Engine engine, Residency residency, bint adapt=True):
        """Take an engine that knows its models, profiles and GPUs, and no request; `adapt`: learn margins."""
        self.engine = engine
        self.residency = residency
        self.margins = Margins(engine) if adapt else None

    cdef void begin(self, int64_t now) noexcept nogil:
        self.engine.begin(now)

    cdef void request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil:
        self.engine.request_arrived(slot, model, deadline, priority)

    cdef void batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t now) noexcept nogil:
        if self.margins is not None:
            self.margins.batch_finished(plan_id, gpu, now)
        else:
            self.engine.batch_finished(plan_id, gpu, now)

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        self.residency.gpu_left(gpu)

    cdef void load_finished(self, uint64_t load_id, int32_t gpu) noexcept nogil:
        self.residency.load_finished(load_id, gpu, True)

    cdef void run(self, int64_t now) noexcept nogil:
        self.residency.observe()
        self.engine.run(now)
        self.residency.plan(now)
        self.loads.swap(self.residency.decisions)
        self.decisions.swap(self.engine.decisions)
        self.ids.swap(self.engine.ids)

    cdef int64_t wakeup(self) noexcept nogil:
        return min(self.engine.wakeup(), self.residency.wakeup())
