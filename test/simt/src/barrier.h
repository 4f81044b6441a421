// Barriers of a block (bar.sync, bar.arrive, bar.red) and of a cluster.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "simt/where.h"

namespace simt {

struct Thread;

constexpr unsigned kBarriers = 16;

struct Barrier {
  // Threads that it waits for. 0: nobody has come since it last completed.
  unsigned expected = 0;
  unsigned arrived = 0;
  bool whole_block = false;                    // __syncthreads: every thread, at one line
  Where where;                                 // of the first to come
  unsigned held = 0;                           // threads whose predicate held, for bar.red
  unsigned last_held = 0;                      // the same of the phase that completed last
  std::array<uint32_t, 32> came{}, waiting{};  // lanes by warp; arriving only does not wait

  void clear() { *this = {}; }
};

// barrier.cluster: every thread of the cluster that has not exited arrives, and later waits.
struct ClusterBarrier {
  uint64_t phase = 0;
  unsigned arrived = 0;
  unsigned live = 0;  // threads
  std::vector<Thread*> waiting;
};

// The running thread exits: the cluster's barrier no longer counts it.
void leave_cluster_barrier();

// The running thread is about to exit: a barrier of the whole block must not wait for it.
void check_exit_from_barriers();

}  // namespace simt
