// Where the kernels of one stream leave word of bad indices: device memory, copied to the host and cleared in
// the stream's order, so that each wait learns what the ops before it found and nothing of those after.
#pragma once

#include "cuda/failure.h"
#include "cuda/memory.h"

namespace moe::cuda {

class FailureSlot {
 public:
  explicit FailureSlot(const std::shared_ptr<Stream>& stream);

  Failure* get() const { return static_cast<Failure*>(memory_->data()); }
  // Page-locked memory that holds the Failure once the stream has come here; the slot is empty from then on.
  std::shared_ptr<Storage> take() const;

 private:
  void clear() const;

  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Storage> memory_;
};

}  // namespace moe::cuda
