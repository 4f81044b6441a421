#include "cuda/graph_memory.h"

#include "cuda/event.h"

namespace moe::cuda {

// A block while somebody uses it.
class GraphMemory::Part final : public Storage {
 public:
  Part(Block block, size_t bytes, std::weak_ptr<GraphMemory> memory)
      : Storage(block->data(), bytes), block_(std::move(block)), memory_(std::move(memory)) {}
  ~Part() override {
    if (const auto memory = memory_.lock()) memory->give_back(std::move(block_));
  }
  bool freed_in_order() const override { return true; }

 private:
  Block block_;
  std::weak_ptr<GraphMemory> memory_;
};

GraphMemory::GraphMemory(std::shared_ptr<Stream> stream)
    : stream_(std::move(stream)), source_(std::make_unique<Stream>(stream_->device())) {}

std::shared_ptr<Storage> GraphMemory::take(size_t bytes) {
  Block block = idle_block(bytes);
  if (!block) {
    block = std::make_shared<DeviceStorage>(allocate_in_order(*source_, bytes), bytes, stream_);
    blocks_.emplace(block->data(), block);
  }
  return std::make_shared<Part>(std::move(block), bytes, weak_from_this());
}

void GraphMemory::seal() {
  const std::lock_guard lock(mutex_);
  sealed_ = true;
  idle_.clear();
  const CurrentDevice current(stream_->device());
  const Event taken(source_->get());
  check(cudaStreamWaitEvent(stream_->get(), taken.get()), "cudaStreamWaitEvent");
  source_.reset();
}

// The smallest that is large enough, unless most of it would be waste.
GraphMemory::Block GraphMemory::idle_block(size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = idle_.lower_bound(bytes);
  if (found == idle_.end() || found->first / 2 > bytes) return nullptr;
  Block block = std::move(found->second);
  idle_.erase(found);
  return block;
}

void GraphMemory::give_back(Block block) {
  const std::lock_guard lock(mutex_);
  if (!sealed_) idle_.emplace(block->bytes(), std::move(block));
}

}  // namespace moe::cuda
