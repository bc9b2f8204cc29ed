# distutils: language = c++
"""Run a policy in virtual time against GPUs that take l(b), times what jitter and faults make of it.

The clock jumps from event to event: the next arrival, batch end, fault, or instant at which the policy asked to be
woken. Everything at one instant is told in a fixed order (ends by GPU id, faults, arrivals) before the policy decides
once. There is no randomness here: what is random was drawn from a seed before (arrivals, jitter), so equal arguments
give equal results on every machine and build.
"""

import numpy as np

from libc.math cimport floor
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.core.containers cimport IndexedHeap
from symphony.core.state cimport DECISION_DISPATCH, DECISION_DROP, KIND_COUNT, NativeDecision
from symphony.sim.policy cimport DECISION_PREEMPT, SimPolicy

OUTCOMES = ("unfinished", "good", "late", "would_miss", "expired", "no_gpu", "not_ready")
"""What `outcome` counts: the index is the code. The drops are in the order of the core's reasons."""
FATES = ("ran", "preempted", "lost")
"""What became of a batch; the time of one that did not run to its end is lost."""
FAULT_DIES, FAULT_SLOWS = 0, 1

cdef enum:
    UNFINISHED = 0
    GOOD = 1
    LATE = 2
    FIRST_DROP = 3
    FATE_RAN = 0
    FATE_PREEMPTED = 1
    FATE_LOST = 2
    NOTHING = -1
    STEPS_AT_ONE_INSTANT_MAX = 10_000_000

cdef int64_t NEVER = INT64_MAX


cdef struct Batch:
    uint64_t plan_id
    int32_t gpu
    int32_t model
    uint32_t first            # of its requests in `members`
    uint32_t count
    int64_t decided_ns
    int64_t start_at_ns       # as planned
    int64_t start_ns
    int64_t finish_ns
    int64_t next              # batch that follows on this GPU
    int32_t fate


cdef struct SimGpu:
    int32_t kind
    cbool is_dead
    double slowness           # what l(b) is multiplied with
    int64_t head              # running batch
    int64_t tail
    int64_t free_ns           # when the last batch ended


cdef class Simulation:
    """One run. Make it, call `run` once, read the arrays."""

    cdef SimPolicy policy
    cdef int64_t count
    cdef const int64_t[::1] at_ns
    cdef const int32_t[::1] models
    cdef const int64_t[::1] deadlines
    cdef const uint8_t[::1] priorities
    cdef const int64_t[:, :, ::1] latency
    cdef const double[::1] jitter
    cdef const int64_t[::1] load_ns
    cdef const int64_t[::1] fault_at
    cdef const int32_t[::1] fault_gpu
    cdef const double[::1] fault_slowness     # 0: the GPU dies
    cdef int64_t reply_ns
    cdef vector[SimGpu] gpus
    cdef vector[Batch] batches
    cdef vector[uint32_t] members
    cdef vector[uint32_t] orphans             # requests of a GPU that died
    cdef IndexedHeap finishes                 # GPU by the end of its running batch
    cdef IndexedHeap loads                    # GPU by the end of the load under way
    cdef vector[uint64_t] loading             # by GPU: the load under way
    cdef readonly int64_t load_count
    cdef int64_t next_arrival
    cdef int64_t next_fault
    cdef readonly int64_t done_count
    cdef readonly int64_t step_count
    cdef int64_t now_ns
    cdef cbool is_stuck
    cdef readonly object outcome              # uint8[request]: an index into OUTCOMES
    cdef readonly object ended_ns             # int64[request]: when its batch ended or it was dropped
    cdef uint8_t[::1] _outcome
    cdef int64_t[::1] _ended

    def __init__(self, SimPolicy policy, const int64_t[::1] at_ns, const int32_t[::1] models,
                 const int64_t[::1] deadlines, const uint8_t[::1] priorities, const int32_t[::1] gpu_kinds,
                 const int64_t[:, :, ::1] latency, const double[::1] jitter,
                 const int64_t[::1] load_ns, int64_t reply_ns,
                 const int64_t[::1] fault_at, const int32_t[::1] fault_gpu, const double[::1] fault_slowness):
        """Take requests in the order of `at_ns`, GPUs by kind, and what happens to them.

        `latency` is int64[model, kind, batch size], entry 0 unused: how long batches take, whatever the policy
        believes. `jitter` is a ring of factors, one a batch; `load_ns` is how long each model's load takes. Faults are sorted by time; slowness 0 kills the GPU.
        """
        cdef int64_t i
        self.policy = policy
        self.count = at_ns.shape[0]
        if not (models.shape[0] == deadlines.shape[0] == priorities.shape[0] == self.count):
            raise ValueError("at_ns, models, deadlines and priorities must be of one length")
        if jitter.shape[0] == 0 or latency.shape[1] != KIND_COUNT:
            raise ValueError(f"jitter must not be empty, latency must have {KIND_COUNT} kinds")
        if self.count and (np.any(np.diff(at_ns) < 0) or np.max(models) >= latency.shape[0] or np.min(models) < 0):
            raise ValueError("at_ns must ascend, and models must be within latency")
        self.at_ns, self.models, self.deadlines, self.priorities = at_ns, models, deadlines, priorities
        self.latency, self.jitter, self.load_ns, self.reply_ns = latency, jitter, load_ns, reply_ns
        self.fault_at, self.fault_gpu, self.fault_slowness = fault_at, fault_gpu, fault_slowness
        self.gpus.resize(gpu_kinds.shape[0])
        for i in range(gpu_kinds.shape[0]):
            self.gpus[i].kind = gpu_kinds[i]
            self.gpus[i].is_dead = False
            self.gpus[i].slowness = 1.0
            self.gpus[i].head = self.gpus[i].tail = NOTHING
            self.gpus[i].free_ns = 0
        self.finishes.reset(gpu_kinds.shape[0])
        self.loads.reset(gpu_kinds.shape[0])
        self.loading.assign(gpu_kinds.shape[0], 0)
        self.outcome = np.zeros(self.count, np.uint8)
        self.ended_ns = np.zeros(self.count, np.int64)
        self._outcome, self._ended = self.outcome, self.ended_ns
        self.members.reserve(self.count)

    def run(self, int64_t until_ns=INT64_MAX):
        """Go on until nothing is left to happen, or virtual time passes `until_ns`; return whether anything is left.

        Raise RuntimeError if the policy asks to be woken at one instant without end.
        """
        cdef cbool is_left
        with nogil:
            is_left = self.advance(until_ns)
        if self.is_stuck:
            raise RuntimeError(f"the policy asks to be woken at {self.now_ns} ns without end, {self.done_count} of "
                               f"{self.count} requests done")
        return is_left

    def batch_log(self):
        """Return the batches in the order decided, as a dict of arrays, and the requests of each, one after another."""
        cdef size_t i
        cdef size_t count = self.batches.size()
        names = ("gpu", "model", "size", "decided_ns", "start_ns", "finish_ns", "fate")
        log = {name: np.empty(count, np.int64) for name in names}
        cdef int64_t[::1] gpu = log["gpu"]
        cdef int64_t[::1] model = log["model"]
        cdef int64_t[::1] size = log["size"]
        cdef int64_t[::1] decided = log["decided_ns"]
        cdef int64_t[::1] start = log["start_ns"]
        cdef int64_t[::1] finish = log["finish_ns"]
        cdef int64_t[::1] fate = log["fate"]
        for i in range(count):
            gpu[i] = self.batches[i].gpu
            model[i] = self.batches[i].model
            size[i] = self.batches[i].count
            decided[i] = self.batches[i].decided_ns
            start[i] = self.batches[i].start_ns
            finish[i] = self.batches[i].finish_ns
            fate[i] = self.batches[i].fate
        requests = np.empty(self.members.size(), np.uint32)
        cdef uint32_t[::1] view = requests
        if self.members.size():
            memcpy(&view[0], self.members.data(), self.members.size() * sizeof(uint32_t))
        return log, requests

    # ---- the clock -------------------------------------------------------------------------------------------

    cdef cbool advance(self, int64_t until) noexcept nogil:
        cdef int64_t now, at
        cdef int64_t repeats = 0
        while True:
            now = self.policy.wakeup()
            if now < self.now_ns:
                now = self.now_ns
            if self.next_arrival < self.count and self.at_ns[self.next_arrival] < now:
                now = self.at_ns[self.next_arrival]
            if not self.finishes.empty() and self.finishes.top_key() < now:
                now = self.finishes.top_key()
            if not self.loads.empty() and self.loads.top_key() < now:
                now = self.loads.top_key()
            if self.next_fault < self.fault_at.shape[0] and self.done_count < self.count \
                    and self.fault_at[self.next_fault] < now:
                now = self.fault_at[self.next_fault]
            if now == NEVER:
                return False
            if now > until:
                return True
            repeats = repeats + 1 if now == self.now_ns else 0
            if repeats > STEPS_AT_ONE_INSTANT_MAX:
                self.is_stuck = True
                return True
            self.now_ns = now
            self.step_count += 1
            self.policy.begin(now)
            while not self.finishes.empty() and self.finishes.top_key() <= now:
                self.end_batch(<int32_t>self.finishes.top(), now)
            while not self.loads.empty() and self.loads.top_key() <= now:
                self.end_load(<int32_t>self.loads.top())
            while self.next_fault < self.fault_at.shape[0] and self.fault_at[self.next_fault] <= now:
                self.strike(self.fault_gpu[self.next_fault], self.fault_slowness[self.next_fault], now)
                self.next_fault += 1
            while self.next_arrival < self.count and self.at_ns[self.next_arrival] <= now:
                at = self.next_arrival
                self.policy.request_arrived(<uint32_t>at, self.models[at], self.deadlines[at], self.priorities[at])
                self.next_arrival += 1
            self.policy.run(now)
            self.perform(now)

    cdef void perform(self, int64_t now) noexcept nogil:
        cdef size_t i, k
        cdef NativeDecision* d
        for i in range(self.policy.decisions.size()):
            d = &self.policy.decisions[i]
            if d.kind == DECISION_DISPATCH:
                self.start_batch(d, now)
            elif d.kind == DECISION_DROP:
                for k in range(d.count):
                    self.end_request(self.policy.ids[d.first + k], <uint8_t>(FIRST_DROP + d.reason), now)
            else:
                self.preempt(d.gpu, d.plan_id, now)
        for i in range(self.policy.loads.size()):
            self.loading[self.policy.loads[i].gpu] = self.policy.loads[i].load_id
            self.loads.set(<uint32_t>self.policy.loads[i].gpu, now + self.load_ns[self.policy.loads[i].model])
            self.load_count += 1

    cdef void end_load(self, int32_t gpu) noexcept nogil:
        self.loads.remove(<uint32_t>gpu)
        self.policy.load_finished(self.loading[gpu], gpu)

    cdef void end_request(self, uint32_t slot, uint8_t outcome, int64_t now) noexcept nogil:
        self._outcome[slot] = outcome
        self._ended[slot] = now
        self.done_count += 1

    # ---- GPUs ------------------------------------------------------------------------------------------------

    cdef void start_batch(self, const NativeDecision* d, int64_t now) noexcept nogil:
        cdef SimGpu* g = &self.gpus[d.gpu]
        cdef Batch batch
        cdef int64_t number = <int64_t>self.batches.size()
        cdef uint32_t k
        batch.plan_id = d.plan_id
        batch.gpu = d.gpu
        batch.model = d.model
        batch.first = <uint32_t>self.members.size()
        batch.count = d.count
        batch.decided_ns = now
        batch.start_at_ns = d.start_at_ns if d.start_at_ns > now else now
        batch.start_ns = batch.finish_ns = batch.start_at_ns
        batch.next = NOTHING
        batch.fate = FATE_RAN
        for k in range(d.count):
            self.members.push_back(self.policy.ids[d.first + k])
        self.batches.push_back(batch)
        if g.head == NOTHING:
            g.head = g.tail = number
            self.launch(d.gpu)
        else:
            self.batches[g.tail].next = number
            g.tail = number

    cdef void launch(self, int32_t gpu) noexcept nogil:
        """Let the head of the GPU's batches run from when it may and the GPU is free."""
        cdef SimGpu* g = &self.gpus[gpu]
        cdef Batch* batch = &self.batches[g.head]
        cdef double factor = g.slowness * self.jitter[g.head % self.jitter.shape[0]]
        batch.start_ns = batch.start_at_ns if batch.start_at_ns > g.free_ns else g.free_ns
        batch.finish_ns = batch.start_ns + <int64_t>floor(
            <double>self.latency[batch.model, g.kind, batch.count] * factor + 0.5)
        self.finishes.set(<uint32_t>gpu, batch.finish_ns)

    cdef void end_batch(self, int32_t gpu, int64_t now) noexcept nogil:
        cdef SimGpu* g = &self.gpus[gpu]
        cdef Batch* batch = &self.batches[g.head]
        cdef uint32_t k, slot
        for k in range(batch.count):
            slot = self.members[batch.first + k]
            self.end_request(slot, GOOD if now + self.reply_ns <= self.deadlines[slot] else LATE, now)
        self.policy.batch_finished(batch.plan_id, gpu, now)
        self.next_batch(gpu, now)

    cdef void next_batch(self, int32_t gpu, int64_t now) noexcept nogil:
        cdef SimGpu* g = &self.gpus[gpu]
        g.free_ns = now
        g.head = self.batches[g.head].next
        self.finishes.remove(<uint32_t>gpu)
        if g.head == NOTHING:
            g.tail = NOTHING
        else:
            self.launch(gpu)

    cdef void preempt(self, int32_t gpu, uint64_t plan_id, int64_t now) noexcept nogil:
        cdef SimGpu* g = &self.gpus[gpu]
        if g.head == NOTHING or self.batches[g.head].plan_id != plan_id:
            return
        self.batches[g.head].fate = FATE_PREEMPTED
        self.batches[g.head].finish_ns = now
        if self.batches[g.head].start_ns > now:
            self.batches[g.head].start_ns = now
        self.next_batch(gpu, now)

    cdef void strike(self, int32_t gpu, double slowness, int64_t now) noexcept nogil:
        cdef SimGpu* g = &self.gpus[gpu]
        cdef Batch* batch
        cdef size_t i
        cdef uint32_t k, slot
        if slowness > 0.0:
            g.slowness = slowness      # for batches that start from now on
            return
        if g.is_dead:
            return
        g.is_dead = True
        self.finishes.remove(<uint32_t>gpu)
        self.loads.remove(<uint32_t>gpu)
        self.orphans.clear()
        while g.head != NOTHING:
            batch = &self.batches[g.head]
            batch.fate = FATE_LOST
            batch.finish_ns = now
            if batch.start_ns > now:
                batch.start_ns = now
            for k in range(batch.count):
                self.orphans.push_back(self.members[batch.first + k])
            g.head = batch.next
        g.tail = NOTHING
        self.policy.gpu_left(gpu)
        # Requests caught in it go back to the queue: they are run elsewhere if time allows, else dropped.
        for i in range(self.orphans.size()):
            slot = self.orphans[i]
            self.policy.request_arrived(slot, self.models[slot], self.deadlines[slot], self.priorities[slot])
