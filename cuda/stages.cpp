#include "cuda/stages.h"

#include <cmath>
#include <exception>
#include <utility>

namespace moe::cuda {

void StageRecording::add(const char* stage, Mark begin, Mark end) {
  marked_.push_back({.op = op_, .stage = stage, .begin = std::move(begin), .end = std::move(end)});
}

std::vector<Span> StageRecording::end() const {
  check(mark()->wait(), "cudaEventSynchronize");
  std::vector<Span> spans;
  spans.reserve(marked_.size());
  for (const Marked& each : marked_) {
    spans.push_back({.op = each.op,
                     .stage = each.stage,
                     .begin = nanoseconds_to(each.begin),
                     .end = nanoseconds_to(each.end)});
  }
  return spans;
}

int64_t StageRecording::nanoseconds_to(const Mark& mark) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, origin_->get(), mark->get()), "cudaEventElapsedTime");
  return std::llround(1e6 * double{milliseconds});
}

void PartTimer::end() noexcept {
  try {
    StageRecording::Mark end = recording_->mark();
    recording_->add(stage_, std::exchange(begin_, end), end);
  } catch (const std::exception&) {
    // Dropped: there is no memory for it, or the device is lost, of which the next wait tells.
    begin_ = nullptr;
  }
}

}  // namespace moe::cuda
