// The warpgroup that fills stages. One thread asks for boxes by tensor maps; where rows are gathered, all of
// them copy 16-byte chunks, zeros where there is nothing.
#pragma once

#include "cuda/device/hopper_stages.cuh"
#include "cuda/device/ragged_tiles.cuh"

namespace moe::cuda {

// What of a segment's operand a tile shows: lanes from `lane` on, and where there are no more; steps of k
// likewise.
struct HopperWindow {
  int32_t group, lane, lanes, step, steps;
};

// A thread's share of gathered panels: chunk `thread % 8` of rows thread / 8 + 16i.
template <int kPanels>
class GatheredRows {
 public:
  // Reads where the rows from `first` on are, of those before `end`. Eight threads share a row, and each of
  // them reads for one i.
  __device__ void ask(const Operand& operand, int32_t first, int32_t end) {
    const int thread = static_cast<int>(threadIdx.x);
    const int32_t row = first + thread / 8 + 16 * (thread % 8 % kEach);
    index_ = row < end ? operand.row_index[row] : -1;
  }

  // Finds the rows that were asked for. For the whole warp.
  __device__ void find(const Operand& operand, int32_t group) {
    const int32_t own = index_ < 0 ? -1 : index_ / operand.row_divisor;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t position = __shfl_sync(kAllLanes, own, i, 8);
      row_[i] = position < 0 || position >= operand.row_count
                    ? nullptr
                    : static_cast<const uint16_t*>(operand.data) + group * operand.group_stride +
                          position * operand.row_stride;
    }
  }

  // Their elements from `from` on, of those before `end`, to panels.
  __device__ void copy(const Operand& operand, int32_t from, int32_t end, uint32_t panels) const {
    const int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
    const int32_t at = from + chunk * 8, left = end - at;
    const uint32_t bytes = left <= 0 ? 0 : left < 8 ? static_cast<uint32_t>(left) * 2 : 16;
    const uint32_t to = panels + row * 128 + (chunk ^ row % 8) * 16;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool exists = row_[i] != nullptr && bytes > 0;
      ptx::cp_async_16(to + i * (16 * 128), exists ? row_[i] + at : operand.data, exists ? bytes : 0);
    }
  }

 private:
  static constexpr int kEach = 4 * kPanels;

  int32_t index_ = -1;
  const uint16_t* row_[kEach];  // none where null
};

// Gathered steps of k: the same rows for every panel, others at each step, asked for one step ahead.
template <int kPanels>
class GatheredSteps {
 public:
  __device__ void begin(const Operand& operand, const HopperWindow& window) {
    rows_.ask(operand, window.step, window.steps);
  }

  __device__ void copy(const Operand& operand, const HopperWindow& window, uint32_t panels) {
    rows_.find(operand, window.group);
    rows_.ask(operand, window.step + kPanel, window.steps);
#pragma unroll 1
    for (int p = 0; p < kPanels; ++p)
      rows_.copy(operand, window.lane + p * kPanel, window.lanes, panels + p * kPanelBytes);
  }

 private:
  GatheredRows<1> rows_;
};

__device__ inline bool is_gathered(const Operand& operand) {
  return operand.row_index != nullptr;
}

template <class Shape>
class Producer {
 public:
  __device__ explicit Producer(const HopperProduct& product)
      : product_(product), stages_(product.stages), leads_(threadIdx.x < kWarp && ptx::elect_lane()) {}

  __device__ void fill_tile(const Place& place) {
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
    GatheredRows<Shape::kPanelsOfA> rows_of_a;
    GatheredSteps<Shape::kPanelsOfA> steps_of_a;
    GatheredSteps<Shape::kPanelsOfB> steps_of_b;
    if (gathers_a && ragged_m) {
      rows_of_a.ask(segment.a, a.lane, a.lanes);
      rows_of_a.find(segment.a, a.group);
    }
    if (gathers_a && !ragged_m) steps_of_a.begin(segment.a, a);
    if (gathers_b) steps_of_b.begin(segment.b[0], b);
#pragma unroll 1
    for (; a.step < a.steps; a.step += kPanel, b.step += kPanel) {
      stages_.wait_empty();
      if (leads_) {
        ptx::mbarrier_arrive_expect_tx(stages_.full(), static_cast<uint32_t>(boxes * kPanelBytes));
        if (!gathers_a) load_a(segment.a, maps.a, a);
        if (!gathers_b) load_b(segment, maps, b);
      }
      if (gathers_a && ragged_m) rows_of_a.copy(segment.a, a.step, a.steps, stages_.a());
      if (gathers_a && !ragged_m) steps_of_a.copy(segment.a, a, stages_.a());
      if (gathers_b) steps_of_b.copy(segment.b[0], b, stages_.b());
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
    constexpr int kHalf = Shape::kPanelsOfB / 2;
#pragma unroll 1
    for (int p = 0; p < Shape::kPanelsOfB; ++p) {
      const int matrix = product_.gemm.side_by_side && p >= kHalf ? 1 : 0;
      load(segment.b[matrix], maps.b[matrix], window, window.lane + (p - matrix * kHalf) * kPanel,
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
