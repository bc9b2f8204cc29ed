// Compare DeadlineQueue with an ordered set on random pushes (in order and not), pops and cancellations.
#include "symphony/deadline_queue.h"

#include <cstdint>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "check.h"

int main() {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const unsigned disorder = seed % 4;  // 0: always in deadline order
    std::vector<symphony::RequestSlot> slots(1024, symphony::RequestSlot{0, 0});
    std::vector<std::uint32_t> free_slots;
    for (std::uint32_t slot = 0; slot < slots.size(); ++slot) free_slots.push_back(slot);
    symphony::EntryPool pool;
    symphony::DeadlineQueue queue;
    queue.reset(&pool);
    using Key = std::tuple<std::int64_t, std::uint64_t, std::uint32_t>;  // with the sequence before it wraps
    std::set<Key> model;
    std::uint64_t sequence = seed % 2 ? 0 : 0xffffffffu - 5000;  // wraps around half way
    std::int64_t now = 0;
    for (int step = 0; step < 20000; ++step) {
      const unsigned choice = random() % 10;
      if (choice < 5 && !free_slots.empty()) {
        const std::uint32_t slot = free_slots.back();
        free_slots.pop_back();
        now += random() % 3;
        const std::int64_t deadline = now + (disorder ? random() % (disorder * 40) : 0);
        if (static_cast<std::uint32_t>(++sequence) == 0) ++sequence;
        slots[slot].sequence = static_cast<std::uint32_t>(sequence);
        queue.push(deadline, static_cast<std::uint32_t>(sequence), slot);
        model.insert({deadline, sequence, slot});
      } else if (choice < 7 && !model.empty()) {
        const Key first = *model.begin();
        model.erase(model.begin());
        slots[std::get<2>(first)].sequence = 0;
        CHECK(queue.pop(slots.data()) == std::get<2>(first));
        free_slots.push_back(std::get<2>(first));
      } else if (choice < 8 && random() % 20 == 0) {
        std::vector<std::uint32_t> taken(random() % (model.size() + 1));
        queue.take(taken.size(), slots.data(), taken.data());
        for (const std::uint32_t slot : taken) {
          CHECK(slot == std::get<2>(*model.begin()));
          CHECK(slots[slot].sequence == 0);
          free_slots.push_back(slot);
          model.erase(model.begin());
        }
      } else if (!model.empty()) {
        auto at = model.begin();
        std::advance(at, random() % model.size());
        slots[std::get<2>(*at)].sequence = 0;
        free_slots.push_back(std::get<2>(*at));
        model.erase(at);
        queue.cancelled(slots.data());
      }
      CHECK(queue.live_count() == model.size());
      CHECK(queue.empty() == model.empty());
      if (!model.empty()) {
        CHECK(queue.front().deadline == std::get<0>(*model.begin()));
        CHECK(queue.front().slot == std::get<2>(*model.begin()));
      }
    }
  }
}
