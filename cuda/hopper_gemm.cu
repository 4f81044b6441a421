// The grouped product for compute capability 9.0: as many blocks as there are multiprocessors, each with one
// warpgroup that fetches operands and two that multiply, all of them walking the tiles of all groups. The
// next tile's operands are on their way while one is finished. Bound by FLOPs, or for few rows by the bytes
// of the weights.
#include "cuda/hopper_gemm.h"

#include <algorithm>

#include "cuda/device/hopper_consumer.cuh"
#include "cuda/device/hopper_producer.cuh"
#include "cuda/launch.h"
#include "cuda/tensor_map.h"

namespace moe::cuda {
namespace {

template <class Shape, class Epilogue>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    hopper_multiply(const __grid_constant__ HopperProduct product,
                    const __grid_constant__ Epilogue epilogue) {
// Code for other architectures is never launched.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(MOE_SIMT)
  if (threadIdx.x == 0) Stages<Shape>(product.stages).set_up(product.gathers);
  __syncthreads();
  const int columns = product.gemm.side_by_side ? Shape::kTileN / 2 : Shape::kTileN;
  Place place;
  if (threadIdx.x < kWarpgroup) {
    ptx::release_registers<Shape::kProducerRegisters>();
    if (threadIdx.x >= kWarp && !product.gathers) return;
    RaggedTiles tiles(product.gemm, Shape::kTileM, columns);
    Producer<Shape> producer(product);
    for (int64_t index = blockIdx.x; tiles.at(index, place); index += gridDim.x) producer.fill_tile(place);
  } else {
    ptx::claim_registers<Shape::kConsumerRegisters>();
    RaggedTiles tiles(product.gemm, Shape::kTileM, columns);
    Consumer<Shape> consumer(product);
    for (int64_t index = blockIdx.x; tiles.at(index, place); index += gridDim.x)
      consumer.take_tile(place, epilogue);
  }
#endif
}

// Of `lanes` rows, or columns, of C by `steps` of k; positions from `row_count` on are outside.
CUtensorMap map_of(const Operand& operand, int64_t lanes, int64_t steps, int32_t groups) {
  return tensor_map({.data = operand.data,
                     .dtype = operand.dtype,
                     .columns = operand.k_contiguous ? steps : lanes,
                     .rows = std::min(operand.k_contiguous ? lanes : steps, operand.row_count),
                     .matrices = operand.group_stride != 0 ? groups : 1,
                     .row_stride = operand.row_stride,
                     .matrix_stride = operand.group_stride},
                    kPanel, kPanel);
}

HopperProduct product_of(const GroupedGemm& gemm, const HopperConfig& config) {
  HopperProduct product = {.gemm = gemm, .stages = config.stages};
  const bool ragged_m = gemm.ragged == Ragged::m;
  for (int s = 0; s < gemm.segments.size(); ++s) {
    const Segment& segment = gemm.segments[s];
    const int64_t steps = ragged_m ? segment.k : gemm.rows;
    const auto map = [&](const Operand& operand, int64_t lanes) {
      if (operand.row_index == nullptr) return map_of(operand, lanes, steps, gemm.groups);
      product.gathers = true;
      return CUtensorMap{};
    };
    product.maps[s].a = map(segment.a, ragged_m ? gemm.rows : gemm.m);
    for (int matrix = 0; matrix < (gemm.side_by_side ? 2 : 1); ++matrix)
      product.maps[s].b[matrix] = map(segment.b[matrix], gemm.n);
  }
  return product;
}

template <class Shape, class Epilogue>
void launch_shape(const GroupedGemm& gemm, const Epilogue& epilogue, const HopperConfig& config,
                  const Context& context) {
  const int64_t blocks = std::min<int64_t>(most_tiles(shape_of(gemm, false), config.tile_m, config.tile_n),
                                           context.limits().multiprocessors);
  if (blocks == 0) return;
  launch(context, "hopper_gemm", hopper_multiply<Shape, Epilogue>,
         {.blocks = {static_cast<unsigned>(blocks)},
          .threads = {Shape::kThreads},
          .shared_bytes = config.shared_bytes()},
         product_of(gemm, config), epilogue);
}

template <DType kFormat, int kRows, class Epilogue>
void choose_columns(const GroupedGemm& gemm, const Epilogue& epilogue, const HopperConfig& config,
                    const Context& context) {
  switch (config.tile_n) {
    case 256:
      return launch_shape<HopperShape<kFormat, kRows, 256>>(gemm, epilogue, config, context);
    case 128:
      return launch_shape<HopperShape<kFormat, kRows, 128>>(gemm, epilogue, config, context);
    default:
      return launch_shape<HopperShape<kFormat, kRows, 64>>(gemm, epilogue, config, context);
  }
}

template <DType kFormat, class Epilogue>
void choose_rows(const GroupedGemm& gemm, const Epilogue& epilogue, const HopperConfig& config,
                 const Context& context) {
  return config.tile_m == 128 ? choose_columns<kFormat, 128>(gemm, epilogue, config, context)
                              : choose_columns<kFormat, 64>(gemm, epilogue, config, context);
}

}  // namespace

void hopper_gemm(const GroupedGemm& gemm, const Epilogue& epilogue, const HopperConfig& config,
                 const Context& context) {
  std::visit(
      [&](const auto& chosen) {
        return shape_of(gemm, false).format == DType::bfloat16
                   ? choose_rows<DType::bfloat16>(gemm, chosen, config, context)
                   : choose_rows<DType::float16>(gemm, chosen, config, context);
      },
      epilogue);
}

}  // namespace moe::cuda
