// The memory pool: alignment, reuse, its limit, poison. Runs with MOE_KERNELS_POOL_BYTES=65536
// MOE_KERNELS_POISON=1.
#include <cstring>
#include <thread>
#include <vector>

#include "cpu/memory.h"
#include "support/expect.h"

namespace moe::test {
namespace {

constexpr size_t kLimit = 65536;

bool poisoned(const Storage& storage) {
  const auto* bytes = static_cast<const unsigned char*>(storage.data());
  for (size_t i = 0; i < storage.bytes(); ++i) {
    if (bytes[i] != 0xff) return false;
  }
  return true;
}

}  // namespace

TEST_SUITE("memory") {
  TEST_CASE("every size is aligned, wholly usable and poisoned, fresh or reused") {
    for (int turn = 0; turn < 2; ++turn) {
      for (size_t bytes :
           {0, 1, 63, 64, 255, 256, 257, 1023, 1024, 1025, 5000, 65535, 65537, 1 << 22, (1 << 22) + 1}) {
        CAPTURE(bytes);
        const auto storage = cpu::allocate_storage(bytes);
        CHECK_EQ(storage->bytes(), bytes);
        CHECK_EQ(reinterpret_cast<uintptr_t>(storage->data()) % cpu::kAlignment, 0);
        CHECK(poisoned(*storage));
        if (bytes > 0) std::memset(storage->data(), 0, bytes);
      }
    }
  }

  TEST_CASE("a freed block is kept, counted and used again") {
    cpu::trim_pool();
    CHECK_EQ(cpu::pooled_bytes(), 0);
    auto storage = cpu::allocate_storage(5000);
    const void* first = storage->data();
    CHECK_EQ(cpu::pooled_bytes(), 0);
    storage.reset();
    const size_t kept = cpu::pooled_bytes();
    CHECK(kept >= 5000);
    CHECK(kept <= 5000 * 5 / 4);
    // Another size of the same class takes it; a larger class does not.
    const auto larger = cpu::allocate_storage(kept + 1);
    CHECK_NE(larger->data(), first);
    storage = cpu::allocate_storage(kept);
    CHECK_EQ(storage->data(), first);
    CHECK_EQ(cpu::pooled_bytes(), 0);
  }

  TEST_CASE("no more is kept than the limit") {
    cpu::trim_pool();
    std::vector<std::shared_ptr<Storage>> blocks;
    for (int i = 0; i < 40; ++i) blocks.push_back(cpu::allocate_storage(4096));
    blocks.clear();
    CHECK_EQ(cpu::pooled_bytes(), kLimit);
    cpu::allocate_storage(kLimit + 1).reset();
    CHECK_EQ(cpu::pooled_bytes(), kLimit);
    cpu::trim_pool();
    CHECK_EQ(cpu::pooled_bytes(), 0);
  }

  TEST_CASE("what has been idle longest makes room") {
    cpu::trim_pool();
    std::vector<std::shared_ptr<Storage>> blocks;
    for (size_t i = 0; i < kLimit / 4096; ++i) blocks.push_back(cpu::allocate_storage(4096));
    const void* last = blocks.back()->data();
    for (auto& block : blocks) block.reset();
    auto newest = cpu::allocate_storage(kLimit / 2);
    const void* first = newest->data();
    newest.reset();
    CHECK_EQ(cpu::pooled_bytes(), kLimit);
    newest = cpu::allocate_storage(kLimit / 2);
    CHECK_EQ(newest->data(), first);
    CHECK_EQ(cpu::allocate_storage(4096)->data(), last);
  }

  TEST_CASE("the peak is of what was in use at once since it was last asked, kept blocks not counted") {
    cpu::trim_pool();
    cpu::restart_peak();
    const size_t before = cpu::restart_peak();
    auto first = cpu::allocate_storage(4096);
    first.reset();
    for (int turn = 0; turn < 2; ++turn) {
      first = cpu::allocate_storage(4096);
      cpu::allocate_storage(8192).reset();
      first.reset();
    }
    // Beyond what is kept.
    cpu::allocate_storage(2 * kLimit).reset();
    CHECK_EQ(cpu::restart_peak() - before, 2 * kLimit);
    first = cpu::allocate_storage(4096);
    auto second = cpu::allocate_storage(8192);
    second.reset();
    CHECK_EQ(cpu::restart_peak() - before, 4096 + 8192);
    CHECK_EQ(cpu::restart_peak() - before, 4096);
  }

  TEST_CASE("blocks are of one thread at a time") {
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (int id = 0; id < 4; ++id) {
      threads.emplace_back([&wrong, id] {
        for (int turn = 0; turn < 500; ++turn) {
          const auto storage = cpu::allocate_storage(300);
          std::memset(storage->data(), id, 300);
          const auto* bytes = static_cast<const unsigned char*>(storage->data());
          for (int i = 0; i < 300; ++i) wrong[static_cast<size_t>(id)] += bytes[i] == id ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong, std::vector<int>(4, 0));
  }
}

}  // namespace moe::test
