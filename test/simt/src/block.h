// The state of threads, warps, blocks and clusters while they run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "async_proxy.h"
#include "barrier.h"
#include "bulk_stores.h"
#include "cp_async.h"
#include "mbarrier.h"
#include "meeting.h"
#include "shared_memory.h"
#include "simt/thread.h"
#include "simt/where.h"
#include "warpgroup.h"
#include "wgmma_queue.h"

namespace simt {

class Engine;
struct Block;
struct Cluster;
struct Warp;

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;

struct Thread : Coordinates {
  Block* block_state = nullptr;
  Warp* warp = nullptr;
  unsigned lane = 0;
  unsigned rank = 0;  // in the block: x fastest

  std::byte* stack_top = nullptr;
  void* stack = nullptr;        // where to go on, while it does not run
  const char* doing = nullptr;  // the last emulated call; null once it has exited
  Where where;
  void* operand = nullptr;  // what it brings to a warp meeting
  CpAsyncQueue cp_async;
  BulkStores bulk;
  bool at_cluster_barrier = false;  // has arrived, and not waited yet
  uint64_t cluster_phase = 0;       // of that arrival
};

struct Warp {
  Block* block = nullptr;
  Thread* threads = nullptr;
  unsigned index = 0;
  uint32_t present = 0;  // lanes that the launch has
  uint32_t ready = 0;    // lanes that can run
  uint32_t exited = 0;
  uint32_t meeting = 0;                     // lanes that wait in one of the meetings
  std::array<Meeting, kWarpSize> meetings;  // by the lowest lane of their mask
  WgmmaQueue wgmma;

  bool missing(uint32_t mask) const { return (mask & (exited | ~present)) != 0; }
};

struct Block {
  Engine* engine = nullptr;
  Cluster* cluster = nullptr;
  unsigned cluster_rank = 0;
  unsigned thread_count = 0, warp_count = 0, live = 0;
  uint32_t ready_warps = 0;
  std::vector<Thread> threads;
  std::array<Warp, kWarpSize> warps;
  std::array<Barrier, kBarriers> barriers;
  SharedArena shared;
  AsyncProxy proxy;
  MbarrierTable mbarriers;
  std::array<Warpgroup, kWarpSize / 4> warpgroups;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  ClusterBarrier barrier;
  unsigned live = 0;  // blocks
};

// The running thread.
inline Thread& self() {
  return const_cast<Thread&>(static_cast<const Thread&>(*here));
}

// Says where the running thread is, for the report of whatever goes wrong next.
inline Thread& enter(const char* doing, const Where& where) {
  Thread& thread = self();
  thread.doing = doing;
  thread.where = where;
  return thread;
}

}  // namespace simt
