// Compare Bitmap with a std::set, alone and in pairs, at capacities around its word borders.
#include "symphony/bitmap.h"

#include <algorithm>
#include <iterator>
#include <random>
#include <set>

#include "check.h"

int main() {
  for (const std::size_t capacity : {1ul, 63ul, 64ul, 65ul, 4095ul, 4096ul, 4097ul, 9000ul, 262144ul}) {
    std::mt19937 random(static_cast<unsigned>(capacity));
    symphony::Bitmap left, right;
    left.reset(capacity);
    right.reset(capacity);
    std::set<std::uint32_t> in_left, in_right;
    CHECK(left.empty() && left.first() == symphony::Bitmap::kNone);
    for (int step = 0; step < 3000; ++step) {
      const std::uint32_t item = static_cast<std::uint32_t>(random() % capacity);
      auto& bitmap = random() % 2 ? left : right;
      auto& members = &bitmap == &left ? in_left : in_right;
      if (random() % 2) {
        bitmap.set(item);
        members.insert(item);
      } else {
        bitmap.clear(item);
        members.erase(item);
      }
      CHECK(bitmap.test(item) == (members.count(item) == 1));
      CHECK(bitmap.empty() == members.empty());
      CHECK(bitmap.first() == (members.empty() ? -1 : static_cast<std::int32_t>(*members.begin())));
      if (step % 16 == 0) {
        std::vector<std::uint32_t> both;
        std::set_intersection(in_left.begin(), in_left.end(), in_right.begin(), in_right.end(),
                              std::back_inserter(both));
        const std::int32_t expected = both.empty() ? -1 : static_cast<std::int32_t>(both.front());
        CHECK(left.first_common(right) == expected);
        CHECK(right.first_common(left) == expected);
      }
    }
  }
}
