# distutils: language = c++
"""Measure how many requests per second the core schedules in real time on one core: for bench/scheduler.py.

One thread, never sleeping: it takes the arrivals that are due by the clock (drawn before, nothing is computed here),
the ends of batches on GPUs that take exactly l(b), and runs the core on them; so what it cannot keep up with shows as
lag, late batches and drops, as it would in a node. With `driver` the same passes through the node's rings: every
request and every batch's end is pushed as an event, every plan and drop is read from its lane. With `quantum_ns` the
clock is not the machine's: it moves on by that much per look, so that every run takes the same steps and instructions
can be counted.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from symphony.core.containers cimport HugeAllocator, IndexedHeap
from symphony.core.engine cimport Engine
from symphony.core.state cimport Arrival, DECISION_DISPATCH, NativeDecision
from symphony.driver.driver cimport (
    ON_BATCH_FINISHED,
    ON_REQUEST_ARRIVED,
    PLAN_ID,
    PLAN_MODEL,
    PLAN_START_AT,
    PLAN_WORD_COUNT,
    Driver,
    DriverEvent,
)

cdef extern from "symphony/latency_histogram.h" namespace "symphony" nogil:
    cppclass LatencyHistogram:
        void record(int64_t value_ns)
        uint64_t count_at(size_t bucket)
        @staticmethod
        uint64_t upper_ns(size_t bucket)
    size_t BUCKET_COUNT "symphony::LatencyHistogram::kBucketCount"

cdef int64_t ARRIVALS_PER_STEP_MAX = 2048     # more would not stay in the cache until they are decided
# A door that has fallen further behind refuses what is older, as an ingress would; else it would stay behind for ever.
cdef int64_t BEHIND_NS_MAX = 5_000_000
cdef int32_t PRIORITY = 4


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef struct Running:
    uint64_t plan_id
    int64_t finish_at_ns


cdef class CapacityRun:
    """One engine under load in real time; make it, call `run` once, read the counters."""

    cdef Engine engine
    cdef Driver driver
    cdef cbool has_rings
    cdef const int64_t[::1] gaps
    cdef const int32_t[::1] models
    cdef const int64_t[::1] slos
    cdef const int64_t[:, ::1] latency
    cdef uint32_t next_slot                   # given out in turn: neighbours in memory are written one after another
    cdef uint32_t used_count
    cdef uint32_t used_count_max              # leaves room to find a free one soon
    cdef vector[Arrival] arrivals             # of this step: the first `arrival_count`
    cdef size_t arrival_count
    cdef vector[int64_t, HugeAllocator[int64_t]] deadlines      # by slot
    cdef vector[Running] running              # by GPU, two each
    cdef vector[int32_t] running_count
    cdef IndexedHeap finishes
    cdef LatencyHistogram lags
    cdef vector[uint64_t] payload             # of the plan being read
    cdef vector[uint32_t] plan_slots
    cdef readonly uint64_t arrived_count
    cdef readonly uint64_t good_count
    cdef readonly uint64_t late_count
    cdef readonly uint64_t dropped_count
    cdef readonly uint64_t batch_count
    cdef readonly uint64_t step_count
    cdef readonly uint64_t no_slot_count
    cdef readonly uint64_t refused_count
    cdef readonly int64_t elapsed_ns
    cdef cbool is_warm
    cdef int64_t quantum_ns
    cdef int64_t now_ns                       # of the clock that does not follow the machine's

    def __init__(self, Engine engine, const int64_t[::1] gaps, const int32_t[::1] models, const int64_t[::1] slos,
                 const int64_t[:, ::1] latency, int gpu_count, Driver driver=None, int64_t quantum_ns=0):
        """Take an engine with its models and GPUs added at time 0, and a ring of arrivals: gaps in ns and models.

        Every model is made resident on every GPU. `latency` is int64[model, batch size], entry 0 unused. With `driver`,
        `engine` must be its engine.
        """
        cdef int32_t model, gpu
        self.quantum_ns = quantum_ns
        self.now_ns = 1
        self.engine, self.gaps, self.models, self.slos, self.latency = engine, gaps, models, slos, latency
        self.has_rings = driver is not None
        self.driver = driver
        self.deadlines.assign(engine.request_count_max, 0)
        self.used_count_max = engine.request_count_max // 4 * 3
        self.running.resize(2 * gpu_count)
        self.running_count.assign(gpu_count, 0)
        self.finishes.reset(gpu_count)
        engine.begin(0)
        for gpu in range(gpu_count):
            for model in range(<int32_t>slos.shape[0]):
                engine.model_placed(model, gpu)
        engine.run(0)

    def run(self, double duration_s, double warmup_s=0.0):
        """Load the engine for so many seconds of real time, then let what is inside end.

        Before that, the load grows from a quarter of the rate to all of it during a warm-up, which is not counted.
        """
        with nogil:
            self._run(<int64_t>(duration_s * 1e9), <int64_t>(warmup_s * 1e9))

    def lag_ns(self, double share):
        """Return the quantile of the decision lag: from when a step's first event was due until all was decided."""
        cdef uint64_t total = 0
        cdef uint64_t passed = 0
        cdef size_t bucket
        for bucket in range(BUCKET_COUNT):
            total += self.lags.count_at(bucket)
        for bucket in range(BUCKET_COUNT):
            passed += self.lags.count_at(bucket)
            if passed >= share * total:
                return LatencyHistogram.upper_ns(bucket)
        return 0

    cdef int64_t look(self) noexcept nogil:
        """Return what time it is."""
        if self.quantum_ns == 0:
            return monotonic_ns()
        self.now_ns += self.quantum_ns
        return self.now_ns

    cdef void _run(self, int64_t duration_ns, int64_t warmup_ns) noexcept nogil:
        cdef int64_t count = self.gaps.shape[0]
        cdef int64_t position = 0
        cdef int64_t arrival, end, now, due, wake, taken, warm
        cdef int32_t gpu
        cdef DriverEvent event
        event.gpu = 0
        event.priority = PRIORITY
        event.table = NULL
        event.plan_id = 0
        now = self.look()
        warm = now + warmup_ns
        end = warm + duration_ns
        self.elapsed_ns = duration_ns
        arrival = now + self.gaps[0]
        wake = INT64_MAX
        while True:
            now = self.look()
            due = wake
            if arrival < due and arrival < end:
                due = arrival
            if not self.finishes.empty() and self.finishes.top_key() < due:
                due = self.finishes.top_key()
            if due == INT64_MAX:
                break
            if due > now:
                continue
            if not self.has_rings:
                self.engine.begin(now)
            while not self.finishes.empty() and self.finishes.top_key() <= now:
                self.end_batch(<int32_t>self.finishes.top(), now, event)
            taken = 0
            while arrival <= now and arrival < end and taken < ARRIVALS_PER_STEP_MAX:
                taken += 1
                if now - arrival <= BEHIND_NS_MAX:
                    self.take_in(arrival, self.models[position])
                else:
                    self.arrived_count += 1
                    self.refused_count += 1
                position += 1
                if position == count:
                    position = 0
                arrival += self.gaps[position]
                if arrival < warm:
                    arrival += <int64_t>(3.0 * <double>self.gaps[position] * <double>(warm - arrival) / <double>warmup_ns)
            if not self.is_warm and now >= warm:
                self.is_warm = True
                self.forget()
            self.tell(event)
            if self.has_rings:
                wake = self.driver.advance(now)
                self.read_rings()
            else:
                self.engine.run(now)
                self.perform()
                wake = self.engine.wakeup()
            self.step_count += 1
            if self.is_warm:
                self.lags.record((monotonic_ns() if self.quantum_ns == 0 else now) - due)

    cdef void forget(self) noexcept nogil:
        """Begin to count: what is inside already is judged when it ends, as what comes in from now on."""
        self.arrived_count = self.used_count
        self.good_count = self.late_count = self.dropped_count = self.no_slot_count = self.refused_count = 0
        self.batch_count = self.step_count = 0

    cdef void take_in(self, int64_t at, int32_t model) noexcept nogil:
        """Give a slot to a request."""
        cdef Arrival* arrival
        self.arrived_count += 1
        if self.used_count >= self.used_count_max:
            self.no_slot_count += 1
            return
        while self.engine.slots[self.next_slot].sequence != 0:
            self.next_slot += 1
            if self.next_slot == self.engine.request_count_max:
                self.next_slot = 0
        # Written in place: a copy of fields just written would wait for them.
        if self.arrival_count == self.arrivals.size():
            self.arrivals.resize(2 * self.arrivals.size() + 64)
        arrival = &self.arrivals[self.arrival_count]
        self.arrival_count += 1
        arrival.slot = self.next_slot
        arrival.model = model
        arrival.priority = PRIORITY
        arrival.deadline = at + self.slos[model]
        self.deadlines[self.next_slot] = arrival.deadline
        self.used_count += 1
        self.next_slot += 1
        if self.next_slot == self.engine.request_count_max:
            self.next_slot = 0

    cdef void tell(self, DriverEvent& event) noexcept nogil:
        """Tell the core of the requests taken in."""
        cdef size_t k
        if not self.has_rings:
            self.engine.requests_arrived(self.arrivals.data(), self.arrival_count)
            self.arrival_count = 0
            return
        event.kind = ON_REQUEST_ARRIVED
        for k in range(self.arrival_count):
            event.model = self.arrivals[k].model
            event.slot = self.arrivals[k].slot
            event.at_ns = self.arrivals[k].deadline
            event.priority = PRIORITY
            self.driver.push(event)
        self.arrival_count = 0

    # ---- decisions -------------------------------------------------------------------------------------------

    cdef void perform(self) noexcept nogil:
        cdef size_t i
        cdef NativeDecision* d
        for i in range(self.engine.decisions.size()):
            d = &self.engine.decisions[i]
            if d.kind == DECISION_DISPATCH:
                self.start_batch(d.gpu, d.model, d.plan_id, d.start_at_ns, &self.engine.ids[d.first], d.count)
            else:
                self.dropped_count += 1
                self.used_count -= 1

    cdef void read_rings(self) noexcept nogil:
        cdef size_t i
        cdef int64_t words
        cdef uint64_t[1] word
        cdef int32_t gpu
        cdef uint64_t* head
        cdef int64_t k
        for i in range(self.driver.touched_gpus.size()):
            gpu = self.driver.touched_gpus[i]
            words = self.driver.lanes[gpu].get().peek_count()
            if words < 0:
                continue
            self.payload.resize(words)
            head = self.payload.data()
            self.driver.lanes[gpu].get().pop(head)
            self.plan_slots.clear()
            for k in range(PLAN_WORD_COUNT, words):
                self.plan_slots.push_back(<uint32_t>head[k])
            self.start_batch(gpu, <int32_t>head[PLAN_MODEL], head[PLAN_ID], <int64_t>head[PLAN_START_AT],
                             self.plan_slots.data(), <uint32_t>self.plan_slots.size())
        while self.driver.outcomes.peek_count() >= 0:
            self.driver.outcomes.pop(word)
            self.dropped_count += 1
            self.used_count -= 1

    cdef void start_batch(self, int32_t gpu, int32_t model, uint64_t plan_id, int64_t start_at, const uint32_t* slots,
                          uint32_t count) noexcept nogil:
        cdef Running* r = &self.running[2 * gpu + self.running_count[gpu]]
        cdef uint32_t k
        cdef int64_t now = monotonic_ns() if self.quantum_ns == 0 else self.now_ns
        cdef int64_t begin = start_at if start_at > now else now
        self.batch_count += 1
        if self.running_count[gpu] == 1 and self.running[2 * gpu].finish_at_ns > begin:
            begin = self.running[2 * gpu].finish_at_ns
        r.plan_id = plan_id
        r.finish_at_ns = begin + self.latency[model, count]
        # They are in the order of their deadlines, so if the first is good all are.
        if self.deadlines[slots[0]] >= r.finish_at_ns:
            self.good_count += count
        else:
            for k in range(count):
                if self.deadlines[slots[k]] >= r.finish_at_ns:
                    self.good_count += 1
                else:
                    self.late_count += 1
        self.used_count -= count
        self.running_count[gpu] += 1
        if self.running_count[gpu] == 1:
            self.finishes.set(<uint32_t>gpu, r.finish_at_ns)

    cdef void end_batch(self, int32_t gpu, int64_t now, DriverEvent& event) noexcept nogil:
        cdef Running* r = &self.running[2 * gpu]
        if self.has_rings:
            event.kind = ON_BATCH_FINISHED
            event.gpu = gpu
            event.plan_id = r.plan_id
            event.at_ns = now
            self.driver.push(event)
        else:
            self.engine.batch_finished(r.plan_id, gpu, now)
        self.running_count[gpu] -= 1
        if self.running_count[gpu] == 1:
            self.running[2 * gpu] = self.running[2 * gpu + 1]
            self.finishes.set(<uint32_t>gpu, r.finish_at_ns)
        else:
            self.finishes.remove(<uint32_t>gpu)
