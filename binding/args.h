// Where the description of an op is read from, value by value.
#pragma once

#include <cmath>

#include "ops/tensor.h"

namespace moe::binding {

class Args {
 public:
  virtual ~Args() = default;

  // Absent where there is none of this name.
  virtual Tensor tensor(const char* name) = 0;
  // Flags are 0 or 1, choices the index of an enumeration. Not a number where there is none of this name.
  virtual double number(const char* name) = 0;

  float real(const char* name) { return static_cast<float>(number(name)); }
  int integer(const char* name) {
    const double value = number(name);
    return std::isnan(value) ? 0 : static_cast<int>(value);
  }
  bool flag(const char* name) { return integer(name) != 0; }
  template <class Enum>
  Enum choice(const char* name) {
    return static_cast<Enum>(integer(name));
  }
};

}  // namespace moe::binding
