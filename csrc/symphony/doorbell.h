// Decides whether a thread that queued work must wake the thread that takes it: only one that sleeps, or is about to.
//
// The taker calls lie_down(), looks at its queue once more, sleeps only if that is empty, then calls get_up(). A giver
// queues first and then asks should_ring(). The fences make sure that the taker sees the work or the giver the sleeper.
#pragma once

#include <atomic>

namespace symphony {

class Doorbell {
 public:
  void lie_down() {
    asleep_.store(true, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

  void get_up() { asleep_.store(false, std::memory_order_relaxed); }

  // True for one giver per sleep: the others need not ring again.
  bool should_ring() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return asleep_.load(std::memory_order_relaxed) && asleep_.exchange(false, std::memory_order_relaxed);
  }

 private:
  std::atomic<bool> asleep_{false};
};

}  // namespace symphony
