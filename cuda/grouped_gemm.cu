// The grouped product for every device from compute capability 8.0 on: tiles of 64 × 64, each made by one
// block from steps of 32, the next step on its way while one is multiplied. Bound by FLOPs, or for few rows
// by the bytes of the weights.
#include "cuda/grouped_gemm.h"

#include <algorithm>

#include "cuda/device/epilogues.cuh"
#include "cuda/device/tile_product.cuh"
#include "cuda/gemm_shape.h"
#include "cuda/hopper_gemm.h"
#include "cuda/launch.h"

namespace moe::cuda {
namespace {

template <class Math>
struct SharedTiles {
  typename Math::Element a[tile_elements<typename Math::Element>()];
  typename Math::Element b[tile_elements<typename Math::Element>()];
};

template <class Math>
constexpr size_t shared_bytes() {
  // Sums take the tiles' place when these are done.
  return std::max(sizeof(SharedTiles<Math>), kTileLanes * kSumPitch * sizeof(float));
}

// The tile of C that comes next for a block.
struct Place {
  int32_t group;
  int64_t first_row, end_row;  // routed rows of the group
  int64_t row, column;         // of C
};

// Walks the tiles of all groups in the order of groups, rows, columns.
class Tiles {
 public:
  __device__ Tiles(const GroupedGemm& gemm, int columns)
      : gemm_(gemm), column_tiles_((gemm.n + columns - 1) / columns), columns_(columns) {
    enter(0);
  }

  // Tile `index`, ascending from call to call; false past the last.
  __device__ bool at(int64_t index, Place& place) {
    while (group_ < gemm_.groups && index >= before_ + tiles_) {
      before_ += tiles_;
      enter(group_ + 1);
    }
    if (group_ >= gemm_.groups) return false;
    const int64_t own = index - before_;
    const int64_t first = gemm_.ragged == Ragged::m ? begin_ : 0;
    place = {group_, begin_, end_, first + own / column_tiles_ * kTileLanes, own % column_tiles_ * columns_};
    return true;
  }

 private:
  __device__ void enter(int32_t group) {
    group_ = group;
    tiles_ = 0;
    if (group >= gemm_.groups) return;
    begin_ = gemm_.offsets != nullptr ? gemm_.offsets[group] : 0;
    end_ = gemm_.offsets != nullptr ? gemm_.offsets[group + 1] : gemm_.rows;
    // Offsets that the caller gave are not trusted with memory.
    end_ = end_ < gemm_.rows ? end_ : gemm_.rows;
    begin_ = begin_ < 0 ? 0 : begin_ < end_ ? begin_ : end_;
    const int64_t rows = gemm_.ragged == Ragged::m ? end_ - begin_ : gemm_.m;
    tiles_ = (rows + kTileLanes - 1) / kTileLanes * column_tiles_;
  }

  const GroupedGemm& gemm_;
  int64_t column_tiles_;
  int columns_;
  int32_t group_ = 0;
  int64_t before_ = 0, tiles_ = 0, begin_ = 0, end_ = 0;
};

// What of a segment's operands a tile shows at a step.
struct Windows {
  Window a, b;
};

__device__ Windows windows_at(const GroupedGemm& gemm, const Segment& segment, const Place& place,
                              int64_t step) {
  const bool ragged_m = gemm.ragged == Ragged::m;
  const int64_t base = ragged_m ? 0 : place.first_row;
  const int64_t steps = ragged_m ? segment.k : place.end_row;
  const int64_t rows = ragged_m ? place.end_row : gemm.m;
  return {{place.group, place.row, rows, base + step, steps},
          {place.group, place.column, gemm.n, base + step, steps}};
}

// A thread's share of the chunks of both tiles.
template <class Math>
class Pipeline {
 public:
  using Element = typename Math::Element;
  static constexpr int kEach = kTileChunks / Math::kThreads;

  __device__ void fetch_step(const GroupedGemm& gemm, const Segment& segment, const Place& place,
                             int64_t step) {
    const Windows windows = windows_at(gemm, segment, place, step);
    a_by_lane_ = segment.a.k_contiguous;
    b_by_lane_ = segment.b[0].k_contiguous;
    for (int i = 0; i < kEach; ++i) {
      const int index = static_cast<int>(threadIdx.x) + i * Math::kThreads;
      a_[i] = fetch<Element>(segment.a, windows.a, index);
      b_[i] = fetch_b(gemm, segment, windows.b, index);
    }
  }

  __device__ void put_step(SharedTiles<Math>& tiles) const {
    for (int i = 0; i < kEach; ++i) {
      const int index = static_cast<int>(threadIdx.x) + i * Math::kThreads;
      put(tiles.a, a_by_lane_, index, a_[i]);
      put(tiles.b, b_by_lane_, index, b_[i]);
    }
  }

  __device__ bool a_by_lane() const { return a_by_lane_; }
  __device__ bool b_by_lane() const { return b_by_lane_; }

 private:
  // Side by side, the second half of a tile's columns shows the second matrix.
  __device__ static Chunk<Element> fetch_b(const GroupedGemm& gemm, const Segment& segment, Window window,
                                           int index) {
    const Operand& first = segment.b[0];
    if (!gemm.side_by_side) return fetch<Element>(first, window, index);
    const int per_row = (first.k_contiguous ? kTileSteps : kTileLanes) / kChunk;
    const int lane = first.k_contiguous ? index / per_row : index % per_row * kChunk;
    const int half = lane / (kTileColumns / 2);
    window.lane -= half * (kTileColumns / 2);
    // The first half must not show what the second does.
    const int64_t end = window.lane + (half + 1) * (kTileColumns / 2);
    window.lanes = window.lanes < end ? window.lanes : end;
    return fetch<Element>(segment.b[half], window, index);
  }

  Chunk<Element> a_[kEach], b_[kEach];
  bool a_by_lane_ = true, b_by_lane_ = true;
};

// Sums of one tile over all segments and steps.
template <class Math>
__device__ void multiply_tile(const GroupedGemm& gemm, const Place& place, SharedTiles<Math>& tiles,
                              Math& math) {
  Pipeline<Math> pipeline;
  int segment = 0;
  int64_t step = 0;
  const auto steps_of = [&](int s) {
    return gemm.ragged == Ragged::m ? gemm.segments[s].k : place.end_row - place.first_row;
  };
  // The next step that there is.
  const auto settle = [&] {
    while (segment < gemm.segments.size() && step >= steps_of(segment)) {
      ++segment;
      step = 0;
    }
    return segment < gemm.segments.size();
  };
  bool more = settle();
  if (more) pipeline.fetch_step(gemm, gemm.segments[segment], place, step);
  while (more) {
    pipeline.put_step(tiles);
    const bool a_by_lane = pipeline.a_by_lane(), b_by_lane = pipeline.b_by_lane();
    __syncthreads();
    step += kTileSteps;
    more = settle();
    if (more) pipeline.fetch_step(gemm, gemm.segments[segment], place, step);
    math.add(tiles.a, a_by_lane, tiles.b, b_by_lane);
    __syncthreads();
  }
}

template <class Math, class Epilogue>
__global__ void __launch_bounds__(Math::kThreads) multiply(const GroupedGemm gemm, const Epilogue epilogue) {
  auto& tiles = *reinterpret_cast<SharedTiles<Math>*>(dynamic_shared());
  auto* sums = reinterpret_cast<float*>(dynamic_shared());
  const int columns = gemm.side_by_side ? kTileColumns / 2 : kTileColumns;
  Tiles walk(gemm, columns);
  Place place;
  for (int64_t index = blockIdx.x; walk.at(index, place); index += gridDim.x) {
    Math math;
    multiply_tile(gemm, place, tiles, math);
    math.store(sums);
    __syncthreads();
    const int64_t rows = (gemm.ragged == Ragged::m ? place.end_row : gemm.m) - place.row;
    const int64_t left = gemm.n - place.column;
    finish(epilogue, Tile{.team = whole_block(),
                          .c = sums,
                          .pitch = kSumPitch,
                          .half = kTileColumns / 2,
                          .group = place.group,
                          .row = place.row,
                          .column = place.column,
                          .rows = static_cast<int>(rows < kTileLanes ? rows : kTileLanes),
                          .columns = static_cast<int>(left < columns ? left : columns)});
    __syncthreads();
  }
}

// Tiles that there can be at most: groups end in tiles that are not full.
int64_t most_tiles(const GroupedGemm& gemm) {
  const int64_t columns = gemm.side_by_side ? kTileColumns / 2 : kTileColumns;
  const int64_t by_rows = gemm.ragged == Ragged::m
                              ? std::min<int64_t>(gemm.rows, gemm.rows / kTileLanes + gemm.groups)
                              : (gemm.m + kTileLanes - 1) / kTileLanes * gemm.groups;
  return by_rows * ((gemm.n + columns - 1) / columns);
}

template <class Math, class Epilogue>
void launch_product(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context) {
  constexpr int kBlocksOfAMultiprocessor = 4;
  const int64_t blocks = std::min<int64_t>(
      most_tiles(gemm), int64_t{context.limits().multiprocessors} * kBlocksOfAMultiprocessor);
  launch(context, "grouped_gemm", multiply<Math, Epilogue>,
         {.blocks = {static_cast<unsigned>(blocks)},
          .threads = {Math::kThreads},
          .shared_bytes = shared_bytes<Math>()},
         gemm, epilogue);
}

template <class Epilogue>
void choose_product(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context) {
  switch (shape_of(gemm).format) {
    case DType::bfloat16:
      return launch_product<TensorCores<DType::bfloat16>>(gemm, epilogue, context);
    case DType::float16:
      return launch_product<TensorCores<DType::float16>>(gemm, epilogue, context);
    default:
      return launch_product<MultiplyAdds>(gemm, epilogue, context);
  }
}

}  // namespace

Block block_of(const ExpertMatrix& matrix) {
  if (!matrix) return {};
  const int64_t bytes = matrix.offset * static_cast<int64_t>(bytes_of(matrix.tensor.dtype));
  return {.data = matrix.tensor.as<char>() + bytes,
          .dtype = matrix.tensor.dtype,
          .group_stride = matrix.expert_stride,
          .row_stride = matrix.row_stride,
          .column_stride = matrix.column_stride};
}

Block block_of(const Tensor& rows) {
  return {.data = rows.data, .dtype = rows.dtype, .row_stride = rows.dim(1)};
}

void grouped_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const Context& context) {
  if (const auto config = hopper_config(shape_of(gemm), context.limits()))
    return hopper_gemm(gemm, epilogue, *config, context);
  std::visit([&](const auto& chosen) { choose_product(gemm, chosen, context); }, epilogue);
}

}  // namespace moe::cuda
