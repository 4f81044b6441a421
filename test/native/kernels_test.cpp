// Which kernels a processor is given: each of the instruction sets that it runs once, and the fastest first.
#include <set>
#include <string>

#include "cpu/processor.h"
#include "support/expect.h"

namespace moe::test {
namespace {

bool multiplies_pairs(const cpu::Kernels& table) {
  return table.tile_product[static_cast<size_t>(cpu::PanelKind::bfloat16_pairs)][0] != nullptr;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("every table is listed once, down to the one that any processor runs") {
    const cpu::KernelList& list = cpu::available_kernels();
    std::set<std::string> names;
    for (int i = 0; i < list.count; ++i) names.insert(list.tables[i]->name);
    CHECK_EQ(static_cast<int>(names.size()), list.count);
    CHECK_EQ(std::string(list.tables[list.count - 1]->name), "baseline");
  }

  TEST_CASE("pairs of bfloat16 come first, unless the processor is slow at them") {
    const cpu::KernelList& list = cpu::available_kernels();
    bool runs_pairs = false;
    for (int i = 0; i < list.count; ++i) runs_pairs = runs_pairs || multiplies_pairs(*list.tables[i]);
    CHECK_EQ(multiplies_pairs(*list.tables[0]), runs_pairs && !cpu::processor().slow_pairs);
  }
}

}  // namespace moe::test
