// Requests of one model and priority in (deadline, arrival) order.
//
// Arrivals in deadline order, the usual case of one objective per model, go to the end of a list of chunks in O(1); the
// others go to a heap beside it in O(log n), and the front is the earlier of the two fronts. A request that leaves from
// the middle becomes a tombstone: its slot tells which entries still count (equal sequences), tombstones are skipped at
// the front and swept when they outnumber the living.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "symphony/entry_pool.h"

namespace symphony {

// What queues ask of a slot: the sequence of the live request in it, 0 when there is none; `queue` is its owner's.
struct RequestSlot {
  std::uint32_t sequence;
  std::int32_t queue;
};

class alignas(64) DeadlineQueue {
 public:
  using Entry = QueueEntry;

  // Before anything else. The pool must outlive the queue, and takes its chunks along when it goes.
  void reset(EntryPool* pool) { pool_ = pool; }

  std::size_t live_count() const { return live_count_; }
  bool empty() const { return live_count_ == 0; }

  // The earliest live request; the queue must not be empty.
  const Entry& front() const {
    assert(live_count_ > 0);
    if (heap_.empty()) return *head_;
    if (head_ == nullptr || is_later(*head_, heap_.front())) return heap_.front();
    return *head_;
  }

  // Sequences must grow from push to push, and may wrap around: those inside differ by less than 2^31.
  void push(std::int64_t deadline, std::uint32_t sequence, std::uint32_t slot) {
    ++live_count_;
    if (head_ != nullptr && deadline < last_deadline_) {
      heap_.push_back({deadline, sequence, slot});
      std::push_heap(heap_.begin(), heap_.end(), is_later);
      return;
    }
    last_deadline_ = deadline;
    append({deadline, sequence, slot});
  }

  // Fetch what a push will write.
  void prefetch_tail() const { __builtin_prefetch(tail_, 1); }

  // Take the earliest live request out. The caller marks its slot dead before or after; only settle() reads it.
  std::uint32_t pop(const RequestSlot* slots) {
    const Entry entry = front();
    if (!heap_.empty() && heap_.front().sequence == entry.sequence) {
      pop_heap();
    } else {
      advance();
    }
    --live_count_;
    settle(slots);
    return entry.slot;
  }

  // Take the `count` earliest live requests out, mark their slots dead and write them to `out`.
  void take(std::size_t count, RequestSlot* slots, std::uint32_t* out) {
    assert(count <= live_count_);
    const Entry* ahead = head_;
    if (head_ != nullptr) EntryPool::prefetch(EntryPool::chunk_of(head_)->next);
    std::size_t fetched = 0;
    std::size_t passed = 0;
    for (std::size_t taken = 0; taken < count;) {
      if (!heap_.empty()) {
        out[taken] = pop(slots);
        slots[out[taken++]].sequence = 0;
        ahead = head_;
        fetched = passed = 0;
        continue;
      }
      // Slots lie anywhere, so the next ones are fetched ahead.
      for (; ahead != nullptr && fetched < passed + kFetchAhead; ++fetched) {
        __builtin_prefetch(&slots[ahead->slot], 1);
        ahead = next_of(ahead);
      }
      const Entry entry = *head_;
      advance();
      ++passed;
      if (is_dead(slots, entry)) continue;
      slots[entry.slot].sequence = 0;
      out[taken++] = entry.slot;
      --live_count_;
    }
    settle(slots);
  }

  // One live request, already marked dead in its slot, left from anywhere.
  void cancelled(const RequestSlot* slots) {
    --live_count_;
    if (entry_count_ + heap_.size() > 2 * live_count_ + 64) sweep(slots);
    settle(slots);
  }

 private:
  static constexpr std::size_t kFetchAhead = 32;

  static bool is_later(const Entry& a, const Entry& b) {
    return a.deadline > b.deadline ||
           (a.deadline == b.deadline && static_cast<std::int32_t>(a.sequence - b.sequence) > 0);
  }

  // The entry after this one, null if it is the last.
  const Entry* next_of(const Entry* entry) const {
    const EntryPool::Chunk* const chunk = EntryPool::chunk_of(entry);
    ++entry;
    if (entry == tail_) return nullptr;
    if (!EntryPool::is_end(entry)) return entry;
    EntryPool::prefetch(chunk->next->next);
    return chunk->next->entries;
  }

  // The list is null when empty; else head_ is its first entry and tail_ behind its last, maybe at its chunk's end.
  void append(const Entry& entry) {
    if (head_ == nullptr) {
      head_ = tail_ = pool_->take()->entries;
    } else if (EntryPool::is_end(tail_)) {
      EntryPool::Chunk* const chunk = pool_->take();
      EntryPool::chunk_of(tail_)->next = chunk;
      tail_ = chunk->entries;
    }
    *tail_++ = entry;
    ++entry_count_;
  }

  void advance() {
    --entry_count_;
    EntryPool::Chunk* const chunk = EntryPool::chunk_of(head_);
    ++head_;
    if (head_ == tail_) {
      head_ = tail_ = nullptr;
      pool_->give(chunk);
    } else if (EntryPool::is_end(head_)) {
      head_ = chunk->next->entries;
      pool_->give(chunk);
    }
  }

  static bool is_dead(const RequestSlot* slots, const Entry& entry) {
    return slots[entry.slot].sequence != entry.sequence;
  }

  void settle(const RequestSlot* slots) {
    while (head_ != nullptr && is_dead(slots, *head_)) advance();
    while (!heap_.empty() && is_dead(slots, heap_.front())) pop_heap();
  }

  void sweep(const RequestSlot* slots) {
    for (std::uint32_t left = entry_count_; left > 0; --left) {
      const Entry entry = *head_;
      advance();
      if (!is_dead(slots, entry)) append(entry);
    }
    heap_.erase(
        std::remove_if(heap_.begin(), heap_.end(), [slots](const Entry& entry) { return is_dead(slots, entry); }),
        heap_.end());
    std::make_heap(heap_.begin(), heap_.end(), is_later);
  }

  void pop_heap() {
    std::pop_heap(heap_.begin(), heap_.end(), is_later);
    heap_.pop_back();
  }

  EntryPool* pool_ = nullptr;
  Entry* head_ = nullptr;
  Entry* tail_ = nullptr;
  std::int64_t last_deadline_ = 0;  // of the entry appended last
  std::vector<Entry> heap_;
  std::uint32_t live_count_ = 0;
  std::uint32_t entry_count_ = 0;  // of the list, tombstones included
};
static_assert(sizeof(DeadlineQueue) == 64, "one cache line");

}  // namespace symphony
