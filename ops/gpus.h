// What the CUDA backend tells of itself: the GPUs that it found, and the memory that it keeps. In a build
// without it, cuda/absent.cpp answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moe::cuda {

struct Gpu {
  int index;  // CUDA's own: GPUs that are too old for the kernels leave gaps
  std::string name;
  std::string compute_capability;  // "9.0"
  size_t l2_bytes, memory_bytes;
  int clock_khz;  // of its multiprocessors, at most
};

// The GPUs that ops can run on.
const std::vector<Gpu>& gpus();
// Of CUDA, such as "13.0": the newest that the driver supports, and the one that is linked. Where there are
// GPUs.
std::string driver_version();
std::string runtime_version();
// One sentence: every GPU found and what keeps the rest from being used, or what is missing.
const char* describe();

// The driver's pool of device memory, which the whole process shares, in bytes.
struct PoolUse {
  int gpu;
  uint64_t in_use, reserved, peak;
};

// Of the GPUs that a queue was made for.
std::vector<PoolUse> pools();
// The peak of one of them, which is what is in use now from now on.
uint64_t restart_peak(int gpu);
// Page-locked host memory that is kept for the next copies.
size_t pinned_bytes();
// Gives back what neither tensors nor pending work use.
void trim_pools();

}  // namespace moe::cuda
