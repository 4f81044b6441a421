// Ops that one call enqueues, kept so that a later call of the same kind need not describe them again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "ops/op.h"

namespace moe {

// Memory that must live until what uses it has run.
using Pins = std::vector<std::shared_ptr<Storage>>;

// Ops in order, described but for where their tensors lie.
class Program {
 public:
  virtual ~Program() = default;

  virtual size_t size() const = 0;
  // The op at `index`, valid, with its tensors at `places`. On any thread.
  virtual Op op(size_t index, std::span<void* const> places) const = 0;

  // What the last run took on the host, whatever the thread; a long time before the first.
  std::chrono::nanoseconds last_run() const { return last_run_.load(std::memory_order_relaxed); }
  void took(std::chrono::nanoseconds time) const { last_run_.store(time, std::memory_order_relaxed); }

 private:
  mutable std::atomic<std::chrono::nanoseconds> last_run_{std::chrono::hours(1)};
};

// A program with the memory of one call.
struct ProgramRun {
  std::shared_ptr<const Program> program;
  std::vector<void*> places;
  Pins pins;
};

}  // namespace moe
