#include "cpu/thread_pool.h"

#include <algorithm>
#include <cstdlib>

#include "cpu/spin.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace moe::cpu {

int available_cores() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Lives on its caller's stack; the caller leaves only after every worker that joined has left.
struct ThreadPool::Loop {
  const std::function<void(int64_t)>& task;
  const int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
};

ThreadPool& ThreadPool::instance() {
  // Never destroyed: idle workers end with the process, and queues may outlive static destruction.
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

ThreadPool::ThreadPool() {
  const char* given = std::getenv("MOE_KERNELS_THREADS");
  const int wanted = given != nullptr ? std::atoi(given) : 0;
  set_threads(wanted >= 1 ? std::min(wanted, 1024) : available_cores());
}

void ThreadPool::set_threads(int count) {
  const std::lock_guard lock(mutex_);
  threads_.store(count, std::memory_order_relaxed);
  // Workers beyond the count stay asleep; threads are only ever added.
  while (static_cast<int>(workers_.size()) < count - 1) {
    const int id = static_cast<int>(workers_.size()) + 1;
    workers_.emplace_back([this, id] { work(id); });
    workers_.back().detach();
  }
  wake_.notify_all();
}

void ThreadPool::parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
  if (count <= 1 || threads() == 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  Loop loop{.task = task, .count = count};
  {
    const std::lock_guard lock(mutex_);
    loops_.push_back(&loop);
    posted_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  run_tasks(loop);
  {
    const std::lock_guard lock(mutex_);
    std::erase(loops_, &loop);
  }
  for (Spin spin; loop.helpers.load(std::memory_order_acquire) != 0;) spin.once();
  if (loop.failure) std::rethrow_exception(loop.failure);
}

void ThreadPool::run_tasks(Loop& loop) {
  try {
    for (int64_t i; (i = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.count;) loop.task(i);
  } catch (...) {
    const std::lock_guard lock(loop.failure_mutex);
    if (!loop.failure) loop.failure = std::current_exception();
    loop.next.store(loop.count, std::memory_order_relaxed);
  }
}

ThreadPool::Loop* ThreadPool::join_loop() {
  for (auto it = loops_.rbegin(); it != loops_.rend(); ++it) {
    if ((*it)->next.load(std::memory_order_relaxed) >= (*it)->count) continue;
    (*it)->helpers.fetch_add(1, std::memory_order_relaxed);
    return *it;
  }
  return nullptr;
}

void ThreadPool::work(int id) {
  uint64_t seen = 0;
  while (true) {
    // The stages of a layer follow each other within microseconds: spin a little before sleeping.
    for (Spin spin; posted_.load(std::memory_order_acquire) == seen && !spin.tired();) spin.once();
    Loop* loop = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] {
        seen = posted_.load(std::memory_order_relaxed);
        return id < threads() && (loop = join_loop()) != nullptr;
      });
    }
    run_tasks(*loop);
    loop->helpers.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace moe::cpu
