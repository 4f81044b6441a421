// The devices that the driver shows.
#pragma once

#include <string>

#include "cuda/failure.h"
#include "cuda/runtime.h"

namespace moe::cuda {

DeviceLimits limits_of(int device);

// The sentence for what a kernel found.
Error error_of(const Failure& failure);

}  // namespace moe::cuda
