// Where the time of ops goes: while recording, every op of every CPU queue leaves a span, and so does each
// stage within it. Stages of an op follow each other; none lies in another.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "ops/op.h"
#include "ops/span.h"

namespace moe::cpu {

// Of every queue of the process. Begins anew where a recording runs already.
void start_recording();
// What was recorded, in the order in which it ended; empty where nothing ran.
std::vector<Span> end_recording();

namespace detail {
inline std::atomic<bool> recording{false};
}

// One op, from here to the end of the scope, however it is left.
class OpTimer {
 public:
  explicit OpTimer(const Op& op) {
    if (detail::recording.load(std::memory_order_relaxed)) begin(op);
  }
  ~OpTimer() {
    if (op_ != nullptr) end();
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  void begin(const Op& op);
  void end();

  const char* op_ = nullptr;
  int64_t begin_ = 0;
};

// A stage of the op that this thread runs, from here to the next one or the end of the scope. Names are
// literals.
class StageTimer {
 public:
  explicit StageTimer(const char* stage) { next(stage); }
  ~StageTimer() {
    if (stage_ != nullptr) end();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

  void next(const char* stage) {
    if (stage_ != nullptr) end();
    if (detail::recording.load(std::memory_order_relaxed)) begin(stage);
  }

 private:
  void begin(const char* stage);
  void end();

  const char* stage_ = nullptr;
  int64_t begin_ = 0;
};

}  // namespace moe::cpu
