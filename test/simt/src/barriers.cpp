// Barriers of a block: who came, who waits, and what can never complete.
#include <string>

#include "engine.h"
#include "simt/collectives.h"

namespace simt {
namespace {

constexpr unsigned kSyncthreads = 0;  // the barrier that __syncthreads uses

struct Arrival {
  unsigned id = 0;
  unsigned expected = 0;
  bool whole_block = false;
  bool holds = false;  // its predicate
  bool waits = true;
};

std::string name_of(unsigned id) {
  return "barrier " + std::to_string(id);
}

const Thread* first_of(const Block& block, const std::array<uint32_t, 32>& lanes) {
  for (unsigned warp = 0; warp < block.warp_count; ++warp) {
    if (lanes[warp] != 0) return &block.warps[warp].threads[__builtin_ctz(lanes[warp])];
  }
  return nullptr;
}

void check_count(const Arrival& arrival, const Block& block) {
  if (arrival.id >= kBarriers) fail(name_of(arrival.id) + ": there are 16");
  if (arrival.whole_block) {
    if (block.live == block.thread_count) return;
    for (unsigned rank = 0; rank < block.thread_count; ++rank) {
      if (block.threads[rank].doing != nullptr) continue;
      fail("thread " + triple(block.threads[rank].thread) + " exited and can never reach this barrier");
    }
  }
  if (arrival.expected == 0 || arrival.expected % kWarpSize != 0 ||
      arrival.expected > block.warp_count * kWarpSize) {
    fail(name_of(arrival.id) + ": expected a multiple of 32 threads up to the block's " +
         std::to_string(block.thread_count) + ", got " + std::to_string(arrival.expected));
  }
}

void check_against_first(const Barrier& barrier, const Arrival& arrival, const Block& block,
                         const Where& where) {
  const bool same_kind = barrier.whole_block == arrival.whole_block && barrier.expected == arrival.expected;
  if (same_kind && (!arrival.whole_block || barrier.where == where)) return;
  const std::string other =
      "thread " + triple(first_of(block, barrier.came)->thread) + " came at " + place(barrier.where);
  if (same_kind) fail("divergent barrier: the threads of a block must meet at one line, but " + other);
  fail(name_of(arrival.id) + " for " + std::to_string(arrival.expected) + " threads, to which " + other +
       " for " + std::to_string(barrier.expected));
}

void release(Barrier& barrier, Block& block, const Thread& last) {
  for (unsigned warp = 0; warp < block.warp_count; ++warp) {
    for (uint32_t left = barrier.waiting[warp]; left != 0; left &= left - 1) {
      Thread& thread = block.warps[warp].threads[__builtin_ctz(left)];
      if (&thread != &last) block.engine->wake(thread);
    }
  }
  const unsigned held = barrier.held;
  barrier.clear();
  barrier.last_held = held;
}

// How many of those that came brought a true predicate.
unsigned come(const char* name, const Arrival& arrival, const Where& where) {
  Thread& thread = enter(name, where);
  Block& block = *thread.block_state;
  check_count(arrival, block);
  Barrier& barrier = block.barriers[arrival.id];
  const unsigned warp = thread.warp->index;
  const uint32_t me = 1u << thread.lane;
  if (barrier.arrived == 0) {
    barrier.expected = arrival.expected;
    barrier.whole_block = arrival.whole_block;
    barrier.where = where;
  } else {
    check_against_first(barrier, arrival, block, where);
  }
  if ((barrier.came[warp] & me) != 0)
    fail(name_of(arrival.id) + ": comes again before the barrier completed");
  barrier.came[warp] |= me;
  barrier.held += arrival.holds ? 1 : 0;
  if (arrival.waits) barrier.waiting[warp] |= me;
  if (++barrier.arrived == barrier.expected) {
    release(barrier, block, thread);
    block.engine->maybe_give_way();
  } else if (arrival.waits) {
    block.engine->park();
  }
  return barrier.last_held;
}

unsigned come_all(const char* name, bool holds, const Where& where) {
  return come(
      name,
      {.id = kSyncthreads, .expected = self().block_state->thread_count, .whole_block = true, .holds = holds},
      where);
}

}  // namespace

void check_exit_from_barriers() {
  const Block& block = *self().block_state;
  const Barrier& barrier = block.barriers[kSyncthreads];
  if (barrier.arrived == 0 || !barrier.whole_block) return;
  fail("exits without reaching the barrier where thread " + triple(first_of(block, barrier.came)->thread) +
       " waits at " + place(barrier.where));
}

void named_barrier_sync(unsigned id, unsigned threads, Where where) {
  come("bar.sync", {.id = id, .expected = threads}, where);
}

void named_barrier_arrive(unsigned id, unsigned threads, Where where) {
  come("bar.arrive", {.id = id, .expected = threads, .waits = false}, where);
}

}  // namespace simt

void __syncthreads(simt::Where where) {
  simt::come_all("__syncthreads", false, where);
}

int __syncthreads_count(int predicate, simt::Where where) {
  return static_cast<int>(simt::come_all("__syncthreads_count", predicate != 0, where));
}

int __syncthreads_or(int predicate, simt::Where where) {
  return simt::come_all("__syncthreads_or", predicate != 0, where) != 0 ? 1 : 0;
}

int __syncthreads_and(int predicate, simt::Where where) {
  return simt::come_all("__syncthreads_and", predicate == 0, where) == 0 ? 1 : 0;
}
