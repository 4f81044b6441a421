// Dispatch and combine: the stable counting sort of slots by expert, and rows moved along it. Bound by bytes.
#include "ops/dispatch.h"

#include <array>
#include <vector>

#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"

namespace moe::cpu {
namespace {

constexpr int64_t kSortChunk = 16384;

}  // namespace

// Each chunk of slots counts its experts, a prefix sum over (expert, chunk) gives each chunk its first rows,
// and the chunks place their slots: the order is that of a sequential sort, however many threads take part.
void run(const Dispatch& op) {
  const int64_t E = op.offsets.dim(0) - 1, R = op.row_slot.dim(0);
  check_range("indices", op.indices, E);
  const int32_t* expert = op.indices.i32();
  const int64_t chunks = std::max<int64_t>(1, (R + kSortChunk - 1) / kSortChunk);
  std::vector<int32_t> next(static_cast<size_t>(chunks * E), 0);
  const auto each_slot = [&](int64_t chunk, auto visit) {
    int32_t* own = next.data() + chunk * E;
    const int64_t end = std::min(R, (chunk + 1) * kSortChunk);
    for (int64_t slot = chunk * kSortChunk; slot < end; ++slot) visit(slot, own[expert[slot]]);
  };
  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(chunks,
                    [&](int64_t chunk) { each_slot(chunk, [](int64_t, int32_t& count) { ++count; }); });
  int32_t row = 0;
  for (int64_t e = 0; e < E; ++e) {
    op.offsets.i32()[e] = row;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int32_t& first = next[static_cast<size_t>(chunk * E + e)];
      row += std::exchange(first, row);
    }
  }
  op.offsets.i32()[E] = row;
  pool.parallel_for(chunks, [&](int64_t chunk) {
    each_slot(chunk, [&](int64_t slot, int32_t& place) {
      op.row_slot.i32()[place] = static_cast<int32_t>(slot);
      op.slot_row.i32()[slot] = place++;
    });
  });
}

void run(const Gather& op) {
  const int64_t H = op.x.dim(1), R = op.rows.dim(0);
  check_range("rowSlot", op.row_slot, R);
  const int64_t bytes = H * static_cast<int64_t>(bytes_of(op.x.dtype));
  for_chunks(R, 2 * bytes, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const void* source = row_of(op.x, op.row_slot.i32()[r] / op.top_k, H);
      kernels().cast(source, op.x.dtype, mutable_row_of(op.rows, r, H), op.rows.dtype, H);
    }
  });
}

void run(const Combine& op) {
  const int64_t T = op.slot_row.dim(0), K = op.slot_row.dim(1), H = op.y.dim(1);
  check_range("slotRow", op.slot_row, T * K);
  for_chunks(T, (K + 1) * H * static_cast<int64_t>(bytes_of(op.y.dtype)), [&](int64_t begin, int64_t end) {
    std::vector<const void*> rows(static_cast<size_t>(K));
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t k = 0; k < K; ++k)
        rows[static_cast<size_t>(k)] = row_of(op.rows, op.slot_row.i32()[t * K + k], H);
      kernels().sum_rows({.rows = rows.data(),
                          .weights = op.weights ? op.weights.f32() + t * K : nullptr,
                          .count = K,
                          .width = H,
                          .dtype = op.rows.dtype,
                          .out = mutable_row_of(op.y, t, H),
                          .out_dtype = op.y.dtype,
                          .accumulate = false});
    }
  });
}

void run(const CombineBackward& op) {
  const int64_t H = op.dy.dim(1), R = op.d_rows.dim(0);
  const DType dtype = op.dy.dtype;
  check_range("rowSlot", op.row_slot, R);
  for_chunks(R, 3 * H * static_cast<int64_t>(bytes_of(dtype)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = op.row_slot.i32()[r];
      const void* dy = row_of(op.dy, slot / op.top_k, H);
      kernels().sum_rows({.rows = &dy,
                          .weights = op.weights ? op.weights.f32() + slot : nullptr,
                          .count = 1,
                          .width = H,
                          .dtype = dtype,
                          .out = mutable_row_of(op.d_rows, r, H),
                          .out_dtype = dtype,
                          .accumulate = false});
      if (op.d_weights) op.d_weights.f32()[slot] = kernels().dot(dy, dtype, row_of(op.rows, r, H), dtype, H);
    }
  });
}

}  // namespace moe::cpu
