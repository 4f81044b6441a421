// Four warps that must execute the same warpgroup instructions: each is noted when the first of them executes
// it, and held against the others'.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "simt/where.h"

namespace simt {

struct Block;
struct Warp;

struct WarpgroupStep {
  const char* name = nullptr;
  uint64_t operands[3] = {};  // that must be the same in all four warps
  Where where;
};

struct Warpgroup {
  std::vector<WarpgroupStep> steps;
  std::array<size_t, 4> done{};  // by warp
};

// The warp executes STEP as part of its warpgroup; an error where another of its warps executed something
// else.
void take_step(Warp& warp, const WarpgroupStep& step);

// Says which warp of a block that has ended left out what others of its warpgroup executed.
std::optional<std::string> uneven_warpgroup(const Block& block);

}  // namespace simt
