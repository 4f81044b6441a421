// Shuffles, votes, reductions and matches of a warp.
#include <algorithm>

#include "engine.h"
#include "simt/collectives.h"

namespace simt {
namespace {

struct ShuffleOperand {
  uint64_t value;
  int operand, width;
  uint64_t result;
};

// The lane that LANE reads from, by the definition of shfl.sync with segments of WIDTH lanes; LANE itself
// where the source is outside.
unsigned shuffle_source(Shuffle kind, unsigned lane, int operand, int width) {
  const int self = static_cast<int>(lane);
  const int first = self & ~(width - 1);
  const int last = first | (width - 1);
  switch (kind) {
    case Shuffle::index:
      return static_cast<unsigned>(first | (operand & (width - 1)));
    case Shuffle::up:
      return static_cast<unsigned>(self - operand >= first ? self - operand : self);
    case Shuffle::down:
      return static_cast<unsigned>(self + operand <= last ? self + operand : self);
    case Shuffle::butterfly:
      return static_cast<unsigned>((self ^ operand) <= last ? self ^ operand : self);
  }
  return lane;
}

template <Shuffle kind>
void apply_shuffle(const Lanes& lanes) {
  lanes.each<ShuffleOperand>([&](unsigned lane, ShuffleOperand& mine) {
    if (mine.width < 1 || mine.width > 32 || (mine.width & (mine.width - 1)) != 0) {
      fail("a shuffle of width " + std::to_string(mine.width) + ": expected a power of two up to 32");
    }
    const unsigned source = shuffle_source(kind, lane, mine.operand, mine.width);
    if (!lanes.has(source)) {
      fail("a shuffle in which lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
           ", which is not in the mask");
    }
    mine.result = lanes.operand<ShuffleOperand>(source).value;
  });
}

struct VoteOperand {
  bool predicate;
  uint32_t result;
};

template <Vote kind>
void apply_vote(const Lanes& lanes) {
  uint32_t ballot = 0;
  lanes.each<VoteOperand>(
      [&](unsigned lane, VoteOperand& mine) { ballot |= uint32_t{mine.predicate} << lane; });
  const uint32_t result = kind == Vote::ballot ? ballot
                          : kind == Vote::any  ? uint32_t{ballot != 0}
                                               : uint32_t{ballot == lanes.mask()};
  lanes.each<VoteOperand>([&](unsigned, VoteOperand& mine) { mine.result = result; });
}

struct ReduceOperand {
  uint32_t value;
  uint32_t result;
};

uint32_t combine(Reduction kind, uint32_t one, uint32_t other) {
  switch (kind) {
    case Reduction::add:
      return one + other;
    case Reduction::min:
      return std::min(one, other);
    case Reduction::max:
      return std::max(one, other);
    case Reduction::min_signed:
      return static_cast<uint32_t>(std::min(static_cast<int32_t>(one), static_cast<int32_t>(other)));
    case Reduction::max_signed:
      return static_cast<uint32_t>(std::max(static_cast<int32_t>(one), static_cast<int32_t>(other)));
    case Reduction::bit_and:
      return one & other;
    case Reduction::bit_or:
      return one | other;
    case Reduction::bit_xor:
      return one ^ other;
  }
  return one;
}

template <Reduction kind>
void apply_reduction(const Lanes& lanes) {
  const auto first = static_cast<unsigned>(__builtin_ctz(lanes.mask()));
  uint32_t sum = lanes.operand<ReduceOperand>(first).value;
  lanes.each<ReduceOperand>([&](unsigned lane, ReduceOperand& mine) {
    if (lane != first) sum = combine(kind, sum, mine.value);
  });
  lanes.each<ReduceOperand>([&](unsigned, ReduceOperand& mine) { mine.result = sum; });
}

struct MatchOperand {
  uint64_t value;
  uint32_t result;
};

void apply_match(const Lanes& lanes) {
  lanes.each<MatchOperand>([&](unsigned, MatchOperand& mine) {
    mine.result = 0;
    lanes.each<MatchOperand>([&](unsigned lane, const MatchOperand& other) {
      if (other.value == mine.value) mine.result |= 1u << lane;
    });
  });
}

void apply_nothing(const Lanes&) {}

constexpr WarpOperation kSyncwarp = {"__syncwarp", apply_nothing};
constexpr WarpOperation kMatch = {"__match_any_sync", apply_match};
constexpr WarpOperation kShuffles[] = {{"__shfl_sync", apply_shuffle<Shuffle::index>},
                                       {"__shfl_up_sync", apply_shuffle<Shuffle::up>},
                                       {"__shfl_down_sync", apply_shuffle<Shuffle::down>},
                                       {"__shfl_xor_sync", apply_shuffle<Shuffle::butterfly>}};
constexpr WarpOperation kVotes[] = {{"__ballot_sync", apply_vote<Vote::ballot>},
                                    {"__any_sync", apply_vote<Vote::any>},
                                    {"__all_sync", apply_vote<Vote::all>}};
constexpr WarpOperation kReductions[] = {{"__reduce_add_sync", apply_reduction<Reduction::add>},
                                         {"__reduce_min_sync", apply_reduction<Reduction::min>},
                                         {"__reduce_max_sync", apply_reduction<Reduction::max>},
                                         {"__reduce_min_sync", apply_reduction<Reduction::min_signed>},
                                         {"__reduce_max_sync", apply_reduction<Reduction::max_signed>},
                                         {"__reduce_and_sync", apply_reduction<Reduction::bit_and>},
                                         {"__reduce_or_sync", apply_reduction<Reduction::bit_or>},
                                         {"__reduce_xor_sync", apply_reduction<Reduction::bit_xor>}};

}  // namespace

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int operand, int width, Where where) {
  ShuffleOperand mine = {.value = value, .operand = operand, .width = width, .result = 0};
  meet(kShuffles[static_cast<int>(kind)], mask, &mine, where);
  return mine.result;
}

uint32_t vote(Vote kind, uint32_t mask, bool predicate, Where where) {
  VoteOperand mine = {.predicate = predicate, .result = 0};
  meet(kVotes[static_cast<int>(kind)], mask, &mine, where);
  return mine.result;
}

uint32_t reduce(Reduction kind, uint32_t mask, uint32_t value, Where where) {
  ReduceOperand mine = {.value = value, .result = 0};
  meet(kReductions[static_cast<int>(kind)], mask, &mine, where);
  return mine.result;
}

uint32_t match_any(uint32_t mask, uint64_t value, Where where) {
  MatchOperand mine = {.value = value, .result = 0};
  meet(kMatch, mask, &mine, where);
  return mine.result;
}

}  // namespace simt

void __syncwarp(unsigned mask, simt::Where where) {
  simt::meet(simt::kSyncwarp, mask, nullptr, where);
}
