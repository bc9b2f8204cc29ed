// A set of small integers that finds its lowest member, or the lowest member it shares with another set, in a
// few word operations: three levels of 64-bit words hold up to 262,144 members.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace symphony {

class Bitmap {
 public:
  static constexpr std::int32_t kNone = -1;
  static constexpr std::size_t kCapacityMax = 64u * 64u * 64u;

  void reset(std::size_t capacity) {
    assert(capacity <= kCapacityMax);
    leaf_.assign((capacity + 63) / 64, 0);
    middle_.assign((leaf_.size() + 63) / 64, 0);
    top_ = 0;
  }

  bool test(std::uint32_t item) const { return (leaf_[item >> 6] >> (item & 63)) & 1; }
  bool empty() const { return top_ == 0; }

  void set(std::uint32_t item) {
    leaf_[item >> 6] |= bit(item);
    middle_[item >> 12] |= bit(item >> 6);
    top_ |= bit(item >> 12);
  }

  void clear(std::uint32_t item) {
    if ((leaf_[item >> 6] &= ~bit(item)) != 0) return;
    if ((middle_[item >> 12] &= ~bit(item >> 6)) != 0) return;
    top_ &= ~bit(item >> 12);
  }

  std::int32_t first() const {
    if (top_ == 0) return kNone;
    const std::uint32_t a = lowest(top_);
    const std::uint32_t b = a * 64 + lowest(middle_[a]);
    return static_cast<std::int32_t>(b * 64 + lowest(leaf_[b]));
  }

  // The lowest member of both sets, kNone if they are disjoint. Sets must have the same capacity.
  std::int32_t first_common(const Bitmap& other) const {
    for (std::uint64_t tops = top_ & other.top_; tops != 0; tops &= tops - 1) {
      const std::uint32_t a = lowest(tops);
      for (std::uint64_t mids = middle_[a] & other.middle_[a]; mids != 0; mids &= mids - 1) {
        const std::uint32_t b = a * 64 + lowest(mids);
        const std::uint64_t both = leaf_[b] & other.leaf_[b];
        if (both != 0) return static_cast<std::int32_t>(b * 64 + lowest(both));
      }
    }
    return kNone;
  }

 private:
  static std::uint64_t bit(std::uint32_t item) { return std::uint64_t{1} << (item & 63); }
  static std::uint32_t lowest(std::uint64_t word) { return static_cast<std::uint32_t>(__builtin_ctzll(word)); }

  std::vector<std::uint64_t> leaf_;
  std::vector<std::uint64_t> middle_;
  std::uint64_t top_ = 0;
};

}  // namespace symphony
