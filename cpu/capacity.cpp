#include "cpu/capacity.h"

#include <algorithm>
#include <vector>

#include "cpu/rank.h"
#include "cpu/thread_pool.h"

namespace moe::cpu {
namespace {

constexpr auto kServed = static_cast<int32_t>(SlotFate::served);
constexpr auto kOverCapacity = static_cast<int32_t>(SlotFate::over_capacity);
constexpr auto kResidual = static_cast<int32_t>(SlotFate::residual);

class Capacities {
 public:
  explicit Capacities(const Route& op)
      : op_(op),
        E_(op.counts.dim(0) - op.router.identity_experts),
        index_(op.indices.i32()),
        fate_(op.dropped.i32()),
        weight_(op.weights.f32()),
        candidates_(static_cast<size_t>(E_)) {}

  void run() {
    const RouterConfig& router = op_.router;
    const int64_t T = op_.indices.dim(0);
    const int64_t length = router.capacity.by_sequence ? router.sequence_length : T;
    for (int64_t begin = 0; begin < T; begin += length) drop_in_run(begin, begin + length);
    if (router.capacity.residual) pass_residuals(T);
  }

 private:
  // Served slots of each expert, which identity experts take any number of, in the order of tokens.
  void drop_in_run(int64_t first_token, int64_t last_token) {
    const int64_t K = op_.router.top_k;
    for (auto& slots : candidates_) slots.clear();
    for (int64_t slot = first_token * K; slot < last_token * K; ++slot) {
      if (fate_[slot] == kServed && index_[slot] < E_)
        candidates_[static_cast<size_t>(index_[slot])].push_back(static_cast<int32_t>(slot));
    }
    ThreadPool::instance().parallel_for(E_, [&](int64_t e) { drop(candidates_[static_cast<size_t>(e)]); });
  }

  void drop(std::vector<int32_t>& slots) const {
    const Capacity& capacity = op_.router.capacity;
    const auto kept = static_cast<size_t>(capacity.rows_per_expert);
    if (slots.size() <= kept) return;
    const auto first_dropped = slots.begin() + static_cast<int64_t>(kept);
    if (capacity.policy == DropPolicy::probability) {
      std::nth_element(slots.begin(), first_dropped, slots.end(), [&](int32_t a, int32_t b) {
        const int32_t rank_a = rank_of(weight_[a]), rank_b = rank_of(weight_[b]);
        return rank_a != rank_b ? rank_a > rank_b : a < b;
      });
    }
    for (auto slot = first_dropped; slot != slots.end(); ++slot) {
      fate_[*slot] = kOverCapacity;
      weight_[*slot] = 0;
    }
  }

  // A token's first slot is never untaken unless all are.
  void pass_residuals(int64_t tokens) {
    const int64_t K = op_.router.top_k;
    for (int64_t slot = 0; slot < tokens * K; slot += K) {
      const bool served = std::find(fate_ + slot, fate_ + slot + K, kServed) != fate_ + slot + K;
      if (served || fate_[slot] != kOverCapacity) continue;
      fate_[slot] = kResidual;
      weight_[slot] = 1;
    }
  }

  const Route& op_;
  const int64_t E_;
  const int32_t* index_;
  int32_t* fate_;
  float* weight_;
  std::vector<std::vector<int32_t>> candidates_;
};

}  // namespace

void apply_capacity(const Route& op) {
  Capacities(op).run();
}

}  // namespace moe::cpu
