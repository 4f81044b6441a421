// Kinds of ops, to name those that may have failed.
#pragma once

#include <cstdint>
#include <string>

#include "ops/op.h"

namespace moe::cuda {

class OpSet {
 public:
  // `op` is the index of an alternative of Op.
  void add(size_t op) { kinds_ |= uint32_t{1} << op; }
  void add(const OpSet& others) { kinds_ |= others.kinds_; }
  bool empty() const { return kinds_ == 0; }

  // "cast: ", "one of route, dispatch: ", or nothing.
  std::string prefix() const {
    std::string names;
    for (size_t op = 0; op < std::variant_size_v<Op>; ++op) {
      if ((kinds_ >> op & 1) != 0) names += (names.empty() ? "" : ", ") + std::string(name_of_op(op));
    }
    if (empty()) return names;
    const bool several = (kinds_ & (kinds_ - 1)) != 0;
    return (several ? "one of " : "") + names + ": ";
  }

 private:
  static_assert(std::variant_size_v<Op> <= 32);
  uint32_t kinds_ = 0;
};

}  // namespace moe::cuda
