// The mbarrier instructions.
#include "simt/ptx/mbarrier.h"

#include "architecture.h"
#include "engine.h"
#include "shared_window.h"

namespace simt {
namespace {

// One in this many waits that would block gives up instead.
constexpr uint64_t kImpatience = 4;

struct Target {
  Block& block;
  uint32_t address;

  Mbarrier& barrier() const { return block.mbarriers.find(block, address); }
};

Target target_of(uint32_t address) {
  return {.block = shared_owner(address), .address = shared_offset(address)};
}

// In the block's own memory: waits and initialisation reach no other's.
Target own(const Thread& thread, uint32_t address) {
  if (shared_offset(address) != address) fail(std::string(thread.doing) + ": the mbarrier of another block");
  return target_of(address);
}

template <class Done>
bool test(const Thread& thread, Done done) {
  if (done()) return true;
  thread.block_state->engine->poll();
  return done();
}

template <class Done>
bool wait(Thread& thread, const Target& target, Done done) {
  Engine& engine = *thread.block_state->engine;
  if (done()) return true;
  if (engine.random().below(kImpatience) == 0) return test(thread, done);
  target.barrier().waiting.push_back(&thread);
  engine.park();
  return true;  // woken by the end of that phase
}

uint64_t arrive_at(const Target& target, uint32_t count) {
  const uint64_t phase = target.barrier().phase;
  arrive(target.block, target.address, count);
  return phase;
}

auto phase_over(const Target& target, uint64_t state) {
  return [target, state] { return target.barrier().phase > state; };
}

auto parity_over(const Target& target, uint32_t parity) {
  return [target, parity] { return target.barrier().phase % 2 != parity; };
}

void check_parity(uint32_t parity) {
  if (parity > 1) fail("a phase parity of " + std::to_string(parity));
}

}  // namespace

namespace ptx {

void mbarrier_init(uint32_t address, uint32_t count, Where where) {
  const Target target = own(enter("mbarrier.init", where), address);
  target.block.mbarriers.create(target.block, target.address, count, where);
}

void mbarrier_inval(uint32_t address, Where where) {
  const Target target = own(enter("mbarrier.inval", where), address);
  target.block.mbarriers.remove(target.block, target.address);
}

uint64_t mbarrier_arrive(uint32_t address, uint32_t count, Where where) {
  enter("mbarrier.arrive", where);
  return arrive_at(target_of(address), count);
}

uint64_t mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes, Where where) {
  enter("mbarrier.arrive.expect_tx", where);
  require_hopper("mbarrier.arrive.expect_tx");
  const Target target = target_of(address);
  expect_bytes(target.block, target.address, bytes);
  return arrive_at(target, 1);
}

void mbarrier_expect_tx(uint32_t address, uint32_t bytes, Where where) {
  enter("mbarrier.expect_tx", where);
  require_hopper("mbarrier.expect_tx");
  const Target target = target_of(address);
  expect_bytes(target.block, target.address, bytes);
}

void mbarrier_complete_tx(uint32_t address, uint32_t bytes, Where where) {
  enter("mbarrier.complete_tx", where);
  require_hopper("mbarrier.complete_tx");
  const Target target = target_of(address);
  complete_bytes(target.block, target.address, bytes);
}

void cp_async_mbarrier_arrive_noinc(uint32_t address, Where where) {
  Thread& thread = enter("cp.async.mbarrier.arrive.noinc", where);
  const Target target = own(thread, address);
  target.barrier();
  thread.block_state->engine->defer([target, &thread, number = thread.cp_async.issued()] {
    thread.cp_async.complete_through(number);
    arrive(target.block, target.address, 1);
  });
}

bool mbarrier_test_wait(uint32_t address, uint64_t state, Where where) {
  const Thread& thread = enter("mbarrier.test_wait", where);
  return test(thread, phase_over(own(thread, address), state));
}

bool mbarrier_test_wait_parity(uint32_t address, uint32_t parity, Where where) {
  const Thread& thread = enter("mbarrier.test_wait.parity", where);
  check_parity(parity);
  return test(thread, parity_over(own(thread, address), parity));
}

bool mbarrier_try_wait(uint32_t address, uint64_t state, Where where) {
  Thread& thread = enter("mbarrier.try_wait", where);
  require_hopper("mbarrier.try_wait");
  const Target target = own(thread, address);
  return wait(thread, target, phase_over(target, state));
}

bool mbarrier_try_wait_parity(uint32_t address, uint32_t parity, Where where) {
  Thread& thread = enter("mbarrier.try_wait.parity", where);
  require_hopper("mbarrier.try_wait");
  check_parity(parity);
  const Target target = own(thread, address);
  return wait(thread, target, parity_over(target, parity));
}

void fence_mbarrier_init(Where where) {
  enter("fence.mbarrier_init", where);
  require_hopper("fence.mbarrier_init");
}

}  // namespace ptx
}  // namespace simt
