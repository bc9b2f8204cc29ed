# distutils: language = c++
"""Measure how much of the GPUs' time each model's arrivals ask for, and derive target batch sizes from it.

The middle layer: docs/core.md, "Target batch size".
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

from symphony.core.stagger cimport early_batch_size, shedding_ease, staggered_batch_size
from symphony.core.state cimport KIND_COUNT, Model, State, first_level

cdef int64_t EPOCH_ROLLS_MAX = 8


cdef class Demand(State):
    """Rates, shares and targets of all models, renewed once per epoch."""

    cdef void roll(self, int64_t now) noexcept nogil:
        """Close the epochs that ended since the last step: halve in their arrival counts, then share GPUs anew."""
        cdef int64_t epoch = floor_divide(now, self.epoch_ns)
        cdef int64_t passed = epoch - self.epoch
        cdef int32_t i
        cdef int64_t k
        if not self.has_epoch:
            self.has_epoch = True
            self.epoch = epoch
            return
        if passed <= 0:
            return
        self.epoch = epoch
        for i in range(self.model_count_max):
            if not self.models[i].exists:
                continue
            if passed > EPOCH_ROLLS_MAX:
                self.models[i].rate = 0.0
            else:
                for k in range(passed):
                    self.models[i].rate = (self.models[i].rate + self.models[i].arrival_count) / 2
                    self.models[i].arrival_count = 0.0
            self.models[i].arrival_count = 0.0
        self.measure_shares()

    cdef void measure_shares(self) noexcept nogil:
        cdef double total = 0.0
        cdef double work
        cdef int32_t i, kind, size
        cdef Model* m
        if self.targets_dirty:
            self.measure_targets()
        for i in range(self.model_count_max):
            m = &self.models[i]
            if not m.exists:
                continue
            work = 0.0
            if m.profile_mask != 0:
                kind = first_level(m.profile_mask)
                size = self.targets[i * KIND_COUNT + kind]
                work = m.rate * <double>self.tables[i * KIND_COUNT + kind][size] / <double>size
            m.share = work
            total += work
        for i in range(self.model_count_max):
            if self.models[i].exists:
                if total > 0.0:
                    self.models[i].share = self.models[i].share / total
                else:
                    self.models[i].share = 1.0 / <double>self.model_count
        self.gpus_asked = total / <double>self.epoch_ns
        self.ease = shedding_ease(self.gpus_asked, <double>self.usable_count)
        self.targets_dirty = True

    cdef void measure_targets(self) noexcept nogil:
        cdef int32_t i, kind, pair, early_size
        cdef uint8_t kinds
        cdef double gpus
        cdef Model* m
        self.targets_dirty = False
        for i in range(self.model_count_max):
            m = &self.models[i]
            if not m.exists:
                continue
            gpus = m.share * <double>self.usable_count
            kinds = m.profile_mask
            while kinds != 0:
                kind = first_level(kinds)
                kinds &= kinds - 1
                pair = i * KIND_COUNT + kind
                self.targets[pair] = staggered_batch_size(
                    self.tables[pair].data(), m.batch_size_max, gpus,
                    <double>(m.slo_ns - m.margin_ns - self.control_ns), self.target_share)
                if self.early:
                    early_size = early_batch_size(self.targets[pair], gpus)
                    if early_size != self.early_sizes[pair]:
                        self.early_sizes[pair] = early_size
                        self.touch(i)

    cdef int32_t target(self, int32_t model, int32_t kind) noexcept nogil:
        if self.targets_dirty:
            self.measure_targets()
        return self.targets[model * KIND_COUNT + kind]


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    cdef int64_t quotient = value // divisor
    return quotient - 1 if value % divisor < 0 else quotient
