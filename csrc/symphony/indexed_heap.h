// A 4-ary min-heap over items 0..capacity-1, each with at most one int64 key that can be changed in place.
//
// Order is by (key, item), so equal keys pop in item order and every run decides alike. All operations are
// O(log4 n) but top() and contains(), which are O(1). Nothing allocates after reset().
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace symphony {

class IndexedHeap {
 public:
  void reset(std::size_t capacity) {
    nodes_.clear();
    nodes_.reserve(capacity);
    position_.assign(capacity, kAbsent);
  }

  bool empty() const { return nodes_.empty(); }
  std::size_t size() const { return nodes_.size(); }
  bool contains(std::uint32_t item) const { return position_[item] != kAbsent; }
  std::uint32_t top() const { return nodes_[0].item; }
  std::int64_t top_key() const { return nodes_[0].key; }
  std::int64_t key_of(std::uint32_t item) const { return nodes_[position_[item]].key; }

  // Insert the item, or move it to its new key.
  void set(std::uint32_t item, std::int64_t key) {
    assert(item < position_.size());
    std::uint32_t at = position_[item];
    if (at == kAbsent) {
      at = static_cast<std::uint32_t>(nodes_.size());
      nodes_.push_back({key, item});
      sift_up(at);
      return;
    }
    const std::int64_t old = nodes_[at].key;
    if (key == old) return;
    nodes_[at].key = key;
    if (key < old) {
      sift_up(at);
    } else {
      sift_down(at);
    }
  }

  // Take the item out; nothing happens when it is not inside.
  void remove(std::uint32_t item) {
    const std::uint32_t at = position_[item];
    if (at == kAbsent) return;
    position_[item] = kAbsent;
    const Node last = nodes_.back();
    nodes_.pop_back();
    if (at == nodes_.size()) return;
    nodes_[at] = last;
    position_[last.item] = at;
    sift_up(at);
    sift_down(position_[last.item]);
  }

 private:
  struct Node {
    std::int64_t key;
    std::uint32_t item;
    bool operator<(const Node& other) const { return key < other.key || (key == other.key && item < other.item); }
  };
  static constexpr std::uint32_t kAbsent = 0xffffffffu;

  void put(std::uint32_t at, const Node& node) {
    nodes_[at] = node;
    position_[node.item] = at;
  }

  void sift_up(std::uint32_t at) {
    const Node node = nodes_[at];
    while (at > 0) {
      const std::uint32_t parent = (at - 1) / 4;
      if (!(node < nodes_[parent])) break;
      put(at, nodes_[parent]);
      at = parent;
    }
    put(at, node);
  }

  void sift_down(std::uint32_t at) {
    const Node node = nodes_[at];
    const std::uint32_t count = static_cast<std::uint32_t>(nodes_.size());
    for (;;) {
      const std::uint32_t first = at * 4 + 1;
      if (first >= count) break;
      std::uint32_t least = first;
      const std::uint32_t end = first + 4 < count ? first + 4 : count;
      for (std::uint32_t child = first + 1; child < end; ++child) {
        if (nodes_[child] < nodes_[least]) least = child;
      }
      if (!(nodes_[least] < node)) break;
      put(at, nodes_[least]);
      at = least;
    }
    put(at, node);
  }

  std::vector<Node> nodes_;
  std::vector<std::uint32_t> position_;
};

}  // namespace symphony
