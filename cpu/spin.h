// A short busy wait that gives way: first pause instructions, then the scheduler.
#pragma once

#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace moe::cpu {

class Spin {
 public:
  void once() {
    if (++turns_ < kPauses) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  // After about 20 microseconds, when sleeping has become the cheaper wait.
  bool tired() const { return turns_ >= kPauses; }

 private:
  static constexpr int kPauses = 500;

  static void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  int turns_ = 0;
};

}  // namespace moe::cpu
