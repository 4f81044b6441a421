// Bound by the bytes of the slots, which a warp reads once (by position) or six times (by probability) for
// each expert; they stay in the second-level cache.
#include "cuda/capacity.h"

#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/launch.h"

namespace moe::cuda {
namespace {

constexpr auto kServed = static_cast<int32_t>(SlotFate::served);
constexpr auto kOverCapacity = static_cast<int32_t>(SlotFate::over_capacity);
constexpr auto kResidual = static_cast<int32_t>(SlotFate::residual);

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

struct Slots {
  const int32_t* indices;
  int32_t* fates;
  float* weights;
  int64_t run_slots;  // of one run
  int32_t top_k;
  int32_t kept;  // rows of an expert in a run
};

// Calls visit(slot, mine) in every lane for each slot of a run, in order, thirty-two at a time; `mine` where
// it is a served slot of the expert.
template <class Visit>
__device__ void each_slot(const Slots& slots, int64_t first, int32_t expert, Visit visit) {
  for (int64_t begin = first; begin < first + slots.run_slots; begin += kWarp) {
    const int64_t slot = begin + lane_id();
    const bool inside = slot < first + slots.run_slots;
    visit(slot, inside && slots.indices[slot] == expert && slots.fates[slot] == kServed);
  }
}

__device__ void drop(const Slots& slots, int64_t slot) {
  slots.fates[slot] = kOverCapacity;
  slots.weights[slot] = 0;
}

__device__ int lanes_before(unsigned mask) {
  return __popc(mask & ((1u << lane_id()) - 1));
}

// One warp for each (run, expert): the first `kept` slots stay.
__global__ void __launch_bounds__(kWarp) drop_by_position(Slots slots) {
  const int64_t first = int64_t{blockIdx.x} * slots.run_slots;
  int64_t taken = 0;
  each_slot(slots, first, static_cast<int32_t>(blockIdx.y), [&](int64_t slot, bool mine) {
    const unsigned all = __ballot_sync(kAllLanes, mine);
    if (mine && taken + lanes_before(all) >= slots.kept) drop(slots, slot);
    taken += __popc(all);
  });
}

// Ranks as unsigned numbers of the same order.
__device__ uint32_t digits_of(float weight) {
  return static_cast<uint32_t>(rank_of(weight)) ^ 0x80000000u;
}

// One warp for each (run, expert): the `kept` largest weights stay, ties to the earlier slot. The rank of the
// last that stays is found digit by digit; the slots of that rank that stay are the first ones.
__global__ void __launch_bounds__(kWarp) drop_by_weight(Slots slots) {
  auto* counts = reinterpret_cast<int32_t*>(dynamic_shared());
  const int64_t first = int64_t{blockIdx.x} * slots.run_slots;
  const auto expert = static_cast<int32_t>(blockIdx.y);
  uint32_t prefix = 0, known = 0;  // the digits found so far, and which bits they are
  int32_t left = slots.kept;       // to be kept among the slots that share them
  int64_t candidates = 0;
  each_slot(slots, first, expert,
            [&](int64_t, bool mine) { candidates += __popc(__ballot_sync(kAllLanes, mine)); });
  if (candidates <= slots.kept) return;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int digit = lane_id(); digit < kDigits; digit += kWarp) counts[digit] = 0;
    __syncwarp();
    each_slot(slots, first, expert, [&](int64_t slot, bool mine) {
      const uint32_t digits = mine ? digits_of(slots.weights[slot]) : 0;
      if (mine && (digits & known) == prefix) atomicAdd(&counts[(digits >> shift) % kDigits], 1);
    });
    __syncwarp();
    int digit = kDigits - 1;
    while (counts[digit] < left) left -= counts[digit--];
    prefix |= static_cast<uint32_t>(digit) << shift;
    known |= static_cast<uint32_t>(kDigits - 1) << shift;
    __syncwarp();
  }
  each_slot(slots, first, expert, [&](int64_t slot, bool mine) {
    const uint32_t digits = mine ? digits_of(slots.weights[slot]) : 0;
    const unsigned equal = __ballot_sync(kAllLanes, mine && digits == prefix);
    const bool stays = digits > prefix || (digits == prefix && lanes_before(equal) < left);
    left -= __popc(equal);
    if (mine && !stays) drop(slots, slot);
  });
}

// A token's first slot is never untaken unless all are.
__global__ void __launch_bounds__(256) pass_residuals(Slots slots, int64_t tokens) {
  for (int64_t t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; t < tokens;
       t += int64_t{gridDim.x} * blockDim.x) {
    const int64_t slot = t * slots.top_k;
    bool served = false;
    for (int k = 0; k < slots.top_k; ++k) served = served || slots.fates[slot + k] == kServed;
    if (served || slots.fates[slot] != kOverCapacity) continue;
    slots.fates[slot] = kResidual;
    slots.weights[slot] = 1;
  }
}

}  // namespace

void apply_capacity(const Route& op, const Context& context) {
  const RouterConfig& router = op.router;
  const int64_t T = op.indices.dim(0), K = op.indices.dim(1);
  if (T == 0) return;
  const int64_t length = router.capacity.by_sequence ? router.sequence_length : T;
  const Slots slots = {.indices = op.indices.i32(),
                       .fates = op.dropped.i32(),
                       .weights = op.weights.f32(),
                       .run_slots = length * K,
                       .top_k = static_cast<int32_t>(K),
                       .kept = router.capacity.rows_per_expert};
  // Identity experts take any number.
  const auto experts = static_cast<unsigned>(op.counts.dim(0) - router.identity_experts);
  const bool by_position = router.capacity.policy == DropPolicy::position;
  const Grid grid = {.blocks = {static_cast<unsigned>(T / length), experts},
                     .threads = {kWarp},
                     .shared_bytes = by_position ? 0 : kDigits * sizeof(int32_t)};
  launch(context, by_position ? "drop_by_position" : "drop_by_weight",
         by_position ? drop_by_position : drop_by_weight, grid, slots);
  if (router.capacity.residual)
    launch(context, "pass_residuals", pass_residuals, {.blocks = {blocks_for(T, 256)}, .threads = {256}},
           slots, T);
}

}  // namespace moe::cuda
