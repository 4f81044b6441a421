// Means of logits over sequences. Bound by the bytes of the logits.
#include "cuda/launch.h"
#include "cuda/router_tokens.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 128;

struct Sequences {
  float* rows;          // [T, E']
  const int32_t* mask;  // or null
  int64_t length, width;
  bool backward;
};

// One thread for each column of a sequence: the tokens in their order.
__global__ void __launch_bounds__(kThreads) average(Sequences args) {
  const int64_t first = int64_t{blockIdx.x} * args.length;
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= args.width) return;
  const auto counts = [&](int64_t t) { return args.mask == nullptr || args.mask[t] != 0; };
  float sum = 0, counted = 0;
  for (int64_t t = first; t < first + args.length; ++t) {
    counted += counts(t) ? 1.0f : 0.0f;
    if (args.backward || counts(t)) sum += args.rows[t * args.width + column];
  }
  const float mean = counted > 0 ? sum / counted : 0.0f;
  for (int64_t t = first; t < first + args.length; ++t)
    args.rows[t * args.width + column] = !args.backward || counts(t) ? mean : 0.0f;
}

}  // namespace

void average_sequences(const RouterConfig& router, const Tensor& mask, const Tensor& rows,
                       Direction direction, const Context& context) {
  if (!router.by_sequence || !rows || rows.dim(0) == 0) return;
  const Sequences args = {.rows = rows.f32(),
                          .mask = mask ? mask.i32() : nullptr,
                          .length = router.sequence_length,
                          .width = rows.dim(1),
                          .backward = direction == Direction::backward};
  const Grid grid = {
      .blocks = {static_cast<unsigned>(rows.dim(0) / args.length), blocks_for(args.width, kThreads)},
      .threads = {kThreads}};
  launch(context, "average", average, grid, args);
}

}  // namespace moe::cuda
