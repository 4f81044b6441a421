// The thread pool: every task once, from any number of callers, while counts change, tasks throw and loops
// nest.
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/threads.h"

namespace moe::test {
namespace {

using cpu::ThreadPool;

ThreadPool& pool() {
  return ThreadPool::instance();
}

// Runs one loop that counts, without synchronisation, how often each task ran: each must run once.
bool runs_each_once(int64_t count) {
  std::vector<int> runs(static_cast<size_t>(count), 0);
  pool().parallel_for(count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
  for (int times : runs) {
    if (times != 1) return false;
  }
  return true;
}

// Calls body(caller) on so many threads at once, and joins them.
template <class Body>
void at_once(int callers, Body body) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) threads.emplace_back([&body, caller] { body(caller); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

TEST_SUITE("threads") {
  TEST_CASE("every task runs once") {
    for (int threads : {1, 2, 3, 8}) {
      CAPTURE(threads);
      const Threads several(threads);
      CHECK_EQ(pool().threads(), threads);
      for (int64_t count : {0, 1, 2, 3, 7, 1000}) {
        CAPTURE(count);
        CHECK(runs_each_once(count));
      }
    }
  }

  TEST_CASE("as many tasks run at once as there are threads") {
    constexpr int kThreads = 4;
    const Threads several(kThreads);
    std::atomic<int> arrived{0};
    std::atomic<bool> late{false};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    pool().parallel_for(kThreads, [&](int64_t) {
      ++arrived;
      while (arrived.load() < kThreads && !late.load()) {
        if (std::chrono::steady_clock::now() > deadline) late = true;
        std::this_thread::yield();
      }
    });
    CHECK_FALSE(late.load());
  }

  TEST_CASE("thousands of tiny loops") {
    const Threads several(4);
    int64_t done = 0;
    for (int turn = 0; turn < 5000; ++turn) {
      std::atomic<int64_t> sum{0};
      pool().parallel_for(3, [&](int64_t i) { sum.fetch_add(i + 1, std::memory_order_relaxed); });
      done += sum.load();
    }
    CHECK_EQ(done, 5000 * 6);
  }

  TEST_CASE("several callers at once") {
    const Threads several(3);
    std::atomic<int> wrong{0};
    at_once(4, [&](int caller) {
      for (int turn = 0; turn < 300; ++turn) wrong += runs_each_once(10 + caller) ? 0 : 1;
    });
    CHECK_EQ(wrong.load(), 0);
  }

  TEST_CASE("the count changes while loops run") {
    const Threads several(2);
    std::atomic<int> wrong{0};
    std::atomic<int> callers{2};
    at_once(3, [&](int caller) {
      if (caller == 0) {
        for (int count = 1; callers.load() > 0; count = count % 6 + 1) pool().set_threads(count);
        return;
      }
      for (int turn = 0; turn < 500; ++turn) wrong += runs_each_once(20) ? 0 : 1;
      --callers;
    });
    CHECK_EQ(wrong.load(), 0);
  }

  TEST_CASE("loops nest") {
    const Threads several(3);
    std::atomic<int> ran{0};
    pool().parallel_for(6, [&](int64_t) {
      pool().parallel_for(5, [&](int64_t) { pool().parallel_for(2, [&](int64_t) { ++ran; }); });
    });
    CHECK_EQ(ran.load(), 60);
  }

  TEST_CASE("an exception reaches its caller once no task runs any more") {
    for (int threads : {1, 4}) {
      CAPTURE(threads);
      const Threads several(threads);
      for (int turn = 0; turn < 200; ++turn) {
        std::atomic<int> running{0};
        const auto loop = [&] {
          pool().parallel_for(50, [&](int64_t i) {
            ++running;
            const bool fails = i % 7 == 5;
            --running;
            if (fails) throw std::runtime_error("task");
          });
        };
        CHECK_THROWS_WITH_AS(loop(), "task", std::runtime_error);
        CHECK_EQ(running.load(), 0);
      }
      CHECK(runs_each_once(100));
    }
  }

  TEST_CASE("an exception reaches no other caller") {
    const Threads several(3);
    std::atomic<int> wrong{0};
    at_once(4, [&](int caller) {
      for (int turn = 0; turn < 200; ++turn) {
        int caught = -1;
        try {
          pool().parallel_for(9, [&](int64_t i) {
            if (caller % 2 == 1 && i == 4) throw caller;
          });
        } catch (int thrown) {
          caught = thrown;
        }
        wrong += caught == (caller % 2 == 1 ? caller : -1) ? 0 : 1;
      }
    });
    CHECK_EQ(wrong.load(), 0);
  }
}

}  // namespace moe::test
