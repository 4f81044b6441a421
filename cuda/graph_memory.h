// The memory of a graph: what its ops return and what they work in, at the same addresses in every replay.
//
// A capture cannot take it from its own stream, whose allocations would be the graph's nodes and end with
// each replay, so it is taken on a second stream. What is freed while the capture goes on is used again by
// the ops after: they run in the order in which they were captured. The graph holds all of it until it is
// disposed; tensors hold their own part for as long as they live.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "cuda/memory.h"

namespace moe::cuda {

class GraphMemory : public std::enable_shared_from_this<GraphMemory> {
 public:
  explicit GraphMemory(std::shared_ptr<Stream> stream);

  // Throws ERR_OUT_OF_MEMORY.
  std::shared_ptr<Storage> take(size_t bytes);
  bool owns(const Storage& storage) const { return blocks_.count(storage.data()) != 0; }

  // After the capture: the stream waits until there is all that was taken, and nothing is used again.
  void seal();

 private:
  class Part;
  using Block = std::shared_ptr<Storage>;

  Block idle_block(size_t bytes);
  void give_back(Block block);

  std::shared_ptr<Stream> stream_;
  std::unique_ptr<Stream> source_;
  std::unordered_map<const void*, Block> blocks_;
  std::mutex mutex_;
  std::multimap<size_t, Block> idle_;
  bool sealed_ = false;
};

}  // namespace moe::cuda
