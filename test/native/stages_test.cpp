// Recorded spans: ops and their stages, of every queue, and of nothing outside a recording.
#include "cpu/stages.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/tensors.h"

namespace moe::test {
namespace {

// Two slots of expert 0 into so many rows; fewer than two are too few, which is found after counting.
void submit_dispatch(Queue& queue, int64_t rows) {
  const Owned indices(queue, DType::int32, {2, 1}), offsets(queue, DType::int32, {2});
  const Owned row_slot(queue, DType::int32, {rows}), slot_row(queue, DType::int32, {2, 1});
  std::fill_n(indices.tensor.i32(), 2, 0);
  queue.submit(Dispatch{.indices = indices.tensor,
                        .offsets = offsets.tensor,
                        .row_slot = row_slot.tensor,
                        .slot_row = slot_row.tensor},
               {indices.storage, offsets.storage, row_slot.storage, slot_row.storage});
}

// "op stage", or "op" alone.
std::vector<std::string> names_of(const std::vector<Span>& spans) {
  std::vector<std::string> names;
  for (const Span& span : spans) {
    names.emplace_back(span.op);
    if (span.stage != nullptr) names.back() += std::string(" ") + span.stage;
  }
  return names;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_SUITE("threads") {
  TEST_CASE("an op's stages follow each other within its span, and only while recording") {
    const auto queue = cpu::make_queue();
    submit_dispatch(*queue, 2);
    wait_for(*queue);
    CHECK(cpu::end_recording().empty());
    cpu::start_recording();
    submit_dispatch(*queue, 2);
    wait_for(*queue);
    const std::vector<Span> spans = cpu::end_recording();
    REQUIRE_EQ(names_of(spans), Names{"dispatch count", "dispatch place", "dispatch"});
    const std::vector<int64_t> times = {
        0, spans[2].begin, spans[0].begin, spans[0].end, spans[1].begin, spans[1].end, spans[2].end};
    CHECK(std::is_sorted(times.begin(), times.end()));
    submit_dispatch(*queue, 2);
    wait_for(*queue);
    CHECK(cpu::end_recording().empty());
  }

  TEST_CASE("an op that fails has ended, and so has the stage it failed in") {
    const auto queue = cpu::make_queue();
    cpu::start_recording();
    submit_dispatch(*queue, 1);
    submit_dispatch(*queue, 2);
    CHECK_THROWS_AS(wait_for(*queue), Error);
    CHECK_EQ(names_of(cpu::end_recording()),
             Names{"dispatch count", "dispatch", "dispatch count", "dispatch place", "dispatch"});
  }

  TEST_CASE("another beginning forgets what was recorded") {
    const auto queue = cpu::make_queue();
    cpu::start_recording();
    submit_dispatch(*queue, 2);
    wait_for(*queue);
    cpu::start_recording();
    wait_for(*queue);
    CHECK(cpu::end_recording().empty());
  }

  TEST_CASE("several queues record at once, while recordings come and go") {
    constexpr int kQueues = 3, kTurns = 300;
    std::atomic<int> working{kQueues};
    std::vector<std::thread> callers;
    callers.reserve(kQueues);
    for (int caller = 0; caller < kQueues; ++caller) {
      callers.emplace_back([&] {
        const auto own = cpu::make_queue();
        for (int turn = 0; turn < kTurns; ++turn) {
          submit_dispatch(*own, 2);
          wait_for(*own);
        }
        --working;
      });
    }
    int64_t recorded = 0, wrong = 0;
    while (working.load() > 0) {
      cpu::start_recording();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      const auto spans = cpu::end_recording();
      recorded += static_cast<int64_t>(spans.size());
      wrong += std::count_if(spans.begin(), spans.end(), [](const Span& span) {
        return span.begin < 0 || span.begin > span.end || span.op != std::string("dispatch");
      });
    }
    for (std::thread& thread : callers) thread.join();
    CHECK_EQ(wrong, 0);
    CHECK_GT(recorded, 0);
  }
}

}  // namespace moe::test
