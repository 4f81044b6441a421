// What bulk and tensor copies into shared memory have in common: they happen later, and count on an mbarrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "simt/where.h"

namespace simt {

struct Thread;

// Notes the instruction; refused below compute capability 9.0.
Thread& enter_bulk(const char* name, const Where& where);

// Writes the copy's bytes at TARGET, whose shared address is ADDRESS.
using Deliver = std::function<void(unsigned char* target, uint32_t address)>;

// Has BYTES delivered to the shared address TO when no thread can run, and counted on MBARRIER of the same
// block; with BLOCKS, a set of ranks in the cluster, to each of those.
void schedule_load(uint32_t to, uint32_t mbarrier, uint32_t bytes, uint32_t alignment, uint32_t blocks,
                   Deliver deliver);
void schedule_load_at(uint32_t to, uint32_t mbarrier, uint32_t bytes, uint32_t alignment, Deliver deliver);

// Faults here and now where [from, from + bytes) begins or ends out of bounds.
void touch_both_ends(const void* from, size_t bytes);

}  // namespace simt
