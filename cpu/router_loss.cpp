// Load-balancing loss (Switch, arXiv 2101.03961; GShard) and z-loss (ST-MoE, arXiv 2202.08906) with their
// gradients, and the bias update of loss-free balancing (arXiv 2408.15664). Bound by the bytes of the logits.
#include <algorithm>
#include <vector>

#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"

namespace moe::cpu {
namespace {

// Tokens whose sums are kept together: a fixed number, so that sums do not depend on the threads.
constexpr int64_t kChunk = 256;

class Losses {
 public:
  explicit Losses(const RouterLoss& op)
      : op_(op), T_(op.logits.dim(0)), E_(op.logits.dim(1)), K_(op.indices.dim(1)) {
    length_ = op.sequence_length > 0 ? op.sequence_length : T_;
    for (int64_t t = 0; t < T_; ++t) counted_ += counts(t) ? 1 : 0;
  }

  void run() {
    float* losses = op_.losses.f32();
    losses[0] = losses[1] = 0;
    if (T_ == 0) return;
    const int64_t runs = T_ / length_;
    for (int64_t i = 0; i < runs; ++i)
      losses[0] += balance(i * length_, (i + 1) * length_, op_.load_balance / static_cast<float>(runs));
    losses[1] = square_log_sums();
  }

 private:
  bool counts(int64_t t) const { return !op_.mask || op_.mask.i32()[t] != 0; }
  const float* logits(int64_t t) const { return op_.logits.f32() + t * E_; }
  float* d_logits(int64_t t) const { return op_.d_logits.f32() + t * E_; }

  // One run of tokens: its loss, and its gradient written to d_logits.
  float balance(int64_t begin, int64_t end, float coefficient) const {
    const auto E = static_cast<size_t>(E_);
    std::vector<float> slots(E, 0.0f), mean(E, 0.0f);
    float tokens = 0;
    for (int64_t t = begin; t < end; ++t) {
      if (!counts(t)) continue;
      tokens += 1;
      for (int64_t k = 0; k < K_; ++k) slots[static_cast<size_t>(op_.indices.i32()[t * K_ + k])] += 1;
    }
    if (tokens == 0) {
      std::fill(d_logits(begin), d_logits(end), 0.0f);
      return 0;
    }
    sum_of_shares(begin, end, mean);
    float loss = 0;
    for (size_t e = 0; e < E; ++e) {
      slots[e] /= tokens * static_cast<float>(K_);
      mean[e] /= tokens;
      loss += slots[e] * mean[e];
    }
    const float scale = coefficient * static_cast<float>(E_);
    for_chunks(end - begin, E_ * 8, [&](int64_t first, int64_t last) {
      std::vector<float> shares(E), slopes(E);
      for (int64_t t = begin + first; t < begin + last; ++t) {
        const float weight = counts(t) ? scale / tokens : 0.0f;
        kernels().expert_shares(op_.score, logits(t), E_, shares.data(), slopes.data());
        float flow = 0;
        for (size_t e = 0; e < E; ++e) flow += slots[e] * shares[e];
        for (size_t e = 0; e < E; ++e) d_logits(t)[e] = weight * slopes[e] * (slots[e] - flow);
      }
    });
    return scale * loss;
  }

  // Over the counted tokens, chunk after chunk.
  void sum_of_shares(int64_t begin, int64_t end, std::vector<float>& total) const {
    const auto E = static_cast<size_t>(E_);
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    std::vector<float> sums(static_cast<size_t>(chunks) * E, 0.0f);
    ThreadPool::instance().parallel_for(chunks, [&](int64_t chunk) {
      std::vector<float> shares(E), slopes(E);
      float* own = sums.data() + static_cast<size_t>(chunk) * E;
      const int64_t last = std::min(end, begin + (chunk + 1) * kChunk);
      for (int64_t t = begin + chunk * kChunk; t < last; ++t) {
        if (!counts(t)) continue;
        kernels().expert_shares(op_.score, logits(t), E_, shares.data(), slopes.data());
        for (size_t e = 0; e < E; ++e) own[e] += shares[e];
      }
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (size_t e = 0; e < E; ++e) total[e] += sums[static_cast<size_t>(chunk) * E + e];
    }
  }

  // The z-loss; its gradient is added to d_logits.
  float square_log_sums() const {
    if (op_.z == 0 || counted_ == 0) return 0;
    const float scale = op_.z / static_cast<float>(counted_);
    std::vector<float> squares(static_cast<size_t>(T_), 0.0f);
    for_chunks(T_, E_ * 8, [&](int64_t begin, int64_t end) {
      std::vector<float> shares(static_cast<size_t>(E_));
      for (int64_t t = begin; t < end; ++t) {
        if (!counts(t)) continue;
        const float log_sum = kernels().softmax(logits(t), E_, shares.data());
        squares[static_cast<size_t>(t)] = log_sum * log_sum;
        for (int64_t e = 0; e < E_; ++e)
          d_logits(t)[e] += 2 * scale * log_sum * shares[static_cast<size_t>(e)];
      }
    });
    float sum = 0;
    for (float square : squares) sum += square;
    return scale * sum;
  }

  const RouterLoss& op_;
  const int64_t T_, E_, K_;
  int64_t length_ = 0;
  int64_t counted_ = 0;
};

}  // namespace

void run(const RouterLoss& op) {
  check_range("indices", op.indices, op.logits.dim(1));
  Losses(op).run();
}

void run(const UpdateSelectionBias& op) {
  const int64_t E = op.counts.dim(0);
  int64_t total = 0;
  for (int64_t e = 0; e < E; ++e) total += op.counts.i32()[e];
  for (int64_t e = 0; e < E; ++e) {
    const int64_t above = int64_t{op.counts.i32()[e]} * E - total;
    if (above != 0) op.selection_bias.f32()[e] += above < 0 ? op.rate : -op.rate;
  }
}

}  // namespace moe::cpu
