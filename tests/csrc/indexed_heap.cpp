// Compare IndexedHeap with an ordered set of (key, item) on random operations.
#include "symphony/indexed_heap.h"

#include <random>
#include <set>
#include <utility>

#include "check.h"

int main() {
  for (unsigned seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const std::uint32_t capacity = 1 + random() % 200;
    symphony::IndexedHeap heap;
    heap.reset(capacity);
    std::set<std::pair<std::int64_t, std::uint32_t>> model;
    std::vector<std::int64_t> key(capacity, -1);
    for (int step = 0; step < 5000; ++step) {
      const std::uint32_t item = random() % capacity;
      if (random() % 3 == 0) {
        if (heap.contains(item)) model.erase({key[item], item});
        heap.remove(item);
        CHECK(!heap.contains(item));
      } else {
        if (heap.contains(item)) model.erase({key[item], item});
        key[item] = random() % 50;
        heap.set(item, key[item]);
        model.insert({key[item], item});
        CHECK(heap.key_of(item) == key[item]);
      }
      CHECK(heap.size() == model.size());
      CHECK(heap.empty() == model.empty());
      if (!model.empty()) {
        CHECK(heap.top_key() == model.begin()->first);
        CHECK(heap.top() == model.begin()->second);
      }
    }
    while (!heap.empty()) {
      CHECK(heap.top() == model.begin()->second);
      model.erase(model.begin());
      heap.remove(heap.top());
    }
    CHECK(model.empty());
  }
}
