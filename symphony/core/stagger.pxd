# Staggered execution (paper, section 3): N GPUs run batches of b one after another, shifted by l(b) / N, so a
# request waits at most l(b) / N for its batch to start and l(b) for it to end.

from libc.stdint cimport int32_t, int64_t
from libc.math cimport ceil, floor


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


# From this size on a batch starts as soon as a GPU is free instead of waiting for frontrun. Waiting lets a batch grow at
# the price of an idle GPU. With two GPUs' worth of demand or more the staggered batch is worth waiting for; with one GPU or
# less there is nothing to stagger with, and a batch of 0.6 of the target already pays for the GPU's time.
cdef inline int32_t early_batch_size(int32_t target, double gpus) noexcept nogil:
    cdef double share = 0.2 + 0.4 * gpus
    if share > 1.0:
        share = 1.0
    if share < 0.6:
        share = 0.6
    return <int32_t>ceil(share * <double>target)


# How hard to shed, as a share of the target batch size, from the GPUs' time that arrivals ask for. While the load can be carried,
# a queue that is too long is a burst: it passes, and requests dropped for larger batches are lost for nothing. Beyond
# what can be carried, every small batch costs more requests later than are shed now.
cdef inline double shedding_ease(double gpus_asked, double gpus_usable) noexcept nogil:
    cdef double pressure
    if gpus_usable <= 0.0:
        return 0.6
    pressure = gpus_asked / gpus_usable
    if pressure <= 0.9:
        return 0.6
    if pressure >= 1.05:
        return 1.0
    return 0.6 + 0.4 * ((pressure - 0.9) / 0.15)
