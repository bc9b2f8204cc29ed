// Memory for large tables that are read here and there: on huge pages where the system has them, so that fewer address
// translations miss. Without them everything works alike.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace symphony {

constexpr std::size_t kHugePageBytes = std::size_t{1} << 21;

inline void* allocate_on_huge_pages(std::size_t bytes, std::size_t alignment) {
  const bool is_large = bytes >= kHugePageBytes;
  if (is_large) alignment = kHugePageBytes;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  if (is_large) static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));
  return memory;
}

// For std::vector.
template <typename T>
struct HugeAllocator {
  using value_type = T;
  HugeAllocator() = default;
  template <typename U>
  HugeAllocator(const HugeAllocator<U>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(allocate_on_huge_pages(count * sizeof(T), alignof(T) > 64 ? alignof(T) : 64));
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  bool operator==(const HugeAllocator&) const { return true; }
  bool operator!=(const HugeAllocator&) const { return false; }
};

}  // namespace symphony
