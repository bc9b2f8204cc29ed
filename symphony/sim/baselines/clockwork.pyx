# distutils: language = c++
"""Clockwork (Gujarati et al., OSDI 2020): a central controller that fixes each GPU's schedule a few milliseconds ahead.

Each model has strategies, one per batch size that is a power of two: the largest whose deadline can still be met counts.
Whenever a GPU's schedule reaches less than `LOOKAHEAD_NS` into the future, the controller appends the strategy whose
latest start is earliest. Requests that cannot be met are rejected at once. Work is appended as soon as there is room,
so GPUs do not idle while requests wait: batches are as large as queues happen to be.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t

from symphony.sim.baselines.base cimport Baseline

cdef int64_t LOOKAHEAD_NS = 5_000_000
"""Section 5: enough work to hide the controller's latency, no more."""


cdef class ClockworkPolicy(Baseline):
    """Earliest latest start first, appended to the GPU whose schedule ends first."""

    cdef void decide(self) noexcept nogil:
        cdef int32_t gpu, model, best, size
        cdef int64_t start, latest, best_latest
        cdef int32_t best_size
        while True:
            gpu = self.next_gpu()
            if gpu < 0:
                break
            start = self.now_ns + self.control_ns
            if self.flight_count[gpu] > 0 and self.free_at[gpu] > start:
                start = self.free_at[gpu]
            best = -1
            best_size = 0
            best_latest = INT64_MAX
            for model in range(self.model_count):
                if not self.is_resident(model, gpu) or self.queues[model].empty():
                    continue
                self.drop_late(model, self.now_ns + self.control_ns, self.table(model, gpu)[1])
                size = self.fit(model, model, gpu, start)
                if size == 0:
                    continue
                size = power_of_two(size)
                latest = self.queues[model].front().deadline - self.table(model, gpu)[size]
                if latest < best_latest:
                    best, best_size, best_latest = model, size, latest
            if best < 0:
                break
            self.dispatch(best, best, gpu, best_size, self.now_ns + self.control_ns)
        for gpu in range(self.gpu_count):
            if self.is_alive[gpu] and self.flight_count[gpu] > 0 and self.free_at[gpu] - LOOKAHEAD_NS > self.now_ns:
                self.wake_ns = min(self.wake_ns, self.free_at[gpu] - LOOKAHEAD_NS)
        for model in range(self.model_count):
            if not self.queues[model].empty():
                self.wake_ns = min(self.wake_ns, max(self.now_ns + 1, self.queues[model].front().deadline))

    cdef int32_t next_gpu(self) noexcept nogil:
        """Return the GPU whose schedule ends first, if that is within the lookahead; -1 if there is none."""
        cdef int32_t gpu
        cdef int32_t best = -1
        cdef int64_t end
        cdef int64_t best_end = INT64_MAX
        for gpu in range(self.gpu_count):
            if not self.is_alive[gpu]:
                continue
            end = self.free_at[gpu] if self.flight_count[gpu] > 0 else self.now_ns
            if end - LOOKAHEAD_NS <= self.now_ns and end < best_end:
                best, best_end = gpu, end
        return best


cdef int32_t power_of_two(int32_t size) noexcept nogil:
    cdef int32_t power = 1
    while power * 2 <= size:
        power *= 2
    return power
