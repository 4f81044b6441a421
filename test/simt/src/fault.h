// Bad accesses of kernels: a fault becomes an error of the launch, not the end of the process.
#pragma once

#include <csignal>
#include <cstddef>
#include <memory>

namespace simt {

// While it lives, faults of the threads that this host thread emulates are reported; all others go where they
// went.
class FaultGuard {
 public:
  FaultGuard();
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

 private:
  std::unique_ptr<std::byte[]> stack_;  // to handle signals on: a fiber's own may have overflown
  stack_t previous_ = {};
};

}  // namespace simt
