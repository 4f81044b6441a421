// Stands for the CUDA backend in a build without it.
#include "ops/gpus.h"
#include "ops/queue.h"

namespace moe::cuda {

const char* describe() {
  return "this build has no CUDA backend";
}

const std::vector<Gpu>& gpus() {
  static const std::vector<Gpu> none;
  return none;
}

std::string driver_version() {
  return {};
}

std::string runtime_version() {
  return {};
}

std::vector<PoolUse> pools() {
  return {};
}

uint64_t restart_peak(int /*gpu*/) {
  throw Error(kErrUnsupported, describe());
}

size_t pinned_bytes() {
  return 0;
}

void trim_pools() {}

std::unique_ptr<Queue> make_queue(int /*gpu*/) {
  throw Error(kErrUnsupported, describe());
}

}  // namespace moe::cuda
