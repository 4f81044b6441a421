// Addresses of the shared state space: offsets into the block's arena, or, with the rank of a block of the
// cluster in the upper byte, into that block's.
#include "simt/ptx/address.h"

#include "engine.h"

namespace simt {
namespace {

constexpr unsigned kRankShift = 24;

std::string hex(uint32_t address) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%x", address);
  return text;
}

}  // namespace

Block& shared_owner(uint32_t address) {
  Block& own = *self().block_state;
  const uint32_t rank = address >> kRankShift;
  if (rank == 0) return own;
  if (rank > own.cluster->blocks.size())
    fail("shared address " + hex(address) + ": there is no such block in the cluster");
  Block& owner = *own.cluster->blocks[rank - 1];
  if (owner.live == 0) fail("shared address " + hex(address) + ": its block has exited");
  return owner;
}

uint32_t shared_offset(uint32_t address) {
  return address & ((1u << kRankShift) - 1);
}

uint32_t remote_address(uint32_t offset, unsigned rank) {
  return (rank + 1) << kRankShift | offset;
}

unsigned char* shared_bytes(uint32_t address, uint32_t bytes, uint32_t alignment) {
  if (address % alignment != 0) {
    fail(cudaErrorMisalignedAddress,
         "shared address " + hex(address) + ": expected a multiple of " + std::to_string(alignment));
  }
  Block& owner = shared_owner(address);
  unsigned char* const found = owner.shared.at(shared_offset(address), bytes);
  if (found == nullptr) {
    const auto offset =
        static_cast<int64_t>(shared_offset(address)) - owner.shared.address_of(owner.shared.base());
    fail(cudaErrorIllegalAddress, "out of bounds of shared memory: " + std::to_string(bytes) +
                                      " bytes at byte " + std::to_string(offset) + " of " +
                                      std::to_string(owner.shared.bytes()));
  }
  return found;
}

namespace ptx {

uint32_t shared_address(const void* pointer, Where where) {
  const SharedArena& arena = enter("cvta.to.shared", where).block_state->shared;
  const auto* const byte = static_cast<const unsigned char*>(pointer);
  if (byte < arena.base() || byte > arena.base() + arena.bytes()) fail("the pointer is not to shared memory");
  return arena.address_of(pointer);
}

}  // namespace ptx
}  // namespace simt
