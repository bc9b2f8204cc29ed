// Chunks of queue entries, shared by all queues and used again last in, first out: what a queue has just given back is
// still in the cache when another one grows. Entries in use, not rings with room for the worst case, are what memory
// holds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "symphony/huge_pages.h"

namespace symphony {

struct QueueEntry {
  std::int64_t deadline;
  std::uint32_t sequence;
  std::uint32_t slot;
};

class EntryPool {
 public:
  static constexpr std::size_t kChunkBytes = 512;
  static constexpr std::size_t kEntryCount = kChunkBytes / sizeof(QueueEntry) - 1;

  struct alignas(kChunkBytes) Chunk {
    QueueEntry entries[kEntryCount];
    Chunk* next;
  };

  // A chunk with undefined entries; `next` is null. Allocates only when more are in use than ever before.
  Chunk* take() {
    if (free_ == nullptr) grow();
    Chunk* const chunk = free_;
    free_ = chunk->next;
    chunk->next = nullptr;
    return chunk;
  }

  void give(Chunk* chunk) {
    chunk->next = free_;
    free_ = chunk;
  }

  // Fetch the whole chunk, if there is one.
  static void prefetch(const Chunk* chunk) {
    if (chunk == nullptr) return;
    for (std::size_t at = 0; at < kChunkBytes; at += 64) __builtin_prefetch(reinterpret_cast<const char*>(chunk) + at);
  }

  // The chunk that holds the entry, or whose end it is.
  static Chunk* chunk_of(const QueueEntry* entry) {
    return reinterpret_cast<Chunk*>(reinterpret_cast<std::uintptr_t>(entry) & ~(kChunkBytes - 1));
  }

  static bool is_end(const QueueEntry* entry) {
    return (reinterpret_cast<std::uintptr_t>(entry) & (kChunkBytes - 1)) == kEntryCount * sizeof(QueueEntry);
  }

 private:
  static constexpr std::size_t kFirstCount = 64;
  static constexpr std::size_t kCountMax = kHugePageBytes / kChunkBytes;

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  void grow() {
    const std::size_t count = std::min(kCountMax, std::max(kFirstCount, total_));
    void* const memory = allocate_on_huge_pages(count * kChunkBytes, kChunkBytes);
    blocks_.emplace_back(memory);
    Chunk* const chunks = static_cast<Chunk*>(memory);
    for (std::size_t i = count; i-- > 0;) give(&chunks[i]);
    total_ += count;
  }

  Chunk* free_ = nullptr;
  std::size_t total_ = 0;
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

}  // namespace symphony
