#include "cuda/waiter.h"

namespace moe::cuda {

Waiter::Waiter(int device) : thread_([this, device] { work(device); }) {}

Waiter::~Waiter() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Waiter::push(Mark mark) {
  {
    const std::lock_guard lock(mutex_);
    marks_.push_back(std::move(mark));
  }
  wake_.notify_one();
}

void Waiter::work(int device) {
  cudaSetDevice(device);
  while (true) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return closing_ || !marks_.empty(); });
    if (closing_) return;
    const Mark mark = std::move(marks_.front());
    marks_.pop_front();
    lock.unlock();
    const cudaError_t status = mark.event.wait();
    if (mark.reached) mark.reached(status);
  }
}

}  // namespace moe::cuda
