// The stable counting sort of slots by expert, without a word to the host. Bound by the bytes of the indices.
//
// A warp walks a chunk of slots, thirty-two at a time: first it counts its experts, then, when the counts of
// all chunks have been added up, it places its slots. The order is that of a sequential sort.
#include "ops/dispatch.h"

#include "cuda/backend.h"
#include "cuda/device/report.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/launch.h"
#include "ops/router.h"

namespace moe::cuda {
namespace {

constexpr int kChunk = 1024;

// What the kernels share. `next` is [E][chunks]: counts first, then the next row of each.
struct Sort {
  const int32_t* indices;
  const int32_t* dropped;  // or null
  int64_t slots;
  int32_t experts, all_experts;  // E, and identity experts beside them
  int32_t chunks;
  int32_t rows_per_expert;
  int64_t rows;  // R
  int32_t* next;
  int32_t* offsets;
  int32_t* row_slot;
  int32_t* slot_row;
  FailureReport bad_index, too_many_rows, too_many_in_group;
};

__device__ SlotFate fate_of(const Sort& sort, int64_t slot) {
  return sort.dropped == nullptr ? SlotFate::served : static_cast<SlotFate>(sort.dropped[slot]);
}

// Walks a warp's chunk: visit(slot, expert, place) for each slot that gets a row, where `place` is `next` of
// its expert and chunk, which counts the slots before it.
template <class Visit>
__device__ void walk_chunk(const Sort& sort, int64_t chunk, Visit visit) {
  const int lane = lane_id();
  for (int64_t begin = chunk * kChunk; begin < (chunk + 1) * kChunk && begin < sort.slots; begin += kWarp) {
    const int64_t slot = begin + lane;
    int32_t expert = -1;
    if (slot < sort.slots && fate_of(sort, slot) == SlotFate::served) expert = sort.indices[slot];
    const bool has_row = expert >= 0 && expert < sort.experts;
    const unsigned peers = __match_any_sync(kAllLanes, has_row ? expert : -1);
    const int before = __popc(peers & ((1u << lane) - 1));
    int32_t* next = has_row ? sort.next + int64_t{expert} * sort.chunks + chunk : nullptr;
    if (has_row) visit(slot, expert, *next + before);
    __syncwarp();
    if (has_row && before == 0) *next += __popc(peers);
    __syncwarp();
  }
}

__global__ void __launch_bounds__(kWarp) count_slots(Sort sort) {
  walk_chunk(sort, blockIdx.x, [](int64_t, int32_t, int32_t) {});
}

// One warp for each expert: counts of chunks become places within the expert; its total goes to offsets[e+1].
__global__ void __launch_bounds__(kWarp) scan_chunks(Sort sort) {
  const int lane = lane_id();
  int32_t* next = sort.next + int64_t{blockIdx.x} * sort.chunks;
  int32_t before = 0;
  for (int32_t begin = 0; begin < sort.chunks; begin += kWarp) {
    const int32_t chunk = begin + lane;
    const int32_t own = chunk < sort.chunks ? next[chunk] : 0;
    int32_t sum = own;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int32_t other = __shfl_up_sync(kAllLanes, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (chunk < sort.chunks) next[chunk] = before + sum - own;
    before += __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  if (lane != 0) return;
  if (sort.rows_per_expert > 0) {
    if (before > sort.rows_per_expert) sort.too_many_in_group(before, 0, sort.rows_per_expert + 1);
    before = sort.rows_per_expert;
  }
  sort.offsets[blockIdx.x + 1] = before;
}

// One warp: totals become offsets.
__global__ void __launch_bounds__(kWarp) scan_experts(Sort sort) {
  const int lane = lane_id();
  int64_t before = 0;
  for (int32_t begin = 0; begin < sort.experts; begin += kWarp) {
    const int32_t e = begin + lane;
    int64_t sum = e < sort.experts ? sort.offsets[e + 1] : 0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int64_t other = __shfl_up_sync(kAllLanes, sum, offset);
      if (lane >= offset) sum += other;
    }
    // Rows past the last are never touched: what comes after ends there.
    const int64_t end = before + sum < sort.rows ? before + sum : sort.rows;
    if (e < sort.experts) sort.offsets[e + 1] = static_cast<int32_t>(end);
    before += __shfl_sync(kAllLanes, sum, kWarp - 1);
  }
  if (lane != 0) return;
  sort.offsets[0] = 0;
  if (before > sort.rows)
    sort.too_many_rows(static_cast<int32_t>(before), 0, static_cast<int32_t>(sort.rows + 1));
}

__global__ void __launch_bounds__(kWarp) place_slots(Sort sort) {
  const int64_t chunk = blockIdx.x;
  for (int64_t slot = chunk * kChunk + lane_id(); slot < (chunk + 1) * kChunk && slot < sort.slots;
       slot += kWarp) {
    const int32_t expert = sort.indices[slot];
    if (expert < 0 || expert >= sort.all_experts) sort.bad_index(expert, 0, sort.all_experts);
    const SlotFate fate = fate_of(sort, slot);
    const bool dropped = fate == SlotFate::over_capacity || fate == SlotFate::untaken;
    sort.slot_row[slot] = dropped ? kDroppedSlot : kIdentitySlot;
  }
  __syncwarp();
  walk_chunk(sort, chunk, [&](int64_t slot, int32_t expert, int32_t place) {
    const int64_t row = int64_t{sort.offsets[expert]} + place;
    const bool fits = row < sort.offsets[expert + 1];
    sort.slot_row[slot] = fits ? static_cast<int32_t>(row) : kDroppedSlot;
    if (fits) sort.row_slot[row] = static_cast<int32_t>(slot);
  });
}

}  // namespace

void run(const Dispatch& op, const Context& context) {
  const int64_t slots = op.indices.elements(), E = op.offsets.dim(0) - 1;
  const int64_t chunks = std::max<int64_t>(1, (slots + kChunk - 1) / kChunk);
  const Workspace next = context.workspace(E, chunks, DType::int32);
  StageTimer stage(context, "count");
  run(Fill{.out = next.tensor, .value = 0}, context);
  run(Fill{.out = op.row_slot, .value = static_cast<float>(kUnusedRow)}, context);
  const Sort sort = {.indices = op.indices.i32(),
                     .dropped = op.dropped ? op.dropped.i32() : nullptr,
                     .slots = slots,
                     .experts = static_cast<int32_t>(E),
                     .all_experts = static_cast<int32_t>(E + op.identity_experts),
                     .chunks = static_cast<int32_t>(chunks),
                     .rows_per_expert = op.rows_per_expert,
                     .rows = op.row_slot.dim(0),
                     .next = next.tensor.i32(),
                     .offsets = op.offsets.i32(),
                     .row_slot = op.row_slot.i32(),
                     .slot_row = op.slot_row.i32(),
                     .bad_index = context.report(Argument::indices),
                     .too_many_rows = context.report(Argument::rows),
                     .too_many_in_group = context.report(Argument::rows_per_expert)};
  const auto per_chunk = Grid{.blocks = {static_cast<unsigned>(chunks)}, .threads = {kWarp}};
  const auto per_expert = Grid{.blocks = {static_cast<unsigned>(E)}, .threads = {kWarp}};
  launch(context, "count_slots", count_slots, per_chunk, sort);
  launch(context, "scan_chunks", scan_chunks, per_expert, sort);
  launch(context, "scan_experts", scan_experts, {.blocks = {1}, .threads = {kWarp}}, sort);
  stage.next("place");
  launch(context, "place_slots", place_slots, per_chunk, sort);
}

}  // namespace moe::cuda
