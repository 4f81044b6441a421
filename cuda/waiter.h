// The thread that waits for a stream, so that no other needs to: lets go of what was pinned, and tells
// whoever asked.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "cuda/event.h"
#include "ops/queue.h"

namespace moe::cuda {

class Waiter {
 public:
  // What to do once a stream has come so far.
  struct Mark {
    Event event;
    Pins pins;
    std::function<void(cudaError_t)> reached;  // or none
  };

  explicit Waiter(int device);
  // Nobody is told of marks that are left.
  ~Waiter();
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  void push(Mark mark);

 private:
  void work(int device);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Mark> marks_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace moe::cuda
