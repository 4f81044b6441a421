// Dispatch and combine: the stable counting sort of slots by expert, and rows moved along it. Bound by bytes.
#include "ops/dispatch.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cpu/backend.h"
#include "cpu/combine.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/stages.h"
#include "ops/router.h"

namespace moe::cpu {
namespace {

constexpr int64_t kSortChunk = 16384;

[[noreturn]] void refuse_rows(const char* name, int64_t most, int64_t used) {
  throw Error(kErrIndexRange, std::string(name) + ": expected at most " + std::to_string(most) +
                                  " routed rows, got " + std::to_string(used));
}

// Turns counts by (chunk, expert) into first rows, and writes the offsets; returns the rows used, at most R.
int64_t place_experts(const Dispatch& op, std::vector<int32_t>& counts, int64_t chunks) {
  const int64_t E = op.offsets.dim(0) - 1, R = op.row_slot.dim(0), padded = op.rows_per_expert;
  int64_t row = 0;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t first = row;
    op.offsets.i32()[e] = static_cast<int32_t>(first);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      int32_t& next = counts[static_cast<size_t>(chunk * E + e)];
      row += std::exchange(next, static_cast<int32_t>(row));
    }
    if (padded == 0) continue;
    if (row - first > padded) refuse_rows("rowsPerExpert", padded, row - first);
    row = first + padded;
  }
  if (row > R) refuse_rows("rows", R, row);
  op.offsets.i32()[E] = static_cast<int32_t>(row);
  return row;
}

}  // namespace

// Each chunk of slots counts its experts, a prefix sum over (expert, chunk) gives each chunk its first rows,
// and the chunks place their slots: the order is that of a sequential sort, however many threads take part.
void run(const Dispatch& op) {
  const int64_t E = op.offsets.dim(0) - 1, R = op.row_slot.dim(0), slots = op.indices.elements();
  check_range("indices", op.indices, E + op.identity_experts);
  const int32_t* expert = op.indices.i32();
  const int64_t chunks = std::max<int64_t>(1, (slots + kSortChunk - 1) / kSortChunk);
  std::vector<int32_t> next(static_cast<size_t>(chunks * E), 0);
  const auto fate = [&](int64_t slot) {
    return op.dropped ? static_cast<SlotFate>(op.dropped.i32()[slot]) : SlotFate::served;
  };
  const auto has_row = [&](int64_t slot) { return expert[slot] < E && fate(slot) == SlotFate::served; };
  const auto each_row = [&](int64_t chunk, auto visit) {
    int32_t* own = next.data() + chunk * E;
    const int64_t end = std::min(slots, (chunk + 1) * kSortChunk);
    for (int64_t slot = chunk * kSortChunk; slot < end; ++slot) {
      if (has_row(slot)) visit(slot, own[expert[slot]]);
    }
  };
  StageTimer stage("count");
  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(chunks,
                    [&](int64_t chunk) { each_row(chunk, [](int64_t, int32_t& count) { ++count; }); });
  const int64_t used = place_experts(op, next, chunks);
  stage.next("place");
  const bool has_holes = op.rows_per_expert > 0;
  std::fill(op.row_slot.i32() + (has_holes ? 0 : used), op.row_slot.i32() + R, kUnusedRow);
  for (int64_t slot = 0; slot < slots && (has_holes || used < slots); ++slot) {
    if (has_row(slot)) continue;
    const bool dropped = fate(slot) == SlotFate::over_capacity || fate(slot) == SlotFate::untaken;
    op.slot_row.i32()[slot] = dropped ? kDroppedSlot : kIdentitySlot;
  }
  pool.parallel_for(chunks, [&](int64_t chunk) {
    each_row(chunk, [&](int64_t slot, int32_t& place) {
      op.row_slot.i32()[place] = static_cast<int32_t>(slot);
      op.slot_row.i32()[slot] = place++;
    });
  });
}

namespace {

// out (+)= Σ_j weights[j] · rows[j], all of the dtype of `out`; zeros for no rows.
void write_row(const std::vector<const void*>& rows, const float* weights, const Tensor& out, int64_t row,
               bool accumulate = false) {
  const int64_t width = out.dim(1);
  kernels().sum_rows({.rows = rows.data(),
                      .weights = weights,
                      .count = static_cast<int64_t>(rows.size()),
                      .width = width,
                      .dtype = out.dtype,
                      .out = mutable_row_of(out, row, width),
                      .out_dtype = out.dtype,
                      .accumulate = accumulate});
}

}  // namespace

void run(const Gather& op) {
  const int64_t H = op.x.dim(1), R = op.rows.dim(0);
  check_range("rowSlot", op.row_slot, op.x.dim(0) * op.top_k, kUnusedRow);
  const auto bytes = static_cast<size_t>(H) * bytes_of(op.x.dtype);
  for_chunks(R, 2 * static_cast<int64_t>(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = op.row_slot.i32()[r];
      void* row = mutable_row_of(op.rows, r, H);
      if (slot == kUnusedRow) {
        std::memset(row, 0, bytes);
      } else {
        std::memcpy(row, row_of(op.x, slot / op.top_k, H), bytes);
      }
    }
  });
}

void sum_slots(const SlotSum& sum) {
  const int64_t T = sum.slot_row.dim(0), K = sum.slot_row.dim(1), H = sum.out.dim(1);
  const auto weight_of = [](const Tensor& weights, int64_t slot) {
    return weights ? weights.f32()[slot] : 1.0f;
  };
  for_chunks(T, (K + 1) * H * static_cast<int64_t>(bytes_of(sum.out.dtype)), [&](int64_t begin, int64_t end) {
    std::vector<const void*> rows;
    std::vector<float> weights;
    for (int64_t t = begin; t < end; ++t) {
      rows.clear();
      weights.clear();
      for (int64_t slot = t * K; slot < (t + 1) * K; ++slot) {
        const int32_t row = sum.slot_row.i32()[slot];
        if (row >= 0 && sum.rows) {
          rows.push_back(row_of(sum.rows, row, H));
          weights.push_back(weight_of(sum.weights, slot));
        } else if (row == kIdentitySlot && sum.tokens) {
          rows.push_back(row_of(sum.tokens, t, H));
          weights.push_back(weight_of(sum.token_weights, slot));
        }
      }
      write_row(rows, weights.data(), sum.out, t, sum.accumulate);
    }
  });
}

void run(const Combine& op) {
  check_range("slotRow", op.slot_row, op.rows.dim(0), kIdentitySlot);
  sum_slots({.rows = op.rows,
             .slot_row = op.slot_row,
             .weights = op.weights,
             .tokens = op.x,
             .token_weights = op.weights,
             .out = op.y,
             .accumulate = op.accumulate});
}

namespace {

// Identity slots: ⟨dy, x⟩ to their weights; dropped ones, nothing.
void gradients_of_rowless_weights(const CombineBackward& op) {
  const int64_t H = op.dy.dim(1), K = op.slot_row.dim(1);
  for (int64_t slot = 0; slot < op.slot_row.elements(); ++slot) {
    const int32_t row = op.slot_row.i32()[slot];
    if (row >= 0) continue;
    const bool identity = row == kIdentitySlot && op.x;
    op.d_weights.f32()[slot] = identity ? kernels().dot(row_of(op.dy, slot / K, H), op.dy.dtype,
                                                        row_of(op.x, slot / K, H), op.x.dtype, H)
                                        : 0;
  }
}

}  // namespace

void run(const CombineBackward& op) {
  const int64_t H = op.dy.dim(1), K = op.slot_row.dim(1), R = op.d_rows.dim(0);
  const DType dtype = op.dy.dtype;
  check_range("rowSlot", op.row_slot, op.slot_row.elements(), kUnusedRow);
  check_range("slotRow", op.slot_row, R, kIdentitySlot);
  if (op.d_weights) gradients_of_rowless_weights(op);
  for_chunks(R, 3 * H * static_cast<int64_t>(bytes_of(dtype)), [&](int64_t begin, int64_t end) {
    std::vector<const void*> row;
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = op.row_slot.i32()[r];
      row.clear();
      if (slot != kUnusedRow) row.push_back(row_of(op.dy, slot / K, H));
      write_row(row, op.weights && slot != kUnusedRow ? op.weights.f32() + slot : nullptr, op.d_rows, r);
      if (!op.d_weights || slot == kUnusedRow) continue;
      op.d_weights.f32()[slot] = kernels().dot(row[0], dtype, row_of(op.rows, r, H), dtype, H);
    }
  });
  // Identity slots alone: no row of d_rows takes part.
  if (op.dx)
    sum_slots(
        {.rows = {}, .slot_row = op.slot_row, .tokens = op.dy, .token_weights = op.weights, .out = op.dx});
}

}  // namespace moe::cpu
