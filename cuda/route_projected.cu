// Bound by the multiply-adds of the logits: they are float32, so that routing does not round.
#include "cuda/route_projected.h"

#include "cuda/device/grouped_product.cuh"

namespace moe::cuda {

// An epilogue: a row of a tile is a token's logits.
struct RouteRows {
  Tokens tokens;
  Outcome outcome;
  Block bias;
  float* logits;  // [T, E'], out
  int scratch;    // where in shared memory the warps' own begins, in floats
};

__device__ inline void finish(const RouteRows& args, const Tile& tile) {
  const int64_t E = args.tokens.experts, K = args.tokens.router.top_k;
  const int64_t words = TokenScratch::words(E, K, args.tokens.router.group_count);
  auto* memory = reinterpret_cast<float*>(dynamic_shared()) + args.scratch + tile.team.warp * words;
  const TokenScratch scratch = TokenScratch::at(memory, E, K);
  for (int row = tile.team.warp; row < tile.rows; row += tile.team.warps) {
    const int64_t t = tile.row + row;
    float* logits = tile.c + row * tile.pitch;
    for (int64_t e = lane_id(); e < E; e += kWarp) {
      logits[e] += bias_at(args.bias, 0, e);
      args.logits[t * E + e] = logits[e];
    }
    __syncwarp();
    const TokenArgs token = {.router = args.tokens.router,
                             .experts = E,
                             .logits = logits,
                             .selection_bias = args.tokens.selection_bias};
    route_token(token, args.tokens, args.outcome, t, scratch);
  }
}

namespace {

template <TileSize kSize>
bool launch_routed(const GroupedGemm& gemm, RouteRows route, int blocks, const Context& context) {
  using Product = MultiplyAdds<kSize>;
  constexpr int kSums = Product::kM * Product::kSumPitch;
  route.scratch = kSums;
  const RouterConfig& router = route.tokens.router;
  const int64_t words = TokenScratch::words(route.tokens.experts, router.top_k, router.group_count);
  const size_t after = (kSums + Product::kThreads / kWarp * static_cast<size_t>(words)) * sizeof(float);
  const size_t shared = std::max(shared_bytes_of<Product>(), after);
  if (shared > static_cast<size_t>(context.limits().shared_bytes)) return false;
  launch(context, "route_projected", multiply<Product, RouteRows>,
         {.blocks = {static_cast<unsigned>(blocks)}, .threads = {Product::kThreads}, .shared_bytes = shared},
         gemm, route);
  return true;
}

bool only_projected(const Route& op) {
  return op.x && !op.parameters.lora_a && !op.router.by_sequence && op.router.noise.kind == NoiseKind::none;
}

}  // namespace

bool route_as_projected(const Route& op, const Tokens& tokens, const Outcome& outcome,
                        const Context& context) {
  if (!only_projected(op)) return false;
  GroupedGemm gemm = times_transposed(op.x, op.parameters.weight);
  gemm.exact = true;
  const GemmShape shape = shape_of(gemm, false);
  const std::optional<GemmConfig> config = whole_row_config(shape, context.limits());
  if (!config) return false;
  RouteRows route = {
      .tokens = tokens, .outcome = outcome, .bias = {}, .logits = op.logits.f32(), .scratch = 0};
  if (op.parameters.bias) {
    route.bias.data = op.parameters.bias.data;
    route.bias.dtype = op.parameters.bias.dtype;
  }
  switch (config->size) {
    case TileSize::flat:
      return launch_routed<TileSize::flat>(gemm, route, config->blocks, context);
    case TileSize::large:
      return launch_routed<TileSize::large>(gemm, route, config->blocks, context);
    case TileSize::wide:
      return launch_routed<TileSize::wide>(gemm, route, config->blocks, context);
    default:
      return false;
  }
}

}  // namespace moe::cuda
