# Declares the C++ containers of csrc/ that the core builds on. See each header for its invariants.

from libc.stdint cimport int32_t, int64_t, uint32_t
from libcpp cimport bool as cbool


cdef extern from "symphony/indexed_heap.h" namespace "symphony" nogil:
    cppclass IndexedHeap:
        void reset(size_t capacity)
        cbool empty()
        cbool contains(uint32_t item)
        uint32_t top()
        int64_t top_key()
        int64_t key_of(uint32_t item)
        void set(uint32_t item, int64_t key)
        void remove(uint32_t item)


cdef extern from "symphony/bitmap.h" namespace "symphony" nogil:
    cppclass Bitmap:
        void reset(size_t capacity)
        cbool test(uint32_t item)
        cbool empty()
        void set(uint32_t item)
        void clear(uint32_t item)
        int32_t first()
        int32_t first_common(const Bitmap& other)


cdef extern from "symphony/huge_pages.h" namespace "symphony" nogil:
    cppclass HugeAllocator[T]:
        pass


cdef extern from "symphony/entry_pool.h" namespace "symphony" nogil:
    cppclass EntryPool:
        pass


cdef extern from "symphony/deadline_queue.h" namespace "symphony" nogil:
    cppclass QueueEntry:
        int64_t deadline
        uint32_t sequence
        uint32_t slot

    cppclass RequestSlot:
        uint32_t sequence
        int32_t queue

    cppclass DeadlineQueue:
        void reset(EntryPool* pool)
        size_t live_count()
        cbool empty()
        const QueueEntry& front()
        void push(int64_t deadline, uint32_t sequence, uint32_t slot)
        void prefetch_tail()
        uint32_t pop(const RequestSlot* slots)
        void take(size_t count, RequestSlot* slots, uint32_t* out)
        void cancelled(const RequestSlot* slots)
