#include "cpu/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"

namespace moe::cpu {
namespace {

// So that the panels of one tile fill less than a first-level cache of 32 KB.
constexpr int64_t kUnits = 128;
// For each thread: beyond what caches hold.
constexpr int64_t kReadBytes = int64_t{128} << 20;

// Calls `work` on every thread again and again for so long; returns calls a second, all threads together: the
// best of short slices, for a ceiling is what nothing disturbed. Of a slice, and not of each thread: one that
// pauses leaves the others more memory.
double calls_per_second(double seconds, const std::function<void(int64_t thread)>& work) {
  using Clock = std::chrono::steady_clock;
  constexpr int kSlices = 16;
  ThreadPool& pool = ThreadPool::instance();
  double best = 0;
  for (int slice = 0; slice < kSlices; ++slice) {
    const auto start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::atomic<int64_t> calls{0};
    pool.parallel_for(pool.threads(), [&](int64_t thread) {
      int64_t own = 0;
      for (; elapsed() < seconds / kSlices; ++own) work(thread);
      calls.fetch_add(own, std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(calls.load()) / elapsed());
  }
  return best;
}

double measure_flops(DType dtype, double seconds) {
  const Kernels& table = kernels();
  const auto pairs = static_cast<size_t>(PanelKind::bfloat16_pairs);
  const bool by_pairs = dtype == DType::bfloat16 && table.tile_product[pairs][0] != nullptr;
  const PanelKind kind = by_pairs ? PanelKind::bfloat16_pairs : PanelKind::floats;
  const TileProduct product = table.tile_product[static_cast<size_t>(kind)][table.tile_rows - 1];
  const int64_t columns = int64_t{kSlivers} * table.width;
  // Zeros: no product takes longer for its values.
  const int64_t a_size = kUnits * table.tile_rows, b_size = kUnits * table.width,
                c_size = table.tile_rows * columns, size = a_size + kSlivers * b_size + c_size;
  const int threads = ThreadPool::instance().threads();
  std::vector<float> panels(static_cast<size_t>(threads * size));
  constexpr int kRepetitions = 64;
  const double calls = calls_per_second(seconds, [&](int64_t thread) {
    float* const own = panels.data() + thread * size;
    for (int i = 0; i < kRepetitions; ++i) {
      product({.units = kUnits,
               .a = own,
               .b0 = own + a_size,
               .b1 = own + a_size + b_size,
               .c = own + a_size + kSlivers * b_size,
               .accumulate = true});
    }
  });
  return calls * kRepetitions *
         static_cast<double>(2 * kUnits * steps_per_unit(kind) * table.tile_rows * columns);
}

double measure_bytes(double seconds) {
  const int64_t threads = ThreadPool::instance().threads();
  const auto memory = allocate_storage(static_cast<size_t>(threads * kReadBytes));
  auto* const floats = static_cast<float*>(memory->data());
  // Its pages come into being.
  ThreadPool::instance().parallel_for(
      threads, [&](int64_t thread) { std::memset(floats + thread * kReadBytes / 4, 0, kReadBytes); });
  // A megabyte a call, from the two halves of a thread's part.
  constexpr int64_t kCallBytes = int64_t{1} << 20, kCalls = kReadBytes / kCallBytes;
  std::vector<int64_t> next(static_cast<size_t>(threads));
  const double calls = calls_per_second(seconds, [&](int64_t thread) {
    const int64_t call = next[static_cast<size_t>(thread)]++ % kCalls;
    const float* const part = floats + (thread * kReadBytes + call * kCallBytes / 2) / 4;
    static_cast<void>(
        kernels().dot(part, DType::float32, part + kReadBytes / 8, DType::float32, kCallBytes / 8));
  });
  return calls * static_cast<double>(kCallBytes);
}

}  // namespace

Ceilings measure_ceilings(DType dtype, double seconds) {
  return {.flops = measure_flops(dtype, seconds), .bytes = measure_bytes(seconds)};
}

}  // namespace moe::cpu
