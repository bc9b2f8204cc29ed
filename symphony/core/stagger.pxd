# Staggered execution (paper, section 3): N GPUs run batches of b one after another, shifted by l(b) / N, so a
# request waits at most l(b) / N for its batch to start and l(b) for it to end.

from libc.math cimport ceil, floor
from libc.stdint cimport INT32_MAX, int32_t, int64_t
from libcpp cimport bool as cbool


# The largest b in 1..batch_size_max with l(b) + l(b) / gpus <= budget, times `share`, at least 1.
cdef inline int32_t staggered_batch_size(const int64_t* latency, int32_t batch_size_max, double gpus, double budget_ns,
                                         double share) noexcept nogil:
    cdef int32_t low = 0
    cdef int32_t high = batch_size_max
    cdef int32_t middle
    cdef double duration
    cdef int32_t size
    if gpus <= 0.0:
        return 1
    while low < high:
        middle = low + (high - low + 1) // 2
        duration = <double>latency[middle]
        if duration + duration / gpus <= budget_ns:
            low = middle
        else:
            high = middle - 1
    size = <int32_t>floor(<double>low * share)
    return size if size > 1 else 1


# The batch that a model with less than one GPU's demand gets: it waits for company until its last call wherever a GPU is free then,
# so it is the largest b up to `size_max` that `rate` (per nanosecond) brings together within what l(b) leaves of the budget.
cdef inline int32_t gathered_batch_size(const int64_t* latency, int32_t size_max, double rate, double budget_ns) noexcept nogil:
    cdef int32_t low = 1
    cdef int32_t high = size_max
    cdef int32_t middle
    while low < high:
        middle = low + (high - low + 1) // 2
        if <double>(middle - 1) <= rate * (budget_ns - <double>latency[middle]):
            low = middle
        else:
            high = middle - 1
    return low


# How many GPUs the load asks for: what its arrivals need at their target batch sizes, and half a GPU for what fluctuates.
cdef inline int32_t active_set_size(double gpus_asked, int32_t gpus_usable) noexcept nogil:
    cdef double size = ceil(gpus_asked + 0.5)
    return <int32_t>size if size < <double>gpus_usable else gpus_usable


# Whether it is bursts that cost requests, and not the load: some are dropped though the GPUs could carry what arrivals ask for on
# average. Then a GPU that waits for a fuller batch is one that the next burst will miss. Where the GPUs are busy all the same, it is
# small batches that use them up, and what is lost wants larger ones.
cdef inline cbool has_bursts(double drop_rate, double arrival_rate, double gpus_asked, double gpus_busy, double gpus) noexcept nogil:
    return drop_rate > 0.001 * arrival_rate and gpus_asked < 0.85 * gpus and gpus_busy < 0.9 * gpus


# Whether a model loses too many of its requests: where SLOs are unlike, GPUs held by long batches cost the short ones.
cdef inline cbool is_neglected(double drop_rate, double rate) noexcept nogil:
    return drop_rate > 0.01 * rate


# Whether it loses twice as many as all do: where its bursts are its own, shedding for the pool's sake costs it alone.
cdef inline cbool loses_more(double drop_rate, double rate, double drop_rate_of_all, double rate_of_all) noexcept nogil:
    return drop_rate * rate_of_all > 2.0 * drop_rate_of_all * rate


# The batch worth waiting for: the target; but where batches gain less than a tenth over single requests, the smallest that is nearly
# as efficient.
cdef inline int32_t worthwhile_batch_size(const int64_t* latency, int32_t target) noexcept nogil:
    cdef int32_t size = 1
    if <double>latency[target] < 0.9 * <double>target * <double>latency[1]:
        return target
    while <double>size * <double>latency[target] < 0.97 * <double>target * <double>latency[size]:
        size += 1
    return size


# From this size on a batch starts as soon as a GPU of the active set is free instead of waiting for frontrun. Waiting lets
# a batch grow at the price of an idle GPU. With demand for `gpus` = 4 or more the staggered batch is worth waiting for,
# and only a full pool lets one of the target's size go; with less there is little to stagger with, windows collide, and
# the less demand the smaller a batch pays for the GPU's time.
cdef inline int32_t early_batch_size(const int64_t* latency, int32_t target, double gpus, cbool is_full) noexcept nogil:
    cdef double share = gpus / 4
    if share >= 1.0:
        return worthwhile_batch_size(latency, target) if is_full else INT32_MAX
    return max(1, <int32_t>ceil(share * <double>target))


# Whether a batch of b is too small to be worth its GPU's time: if all batches were as inefficient, the GPUs could not carry
# what arrivals ask for. `gpus_asked` is at the target batch size t.
cdef inline cbool is_wasteful(int32_t b, int32_t t, const int64_t* latency, double gpus_asked, double gpus) noexcept nogil:
    return <double>b * <double>latency[t] * gpus < gpus_asked * <double>t * <double>latency[b]
