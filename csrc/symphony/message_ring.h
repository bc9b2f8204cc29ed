// A bounded queue of variable-length messages of 64-bit words from one thread to one other, no locks.
//
// A message is a length word and that many payload words, published at once. push() takes a head and a tail part so
// that a plan's fixed fields and its request ids need not be joined first. A full ring says so and takes nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace symphony {

class MessageRing {
 public:
  // Capacity in words, length words included; rounded up to a power of two.
  void reset(std::size_t capacity) {
    std::size_t size = 2;
    while (size < capacity) size *= 2;
    words_.assign(size, 0);
    mask_ = size - 1;
    head_.store(0, std::memory_order_relaxed);
    tail_.store(0, std::memory_order_relaxed);
  }

  bool push(const std::uint64_t* first, std::size_t first_count, const std::uint32_t* ids, std::size_t id_count) {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    const std::size_t head = head_.load(std::memory_order_acquire);
    const std::size_t count = first_count + id_count;
    if (words_.size() - (tail - head) < count + 1) return false;
    std::size_t at = tail;
    words_[at++ & mask_] = count;
    for (std::size_t i = 0; i < first_count; ++i) words_[at++ & mask_] = first[i];
    for (std::size_t i = 0; i < id_count; ++i) words_[at++ & mask_] = ids[i];
    tail_.store(at, std::memory_order_release);
    return true;
  }

  // Payload words of the next message, or -1 if there is none.
  std::int64_t peek_count() const {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return -1;
    return static_cast<std::int64_t>(words_[head & mask_]);
  }

  // Copy the next message, whose length peek_count() told, and free its place.
  void pop(std::uint64_t* payload) {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    const std::size_t count = words_[head & mask_];
    for (std::size_t i = 0; i < count; ++i) payload[i] = words_[(head + 1 + i) & mask_];
    head_.store(head + 1 + count, std::memory_order_release);
  }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t mask_ = 0;
  alignas(64) std::atomic<std::size_t> head_{0};
  alignas(64) std::atomic<std::size_t> tail_{0};
};

}  // namespace symphony
