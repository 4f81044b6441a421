// The emulated runtime: work that waits for its waiter, order between streams, memory, limits.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "support.h"

namespace simt::test {
namespace {

__global__ void set(int* out, int value) {
  out[threadIdx.x] = value;
}

__global__ void add(int* out, int value) {
  out[threadIdx.x] += value;
}

// Block b waits for block b - 1, whatever order they begin in.
__global__ void chain(unsigned* flags) {
  if (blockIdx.x > 0) {
    while (atomicCAS(&flags[blockIdx.x - 1], 1u, 1u) != 1u) {
    }
  }
  atomicExch(&flags[blockIdx.x], 1u);
}

// The order in which blocks, warps and lanes come to a counter.
__global__ void order_of_arrival(unsigned* counter, unsigned* order) {
  order[atomicAdd(counter, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

std::vector<unsigned> arrivals(uint64_t seed) {
  const Fresh fresh;
  settings().seed = seed;
  settings().threads = 1;  // several take turns as they come
  const DeviceArray<unsigned> counter(std::vector<unsigned>{0}), order(512);
  REQUIRE_EQ(run({.grid = 4, .block = 128}, order_of_arrival, counter.data(), order.data()), cudaSuccess);
  return order.values();
}

struct Streams {
  cudaStream_t one = nullptr, other = nullptr;

  Streams() {
    REQUIRE_EQ(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking), cudaSuccess);
    REQUIRE_EQ(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
  }
  ~Streams() {
    cudaStreamDestroy(one);
    cudaStreamDestroy(other);
  }
};

template <class Condition>
bool comes_true(Condition condition) {
  for (int turn = 0; turn < 5000; ++turn) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace

TEST_CASE("nothing happens until somebody waits") {
  const Fresh fresh;
  const Streams streams;
  const DeviceArray<int> data(32);
  int* host = nullptr;
  REQUIRE_EQ(cudaHostAlloc(&host, 128, cudaHostAllocDefault), cudaSuccess);
  REQUIRE_EQ(launch({.stream = streams.one}, set, data.data(), 7), cudaSuccess);
  REQUIRE_EQ(cudaMemcpyAsync(host, data.data(), 128, cudaMemcpyDeviceToHost, streams.one), cudaSuccess);
  CHECK_EQ(host[0], -1);  // poison
  REQUIRE_EQ(cudaStreamSynchronize(streams.other), cudaSuccess);
  CHECK_EQ(host[0], -1);
  REQUIRE_EQ(cudaStreamSynchronize(streams.one), cudaSuccess);
  CHECK_EQ(host[31], 7);
  CHECK_EQ(cudaFreeHost(host), cudaSuccess);
}

TEST_CASE("events order streams, and an event that was not waited for does not") {
  const Fresh fresh;
  const Streams streams;
  const DeviceArray<int> data(std::vector<int>(32, 0));
  cudaEvent_t event = nullptr;
  REQUIRE_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  REQUIRE_EQ(launch({.stream = streams.one}, set, data.data(), 5), cudaSuccess);
  REQUIRE_EQ(cudaEventRecord(event, streams.one), cudaSuccess);
  SUBCASE("waited for") {
    REQUIRE_EQ(cudaStreamWaitEvent(streams.other, event), cudaSuccess);
    REQUIRE_EQ(launch({.stream = streams.other}, add, data.data(), 1), cudaSuccess);
    REQUIRE_EQ(cudaStreamSynchronize(streams.other), cudaSuccess);
    CHECK_EQ(data.data()[0], 6);
  }
  SUBCASE("not waited for") {
    REQUIRE_EQ(launch({.stream = streams.other}, add, data.data(), 1), cudaSuccess);
    REQUIRE_EQ(cudaStreamSynchronize(streams.other), cudaSuccess);
    CHECK_EQ(data.data()[0], 1);
    REQUIRE_EQ(cudaEventSynchronize(event), cudaSuccess);
    CHECK_EQ(data.data()[0], 5);
  }
  CHECK_EQ(cudaEventDestroy(event), cudaSuccess);
  CHECK_EQ(cudaEventDestroy(event), cudaErrorInvalidResourceHandle);
}

TEST_CASE("the legacy stream orders blocking streams") {
  const Fresh fresh;
  const DeviceArray<int> data(std::vector<int>(32, 0));
  cudaStream_t blocking = nullptr;
  REQUIRE_EQ(cudaStreamCreate(&blocking), cudaSuccess);
  REQUIRE_EQ(launch({.stream = blocking}, set, data.data(), 1), cudaSuccess);
  REQUIRE_EQ(launch({}, add, data.data(), 10), cudaSuccess);
  REQUIRE_EQ(launch({.stream = blocking}, add, data.data(), 100), cudaSuccess);
  REQUIRE_EQ(cudaStreamSynchronize(blocking), cudaSuccess);
  CHECK_EQ(data.data()[0], 111);
  CHECK_EQ(cudaStreamDestroy(blocking), cudaSuccess);
}

TEST_CASE("host functions and queries are served without a wait") {
  const Fresh fresh;
  const Streams streams;
  const DeviceArray<int> data(32);
  std::atomic<bool> told{false};
  REQUIRE_EQ(launch({.stream = streams.one}, set, data.data(), 3), cudaSuccess);
  REQUIRE_EQ(cudaLaunchHostFunc(
                 streams.one, [](void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }, &told),
             cudaSuccess);
  CHECK(comes_true([&] { return told.load(); }));
  REQUIRE_EQ(launch({.stream = streams.other}, set, data.data(), 4), cudaSuccess);
  CHECK_EQ(cudaStreamQuery(streams.other), cudaErrorNotReady);
  CHECK(comes_true([&] { return cudaStreamQuery(streams.other) == cudaSuccess; }));
  CHECK_EQ(data.data()[0], 4);
}

TEST_CASE("events measure time") {
  const Fresh fresh;
  const Streams streams;
  const DeviceArray<int> data(32);
  cudaEvent_t start = nullptr, end = nullptr;
  REQUIRE_EQ(cudaEventCreate(&start), cudaSuccess);
  REQUIRE_EQ(cudaEventCreate(&end), cudaSuccess);
  float milliseconds = -1;
  CHECK_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);
  REQUIRE_EQ(cudaEventRecord(start, streams.one), cudaSuccess);
  REQUIRE_EQ(launch({.stream = streams.one}, set, data.data(), 3), cudaSuccess);
  REQUIRE_EQ(cudaEventRecord(end, streams.one), cudaSuccess);
  CHECK_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
  REQUIRE_EQ(cudaEventSynchronize(end), cudaSuccess);
  CHECK_EQ(cudaEventElapsedTime(&milliseconds, start, end), cudaSuccess);
  CHECK(milliseconds > 0);
  cudaEventDestroy(start);
  cudaEventDestroy(end);
}

TEST_CASE("memory runs out, is accounted for, and comes back") {
  const Fresh fresh;
  const Streams streams;
  settings().memory = 1 << 20;
  size_t free = 0, total = 0;
  void *one = nullptr, *other = nullptr;
  REQUIRE_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  const size_t taken = total - free;
  REQUIRE_EQ(cudaMallocAsync(&one, 700 << 10, streams.one), cudaSuccess);
  CHECK_EQ(cudaMallocAsync(&other, 700 << 10, streams.one), cudaErrorMemoryAllocation);
  CHECK_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  CHECK_EQ(cudaGetLastError(), cudaSuccess);
  REQUIRE_EQ(cudaFreeAsync(one, streams.one), cudaSuccess);
  CHECK_EQ(cudaFreeAsync(one, streams.one), cudaErrorInvalidValue);
  REQUIRE_EQ(cudaMallocAsync(&other, 700 << 10, streams.one), cudaSuccess);  // waits for the free
  cudaMemPool_t pool = nullptr;
  uint64_t keep = 1 << 20, reserved = 0, used = 0;
  REQUIRE_EQ(cudaDeviceGetDefaultMemPool(&pool, 0), cudaSuccess);
  REQUIRE_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), cudaSuccess);
  REQUIRE_EQ(cudaFreeAsync(other, streams.one), cudaSuccess);
  REQUIRE_EQ(cudaStreamSynchronize(streams.one), cudaSuccess);
  REQUIRE_EQ(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), cudaSuccess);
  REQUIRE_EQ(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), cudaSuccess);
  CHECK_EQ(reserved, 700 << 10);
  CHECK_EQ(used, 0);
  REQUIRE_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  CHECK_EQ(total - free, taken + (700 << 10));
  REQUIRE_EQ(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
  REQUIRE_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  CHECK_EQ(total - free, taken);
  keep = 0;
  REQUIRE_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), cudaSuccess);
}

TEST_CASE("copies check their ends") {
  const Fresh fresh;
  const DeviceArray<int> data(32);
  int host[32] = {};
  CHECK_EQ(cudaMemcpy(host, data.data(), 132, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(data.data(), host, 128, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemset(host, 0, 4), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(data.data(), host, 128, cudaMemcpyDefault), cudaSuccess);
  cudaPointerAttributes attributes = {};
  REQUIRE_EQ(cudaPointerGetAttributes(&attributes, data.data() + 3), cudaSuccess);
  CHECK_EQ(attributes.type, cudaMemoryTypeDevice);
  REQUIRE_EQ(cudaPointerGetAttributes(&attributes, host), cudaSuccess);
  CHECK_EQ(attributes.type, cudaMemoryTypeUnregistered);
}

TEST_CASE("launches keep to the device's limits") {
  const Fresh fresh;
  const DeviceArray<int> data(1024);
  cudaLaunchConfig_t config = {};
  config.gridDim = 1;
  config.blockDim = 32;
  config.dynamicSmemBytes = 48 * 1024 + 1;
  CHECK_EQ(cudaLaunchKernelEx(&config, set, data.data(), 1), cudaErrorInvalidValue);
  REQUIRE_EQ(cudaFuncSetAttribute(set, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024), cudaSuccess);
  CHECK_EQ(cudaLaunchKernelEx(&config, set, data.data(), 1), cudaSuccess);
  CHECK_EQ(cudaFuncSetAttribute(set, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024 + 1),
           cudaErrorInvalidValue);
  int blocks = 0;
  REQUIRE_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, set, 256, 100 * 1024), cudaSuccess);
  CHECK_EQ(blocks, 2);
  settings().compute_capability = 80;
  CHECK_EQ(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 164 * 1024),
           cudaErrorInvalidValue);
  CHECK_EQ(launch({.grid = 2, .cluster = 2}, set, data.data(), 1), cudaErrorInvalidClusterSize);
  CHECK_EQ(launch({.block = 1025}, set, data.data(), 1), cudaErrorInvalidConfiguration);
  CHECK_EQ(launch({.grid = 0}, set, data.data(), 1), cudaErrorInvalidConfiguration);
  CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST_CASE("blocks that wait for others by polling get them") {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Fresh fresh;
    settings().seed = seed;
    settings().multiprocessors = 8;
    const DeviceArray<unsigned> flags(std::vector<unsigned>(8, 0));
    REQUIRE_EQ(run({.grid = 8, .block = 1}, chain, flags.data()), cudaSuccess);
    for (const unsigned flag : flags.values()) CHECK_EQ(flag, 1);
  }
}

TEST_CASE("a seed names a schedule") {
  CHECK_EQ(arrivals(3), arrivals(3));
  CHECK_NE(arrivals(3), arrivals(4));
}

TEST_CASE("several host threads use streams of their own") {
  const Fresh fresh;
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int index = 0; index < 4; ++index) {
    threads.emplace_back([&right, index] {
      cudaStream_t stream = nullptr;
      int *device = nullptr, host[32] = {};
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      cudaMallocAsync(&device, 128, stream);
      for (int turn = 0; turn < 50; ++turn) {
        launch({.stream = stream}, set, device, index * 1000 + turn);
        cudaMemcpyAsync(host, device, 128, cudaMemcpyDeviceToHost, stream);
        if (cudaStreamSynchronize(stream) == cudaSuccess && host[31] == index * 1000 + turn) ++right;
      }
      cudaFreeAsync(device, stream);
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(right.load(), 200);
}

}  // namespace simt::test
