// Stacks for fibers: reused, each with a guard page below it.
#pragma once

#include <cstddef>
#include <vector>

namespace simt {

class StackPool {
 public:
  StackPool() = default;
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool();

  // The top of a stack. Tops differ in their low bits, lest the stacks of a warp share the same few cache
  // sets.
  std::byte* take();
  void give_back(std::byte* top) { free_.push_back(top); }

  // Whether ADDRESS is in the guard page of a stack.
  bool in_guard(const void* address) const;

 private:
  void grow();

  std::vector<std::byte*> slabs_;
  std::vector<std::byte*> free_;
};

}  // namespace simt
