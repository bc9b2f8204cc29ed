// Requests of one model and priority in (deadline, arrival) order.
//
// Arrivals in deadline order, the usual case of one objective per model, go to the end of a ring in O(1); the others
// go to a heap beside it in O(log n), and the front is the earlier of the two fronts. A request that leaves from the
// middle becomes a tombstone: `live` tells which entries still count (live[slot] == the entry's sequence), tombstones
// are skipped at the front and swept when they outnumber the living.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace symphony {

class DeadlineQueue {
 public:
  struct Entry {
    std::int64_t deadline;
    std::uint64_t sequence;
    std::uint32_t slot;
    bool operator>(const Entry& other) const {
      return deadline > other.deadline || (deadline == other.deadline && sequence > other.sequence);
    }
  };

  std::size_t live_count() const { return live_count_; }
  bool empty() const { return live_count_ == 0; }

  // The earliest live request; the queue must not be empty.
  const Entry& front() const {
    assert(live_count_ > 0);
    if (heap_.empty()) return ring_[head_ & mask_];
    if (head_ == tail_) return heap_.front();
    return ring_[head_ & mask_] > heap_.front() ? heap_.front() : ring_[head_ & mask_];
  }

  // Sequences must grow from push to push.
  void push(std::int64_t deadline, std::uint64_t sequence, std::uint32_t slot) {
    ++live_count_;
    if (head_ == tail_ || ring_[(tail_ - 1) & mask_].deadline <= deadline) {
      if (tail_ - head_ == ring_.size()) grow();
      ring_[tail_++ & mask_] = {deadline, sequence, slot};
    } else {
      heap_.push_back({deadline, sequence, slot});
      std::push_heap(heap_.begin(), heap_.end(), std::greater<Entry>());
    }
  }

  // Take the earliest live request out. The caller marks it dead in `live` before or after; only settle() reads it.
  std::uint32_t pop(const std::uint64_t* live) {
    const Entry entry = front();
    if (!heap_.empty() && heap_.front().sequence == entry.sequence) {
      pop_heap();
    } else {
      ++head_;
    }
    --live_count_;
    settle(live);
    return entry.slot;
  }

  // Take the `count` earliest live requests out, mark them dead in `live` and write their slots.
  void take(std::size_t count, std::uint64_t* live, std::uint32_t* slots) {
    assert(count <= live_count_);
    std::size_t taken = 0;
    while (taken < count) {
      if (!heap_.empty()) {
        const std::uint32_t slot = front().slot;
        slots[taken++] = slot;
        live[slot] = 0;
        pop(live);
        continue;
      }
      // Slots lie anywhere, so the next ones are fetched ahead.
      if (head_ + kFetchAhead < tail_) __builtin_prefetch(&live[ring_[(head_ + kFetchAhead) & mask_].slot], 1);
      const Entry& entry = ring_[head_++ & mask_];
      if (live[entry.slot] != entry.sequence) continue;
      slots[taken++] = entry.slot;
      live[entry.slot] = 0;
      --live_count_;
    }
    settle(live);
  }

  // One live request, already marked dead in `live`, left from anywhere.
  void cancelled(const std::uint64_t* live) {
    --live_count_;
    const std::size_t entries = (tail_ - head_) + heap_.size();
    if (entries > 2 * live_count_ + 64) sweep(live);
    settle(live);
  }

 private:
  static constexpr std::size_t kFetchAhead = 8;

  void settle(const std::uint64_t* live) {
    while (head_ != tail_ && live[ring_[head_ & mask_].slot] != ring_[head_ & mask_].sequence) ++head_;
    while (!heap_.empty() && live[heap_.front().slot] != heap_.front().sequence) pop_heap();
  }

  void sweep(const std::uint64_t* live) {
    std::size_t kept = head_;
    for (std::size_t at = head_; at != tail_; ++at) {
      const Entry entry = ring_[at & mask_];
      if (live[entry.slot] == entry.sequence) ring_[kept++ & mask_] = entry;
    }
    tail_ = kept;
    heap_.erase(std::remove_if(heap_.begin(), heap_.end(),
                               [live](const Entry& entry) { return live[entry.slot] != entry.sequence; }),
                heap_.end());
    std::make_heap(heap_.begin(), heap_.end(), std::greater<Entry>());
  }

  void pop_heap() {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<Entry>());
    heap_.pop_back();
  }

  void grow() {
    std::vector<Entry> larger(ring_.empty() ? 16 : ring_.size() * 2);
    const std::size_t count = tail_ - head_;
    for (std::size_t i = 0; i < count; ++i) larger[i] = ring_[(head_ + i) & mask_];
    ring_.swap(larger);
    mask_ = ring_.size() - 1;
    head_ = 0;
    tail_ = count;
  }

  std::vector<Entry> ring_;
  std::vector<Entry> heap_;
  std::size_t mask_ = 0;
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
  std::size_t live_count_ = 0;
};

}  // namespace symphony
