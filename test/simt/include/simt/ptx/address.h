// Addresses of the shared state space.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt::ptx {

// cvta.to.shared of a pointer into the block's own shared memory.
uint32_t shared_address(const void* pointer, Where where = Where::current());

}  // namespace simt::ptx

namespace simt {

// The bytes [address, address + bytes) of shared memory, which may be another block's of the cluster (mapa);
// an error where they are not all inside, or ADDRESS is no multiple of ALIGNMENT. For the running thread.
unsigned char* shared_bytes(uint32_t address, uint32_t bytes, uint32_t alignment);

}  // namespace simt
