# distutils: language = c++
"""Keep the models that are wanted in the GPUs' memory: plan loads, with what they cost, and choose what leaves for them.

It stands beside the engine as `Margins` does: told of memory, footprints and what was placed, it looks at the models
with requests and without a GPU, and decides loads. docs/core.md, "More models than memory", is the contract.

Three ways were weighed. Least recently used, as a cache: it throws out a model with a thousand requests a second for
one with a request a minute, and under overload starts loads that help nobody. Clockwork's: an estimate per model of
unmet demand, renewed at each action, which needs every GPU's schedule ahead of time. Chosen: a load is a batch of its
own kind, on a channel of its own (a GPU loads one model at a time while it computes), so it is scheduled as batches
are: the most urgent first; under overload those are passed over that hold most of the channel for fewest requests; and
who leaves is who is asked for least over the last ten seconds or so, not who was asked for last.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.algorithm cimport sort

from symphony.core.state cimport (
    EVENT_OK,
    EVENT_OUT_OF_RANGE,
    EVENT_UNKNOWN_GPU,
    EVENT_UNKNOWN_MODEL,
    Gpu,
    KIND_COUNT,
    Model,
    first_level,
)

cdef int64_t NEVER = INT64_MAX
cdef int64_t RETRY_NS = 1_000_000_000
"""After a load that failed; its requests wait no longer than their deadlines anyway."""
cdef double CROWDED_GPUS = 0.7
"""A GPU that holds models which ask for more of its time than this gets further ones only if all do."""

cdef class Residency:
    """Decide loads and evictions beside an engine; see residency.pxd for who may call what."""

    def __init__(self, Engine engine not None, *, eviction="popularity"):
        """Take the engine. `eviction`: "popularity", or "recency" for the cache that others have, to compare with."""
        cdef size_t i
        if eviction not in ("popularity", "recency"):
            raise ValueError(f"eviction is {eviction!r}: choose one of popularity, recency")
        self.engine = engine
        self.by_recency = eviction == "recency"
        self.footprints.resize(engine.model_count_max * KIND_COUNT)
        for i in range(self.footprints.size()):
            self.footprints[i].memory_bytes = -1
            self.footprints[i].load_ns = 0
        self.stores.resize(engine.gpu_count_max)
        self.held.resize(engine.gpu_count_max)
        for i in range(self.stores.size()):
            self.stores[i].budget_bytes = -1
            self.stores[i].used_bytes = 0
            self.stores[i].loading = -1
            self.stores[i].loading_since_ns = 0
        self.loading_count.assign(engine.model_count_max, 0)
        self.retry_at_ns.assign(engine.model_count_max, 0)
        self.absent.reset(engine.model_count_max)
        self.wake_at_ns = NEVER

    # ---- events ----------------------------------------------------------------------------------------------

    cdef int memory_declared(self, int32_t gpu, int64_t budget) noexcept nogil:
        """Manage the memory of a joined GPU that holds no model yet."""
        cdef int32_t model
        if gpu < 0 or gpu >= self.engine.gpu_count_max or not self.engine.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        if self.stores[gpu].budget_bytes < 0:
            self.managed.push_back(gpu)
            sort(self.managed.begin(), self.managed.end())
        self.stores[gpu].budget_bytes = budget
        self.is_active = True
        self.may_fill = True
        for model in range(self.engine.model_count_max):
            self.allow_absence(model)
        return EVENT_OK

    cdef int footprint_declared(self, int32_t model, int32_t kind, int64_t memory, int64_t load) noexcept nogil:
        """Note what a model takes of the memory of GPUs of a kind, and how long loading it takes."""
        cdef size_t i
        cdef int32_t gpu
        if model < 0 or model >= self.engine.model_count_max or not self.engine.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        if kind < 0 or kind >= KIND_COUNT or not self.engine.models[model].profile_mask & (1 << kind):
            return EVENT_OUT_OF_RANGE
        for i in range(self.managed.size()):
            gpu = self.managed[i]
            if self.engine.gpus[gpu].kind == kind and (self.stores[gpu].loading == model or self.engine.resident[model].test(gpu)):
                self.stores[gpu].used_bytes += memory - max(self.footprints[model * KIND_COUNT + kind].memory_bytes, 0)
        self.footprints[model * KIND_COUNT + kind].memory_bytes = memory
        self.footprints[model * KIND_COUNT + kind].load_ns = load
        self.may_fill = True
        self.allow_absence(model)
        return EVENT_OK

    cdef int load_finished(self, uint64_t load_id, int32_t gpu, cbool is_there) noexcept nogil:
        """Take note of the end of a load, well or not; of one that is not expected any more nothing is kept."""
        cdef Store* store
        cdef Footprint* footprint
        cdef int32_t model
        if gpu < 0 or gpu >= self.engine.gpu_count_max:
            return EVENT_UNKNOWN_GPU
        store = &self.stores[gpu]
        if store.loading < 0 or store.load_id != load_id:
            return EVENT_OK
        model = store.loading
        if not is_there:
            self.forget(model, gpu)
            self.retry_at_ns[model] = self.engine.now_ns + RETRY_NS
            self.allow_absence(model)
            self.engine.touch(model)
            return EVENT_OK
        footprint = &self.footprints[model * KIND_COUNT + self.engine.gpus[gpu].kind]
        footprint.load_ns += (self.engine.now_ns - store.loading_since_ns - footprint.load_ns) // 4
        store.loading = -1
        self.loading_count[model] -= 1
        self.held[gpu].push_back(model)
        self.engine.models[model].used_at_ns = self.engine.now_ns
        self.engine.model_placed(model, gpu)
        self.allow_absence(model)
        return EVENT_OK

    cdef int model_placed(self, int32_t model, int32_t gpu) noexcept nogil:
        """Tell the engine of a model that was placed from outside, and count its memory."""
        cdef cbool was_there
        cdef int status
        if gpu < 0 or gpu >= self.engine.gpu_count_max or self.stores[gpu].budget_bytes < 0:
            return self.engine.model_placed(model, gpu)
        if self.stores[gpu].loading == model:
            return self.load_finished(self.stores[gpu].load_id, gpu, True)
        was_there = 0 <= model < self.engine.model_count_max and self.engine.resident[model].test(gpu)
        status = self.engine.model_placed(model, gpu)
        if status == EVENT_OK and not was_there:
            self.stores[gpu].used_bytes += max(
                self.footprints[model * KIND_COUNT + self.engine.gpus[gpu].kind].memory_bytes, 0)
            self.held[gpu].push_back(model)
            self.engine.models[model].used_at_ns = self.engine.now_ns
        return status

    cdef int model_evicted(self, int32_t model, int32_t gpu) noexcept nogil:
        """Tell the engine of a model that leaves or was taken away, and give back its memory."""
        cdef size_t i
        if gpu < 0 or gpu >= self.engine.gpu_count_max or self.stores[gpu].budget_bytes < 0:
            return self.engine.model_evicted(model, gpu)
        if self.stores[gpu].loading == model:
            return self.load_finished(self.stores[gpu].load_id, gpu, False)
        for i in range(self.held[gpu].size()):
            if self.held[gpu][i] == model:
                self.held[gpu].erase(self.held[gpu].begin() + i)
                self.stores[gpu].used_bytes -= max(
                    self.footprints[model * KIND_COUNT + self.engine.gpus[gpu].kind].memory_bytes, 0)
                self.may_fill = True
                break
        return self.engine.model_evicted(model, gpu)

    cdef void forget(self, int32_t model, int32_t gpu) noexcept nogil:
        """Give back the memory that a load had reserved."""
        self.stores[gpu].loading = -1
        self.loading_count[model] -= 1
        self.stores[gpu].used_bytes -= max(
            self.footprints[model * KIND_COUNT + self.engine.gpus[gpu].kind].memory_bytes, 0)

    cdef int model_removed(self, int32_t model) noexcept nogil:
        """Take the model's weights as gone from every GPU; a load of it under way ends with a report all the same."""
        cdef size_t i
        cdef int32_t kind
        if not 0 <= model < self.engine.model_count_max or not self.engine.models[model].exists:
            return EVENT_UNKNOWN_MODEL
        for i in range(self.managed.size()):
            if self.stores[self.managed[i]].loading == model:
                # What the report of a model of this index would mean is another's; the memory is free by then.
                self.forget(model, self.managed[i])
            elif self.engine.resident[model].test(self.managed[i]):
                self.model_evicted(model, self.managed[i])
        self.absent.remove(model)
        self.retry_at_ns[model] = 0
        for kind in range(KIND_COUNT):
            self.footprints[model * KIND_COUNT + kind].memory_bytes = -1
        return self.engine.model_removed(model)

    cdef int gpu_left(self, int32_t gpu) noexcept nogil:
        """Forget the GPU's memory with the GPU."""
        cdef size_t i
        cdef int32_t model
        if not 0 <= gpu < self.engine.gpu_count_max or not self.engine.gpus[gpu].is_joined:
            return EVENT_UNKNOWN_GPU
        if self.stores[gpu].budget_bytes >= 0:
            if self.stores[gpu].loading >= 0:
                self.forget(self.stores[gpu].loading, gpu)
            self.held[gpu].clear()
            self.stores[gpu].budget_bytes = -1
            self.stores[gpu].used_bytes = 0
            for i in range(self.managed.size()):
                if self.managed[i] == gpu:
                    self.managed.erase(self.managed.begin() + i)
                    break
            self.engine.gpu_left(gpu)
            for model in range(self.engine.model_count_max):
                self.allow_absence(model)
            return EVENT_OK
        return self.engine.gpu_left(gpu)

    cdef int gpu_drained(self, int32_t gpu, cbool is_drained) noexcept nogil:
        """Tell the engine; whose only GPU that was is looked for another."""
        cdef int status = self.engine.gpu_drained(gpu, is_drained)
        cdef int32_t model
        if status == EVENT_OK and self.is_active:
            for model in range(self.engine.model_count_max):
                if self.engine.models[model].exists:
                    self.allow_absence(model)
                    if self.engine.models[model].live_count > 0:
                        self.engine.touch(model)
        return status

    cdef void allow_absence(self, int32_t model) noexcept nogil:
        """Tell the engine what a batch of one takes while the model is nowhere: its load, unless that is under way."""
        cdef int64_t alone = NEVER
        cdef int64_t own
        cdef int32_t gpu, kind
        cdef Footprint* footprint
        cdef size_t i
        if not self.engine.models[model].exists:
            return
        for i in range(self.managed.size()):
            gpu = self.managed[i]
            kind = self.engine.gpus[gpu].kind
            footprint = &self.footprints[model * KIND_COUNT + kind]
            if footprint.memory_bytes < 0 or footprint.memory_bytes > self.stores[gpu].budget_bytes:
                continue
            own = self.engine.pairs[model * KIND_COUNT + kind].latency[1]
            if self.stores[gpu].loading != model:
                if self.engine.gpus[gpu].is_drained:
                    continue
                own += footprint.load_ns
            alone = min(alone, own)
        self.engine.absence_allowed(model, alone)

    # ---- the plan --------------------------------------------------------------------------------------------

    cdef void observe(self) noexcept nogil:
        """Note, before the engine runs, which models got requests and are held by no usable GPU."""
        cdef size_t i
        cdef int32_t model
        if not self.is_active:
            return
        for i in range(self.engine.dirty.size()):
            model = self.engine.dirty[i]
            if self.is_homeless(model):
                self.absent.set(model, self.engine.models[model].earliest_ns)

    cdef cbool is_homeless(self, int32_t model) noexcept nogil:
        """Return whether the model has requests, and no usable GPU holds it or will soon."""
        cdef uint8_t kinds = self.engine.models[model].kind_mask
        cdef int32_t kind
        if (not self.engine.models[model].exists or self.engine.models[model].live_count == 0
                or self.loading_count[model] > 0):
            return False
        while kinds != 0:
            kind = first_level(kinds)
            kinds &= kinds - 1
            if self.engine.usable[kind].first_common(self.engine.resident[model]) >= 0:
                return False
        return True

    cdef void plan(self, int64_t now) noexcept nogil:
        """Decide, after the engine ran, which models are loaded now and which leave for them."""
        cdef int32_t model
        cdef size_t i
        cdef cbool is_crowded
        self.decisions.clear()
        self.victims.clear()
        self.has_hurried = False
        self.wake_at_ns = NEVER
        if not self.is_active or not self.has_channel():
            return
        if not self.absent.empty():
            self.choose(now)
            is_crowded = self.chosen.size() < self.order.size()
            for i in range(self.chosen.size()):
                model = self.chosen[i]
                if self.retry_at_ns[model] > now:
                    self.wake_at_ns = min(self.wake_at_ns, self.retry_at_ns[model])
                elif self.place(model, is_crowded, False, now):
                    self.absent.remove(model)
                    if not self.has_channel():
                        return
        if self.seen_epoch != self.engine.epoch:
            self.seen_epoch = self.engine.epoch
            if not self.by_recency:
                self.replicate(now)
        if self.may_fill and self.absent.empty():
            self.fill(now)

    cdef int64_t wakeup(self) noexcept nogil:
        """Return when the next plan could decide something without an event; the least of this and the engine's holds."""
        return self.engine.now_ns if self.has_hurried else self.wake_at_ns

    cdef cbool has_channel(self) noexcept nogil:
        """Return whether some GPU loads nothing now."""
        cdef size_t i
        for i in range(self.managed.size()):
            if self.stores[self.managed[i]].loading < 0 and not self.engine.gpus[self.managed[i]].is_drained:
                return True
        return False

    cdef void choose(self, int64_t now) noexcept nogil:
        """Set `order` to the absent models, most urgent first, and `chosen` to those that loads one after another reach.

        Where not all are reached in time, the one that asks for most of the channel per request is passed over
        (Moore and Hodgson's rule, 1968).
        """
        cdef int32_t model
        cdef double worst_per_request
        cdef size_t i, k, worst
        cdef double spent = 0.0
        self.order.clear()
        self.chosen.clear()
        while not self.absent.empty() and self.order.size() < CONSIDERED_MAX:
            model = <int32_t>self.absent.top()
            self.absent.remove(model)
            if self.is_homeless(model):
                self.order.push_back(model)
        for i in range(self.order.size()):
            model = self.order[i]
            self.absent.set(model, self.engine.models[model].earliest_ns)
            self.chosen.push_back(model)
            if self.by_recency:
                continue
            spent = 0.0
            for k in range(self.chosen.size()):
                spent += self.load_share(self.chosen[k])
            if <double>now + spent <= <double>(self.engine.models[model].earliest_ns
                                              - self.engine.models[model].margin_ns - self.alone_of(model)):
                continue
            worst = 0
            worst_per_request = -1.0
            for k in range(self.chosen.size()):
                if self.per_request(self.chosen[k]) >= worst_per_request:
                    worst_per_request = self.per_request(self.chosen[k])
                    worst = k
            if self.chosen.size() > 1:
                self.chosen.erase(self.chosen.begin() + worst)

    cdef double per_request(self, int32_t model) noexcept nogil:
        """Return how much of the channel the model's load takes for each request that waits for it."""
        return self.load_share(model) / <double>self.engine.models[model].live_count

    cdef double load_share(self, int32_t model) noexcept nogil:
        """Return how long the model's load takes, spread over the GPUs that can load at once."""
        cdef double load = 0.0
        cdef int32_t kind
        for kind in range(KIND_COUNT):
            if self.footprints[model * KIND_COUNT + kind].memory_bytes >= 0:
                load = max(load, <double>self.footprints[model * KIND_COUNT + kind].load_ns)
        return load / <double>self.managed.size()

    cdef int64_t alone_of(self, int32_t model) noexcept nogil:
        """Return the smallest l(1) of the model on GPUs to which it can be loaded."""
        cdef int64_t alone = NEVER // 2
        cdef int32_t kind
        for kind in range(KIND_COUNT):
            if self.footprints[model * KIND_COUNT + kind].memory_bytes >= 0:
                alone = min(alone, self.engine.pairs[model * KIND_COUNT + kind].latency[1])
        return alone

    cdef cbool place(self, int32_t model, cbool is_crowded, cbool is_replica, int64_t now) noexcept nogil:
        """Load the model where least is lost by it; False where nothing can leave for it yet."""
        cdef int32_t gpu, kind, v
        cdef int32_t best_gpu = -1
        cdef cbool is_full, best_is_full = True
        cdef double loss, work
        cdef double best_loss = 0.0
        cdef double best_work = 0.0
        cdef double gain = self.engine.models[model].long_rate + <double>self.engine.models[model].live_count
        cdef int32_t hurried = -1
        cdef int64_t memory
        cdef size_t i, k
        for i in range(self.managed.size()):
            gpu = self.managed[i]
            kind = self.engine.gpus[gpu].kind
            memory = self.footprints[model * KIND_COUNT + kind].memory_bytes
            if (self.stores[gpu].loading >= 0 or self.engine.gpus[gpu].is_drained or memory < 0
                    or memory > self.stores[gpu].budget_bytes or self.engine.resident[model].test(gpu)):
                continue
            work = self.assigned(gpu)
            is_full = work > CROWDED_GPUS
            if is_replica and is_full:
                continue
            if not self.gather_victims(gpu, memory - (self.stores[gpu].budget_bytes - self.stores[gpu].used_bytes)):
                for k in range(self.held[gpu].size()):
                    v = self.held[gpu][k]
                    if not self.is_busy(v, gpu) and (hurried < 0 or self.goes_before(v, hurried)):
                        hurried = v
                continue
            loss = 0.0
            for k in range(self.spare.size()):
                loss += self.engine.models[self.spare[k]].long_rate
            if not self.by_recency and loss > (gain / 2.0 if is_replica else gain) and (is_crowded or is_replica):
                continue
            if (best_gpu < 0 or (not is_full and best_is_full)
                    or (is_full == best_is_full and (loss < best_loss or (loss == best_loss and is_full and work < best_work)))):
                best_gpu = gpu
                best_is_full = is_full
                best_loss = loss
                best_work = work
                self.best.swap(self.spare)
        if best_gpu >= 0:
            self.start(model, best_gpu, now)
            return True
        if hurried >= 0 and not is_replica and not self.by_recency:
            self.hurry(hurried)
        return False

    cdef cbool gather_victims(self, int32_t gpu, int64_t need) noexcept nogil:
        """Set `spare` to the models whose leaving frees so many bytes of a GPU; False if too few can leave."""
        cdef int32_t kind = self.engine.gpus[gpu].kind
        cdef int32_t model, next_one
        cdef size_t i, k
        cdef cbool is_taken
        self.spare.clear()
        while need > 0:
            next_one = -1
            for i in range(self.held[gpu].size()):
                model = self.held[gpu][i]
                if self.footprints[model * KIND_COUNT + kind].memory_bytes < 0 or self.is_busy(model, gpu) \
                        or self.is_needed(model, gpu):
                    continue
                is_taken = False
                for k in range(self.spare.size()):
                    is_taken = is_taken or self.spare[k] == model
                if not is_taken and (next_one < 0 or self.goes_before(model, next_one)):
                    next_one = model
            if next_one < 0 or self.spare.size() == VICTIM_COUNT_MAX:
                return False
            self.spare.push_back(next_one)
            need -= self.footprints[next_one * KIND_COUNT + kind].memory_bytes
        return True

    cdef cbool goes_before(self, int32_t one, int32_t other) noexcept nogil:
        """Return whether the one leaves before the other: asked for less, then longer ago."""
        cdef Model* a = &self.engine.models[one]
        cdef Model* b = &self.engine.models[other]
        if not self.by_recency and a.long_rate != b.long_rate:
            return a.long_rate < b.long_rate
        if a.used_at_ns != b.used_at_ns:
            return a.used_at_ns < b.used_at_ns
        return one < other

    cdef cbool is_busy(self, int32_t model, int32_t gpu) noexcept nogil:
        """Return whether a batch of the model is in flight there."""
        cdef Gpu* g = &self.engine.gpus[gpu]
        cdef int32_t i
        for i in range(g.flight_count):
            if g.flights[i].model == model:
                return True
        return False

    cdef cbool is_needed(self, int32_t model, int32_t gpu) noexcept nogil:
        """Return whether the model has requests that no other usable GPU could run."""
        cdef int32_t other
        cdef size_t i
        if self.engine.models[model].live_count == 0:
            return False
        for i in range(self.managed.size()):
            other = self.managed[i]
            if other != gpu and self.engine.resident[model].test(other) and not self.engine.gpus[other].is_drained:
                return False
        return True

    cdef double demand(self, int32_t model) noexcept nogil:
        """Return how many GPUs' time the model's arrivals ask for."""
        return self.engine.models[model].share * self.engine.gpus_asked

    cdef double assigned(self, int32_t gpu) noexcept nogil:
        """Return how much of the GPU's time the models there ask for, each spread over the GPUs that hold it."""
        cdef double work = 0.0
        cdef int32_t model, kind, homes
        cdef uint8_t kinds
        cdef size_t i
        for i in range(self.held[gpu].size()):
            model = self.held[gpu][i]
            kinds = self.engine.models[model].kind_mask
            homes = 0
            while kinds != 0:
                kind = first_level(kinds)
                kinds &= kinds - 1
                homes += self.engine.pairs[model * KIND_COUNT + kind].resident_count
            if homes > 0:
                work += self.demand(model) / <double>homes
        return work

    cdef void start(self, int32_t model, int32_t gpu, int64_t now) noexcept nogil:
        """Decide the load, evicting `best`."""
        cdef LoadDecision decision
        cdef Store* store = &self.stores[gpu]
        cdef Footprint* footprint = &self.footprints[model * KIND_COUNT + self.engine.gpus[gpu].kind]
        cdef size_t i
        self.load_count += 1
        decision.load_id = store.load_id = self.load_count
        decision.gpu = gpu
        decision.model = model
        decision.first = <uint32_t>self.victims.size()
        decision.count = <uint32_t>self.best.size()
        decision.finish_at_ns = now + self.engine.control_ns + footprint.load_ns
        for i in range(self.best.size()):
            self.victims.push_back(self.best[i])
            self.model_evicted(self.best[i], gpu)
        store.used_bytes += footprint.memory_bytes
        store.loading = model
        store.loading_since_ns = now + self.engine.control_ns
        self.loading_count[model] += 1
        self.decisions.push_back(decision)
        self.allow_absence(model)

    cdef void hurry(self, int32_t model) noexcept nogil:
        """Let a batch go early whose model holds the memory that another waits for."""
        if not self.engine.models[model].is_hurried and self.engine.models[model].live_count > 0:
            self.engine.model_hurried(model)
            self.has_hurried = True

    cdef void replicate(self, int64_t now) noexcept nogil:
        """Load the model that loses most requests onto one GPU more, if any has time to spare.

        Or onto the first: its requests cannot wait for a load, but those to come need not.
        """
        cdef int32_t model
        cdef int32_t worst = -1
        for model in range(self.engine.model_count_max):
            if (self.engine.models[model].exists and self.engine.models[model].is_neglected
                    and self.loading_count[model] == 0
                    and self.retry_at_ns[model] <= now
                    and (worst < 0 or self.engine.models[model].drop_rate > self.engine.models[worst].drop_rate)):
                worst = model
        if worst >= 0:
            self.place(worst, True, self.engine.models[worst].kind_mask != 0, now)

    cdef void fill(self, int64_t now) noexcept nogil:
        """Load, where memory is free, models that no GPU holds, before anybody asks for them."""
        cdef int32_t model, gpu, kind
        cdef int64_t memory
        cdef size_t i
        self.may_fill = False
        for model in range(self.engine.model_count_max):
            if (not self.engine.models[model].exists or self.engine.models[model].kind_mask != 0
                    or self.loading_count[model] > 0 or self.retry_at_ns[model] > now):
                continue
            for i in range(self.managed.size()):
                gpu = self.managed[i]
                kind = self.engine.gpus[gpu].kind
                memory = self.footprints[model * KIND_COUNT + kind].memory_bytes
                if memory < 0 or self.engine.gpus[gpu].is_drained:
                    continue
                if memory <= self.stores[gpu].budget_bytes - self.stores[gpu].used_bytes:
                    # One more may fit when this one, or the load under way, is there.
                    self.may_fill = True
                    if self.stores[gpu].loading < 0:
                        self.best.clear()
                        self.start(model, gpu, now)
                        break
