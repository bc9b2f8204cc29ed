# distutils: language = c++
"""Decide which requests run together, on which GPU, and when: the scheduling core behind its native door.

docs/core.md is the contract; `symphony.core.Scheduler` is the Python door. The engine knows no clock, socket, thread
or randomness: it is told the time. One thread at a time may use it.

How it stays fast: a model's queue is a ring (csrc/symphony/deadline_queue.h); each (model, kind) pair is in at most one
of two heaps, `waiting` by the instant its candidate becomes schedulable, or `schedulable` by urgency; GPUs are bits.
A candidate's urgency only grows while its queue stays as it is (a batch that no longer fits shrinks), so a key in
`schedulable` is a lower bound and is corrected when it reaches the top, not by a timer.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN
from libcpp.algorithm cimport sort

from symphony.core.stagger cimport early_batch_size, shedding_ease, staggered_batch_size

cdef int64_t NEVER = INT64_MAX
cdef int64_t EPOCH_ROLLS_MAX = 8


cdef class Engine:
    """Hold the queues, windows and GPUs of one scheduler; see engine.pxd for the native door."""

    def __cinit__(self, int policy, uint32_t request_count_max, int32_t model_count_max, int32_t gpu_count_max,
                  int64_t control_ns, int64_t lead_ns, int64_t window_ns, bint shed, bint early, double target_share, int64_t epoch_ns):
        """Reserve room for the given numbers of requests, models and GPUs; nothing grows later but queue rings."""
        cdef int32_t i
        self.policy = <Policy>policy
        self.shed = shed
        self.early = early
        self.target_share = target_share
        self.control_ns = control_ns
        self.lead_ns = lead_ns
        self.window_ns = window_ns
        self.epoch_ns = epoch_ns
        self.request_count_max = request_count_max
        self.model_count_max = model_count_max
        self.gpu_count_max = gpu_count_max
        self.live.assign(request_count_max, 0)
        self.slot_pair.assign(request_count_max, 0)
        self.slot_arrived.assign(request_count_max, 0)
        self.models.resize(model_count_max)
        self.queues.resize(model_count_max * LEVEL_COUNT)
        self.tables.resize(model_count_max * KIND_COUNT)
        self.resident_count.assign(model_count_max * KIND_COUNT, 0)
        self.targets.assign(model_count_max * KIND_COUNT, 1)
        self.early_sizes.assign(model_count_max * KIND_COUNT, INT32_MAX)
        self.resident.resize(model_count_max)
        self.is_dirty.assign(model_count_max, 0)
        self.gpus.resize(gpu_count_max)
        self.available.resize(KIND_COUNT)
        self.idle.resize(KIND_COUNT)
        self.schedulable.resize(KIND_COUNT)
        for i in range(KIND_COUNT):
            self.available[i].reset(gpu_count_max)
            self.idle[i].reset(gpu_count_max)
            self.schedulable[i].reset(model_count_max)
        for i in range(model_count_max):
            self.models[i].exists = False
        for i in range(gpu_count_max):
            self.gpus[i].is_joined = False
        self.waiting.reset(model_count_max * KIND_COUNT)
        self.hopeless.reset(model_count_max)
        self.gpu_turns.reset(gpu_count_max)
        self.aside_step.assign(model_count_max * KIND_COUNT, 0)
        self.now_ns = INT64_MIN

    # ---- the step ----------------------------------------------------------------------------------------------

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
            self.refresh(model)
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
        if not self.waiting.empty() and self.waiting.top_key() < at:
            at = self.waiting.top_key()
        if not self.hopeless.empty() and self.hopeless.top_key() < at:
            at = self.hopeless.top_key()
        if not self.gpu_turns.empty() and self.gpu_turns.top_key() < at:
            at = self.gpu_turns.top_key()
        if self.early and not self.waiting.empty() and (self.epoch + 1) * self.epoch_ns < at:
            at = (self.epoch + 1) * self.epoch_ns
        return at

    # ---- events: requests --------------------------------------------------------------------------------------

    cdef int request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil:
        cdef int32_t pair
        if slot >= self.request_count_max:
            return EVENT_ID_OUT_OF_RANGE
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if priority < 1 or priority > LEVEL_COUNT:
            return EVENT_BAD_PRIORITY
        if self.live[slot] != 0:
            return EVENT_ID_IN_USE
        pair = model * LEVEL_COUNT + priority - 1
        self.sequence += 1
        self.live[slot] = self.sequence
        self.slot_pair[slot] = pair
        self.slot_arrived[slot] = self.now_ns
        self.queues[pair].push(deadline, self.sequence, slot)
        self.models[model].live_count += 1
        self.models[model].level_mask |= <uint8_t>(1 << (priority - 1))
        self.models[model].arrival_count += 1.0
        self.queued += 1
        self.touch(model)
        return EVENT_OK

    cdef int request_cancelled(self, uint32_t slot) noexcept nogil:
        cdef int32_t pair
        cdef int32_t model
        if slot >= self.request_count_max:
            return EVENT_ID_OUT_OF_RANGE
        if self.live[slot] == 0:
            return EVENT_OK
        pair = self.slot_pair[slot]
        model = pair // LEVEL_COUNT
        self.live[slot] = 0
        self.queues[pair].cancelled(self.live.data())
        if self.queues[pair].empty():
            self.models[model].level_mask &= <uint8_t>~(1 << (pair % LEVEL_COUNT))
        self.models[model].live_count -= 1
        self.queued -= 1
        self.touch(model)
        return EVENT_OK

    # ---- events: batches ---------------------------------------------------------------------------------------

    cdef int batch_started(self, uint64_t plan_id, int32_t gpu, int64_t started) noexcept nogil:
        cdef Gpu* g
        if gpu < 0 or gpu >= self.gpu_count_max:
            return EVENT_UNKNOWN_GPU
        g = &self.gpus[gpu]
        if not g.is_joined or g.flight_count == 0 or g.flights[0].plan_id != plan_id:
            return EVENT_OK
        g.flights[0].start_ns = started
        g.free_at_ns = started + g.flights[0].duration_ns
        if g.flight_count == 2:
            g.free_at_ns = max(g.free_at_ns, g.flights[1].start_ns) + g.flights[1].duration_ns
        self.gpu_turned(gpu)
        return EVENT_OK

    cdef int batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t finished) noexcept nogil:
        cdef Gpu* g
        if gpu < 0 or gpu >= self.gpu_count_max:
            return EVENT_UNKNOWN_GPU
        g = &self.gpus[gpu]
        if not g.is_joined:
            return EVENT_OK
        if g.flight_count >= 1 and g.flights[0].plan_id == plan_id:
            g.flights[0] = g.flights[1]
            g.flight_count -= 1
            if g.flight_count == 1:
                g.free_at_ns = max(finished, g.flights[0].start_ns) + g.flights[0].duration_ns
        elif g.flight_count == 2 and g.flights[1].plan_id == plan_id:
            g.flight_count = 1
            g.free_at_ns = g.flights[0].start_ns + g.flights[0].duration_ns
        else:
            return EVENT_OK
        self.gpu_turned(gpu)
        return EVENT_OK

    # ---- events: models ----------------------------------------------------------------------------------------

    cdef int model_added(self, int32_t model, int64_t slo, int32_t batch_size_max, int64_t margin, int64_t delay,
                         int32_t preferred) noexcept nogil:
        cdef Model* m
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
            self.resident_count[model * KIND_COUNT + kind] = 0
            self.targets[model * KIND_COUNT + kind] = 1
            self.early_sizes[model * KIND_COUNT + kind] = INT32_MAX
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
        self.models[model].profile_mask |= <uint8_t>(1 << kind)
        self.targets_dirty = True
        self.residency_changed(model)
        return EVENT_OK

    cdef int margin_changed(self, int32_t model, int64_t margin) noexcept nogil:
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        self.models[model].margin_ns = margin
        self.targets_dirty = True
        self.touch(model)
        return EVENT_OK

    # ---- events: GPUs ------------------------------------------------------------------------------------------

    cdef int gpu_joined(self, int32_t gpu, int32_t kind) noexcept nogil:
        cdef Gpu* g
        if gpu < 0 or gpu >= self.gpu_count_max or kind < 0 or kind >= KIND_COUNT:
            return EVENT_OUT_OF_RANGE
        g = &self.gpus[gpu]
        if g.is_joined:
            return EVENT_GPU_EXISTS
        g.is_joined = True
        g.is_drained = False
        g.kind = kind
        g.flight_count = 0
        g.free_at_ns = 0
        self.kinds_seen |= <uint8_t>(1 << kind)
        self.usable_count += 1
        self.targets_dirty = True
        self.gpu_turned(gpu)
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

    cdef int gpu_drained(self, int32_t gpu, cbool is_drained) noexcept nogil:
        if gpu < 0 or gpu >= self.gpu_count_max or not self.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        if self.gpus[gpu].is_drained != is_drained:
            self.gpus[gpu].is_drained = is_drained
            self.usable_count += -1 if is_drained else 1
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
        self.resident_count[model * KIND_COUNT + kind] += 1
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
        self.resident_count[pair] -= 1
        if self.resident_count[pair] == 0:
            self.models[model].kind_mask &= <uint8_t>~(1 << self.gpus[gpu].kind)
            self.unplace(model, self.gpus[gpu].kind)
        self.residency_changed(model)
        return EVENT_OK

    # ---- candidate and window ----------------------------------------------------------------------------------

    cdef int32_t fit(self, int32_t model, int32_t kind, int64_t start) noexcept nogil:
        """Return the largest b <= min(n, batch_size_max) with start + l(b) <= D(b), 0 if none."""
        cdef Model* m = &self.models[model]
        cdef const int64_t* latency = self.tables[model * KIND_COUNT + kind].data()
        cdef DeadlineQueue* queue
        cdef int64_t room = NEVER
        cdef int64_t room_level
        cdef int32_t before = 0       # requests of the levels passed
        cdef int32_t upto
        cdef int32_t low, high, middle
        cdef int32_t level
        cdef uint8_t levels = m.level_mask
        while levels != 0 and before < m.batch_size_max:
            level = first_level(levels)
            levels &= levels - 1
            queue = &self.queues[model * LEVEL_COUNT + level]
            room_level = queue.front().deadline - m.margin_ns - start
            if room_level < room:
                room = room_level
            upto = before + <int32_t>queue.live_count()
            if upto > m.batch_size_max:
                upto = m.batch_size_max
            if latency[upto] <= room:
                before = upto
                continue
            low = before
            high = upto - 1
            while low < high:
                middle = low + (high - low + 1) // 2
                if latency[middle] <= room:
                    low = middle
                else:
                    high = middle - 1
            return low
        return before

    cdef int64_t due(self, int32_t model, int32_t count) noexcept nogil:
        """Return D(count): the earliest deadline among the first `count` requests minus the margin."""
        cdef Model* m = &self.models[model]
        cdef int64_t earliest = NEVER
        cdef int32_t before = 0
        cdef uint8_t levels = m.level_mask
        cdef DeadlineQueue* queue
        while levels != 0 and before < count:
            queue = &self.queues[model * LEVEL_COUNT + first_level(levels)]
            levels &= levels - 1
            if queue.front().deadline < earliest:
                earliest = queue.front().deadline
            before += <int32_t>queue.live_count()
        return earliest - m.margin_ns

    cdef uint32_t head_slot(self, int32_t model) noexcept nogil:
        return self.queues[model * LEVEL_COUNT + first_level(self.models[model].level_mask)].front().slot

    cdef int64_t urgency(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Return the key by which schedulable candidates are served, the smallest first."""
        if self.policy == POLICY_DEFERRED:
            return self.due(model, count) - self.tables[model * KIND_COUNT + kind][count] - self.control_ns
        if self.policy == POLICY_EAGER:
            return self.due(model, count)
        return self.slot_arrived[self.head_slot(model)]

    cdef void place(self, int32_t model, int32_t kind) noexcept nogil:
        """Put the (model, kind) pair where its candidate belongs now: waiting, schedulable, or in neither heap."""
        cdef Model* m = &self.models[model]
        cdef uint32_t pair = <uint32_t>(model * KIND_COUNT + kind)
        cdef int32_t count = 0
        cdef int64_t ready = INT64_MIN
        if m.live_count > 0:
            count = self.fit(model, kind, self.now_ns + self.control_ns)
        if count == 0:
            self.unplace(model, kind)
            return
        if self.policy == POLICY_DEFERRED:
            if <uint32_t>count == m.live_count and count < m.batch_size_max and count < self.early_sizes[pair]:
                ready = self.due(model, count) - self.control_ns - max(
                    self.tables[pair][count + 1], self.tables[pair][count] + self.window_ns)
        elif self.policy == POLICY_TIMEOUT:
            if m.live_count < <uint32_t>m.preferred:
                ready = self.slot_arrived[self.head_slot(model)] + m.delay_ns
        if ready > self.now_ns:
            self.schedulable[kind].remove(model)
            self.waiting.set(pair, ready)
        else:
            self.waiting.remove(pair)
            self.schedulable[kind].set(model, self.urgency(model, kind, count))

    cdef void unplace(self, int32_t model, int32_t kind) noexcept nogil:
        self.waiting.remove(<uint32_t>(model * KIND_COUNT + kind))
        self.schedulable[kind].remove(model)

    # ---- bookkeeping -------------------------------------------------------------------------------------------

    cdef void touch(self, int32_t model) noexcept nogil:
        """Note that the model's queue changed: its candidates are placed anew once, before matching."""
        if not self.is_dirty[model]:
            self.is_dirty[model] = 1
            self.dirty.push_back(model)

    cdef void refresh(self, int32_t model) noexcept nogil:
        cdef uint8_t kinds = self.models[model].kind_mask
        cdef int32_t kind
        while kinds != 0:
            kind = first_level(kinds)
            kinds &= kinds - 1
            if self.aside_step[model * KIND_COUNT + kind] != self.step_count:
                self.place(model, kind)
        self.refresh_hopeless(model)

    cdef void refresh_hopeless(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        cdef uint8_t levels = m.level_mask
        cdef int64_t earliest = NEVER
        cdef DeadlineQueue* queue
        if not m.exists or m.live_count == 0:
            self.hopeless.remove(model)
            return
        if m.kind_mask == 0:
            self.hopeless.set(model, INT64_MIN)
            return
        while levels != 0:
            queue = &self.queues[model * LEVEL_COUNT + first_level(levels)]
            levels &= levels - 1
            if queue.front().deadline < earliest:
                earliest = queue.front().deadline
        self.hopeless.set(model, earliest - m.margin_ns - m.alone_ns - self.control_ns + 1)

    cdef void residency_changed(self, int32_t model) noexcept nogil:
        cdef Model* m = &self.models[model]
        cdef int32_t kind
        m.alone_ns = NEVER
        for kind in range(KIND_COUNT):
            if m.kind_mask & (1 << kind) and self.tables[model * KIND_COUNT + kind][1] < m.alone_ns:
                m.alone_ns = self.tables[model * KIND_COUNT + kind][1]
        self.touch(model)

    cdef void gpu_turned(self, int32_t gpu) noexcept nogil:
        """Bring the GPU's bits and its next turn up to date with `now_ns`."""
        cdef Gpu* g = &self.gpus[gpu]
        cdef cbool is_usable = g.is_joined and not g.is_drained
        cdef cbool is_idle = is_usable and g.flight_count == 0
        cdef cbool is_ahead = False
        cdef int64_t turn = NEVER
        if g.is_joined and g.flight_count == 1:
            if self.now_ns < g.free_at_ns - self.lead_ns:
                if self.lead_ns > 0:
                    turn = g.free_at_ns - self.lead_ns
            elif self.now_ns < g.free_at_ns:
                is_ahead = is_usable
                turn = g.free_at_ns
        if is_idle:
            self.idle[g.kind].set(gpu)
        else:
            self.idle[g.kind].clear(gpu)
        if is_idle or is_ahead:
            self.available[g.kind].set(gpu)
        else:
            self.available[g.kind].clear(gpu)
        if turn != NEVER:
            self.gpu_turns.set(gpu, turn)
        else:
            self.gpu_turns.remove(gpu)

    cdef uint32_t take(self, int32_t model, int32_t level) noexcept nogil:
        """Take the first request of one level out of the queue and forget its slot."""
        cdef Model* m = &self.models[model]
        cdef DeadlineQueue* queue = &self.queues[model * LEVEL_COUNT + level]
        cdef uint32_t slot = queue.front().slot
        self.live[slot] = 0
        queue.pop(self.live.data())
        if queue.empty():
            m.level_mask &= <uint8_t>~(1 << level)
        m.live_count -= 1
        self.queued -= 1
        return slot

    # ---- drops -------------------------------------------------------------------------------------------------

    cdef void drop(self, int32_t model, uint32_t slot, DropReason reason) noexcept nogil:
        cdef NativeDecision decision
        decision.kind = DECISION_DROP
        decision.reason = reason
        decision.gpu = -1
        decision.model = model
        decision.plan_id = 0
        decision.first = <uint32_t>self.ids.size()
        decision.count = 1
        decision.start_at_ns = 0
        decision.finish_at_ns = 0
        self.ids.push_back(slot)
        self.decisions.push_back(decision)

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
            self.touch(model)

    # ---- matching ----------------------------------------------------------------------------------------------

    cdef void match(self) noexcept nogil:
        cdef int32_t kind, model, count, gpu
        cdef int32_t best_kind, best_model
        cdef int64_t best_urgency, urgency, start
        cdef uint8_t kinds
        cdef IndexedHeap* heap
        cdef size_t i
        self.aside.clear()
        while True:
            best_kind = -1
            best_model = 0
            best_urgency = NEVER
            kinds = self.kinds_seen
            while kinds != 0:
                kind = first_level(kinds)
                kinds &= kinds - 1
                heap = &self.schedulable[kind]
                if self.available[kind].empty():
                    continue
                # Correct the top until it is true: keys are lower bounds (see the module's docstring).
                while not heap.empty():
                    model = <int32_t>heap.top()
                    if self.available[kind].first_common(self.resident[model]) < 0:
                        self.set_aside(model, kind)
                        continue
                    count = self.fit(model, kind, self.now_ns + self.control_ns)
                    if count == 0:
                        heap.remove(model)
                        continue
                    urgency = self.urgency(model, kind, count)
                    if urgency == heap.top_key():
                        break
                    heap.set(model, urgency)
                if heap.empty():
                    continue
                model = <int32_t>heap.top()
                urgency = heap.top_key()
                if best_kind < 0 or urgency < best_urgency or (urgency == best_urgency and model < best_model):
                    best_kind = kind
                    best_model = model
                    best_urgency = urgency
            if best_kind < 0:
                break
            gpu = self.available[best_kind].first_common(self.resident[best_model])
            start = self.now_ns + self.control_ns
            if self.gpus[gpu].flight_count > 0 and self.gpus[gpu].free_at_ns > start:
                start = self.gpus[gpu].free_at_ns
            count = self.fit(best_model, best_kind, start)
            if count == 0 and self.gpus[gpu].flight_count > 0:
                gpu = self.idle[best_kind].first_common(self.resident[best_model])
                if gpu >= 0:
                    start = self.now_ns + self.control_ns
                    count = self.fit(best_model, best_kind, start)
            if count == 0:
                self.set_aside(best_model, best_kind)
                continue
            if self.shed_one(best_model, best_kind, count):
                continue
            self.dispatch(best_model, gpu, count, start)
        for i in range(self.aside.size()):
            self.place(self.aside[i] // KIND_COUNT, self.aside[i] % KIND_COUNT)

    cdef void set_aside(self, int32_t model, int32_t kind) noexcept nogil:
        cdef int32_t pair = model * KIND_COUNT + kind
        self.aside_step[pair] = self.step_count
        self.aside.push_back(pair)
        self.unplace(model, kind)

    cdef cbool shed_one(self, int32_t model, int32_t kind, int32_t count) noexcept nogil:
        """Drop the request that keeps the batch under its target size; False when none should go."""
        cdef Model* m = &self.models[model]
        cdef int32_t aim = <int32_t>(self.ease * <double>self.targets[model * KIND_COUNT + kind])
        cdef int32_t before = 0
        cdef int32_t level
        cdef int32_t limiting = -1
        cdef int64_t earliest = NEVER
        cdef uint8_t levels = m.level_mask
        cdef DeadlineQueue* queue
        if not self.shed or count >= aim or <uint32_t>count >= m.live_count:
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
        self.refresh(model)
        return True

    cdef void dispatch(self, int32_t model, int32_t gpu, int32_t count, int64_t start) noexcept nogil:
        cdef Gpu* g = &self.gpus[gpu]
        cdef int64_t duration = self.tables[model * KIND_COUNT + g.kind][count]
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
            self.ids.push_back(self.take(model, first_level(self.models[model].level_mask)))
            left -= 1
        self.decisions.push_back(decision)
        g.flights[g.flight_count].plan_id = self.plan_count
        g.flights[g.flight_count].start_ns = start
        g.flights[g.flight_count].duration_ns = duration
        g.flight_count += 1
        g.free_at_ns = start + duration
        self.gpu_turned(gpu)
        self.refresh(model)

    # ---- demand shares and target batch sizes ------------------------------------------------------------------

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


cdef extern from *:
    int count_trailing_zeros "__builtin_ctz"(unsigned int word) noexcept nogil


cdef inline int32_t first_level(uint8_t mask) noexcept nogil:
    """Return the lowest set bit's number; the mask must not be 0."""
    return <int32_t>count_trailing_zeros(mask)


cdef inline int64_t floor_divide(int64_t value, int64_t divisor) noexcept nogil:
    cdef int64_t quotient = value // divisor
    return quotient - 1 if value % divisor < 0 else quotient
