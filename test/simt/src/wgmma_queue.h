// wgmma of one warp: products that were issued and not made yet, and the accumulators that they hold.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <vector>

#include "simt/ptx/wgmma.h"

namespace simt {

struct Warp;

constexpr unsigned kWgmmaRows = 16;      // of a warp: a quarter of the warpgroup's 64
constexpr unsigned kWgmmaDepth = 16;     // at most, of one product
constexpr unsigned kWgmmaColumns = 256;  // at most

// A warp's accumulators while products on them are in flight: its registers hold NaN meanwhile.
struct WgmmaAccumulators {
  std::array<float*, 32> registers;  // of each lane
  unsigned columns = 0;
  unsigned products = 0;   // in flight
  std::vector<float> sum;  // [row][column]
};

struct WgmmaProduct {
  WgmmaCall call;
  bool a_in_registers = false;
  std::array<std::array<float, kWgmmaDepth>, kWgmmaRows> a;  // where it is in registers
  std::list<WgmmaAccumulators>::iterator accumulators;
};

struct WgmmaQueue {
  bool fenced = false;
  std::list<WgmmaAccumulators> accumulators;
  std::vector<WgmmaProduct> products;
  std::vector<size_t> group_ends;

  void clear() {
    fenced = false;
    products.clear();
    accumulators.clear();
    group_ends.clear();
  }
};

}  // namespace simt
