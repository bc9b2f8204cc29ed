# distutils: language = c++
"""Nexus (Shen et al., SOSP 2019): sessions packed into duty cycles by their rates (nexus_plan.py), queues per GPU.

The plan knows the workload's true mean rates. Requests go to the GPUs that the plan gives their model, in proportion.
Each GPU takes its sessions in turn; one whose batch has come together, or whose first request has waited for a duty
cycle, runs. Early drop: requests at the front are dropped until the batch that is planned, or all that wait if fewer,
still meets the first one's deadline.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libcpp.vector cimport vector

from symphony.sim.baselines.base cimport Baseline

from symphony.sim.baselines.nexus_plan import Session, plan
from symphony.units import NS_PER_S

cdef struct Entry:
    int32_t model
    int32_t gpu
    int32_t size
    int64_t duty_ns
    double weight
    double credit


cdef class NexusPolicy(Baseline):
    """Queues are numbered by the plan's entries; the last one is for models that the plan leaves out."""

    cdef vector[Entry] entries
    cdef vector[vector[int32_t]] entries_of_model
    cdef vector[vector[int32_t]] entries_of_gpu
    cdef vector[int32_t] turn                        # by GPU: which of its entries goes first
    cdef vector[int64_t] arrived                     # by slot

    def __init__(self, workload, int request_count):
        """Take the workload, whose rates are the plan's, and how many requests there will be."""
        cdef Entry entry
        super().__init__(workload, request_count)
        self.arrived.assign(request_count, 0)
        self.entries_of_model.resize(self.model_count)
        self.entries_of_gpu.resize(self.gpu_count)
        self.turn.assign(self.gpu_count, 0)
        sessions = []
        number = 0
        for spec in workload.models:
            kind = next(kind for kind in workload.gpu_kinds if kind in spec.latency_ns)
            table = spec.latency_ns[kind][: spec.batch_size_max]
            slo_ns = spec.slo_ns - self.control_ns - self.margin_ns
            for _ in range(spec.copies):
                sessions.append(Session(number, slo_ns, spec.rate / spec.copies / NS_PER_S, table))
                number += 1
        nodes = plan(sessions, self.gpu_count)
        for gpu, node in enumerate(nodes):
            for turn in node.turns:
                if not self.is_resident(turn.session.model, gpu):
                    continue
                entry.model = turn.session.model
                entry.gpu = gpu
                entry.size = turn.size
                entry.duty_ns = round(node.duty_ns)
                entry.weight = turn.rate
                entry.credit = 0.0
                self.entries_of_model[entry.model].push_back(<int32_t>self.entries.size())
                self.entries_of_gpu[gpu].push_back(<int32_t>self.entries.size())
                self.entries.push_back(entry)
        self.make_queues(<int32_t>self.entries.size() + 1)

    cdef int32_t queue_of(self, uint32_t slot, int32_t model) noexcept nogil:
        """Smooth weighted round robin over the model's entries on living GPUs."""
        cdef size_t i
        cdef int32_t number
        cdef int32_t best = -1
        cdef double total = 0.0
        self.arrived[slot] = self.now_ns
        for i in range(self.entries_of_model[model].size()):
            number = self.entries_of_model[model][i]
            if not self.is_alive[self.entries[number].gpu]:
                continue
            total += self.entries[number].weight
            self.entries[number].credit += self.entries[number].weight
            if best < 0 or self.entries[number].credit > self.entries[best].credit:
                best = number
        if best < 0:
            return <int32_t>self.entries.size()
        self.entries[best].credit -= total
        return best

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        cdef size_t i
        cdef int32_t number
        cdef uint32_t slot
        Baseline.gpu_left(self, gpu)
        for i in range(self.entries_of_gpu[gpu].size()):
            number = self.entries_of_gpu[gpu][i]
            while not self.queues[number].empty():
                slot = self.queues[number].front().slot
                self.slots[slot].sequence = 0
                self.queues[number].pop(self.slots.data())
                self.enqueue(self.queue_of(slot, self.model_of[slot]), slot)

    cdef void decide(self) noexcept nogil:
        cdef int32_t gpu
        self.drop_all(<int32_t>self.entries.size())
        for gpu in range(self.gpu_count):
            if self.is_alive[gpu]:
                self.decide_for(gpu)

    cdef void decide_for(self, int32_t gpu) noexcept nogil:
        cdef int32_t count = <int32_t>self.entries_of_gpu[gpu].size()
        cdef int32_t step, number, size
        cdef int64_t ready
        cdef Entry* entry
        for step in range(count):
            number = self.entries_of_gpu[gpu][(self.turn[gpu] + step) % count]
            entry = &self.entries[number]
            if self.queues[number].empty():
                continue
            ready = self.arrived[self.queues[number].front().slot] + entry.duty_ns
            if <int64_t>self.queues[number].live_count() >= entry.size:
                ready = self.now_ns
            if self.flight_count[gpu] > 0:
                return            # the end of its batch wakes us
            if ready > self.now_ns:
                self.wake_ns = min(self.wake_ns, ready)
                continue
            size = self.early_drop(number, entry)
            if size == 0:
                continue
            self.dispatch(number, entry.model, gpu, size, self.now_ns + self.control_ns)
            self.turn[gpu] = (self.turn[gpu] + step + 1) % count
            return

    cdef int32_t early_drop(self, int32_t number, Entry* entry) noexcept nogil:
        """Drop from the front what would break the batch; return the size of the batch, 0 if nothing is left."""
        cdef int32_t size
        while True:
            size = <int32_t>min(<int64_t>self.queues[number].live_count(), <int64_t>entry.size)
            if size == 0:
                return 0
            if self.now_ns + self.control_ns + self.table(entry.model, entry.gpu)[size] \
                    <= self.queues[number].front().deadline:
                return size
            # One at a time: with fewer left the batch is shorter.
            self.drop_first(number)
