// The scheduler: which thread runs next, when copies complete, when a launch is over or stuck.
#include "engine.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "deadlock.h"
#include "fault.h"
#include "fiber.h"
#include "simt/control.h"

__thread dim3 blockDim __attribute__((tls_model("initial-exec")));
__thread dim3 gridDim __attribute__((tls_model("initial-exec")));

namespace simt {

__thread const Coordinates* here __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr unsigned kIdleRounds = 1u << 18;  // of polling in vain, until it counts as a livelock

void enter_kernel() {
  Engine& engine = Engine::current();
  engine.launch().run(engine.launch().arguments.get());
  engine.exit_thread();
}

uint3 unflatten(uint64_t index, dim3 size) {
  return {static_cast<unsigned>(index % size.x), static_cast<unsigned>(index / size.x % size.y),
          static_cast<unsigned>(index / size.x / size.y)};
}

uint64_t flatten(uint3 index, dim3 size) {
  return (uint64_t{index.z} * size.y + index.y) * size.x + index.x;
}

// What a block that has ended should not have done.
std::optional<std::string> left_wrong(const Block& block) {
  if (!block.shared.intact()) {
    return "a write past the end of the " + std::to_string(block.shared.bytes()) + " bytes of shared memory";
  }
  return uneven_warpgroup(block);
}

}  // namespace

ClusterSource::ClusterSource(const Launch& launch, uint64_t number) : order_(launch.clusters()) {
  std::iota(order_.begin(), order_.end(), 0u);
  Random random(settings().seed, number);
  for (size_t left = order_.size(); left > 1; --left) std::swap(order_[left - 1], order_[random.below(left)]);
}

std::optional<uint64_t> ClusterSource::next() {
  const size_t turn = taken_.fetch_add(1);
  if (stopped_ || turn >= order_.size()) return std::nullopt;
  return order_[turn];
}

Engine& Engine::current() {
  thread_local Engine engine;
  return engine;
}

std::optional<Failure> Engine::run(const Launch& launch, uint64_t number, ClusterSource& source) {
  const FaultGuard guard;
  launch_ = &launch;
  source_ = &source;
  blockDim = launch.block;
  gridDim = launch.grid;
  random_ = Random(settings().seed, ~number);
  hasty_ = settings().seed % 2 == 1;
  failure_.reset();
  while (!failure_ && !source.stopped() && step()) {
  }
  if (failure_) source.stop();
  drop_everything();
  return std::exchange(failure_, std::nullopt);
}

// One thing that the scheduler does; false once the launch is over.
bool Engine::step() {
  retire_finished();
  if (failure_) return false;
  if (run_ready_warp()) return true;
  if (!deferred_.empty()) {
    complete_one_deferred();
    return true;
  }
  if (residents_.empty()) return admit();
  if (pollers_.empty() || idle_rounds_ > kIdleRounds) {
    report_deadlock();
    return false;
  }
  // All that is left waits for memory to change: perhaps a block that has not begun will change it.
  const bool crowded = residents_.size() * launch_->cluster_blocks() >=
                       static_cast<size_t>(std::max(1, settings().multiprocessors));
  if (idle_rounds_ < 2 || crowded || !admit()) resume_pollers();
  return true;
}

bool Engine::run_ready_warp() {
  const size_t first = residents_.size() > 1 ? random_.below(residents_.size()) : 0;
  for (size_t turn = 0; turn < residents_.size(); ++turn) {
    auto& blocks = residents_[(first + turn) % residents_.size()]->blocks;
    const size_t first_block = blocks.size() > 1 ? random_.below(blocks.size()) : 0;
    for (size_t next = 0; next < blocks.size(); ++next) {
      Block& block = *blocks[(first_block + next) % blocks.size()];
      if (block.ready_warps == 0) continue;
      run_warp(block);
      return true;
    }
  }
  return false;
}

// Runs a warp until none of its lanes can run, or one of them gives way.
void Engine::run_warp(Block& block) {
  Warp& warp = block.warps[random_.bit_of(block.ready_warps)];
  const unsigned lane = random_.bit_of(warp.ready);
  warp.ready &= ~(1u << lane);
  here = &warp.threads[lane];
  simt_switch_stack(&stack_, warp.threads[lane].stack);
  here = nullptr;
  if (warp.ready == 0) block.ready_warps &= ~(1u << warp.index);
}

void Engine::complete_one_deferred() {
  std::swap(deferred_[random_.below(deferred_.size())], deferred_.back());
  const std::function<void()> work = std::move(deferred_.back());
  deferred_.pop_back();
  idle_rounds_ = 0;
  try {
    work();
  } catch (Failure& failure) {
    failure_ = std::move(failure);
  }
}

void Engine::resume_pollers() {
  ++idle_rounds_;
  const unsigned rounds = idle_rounds_;
  for (Thread* thread : std::exchange(pollers_, {})) wake(*thread);
  idle_rounds_ = rounds;
}

// Starts a cluster; false where none is left.
bool Engine::admit() {
  const std::optional<uint64_t> number = source_->next();
  if (!number) return false;
  idle_rounds_ = 0;
  if (spare_.empty()) spare_.push_back(std::make_unique<Cluster>());
  std::unique_ptr<Cluster> cluster = std::move(spare_.back());
  spare_.pop_back();
  const dim3 shape = launch_->cluster;
  const dim3 clusters(launch_->grid.x / shape.x, launch_->grid.y / shape.y, launch_->grid.z / shape.z);
  const uint3 at = unflatten(*number, clusters);
  const unsigned count = launch_->cluster_blocks();
  while (cluster->blocks.size() < count) cluster->blocks.push_back(std::make_unique<Block>());
  cluster->blocks.resize(count);
  cluster->barrier = {.live = count * launch_->threads()};
  cluster->live = count;
  for (unsigned rank = 0; rank < count; ++rank) {
    const uint3 inside = unflatten(rank, shape);
    Block& block = *cluster->blocks[rank];
    block.cluster = cluster.get();
    block.cluster_rank = rank;
    start(block, flatten({at.x * shape.x + inside.x, at.y * shape.y + inside.y, at.z * shape.z + inside.z},
                         launch_->grid));
  }
  residents_.push_back(std::move(cluster));
  return true;
}

void Engine::start(Block& block, uint64_t index) {
  const unsigned count = launch_->threads();
  block.engine = this;
  block.thread_count = block.live = count;
  block.warp_count = (count + kWarpSize - 1) / kWarpSize;
  block.ready_warps = block.warp_count == kWarpSize ? ~0u : (1u << block.warp_count) - 1;
  if (block.threads.size() < block.warp_count * kWarpSize) block.threads.resize(block.warp_count * kWarpSize);
  block.shared.renew(launch_->shared_bytes);
  for (Barrier& barrier : block.barriers) barrier.clear();
  block.proxy.renew(launch_->shared_bytes);
  block.mbarriers.clear();
  block.warpgroups = {};
  for (unsigned number = 0; number < block.warp_count; ++number) {
    Warp& warp = block.warps[number];
    const unsigned lanes = std::min(kWarpSize, count - number * kWarpSize);
    warp.block = &block;
    warp.threads = &block.threads[number * kWarpSize];
    warp.index = number;
    warp.exited = warp.meeting = 0;
    for (Meeting& meeting : warp.meetings) meeting.arrived = 0;
    warp.wgmma.clear();
    warp.present = warp.ready = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      Thread& thread = warp.threads[lane];
      const unsigned rank = number * kWarpSize + lane;
      thread.thread = unflatten(rank, launch_->block);
      thread.block = unflatten(index, launch_->grid);
      thread.block_state = &block;
      thread.warp = &warp;
      thread.lane = lane;
      thread.rank = rank;
      thread.doing = "its start";
      thread.where = {};
      thread.cp_async.clear();
      thread.bulk.clear();
      thread.at_cluster_barrier = false;
      thread.stack_top = stacks_.take();
      thread.stack = prepare_stack(thread.stack_top, enter_kernel);
    }
  }
}

void Engine::retire_finished() {
  for (size_t index = 0; index < residents_.size(); ++index) {
    if (residents_[index]->live != 0) continue;
    for (const auto& block : residents_[index]->blocks) {
      if (auto text = left_wrong(*block); text && !failure_) {
        failure_ = {.code = cudaErrorIllegalAddress,
                    .text = *text + "\n  block " + triple(block->threads[0].block)};
      }
    }
    spare_.push_back(std::move(residents_[index]));
    std::swap(residents_[index], residents_.back());
    residents_.pop_back();
    --index;
  }
}

// Leaves the running thread, which waits or is done, for another of its warp or for the scheduler.
void Engine::leave_to_next(Thread& thread) {
  Warp& warp = *thread.warp;
  if (warp.ready != 0) {
    const unsigned lane = random_.bit_of(warp.ready);
    warp.ready &= ~(1u << lane);
    here = &warp.threads[lane];
    simt_switch_stack(&thread.stack, warp.threads[lane].stack);
  } else {
    simt_switch_stack(&thread.stack, stack_);
  }
}

void Engine::park() {
  leave_to_next(self());
}

void Engine::poll() {
  pollers_.push_back(&self());
  park();
}

void Engine::maybe_give_way() {
  if ((random_.next() & 7) != 0) return;
  Thread& thread = self();
  thread.warp->ready |= 1u << thread.lane;
  simt_switch_stack(&thread.stack, stack_);
}

void Engine::wake(Thread& thread) {
  idle_rounds_ = 0;
  thread.warp->ready |= 1u << thread.lane;
  thread.block_state->ready_warps |= 1u << thread.warp->index;
}

void Engine::exit_thread() {
  Thread& thread = self();
  check_exit_from_meetings();
  check_exit_from_barriers();
  leave_cluster_barrier();
  thread.bulk.finish();
  idle_rounds_ = 0;
  thread.warp->exited |= 1u << thread.lane;
  thread.doing = nullptr;
  stacks_.give_back(std::exchange(thread.stack_top, nullptr));
  if (--thread.block_state->live == 0) --thread.block_state->cluster->live;
  leave_to_next(thread);
  __builtin_unreachable();
}

void Engine::abandon(Failure failure) {
  failure_ = std::move(failure);
  void* nowhere = nullptr;
  simt_switch_stack(&nowhere, stack_);
  __builtin_unreachable();
}

void Engine::report_deadlock() {
  failure_ = {cudaErrorLaunchFailure, pollers_.empty() ? "deadlock: no thread can run"
                                                       : "livelock: every thread that is left polls in vain"};
  failure_->text += "\n" + who_waits(residents_);
}

// After the end, or where a launch failed: no thread of it runs again.
void Engine::drop_everything() {
  for (auto& cluster : residents_) {
    for (auto& block : cluster->blocks) {
      for (unsigned rank = 0; rank < block->thread_count; ++rank) {
        if (auto* top = std::exchange(block->threads[rank].stack_top, nullptr)) stacks_.give_back(top);
      }
    }
    spare_.push_back(std::move(cluster));
  }
  residents_.clear();
  deferred_.clear();
  pollers_.clear();
  idle_rounds_ = 0;
}

}  // namespace simt
