// Counts durations in log-linear buckets: 16 per power of two, so a quantile is exact to about 6 %.
//
// One thread records, any thread reads; counters are relaxed atomics. Range: 0 ns to 2^40 ns (18 minutes), clamped.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace symphony {

class LatencyHistogram {
 public:
  static constexpr std::size_t kSubBits = 4;
  static constexpr std::size_t kOctaves = 40;
  static constexpr std::size_t kBucketCount = (kOctaves - kSubBits + 1) << kSubBits;

  void record(std::int64_t value_ns) {
    const std::uint64_t value = value_ns > 0 ? static_cast<std::uint64_t>(value_ns) : 0;
    auto& bucket = counts_[bucket_of(value)];
    bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    sum_.store(sum_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }

  std::uint64_t count_at(std::size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  std::uint64_t sum_ns() const { return sum_.load(std::memory_order_relaxed); }

  // The largest duration, plus one, that falls into the bucket.
  static std::uint64_t upper_ns(std::size_t bucket) {
    constexpr std::size_t sub = std::size_t{1} << kSubBits;
    if (bucket < sub) return bucket + 1;
    const std::size_t shift = (bucket >> kSubBits) - 1;
    return ((bucket & (sub - 1)) + sub + 1) << shift;
  }

 private:
  static std::size_t bucket_of(std::uint64_t value) {
    if (value < (1u << kSubBits)) return value;
    const std::size_t top = 63 - static_cast<std::size_t>(__builtin_clzll(value));
    if (top >= kOctaves) return kBucketCount - 1;
    const std::size_t shift = top - kSubBits;
    return ((shift + 1) << kSubBits) + ((value >> shift) & ((1u << kSubBits) - 1));
  }

  std::array<std::atomic<std::uint64_t>, kBucketCount> counts_{};
  std::atomic<std::uint64_t> sum_{0};
};

}  // namespace symphony
