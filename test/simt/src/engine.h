// The scheduler of one host thread: runs clusters of a launch to their end, one fiber at a time, in an order
// drawn from the seed.
//
// Order of preference: threads that can run; then asynchronous copies that nobody completed yet (so they are
// as late as the program allows); then threads that poll; then, where all that is left polls, a further
// cluster beside those that run; and where there is nothing at all, a deadlock is reported.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "block.h"
#include "launch.h"
#include "random.h"
#include "stacks.h"

namespace simt {

// Hands out the clusters of one launch, in shuffled order, to the engines that run it.
class ClusterSource {
 public:
  ClusterSource(const Launch& launch, uint64_t number);
  std::optional<uint64_t> next();
  void stop() { stopped_ = true; }
  bool stopped() const { return stopped_; }

 private:
  std::vector<uint32_t> order_;
  std::atomic<size_t> taken_{0};
  std::atomic<bool> stopped_{false};
};

class Engine {
 public:
  // Of this host thread.
  static Engine& current();

  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::optional<Failure> run(const Launch& launch, uint64_t number, ClusterSource& source);

  // For the running thread.
  void park();            // until somebody wakes it
  void poll();            // until nothing else can run
  void maybe_give_way();  // now and then, lets others run first
  void wake(Thread& thread);
  [[noreturn]] void exit_thread();
  [[noreturn]] void abandon(Failure failure);

  // Whether a copy that is being issued is to complete at once. Schedules of even seeds have all copies as
  // late as the program allows, which shows missing waits; those of odd seeds have half of them as soon as
  // possible, which shows what overwrites memory that is still read.
  bool completes_at_once() { return hasty_ && (random_.next() & 1) != 0; }
  // Runs WORK when no thread can run.
  void defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }

  const Launch& launch() const { return *launch_; }
  Random& random() { return random_; }
  const std::vector<std::unique_ptr<Cluster>>& residents() const { return residents_; }
  const StackPool& stacks() const { return stacks_; }

 private:
  bool step();
  bool run_ready_warp();
  void run_warp(Block& block);
  void complete_one_deferred();
  void resume_pollers();
  bool admit();
  void start(Block& block, uint64_t index);
  void retire_finished();
  void leave_to_next(Thread& thread);
  void report_deadlock();
  void drop_everything();

  const Launch* launch_ = nullptr;
  ClusterSource* source_ = nullptr;
  Random random_;
  StackPool stacks_;
  void* stack_ = nullptr;  // the scheduler's own
  std::vector<std::unique_ptr<Cluster>> residents_, spare_;
  std::vector<std::function<void()>> deferred_;
  std::vector<Thread*> pollers_;
  bool hasty_ = false;        // by the seed
  unsigned idle_rounds_ = 0;  // rounds of polling in which nothing else happened
  std::optional<Failure> failure_;
};

}  // namespace simt
