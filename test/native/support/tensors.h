// Tensors over memory of a queue.
#pragma once

#include "ops/queue.h"

namespace moe::test {

struct Owned {
  Owned(Queue& queue, DType dtype, std::initializer_list<int64_t> dims)
      : tensor{.dtype = dtype, .rank = static_cast<int>(dims.size()), .present = true} {
    std::copy(dims.begin(), dims.end(), tensor.dims.begin());
    storage = queue.allocate(tensor.bytes());
    tensor.data = storage->data();
  }

  Tensor tensor;
  std::shared_ptr<Storage> storage;
};

}  // namespace moe::test
