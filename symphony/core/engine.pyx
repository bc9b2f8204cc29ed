# distutils: language = c++
"""Decide which requests run together, on which GPU, and when: the scheduling core behind its native door.

docs/core.md is the contract; `symphony.core.Scheduler` is the Python door. The engine knows no clock, socket, thread
or randomness: it is told the time. One thread at a time may use it.

How it stays fast: a model's queue is a list of chunks (csrc/symphony/deadline_queue.h), GPUs are bits, and candidates
lie in heaps whose keys most arrivals leave alone (windows.pyx).
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, UINT32_MAX, int32_t, int64_t, uint8_t, uint32_t
from libcpp cimport bool as cbool
from libcpp.algorithm cimport sort
from libcpp.vector cimport vector

from symphony.core.containers cimport Bitmap, DeadlineQueue, IndexedHeap
from symphony.core.stagger cimport is_wasteful, loses_more
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
from symphony.core.windows cimport Windows

cdef int64_t NEVER = INT64_MAX


cdef class Engine(Windows):
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
        m.alone_ns = m.absent_ns = NEVER
        m.is_hurried = False
        m.long_rate = 0.0
        m.used_at_ns = self.now_ns
        m.arrival_count = m.rate = m.drop_count = m.drop_rate = 0.0
        m.is_neglected = False
        m.share = 0.0
        self.resident[model].reset(self.gpu_count_max)
        for kind in range(KIND_COUNT):
            self.tables[model * KIND_COUNT + kind].clear()
            pair = &self.pairs[model * KIND_COUNT + kind]
            pair.latency = NULL
            pair.target = 1
            pair.work_size = 1
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

    cdef int absence_allowed(self, int32_t model, int64_t alone) noexcept nogil:
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if self.models[model].absent_ns != alone:
            self.models[model].absent_ns = alone
            self.residency_changed(model)
        return EVENT_OK

    cdef int model_hurried(self, int32_t model) noexcept nogil:
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        self.models[model].is_hurried = True
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

    cdef void residency_changed(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        cdef int32_t kind
        m.alone_ns = NEVER
        for kind in range(KIND_COUNT):
            if m.kind_mask & (1 << kind) and self.pairs[model * KIND_COUNT + kind].latency[1] < m.alone_ns:
                m.alone_ns = self.pairs[model * KIND_COUNT + kind].latency[1]
        if m.kind_mask == 0:
            m.alone_ns = m.absent_ns
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
            if m.alone_ns == NEVER:
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
        cdef int32_t other, other_kind, other_count
        cdef int64_t start
        cdef cbool is_confined
        cdef cbool has_aside = False
        self.aside.clear()
        self.held_back.clear()
        self.is_settled = True
        while True:
            is_confined = False
            model = self.most_urgent(False, &kind, &count)
            if model < 0 or self.has_neglected:
                other = self.most_urgent(True, &other_kind, &other_count)
                if other >= 0 and (model < 0 or self.goes_first(other, other_count, model, count)):
                    is_confined = True
                    model, kind, count = other, other_kind, other_count
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
                self.take_back(&self.held_back)
        self.take_back(&self.held_back)
        self.take_back(&self.aside)

    cdef void take_back(self, vector[int32_t]* pairs) noexcept nogil:
        """Place the candidates of these pairs again."""
        cdef size_t i
        for i in range(pairs[0].size()):
            self.place(pairs[0][i] // KIND_COUNT, pairs[0][i] % KIND_COUNT)
        pairs[0].clear()

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
                # Only a dispatch can change either: it makes an idle GPU one that is ahead, or takes the last fast one.
                if (pool.first_common(self.resident[model]) < 0
                        or (self.early and self.active_count < self.usable_count and self.waits_for_faster(model, kind))):
                    self.held_back.push_back(model * KIND_COUNT + kind)
                    self.unplace(model, kind)
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

    cdef cbool goes_first(self, int32_t confined, int32_t confined_count, int32_t model, int32_t count) noexcept nogil:
        """Return whether the confined candidate of a neglected model goes before a schedulable one: if it is due earlier."""
        return self.models[confined].is_neglected and self.due(confined, confined_count) < self.due(model, count)

    cdef cbool may_open(self, cbool is_confined) noexcept nogil:
        """Return whether such a candidate may start on an idle GPU: a confined one only while the active set is not full."""
        return not is_confined or self.in_use_count < self.active_count

    cdef Bitmap* pool(self, int32_t kind, cbool is_confined) noexcept nogil:
        """Return the GPUs of one kind on which such a candidate may start."""
        return &self.available[kind] if self.may_open(is_confined) else &self.ahead[kind]

    cdef cbool waits_for_faster(self, int32_t model, int32_t kind) noexcept nogil:
        """Return whether a GPU of a faster kind with the model is idle: the batch can still wait for its window there."""
        cdef uint8_t kinds = self.models[model].kind_mask
        cdef int32_t other
        while kinds != 0:
            other = first_level(kinds)
            kinds &= kinds - 1
            if (self.pairs[model * KIND_COUNT + other].latency[1] < self.pairs[model * KIND_COUNT + kind].latency[1]
                    and self.idle[other].first_common(self.resident[model]) >= 0):
                return True
        return False

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
        if (m.is_neglected and self.gpus_asked < <double>self.usable_count
                and loses_more(m.drop_rate, m.rate, self.drop_rate, self.arrival_rate)):
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
        self.models[model].used_at_ns = self.now_ns
        self.models[model].is_hurried = False
        self.gpu_turned(gpu)
        self.refresh(model)
