# distutils: language = c++
"""Triton's dynamic batcher: per model instance a queue, a preferred batch size and a largest delay, tuned per model.

Every model has an instance on every GPU that holds it, and each instance a queue of its own; requests go to instances in
turn. A batch forms when the preferred size has come together or the oldest request has waited for the delay; a GPU runs
one batch at a time, of the instance whose batch has been ready longest. Preferred size and delay are what a careful
person would set knowing the SLO: the size of which two batches in a row fit the SLO (one runs while one gathers), and
what the SLO leaves beside them. Requests whose deadline passed in the queue are rejected (a queue timeout).
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.sim.baselines.base cimport Baseline


cdef class TritonPolicy(Baseline):
    """Queues are numbered model * GPUs + GPU."""

    cdef vector[int32_t] turn                # by model: the GPU of the next request
    cdef vector[int64_t] arrived             # by slot

    def __init__(self, workload, int request_count):
        """Take the workload and how many requests there will be."""
        super().__init__(workload, request_count)
        self.turn.assign(self.model_count, -1)
        self.arrived.assign(request_count, 0)
        self.make_queues(self.model_count * self.gpu_count)

    cdef int32_t queue_of(self, uint32_t slot, int32_t model) noexcept nogil:
        cdef int32_t step
        self.arrived[slot] = self.now_ns
        for step in range(self.gpu_count):
            self.turn[model] = (self.turn[model] + 1) % self.gpu_count
            if self.is_resident(model, self.turn[model]):
                break
        return model * self.gpu_count + self.turn[model]

    cdef void gpu_left(self, int32_t gpu) noexcept nogil:
        cdef int32_t model
        cdef uint32_t slot
        Baseline.gpu_left(self, gpu)
        for model in range(self.model_count):
            while not self.queues[model * self.gpu_count + gpu].empty():
                slot = self.queues[model * self.gpu_count + gpu].front().slot
                self.slots[slot].sequence = 0
                self.queues[model * self.gpu_count + gpu].pop(self.slots.data())
                self.enqueue(self.queue_of(slot, model), slot)

    cdef void decide(self) noexcept nogil:
        cdef int32_t gpu, model, queue, best, size
        cdef int64_t ready, best_ready
        for gpu in range(self.gpu_count):
            best = -1
            best_ready = INT64_MAX
            for model in range(self.model_count):
                queue = model * self.gpu_count + gpu
                self.drop_late(queue, self.now_ns, 0)
                if self.queues[queue].empty():
                    continue
                if not self.is_alive[gpu]:
                    self.drop_all(queue)
                    continue
                ready = self.ready_at(queue, model, gpu)
                if self.flight_count[gpu] > 0 or ready > self.now_ns:
                    self.wake_ns = min(self.wake_ns, max(self.now_ns + 1, min(
                        ready if self.flight_count[gpu] == 0 else INT64_MAX, self.queues[queue].front().deadline + 1)))
                elif ready < best_ready:
                    best, best_ready = model, ready
            if best >= 0:
                queue = best * self.gpu_count + gpu
                size = <int32_t>min(<int64_t>self.queues[queue].live_count(), <int64_t>self.preferred(best, gpu))
                self.dispatch(queue, best, gpu, size, self.now_ns + self.control_ns)

    cdef int32_t preferred(self, int32_t model, int32_t gpu) noexcept nogil:
        """Return the largest batch of which two in a row fit the SLO, at least 1."""
        cdef int32_t size = 1
        while size < self.size_max[model] and 2 * self.table(model, gpu)[size + 1] <= self.slo_ns[model] - self.control_ns:
            size += 1
        return size

    cdef int64_t ready_at(self, int32_t queue, int32_t model, int32_t gpu) noexcept nogil:
        cdef int32_t size = self.preferred(model, gpu)
        cdef int64_t delay = self.slo_ns[model] - self.control_ns - 2 * self.table(model, gpu)[size]
        cdef int64_t oldest = self.arrived[self.queues[queue].front().slot]
        if <int64_t>self.queues[queue].live_count() >= size:
            return oldest
        # Half of what is left, so that the batch before it may still be running.
        return oldest + (max(delay, 0) + self.table(model, gpu)[size]) // 2
