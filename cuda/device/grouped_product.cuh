// The grouped product for every shape, dtype and device from compute capability 8.0 on: blocks stride over
// the tiles of C, several steps of k on their way to shared memory while one is multiplied. Bound by FLOPs,
// or for few rows by the bytes of the weights.
#pragma once

#include "cuda/device/epilogues.cuh"
#include "cuda/device/ragged_tiles.cuh"
#include "cuda/device/tile_product.cuh"
#include "cuda/grouped_product.h"
#include "cuda/launch.h"

namespace moe::cuda {

template <class Product>
struct Stage {
  typename Product::TileA a;
  typename Product::TileB b;
};

template <class Product>
constexpr size_t shared_bytes_of() {
  // Sums take the stages' place when these are done.
  constexpr size_t kStages = Product::kShape.stages * sizeof(Stage<Product>);
  constexpr size_t kSums = Product::kM * Product::kSumPitch * sizeof(float);
  return kStages > kSums ? kStages : kSums;
}

// Sums of one tile over all segments and steps.
template <class Product>
class Accumulation {
 public:
  __device__ Accumulation(const GroupedGemm& gemm, const Place& place, Stage<Product>* stages)
      : gemm_(gemm),
        place_(place),
        stages_(stages),
        loading_(gemm, place, Product::kSteps),
        adding_(gemm, place, Product::kSteps) {}

  __device__ void run(Product& product) {
    for (int i = 0; i < kStages - 1; ++i) load();
    for (; adding_.more(); adding_.advance()) {
      // The step's own copies are done, and every thread has left the stage that is loaded next.
      ptx::cp_async_wait<kStages - 2>();
      __syncthreads();
      load();
      add(product);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

 private:
  static constexpr int kStages = Product::kShape.stages;

  // The next step that there is; a group of copies each time, so that they can be counted.
  __device__ void load() {
    if (loading_.more()) {
      if (loading_.segment() != loaded_segment_) enter(loading_.segment());
      Stage<Product>& stage = stages_[loaded_++ % kStages];
      a_.copy(loading_.step(), stage.a);
      b_.copy(loading_.step(), stage.b);
      loading_.advance();
    }
    ptx::cp_async_commit();
  }

  __device__ void enter(int segment) {
    loaded_segment_ = segment;
    const Segment& of = gemm_.segments[segment];
    const bool ragged_m = gemm_.ragged == Ragged::m;
    const int64_t first_step = ragged_m ? 0 : place_.begin, end_step = ragged_m ? of.k : place_.end;
    a_.enter(&of.a, {.group = place_.group,
                     .lane = place_.row,
                     .end_lane = ragged_m ? place_.end : gemm_.m,
                     .step = first_step,
                     .end_step = end_step,
                     .side_by_side = false});
    b_.enter(of.b, {.group = place_.group,
                    .lane = place_.column,
                    .end_lane = gemm_.n,
                    .step = first_step,
                    .end_step = end_step,
                    .side_by_side = gemm_.side_by_side});
  }

  __device__ void add(Product& product) {
    const Stage<Product>& stage = stages_[added_++ % kStages];
    const Segment& of = gemm_.segments[adding_.segment()];
    if (!of.a.k_contiguous) {
      product.template add<false, false>(stage.a, stage.b);
    } else if (of.b[0].k_contiguous) {
      product.template add<true, true>(stage.a, stage.b);
    } else {
      product.template add<true, false>(stage.a, stage.b);
    }
  }

  const GroupedGemm& gemm_;
  const Place& place_;
  Stage<Product>* stages_;
  Steps loading_, adding_;
  int loaded_ = 0, added_ = 0;
  int loaded_segment_ = -1;
  typename Product::LoaderA a_;
  typename Product::LoaderB b_;
};

// One block of a multiprocessor must do: left to itself the compiler spills registers to make room for two.
template <class Product, class Epilogue>
__global__ void __launch_bounds__(Product::kThreads, 1)
    multiply(const __grid_constant__ GroupedGemm gemm, const __grid_constant__ Epilogue epilogue) {
  auto* stages = reinterpret_cast<Stage<Product>*>(dynamic_shared());
  auto* sums = reinterpret_cast<float*>(dynamic_shared());
  const int columns = gemm.side_by_side ? Product::kN / 2 : Product::kN;
  RaggedTiles tiles(gemm, Product::kM, columns);
  Place place;
  for (int64_t index = blockIdx.x; tiles.at(index, place); index += gridDim.x) {
    Product product;
    Accumulation<Product>(gemm, place, stages).run(product);
    product.store(sums);
    __syncthreads();
    const int64_t rows = (gemm.ragged == Ragged::m ? place.end : gemm.m) - place.row;
    const int64_t left = gemm.n - place.column;
    finish(epilogue, Tile{.team = whole_block(),
                          .c = sums,
                          .pitch = Product::kSumPitch,
                          .half = Product::kN / 2,
                          .group = place.group,
                          .row = place.row,
                          .column = place.column,
                          .rows = static_cast<int>(rows < Product::kM ? rows : Product::kM),
                          .columns = static_cast<int>(left < columns ? left : columns)});
    __syncthreads();
  }
}

template <Arithmetic kArithmetic, TileSize kSize>
void launch_size(const GroupedGemm& gemm, const Epilogue& epilogue, int blocks, const Context& context) {
  using Product = TileProduct<kArithmetic, kSize>;
  std::visit(
      [&](const auto& chosen) {
        launch(context, "grouped_gemm", multiply<Product, std::decay_t<decltype(chosen)>>,
               {.blocks = {static_cast<unsigned>(blocks)},
                .threads = {Product::kThreads},
                .shared_bytes = shared_bytes_of<Product>()},
               gemm, chosen);
      },
      epilogue);
}

// Instantiated in grouped_product_*.cu, one for each arithmetic.
template <Arithmetic kArithmetic>
void grouped_product(const GroupedGemm& gemm, const Epilogue& epilogue, const GemmConfig& config,
                     const Context& context) {
  switch (config.size) {
    case TileSize::narrow:
      return launch_size<kArithmetic, TileSize::narrow>(gemm, epilogue, config.blocks, context);
    case TileSize::flat:
      return launch_size<kArithmetic, TileSize::flat>(gemm, epilogue, config.blocks, context);
    case TileSize::small:
      return launch_size<kArithmetic, TileSize::small>(gemm, epilogue, config.blocks, context);
    case TileSize::large:
      return launch_size<kArithmetic, TileSize::large>(gemm, epilogue, config.blocks, context);
    case TileSize::wide:  // for whole rows alone: see route_projected.cu
      break;
  }
}

}  // namespace moe::cuda
