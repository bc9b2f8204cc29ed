// A bounded queue of fixed-size values: any number of threads push, one pops, no locks.
//
// Each cell carries a turn number (after D. Vyukov's bounded queue): a producer claims a cell by advancing the tail,
// writes, and publishes by setting the turn; the consumer sees cells strictly in claim order. A full ring says so.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace symphony {

template <typename T>
class MpscRing {
 public:
  // Capacity is rounded up to a power of two.
  void reset(std::size_t capacity) {
    std::size_t size = 2;
    while (size < capacity) size *= 2;
    cells_ = std::make_unique<Cell[]>(size);
    for (std::size_t i = 0; i < size; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
    mask_ = size - 1;
    tail_.store(0, std::memory_order_relaxed);
    head_ = 0;
  }

  bool push(const T& value) {
    std::size_t tail = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[tail & mask_];
      const std::size_t turn = cell.turn.load(std::memory_order_acquire);
      const std::intptr_t lag = static_cast<std::intptr_t>(turn) - static_cast<std::intptr_t>(tail);
      if (lag == 0) {
        if (tail_.compare_exchange_weak(tail, tail + 1, std::memory_order_relaxed)) {
          cell.value = value;
          cell.turn.store(tail + 1, std::memory_order_release);
          return true;
        }
      } else if (lag < 0) {
        return false;
      } else {
        tail = tail_.load(std::memory_order_relaxed);
      }
    }
  }

  bool pop(T& value) {
    Cell& cell = cells_[head_ & mask_];
    if (cell.turn.load(std::memory_order_acquire) != head_ + 1) return false;
    value = cell.value;
    cell.turn.store(head_ + mask_ + 1, std::memory_order_release);
    ++head_;
    return true;
  }

  // For the consumer: whether pop() would find nothing.
  bool empty() const { return cells_[head_ & mask_].turn.load(std::memory_order_acquire) != head_ + 1; }

 private:
  struct Cell {
    std::atomic<std::size_t> turn;
    T value;
  };
  std::unique_ptr<Cell[]> cells_;
  std::size_t mask_ = 0;
  alignas(64) std::atomic<std::size_t> tail_{0};
  alignas(64) std::size_t head_ = 0;
};

}  // namespace symphony
