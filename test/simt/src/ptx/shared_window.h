// The shared state space of a cluster: which block an address belongs to.
#pragma once

#include <cstdint>

namespace simt {

struct Block;

Block& shared_owner(uint32_t address);
// The address within its block.
uint32_t shared_offset(uint32_t address);
uint32_t remote_address(uint32_t offset, unsigned rank);

}  // namespace simt
