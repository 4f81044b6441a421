// Bulk copies of plain bytes, and the groups and fences of all bulk copies.
#include "simt/ptx/bulk.h"

#include <cstring>
#include <vector>

#include "architecture.h"
#include "bulk_load.h"
#include "engine.h"
#include "shared_window.h"
#include "simt/ptx/address.h"

namespace simt {

Thread& enter_bulk(const char* name, const Where& where) {
  Thread& thread = enter(name, where);
  require_hopper(name);
  return thread;
}

void schedule_load(uint32_t to, uint32_t mbarrier, uint32_t bytes, uint32_t alignment, uint32_t blocks,
                   Deliver deliver) {
  const Thread& thread = self();
  Cluster& cluster = *thread.block_state->cluster;
  if (blocks == 0) {
    schedule_load_at(to, mbarrier, bytes, alignment, std::move(deliver));
    return;
  }
  for (uint32_t rank = 0; rank < 16; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    if (rank >= cluster.blocks.size())
      fail(std::string(thread.doing) + ": a multicast to a block that the cluster lacks");
    schedule_load_at(remote_address(shared_offset(to), rank), remote_address(shared_offset(mbarrier), rank),
                     bytes, alignment, deliver);
  }
}

void schedule_load_at(uint32_t to, uint32_t mbarrier, uint32_t bytes, uint32_t alignment, Deliver deliver) {
  unsigned char* const target = shared_bytes(to, bytes, alignment);
  Block& owner = shared_owner(to);
  if (&shared_owner(mbarrier) != &owner)
    fail("the mbarrier of a bulk copy is in another block than what it writes");
  const uint32_t barrier = shared_offset(mbarrier);
  owner.mbarriers.find(owner, barrier);
  auto arrival = [=, &owner, deliver = std::move(deliver)] {
    if (owner.live == 0) fail("a bulk copy arrives after its block has exited");
    deliver(target, shared_offset(to));
    owner.proxy.wrote(owner, target, bytes);
    complete_bytes(owner, barrier, bytes);
  };
  Engine& engine = *self().block_state->engine;
  if (engine.completes_at_once()) {
    arrival();
  } else {
    engine.defer(std::move(arrival));
  }
}

void touch_both_ends(const void* from, size_t bytes) {
  const auto* const byte = static_cast<const volatile unsigned char*>(from);
  static_cast<void>(byte[0]);
  static_cast<void>(byte[bytes - 1]);
}

namespace {

constexpr uint32_t kUnit = 16;

void check_bulk(const Thread& thread, const void* global, uint32_t bytes) {
  if (bytes == 0 || bytes % kUnit != 0) {
    fail(std::string(thread.doing) + ": " + std::to_string(bytes) + " bytes, expected a multiple of 16");
  }
  if (reinterpret_cast<uintptr_t>(global) % kUnit != 0) {
    fail(cudaErrorMisalignedAddress, std::string(thread.doing) + ": the global address is no multiple of 16");
  }
}

void load(const Thread& thread, uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier,
          uint32_t blocks) {
  check_bulk(thread, from, bytes);
  touch_both_ends(from, bytes);
  schedule_load(to, mbarrier, bytes, kUnit, blocks,
                [from, bytes](unsigned char* target, uint32_t) { std::memcpy(target, from, bytes); });
}

}  // namespace

namespace ptx {

void cp_async_bulk_shared_global(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier,
                                 Where where) {
  load(enter_bulk("cp.async.bulk.shared.global", where), to, from, bytes, mbarrier, 0);
}

void cp_async_bulk_shared_global_multicast(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier,
                                           uint16_t blocks, Where where) {
  const Thread& thread = enter_bulk("cp.async.bulk.shared.global.multicast", where);
  if (blocks == 0) fail("a multicast to no block");
  load(thread, to, from, bytes, mbarrier, blocks);
}

void cp_async_bulk_shared_shared(uint32_t to, uint32_t from, uint32_t bytes, uint32_t mbarrier, Where where) {
  const Thread& thread = enter_bulk("cp.async.bulk.shared.shared", where);
  check_bulk(thread, nullptr, bytes);
  Block& block = *thread.block_state;
  const unsigned char* const source = shared_bytes(from, bytes, kUnit);
  schedule_load(to, mbarrier, bytes, kUnit, 0, [source, bytes, &block](unsigned char* target, uint32_t) {
    block.proxy.reads(block, source, bytes);
    std::memcpy(target, source, bytes);
  });
}

void cp_async_bulk_global_shared(void* to, uint32_t from, uint32_t bytes, Where where) {
  Thread& thread = enter_bulk("cp.async.bulk.global.shared", where);
  check_bulk(thread, to, bytes);
  touch_both_ends(to, bytes);
  const unsigned char* const source = shared_bytes(from, bytes, kUnit);
  Block& block = *thread.block_state;
  thread.bulk.add({.read = [to, source, bytes, &block]() -> std::function<void()> {
                     block.proxy.reads(block, source, bytes);
                     return [to, content = std::vector<unsigned char>(source, source + bytes)] {
                       std::memcpy(to, content.data(), content.size());
                     };
                   },
                   .write = {}});
}

void cp_async_bulk_commit_group(Where where) {
  enter_bulk("cp.async.bulk.commit_group", where).bulk.commit();
}

void cp_async_bulk_wait_group(int pending, Where where) {
  enter_bulk("cp.async.bulk.wait_group", where).bulk.wait(static_cast<size_t>(pending));
}

void cp_async_bulk_wait_group_read(int pending, Where where) {
  enter_bulk("cp.async.bulk.wait_group.read", where).bulk.wait_read(static_cast<size_t>(pending));
}

void fence_proxy_async(Where where) {
  enter_bulk("fence.proxy.async", where).block_state->proxy.fence();
}

}  // namespace ptx
}  // namespace simt
