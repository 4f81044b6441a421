// The columns of a product's tiles as B stores them: which stored rows one tile multiplies with in one block
// of k, and what memory to ask for ahead of them.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "ops/grouped_gemm.h"

namespace moe::cpu {

// A run of k within a segment.
struct Steps {
  int64_t begin = 0, end = 0;

  int64_t count() const { return end - begin; }
  bool operator==(const Steps&) const = default;
};

// Those of a run's steps that one of its chains takes.
struct ChainSteps {
  Steps steps;
  Chains chains = {};
  int chain = 0;

  int64_t count() const;
};

// Of one tile and one run of k.
struct StoredColumns {
  struct Sliver {
    const void* const* rows = nullptr;
    int64_t row_count = 0;
    int64_t offset = 0;  // elements to skip in each
    int lanes = 0;
    bool absent = false;
  };
  Sliver slivers[kSlivers];
  DType dtype = DType::float32;
  // All that is read: `length` elements from `offset` on of each row of every sliver.
  const void* const* rows = nullptr;
  int64_t row_count = 0;
  int64_t offset = 0, length = 0;

  // Both slivers are full, and lie side by side in the same stored rows, which are steps of k.
  bool is_whole() const {
    const auto& [left, right] = slivers;
    return !left.absent && left.rows == right.rows && right.lanes > 0 && left.lanes == right.lanes;
  }
};

// Everything that is read of these columns; of one sliver.
Ahead ahead_of(const StoredColumns& columns);
Ahead ahead_of_sliver(const StoredColumns& columns, int sliver);

// Where stored row i of a group starts, for `count` of them: rows or columns of C, or steps of k. Ragged rows
// are numbered over all groups already.
void list_rows(const Operand& operand, int64_t group, int64_t first, int64_t count, const void** rows);

// Finds the columns of a product's tiles.
class ColumnFinder {
 public:
  ColumnFinder(const GroupedGemm& gemm, int width) : gemm_(gemm), width_(width) {}

  // The tile at column `col`, each of its columns a stored row. `rows` has room for two slivers of lanes.
  StoredColumns list_columns(const void** rows, const Segment& segment, int64_t group, int64_t col,
                             const Steps& steps) const;
  // Tiles whose stored rows are steps of k, the same for every tile: place() says which columns of them,
  // those of one tile or, to ask for memory, of several. `first` is the group's first step. `rows` has room
  // for the steps of two matrices.
  StoredColumns list_steps(const void** rows, const Segment& segment, int64_t group, int64_t first,
                           const ChainSteps& steps) const;
  void place(StoredColumns& columns, int64_t col, int64_t count) const;

 private:
  // What sliver `i` of a tile multiplies, from which column on, and how many.
  const Operand& matrix_of(const Segment& segment, int i) const {
    return segment.b[gemm_.side_by_side ? i : 0];
  }
  int64_t first_of(int64_t col, int i) const { return gemm_.side_by_side ? col : col + i * width_; }
  int lanes_of(int64_t col, int i) const;

  const GroupedGemm& gemm_;
  const int64_t width_;
};

}  // namespace moe::cpu
