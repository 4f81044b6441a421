// Which instructions the emulated device has.
#pragma once

#include "report.h"
#include "simt/control.h"

namespace simt {

// For the running thread, in INSTRUCTION.
inline void require_hopper(const char* instruction) {
  if (settings().compute_capability >= 90) return;
  fail(cudaErrorIllegalInstruction, std::string(instruction) +
                                        " needs compute capability 9.0, and the device has " +
                                        std::to_string(settings().compute_capability / 10) + "." +
                                        std::to_string(settings().compute_capability % 10));
}

}  // namespace simt
