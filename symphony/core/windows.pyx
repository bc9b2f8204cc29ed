# distutils: language = c++
"""Keep each candidate in the heaps where its window puts it, touching it a few times per batch, not once per request.

The third of four layers: docs/core.md, "Candidate and window". Each (model, kind) pair is in `waiting` by the instant at
which its candidate may start in more places, in `confined` by urgency if it may start on the active set, or in
`schedulable` by urgency if it may start anywhere. Keys are lower bounds, corrected when they reach the top: a candidate's
urgency grows while its queue stays as it is (a batch that no longer fits shrinks), and what arrivals do to it is
foreseen. A key holds for any live count up to the pair's `quiet` one, which is about what will have arrived by then.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, UINT32_MAX, int32_t, int64_t, uint8_t, uint32_t
from libcpp cimport bool as cbool

from symphony.core.demand cimport Demand
from symphony.core.state cimport KIND_COUNT, POLICY_DEFERRED, POLICY_EAGER, POLICY_TIMEOUT, Model, first_level


cdef class Windows(Demand):
    """Place candidates; `Engine` matches them to GPUs."""

    cdef int64_t urgency(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Return the key by which schedulable candidates are served, the smallest first."""
        if self.policy == POLICY_DEFERRED:
            return self.due(model, count) - self.pairs[model * KIND_COUNT + kind].latency[count] - self.control_ns
        if self.policy == POLICY_EAGER:
            return self.due(model, count)
        return self.slot_arrived[self.head_slot(model)]

    cdef void place(self, int32_t model, int32_t kind) noexcept nogil:
        """Put the (model, kind) pair into the heaps where its candidate belongs now."""
        cdef Model* m = &self.models[model]
        cdef uint32_t pair = <uint32_t>(model * KIND_COUNT + kind)
        cdef int32_t count = 0
        cdef int32_t later = INT32_MAX    # keys hold up to this live count
        cdef cbool may_grow
        cdef Window window
        if m.live_count > 0:
            count = self.fit(model, kind, self.now_ns + self.control_ns)
        if count == 0:
            self.unplace(model, kind)
            return
        may_grow = self.policy == POLICY_DEFERRED and <uint32_t>count == m.live_count and count < m.batch_size_max
        window.confined_ns = window.ready_ns = INT64_MIN
        if not may_grow and not m.is_hurried and self.is_nearly_whole(model, count):
            window.ready_ns = self.last_call(model, kind, <int32_t>m.live_count)
        if may_grow or (self.policy == POLICY_TIMEOUT and m.live_count < <uint32_t>m.preferred):
            window = self.window(model, kind, count)
        if window.ready_ns <= self.now_ns:
            if may_grow:
                later = min(m.batch_size_max, count + count // 4 + 1)
            self.waiting.remove(pair)
            self.confined[kind].remove(model)
            self.schedulable[kind].set(model, self.urgency(model, kind, later if may_grow else count))
            self.set_quiet(model, kind, later if later < m.batch_size_max else INT32_MAX)
            return
        self.schedulable[kind].remove(model)
        if self.policy == POLICY_DEFERRED and not may_grow:
            later = <int32_t>m.live_count
        elif not may_grow:
            later = m.preferred - 1
        elif window.confined_ns <= self.now_ns:
            later = self.foreseen(model, kind, count, m.batch_size_max - 1, window)
        else:
            later = self.foreseen(model, kind, count,
                                  min(m.batch_size_max, max(self.pairs[pair].early_size, count + 1)) - 1, window)
        if window.confined_ns <= self.now_ns:
            self.waiting.set(pair, window.ready_ns)
            self.confined[kind].set(model, self.urgency(model, kind, later if may_grow else count))
        else:
            self.waiting.set(pair, window.confined_ns)
            self.confined[kind].remove(model)
        self.set_quiet(model, kind, later)

    cdef Window window(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Return from when on a candidate may start that holds all `count` requests of its model and could hold more."""
        cdef Model* m = &self.models[model]
        cdef int32_t pair = model * KIND_COUNT + kind
        cdef Window window
        if self.policy == POLICY_TIMEOUT:
            window.confined_ns = window.ready_ns = self.slot_arrived[self.head_slot(model)] + m.delay_ns
            return window
        if m.is_hurried:
            window.confined_ns = window.ready_ns = INT64_MIN
            return window
        window.confined_ns = window.ready_ns = self.due(model, count) - self.control_ns - max(
            self.pairs[pair].latency[count + 1], self.pairs[pair].latency[count] + self.window_ns)
        if self.early:
            if count >= self.pairs[pair].early_size:
                window.confined_ns = INT64_MIN
            if self.active_count < self.usable_count:
                window.ready_ns = self.last_call(model, kind, count)
        return window

    cdef cbool is_nearly_whole(self, int32_t model, int32_t count) noexcept nogil:
        """Return whether such a batch leaves so few of its model's requests out that it need not open a further GPU yet."""
        cdef int32_t live = <int32_t>self.models[model].live_count
        return (self.policy == POLICY_DEFERRED and self.early and self.active_count < self.usable_count
                and live <= self.models[model].batch_size_max and count < self.models[model].batch_size_max and count >= live - live // 10)

    cdef int64_t last_call(self, int32_t model, int32_t kind, int32_t live) noexcept nogil:
        """Return when a further GPU is opened for a model's requests: a batch of nine in ten of them would else be late."""
        return self.urgency(model, kind, live - live // 10) - self.window_ns // 2

    cdef int32_t foreseen(self, int32_t model, int32_t kind, int32_t count, int32_t most, Window& window) noexcept nogil:
        """Return the live count to expect when the candidate must be looked at again, and its window then.

        From `count`, whose window comes in, to `most`. The more arrive, the earlier that is; where the profile is a line
        the first guess is right, elsewhere guesses are halved until one lies ahead.
        """
        cdef Model* m = &self.models[model]
        cdef cbool is_confined = window.confined_ns <= self.now_ns
        cdef int64_t at = window.ready_ns if is_confined else window.confined_ns
        cdef double rate = max(m.rate, m.arrival_count) / <double>self.epoch_ns
        cdef double more = rate * <double>(at - self.now_ns)
        cdef int32_t later = most if more >= <double>(most - count) else count + <int32_t>more
        cdef Window then
        cdef int64_t then_at
        cdef cbool is_guess = True
        while later > count:
            then = self.window(model, kind, later)
            then_at = then.ready_ns if is_confined else then.confined_ns
            if is_guess:
                # Each further request brings it forward by the line's slope; so fewer arrive until then.
                is_guess = False
                later = count + <int32_t>(more / (1.0 + rate * <double>(at - then_at) / <double>(later - count)))
                later = min(later, most)
                continue
            if then_at > self.now_ns:
                window = then
                return later
            later = count + (later - count) // 2
        return count

    cdef void set_quiet(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Note up to which live count the keys of the pair's candidate hold."""
        cdef uint8_t kinds = self.models[model].kind_mask
        cdef uint32_t least = UINT32_MAX
        self.pairs[model * KIND_COUNT + kind].quiet = <uint32_t>count
        while kinds != 0:
            least = min(least, self.pairs[model * KIND_COUNT + first_level(kinds)].quiet)
            kinds &= kinds - 1
        self.models[model].quiet_count = least

    cdef void unplace(self, int32_t model, int32_t kind) noexcept nogil:
        self.waiting.remove(<uint32_t>(model * KIND_COUNT + kind))
        self.confined[kind].remove(model)
        self.schedulable[kind].remove(model)
        self.set_quiet(model, kind, 0)

    cdef void refresh(self, int32_t model) noexcept nogil:
        self.place_all(model)
        self.refresh_hopeless(model)

    cdef void place_all(self, int32_t model) noexcept nogil:
        cdef uint8_t kinds = self.models[model].kind_mask
        cdef int32_t kind
        while kinds != 0:
            kind = first_level(kinds)
            kinds &= kinds - 1
            if self.pairs[model * KIND_COUNT + kind].aside_step != self.step_count:
                self.place(model, kind)

    cdef void refresh_hopeless(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        if not m.exists or m.live_count == 0:
            self.hopeless.remove(model)
        elif m.alone_ns == INT64_MAX:
            self.hopeless.set(model, INT64_MIN)
        else:
            self.hopeless.set(model, m.earliest_ns - m.margin_ns - m.alone_ns - self.control_ns + 1)
