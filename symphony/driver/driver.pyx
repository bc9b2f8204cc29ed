# distutils: language = c++
"""Glue the scheduling core to rings: events in, plans into one lane per GPU, drops into the outcome ring.

Every request that was pushed leaves through exactly one message: as an id in a plan, or in the outcome ring with the
reason of its drop or the acknowledgement of its cancellation. Only then may its slot be used again.
"""

from libc.stdlib cimport free

from symphony.core.engine cimport Engine
from symphony.core.margins cimport Margins
from symphony.core.residency cimport VICTIM_COUNT_MAX, LoadDecision, Residency
from symphony.core.state cimport (
    Arrival,
    DECISION_DISPATCH,
    DROP_NOT_READY,
    EVENT_OK,
    EVENT_UNKNOWN_GPU,
    EVENT_UNKNOWN_MODEL,
    NativeDecision,
)

# An advance takes so many events at most, so that a flood of arrivals cannot delay decisions that are due, and
# what they touch stays in the cache until it is decided.
cdef int EVENTS_PER_ADVANCE_MAX = 2048
# Events are taken in blocks, and what a block's arrivals will touch is fetched while it is read.
cdef enum:
    BLOCK = 32
    NEARER = 4


cdef class Driver:
    """Own the core and its rings; see driver.pxd for who may call what."""

    def __cinit__(self, Engine engine not None, size_t batch_size_max):
        """Make rings that cannot overflow: one event and one outcome per request slot, two plans, a spare and a load per GPU."""
        cdef int32_t gpu
        cdef MessageRing* lane
        self.engine = engine
        self.margins = Margins(engine)
        self.residency = Residency(engine)
        self.ring.reset(4 * <size_t>engine.request_count_max + 4096)
        self.outcomes.reset(2 * <size_t>engine.request_count_max + 64)
        for gpu in range(engine.gpu_count_max):
            lane = new MessageRing()
            lane.reset(3 * (batch_size_max + PLAN_WORD_COUNT + 1) + 2 * (VICTIM_COUNT_MAX + PLAN_WORD_COUNT + 1))
            self.lanes.push_back(unique_ptr[MessageRing](lane))

    cdef cbool push(self, const DriverEvent& event) noexcept nogil:
        return self.ring.push(event)

    cdef int64_t advance(self, int64_t now) noexcept nogil:
        """Take waiting events, let the core decide, perform it; return when to be called next (now: at once)."""
        cdef DriverEvent[BLOCK] block
        cdef int taken = 0
        cdef int count, k
        cdef int status
        self.touched_gpus.clear()
        self.has_outcomes = False
        self.engine.begin(now)
        while taken < EVENTS_PER_ADVANCE_MAX:
            count = 0
            while count < BLOCK and self.ring.pop(block[count]):
                if block[count].kind == ON_REQUEST_ARRIVED:
                    self.engine.fetch_ahead(arrival_of(block[count]))
                count += 1
            if count == 0:
                break
            taken += count
            for k in range(count):
                if k + NEARER < count and block[k + NEARER].kind == ON_REQUEST_ARRIVED:
                    self.engine.fetch_nearer(arrival_of(block[k + NEARER]))
                status = self.apply(block[k])
                if block[k].table != NULL:
                    free(block[k].table)
                if status != EVENT_OK and self.fault == 0:
                    self.fault = status
        self.residency.observe()
        self.engine.run(now)
        self.residency.plan(now)
        self.perform(now)
        if not self.ring.empty():
            return now
        return min(self.engine.wakeup(), self.residency.wakeup())

    cdef int apply(self, const DriverEvent& event) noexcept nogil:
        cdef int status
        if event.kind == ON_REQUEST_ARRIVED:
            status = self.engine.request_arrived(event.slot, event.model, event.at_ns, event.priority)
            if status == EVENT_UNKNOWN_MODEL:
                # The model left while the request was on its way.
                self.report(event.slot, DROP_NOT_READY)
                return EVENT_OK
            return status
        if event.kind == ON_REQUEST_CANCELLED:
            if event.slot < self.engine.request_count_max and self.engine.slots[event.slot].sequence != 0:
                self.engine.request_cancelled(event.slot)
                self.report(event.slot, OUTCOME_CANCELLED)
            return EVENT_OK
        if event.kind == ON_BATCH_STARTED:
            return self.engine.batch_started(event.plan_id, event.gpu, event.at_ns)
        if event.kind == ON_BATCH_FINISHED:
            return self.margins.batch_finished(event.plan_id, event.gpu, event.at_ns)
        if event.kind == ON_MODEL_ADDED:
            status = self.engine.model_added(event.model, event.at_ns, <int32_t>event.slot, event.table[0], event.table[1],
                                             event.priority)
            if status == EVENT_OK:
                self.margins.configure(event.model, event.table[0])
            return status
        if event.kind == ON_MODEL_REMOVED:
            return self.residency.model_removed(event.model)
        if event.kind == ON_PROFILE_CHANGED:
            status = self.engine.profile_changed(event.model, event.gpu, event.table)
            if status == EVENT_OK:
                self.margins.forget(event.model)
            return status
        if event.kind == ON_MARGIN_CHANGED:
            status = self.engine.margin_changed(event.model, event.at_ns)
            if status == EVENT_OK:
                self.margins.configure(event.model, event.at_ns)
            return status
        if event.kind == ON_GPU_JOINED:
            return self.engine.gpu_joined(event.gpu, event.model)
        if event.kind == ON_GPU_LEFT:
            return self.residency.gpu_left(event.gpu)
        if event.kind == ON_GPU_DRAINED:
            return self.residency.gpu_drained(event.gpu, True)
        if event.kind == ON_GPU_RESTORED:
            return self.residency.gpu_drained(event.gpu, False)
        if event.kind == ON_MODEL_PLACED:
            return self.residency.model_placed(event.model, event.gpu)
        if event.kind == ON_MODEL_EVICTED:
            return self.residency.model_evicted(event.model, event.gpu)
        if event.kind == ON_MEMORY_DECLARED:
            return self.residency.memory_declared(event.gpu, event.at_ns)
        if event.kind == ON_FOOTPRINT_DECLARED:
            return self.residency.footprint_declared(event.model, event.gpu, event.table[0], event.table[1])
        return self.residency.load_finished(event.plan_id, event.gpu, event.slot != 0)

    cdef void report(self, uint32_t slot, uint64_t reason) noexcept nogil:
        cdef uint64_t word = reason << 32 | slot
        self.has_outcomes = True
        self.outcomes.push(&word, 1, NULL, 0)

    cdef void perform(self, int64_t now) noexcept nogil:
        cdef NativeDecision decision
        cdef LoadDecision load
        cdef uint64_t[PLAN_WORD_COUNT] words
        cdef size_t i
        for i in range(self.engine.decisions.size()):
            decision = self.engine.decisions[i]
            if decision.kind != DECISION_DISPATCH:
                self.drop_count += 1
                self.report(self.engine.ids[decision.first], <uint64_t>decision.reason)
                continue
            self.dispatch_count += 1
            words[PLAN_ID] = decision.plan_id
            words[PLAN_MODEL] = <uint64_t>decision.model
            words[PLAN_START_AT] = <uint64_t>decision.start_at_ns
            words[PLAN_FINISH_AT] = <uint64_t>decision.finish_at_ns
            words[PLAN_DECIDED_AT] = <uint64_t>now
            words[PLAN_IS_LOAD] = 0
            if not self.lanes[decision.gpu].get().push(words, PLAN_WORD_COUNT, &self.engine.ids[decision.first],
                                                       decision.count):
                self.fault = EVENT_UNKNOWN_GPU
            self.touched_gpus.push_back(decision.gpu)
        for i in range(self.residency.decisions.size()):
            load = self.residency.decisions[i]
            words[PLAN_ID] = load.load_id
            words[PLAN_MODEL] = <uint64_t>load.model
            words[PLAN_START_AT] = words[PLAN_DECIDED_AT] = <uint64_t>now
            words[PLAN_FINISH_AT] = <uint64_t>load.finish_at_ns
            words[PLAN_IS_LOAD] = 1
            if not self.lanes[load.gpu].get().push(words, PLAN_WORD_COUNT, <const uint32_t*>&self.residency.victims[load.first],
                                                   load.count):
                self.fault = EVENT_UNKNOWN_GPU
            self.touched_gpus.push_back(load.gpu)


cdef inline Arrival arrival_of(const DriverEvent& event) noexcept nogil:
    cdef Arrival arrival
    arrival.deadline = event.at_ns
    arrival.slot = event.slot
    arrival.model = event.model
    arrival.priority = event.priority
    return arrival
