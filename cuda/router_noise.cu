#include "cuda/router_noise.h"

#include "cuda/device/elements.cuh"
#include "cuda/device/scores.cuh"
#include "cuda/launch.h"
#include "ops/noise.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;

// A thread draws four columns of a row at once: one block of random words.
struct Rows {
  RouterNoise noise;
  int64_t count, width;
  int64_t tokens_per_row;  // tokens that share their numbers
};

__device__ int64_t blocks_of_row(const Rows& rows) {
  return (rows.width + 3) / 4;
}

// Calls visit(element, word) for the elements of all rows, spread over the grid.
template <class Visit>
__device__ void each_element(const Rows& rows, Visit visit) {
  const int64_t blocks = blocks_of_row(rows);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows.count * blocks;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / blocks, block = i % blocks;
    const noise::Words words =
        noise::words_of(rows.noise.seed, rows.noise.step, static_cast<uint32_t>(row / rows.tokens_per_row),
                        static_cast<uint32_t>(block));
    for (int64_t j = 0; j < 4 && block * 4 + j < rows.width; ++j)
      visit(row * rows.width + block * 4 + j, words[static_cast<size_t>(j)]);
  }
}

struct Jitter {
  const void* x;
  DType x_dtype;
  void* out;
  DType out_dtype;
  bool accumulate;
};

__global__ void __launch_bounds__(kThreads) jitter(Rows rows, Jitter args) {
  each_element(rows, [&](int64_t at, uint32_t word) {
    const float factor = fmaf(rows.noise.strength, fmaf(2.0f, noise::uniform(word), -1.0f), 1.0f);
    float value = load_as(args.x_dtype, args.x, at) * factor;
    if (args.accumulate) value += load_as(args.out_dtype, args.out, at);
    store_as(args.out_dtype, args.out, at, value);
  });
}

__global__ void __launch_bounds__(kThreads)
    add_to_logits(Rows rows, const float* noise_logits, float* logits) {
  each_element(rows, [&](int64_t at, uint32_t word) {
    if (rows.noise.kind == NoiseKind::gumbel) {
      logits[at] = fmaf(rows.noise.strength, noise::gumbel(word), logits[at]);
    } else {
      const float deviation = rows.noise.strength * softplus(noise_logits[at]);
      logits[at] = fmaf(deviation, noise::normal(word), logits[at]);
    }
  });
}

__global__ void __launch_bounds__(kThreads)
    carry_to_noise_logits(Rows rows, const float* noise_logits, const float* d_logits, const float* extra,
                          float* d_noise_logits) {
  each_element(rows, [&](int64_t at, uint32_t word) {
    const float slope = rows.noise.strength * sigmoid(noise_logits[at]);
    const float flow = d_logits[at] * slope * noise::normal(word);
    d_noise_logits[at] = flow + (extra != nullptr ? extra[at] : 0.0f);
  });
}

Grid grid_of(const Rows& rows) {
  return {.blocks = {blocks_for(rows.count * ((rows.width + 3) / 4), kThreads)}, .threads = {kThreads}};
}

Rows logit_rows(const RouterConfig& router, const Tensor& logits) {
  return {.noise = router.noise,
          .count = logits.dim(0),
          .width = logits.dim(1),
          .tokens_per_row = router.by_sequence ? router.sequence_length : 1};
}

}  // namespace

void jitter_rows(const RouterNoise& noise, const Tensor& x, const Tensor& out, bool accumulate,
                 const Context& context) {
  const Rows shape = {.noise = noise, .count = x.dim(0), .width = x.dim(1), .tokens_per_row = 1};
  const Jitter args = {
      .x = x.data, .x_dtype = x.dtype, .out = out.data, .out_dtype = out.dtype, .accumulate = accumulate};
  launch(context, "jitter", jitter, grid_of(shape), shape, args);
}

void add_noise(const RouterConfig& router, const Tensor& noise_logits, const Tensor& logits,
               const Context& context) {
  if (router.noise.kind != NoiseKind::gumbel && router.noise.kind != NoiseKind::noisy_top_k) return;
  const Rows shape = logit_rows(router, logits);
  launch(context, "add_to_logits", add_to_logits, grid_of(shape), shape,
         noise_logits ? noise_logits.f32() : nullptr, logits.f32());
}

void noise_backward(const RouterConfig& router, const Tensor& noise_logits, const Tensor& d_logits,
                    const Tensor& extra, const Tensor& d_noise_logits, const Context& context) {
  const Rows shape = logit_rows(router, d_logits);
  launch(context, "carry_to_noise_logits", carry_to_noise_logits, grid_of(shape), shape, noise_logits.f32(),
         d_logits.f32(), extra ? extra.f32() : nullptr, d_noise_logits.f32());
}

}  // namespace moe::cuda
