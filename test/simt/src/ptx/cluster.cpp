// Clusters, elections and register budgets.
#include "simt/ptx/cluster.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "architecture.h"
#include "engine.h"
#include "shared_window.h"
#include "simt/control.h"

namespace simt {
namespace {

void complete_if_all_came(Cluster& cluster) {
  ClusterBarrier& barrier = cluster.barrier;
  if (barrier.arrived == 0 || barrier.arrived != barrier.live) return;
  ++barrier.phase;
  barrier.arrived = 0;
  for (Thread* thread : std::exchange(barrier.waiting, {})) thread->block_state->engine->wake(*thread);
}

struct ElectOperand {
  bool chosen;
};

void apply_elect(const Lanes& lanes) {
  const unsigned leader = Random(settings().seed, lanes.mask()).bit_of(lanes.mask());
  lanes.each<ElectOperand>([&](unsigned lane, ElectOperand& mine) { mine.chosen = lane == leader; });
}

struct RegisterOperand {
  uint32_t registers;
};

void apply_setmaxnreg(const Lanes& lanes) {
  const uint32_t registers = lanes.operand<RegisterOperand>(0).registers;
  lanes.each<RegisterOperand>([&](unsigned, const RegisterOperand& mine) {
    if (mine.registers < 24 || mine.registers > 256 || mine.registers % 8 != 0 ||
        mine.registers != registers) {
      fail("setmaxnreg to " + std::to_string(mine.registers) +
           ": expected 24 to 256 in steps of 8, the same in all lanes");
    }
  });
  take_step(lanes.warp(), {.name = "setmaxnreg", .operands = {registers}, .where = self().where});
}

constexpr WarpOperation kElect = {"elect.sync", apply_elect};
constexpr WarpOperation kInc = {"setmaxnreg.inc", apply_setmaxnreg};
constexpr WarpOperation kDec = {"setmaxnreg.dec", apply_setmaxnreg};

void set_registers(const WarpOperation& operation, uint32_t registers, const Where& where) {
  enter(operation.name, where);
  require_hopper(operation.name);
  RegisterOperand mine = {.registers = registers};
  meet_whole_warp(operation, &mine, where);
}

const Block& own_block() {
  return *self().block_state;
}

}  // namespace

void note_call(const char* name, Where where) {
  enter(name, where);
}

void leave_cluster_barrier() {
  const Thread& thread = self();
  Cluster& cluster = *thread.block_state->cluster;
  --cluster.barrier.live;
  if (thread.at_cluster_barrier && thread.cluster_phase == cluster.barrier.phase) --cluster.barrier.arrived;
  complete_if_all_came(cluster);
}

namespace ptx {

uint32_t cluster_ctarank() {
  return own_block().cluster_rank;
}

uint32_t cluster_nctarank() {
  return own_block().engine->launch().cluster_blocks();
}

uint3 cluster_nctaid() {
  return own_block().engine->launch().cluster;
}

uint3 cluster_ctaid() {
  const dim3 shape = cluster_nctaid();
  const uint32_t rank = cluster_ctarank();
  return {rank % shape.x, rank / shape.x % shape.y, rank / shape.x / shape.y};
}

void barrier_cluster_arrive(Where where) {
  Thread& thread = enter("barrier.cluster.arrive", where);
  require_hopper("barrier.cluster.arrive");
  Cluster& cluster = *thread.block_state->cluster;
  if (thread.at_cluster_barrier)
    fail("barrier.cluster.arrive: arrives again without a barrier.cluster.wait between");
  thread.at_cluster_barrier = true;
  thread.cluster_phase = cluster.barrier.phase;
  ++cluster.barrier.arrived;
  complete_if_all_came(cluster);
}

void barrier_cluster_wait(Where where) {
  Thread& thread = enter("barrier.cluster.wait", where);
  ClusterBarrier& barrier = thread.block_state->cluster->barrier;
  if (!thread.at_cluster_barrier) fail("barrier.cluster.wait without a barrier.cluster.arrive before it");
  if (thread.cluster_phase == barrier.phase) {
    barrier.waiting.push_back(&thread);
    thread.block_state->engine->park();
  }
  thread.at_cluster_barrier = false;
}

uint32_t mapa(uint32_t address, uint32_t rank, Where where) {
  enter("mapa", where);
  require_hopper("mapa");
  if (rank >= cluster_nctarank()) fail("mapa to block " + std::to_string(rank) + ", which the cluster lacks");
  if (shared_offset(address) != address) fail("mapa of an address that is another block's already");
  return remote_address(address, rank);
}

bool elect_sync(uint32_t mask, Where where) {
  enter("elect.sync", where);
  require_hopper("elect.sync");
  ElectOperand mine = {.chosen = false};
  meet(kElect, mask, &mine, where);
  return mine.chosen;
}

void setmaxnreg_inc(uint32_t registers, Where where) {
  set_registers(kInc, registers, where);
}

void setmaxnreg_dec(uint32_t registers, Where where) {
  set_registers(kDec, registers, where);
}

}  // namespace ptx
}  // namespace simt
