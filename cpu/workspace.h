// A matrix that lives as long as the op that needs it.
#pragma once

#include <memory>

#include "cpu/memory.h"
#include "ops/tensor.h"

namespace moe::cpu {

struct Workspace {
  Workspace(int64_t rows, int64_t columns, DType dtype)
      : tensor{.dtype = dtype, .rank = 2, .dims = {rows, columns}, .present = true},
        storage(allocate_storage(tensor.bytes())) {
    tensor.data = storage->data();
  }

  Tensor tensor;
  std::shared_ptr<Storage> storage;
};

}  // namespace moe::cpu
