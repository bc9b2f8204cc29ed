// Every value falls into the bucket whose bounds enclose it, and the bounds are within 1/16 of each other.
#include "symphony/latency_histogram.h"

#include <cstdint>
#include <random>

#include "check.h"

int main() {
  using symphony::LatencyHistogram;
  for (std::size_t bucket = 1; bucket < LatencyHistogram::kBucketCount; ++bucket) {
    CHECK(LatencyHistogram::upper_ns(bucket) > LatencyHistogram::upper_ns(bucket - 1));
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t value = random() >> (24 + random() % 40);
    static LatencyHistogram histogram;
    std::uint64_t before[LatencyHistogram::kBucketCount];
    for (std::size_t b = 0; b < LatencyHistogram::kBucketCount; ++b) before[b] = histogram.count_at(b);
    histogram.record(static_cast<std::int64_t>(value));
    std::size_t hit = LatencyHistogram::kBucketCount;
    for (std::size_t b = 0; b < LatencyHistogram::kBucketCount; ++b) {
      if (histogram.count_at(b) != before[b]) hit = b;
    }
    CHECK(hit < LatencyHistogram::kBucketCount);
    CHECK(value < LatencyHistogram::upper_ns(hit));
    if (hit > 0) CHECK(value >= LatencyHistogram::upper_ns(hit - 1));
  }
  LatencyHistogram histogram;
  histogram.record(-5);
  histogram.record(INT64_MAX);
  CHECK(histogram.count_at(0) == 1);
  CHECK(histogram.count_at(LatencyHistogram::kBucketCount - 1) == 1);
}
