// A thread count for the length of a scope.
#pragma once

#include "cpu/thread_pool.h"

namespace moe::test {

class Threads {
 public:
  explicit Threads(int count) { cpu::ThreadPool::instance().set_threads(count); }
  ~Threads() { cpu::ThreadPool::instance().set_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  const int before_ = cpu::ThreadPool::instance().threads();
};

}  // namespace moe::test
