// One kernel launch, ready to run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "report.h"
#include "simt/vectors.h"

namespace simt {

struct Launch {
  dim3 grid, block, cluster;
  size_t shared_bytes = 0;
  const void* function = nullptr;
  std::shared_ptr<const void> arguments;
  void (*run)(const void* arguments) = nullptr;

  unsigned threads() const { return block.x * block.y * block.z; }
  unsigned cluster_blocks() const { return cluster.x * cluster.y * cluster.z; }
  uint64_t clusters() const { return uint64_t{grid.x} * grid.y * grid.z / cluster_blocks(); }
};

// Runs every block of LAUNCH; what went wrong, if anything did. The schedule depends on the seed and on how
// many launches came before.
std::optional<Failure> execute(const Launch& launch);
// The next launch counts as the first, as after reset().
void restart_launch_numbers();

}  // namespace simt
