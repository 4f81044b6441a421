// The mbarrier objects of a block: phases, the arrivals and bytes that each phase still expects, who waits.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "simt/where.h"

namespace simt {

struct Block;
struct Thread;

struct Mbarrier {
  uint32_t expected = 0;  // arrivals of each phase
  uint32_t pending = 0;   // of this one
  int64_t bytes = 0;      // announced and not yet come; below 0 where they came first
  uint64_t phase = 0;
  std::vector<Thread*> waiting;
  Where where;  // of its initialisation
};

class MbarrierTable {
 public:
  // By the address in the block's own shared memory, which holds a mark while the object lives.
  Mbarrier& create(Block& block, uint32_t address, uint32_t count, const Where& where);
  Mbarrier& find(Block& block, uint32_t address);
  void remove(Block& block, uint32_t address);
  void clear() { all_.clear(); }

  // A line for each that threads wait for.
  std::string describe_awaited() const;

 private:
  std::unordered_map<uint32_t, Mbarrier> all_;
};

// COUNT of the arrivals that the phase expects have come.
void arrive(Block& block, uint32_t address, uint32_t count);
void expect_bytes(Block& block, uint32_t address, uint32_t bytes);
// BYTES that copies brought.
void complete_bytes(Block& block, uint32_t address, uint32_t bytes);

}  // namespace simt
