// The GPUs that the driver shows, and what they can say of an address.
#pragma once

#include <string>

#include "cuda/failure.h"
#include "cuda/runtime.h"
#include "ops/gpus.h"

namespace moe::cuda {

DeviceLimits limits_of(int device);

// Throws unless an address is that of the device's memory, or of memory that moves between devices.
void check_memory_of(int device, const void* data);

// The sentence for what a kernel found.
Error error_of(const Failure& failure);

}  // namespace moe::cuda
