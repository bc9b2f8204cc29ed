# distutils: language = c++
"""Hold what the scheduler knows of requests, queues and GPUs, and answer how large a batch fits.

The lowest of four layers (`State`, `Demand`, `Windows`, `Engine`): it decides nothing but that a request is hopeless on
arrival. See state.pxd for the fields.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN

cdef int64_t NEVER = INT64_MAX
cdef enum:
    FETCH_AHEAD = 24
    FETCH_NEARER = 8


cdef class State:
    """Requests by slot, models with their queues and latency tables, GPUs with their batches in flight."""

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
        self.slots.resize(request_count_max)
        self.slot_arrived.assign(request_count_max if policy == POLICY_TIMEOUT else 0, 0)
        self.models.resize(model_count_max)
        self.queues.resize(model_count_max * LEVEL_COUNT)
        for i in range(model_count_max * LEVEL_COUNT):
            self.queues[i].reset(&self.chunks)
        self.tables.resize(model_count_max * KIND_COUNT)
        self.pairs.resize(model_count_max * KIND_COUNT)
        self.resident.resize(model_count_max)
        self.is_dirty.assign(model_count_max, 0)
        self.gpus.resize(gpu_count_max)
        self.usable.resize(KIND_COUNT)
        self.available.resize(KIND_COUNT)
        self.idle.resize(KIND_COUNT)
        self.ahead.resize(KIND_COUNT)
        self.confined.resize(KIND_COUNT)
        self.schedulable.resize(KIND_COUNT)
        for i in range(KIND_COUNT):
            self.usable[i].reset(gpu_count_max)
            self.available[i].reset(gpu_count_max)
            self.idle[i].reset(gpu_count_max)
            self.ahead[i].reset(gpu_count_max)
            self.confined[i].reset(model_count_max)
            self.schedulable[i].reset(model_count_max)
        for i in range(model_count_max):
            self.models[i].exists = False
        for i in range(gpu_count_max):
            self.gpus[i].is_joined = False
            self.gpus[i].is_in_use = False
        self.waiting.reset(model_count_max * KIND_COUNT)
        self.hopeless.reset(model_count_max)
        self.gpu_turns.reset(gpu_count_max)
        self.now_ns = INT64_MIN
        self.is_settled = True

    cdef int request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil:
        cdef int32_t pair
        cdef uint8_t level_bit
        cdef Model* m
        if slot >= self.request_count_max:
            return EVENT_ID_OUT_OF_RANGE
        if model < 0 or model >= self.model_count_max or not self.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if priority < 1 or priority > LEVEL_COUNT:
            return EVENT_BAD_PRIORITY
        if self.slots[slot].sequence != 0:
            return EVENT_ID_IN_USE
        m = &self.models[model]
        if m.alone_ns != NEVER and self.now_ns + self.control_ns + m.alone_ns > deadline - m.margin_ns:
            m.arrival_count += 1.0
            self.arrival_count += 1.0
            self.drop(model, slot, DROP_EXPIRED if deadline <= self.now_ns else DROP_WOULD_MISS)
            return EVENT_OK
        pair = model * LEVEL_COUNT + priority - 1
        level_bit = <uint8_t>(1 << (priority - 1))
        self.sequence += 1
        if self.sequence == 0:
            self.sequence = 1
        self.slots[slot].sequence = self.sequence
        self.slots[slot].queue = pair
        if self.policy == POLICY_TIMEOUT:
            self.slot_arrived[slot] = self.now_ns
        self.queues[pair].push(deadline, self.sequence, slot)
        m.live_count += 1
        m.arrival_count += 1.0
        self.arrival_count += 1.0
        self.queued += 1
        # A request that only lengthens the one queue of its model leaves the candidate's keys lower bounds for a while.
        if m.live_count > m.quiet_count or m.level_mask != level_bit or deadline < m.earliest_ns:
            m.level_mask |= level_bit
            m.earliest_ns = min(m.earliest_ns, deadline)
            self.touch(model)
        return EVENT_OK

    cdef int requests_arrived(self, const Arrival* arrivals, size_t count) noexcept nogil:
        """Tell of many arrivals at once, which costs less: what one touches is fetched while others before it are read.

        Return the first status that is not EVENT_OK; the others have arrived all the same.
        """
        cdef int status = EVENT_OK
        cdef int own
        cdef size_t k
        for k in range(min(count, <size_t>FETCH_AHEAD)):
            self.fetch_ahead(arrivals[k])
        for k in range(min(count, <size_t>FETCH_NEARER)):
            self.fetch_nearer(arrivals[k])
        for k in range(count):
            if k + FETCH_AHEAD < count:
                self.fetch_ahead(arrivals[k + FETCH_AHEAD])
            if k + FETCH_NEARER < count:
                self.fetch_nearer(arrivals[k + FETCH_NEARER])
            own = self.request_arrived(arrivals[k].slot, arrivals[k].model, arrivals[k].deadline, arrivals[k].priority)
            if status == EVENT_OK:
                status = own
        return status

    cdef void fetch_ahead(self, const Arrival& arrival) noexcept nogil:
        """Ask the memory for what `request_arrived` will touch. Any values are harmless."""
        cdef size_t pair = <size_t>(arrival.model * LEVEL_COUNT + arrival.priority - 1)
        if arrival.slot < self.request_count_max and arrival.model < self.model_count_max and pair < self.queues.size():
            prefetch(&self.slots[arrival.slot], 1)
            prefetch(&self.models[arrival.model], 1)
            prefetch(&self.queues[pair], 1)

    cdef void fetch_nearer(self, const Arrival& arrival) noexcept nogil:
        """Ask for the end of its queue, once `fetch_ahead` has brought the queue."""
        cdef size_t pair = <size_t>(arrival.model * LEVEL_COUNT + arrival.priority - 1)
        if pair < self.queues.size():
            self.queues[pair].prefetch_tail()

    cdef int request_cancelled(self, uint32_t slot) noexcept nogil:
        cdef int32_t pair
        cdef int32_t model
        if slot >= self.request_count_max:
            return EVENT_ID_OUT_OF_RANGE
        if self.slots[slot].sequence == 0:
            return EVENT_OK
        pair = self.slots[slot].queue
        model = pair // LEVEL_COUNT
        self.slots[slot].sequence = 0
        self.queues[pair].cancelled(self.slots.data())
        self.left(model, pair % LEVEL_COUNT, 1)
        self.touch(model)
        return EVENT_OK

    cdef uint32_t take(self, int32_t model, int32_t level) noexcept nogil:
        """Take the first request of one level out of the queue and forget its slot."""
        cdef DeadlineQueue* queue = &self.queues[model * LEVEL_COUNT + level]
        cdef uint32_t slot = queue.front().slot
        self.slots[slot].sequence = 0
        queue.pop(self.slots.data())
        self.left(model, level, 1)
        return slot

    cdef int32_t take_many(self, int32_t model, int32_t level, int32_t count) noexcept nogil:
        """Move up to `count` first requests of one level from the queue to `ids`; return how many."""
        cdef DeadlineQueue* queue = &self.queues[model * LEVEL_COUNT + level]
        count = min(count, <int32_t>queue.live_count())
        self.ids.resize(self.ids.size() + count)
        queue.take(count, self.slots.data(), &self.ids[self.ids.size() - count])
        self.left(model, level, <uint32_t>count)
        return count

    cdef void left(self, int32_t model, int32_t level, uint32_t count) noexcept nogil:
        """Bring the model up to date after so many requests left the queue of one level."""
        cdef Model* m = &self.models[model]
        cdef uint8_t levels
        if self.queues[model * LEVEL_COUNT + level].empty():
            m.level_mask &= <uint8_t>~(1 << level)
        m.live_count -= count
        self.queued -= count
        m.earliest_ns = NEVER
        levels = m.level_mask
        while levels != 0:
            m.earliest_ns = min(m.earliest_ns, self.queues[model * LEVEL_COUNT + first_level(levels)].front().deadline)
            levels &= levels - 1

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
        if reason == DROP_WOULD_MISS or reason == DROP_EXPIRED:
            self.models[model].drop_count += 1.0
            # What arrived before demand was measured is lost to the start, which does not tell of bursts.
            if self.now_ns - self.models[model].slo_ns >= self.measured_since_ns:
                self.drop_count += 1.0
        self.ids.push_back(slot)
        self.decisions.push_back(decision)

    cdef void touch(self, int32_t model) noexcept nogil:
        """Note that the model's queue changed: its candidates are placed anew once, before matching."""
        if not self.is_dirty[model]:
            self.is_dirty[model] = 1
            self.dirty.push_back(model)

    cdef int32_t fit(self, int32_t model, int32_t kind, int64_t start) noexcept nogil:
        """Return the largest b <= min(n, batch_size_max) with start + l(b) <= D(b), 0 if none."""
        cdef Model* m = &self.models[model]
        cdef const int64_t* latency = self.pairs[model * KIND_COUNT + kind].latency
        cdef DeadlineQueue* queue
        cdef int64_t room = NEVER
        cdef int32_t before = 0       # requests of the levels passed
        cdef int32_t upto
        cdef uint8_t levels = m.level_mask
        if levels & (levels - 1) == 0:
            upto = <int32_t>min(m.live_count, <uint32_t>m.batch_size_max)
            return largest_within(latency, 0, upto, m.earliest_ns - m.margin_ns - start)
        while levels != 0 and before < m.batch_size_max:
            queue = &self.queues[model * LEVEL_COUNT + first_level(levels)]
            levels &= levels - 1
            room = min(room, queue.front().deadline - m.margin_ns - start)
            upto = min(before + <int32_t>queue.live_count(), m.batch_size_max)
            before = largest_within(latency, before, upto, room)
            if before < upto:
                break
        return before

    cdef int64_t due(self, int32_t model, int32_t count) noexcept nogil:
        """Return D(count): the earliest deadline among the first `count` requests minus the margin."""
        cdef Model* m = &self.models[model]
        cdef int64_t earliest = NEVER
        cdef int32_t before = 0
        cdef uint8_t levels = m.level_mask
        cdef DeadlineQueue* queue
        if levels & (levels - 1) == 0:
            return m.earliest_ns - m.margin_ns
        while levels != 0 and before < count:
            queue = &self.queues[model * LEVEL_COUNT + first_level(levels)]
            levels &= levels - 1
            earliest = min(earliest, queue.front().deadline)
            before += <int32_t>queue.live_count()
        return earliest - m.margin_ns

    cdef uint32_t head_slot(self, int32_t model) noexcept nogil:
        return self.queues[model * LEVEL_COUNT + first_level(self.models[model].level_mask)].front().slot

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

    cdef int gpu_drained(self, int32_t gpu, cbool is_drained) noexcept nogil:
        if gpu < 0 or gpu >= self.gpu_count_max or not self.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        if self.gpus[gpu].is_drained != is_drained:
            self.gpus[gpu].is_drained = is_drained
            self.usable_count += -1 if is_drained else 1
            self.targets_dirty = True
            self.gpu_turned(gpu)
        return EVENT_OK

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

    cdef void count_in_use(self) noexcept nogil:
        """Add up the time since the last call, times the GPUs in use since then."""
        self.in_use_ns += <double>self.in_use_count * <double>(self.now_ns - self.in_use_at_ns)
        self.in_use_at_ns = self.now_ns

    cdef void gpu_turned(self, int32_t gpu) noexcept nogil:
        """Bring the GPU's bits and its next turn up to date with `now_ns`."""
        cdef Gpu* g = &self.gpus[gpu]
        cdef cbool is_usable = g.is_joined and not g.is_drained
        cdef cbool is_idle = is_usable and g.flight_count == 0
        cdef cbool is_ahead = False
        cdef cbool is_in_use = is_usable and g.flight_count > 0
        cdef int64_t turn = NEVER
        if g.is_joined and g.flight_count == 1:
            if self.now_ns < g.free_at_ns - self.lead_ns:
                if self.lead_ns > 0:
                    turn = g.free_at_ns - self.lead_ns
            elif self.now_ns < g.free_at_ns:
                is_ahead = is_usable
                turn = g.free_at_ns
        if is_in_use != g.is_in_use:
            self.count_in_use()
            g.is_in_use = is_in_use
            self.in_use_count += 1 if is_in_use else -1
        if is_usable:
            self.usable[g.kind].set(gpu)
        else:
            self.usable[g.kind].clear(gpu)
        if is_idle:
            self.idle[g.kind].set(gpu)
        else:
            self.idle[g.kind].clear(gpu)
        if is_ahead:
            self.ahead[g.kind].set(gpu)
        else:
            self.ahead[g.kind].clear(gpu)
        if is_idle or is_ahead:
            self.available[g.kind].set(gpu)
        else:
            self.available[g.kind].clear(gpu)
        if turn != NEVER:
            self.gpu_turns.set(gpu, turn)
        else:
            self.gpu_turns.remove(gpu)
