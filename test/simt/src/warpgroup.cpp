// The steps of warpgroups.
#include "warpgroup.h"

#include <algorithm>
#include <cstring>

#include "engine.h"

namespace simt {
namespace {

bool same(const WarpgroupStep& one, const WarpgroupStep& other) {
  return std::strcmp(one.name, other.name) == 0 &&
         std::equal(one.operands, one.operands + 3, other.operands) && one.where == other.where;
}

}  // namespace

void take_step(Warp& warp, const WarpgroupStep& step) {
  Block& block = *warp.block;
  const unsigned group = warp.index / 4;
  if (block.thread_count < (group + 1) * 4 * kWarpSize) {
    fail(std::string(step.name) + ": the block has no four warps for this warpgroup");
  }
  Warpgroup& warpgroup = block.warpgroups[group];
  size_t& done = warpgroup.done[warp.index % 4];
  if (done == warpgroup.steps.size()) {
    warpgroup.steps.push_back(step);
  } else if (const WarpgroupStep& expected = warpgroup.steps[done]; !same(expected, step)) {
    fail(std::string(step.name) + ": another warp of the warpgroup executed " + expected.name + " here, " +
         place(expected.where) + ", or the same with other operands");
  }
  ++done;
}

std::optional<std::string> uneven_warpgroup(const Block& block) {
  for (unsigned group = 0; group < block.warpgroups.size(); ++group) {
    const Warpgroup& warpgroup = block.warpgroups[group];
    for (unsigned warp = 0; warp < 4; ++warp) {
      if (warpgroup.done[warp] == warpgroup.steps.size()) continue;
      const WarpgroupStep& missed = warpgroup.steps[warpgroup.done[warp]];
      return "warp " + std::to_string(group * 4 + warp) + " left out " + missed.name + ", " +
             place(missed.where) + ", which others of its warpgroup executed";
    }
  }
  return std::nullopt;
}

}  // namespace simt
