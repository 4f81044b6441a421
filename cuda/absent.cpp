// Stands for the CUDA backend in a build without it.
#include "ops/queue.h"

namespace moe::cuda {

const char* describe() {
  return "this build has no CUDA backend";
}

int device_count() {
  return 0;
}

std::string device_name(int /*device*/) {
  throw Error(kErrUnsupported, describe());
}

std::unique_ptr<Queue> make_queue(int /*device*/) {
  throw Error(kErrUnsupported, describe());
}

}  // namespace moe::cuda
