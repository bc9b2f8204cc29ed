// MpscRing under several producers, MessageRing between two threads, Doorbell as a sleeping consumer: nothing is
// lost, doubled or reordered, and full rings say so.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"
#include "symphony/doorbell.h"
#include "symphony/message_ring.h"
#include "symphony/mpsc_ring.h"

namespace {

struct Item {
  std::uint32_t producer;
  std::uint32_t number;
};

void check_capacity() {
  symphony::MpscRing<int> ring;
  ring.reset(4);
  int value = 0;
  CHECK(ring.empty() && !ring.pop(value));
  for (int i = 0; i < 4; ++i) CHECK(ring.push(i));
  CHECK(!ring.push(4));
  CHECK(ring.pop(value) && value == 0);
  CHECK(ring.push(4) && !ring.push(5));
  for (int i = 1; i <= 4; ++i) CHECK(ring.pop(value) && value == i);
  CHECK(ring.empty());
}

void check_producers() {
  constexpr std::uint32_t kProducers = 4;
  constexpr std::uint32_t kItems = 50000;
  symphony::MpscRing<Item> ring;
  ring.reset(256);
  std::vector<std::thread> threads;
  for (std::uint32_t p = 0; p < kProducers; ++p) {
    threads.emplace_back([&ring, p] {
      for (std::uint32_t i = 0; i < kItems; ++i) {
        while (!ring.push({p, i})) std::this_thread::yield();
      }
    });
  }
  std::vector<std::uint32_t> next(kProducers, 0);
  for (std::uint64_t taken = 0; taken < std::uint64_t{kProducers} * kItems;) {
    Item item;
    if (!ring.pop(item)) {
      std::this_thread::yield();
      continue;
    }
    CHECK(item.number == next[item.producer]++);
    ++taken;
  }
  for (auto& thread : threads) thread.join();
  CHECK(ring.empty());
}

void check_messages() {
  symphony::MessageRing ring;
  ring.reset(16);
  const std::uint64_t head[2] = {7, 8};
  const std::uint32_t ids[20] = {};
  CHECK(!ring.push(head, 2, ids, 14));  // 17 words with the length
  CHECK(ring.push(head, 2, ids, 13));   // exactly full
  CHECK(!ring.push(head, 1, ids, 0));
  std::uint64_t payload[32];
  CHECK(ring.peek_count() == 15);
  ring.pop(payload);
  CHECK(payload[0] == 7 && payload[1] == 8 && ring.peek_count() == -1);

  constexpr std::uint64_t kMessages = 50000;
  std::thread writer([&ring] {
    for (std::uint64_t i = 0; i < kMessages; ++i) {
      const std::uint32_t tail[3] = {1, 2, static_cast<std::uint32_t>(i)};
      while (!ring.push(&i, 1, tail, i % 4)) std::this_thread::yield();
    }
  });
  for (std::uint64_t i = 0; i < kMessages; ++i) {
    while (ring.peek_count() < 0) std::this_thread::yield();
    CHECK(ring.peek_count() == static_cast<std::int64_t>(1 + i % 4));
    ring.pop(payload);
    CHECK(payload[0] == i);
    if (i % 4 == 3) CHECK(payload[3] == static_cast<std::uint32_t>(i));
  }
  writer.join();
}

// A consumer that sleeps whenever it finds nothing; a lost wake-up would leave the loop waiting for ever.
void check_doorbell() {
  constexpr int kItems = 20000;
  symphony::MpscRing<int> ring;
  ring.reset(64);
  symphony::Doorbell bell;
  std::mutex mutex;
  std::condition_variable wake;
  bool is_rung = false;
  std::thread consumer([&] {
    for (int taken = 0; taken < kItems;) {
      int value;
      if (ring.pop(value)) {
        CHECK(value == taken++);
        continue;
      }
      bell.lie_down();
      if (ring.empty()) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return is_rung; });
        is_rung = false;
      }
      bell.get_up();
    }
  });
  for (int i = 0; i < kItems; ++i) {
    while (!ring.push(i)) std::this_thread::yield();
    if (bell.should_ring()) {
      std::lock_guard<std::mutex> lock(mutex);
      is_rung = true;
      wake.notify_one();
    }
  }
  consumer.join();
}

}  // namespace

int main() {
  check_capacity();
  check_producers();
  check_messages();
  check_doorbell();
}
