// Where the order of a product's terms puts them.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"

namespace moe::test {

inline int chain_of(const cpu::Chains& chains, int64_t unit) {
  return static_cast<int>(unit / chains.together % chains.count);
}

// Of a run's units, in a panel.
inline int64_t position_of(const cpu::Chains& chains, int64_t unit, int64_t units) {
  const int64_t turn = unit / (int64_t{chains.count} * chains.together);
  return chain_of(chains, unit) * chains.length(units) + turn * chains.together + unit % chains.together;
}

// The sum of the terms of `steps` steps of k, run by run and chain by chain: `add(step, sum)` adds one.
template <class Add>
float add_in_chains(const cpu::Chains& chains, int64_t steps, float sum, Add add) {
  const int64_t run = chains.count > 1 ? cpu::kChainedUnits : steps;
  for (int64_t begin = 0; begin < steps; begin += run) {
    const int64_t end = std::min(begin + run, steps);
    for (int chain = 0; chain < chains.count; ++chain) {
      float own = chain == 0 ? sum : 0;
      for (int64_t step = begin; step < end; ++step)
        if (chain_of(chains, step - begin) == chain) own = add(step, own);
      sum = chain == 0 ? own : sum + own;
    }
  }
  return sum;
}

}  // namespace moe::test
