# distutils: language = c++
"""Decide which requests run together, on which GPU, and when: the scheduling core behind its native door.

docs/core.md is the contract; `symphony.core.Scheduler` is the Python door. The engine knows no clock, socket, thread
or randomness: it is told the time. One thread at a time may use it.

How it stays fast: a model's queue is a list of chunks (csrc/symphony/deadline_queue.h); GPUs are bits; each (model,
kind) pair is in `waiting` by the instant at which its candidate may start in more places, in `confined` by urgency if
it may start on the active set, or in `schedulable` by urgency if it may start anywhere. Keys of these heaps are lower
bounds, corrected when they reach the top: a candidate's urgency grows while its queue stays as it is (a batch that no
longer fits shrinks), and what arrivals do to it is foreseen. A key holds for any live count up to the pair's `quiet`
one, which is about what will have arrived by then; so most arrivals touch nothing but their queue, and a candidate is
placed anew a few times per batch, not once per request.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, UINT32_MAX, int32_t, int64_t, uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.algorithm cimport sort
from libcpp.vector cimport vector

from symphony.core.containers cimport Bitmap, DeadlineQueue, IndexedHeap
from symphony.core.demand cimport Demand
from symphony.core.stagger cimport is_wasteful
from symphony.core.state cimport (
    DECISION_DISPATCH,
    DECISION_DROP,
    DROP_EXPIRED,
    DROP_NOT_READY,
    DROP_NO_GPU,
    DROP_WOULD_MISS,
    DropReason,
    EVENT_MODEL_EXISTS,
    EVENT_NO_PROFILE,
    EVENT_OK,
    EVENT_OUT_OF_RANGE,
    EVENT_UNKNOWN_GPU,
    EVENT_UNKNOWN_MODEL,
    Gpu,
    KIND_COUNT,
    LEVEL_COUNT,
    Model,
    NativeDecision,
    Pair,
    POLICY_DEFERRED,
    POLICY_EAGER,
    POLICY_TIMEOUT,
    first_level,
)

cdef int64_t NEVER = INT64_MAX


cdef class Engine(Demand):
    """Hold the windows and match candidates to GPUs; see engine.pxd for the native door."""

    # ---- the step --------------------------------------------------------------------------------------------

    cdef void begin(self, int64_t now) noexcept nogil:
        self.decisions.clear()
        self.ids.clear()
        self.now_ns = now
        self.step_count += 1
        self.roll(now)

    cdef void run(self, int64_t now) noexcept nogil:
        cdef size_t i
        cdef int32_t model
        cdef uint32_t pair
        if self.targets_dirty:
            self.measure_targets()
        for i in range(self.dirty.size()):
            self.refresh_hopeless(self.dirty[i])
        self.drop_hopeless()
        # Dropping touches models again, so the list may have grown.
        i = 0
        while i < self.dirty.size():
            model = self.dirty[i]
            self.is_dirty[model] = 0
            self.place_all(model)
            i += 1
        self.dirty.clear()
        while not self.gpu_turns.empty() and self.gpu_turns.top_key() <= now:
            self.gpu_turned(<int32_t>self.gpu_turns.top())
        while not self.waiting.empty() and self.waiting.top_key() <= now:
            pair = self.waiting.top()
            self.place(<int32_t>(pair // KIND_COUNT), <int32_t>(pair % KIND_COUNT))
        self.match()

    cdef int64_t wakeup(self) noexcept nogil:
        cdef int64_t at = NEVER
        if not self.is_settled:
            return self.now_ns
        if not self.waiting.empty() and self.waiting.top_key() < at:
            at = self.waiting.top_key()
        if not self.hopeless.empty() and self.hopeless.top_key() < at:
            at = self.hopeless.top_key()
        if not self.gpu_turns.empty() and self.gpu_turns.top_key() < at:
            at = self.gpu_turns.top_key()
        if self.early and not self.waiting.empty() and (self.epoch + 1) * self.epoch_ns < at:
            at = (self.epoch + 1) * self.epoch_ns
        return at

    # ---- events that touch candidates: models and where they are resident ------------------------------------

    cdef int model_added(self, int32_t model, int64_t slo, int32_t batch_size_max, int64_t margin, int64_t delay,
                         int32_t preferred) noexcept nogil:
        cdef Model* m
        cdef Pair* pair
        cdef int32_t kind
        if model < 0 or model >= self.model_count_max:
            return EVENT_OUT_OF_RANGE
        m = &self.models[model]
        if m.exists:
            return EVENT_MODEL_EXISTS
        m.exists = True
        m.level_mask = 0
        m.kind_mask = 0
        m.profile_mask = 0
        m.batch_size_max = batch_size_max
        m.preferred = preferred if preferred > 0 else batch_size_max
        m.live_count = 0
        m.quiet_count = 0
        m.earliest_ns = NEVER
        m.slo_ns = slo
        m.margin_ns = margin
        m.delay_ns = delay
        m.alone_ns = NEVER
        m.arrival_count = 0.0
        m.rate = 0.0
        m.share = 0.0
        self.resident[model].reset(self.gpu_count_max)
        for kind in range(KIND_COUNT):
            self.tables[model * KIND_COUNT + kind].clear()
            pair = &self.pairs[model * KIND_COUNT + kind]
            pair.latency = NULL
            pair.target = 1
            pair.early_size = INT32_MAX
            pair.resident_count = 0
            pair.quiet = 0
            pair.aside_step = 0
        self.model_count += 1
        self.measure_shares()
        return EVENT_OK

    cdef int model_removed(self, int32_t model) noexcept nogil:
        cdef int32_t kind
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        self.drop_all(model, DROP_NOT_READY)
        for kind in range(KIND_COUNT):
            self.unplace(model, kind)
        self.hopeless.remove(model)
        self.models[model].exists = False
        self.models[model].kind_mask = 0
        self.model_count -= 1
        self.measure_shares()
        return EVENT_OK

    cdef int profile_changed(self, int32_t model, int32_t kind, const int64_t* latency) noexcept nogil:
        cdef vector[int64_t]* table
        cdef int32_t b
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if kind < 0 or kind >= KIND_COUNT:
            return EVENT_OUT_OF_RANGE
        table = &self.tables[model * KIND_COUNT + kind]
        table.resize(self.models[model].batch_size_max + 1)
        table[0][0] = 0
        for b in range(1, self.models[model].batch_size_max + 1):
            table[0][b] = latency[b - 1]
        self.pairs[model * KIND_COUNT + kind].latency = table.data()
        self.models[model].profile_mask |= <uint8_t>(1 << kind)
        self.targets_dirty = True
        self.residency_changed(model)
        return EVENT_OK

    cdef int margin_changed(self, int32_t model, int64_t margin) noexcept nogil:
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        self.models[model].margin_ns = margin
        if not self.targets_dirty:
            self.measure_target(model)
        self.touch(model)
        return EVENT_OK

    cdef int gpu_left(self, int32_t gpu) noexcept nogil:
        cdef int32_t model
        if gpu < 0 or gpu >= self.gpu_count_max or not self.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        for model in range(self.model_count_max):
            if self.models[model].exists and self.resident[model].test(gpu):
                self.model_evicted(model, gpu)
        if not self.gpus[gpu].is_drained:
            self.usable_count -= 1
        self.gpus[gpu].is_joined = False
        self.gpus[gpu].flight_count = 0
        self.targets_dirty = True
        self.gpu_turned(gpu)
        return EVENT_OK

    cdef int model_placed(self, int32_t model, int32_t gpu) noexcept nogil:
        cdef int32_t kind
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if gpu < 0 or gpu >= self.gpu_count_max or not self.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        kind = self.gpus[gpu].kind
        if not self.models[model].profile_mask & (1 << kind):
            return EVENT_NO_PROFILE
        if self.resident[model].test(gpu):
            return EVENT_OK
        self.resident[model].set(gpu)
        self.pairs[model * KIND_COUNT + kind].resident_count += 1
        self.models[model].kind_mask |= <uint8_t>(1 << kind)
        self.residency_changed(model)
        return EVENT_OK

    cdef int model_evicted(self, int32_t model, int32_t gpu) noexcept nogil:
        cdef int32_t pair
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if gpu < 0 or gpu >= self.gpu_count_max or not self.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        if not self.resident[model].test(gpu):
            return EVENT_OK
        pair = model * KIND_COUNT + self.gpus[gpu].kind
        self.resident[model].clear(gpu)
        self.pairs[pair].resident_count -= 1
        if self.pairs[pair].resident_count == 0:
            self.models[model].kind_mask &= <uint8_t>~(1 << self.gpus[gpu].kind)
            self.unplace(model, self.gpus[gpu].kind)
        self.residency_changed(model)
        return EVENT_OK

    cdef int64_t urgency(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Return the key by which schedulable candidates are served, the smallest first."""
        if self.policy == POLICY_DEFERRED:
            return self.due(model, count) - self.pairs[model * KIND_COUNT + kind].latency[count] - self.control_ns
        if self.policy == POLICY_EAGER:
            return self.due(model, count)
        return self.slot_arrived[self.head_slot(model)]

    # ---- candidate and window --------------------------------------------------------------------------------

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
        if not may_grow:
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
        window.confined_ns = window.ready_ns = self.due(model, count) - self.control_ns - max(
            self.pairs[pair].latency[count + 1], self.pairs[pair].latency[count] + self.window_ns)
        if self.early:
            if count >= self.pairs[pair].early_size:
                window.confined_ns = INT64_MIN
            if self.active_count < self.usable_count:
                window.ready_ns = self.urgency(model, kind, count) - self.window_ns // 2
        return window

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

    # ---- bookkeeping -----------------------------------------------------------------------------------------

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
        elif m.kind_mask == 0:
            self.hopeless.set(model, INT64_MIN)
        else:
            self.hopeless.set(model, m.earliest_ns - m.margin_ns - m.alone_ns - self.control_ns + 1)

    cdef void residency_changed(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        cdef int32_t kind
        m.alone_ns = NEVER
        for kind in range(KIND_COUNT):
            if m.kind_mask & (1 << kind) and self.pairs[model * KIND_COUNT + kind].latency[1] < m.alone_ns:
                m.alone_ns = self.pairs[model * KIND_COUNT + kind].latency[1]
        self.touch(model)

    # ---- drops -----------------------------------------------------------------------------------------------

    cdef void drop_all(self, int32_t model, DropReason reason) noexcept nogil:
        while self.models[model].live_count > 0:
            self.drop(model, self.take(model, first_level(self.models[model].level_mask)), reason)

    cdef void drop_hopeless(self) noexcept nogil:
        """Drop each request that no GPU could still finish in time, by model index and queue order."""
        cdef Model* m
        cdef int32_t model, level
        cdef uint8_t levels
        cdef int64_t deadline
        cdef size_t i
        cdef vector[int32_t]* late = &self.aside     # free until match()
        if self.hopeless.empty() or self.hopeless.top_key() > self.now_ns:
            return
        late.clear()
        while not self.hopeless.empty() and self.hopeless.top_key() <= self.now_ns:
            late.push_back(<int32_t>self.hopeless.top())
            self.hopeless.remove(self.hopeless.top())
        sort(late.begin(), late.end())
        for i in range(late.size()):
            model = late[0][i]
            m = &self.models[model]
            if m.kind_mask == 0:
                self.drop_all(model, DROP_NO_GPU)
                continue
            levels = m.level_mask
            while levels != 0:
                level = first_level(levels)
                levels &= levels - 1
                while m.level_mask & (1 << level):
                    deadline = self.queues[model * LEVEL_COUNT + level].front().deadline
                    if self.now_ns + self.control_ns + m.alone_ns <= deadline - m.margin_ns:
                        break
                    self.drop(model, self.take(model, level),
                              DROP_EXPIRED if deadline <= self.now_ns else DROP_WOULD_MISS)
            self.refresh_hopeless(model)
            self.touch(model)

    # ---- matching --------------------------------------------------------------------------------------------

    cdef void match(self) noexcept nogil:
        cdef int32_t kind, model, count, gpu
        cdef int64_t start
        cdef size_t i
        cdef cbool is_confined
        cdef cbool has_aside = False
        self.aside.clear()
        self.is_settled = True
        while True:
            is_confined = False
            model = self.most_urgent(is_confined, &kind, &count)
            if model < 0:
                is_confined = True
                model = self.most_urgent(is_confined, &kind, &count)
            if model < 0:
                break
            gpu = self.pool(kind, is_confined).first_common(self.resident[model])
            start = self.now_ns + self.control_ns
            if self.gpus[gpu].flight_count > 0 and self.gpus[gpu].free_at_ns > start:
                start = self.gpus[gpu].free_at_ns
                count = self.fit(model, kind, start)
            if count == 0 and self.gpus[gpu].flight_count > 0 and self.may_open(is_confined):
                gpu = self.idle[kind].first_common(self.resident[model])
                if gpu >= 0:
                    start = self.now_ns + self.control_ns
                    count = self.fit(model, kind, start)
            if count == 0:
                self.set_aside(model, kind)
                has_aside = True
                continue
            # Whatever is decided from here on may free a candidate set aside before it.
            self.is_settled = not has_aside
            if self.shed_one(model, kind, count):
                while True:
                    count = self.fit(model, kind, start)
                    if count == 0 or not self.shed_one(model, kind, count):
                        break
                self.refresh(model)
            else:
                self.dispatch(model, gpu, count, start)
        for i in range(self.aside.size()):
            self.place(self.aside[i] // KIND_COUNT, self.aside[i] % KIND_COUNT)

    cdef int32_t most_urgent(self, cbool is_confined, int32_t* best_kind, int32_t* best_count) noexcept nogil:
        """Return the model of the most urgent candidate that has a GPU to start on; -1 if there is none.

        Beside it the kind, and how large the batch is that would start now.
        """
        cdef int32_t best = -1
        cdef int64_t best_urgency = NEVER
        cdef uint8_t kinds = self.kinds_seen
        cdef int32_t kind, model, count
        cdef int64_t urgency
        cdef IndexedHeap* heap
        cdef Bitmap* pool
        while kinds != 0:
            kind = first_level(kinds)
            kinds &= kinds - 1
            heap = &self.confined[kind] if is_confined else &self.schedulable[kind]
            pool = self.pool(kind, is_confined)
            if pool.empty():
                continue
            # Correct the top until it is true: keys are lower bounds (see the module's docstring).
            while not heap.empty():
                model = <int32_t>heap.top()
                if pool.first_common(self.resident[model]) < 0:
                    self.set_aside(model, kind)
                    continue
                count = self.fit(model, kind, self.now_ns + self.control_ns)
                if count == 0:
                    heap.remove(model)
                    self.set_quiet(model, kind, 0)
                    continue
                urgency = self.urgency(model, kind, count)
                if urgency == heap.top_key():
                    break
                heap.set(model, urgency)
                self.set_quiet(model, kind, <int32_t>self.models[model].live_count)
            if heap.empty():
                continue
            model = <int32_t>heap.top()
            urgency = heap.top_key()
            if best < 0 or urgency < best_urgency or (urgency == best_urgency and model < best):
                best = model
                best_urgency = urgency
                best_kind[0] = kind
                best_count[0] = count
        return best

    cdef cbool may_open(self, cbool is_confined) noexcept nogil:
        """Return whether such a candidate may start on an idle GPU: a confined one only while the active set is not full."""
        return not is_confined or self.in_use_count < self.active_count

    cdef Bitmap* pool(self, int32_t kind, cbool is_confined) noexcept nogil:
        """Return the GPUs of one kind on which such a candidate may start."""
        return &self.available[kind] if self.may_open(is_confined) else &self.ahead[kind]

    cdef void set_aside(self, int32_t model, int32_t kind) noexcept nogil:
        cdef int32_t pair = model * KIND_COUNT + kind
        self.pairs[pair].aside_step = self.step_count
        self.aside.push_back(pair)
        self.unplace(model, kind)

    cdef cbool shed_one(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Drop the request that keeps the batch under its target size; False when none should go."""
        cdef Model* m = &self.models[model]
        cdef int32_t pair = model * KIND_COUNT + kind
        cdef int32_t before = 0
        cdef int32_t level
        cdef int32_t limiting = -1
        cdef int64_t earliest = NEVER
        cdef uint8_t levels = m.level_mask
        cdef DeadlineQueue* queue
        if not self.shed or count >= self.pairs[pair].target or <uint32_t>count >= m.live_count:
            return False
        if not is_wasteful(count, self.pairs[pair].target, self.pairs[pair].latency, self.gpus_asked,
                           <double>self.usable_count):
            return False
        while levels != 0 and before < count + 1:
            level = first_level(levels)
            levels &= levels - 1
            queue = &self.queues[model * LEVEL_COUNT + level]
            if queue.front().deadline < earliest:
                earliest = queue.front().deadline
                limiting = level
            before += <int32_t>queue.live_count()
        if m.level_mask >> (limiting + 1) != 0:
            return False
        self.drop(model, self.take(model, limiting), DROP_WOULD_MISS)
        return True

    cdef void dispatch(self, int32_t model, int32_t gpu, int32_t count, int64_t start) noexcept nogil:
        cdef Gpu* g = &self.gpus[gpu]
        cdef int64_t duration = self.pairs[model * KIND_COUNT + g.kind].latency[count]
        cdef NativeDecision decision
        cdef int32_t left = count
        self.plan_count += 1
        decision.kind = DECISION_DISPATCH
        decision.reason = 0
        decision.gpu = gpu
        decision.model = model
        decision.plan_id = self.plan_count
        decision.first = <uint32_t>self.ids.size()
        decision.count = <uint32_t>count
        decision.start_at_ns = start
        decision.finish_at_ns = start + duration
        while left > 0:
            left -= self.take_many(model, first_level(self.models[model].level_mask), left)
        self.decisions.push_back(decision)
        g.flights[g.flight_count].plan_id = self.plan_count
        g.flights[g.flight_count].model = model
        g.flights[g.flight_count].start_ns = start
        g.flights[g.flight_count].duration_ns = duration
        g.flight_count += 1
        g.free_at_ns = start + duration
        self.gpu_turned(gpu)
        self.refresh(model)
