// The warpgroup that fills stages. One thread asks for boxes by tensor maps; where rows are gathered, all of
// them copy 16-byte chunks, zeros where there is nothing.
#pragma once

#include "cuda/device/hopper_stages.cuh"
#include "cuda/device/hopper_tiles.cuh"

namespace moe::cuda {

// What of a segment's operand a tile shows: lanes from `lane` on, and where there are no more; steps of k
// likewise.
struct HopperWindow {
  int32_t group, lane, lanes, step, steps;
};

// A thread's share of a gathered panel: chunk `thread % 8` of rows thread / 8 + 16i.
class GatheredRows {
 public:
  static constexpr int kEach = 4;

  // Rows from `first` on, of those before `end`.
  __device__ void find(const Operand& operand, int32_t group, int32_t first, int32_t end) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t row = first + static_cast<int32_t>(threadIdx.x) / 8 + 16 * i;
      row_[i] = nullptr;
      if (row >= end) continue;
      const int32_t position = operand.row_index[row] / operand.row_divisor;
      if (position < 0 || position >= operand.row_count) continue;
      row_[i] = static_cast<const uint16_t*>(operand.data) + group * operand.group_stride +
                position * operand.row_stride;
    }
  }

  // Their elements from `from` on, of those before `end`, to a panel.
  __device__ void copy(const void* anywhere, int32_t from, int32_t end, uint32_t panel) const {
    const int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
    const int32_t at = from + chunk * 8, left = end - at;
    const uint32_t bytes = left <= 0 ? 0 : left < 8 ? static_cast<uint32_t>(left) * 2 : 16;
    const uint32_t to = panel + row * 128 + (chunk ^ row % 8) * 16;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool exists = row_[i] != nullptr && bytes > 0;
      ptx::cp_async_chunk(to + i * (16 * 128), exists ? row_[i] + at : anywhere, exists ? bytes : 0);
    }
  }

 private:
  const uint16_t* row_[kEach];  // none where null
};

// Gathered lanes: rows of A. They are the same at every step of a tile, so they are found once.
template <int kPanels>
class GatheredLanes {
 public:
  __device__ void find(const Operand& operand, const HopperWindow& window) {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
      rows_[p].find(operand, window.group, window.lane + p * kPanel, window.lanes);
  }

  __device__ void copy(const Operand& operand, const HopperWindow& window, uint32_t panels) const {
#pragma unroll
    for (int p = 0; p < kPanels; ++p)
      rows_[p].copy(operand.data, window.step, window.steps, panels + p * kPanelBytes);
  }

 private:
  GatheredRows rows_[kPanels];
};

// Gathered steps of k: the same in every panel.
template <int kPanels>
__device__ void copy_steps(const Operand& operand, const HopperWindow& window, uint32_t panels) {
  GatheredRows rows;
  rows.find(operand, window.group, window.step, window.steps);
#pragma unroll 1
  for (int p = 0; p < kPanels; ++p)
    rows.copy(operand.data, window.lane + p * kPanel, window.lanes, panels + p * kPanelBytes);
}

__device__ inline bool is_gathered(const Operand& operand) {
  return operand.row_index != nullptr;
}

template <class Shape>
class Producer {
 public:
  __device__ explicit Producer(const HopperProduct& product)
      : product_(product), stages_(product.stages), leads_(threadIdx.x < kWarp && ptx::elect_lane()) {}

  __device__ void fill_tile(const HopperPlace& place) {
    // Who has nothing to do in a stage must not wait for it, either: it could come too late for its phase.
    if (!leads_ && !product_.gathers) return;
    const GroupedGemm& gemm = product_.gemm;
    const bool ragged_m = gemm.ragged == Ragged::m;
    for (int s = 0; s < gemm.segments.size(); ++s) {
      const Segment& segment = gemm.segments[s];
      const int32_t first = ragged_m ? 0 : place.begin;
      const int32_t steps = ragged_m ? static_cast<int32_t>(segment.k) : place.end;
      const int32_t rows = ragged_m ? place.end : static_cast<int32_t>(gemm.m);
      fill_segment(segment, product_.maps[s], {place.group, place.row, rows, first, steps},
                   {place.group, place.column, static_cast<int32_t>(gemm.n), first, steps});
    }
  }

 private:
  // Where M is ragged, rows of A may be gathered; where K is, the steps of either operand.
  __device__ void fill_segment(const Segment& segment, const HopperProduct::Maps& maps, HopperWindow a,
                               HopperWindow b) {
    const bool ragged_m = product_.gemm.ragged == Ragged::m;
    const bool gathers_a = is_gathered(segment.a), gathers_b = is_gathered(segment.b[0]);
    const int boxes = (gathers_a ? 0 : Shape::kPanelsOfA) + (gathers_b ? 0 : Shape::kPanelsOfB);
    GatheredLanes<Shape::kPanelsOfA> lanes;
    if (gathers_a && ragged_m) lanes.find(segment.a, a);
#pragma unroll 1
    for (; a.step < a.steps; a.step += kPanel, b.step += kPanel) {
      stages_.wait_empty();
      if (leads_) {
        ptx::mbarrier_arrive_expect_tx(stages_.full(), static_cast<uint32_t>(boxes * kPanelBytes));
        if (!gathers_a) load_a(segment.a, maps.a, a);
        if (!gathers_b) load_b(segment, maps, b);
      }
      if (gathers_a && ragged_m) lanes.copy(segment.a, a, stages_.a());
      if (gathers_a && !ragged_m) copy_steps<Shape::kPanelsOfA>(segment.a, a, stages_.a());
      if (gathers_b) copy_steps<Shape::kPanelsOfB>(segment.b[0], b, stages_.b());
      if (product_.gathers) ptx::cp_async_mbarrier_arrive(stages_.full());
      stages_.next();
    }
  }

  __device__ void load_a(const Operand& operand, const CUtensorMap& map, const HopperWindow& window) const {
#pragma unroll 1
    for (int p = 0; p < Shape::kPanelsOfA; ++p)
      load(operand, map, window, window.lane + p * kPanel, stages_.a() + p * kPanelBytes);
  }

  // Side by side, the second half of a tile's columns shows the second matrix.
  __device__ void load_b(const Segment& segment, const HopperProduct::Maps& maps,
                         const HopperWindow& window) const {
    const int panels = product_.gemm.side_by_side ? Shape::kPanelsOfB / 2 : Shape::kPanelsOfB;
#pragma unroll 1
    for (int p = 0; p < Shape::kPanelsOfB; ++p) {
      const int matrix = p / panels;
      load(segment.b[matrix], maps.b[matrix], window, window.lane + p % panels * kPanel,
           stages_.b() + p * kPanelBytes);
    }
  }

  // One panel. An absent operand is asked for a group there is none of: outside of a tensor are zeros.
  __device__ void load(const Operand& operand, const CUtensorMap& map, const HopperWindow& window,
                       int32_t lane, uint32_t panel) const {
    const int32_t matrix = operand.absent              ? product_.gemm.groups
                           : operand.group_stride != 0 ? window.group
                                                       : 0;
    if (operand.k_contiguous) {
      ptx::load_box(panel, map, window.step, lane, matrix, stages_.full());
    } else {
      ptx::load_box(panel, map, lane, window.step, matrix, stages_.full());
    }
  }

  const HopperProduct& product_;
  Stages<Shape> stages_;
  bool leads_;
};

}  // namespace moe::cuda
