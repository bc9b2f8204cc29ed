# distutils: language = c++
"""Measure how much of the GPUs' time each model's arrivals ask for, and derive target batch sizes from it.

The middle layer: docs/core.md, "Target batch size".
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t
from libcpp cimport bool as cbool

from symphony.core.stagger cimport active_set_size, early_batch_size, gathered_batch_size, has_bursts, is_neglected, staggered_batch_size
from symphony.core.state cimport KIND_COUNT, Model, State, first_level

cdef int64_t EPOCH_ROLLS_MAX = 8
cdef double LONG_EPOCHS = 100.0


cdef class Demand(State):
    """Rates, shares and targets of all models, renewed once per epoch."""

    cdef void roll(self, int64_t now) noexcept nogil:
        """Close the epochs that ended since the last step: average in their counts, then share GPUs anew."""
        cdef int64_t epoch = floor_divide(now, self.epoch_ns)
        cdef int64_t passed = epoch - self.epoch
        cdef Model* m
        cdef int32_t i
        cdef int64_t k
        if not self.has_epoch:
            self.has_epoch = True
            self.epoch = epoch
            self.measured_since_ns = INT64_MAX
            self.in_use_since_ns = self.in_use_at_ns = now
            return
        if passed <= 0:
            return
        if self.targets_dirty:
            self.measure_targets()
        self.epoch = epoch
        if passed > EPOCH_ROLLS_MAX:
            self.arrival_rate = self.drop_rate = self.arrival_count = self.drop_count = 0.0
        if self.arrival_rate == 0.0:
            self.measured_since_ns = epoch * self.epoch_ns
        for k in range(min(passed, EPOCH_ROLLS_MAX)):
            self.drop_rate = remembered(self.drop_rate, self.drop_count)
            self.arrival_rate = remembered(self.arrival_rate, self.arrival_count)
            self.arrival_count = self.drop_count = 0.0
        self.count_in_use()
        self.busy_gpus = remembered(self.busy_gpus, self.in_use_ns / <double>(now - self.in_use_since_ns))
        self.in_use_ns = 0.0
        self.in_use_since_ns = now
        self.has_neglected = False
        for i in range(self.model_count_max):
            m = &self.models[i]
            if not m.exists:
                continue
            if passed > EPOCH_ROLLS_MAX:
                m.rate = m.long_rate = m.drop_rate = m.arrival_count = m.drop_count = 0.0
            for k in range(min(passed, EPOCH_ROLLS_MAX)):
                m.long_rate += (m.arrival_count - m.long_rate) / LONG_EPOCHS
                m.rate = followed(m.rate, m.arrival_count)
                m.drop_rate = remembered(m.drop_rate, m.drop_count)
                m.arrival_count = m.drop_count = 0.0
            m.is_neglected = is_neglected(m.drop_rate, m.rate)
            self.has_neglected = self.has_neglected or m.is_neglected
        self.measure_shares()

    cdef void measure_shares(self) noexcept nogil:
        cdef double total = 0.0
        cdef int32_t i
        if self.targets_dirty:
            self.measure_targets()
        for i in range(self.model_count_max):
            if not self.models[i].exists:
                continue
            self.models[i].share = self.work(i)
            total += self.models[i].share
        for i in range(self.model_count_max):
            if self.models[i].exists:
                if total > 0.0:
                    self.models[i].share = self.models[i].share / total
                else:
                    self.models[i].share = 1.0 / <double>self.model_count
        self.gpus_asked = total / <double>self.epoch_ns
        self.measure_speeds()
        self.targets_dirty = True

    cdef void measure_speeds(self) noexcept nogil:
        """Set how much faster than average each kind of GPU is for the present demand, by the models' shares of it."""
        cdef uint8_t kinds
        cdef double gpus = 0.0
        cdef double speed
        cdef int32_t i, kind, pair
        for kind in range(KIND_COUNT):
            self.kind_speed[kind] = 0.0
        for i in range(self.model_count_max):
            if not self.models[i].exists:
                continue
            speed = self.speed_of_all(i, &gpus)
            kinds = self.models[i].kind_mask if speed > 0.0 else 0
            while kinds != 0:
                kind = first_level(kinds)
                kinds &= kinds - 1
                pair = i * KIND_COUNT + kind
                self.kind_speed[kind] += self.models[i].share * gpus / speed * (
                    <double>self.pairs[pair].work_size / <double>self.pairs[pair].latency[self.pairs[pair].work_size])

    cdef double speed_of_all(self, int32_t model, double* gpus) noexcept nogil:
        """Return how many requests per nanosecond the GPUs that hold the model run together, and how many these are."""
        cdef uint8_t kinds = self.models[model].kind_mask
        cdef double speed = 0.0
        cdef int32_t pair
        gpus[0] = 0.0
        while kinds != 0:
            pair = model * KIND_COUNT + first_level(kinds)
            kinds &= kinds - 1
            gpus[0] += <double>self.pairs[pair].resident_count
            speed += (<double>self.pairs[pair].resident_count * <double>self.pairs[pair].work_size
                      / <double>self.pairs[pair].latency[self.pairs[pair].work_size])
        return speed

    cdef int32_t active_set(self) noexcept nogil:
        """Return how many GPUs, those with the lowest ids, carry the load; with kinds that differ, by their speeds."""
        cdef double carried = 0.0
        cdef int32_t count = 0
        cdef size_t i
        if self.kinds_seen & (self.kinds_seen - 1) == 0:
            return active_set_size(self.gpus_asked, self.usable_count)
        for i in range(self.gpus.size()):
            if not self.gpus[i].is_joined or self.gpus[i].is_drained:
                continue
            if carried >= self.gpus_asked + 0.5:
                break
            carried += self.kind_speed[self.gpus[i].kind]
            count += 1
        return count

    cdef double work(self, int32_t model) noexcept nogil:
        """Return the GPU time that one epoch's arrivals ask for, at the targets, over the GPUs that hold the model."""
        cdef double gpus = 0.0
        cdef double speed = self.speed_of_all(model, &gpus)
        return self.models[model].rate * gpus / speed if gpus > 0.0 else 0.0

    cdef void measure_targets(self) noexcept nogil:
        cdef int32_t i
        cdef cbool was_full = self.is_full
        self.targets_dirty = False
        self.is_bursty = has_bursts(
            self.drop_rate, self.arrival_rate, self.gpus_asked, self.busy_gpus, <double>self.usable_count)
        self.active_count = self.usable_count if self.is_bursty else self.active_set()
        self.is_full = self.active_count >= self.usable_count
        for i in range(self.model_count_max):
            if self.models[i].exists:
                self.measure_target(i)
                if self.early and was_full != self.is_full:
                    self.touch(i)

    cdef void measure_target(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        cdef uint8_t kinds = m.profile_mask
        cdef int32_t pair, early_size
        cdef double gpus = m.share * <double>self.usable_count
        cdef double budget_ns = <double>(m.slo_ns - m.margin_ns - self.control_ns)
        while kinds != 0:
            pair = model * KIND_COUNT + first_level(kinds)
            kinds &= kinds - 1
            self.pairs[pair].target = staggered_batch_size(
                self.pairs[pair].latency, m.batch_size_max, gpus, budget_ns, self.target_share)
            self.pairs[pair].work_size = self.pairs[pair].target
            if gpus < 1.0:
                self.pairs[pair].work_size = max(self.pairs[pair].target, gathered_batch_size(
                    self.pairs[pair].latency,
                    staggered_batch_size(self.pairs[pair].latency, m.batch_size_max, 1.0, budget_ns, self.target_share),
                    m.rate / <double>self.epoch_ns, budget_ns))
            if self.early:
                early_size = 1 if self.is_bursty else early_batch_size(
                    self.pairs[pair].latency, self.pairs[pair].target, m.share * <double>self.active_count, self.active_count >= self.usable_count)
                if early_size != self.pairs[pair].early_size:
                    self.pairs[pair].early_size = early_size
                    self.touch(model)

    cdef int32_t target(self, int32_t model, int32_t kind) noexcept nogil:
        if self.targets_dirty:
            self.measure_targets()
        return self.pairs[model * KIND_COUNT + kind].target


cdef inline double remembered(double rate, double count) noexcept nogil:
    """Return the average after an epoch with `count`, over ten epochs or so: drops are rare and come in clusters."""
    return rate + (count - rate) / 10


cdef inline double followed(double rate, double count) noexcept nogil:
    """Return the rate after an epoch with `count` arrivals: smoothed, but a clear fall (a burst is over) is believed at once."""
    return count if rate > 16.0 and count < rate / 2 else (rate + count) / 2


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    cdef int64_t quotient = value // divisor
    return quotient - 1 if value % divisor < 0 else quotient
