// The CPU queue: order, failures reported once, pins, closing with work pending, several queues and several
// callers.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/tensors.h"

namespace moe::test {
namespace {

float first_of(Queue& queue, const Owned& owned) {
  float value = NAN;
  const Tensor first = {.data = owned.tensor.data, .rank = 1, .dims = {1}, .present = true};
  read_blocking(queue, first, {owned.storage}, &value);
  return value;
}

void fill(Queue& queue, const Owned& owned, float value) {
  queue.submit(Fill{.out = owned.tensor, .value = value}, {owned.storage});
}

// A dispatch whose expert id, `expert`, is out of range: found only when it runs.
void submit_bad_dispatch(Queue& queue, int32_t expert) {
  const Owned indices(queue, DType::int32, {1, 1}), offsets(queue, DType::int32, {3});
  const Owned row_slot(queue, DType::int32, {1}), slot_row(queue, DType::int32, {1, 1});
  indices.tensor.i32()[0] = expert;
  queue.submit(Dispatch{.indices = indices.tensor,
                        .offsets = offsets.tensor,
                        .row_slot = row_slot.tensor,
                        .slot_row = slot_row.tensor},
               {indices.storage, offsets.storage, row_slot.storage, slot_row.storage});
}

// The code and sentence that the next wait throws, or an empty text.
std::string next_failure(Queue& queue) {
  try {
    wait_for(queue);
  } catch (const Error& error) {
    return std::string(error.code()) + " " + error.what();
  }
  return "";
}

// Adds 1 to its first place so often, by way of its second.
class Increments final : public Program {
 public:
  Increments(int64_t elements, size_t times) : elements_(elements), times_(times) {}

  size_t size() const override { return 2 * times_; }
  Op op(size_t index, std::span<void* const> places) const override {
    const auto at = [&](size_t place) {
      return Tensor{.data = places[place], .rank = 1, .dims = {elements_}, .present = true};
    };
    if (index % 2 == 0) return Cast{.source = at(0), .out = at(1)};
    return Fill{.out = at(0), .value = static_cast<const float*>(places[1])[0] + 1};
  }

 private:
  const int64_t elements_;
  const size_t times_;
};

ProgramRun run_of(const std::shared_ptr<const Program>& program, const Owned& value, const Owned& other) {
  return {.program = program,
          .places = {value.tensor.data, other.tensor.data},
          .pins = {value.storage, other.storage}};
}

// One dispatch of an expert that there is not.
class BadDispatch final : public Program {
 public:
  explicit BadDispatch(int32_t* memory) : memory_(memory) {}
  size_t size() const override { return 1; }
  Op op(size_t /*index*/, std::span<void* const> /*places*/) const override {
    const auto at = [&](int place, std::initializer_list<int64_t> dims) {
      Tensor tensor = {.data = memory_ + 4 * place,
                       .dtype = DType::int32,
                       .rank = static_cast<int>(dims.size()),
                       .present = true};
      std::copy(dims.begin(), dims.end(), tensor.dims.begin());
      return tensor;
    };
    return Dispatch{
        .indices = at(0, {1, 1}), .offsets = at(1, {3}), .row_slot = at(2, {1}), .slot_row = at(3, {1, 1})};
  }

 private:
  int32_t* const memory_;
};

}  // namespace

TEST_SUITE("threads") {
  TEST_CASE("programs run in the order of their submission, among other ops") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {3}), b(*queue, DType::float32, {3});
    const auto program = std::make_shared<Increments>(3, 4);
    fill(*queue, a, 0);
    for (int turn = 1; turn <= 200; ++turn) {
      queue->submit_all(run_of(program, a, b));
      if (turn % 3 == 0) fill(*queue, b, -1);
      if (turn % 7 == 0) REQUIRE_EQ(first_of(*queue, a), 4 * turn);
    }
    CHECK_EQ(first_of(*queue, a), 800);
    CHECK_LT(program->last_run(), std::chrono::seconds(10));
  }

  TEST_CASE("who waits for quick programs runs them where the worker has not begun") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {3}), b(*queue, DType::float32, {3});
    const auto program = std::make_shared<Increments>(3, 1);
    fill(*queue, a, 0);
    queue->submit_all(run_of(program, a, b));
    wait_for(*queue);
    int settled = 0;
    for (int turn = 0; turn < 2000; ++turn) {
      queue->submit_all(run_of(program, a, b));
      if (!queue->settled()) {
        wait_for(*queue);
        continue;
      }
      ++settled;
      REQUIRE_EQ(a.tensor.f32()[0], turn + 2);
    }
    CHECK_GT(settled, 100);
    CHECK_EQ(first_of(*queue, a), 2001);
  }

  TEST_CASE("nobody waits long for a queue to settle, and nobody runs what may be long") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {3}), b(*queue, DType::float32, {3});
    std::atomic<bool> go{false};
    queue->then([&](const std::optional<Error>&) {
      while (!go.load()) std::this_thread::yield();
    });
    fill(*queue, a, 1);
    // Never timed.
    queue->submit_all(run_of(std::make_shared<Increments>(3, 1), a, b));
    CHECK_FALSE(queue->settled());
    go = true;
    CHECK_EQ(first_of(*queue, a), 2);
    CHECK(queue->settled());
  }

  TEST_CASE("who settles a queue hears of the failure, once, by the op's name") {
    const auto queue = cpu::make_queue();
    const Owned memory(*queue, DType::int32, {16});
    memory.tensor.i32()[0] = 5;
    const auto program = std::make_shared<BadDispatch>(memory.tensor.i32());
    for (int turn = 0; turn < 50; ++turn) {
      queue->submit_all({.program = program, .places = {}, .pins = {memory.storage}});
      const std::string failure = next_failure(*queue);
      CHECK_NE(failure.find("dispatch: "), std::string::npos);
      CHECK_NE(failure.find("got 5"), std::string::npos);
      CHECK_EQ(next_failure(*queue), "");
    }
  }

  TEST_CASE("a captured program runs when it is replayed, as often as it is") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {3}), b(*queue, DType::float32, {3});
    fill(*queue, a, 0);
    queue->begin_capture();
    queue->submit_all(run_of(std::make_shared<Increments>(3, 2), a, b));
    CHECK_FALSE(queue->settled());
    const auto graph = queue->end_capture();
    CHECK_EQ(first_of(*queue, a), 0);
    for (int turn = 0; turn < 5; ++turn) queue->replay(*graph);
    CHECK_EQ(first_of(*queue, a), 10);
  }

  TEST_CASE("several threads submit quick programs to one queue, and settle it") {
    const auto queue = cpu::make_queue();
    const auto program = std::make_shared<Increments>(3, 1);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    callers.reserve(3);
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&] {
        const Owned a(*queue, DType::float32, {3}), b(*queue, DType::float32, {3});
        fill(*queue, a, 0);
        for (int turn = 1; turn <= 300; ++turn) {
          queue->submit_all(run_of(program, a, b));
          wrong += first_of(*queue, a) == static_cast<float>(turn) ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : callers) thread.join();
    CHECK_EQ(wrong.load(), 0);
  }

  TEST_CASE("ops run in the order of their submission") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {1000}), b(*queue, DType::float32, {1000});
    for (int turn = 0; turn < 500; ++turn) {
      fill(*queue, a, static_cast<float>(turn));
      queue->submit(Cast{.source = a.tensor, .out = b.tensor}, {a.storage, b.storage});
      fill(*queue, a, -1);
    }
    CHECK_EQ(first_of(*queue, b), 499);
    CHECK_EQ(first_of(*queue, a), -1);
  }

  TEST_CASE("reports come in order, after the ops before them") {
    const auto queue = cpu::make_queue();
    std::vector<int> order;
    for (int i = 0; i < 100; ++i) queue->then([&order, i](std::optional<Error>) { order.push_back(i); });
    wait_for(*queue);
    REQUIRE_EQ(order.size(), 100);
    for (int i = 0; i < 100; ++i) CHECK_EQ(order[static_cast<size_t>(i)], i);
  }

  TEST_CASE("the first failure is reported once, and the queue goes on") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {3});
    submit_bad_dispatch(*queue, 7);
    submit_bad_dispatch(*queue, -8);
    fill(*queue, a, 5);
    const std::string failure = next_failure(*queue);
    CHECK_NE(failure.find("ERR_INDEX_RANGE"), std::string::npos);
    CHECK_NE(failure.find("got 7"), std::string::npos);
    CHECK_EQ(next_failure(*queue), "");
    CHECK_EQ(first_of(*queue, a), 5);
    submit_bad_dispatch(*queue, 9);
    CHECK_NE(next_failure(*queue).find("got 9"), std::string::npos);
  }

  TEST_CASE("a failed read copies nothing and reports why") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {1});
    fill(*queue, a, 2);
    submit_bad_dispatch(*queue, 3);
    float host = 77;
    CHECK_THROWS_AS(read_blocking(*queue, a.tensor, {a.storage}, &host), Error);
    CHECK_EQ(host, 77);
    CHECK_EQ(first_of(*queue, a), 2);
  }

  TEST_CASE("an op of wrong shape is refused at once and never runs") {
    const auto queue = cpu::make_queue();
    const Owned a(*queue, DType::float32, {2}), b(*queue, DType::float32, {3});
    fill(*queue, b, 1);
    CHECK_THROWS_AS(queue->submit(Cast{.source = a.tensor, .out = b.tensor}, {}), Error);
    CHECK_EQ(next_failure(*queue), "");
    CHECK_EQ(first_of(*queue, b), 1);
  }

  TEST_CASE("memory stays alive while ops need it, and no longer") {
    const auto queue = cpu::make_queue();
    auto a = std::make_unique<Owned>(*queue, DType::float32, std::initializer_list<int64_t>{1 << 20});
    const std::weak_ptr<Storage> watched = a->storage;
    std::atomic<bool> go{false};
    queue->then([&](std::optional<Error>) {
      while (!go.load()) std::this_thread::yield();
    });
    fill(*queue, *a, 1);
    a.reset();
    CHECK_FALSE(watched.expired());
    go = true;
    // Two waits: the first may be answered before the worker has let go of the job before it.
    wait_for(*queue);
    wait_for(*queue);
    CHECK(watched.expired());
  }

  TEST_CASE("a queue closes with work pending and lets go of it") {
    std::weak_ptr<Storage> watched;
    for (int turn = 0; turn < 50; ++turn) {
      const auto queue = cpu::make_queue();
      const Owned a(*queue, DType::float32, {100'000});
      watched = a.storage;
      for (int i = 0; i < 20; ++i) fill(*queue, a, 1);
    }
    CHECK(watched.expired());
  }

  TEST_CASE("too much memory is an error, not the end") {
    const auto queue = cpu::make_queue();
    for (size_t bytes :
         {size_t{1} << 60, std::numeric_limits<size_t>::max() / 2, std::numeric_limits<size_t>::max()}) {
      CAPTURE(bytes);
      std::string code;
      try {
        queue->allocate(bytes);
      } catch (const Error& error) {
        code = error.code();
      }
      CHECK_EQ(code, std::string(kErrOutOfMemory));
    }
    const Owned a(*queue, DType::float32, {4});
    fill(*queue, a, 3);
    CHECK_EQ(first_of(*queue, a), 3);
  }

  TEST_CASE("several queues share the threads, and several threads one queue") {
    const auto shared = cpu::make_queue();
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        const auto own = cpu::make_queue();
        for (int turn = 0; turn < 40; ++turn) {
          for (Queue* queue : {own.get(), shared.get()}) {
            const Owned a(*queue, DType::float32, {300'000});
            const auto value = static_cast<float>(1000 * caller + turn);
            fill(*queue, a, value);
            wrong += first_of(*queue, a) == value ? 0 : 1;
          }
        }
      });
    }
    for (std::thread& thread : callers) thread.join();
    CHECK_EQ(wrong.load(), 0);
  }
}

}  // namespace moe::test
