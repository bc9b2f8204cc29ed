# distutils: language = c++
"""Drive the scheduling core in real time: a thread that never holds the GIL while it works.

It sleeps in ppoll on an eventfd with a nanosecond timeout (timer slack 1 ns); who pushes an event writes the eventfd
only if the thread sleeps. Plans wake the GPU's worker through a semaphore; drops and cancellations wake asyncio
through a second eventfd, once per advance, not per request.

Chosen over loop timers (uvloop rounds them to milliseconds and fires early) and over a Python thread (the
interpreter's switch interval is several windows wide).
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libcpp cimport bool as cbool
from libcpp.vector cimport vector
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read, write

from symphony.core.state cimport DROP_EXPIRED, DROP_NO_GPU, DROP_NOT_READY, DROP_WOULD_MISS
from symphony.driver.driver cimport (
    ON_BATCH_FINISHED,
    ON_BATCH_STARTED,
    ON_FOOTPRINT_DECLARED,
    ON_GPU_DRAINED,
    ON_GPU_JOINED,
    ON_GPU_LEFT,
    ON_GPU_RESTORED,
    ON_LOAD_FINISHED,
    ON_MARGIN_CHANGED,
    ON_MEMORY_DECLARED,
    ON_MODEL_ADDED,
    ON_MODEL_EVICTED,
    ON_MODEL_PLACED,
    ON_MODEL_REMOVED,
    ON_PROFILE_CHANGED,
    ON_REQUEST_ARRIVED,
    ON_REQUEST_CANCELLED,
    OUTCOME_CANCELLED,
    PLAN_DECIDED_AT,
    PLAN_FINISH_AT,
    PLAN_ID,
    PLAN_IS_LOAD,
    PLAN_MODEL,
    PLAN_START_AT,
    PLAN_WORD_COUNT,
    Driver,
    DriverEvent,
    MessageRing,
)

from symphony.core.scheduler import make_engine
from symphony.errors import Reason

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* sigmask)
    short POLLIN

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t* sem, int is_shared, unsigned int value)
    int sem_post(sem_t* sem)
    int sem_wait(sem_t* sem)
    int sem_destroy(sem_t* sem)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value, ...)
    int PR_SET_TIMERSLACK

cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec* until, timespec* left)
    int TIMER_ABSTIME

cdef extern from "symphony/doorbell.h" namespace "symphony" nogil:
    cppclass Doorbell:
        void lie_down()
        void get_up()
        cbool should_ring()

cdef extern from "symphony/latency_histogram.h" namespace "symphony" nogil:
    cppclass LatencyHistogram:
        void record(int64_t value_ns)
        uint64_t count_at(size_t bucket)
        uint64_t sum_ns()
        @staticmethod
        uint64_t upper_ns(size_t bucket)
    size_t BUCKET_COUNT "symphony::LatencyHistogram::kBucketCount"

cdef dict OUTCOME_REASONS = {
    <int>DROP_WOULD_MISS: Reason.WOULD_MISS,
    <int>DROP_EXPIRED: Reason.EXPIRED,
    <int>DROP_NO_GPU: Reason.NO_GPU,
    <int>DROP_NOT_READY: Reason.NOT_READY,
    <int>OUTCOME_CANCELLED: Reason.CANCELLED,
}


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline void sleep_until(int64_t until_ns) noexcept nogil:
    cdef timespec until
    until.tv_sec = until_ns // 1_000_000_000
    until.tv_nsec = until_ns % 1_000_000_000
    while clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR:
        pass


cdef class Plan:
    """Tell a worker to run requests `ids` of `model` as one batch on `gpu`; times are monotonic nanoseconds.

    Not before `start_at_ns`; predicted to end by `finish_at_ns`; decided at `decided_at_ns`.
    """

    is_load = False
    cdef readonly uint64_t plan_id
    cdef readonly int gpu
    cdef readonly int model
    cdef readonly list ids
    cdef readonly int64_t start_at_ns
    cdef readonly int64_t finish_at_ns
    cdef readonly int64_t decided_at_ns

    def __repr__(self):
        return f"Plan({self.plan_id}, gpu={self.gpu}, model={self.model}, {len(self.ids)} requests)"


cdef class Load:
    """Tell a worker to take the models `evicted` off `gpu` and bring `model` there; answer with `load_finished`."""

    is_load = True
    cdef readonly uint64_t load_id
    cdef readonly int gpu
    cdef readonly int model
    cdef readonly list evicted

    def __repr__(self):
        return f"Load({self.load_id}, gpu={self.gpu}, model={self.model}, evicted={self.evicted})"


cdef class SchedulingLoop:
    """Own the scheduling thread's state; `run` is the thread's body, everything else may be called from other threads.

    Requests are known by slot: a number below `request_count_max` that the caller may use again only after the slot
    came back in a plan or from `drain_outcomes`.
    """

    cdef readonly Driver driver
    cdef readonly int outcome_fd
    cdef int wake_fd
    cdef sem_t* semaphores
    cdef int gpu_count
    cdef Doorbell bell
    cdef volatile cbool is_stopping
    cdef int64_t spin_ns
    cdef LatencyHistogram lateness

    def __cinit__(self, *, int batch_size_limit=4096, int64_t spin_ns=0, **settings):
        """Take the core's settings (docs/core.md), the largest batch any model may have, and how long to spin before a
        wake-up instead of sleeping (nanoseconds; costs a core that much, saves the timer's lateness)."""
        cdef int gpu
        engine = make_engine(**settings)
        self.driver = Driver(engine, batch_size_limit)
        self.gpu_count = self.driver.engine.gpu_count_max
        self.spin_ns = spin_ns
        self.semaphores = <sem_t*>calloc(self.gpu_count, sizeof(sem_t))
        if self.semaphores == NULL:
            raise MemoryError()
        for gpu in range(self.gpu_count):
            sem_init(&self.semaphores[gpu], 0, 0)
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.outcome_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        cdef int gpu
        if self.semaphores != NULL:
            for gpu in range(self.gpu_count):
                sem_destroy(&self.semaphores[gpu])
            free(self.semaphores)

    def close(self):
        """Close the file descriptors; the thread and all workers must have ended."""
        os.close(self.wake_fd)
        os.close(self.outcome_fd)

    # ---- the thread --------------------------------------------------------------------------------------------

    def run(self):
        """Schedule until `stop` is called. Raise RuntimeError with the state if an invariant broke."""
        with nogil:
            self._run()
        if self.driver.fault != 0:
            raise RuntimeError(
                f"scheduling loop stopped: event status {self.driver.fault} broke an invariant "
                f"(queued {self.driver.engine.queued}, dispatches {self.driver.dispatch_count}, "
                f"drops {self.driver.drop_count}, now {self.driver.engine.now_ns})"
            )

    cdef void _run(self) noexcept nogil:
        cdef int64_t now, wake, done
        cdef int64_t due = INT64_MAX
        cdef uint64_t one = 1
        cdef size_t i
        prctl(PR_SET_TIMERSLACK, 1)
        while not self.is_stopping and self.driver.fault == 0:
            now = monotonic_ns()
            wake = self.driver.advance(now)
            for i in range(self.driver.touched_gpus.size()):
                sem_post(&self.semaphores[self.driver.touched_gpus[i]])
            if self.driver.has_outcomes:
                write(self.outcome_fd, &one, sizeof(one))
            done = monotonic_ns()
            if due <= now:
                self.lateness.record(done - due)
            due = wake
            if wake > done:
                self._sleep(wake, done)

    cdef void _sleep(self, int64_t until, int64_t now) noexcept nogil:
        cdef pollfd descriptor
        cdef timespec timeout
        cdef uint64_t count
        cdef int64_t left = until - now
        if left <= self.spin_ns:
            while monotonic_ns() < until and self.driver.ring.empty() and not self.is_stopping:
                pass
            return
        left -= self.spin_ns
        if left > 1_000_000_000:
            left = 1_000_000_000
        self.bell.lie_down()
        if self.driver.ring.empty() and not self.is_stopping:
            descriptor.fd = self.wake_fd
            descriptor.events = POLLIN
            timeout.tv_sec = left // 1_000_000_000
            timeout.tv_nsec = left % 1_000_000_000
            ppoll(&descriptor, 1, &timeout, NULL)
        self.bell.get_up()
        read(self.wake_fd, &count, sizeof(count))

    def stop(self):
        """Make `run` return and all `take` calls return None."""
        cdef uint64_t one = 1
        cdef int gpu
        self.is_stopping = True
        write(self.wake_fd, &one, sizeof(one))
        for gpu in range(self.gpu_count):
            sem_post(&self.semaphores[gpu])

    # ---- events ------------------------------------------------------------------------------------------------

    cdef cbool _push(self, const DriverEvent& event) noexcept nogil:
        if not self.driver.push(event):
            return False
        self._ring()
        return True

    cdef void _ring(self) noexcept nogil:
        cdef uint64_t one = 1
        if self.bell.should_ring():
            write(self.wake_fd, &one, sizeof(one))

    cdef int _tell(self, int kind, int model=0, int gpu=0, int64_t at_ns=0, uint32_t slot=0, int priority=0,
                   uint64_t plan_id=0, int64_t* table=NULL, bint is_quiet=False) except -1:
        cdef DriverEvent event
        event.kind = kind
        event.model = model
        event.gpu = gpu
        event.slot = slot
        event.priority = priority
        event.at_ns = at_ns
        event.plan_id = plan_id
        event.table = table
        if not self.driver.push(event):
            free(table)
            raise BufferError("the scheduling loop's event ring is full: the loop is stuck or stopped")
        if not is_quiet:
            self._ring()
        return 0

    def request_arrived(self, uint32_t slot, int model, int64_t deadline_ns, int priority):
        """Submit the request in `slot`; it comes back in a plan or from `drain_outcomes`."""
        self._tell(ON_REQUEST_ARRIVED, model, 0, deadline_ns, slot, priority)

    def queue_arrival(self, uint32_t slot, int model, int64_t deadline_ns, int priority):
        """Like `request_arrived`, but let the scheduling thread sleep on: `ring` soon, once for many."""
        self._tell(ON_REQUEST_ARRIVED, model, 0, deadline_ns, slot, priority, 0, NULL, True)

    def ring(self):
        """Wake the scheduling thread if it sleeps."""
        self._ring()

    def request_cancelled(self, uint32_t slot):
        """Ask for the slot back; it comes as CANCELLED, or has already left otherwise."""
        self._tell(ON_REQUEST_CANCELLED, 0, 0, 0, slot)

    def batch_started(self, uint64_t plan_id, int gpu, int64_t started_ns):
        """Report the measured start of a plan."""
        self._tell(ON_BATCH_STARTED, 0, gpu, started_ns, 0, 0, plan_id)

    def batch_finished(self, uint64_t plan_id, int gpu, int64_t finished_ns):
        """Report the measured end of a plan: the GPU is free."""
        self._tell(ON_BATCH_FINISHED, 0, gpu, finished_ns, 0, 0, plan_id)

    def wait_and_finish(self, uint64_t plan_id, int gpu, int64_t finished_ns):
        """Sleep until `finished_ns`, then report the end of the plan, all without the GIL."""
        cdef DriverEvent event
        event.kind = ON_BATCH_FINISHED
        event.model = 0
        event.gpu = gpu
        event.slot = 0
        event.priority = 0
        event.at_ns = finished_ns
        event.plan_id = plan_id
        event.table = NULL
        cdef cbool is_pushed
        with nogil:
            prctl(PR_SET_TIMERSLACK, 1)
            sleep_until(finished_ns)
            is_pushed = self._push(event)
        if not is_pushed:
            raise BufferError("the scheduling loop's event ring is full: the loop is stuck or stopped")

    def model_added(self, int model, int64_t slo_ns, int batch_size_max, int64_t margin_ns, int64_t delay_ns=0,
                    int batch_size_preferred=0):
        """Add a model; the fields are those of `symphony.core.ModelAdded`."""
        cdef int64_t* table = <int64_t*>malloc(2 * sizeof(int64_t))
        table[0] = margin_ns
        table[1] = delay_ns
        self._tell(ON_MODEL_ADDED, model, 0, slo_ns, batch_size_max, batch_size_preferred, 0, table)

    def model_removed(self, int model):
        """Remove a model; its waiting requests come back as NOT_READY."""
        self._tell(ON_MODEL_REMOVED, model)

    def profile_changed(self, int model, int kind, latency_ns):
        """Set l(1..batch_size_max) of `model` on GPUs of `kind`; the sequence must be positive and non-decreasing."""
        cdef int64_t* table = <int64_t*>malloc(len(latency_ns) * sizeof(int64_t))
        cdef size_t i
        for i, duration in enumerate(latency_ns):
            table[i] = duration
        self._tell(ON_PROFILE_CHANGED, model, kind, 0, 0, 0, 0, table)

    def margin_changed(self, int model, int64_t margin_ns):
        """Set the time kept free between a batch's end and its deadlines."""
        self._tell(ON_MARGIN_CHANGED, model, 0, margin_ns)

    def gpu_joined(self, int gpu, int kind):
        """Add a GPU of `kind`, idle and without models."""
        self._tell(ON_GPU_JOINED, kind, gpu)

    def gpu_left(self, int gpu):
        """Forget a GPU and its batches in flight."""
        self._tell(ON_GPU_LEFT, 0, gpu)

    def gpu_drained(self, int gpu):
        """Give the GPU no further batches."""
        self._tell(ON_GPU_DRAINED, 0, gpu)

    def gpu_restored(self, int gpu):
        """Give a drained GPU batches again."""
        self._tell(ON_GPU_RESTORED, 0, gpu)

    def model_placed(self, int model, int gpu):
        """Say that the model is resident on the GPU; it needs a profile for the GPU's kind."""
        self._tell(ON_MODEL_PLACED, model, gpu)

    def model_evicted(self, int model, int gpu):
        """Say that the model is no longer resident on the GPU."""
        self._tell(ON_MODEL_EVICTED, model, gpu)

    def memory_declared(self, int gpu, int64_t memory_bytes):
        """Let the loop decide which models the joined GPU holds, in so many bytes; before any was placed there."""
        self._tell(ON_MEMORY_DECLARED, 0, gpu, memory_bytes)

    def footprint_declared(self, int model, int kind, int64_t memory_bytes, int64_t load_ns):
        """Say what the model takes of the memory of GPUs of `kind`, and how long bringing it there takes."""
        cdef int64_t* table = <int64_t*>malloc(2 * sizeof(int64_t))
        table[0] = memory_bytes
        table[1] = load_ns
        self._tell(ON_FOOTPRINT_DECLARED, model, kind, 0, 0, 0, 0, table)

    def load_finished(self, uint64_t load_id, int gpu, bint is_there):
        """Report the end of a load; ignored when nobody waits for it any more."""
        self._tell(ON_LOAD_FINISHED, 0, gpu, 0, is_there, 0, load_id)

    # ---- decisions ---------------------------------------------------------------------------------------------

    def take(self, int gpu):
        """Wait, without the GIL, for the GPU's next plan or load; return None once the loop is stopping or `rouse` was called."""
        cdef MessageRing* lane = self.driver.lanes[gpu].get()
        cdef vector[uint64_t] words
        cdef int64_t count
        cdef size_t i
        with nogil:
            while sem_wait(&self.semaphores[gpu]) != 0 and errno == EINTR:
                pass
            count = lane.peek_count()
            if count > 0:
                words.resize(count)
                lane.pop(words.data())
        if count < 0:
            return None
        if words[PLAN_IS_LOAD]:
            load = Load()
            load.load_id = words[PLAN_ID]
            load.gpu = gpu
            load.model = <int>words[PLAN_MODEL]
            load.evicted = [<int>words[i] for i in range(PLAN_WORD_COUNT, words.size())]
            return load
        plan = Plan()
        plan.gpu = gpu
        plan.plan_id = words[PLAN_ID]
        plan.model = <int>words[PLAN_MODEL]
        plan.start_at_ns = <int64_t>words[PLAN_START_AT]
        plan.finish_at_ns = <int64_t>words[PLAN_FINISH_AT]
        plan.decided_at_ns = <int64_t>words[PLAN_DECIDED_AT]
        plan.ids = [words[i] for i in range(PLAN_WORD_COUNT, words.size())]
        return plan

    def rouse(self, int gpu):
        """Make one `take` of the GPU return None (or a plan, if one waits)."""
        sem_post(&self.semaphores[gpu])

    def drain_outcomes(self):
        """Return [(slot, Reason)] of requests dropped or cancelled since the last call; for the reader of `outcome_fd`."""
        cdef uint64_t count
        cdef uint64_t word = 0
        read(self.outcome_fd, &count, sizeof(count))
        result = []
        while self.driver.outcomes.peek_count() > 0:
            self.driver.outcomes.pop(&word)
            result.append((<uint32_t>(word & 0xFFFFFFFF), OUTCOME_REASONS[<int>(word >> 32)]))
        return result

    # ---- figures -----------------------------------------------------------------------------------------------

    @property
    def queued_count(self):
        """Return how many requests wait in the core (a snapshot)."""
        return self.driver.engine.queued

    @property
    def gpus_asked(self):
        """Return how many GPUs' time the arrivals of the last epochs ask for at their target batch sizes."""
        return self.driver.engine.gpus_asked

    def queued_count_of(self, int model):
        """Return how many requests of the model wait in the core (a snapshot)."""
        if not 0 <= model < self.driver.engine.model_count_max:
            raise ValueError(f"model {model} is out of range: 0 to {self.driver.engine.model_count_max - 1}")
        return self.driver.engine.models[model].live_count

    def is_at_rest(self, int gpu):
        """Return whether the GPU is drained and holds no batch: it then gets none until it is restored."""
        if not 0 <= gpu < self.gpu_count:
            raise ValueError(f"GPU {gpu} is out of range: 0 to {self.gpu_count - 1}")
        return self.driver.engine.gpus[gpu].is_drained and self.driver.engine.gpus[gpu].flight_count == 0

    @property
    def fault(self):
        """Return 0, or the status of the event that broke an invariant and stopped the loop."""
        return self.driver.fault

    def lateness_counts(self):
        """Return ([(upper bound in ns, count)] of non-empty buckets, sum in ns): decision done minus decision due."""
        cdef size_t i
        counts = []
        for i in range(BUCKET_COUNT):
            if self.lateness.count_at(i) > 0:
                counts.append((LatencyHistogram.upper_ns(i), self.lateness.count_at(i)))
        return counts, self.lateness.sum_ns()
