// Tensor handles: JavaScript externals that own a share of native memory.
#pragma once

#include <napi.h>

#include <memory>

#include "binding/environment.h"
#include "ops/tensor.h"

namespace moe::binding {

struct HeldTensor {
  // The tensor's data lies within the storage.
  std::shared_ptr<Storage> storage;
  Tensor tensor;
  // 0 the CPU, then the GPUs.
  int device = 0;
  // Bytes that `memory()` counts; shared buffers count for nothing.
  int64_t accounted = 0;
};

// A handle is blank at first and again once it is released: JavaScript uses it for one tensor after the
// other, because a new one costs a weak reference.
struct TensorHandle : HeldTensor {
  std::shared_ptr<Accounting> accounting;
};

// Throws Error ERR_DISPOSED for a blank one.
TensorHandle& handle_of(Napi::Value value);
// Throws Error ERR_INVALID_ARGUMENT for one that is not blank.
TensorHandle& blank_handle(Napi::Value value);

void fill_handle(Napi::Env env, TensorHandle& blank, HeldTensor held);

// Adds the functions that create, read, write and release tensors.
void export_tensors(Napi::Env env, Napi::Object exports);

// Wraps a native function so that its Errors, and C++ exceptions, become JavaScript ones.
template <auto function>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Error& error) {
    throw to_javascript(info.Env(), error);
  } catch (const std::bad_alloc&) {
    throw to_javascript(info.Env(), Error(kErrOutOfMemory, "memory: expected more than there is"));
  }
}

}  // namespace moe::binding
