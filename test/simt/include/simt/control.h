// What tests ask of the emulator itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace simt {

// Read from the environment when first asked for; a test may change them between launches.
struct Settings {
  int compute_capability = 90;       // MOE_SIMT_CC: 80 or 90
  int first_compute_capability = 0;  // MOE_SIMT_FIRST_CC: what device 0 says instead, unless 0
  int driver = 13000;                // MOE_SIMT_DRIVER: the CUDA that the driver supports; 0 for none
  int multiprocessors = 4;           // MOE_SIMT_SMS
  int devices = 1;                   // MOE_SIMT_DEVICES
  size_t memory = size_t{8} << 30;   // MOE_SIMT_MEMORY: bytes on each device
  int l2 = 16 << 10;  // MOE_SIMT_L2: bytes of the second-level cache: small, and so what is sized by it
  uint64_t seed = 0;  // MOE_SIMT_SEED: of every schedule
  int threads = 1;    // MOE_SIMT_THREADS: host threads that run the blocks of one launch
};

Settings& settings();

// The text of the last error that a kernel or a call made, or an empty text.
std::string last_report();

// Forgets pending work, failures and captures of every device, as after the start of the process; memory
// stays.
void reset();

// Bytes that cudaMalloc, cudaMallocAsync and cudaHostAlloc gave and that were not freed.
size_t bytes_in_use();

}  // namespace simt
