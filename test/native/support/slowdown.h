// What makes a kernel slower on purpose, for tests that such a thing is found. Only in builds with
// MOE_TEST_SLOWDOWN.
#pragma once

#include <chrono>
#include <cstdlib>

namespace moe::test {

// From here to the end of the scope takes MOE_KERNELS_TEST_SLOWDOWN percent longer. The variable is read each
// time, so that one process can compare with and without.
class Slowdown {
 public:
  Slowdown() = default;
  ~Slowdown() {
    const char* const percent = std::getenv("MOE_KERNELS_TEST_SLOWDOWN");
    if (percent == nullptr) return;
    const auto end = Clock::now() + (Clock::now() - start_) * std::atof(percent) / 100;
    while (Clock::now() < end) {
    }
  }
  Slowdown(const Slowdown&) = delete;
  Slowdown& operator=(const Slowdown&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start_ = Clock::now();
};

}  // namespace moe::test
