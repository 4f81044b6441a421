// Threads that share the tasks of one loop at a time per caller. Several queues may run loops at once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moe::cpu {

class ThreadPool {
 public:
  // The process's pool. MOE_KERNELS_THREADS or every core the process may use.
  static ThreadPool& instance();

  // Counts the calling thread: `count` - 1 workers help it.
  void set_threads(int count);
  int threads() const { return threads_.load(std::memory_order_relaxed); }

  // Runs task(0) … task(count - 1), started in that order on any thread, and returns when all are done.
  // Rethrows the first exception. Tasks must not depend on which thread runs them or how many there are:
  // results are the same for any count.
  void parallel_for(int64_t count, const std::function<void(int64_t)>& task);

 private:
  struct Loop;

  ThreadPool();
  void work(int id);
  // The newest loop with tasks left to start, joined, or null. Needs the lock.
  Loop* join_loop();
  static void run_tasks(Loop& loop);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Loop*> loops_;
  std::vector<std::thread> workers_;
  std::atomic<int> threads_{1};
  // Counts loops ever posted, so that idle workers can spin on it without the lock.
  std::atomic<uint64_t> posted_{0};
};

// Cores this process may use.
int available_cores();

}  // namespace moe::cpu
