// Compare DeadlineQueue with an ordered set on random pushes (in order and not), pops and cancellations.
#include "symphony/deadline_queue.h"

#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "check.h"

int main() {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const unsigned disorder = seed % 4;  // 0: always in deadline order
    std::vector<std::uint64_t> live(256, 0);
    std::vector<std::uint32_t> free_slots;
    for (std::uint32_t slot = 0; slot < live.size(); ++slot) free_slots.push_back(slot);
    symphony::DeadlineQueue queue;
    using Key = std::tuple<std::int64_t, std::uint64_t, std::uint32_t>;
    std::set<Key> model;
    std::uint64_t sequence = 0;
    std::int64_t now = 0;
    for (int step = 0; step < 20000; ++step) {
      const unsigned choice = random() % 10;
      if (choice < 5 && !free_slots.empty()) {
        const std::uint32_t slot = free_slots.back();
        free_slots.pop_back();
        now += random() % 3;
        const std::int64_t deadline = now + (disorder ? random() % (disorder * 40) : 0);
        live[slot] = ++sequence;
        queue.push(deadline, sequence, slot);
        model.insert({deadline, sequence, slot});
      } else if (choice < 8 && !model.empty()) {
        const Key first = *model.begin();
        model.erase(model.begin());
        live[std::get<2>(first)] = 0;
        CHECK(queue.pop(live.data()) == std::get<2>(first));
        free_slots.push_back(std::get<2>(first));
      } else if (!model.empty()) {
        auto at = model.begin();
        std::advance(at, random() % model.size());
        live[std::get<2>(*at)] = 0;
        free_slots.push_back(std::get<2>(*at));
        model.erase(at);
        queue.cancelled(live.data());
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
