// Where the time of a GPU's ops goes: while recording, every op leaves a span, and so does each stage within
// it, each between two events in the order of the stream. Stages of an op follow each other; none lies in
// another. The twin of cpu/stages.h.
#pragma once

#include <memory>
#include <vector>

#include "cuda/event.h"
#include "cuda/memory.h"
#include "ops/span.h"

namespace moe::cuda {

class StageRecording {
 public:
  using Mark = std::shared_ptr<const Event>;

  explicit StageRecording(std::shared_ptr<Stream> stream) : stream_(std::move(stream)), origin_(mark()) {}

  // A place behind all that was enqueued so far. Throws ERR_DEVICE.
  Mark mark() const { return std::make_shared<const Event>(stream_->get(), Event::Kind::time); }

  // The op that is enqueued from here on.
  void begin_op(const char* op) { op_ = op; }
  // Of the op; of a stage of it, unless that is null.
  void add(const char* stage, Mark begin, Mark end);

  // Waits for the last mark. In the order in which the spans ended.
  std::vector<Span> end() const;

 private:
  struct Marked {
    const char* op;
    const char* stage;
    Mark begin, end;
  };
  int64_t nanoseconds_to(const Mark& mark) const;

  std::shared_ptr<Stream> stream_;
  Mark origin_;
  const char* op_ = nullptr;
  std::vector<Marked> marked_;
};

// Part of an op, from here to the next one or the end of the scope, however it is left. Without a recording,
// which may be null, nothing is enqueued.
class PartTimer {
 public:
  // Names are literals; null stands for the op as a whole.
  PartTimer(StageRecording* recording, const char* stage) : recording_(recording), stage_(stage) {
    if (recording_ != nullptr) begin_ = recording_->mark();
  }
  ~PartTimer() {
    if (begin_ != nullptr) end();
  }
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;

  void next(const char* stage) {
    if (begin_ != nullptr) end();
    stage_ = stage;
  }

 private:
  // The end of a part is the beginning of the next.
  void end() noexcept;

  StageRecording* const recording_;
  const char* stage_;
  StageRecording::Mark begin_;
};

}  // namespace moe::cuda
