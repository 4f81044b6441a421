// The queue of the emulated GPU: reports in order, streams of others, and what captures and frees do to
// memory.
#include <cuda_runtime.h>
#include <doctest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "../../native/support/tensors.h"
#include "simt/control.h"

namespace moe::test {
namespace {

void fill(Queue& queue, const Owned& owned, float value) {
  queue.submit(Fill{.out = owned.tensor, .value = value}, {owned.storage});
}

std::vector<float> values_of(Queue& queue, const Owned& owned) {
  std::vector<float> host(static_cast<size_t>(owned.tensor.elements()), NAN);
  read_blocking(queue, owned.tensor, {owned.storage}, host.data());
  return host;
}

float first_of(Queue& queue, const Owned& owned) {
  return values_of(queue, owned).front();
}

// A dispatch whose expert id, `expert`, is out of range: found only when it runs.
void submit_bad_dispatch(Queue& queue, int32_t expert) {
  const Owned indices(queue, DType::int32, {1, 1}), offsets(queue, DType::int32, {3});
  const Owned row_slot(queue, DType::int32, {1}), slot_row(queue, DType::int32, {1, 1});
  queue.write(indices.tensor, {indices.storage}, &expert);
  queue.submit(Dispatch{.indices = indices.tensor,
                        .offsets = offsets.tensor,
                        .row_slot = row_slot.tensor,
                        .slot_row = slot_row.tensor},
               {});
}

std::string code_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "";
}

// A stream of somebody else's, with an array on the device.
struct Foreign {
  Foreign() {
    REQUIRE_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    REQUIRE_EQ(cudaMalloc(&data, bytes), cudaSuccess);
    REQUIRE_EQ(cudaMemset(data, 0, bytes), cudaSuccess);
  }
  ~Foreign() {
    cudaStreamSynchronize(stream);
    cudaFree(data);
    cudaStreamDestroy(stream);
  }
  Tensor tensor() const { return {.data = data, .rank = 1, .dims = {32}, .present = true}; }

  static constexpr size_t bytes = 32 * sizeof(float);
  cudaStream_t stream = nullptr;
  float* data = nullptr;
};

}  // namespace

TEST_CASE("a wait is told what failed before it, though later ops have failed by then") {
  const auto queue = cuda::make_queue(0);
  std::vector<std::string> told;
  const auto tell = [&](std::optional<Error> failure) { told.push_back(failure ? failure->what() : ""); };
  queue->then(tell);
  submit_bad_dispatch(*queue, 7);
  queue->then(tell);
  submit_bad_dispatch(*queue, 9);
  // All of it has run before the first is told.
  REQUIRE_EQ(cudaStreamSynchronize(static_cast<cudaStream_t>(queue->stream())), cudaSuccess);
  queue->then(tell);
  wait_for(*queue);
  REQUIRE_EQ(told.size(), 3);
  CHECK_EQ(told[0], "");
  CHECK_NE(told[1].find("got 7"), std::string::npos);
  CHECK_NE(told[2].find("got 9"), std::string::npos);
}

TEST_CASE("another stream waits for ops") {
  const auto queue = cuda::make_queue(0);
  const Foreign foreign;
  const Owned a(*queue, DType::float32, {32});
  fill(*queue, a, 3);
  queue->signal_stream(foreign.stream);
  REQUIRE_EQ(
      cudaMemcpyAsync(foreign.data, a.tensor.data, Foreign::bytes, cudaMemcpyDeviceToDevice, foreign.stream),
      cudaSuccess);
  REQUIRE_EQ(cudaStreamSynchronize(foreign.stream), cudaSuccess);
  CHECK_EQ(foreign.data[31], 3);
}

TEST_CASE("ops wait for another stream") {
  const auto queue = cuda::make_queue(0);
  const Foreign foreign;
  const Owned a(*queue, DType::float32, {32}), b(*queue, DType::float32, {32});
  fill(*queue, a, 3);
  wait_for(*queue);
  REQUIRE_EQ(
      cudaMemcpyAsync(foreign.data, a.tensor.data, Foreign::bytes, cudaMemcpyDeviceToDevice, foreign.stream),
      cudaSuccess);
  queue->wait_for_stream(foreign.stream);
  queue->submit(Cast{.source = foreign.tensor(), .out = b.tensor}, {});
  CHECK_EQ(first_of(*queue, b), 3);
}

TEST_CASE("a stream that captures, or is none, is refused") {
  const auto queue = cuda::make_queue(0);
  const Foreign foreign;
  REQUIRE_EQ(cudaStreamBeginCapture(foreign.stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
  CHECK_EQ(code_of([&] { queue->wait_for_stream(foreign.stream); }), std::string(kErrCapture));
  CHECK_EQ(code_of([&] { queue->signal_stream(foreign.stream); }), std::string(kErrCapture));
  cudaGraph_t graph = nullptr;
  REQUIRE_EQ(cudaStreamEndCapture(foreign.stream, &graph), cudaSuccess);
  cudaGraphDestroy(graph);
  int nothing = 0;
  CHECK_EQ(code_of([&] { queue->wait_for_stream(&nothing); }), std::string(kErrInvalidArgument));
}

TEST_CASE("memory that is not freed in order stays pinned until the op has run") {
  const auto queue = cuda::make_queue(0);
  const Foreign foreign;
  std::atomic<bool> go{false};
  const auto stall = [](void* flag) {
    while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::yield();
  };
  REQUIRE_EQ(cudaLaunchHostFunc(foreign.stream, stall, &go), cudaSuccess);
  queue->wait_for_stream(foreign.stream);
  const Owned out(*queue, DType::float32, {32});
  auto lent = std::make_shared<Storage>(foreign.data, Foreign::bytes);
  const std::weak_ptr<Storage> watched = lent;
  queue->submit(Cast{.source = foreign.tensor(), .out = out.tensor}, {std::move(lent), out.storage});
  CHECK_FALSE(watched.expired());
  go = true;
  wait_for(*queue);
  wait_for(*queue);
  CHECK(watched.expired());
}

TEST_CASE("memory freed while a graph is captured is freed after") {
  const auto queue = cuda::make_queue(0);
  const Owned x(*queue, DType::float32, {64});
  fill(*queue, x, 2);
  std::weak_ptr<Storage> made;
  auto gone = queue->allocate(1 << 20);
  wait_for(*queue);
  const size_t before = simt::bytes_in_use();
  {
    queue->begin_capture();
    gone.reset();
    const Owned y(*queue, DType::float32, {64});
    queue->submit(Cast{.source = x.tensor, .out = y.tensor}, {x.storage, y.storage});
    const auto graph = queue->end_capture();
    CHECK_EQ(cudaStreamSynchronize(static_cast<cudaStream_t>(queue->stream())), cudaSuccess);
    CHECK_LT(simt::bytes_in_use(), before);
    queue->replay(*graph);
    CHECK_EQ(first_of(*queue, y), 2);
    made = y.storage;
  }
  wait_for(*queue);  // the read before lets go of its pins after it was told
  CHECK(made.expired());
}

TEST_CASE("a graph holds its memory until it and the tensors are gone") {
  const auto queue = cuda::make_queue(0);
  const Owned x(*queue, DType::float32, {1024});
  const auto used = [&] {
    cudaStreamSynchronize(static_cast<cudaStream_t>(queue->stream()));
    return simt::bytes_in_use();
  };
  const size_t before = used();
  {
    std::shared_ptr<Graph> graph;
    {
      queue->begin_capture();
      const Owned y(*queue, DType::float32, {1024});
      fill(*queue, y, 5);
      queue->submit(Cast{.source = y.tensor, .out = x.tensor}, {x.storage, y.storage});
      graph = queue->end_capture();
    }
    CHECK_EQ(used(), before + 4096);
    queue->replay(*graph);
    CHECK_EQ(cudaStreamSynchronize(static_cast<cudaStream_t>(queue->stream())), cudaSuccess);
  }
  CHECK_EQ(used(), before);
  CHECK_EQ(first_of(*queue, x), 5);
}

TEST_CASE("a queue closes in the midst of a capture") {
  const size_t before = simt::bytes_in_use();
  {
    const auto queue = cuda::make_queue(0);
    const Owned x(*queue, DType::float32, {64});
    queue->begin_capture();
    const Owned y(*queue, DType::float32, {64});
    queue->submit(Cast{.source = x.tensor, .out = y.tensor}, {x.storage, y.storage});
  }
  cudaDeviceSynchronize();
  CHECK_EQ(simt::bytes_in_use(), before);
}

}  // namespace moe::test
