#include "cpu/stages.h"

#include <chrono>
#include <mutex>
#include <new>
#include <utility>

namespace moe::cpu {
namespace {

int64_t now() {
  using std::chrono::steady_clock;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

// The recorded op that this thread runs. A stage of an op that began before the recording has none.
constinit thread_local const char* current_op = nullptr;

class Recording {
 public:
  void start() {
    const std::lock_guard lock(mutex_);
    spans_.clear();
    started_ = now();
    detail::recording.store(true, std::memory_order_relaxed);
  }

  std::vector<Span> end() {
    const std::lock_guard lock(mutex_);
    detail::recording.store(false, std::memory_order_relaxed);
    return std::exchange(spans_, {});
  }

  // Drops what began before the recording, and what there is no memory for.
  void add(Span span) noexcept {
    const std::lock_guard lock(mutex_);
    if (!detail::recording.load(std::memory_order_relaxed) || span.begin < started_) return;
    span.begin -= started_;
    span.end -= started_;
    try {
      spans_.push_back(span);
    } catch (const std::bad_alloc&) {
      return;
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Span> spans_;
  int64_t started_ = 0;
};

Recording& recording() {
  // Never destroyed: queues may outlive static destruction.
  static Recording* const instance = new Recording;
  return *instance;
}

}  // namespace

void start_recording() {
  recording().start();
}

std::vector<Span> end_recording() {
  return recording().end();
}

void OpTimer::begin(const Op& op) {
  op_ = current_op = name_of(op);
  begin_ = now();
}

void OpTimer::end() {
  recording().add({.op = op_, .stage = nullptr, .begin = begin_, .end = now()});
  current_op = nullptr;
}

void StageTimer::begin(const char* stage) {
  if (current_op == nullptr) return;
  stage_ = stage;
  begin_ = now();
}

void StageTimer::end() {
  recording().add({.op = current_op, .stage = stage_, .begin = begin_, .end = now()});
  stage_ = nullptr;
}

}  // namespace moe::cpu
