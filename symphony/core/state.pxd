# The scheduler's data and the questions asked of it. Layers: State < Demand < Windows < Engine;
# only Engine decides, but for a request that is hopeless on arrival.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

from symphony.core.containers cimport Bitmap, DeadlineQueue, EntryPool, HugeAllocator, IndexedHeap, RequestSlot

cdef enum:
    KIND_COUNT = 8            # kinds of GPU; a (model, kind) pair is numbered model * 8 + kind
    LEVEL_COUNT = 8           # priority levels 1..8; a (model, level) pair is numbered model * 8 + level - 1

cdef enum Policy:
    POLICY_DEFERRED = 0
    POLICY_EAGER = 1
    POLICY_TIMEOUT = 2

cdef enum DecisionKind:
    DECISION_DISPATCH = 0
    DECISION_DROP = 1

cdef enum DropReason:
    DROP_WOULD_MISS = 0
    DROP_EXPIRED = 1
    DROP_NO_GPU = 2
    DROP_NOT_READY = 3

# What an event method answers: 0 or the caller's mistake. A refused event changes nothing.
cdef enum EventStatus:
    EVENT_OK = 0
    EVENT_UNKNOWN_MODEL = 1
    EVENT_UNKNOWN_GPU = 2
    EVENT_ID_OUT_OF_RANGE = 3
    EVENT_ID_IN_USE = 4
    EVENT_BAD_PRIORITY = 5
    EVENT_MODEL_EXISTS = 6
    EVENT_GPU_EXISTS = 7
    EVENT_NO_PROFILE = 8
    EVENT_OUT_OF_RANGE = 9

cdef struct Arrival:
    int64_t deadline
    uint32_t slot
    int32_t model
    int32_t priority

cdef struct NativeDecision:
    int32_t kind              # DecisionKind
    int32_t reason            # DropReason of a drop
    int32_t gpu
    int32_t model
    uint64_t plan_id
    uint32_t first            # of the dispatch's ids in Engine.ids
    uint32_t count
    int64_t start_at_ns
    int64_t finish_at_ns

# The first 64 bytes are what an arrival and the placing of a candidate touch.
cdef struct Model:
    cbool exists
    uint8_t level_mask        # priority levels with live requests
    uint8_t kind_mask         # kinds on which it is resident
    uint8_t profile_mask      # kinds with a latency table
    int32_t batch_size_max
    uint32_t live_count
    uint32_t quiet_count      # least `quiet` of its pairs
    int64_t earliest_ns       # earliest deadline of its live requests
    double arrival_count      # in the current epoch
    double rate               # per epoch, halved each epoch
    double drop_count         # of these, dropped because of time
    double drop_rate
    cbool is_neglected        # too many are
    int64_t margin_ns
    int64_t alone_ns          # smallest l(1) over resident kinds; `absent_ns` where it is resident nowhere; NEVER: no GPU
    int64_t absent_ns         # what to allow for a batch of one while it is resident nowhere; NEVER: then it has no GPU
    int64_t slo_ns
    int64_t delay_ns          # timeout policy
    int32_t preferred         # timeout policy: a batch of this size goes at once
    double share              # of the GPUs' time that its arrivals ask for
    double long_rate          # per epoch, over a hundred epochs or so: how popular it is
    int64_t used_at_ns        # when a batch of it was dispatched last
    cbool is_hurried          # its candidate need not wait, until it is dispatched

# A model on a kind of GPU.
cdef struct Pair:
    const int64_t* latency    # l(b) at [b], [0] unused; NULL without profile
    int32_t target            # batch size
    int32_t work_size         # the batch by which the model's demand is measured
    int32_t early_size        # a batch of this size need not wait for frontrun
    int32_t resident_count    # joined GPUs of the kind that hold the model
    uint32_t quiet            # live count up to which the keys of its candidate are lower bounds, if no deadline is before
                              # earliest_ns; 0 when it has none
    uint64_t aside_step       # the last step in which it was set aside

cdef struct Flight:
    uint64_t plan_id
    int32_t model
    int64_t start_ns          # planned, then measured
    int64_t duration_ns

cdef struct Gpu:
    cbool is_joined
    cbool is_drained
    cbool is_in_use           # counted in in_use_count: not drained, with a batch in flight
    int32_t kind
    int32_t flight_count      # 0 idle, 1 running, 2 running and one handed over ahead
    Flight[2] flights         # the running one first
    int64_t free_at_ns        # predicted end of all it holds

cdef extern from *:
    int count_trailing_zeros "__builtin_ctz"(unsigned int word) noexcept nogil
    void prefetch "__builtin_prefetch"(const void* address, int is_write) noexcept nogil


# The lowest set bit's number: the first kind or level of a mask, which must not be 0.
cdef inline int32_t first_level(uint8_t mask) noexcept nogil:
    return <int32_t>count_trailing_zeros(mask)


# The largest b in low..high with latency[b] <= room; low, if not even that of low + 1 is. latency[0] is 0 whatever the room.
cdef inline int32_t largest_within(const int64_t* latency, int32_t low, int32_t high, int64_t room) noexcept nogil:
    cdef int32_t middle
    if low == high or latency[high] <= room:
        return high
    high -= 1
    while low < high:
        middle = low + (high - low + 1) // 2
        if latency[middle] <= room:
            low = middle
        else:
            high = middle - 1
    return low


cdef class State:
    # constants
    cdef Policy policy
    cdef cbool shed
    cdef cbool early
    cdef double target_share
    cdef int64_t control_ns
    cdef int64_t lead_ns
    cdef int64_t window_ns
    cdef int64_t epoch_ns
    cdef uint32_t request_count_max
    cdef int32_t model_count_max
    cdef int32_t gpu_count_max

    # requests, by slot (the caller's id)
    cdef vector[RequestSlot, HugeAllocator[RequestSlot]] slots      # `queue` is model * 8 + level - 1
    cdef vector[int64_t] slot_arrived   # now at arrival; timeout policy only
    cdef uint32_t sequence              # of the last arrival; wraps around, never 0

    # models and their queues
    cdef vector[Model] models
    cdef EntryPool chunks                       # what the queues are made of
    cdef vector[DeadlineQueue] queues           # by (model, level)
    cdef vector[Pair] pairs                     # by (model, kind)
    cdef vector[vector[int64_t]] tables         # by (model, kind): what `latency` points to
    cdef vector[Bitmap] resident                # by model: GPUs that hold it
    cdef int32_t model_count
    cdef uint32_t queued
    cdef vector[int32_t] dirty                  # models whose candidates must be placed anew
    cdef vector[uint8_t] is_dirty

    # GPUs
    cdef vector[Gpu] gpus
    cdef vector[Bitmap] usable                  # by kind: joined and not drained
    cdef vector[Bitmap] available               # by kind: idle or ahead
    cdef vector[Bitmap] idle                    # by kind
    cdef vector[Bitmap] ahead                   # by kind: running one batch, and near its end
    cdef uint8_t kinds_seen
    cdef int32_t usable_count                   # joined and not drained
    cdef int32_t in_use_count                   # of these, with a batch in flight
    cdef double in_use_ns                       # in_use_count added up over the time since in_use_since_ns
    cdef int64_t in_use_since_ns                # when demand was measured last
    cdef int64_t in_use_at_ns                   # up to when in_use_ns is counted
    cdef double busy_gpus                       # in_use_count on average, over ten epochs or so
    cdef uint64_t plan_count

    # what comes when
    cdef IndexedHeap waiting                    # (model, kind) by the instant at which its candidate may start elsewhere
    cdef vector[IndexedHeap] confined           # by kind: model by urgency, may start on the active set only
    cdef vector[IndexedHeap] schedulable        # by kind: model by urgency, may start on any GPU
    cdef IndexedHeap hopeless                   # model by the first instant a request of it is hopeless
    cdef IndexedHeap gpu_turns                  # GPU by the instant its availability changes by itself
    cdef vector[int32_t] aside                  # (model, kind) set aside in this step
    cdef vector[int32_t] held_back              # (model, kind) that has no GPU, or waits for a faster one, until a dispatch
    cdef uint64_t step_count
    cdef cbool is_settled                       # no candidate was set aside before the step's last decision

    # demand shares
    cdef int64_t epoch
    cdef cbool has_epoch
    cdef cbool targets_dirty
    cdef readonly double gpus_asked             # GPUs' time that arrivals ask for at their target batch sizes
    cdef double kind_speed[KIND_COUNT]          # of a GPU, where the demand is on average 1
    cdef int32_t active_count                   # GPUs that the load asks for: the size of the active set
    cdef cbool is_full                          # the active set is the whole pool, as candidates were placed last
    cdef double arrival_count                   # of all models, in the current epoch
    cdef double arrival_rate                    # per epoch, halved each epoch
    cdef int64_t measured_since_ns              # since when demand is measured
    cdef double drop_count                      # of what arrived since, dropped because of time
    cdef double drop_rate
    cdef cbool has_neglected                    # some model is
    cdef cbool is_bursty                        # requests are dropped though the load asks for less than there is

    cdef readonly int64_t now_ns
    cdef vector[NativeDecision] decisions
    cdef vector[uint32_t] ids

    cdef int request_arrived(self, uint32_t slot, int32_t model, int64_t deadline, int32_t priority) noexcept nogil
    cdef int requests_arrived(self, const Arrival* arrivals, size_t count) noexcept nogil
    cdef void fetch_ahead(self, const Arrival& arrival) noexcept nogil
    cdef void fetch_nearer(self, const Arrival& arrival) noexcept nogil
    cdef int request_cancelled(self, uint32_t slot) noexcept nogil
    cdef uint32_t take(self, int32_t model, int32_t level) noexcept nogil
    cdef void left(self, int32_t model, int32_t level, uint32_t count) noexcept nogil
    cdef int32_t take_many(self, int32_t model, int32_t level, int32_t count) noexcept nogil
    cdef void drop(self, int32_t model, uint32_t slot, DropReason reason) noexcept nogil
    cdef void touch(self, int32_t model) noexcept nogil
    cdef int32_t fit(self, int32_t model, int32_t kind, int64_t start) noexcept nogil
    cdef int64_t due(self, int32_t model, int32_t count) noexcept nogil
    cdef uint32_t head_slot(self, int32_t model) noexcept nogil
    cdef int gpu_joined(self, int32_t gpu, int32_t kind) noexcept nogil
    cdef int gpu_drained(self, int32_t gpu, cbool is_drained) noexcept nogil
    cdef int batch_started(self, uint64_t plan_id, int32_t gpu, int64_t started) noexcept nogil
    cdef int batch_finished(self, uint64_t plan_id, int32_t gpu, int64_t finished) noexcept nogil
    cdef void count_in_use(self) noexcept nogil
    cdef void gpu_turned(self, int32_t gpu) noexcept nogil
