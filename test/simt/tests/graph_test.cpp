// Stream capture and graphs, and what a capture forbids.
#include "support.h"

namespace simt::test {
namespace {

__global__ void add(int* out, int value) {
  out[threadIdx.x] += value;
}

__global__ void set(int* out, int value) {
  out[threadIdx.x] = value;
}

__global__ void move(const int* from, int* to) {
  to[threadIdx.x] += from[threadIdx.x];
}

struct Capturing {
  cudaStream_t stream = nullptr, side = nullptr;
  cudaEvent_t fork = nullptr, join = nullptr;

  Capturing() {
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreate(&fork);
    cudaEventCreate(&join);
    REQUIRE_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  }
  ~Capturing() {
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaStreamDestroy(side);
    cudaStreamDestroy(stream);
  }
  cudaError_t end() const {
    cudaGraph_t graph = nullptr;
    const cudaError_t error = cudaStreamEndCapture(stream, &graph);
    cudaGraphDestroy(graph);
    return error;
  }
};

}  // namespace

TEST_CASE("a graph replays what was captured, memory of its own and other streams included") {
  const Fresh fresh;
  const DeviceArray<int> data(std::vector<int>(32, 0));
  const size_t before = bytes_in_use();
  {
    const Capturing capture;
    int* scratch = nullptr;
    REQUIRE_EQ(cudaMallocAsync(&scratch, 128, capture.stream), cudaSuccess);
    REQUIRE_EQ(launch({.stream = capture.stream}, set, scratch, 2), cudaSuccess);
    REQUIRE_EQ(cudaEventRecord(capture.fork, capture.stream), cudaSuccess);
    REQUIRE_EQ(cudaStreamWaitEvent(capture.side, capture.fork), cudaSuccess);
    REQUIRE_EQ(launch({.stream = capture.side}, move, static_cast<const int*>(scratch), data.data()),
               cudaSuccess);
    REQUIRE_EQ(cudaEventRecord(capture.join, capture.side), cudaSuccess);
    REQUIRE_EQ(cudaStreamWaitEvent(capture.stream, capture.join), cudaSuccess);
    REQUIRE_EQ(launch({.stream = capture.stream}, add, data.data(), 1), cudaSuccess);
    REQUIRE_EQ(cudaFreeAsync(scratch, capture.stream), cudaSuccess);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    REQUIRE_EQ(cudaStreamIsCapturing(capture.side, &status), cudaSuccess);
    CHECK_EQ(status, cudaStreamCaptureStatusActive);
    cudaGraph_t graph = nullptr;
    REQUIRE_EQ(cudaStreamEndCapture(capture.stream, &graph), cudaSuccess);
    cudaGraphExec_t executable = nullptr;
    REQUIRE_EQ(cudaGraphInstantiate(&executable, graph), cudaSuccess);
    REQUIRE_EQ(cudaGraphDestroy(graph), cudaSuccess);
    CHECK_EQ(data.data()[0], 0);
    for (int turn = 0; turn < 3; ++turn) REQUIRE_EQ(cudaGraphLaunch(executable, capture.stream), cudaSuccess);
    CHECK_EQ(data.data()[0], 0);
    REQUIRE_EQ(cudaGraphExecDestroy(executable), cudaSuccess);  // with its work pending
    REQUIRE_EQ(cudaStreamSynchronize(capture.stream), cudaSuccess);
    CHECK_EQ(data.data()[31], 9);
  }
  CHECK_EQ(bytes_in_use(), before);
}

TEST_CASE("what a capture forbids") {
  const Fresh fresh;
  const DeviceArray<int> data(32);
  const Capturing capture;
  int* pointer = nullptr;
  SUBCASE("waiting for the stream") {
    CHECK_EQ(cudaStreamSynchronize(capture.stream), cudaErrorStreamCaptureUnsupported);
    CHECK_EQ(launch({.stream = capture.stream}, add, data.data(), 1), cudaErrorStreamCaptureInvalidated);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("asking the stream") {
    CHECK_EQ(cudaStreamQuery(capture.stream), cudaErrorStreamCaptureUnsupported);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("waiting for the device") {
    CHECK_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("allocating out of order") {
    CHECK_EQ(cudaMalloc(&pointer, 4), cudaErrorStreamCaptureUnsupported);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("waiting for a captured event") {
    REQUIRE_EQ(cudaEventRecord(capture.fork, capture.stream), cudaSuccess);
    CHECK_EQ(cudaEventSynchronize(capture.fork), cudaErrorCapturedEvent);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("an event from outside") {
    REQUIRE_EQ(cudaEventRecord(capture.fork, capture.side), cudaSuccess);
    CHECK_EQ(cudaStreamWaitEvent(capture.stream, capture.fork), cudaErrorStreamCaptureIsolation);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureInvalidated);
  }
  SUBCASE("a fork without a join") {
    REQUIRE_EQ(cudaEventRecord(capture.fork, capture.stream), cudaSuccess);
    REQUIRE_EQ(cudaStreamWaitEvent(capture.side, capture.fork), cudaSuccess);
    REQUIRE_EQ(launch({.stream = capture.side}, add, data.data(), 1), cudaSuccess);
    CHECK_EQ(capture.end(), cudaErrorStreamCaptureUnjoined);
  }
  SUBCASE("the legacy stream beside a blocking one") {
    REQUIRE_EQ(capture.end(), cudaSuccess);
    cudaStream_t blocking = nullptr;
    cudaGraph_t graph = nullptr;
    REQUIRE_EQ(cudaStreamCreate(&blocking), cudaSuccess);
    REQUIRE_EQ(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    CHECK_EQ(launch({}, add, data.data(), 1), cudaErrorStreamCaptureImplicit);
    CHECK_EQ(cudaStreamEndCapture(blocking, &graph), cudaErrorStreamCaptureInvalidated);
    CHECK_EQ(cudaStreamDestroy(blocking), cudaSuccess);
  }
  reset();
}

}  // namespace simt::test
