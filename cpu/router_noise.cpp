#include "cpu/router_noise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "ops/noise.h"

namespace moe::cpu {
namespace {

// Calls visit(column, word) for each column of a row, in order.
template <class Visit>
void each_word(const RouterNoise& noise, int64_t row, int64_t columns, Visit visit) {
  for (int64_t block = 0; block * 4 < columns; ++block) {
    const noise::Words words =
        noise::words_of(noise.seed, noise.step, static_cast<uint32_t>(row), static_cast<uint32_t>(block));
    const int64_t end = std::min<int64_t>(4, columns - block * 4);
    for (int64_t i = 0; i < end; ++i) visit(block * 4 + i, words[static_cast<size_t>(i)]);
  }
}

// The row of random numbers that a token's logits use.
int64_t noise_row(const RouterConfig& router, int64_t token) {
  return router.by_sequence ? token / router.sequence_length : token;
}

// Bytes' worth of drawing one number, for the size of chunks: a Philox block and a logarithm.
constexpr int64_t kDrawBytes = 64;

}  // namespace

void jitter_rows(const RouterNoise& noise, const Tensor& x, const Tensor& rows) {
  const int64_t H = x.dim(1);
  for_chunks(x.dim(0), H * kDrawBytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = rows.f32() + t * H;
      if (rows.data != x.data) kernels().cast(row_of(x, t, H), x.dtype, row, DType::float32, H);
      each_word(noise, t, H, [&](int64_t h, uint32_t word) {
        row[h] *= std::fma(noise.strength, std::fma(2.0f, noise::uniform(word), -1.0f), 1.0f);
      });
    }
  });
}

Deviation deviation_of(float noise_logit) {
  const float small = std::exp(-std::fabs(noise_logit));
  const float slope = noise_logit > 0 ? 1.0f / (1.0f + small) : small / (1.0f + small);
  return {std::max(noise_logit, 0.0f) + std::log1p(small), slope};
}

void draw_normals(const RouterConfig& router, int64_t token, int64_t experts, float* out) {
  each_word(router.noise, noise_row(router, token), experts,
            [&](int64_t e, uint32_t word) { out[e] = noise::normal(word); });
}

void add_noise(const RouterConfig& router, const Tensor& noise_logits, const Tensor& logits) {
  const RouterNoise& noise = router.noise;
  if (noise.kind != NoiseKind::gumbel && noise.kind != NoiseKind::noisy_top_k) return;
  const int64_t E = logits.dim(1);
  for_chunks(logits.dim(0), E * kDrawBytes, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = logits.f32() + t * E;
      each_word(noise, noise_row(router, t), E, [&](int64_t e, uint32_t word) {
        if (noise.kind == NoiseKind::gumbel) {
          row[e] = std::fma(noise.strength, noise::gumbel(word), row[e]);
        } else {
          const float deviation = deviation_of(noise_logits.f32()[t * E + e]).value;
          row[e] = std::fma(noise.strength * deviation, noise::normal(word), row[e]);
        }
      });
    }
  });
}

void noise_backward(const RouterConfig& router, const Tensor& noise_logits, const Tensor& d_logits,
                    const Tensor& extra, const Tensor& d_noise_logits) {
  const int64_t E = d_logits.dim(1);
  const bool noisy = router.noise.kind == NoiseKind::noisy_top_k;
  for_chunks(d_logits.dim(0), E * kDrawBytes, [&](int64_t begin, int64_t end) {
    std::vector<float> normals(static_cast<size_t>(E), 0.0f);
    for (int64_t t = begin; t < end; ++t) {
      if (noisy) draw_normals(router, t, E, normals.data());
      for (int64_t e = 0; e < E; ++e) {
        const int64_t at = t * E + e;
        const float slope = router.noise.strength * deviation_of(noise_logits.f32()[at]).slope;
        const float flow = d_logits.f32()[at] * slope * normals[static_cast<size_t>(e)];
        d_noise_logits.f32()[at] = flow + (extra ? extra.f32()[at] : 0.0f);
      }
    }
  });
}

}  // namespace moe::cpu
