// mbarrier objects and their phases.
#include "mbarrier.h"

#include <cstring>

#include "engine.h"

namespace simt {
namespace {

constexpr uint32_t kMostCount = (1u << 20) - 1;
constexpr uint64_t kMark = 0x6d62617272696572u;  // in memory while the object lives

std::string name_of(const Block& block, uint32_t address) {
  return "mbarrier at byte " + std::to_string(address - block.shared.address_of(block.shared.base()));
}

unsigned char* memory_of(Block& block, uint32_t address) {
  unsigned char* const memory = block.shared.at(address, sizeof kMark);
  if (memory == nullptr) fail(cudaErrorIllegalAddress, "an mbarrier outside of shared memory");
  if (address % sizeof kMark != 0)
    fail(cudaErrorMisalignedAddress, name_of(block, address) + ": expected a multiple of 8");
  return memory;
}

// The phase ends when nothing of it is missing.
void end_phase_if_complete(Block& block, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  for (Thread* thread : barrier.waiting) block.engine->wake(*thread);
  barrier.waiting.clear();
}

}  // namespace

Mbarrier& MbarrierTable::create(Block& block, uint32_t address, uint32_t count, const Where& where) {
  unsigned char* const memory = memory_of(block, address);
  if (count == 0 || count > kMostCount) {
    fail(name_of(block, address) + ": expected a count of 1 to 1048575, got " + std::to_string(count));
  }
  if (all_.count(address) != 0 && std::memcmp(memory, &kMark, sizeof kMark) == 0) {
    fail(name_of(block, address) + ": was initialised before, " + place(all_[address].where) +
         ", and not invalidated");
  }
  std::memcpy(memory, &kMark, sizeof kMark);
  return all_[address] = {.expected = count, .pending = count, .where = where};
}

Mbarrier& MbarrierTable::find(Block& block, uint32_t address) {
  const auto found = all_.find(address);
  if (found == all_.end()) fail(name_of(block, address) + ": was not initialised");
  if (std::memcmp(memory_of(block, address), &kMark, sizeof kMark) != 0) {
    fail(name_of(block, address) + ": was overwritten after its initialisation, " +
         place(found->second.where));
  }
  return found->second;
}

void MbarrierTable::remove(Block& block, uint32_t address) {
  if (!find(block, address).waiting.empty())
    fail(name_of(block, address) + ": invalidated while threads wait for it");
  std::memset(memory_of(block, address), 0xff, sizeof kMark);
  all_.erase(address);
}

std::string MbarrierTable::describe_awaited() const {
  std::string text;
  for (const auto& [address, barrier] : all_) {
    if (barrier.waiting.empty()) continue;
    const Block& block = *barrier.waiting[0]->block_state;
    text += "    " + name_of(block, address) + ", awaited by " + std::to_string(barrier.waiting.size()) +
            ": phase " + std::to_string(barrier.phase) + " lacks " + std::to_string(barrier.pending) +
            " of " + std::to_string(barrier.expected) + " arrivals and " + std::to_string(barrier.bytes) +
            " bytes\n";
  }
  return text;
}

void arrive(Block& block, uint32_t address, uint32_t count) {
  Mbarrier& barrier = block.mbarriers.find(block, address);
  if (count == 0 || count > barrier.pending) {
    fail(name_of(block, address) + ": " + std::to_string(count) + " arrivals where the phase lacks " +
         std::to_string(barrier.pending) + " of " + std::to_string(barrier.expected));
  }
  barrier.pending -= count;
  end_phase_if_complete(block, barrier);
}

void expect_bytes(Block& block, uint32_t address, uint32_t bytes) {
  Mbarrier& barrier = block.mbarriers.find(block, address);
  barrier.bytes += bytes;
  if (barrier.bytes > kMostCount) fail(name_of(block, address) + ": expects more than 1048575 bytes");
  end_phase_if_complete(block, barrier);
}

void complete_bytes(Block& block, uint32_t address, uint32_t bytes) {
  Mbarrier& barrier = block.mbarriers.find(block, address);
  barrier.bytes -= bytes;
  end_phase_if_complete(block, barrier);
}

}  // namespace simt
