// wgmma: issue takes the accumulators away, wait makes the products and gives them back.
#include "simt/ptx/wgmma.h"

#include <cmath>
#include <cstring>

#include "architecture.h"
#include "engine.h"
#include "matrix_descriptor.h"
#include "operand_format.h"
#include "simt/ptx/address.h"

namespace simt {
namespace {

struct IssueOperand {
  const WgmmaCall* call;
};

struct WaitOperand {
  int pending;
};

using Depths = std::array<std::array<float, kWgmmaDepth>, kWgmmaRows>;

struct Column {
  unsigned row, column;
};

Column accumulator(unsigned lane, unsigned index) {
  return {.row = lane / 4 + index / 2 % 2 * 8, .column = index / 4 * 8 + lane % 4 * 2 + index % 2};
}

// Gathers MN x K elements from shared memory, a chunk at a time, by PUT(mn, k, value).
template <class Format, class Put>
void gather(Block& block, const MatrixDescriptor& matrix, unsigned first_mn, unsigned count, Put put) {
  constexpr unsigned kDepth = 32 / sizeof(typename Format::Bits);
  const unsigned step_mn = matrix.mn_major() ? matrix.chunk_elements() : 1;
  const unsigned step_k = matrix.mn_major() ? 1 : matrix.chunk_elements();
  for (unsigned mn = 0; mn < count; mn += step_mn) {
    for (unsigned k = 0; k < kDepth; k += step_k) {
      const unsigned char* const chunk = shared_bytes(matrix.chunk_of(first_mn + mn, k), 16, 16);
      block.proxy.reads(block, chunk, 16);
      typename Format::Bits elements[16 / sizeof(typename Format::Bits)];
      std::memcpy(elements, chunk, sizeof elements);
      for (unsigned index = 0; index < matrix.chunk_elements(); ++index) {
        put(mn + (matrix.mn_major() ? index : 0), k + (matrix.mn_major() ? 0 : index),
            Format::widen(elements[index]));
      }
    }
  }
}

template <class Format>
void gather_a_registers(const Lanes& lanes, Depths& a) {
  constexpr unsigned kPerRegister = 4 / sizeof(typename Format::Bits);
  lanes.each<IssueOperand>([&](unsigned lane, const IssueOperand& mine) {
    for (unsigned reg = 0; reg < 4; ++reg) {
      for (unsigned index = 0; index < kPerRegister; ++index) {
        const unsigned k = reg / 2 * 4 * kPerRegister + lane % 4 * kPerRegister + index;
        a[lane / 4 + reg % 2 * 8][k] = element_of_register<Format>(mine.call->a[reg], index);
      }
    }
  });
}

template <class Format>
void make_product(Warp& warp, WgmmaProduct& product) {
  constexpr unsigned kDepth = 32 / sizeof(typename Format::Bits);
  const WgmmaCall& call = product.call;
  const auto columns = static_cast<unsigned>(call.n);
  Block& block = *warp.block;
  if (!product.a_in_registers) {
    const MatrixDescriptor matrix(call.a_descriptor, call.options.transpose_a, sizeof(typename Format::Bits));
    gather<Format>(block, matrix, warp.index % 4 * kWgmmaRows, kWgmmaRows,
                   [&](unsigned row, unsigned k, float value) { product.a[row][k] = value; });
  }
  float b[kDepth][kWgmmaColumns];
  const MatrixDescriptor matrix(call.b_descriptor, call.options.transpose_b, sizeof(typename Format::Bits));
  gather<Format>(block, matrix, 0, columns,
                 [&](unsigned column, unsigned k, float value) { b[k][column] = value; });
  const float sign = call.options.negate_a != call.options.negate_b ? -1.0f : 1.0f;
  float* sum = product.accumulators->sum.data();
  for (unsigned row = 0; row < kWgmmaRows; ++row, sum += columns) {
    float products[kWgmmaColumns] = {};
    for (unsigned k = 0; k < kDepth; ++k) {
      for (unsigned column = 0; column < columns; ++column)
        products[column] += product.a[row][k] * b[k][column];
    }
    for (unsigned column = 0; column < columns; ++column) {
      sum[column] = (call.options.scale_d ? sum[column] : 0.0f) + sign * products[column];
    }
  }
}

void make(Warp& warp, WgmmaProduct& product) {
  switch (product.call.format) {
    case WgmmaFormat::bf16:
      return make_product<BFloat16>(warp, product);
    case WgmmaFormat::f16:
      return make_product<Float16>(warp, product);
    case WgmmaFormat::tf32:
      return make_product<TFloat32>(warp, product);
  }
}

// Moves a warp's accumulators between registers and a matrix: MOVE(register, element).
template <class Move>
void each_accumulator(WgmmaAccumulators& all, Move move) {
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    for (unsigned index = 0; index < all.columns / 2; ++index) {
      const auto [row, column] = accumulator(lane, index);
      move(all.registers[lane][index], all.sum[row * all.columns + column]);
    }
  }
}

std::list<WgmmaAccumulators>::iterator take_accumulators(WgmmaQueue& queue, const Lanes& lanes,
                                                         unsigned columns) {
  std::array<float*, 32> registers;
  lanes.each<IssueOperand>([&](unsigned lane, const IssueOperand& mine) { registers[lane] = mine.call->d; });
  for (auto held = queue.accumulators.begin(); held != queue.accumulators.end(); ++held) {
    if (held->registers[0] != registers[0]) continue;
    if (held->columns != columns || held->registers != registers) {
      fail("wgmma: products of another shape are in flight on these accumulators");
    }
    return held;
  }
  const auto fresh = queue.accumulators.insert(
      queue.accumulators.end(),
      {.registers = registers, .columns = columns, .sum = std::vector<float>(size_t{kWgmmaRows} * columns)});
  each_accumulator(*fresh, [](float& reg, float& element) {
    element = reg;
    reg = NAN;
  });
  return fresh;
}

uint64_t packed(const WgmmaOptions& options) {
  return uint64_t{options.scale_d} | uint64_t{options.negate_a} << 1 | uint64_t{options.negate_b} << 2 |
         uint64_t{options.transpose_a} << 3 | uint64_t{options.transpose_b} << 4;
}

bool same_operands(const WgmmaCall& one, const WgmmaCall& other) {
  return one.format == other.format && one.n == other.n && one.a_descriptor == other.a_descriptor &&
         one.b_descriptor == other.b_descriptor && packed(one.options) == packed(other.options);
}

void apply_issue(const Lanes& lanes) {
  Warp& warp = lanes.warp();
  const WgmmaCall& call = *lanes.operand<IssueOperand>(0).call;
  lanes.each<IssueOperand>([&](unsigned lane, const IssueOperand& mine) {
    if (!same_operands(*mine.call, call)) {
      fail("wgmma.mma_async: lane " + std::to_string(lane) + " has other operands than lane 0");
    }
  });
  if (!warp.wgmma.fenced) fail("wgmma.mma_async without a wgmma.fence before it");
  take_step(warp, {.name = "wgmma.mma_async",
                   .operands = {call.a_descriptor, call.b_descriptor,
                                packed(call.options) << 16 | static_cast<uint64_t>(call.n)},
                   .where = self().where});
  WgmmaProduct product = {.call = call, .a_in_registers = call.a != nullptr, .a = {}, .accumulators = {}};
  if (product.a_in_registers) {
    if (call.format == WgmmaFormat::tf32) {
      gather_a_registers<TFloat32>(lanes, product.a);
    } else if (call.format == WgmmaFormat::bf16) {
      gather_a_registers<BFloat16>(lanes, product.a);
    } else {
      gather_a_registers<Float16>(lanes, product.a);
    }
  }
  product.accumulators = take_accumulators(warp.wgmma, lanes, static_cast<unsigned>(call.n));
  ++product.accumulators->products;
  warp.wgmma.products.push_back(std::move(product));
}

void apply_fence(const Lanes& lanes) {
  lanes.warp().wgmma.fenced = true;
  take_step(lanes.warp(), {.name = "wgmma.fence", .where = self().where});
}

void apply_commit(const Lanes& lanes) {
  WgmmaQueue& queue = lanes.warp().wgmma;
  queue.group_ends.push_back(queue.products.size());
  take_step(lanes.warp(), {.name = "wgmma.commit_group", .where = self().where});
}

void apply_wait(const Lanes& lanes) {
  Warp& warp = lanes.warp();
  WgmmaQueue& queue = warp.wgmma;
  const int pending = lanes.operand<WaitOperand>(0).pending;
  take_step(
      warp,
      {.name = "wgmma.wait_group", .operands = {static_cast<uint64_t>(pending)}, .where = self().where});
  const auto keep = static_cast<size_t>(pending);
  if (queue.group_ends.size() <= keep) return;
  const size_t groups = queue.group_ends.size() - keep;
  const size_t count = queue.group_ends[groups - 1];
  for (size_t index = 0; index < count; ++index) {
    WgmmaProduct& product = queue.products[index];
    make(warp, product);
    if (--product.accumulators->products != 0) continue;
    each_accumulator(*product.accumulators, [](float& reg, float& element) { reg = element; });
    queue.accumulators.erase(product.accumulators);
  }
  queue.products.erase(queue.products.begin(), queue.products.begin() + static_cast<std::ptrdiff_t>(count));
  queue.group_ends.erase(queue.group_ends.begin(),
                         queue.group_ends.begin() + static_cast<std::ptrdiff_t>(groups));
  for (size_t& end : queue.group_ends) end -= count;
}

constexpr WarpOperation kIssue = {"wgmma.mma_async", apply_issue};
constexpr WarpOperation kFence = {"wgmma.fence", apply_fence};
constexpr WarpOperation kCommit = {"wgmma.commit_group", apply_commit};
constexpr WarpOperation kWait = {"wgmma.wait_group", apply_wait};

void enter_wgmma(const char* name, const Where& where) {
  enter(name, where);
  require_hopper(name);
}

}  // namespace

void wgmma_issue(const WgmmaCall& call, Where where) {
  enter_wgmma(kIssue.name, where);
  IssueOperand mine = {.call = &call};
  meet_whole_warp(kIssue, &mine, where);
}

namespace ptx {

void wgmma_fence(Where where) {
  enter_wgmma(kFence.name, where);
  meet_whole_warp(kFence, nullptr, where);
}

void wgmma_commit_group(Where where) {
  enter_wgmma(kCommit.name, where);
  meet_whole_warp(kCommit, nullptr, where);
}

void wgmma_wait_group(int pending, Where where) {
  enter_wgmma(kWait.name, where);
  WaitOperand mine = {.pending = pending};
  meet_whole_warp(kWait, &mine, where);
}

}  // namespace ptx
}  // namespace simt
