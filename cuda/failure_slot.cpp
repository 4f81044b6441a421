#include "cuda/failure_slot.h"

#include "cuda/pinned.h"

namespace moe::cuda {

FailureSlot::FailureSlot(const std::shared_ptr<Stream>& stream)
    : stream_(stream), memory_(allocate_device(stream, sizeof(Failure))) {
  clear();
}

std::shared_ptr<Storage> FailureSlot::take() const {
  auto copy = allocate_pinned(sizeof(Failure));
  check(
      cudaMemcpyAsync(copy->data(), memory_->data(), sizeof(Failure), cudaMemcpyDeviceToHost, stream_->get()),
      "cudaMemcpyAsync");
  clear();
  return copy;
}

void FailureSlot::clear() const {
  check(cudaMemsetAsync(memory_->data(), 0, sizeof(Failure), stream_->get()), "cudaMemsetAsync");
}

}  // namespace moe::cuda
