#include "cuda/failure.h"

#include <string>

#include "cuda/devices.h"
#include "ops/op.h"

namespace moe::cuda {

// In the words of the CPU backend.
Error error_of(const Failure& failure) {
  const std::string name = kArgumentNames[static_cast<size_t>(failure.argument)];
  const std::string got = std::to_string(failure.got), last = std::to_string(failure.limit - 1);
  std::string sentence;
  switch (failure.argument) {
    case Argument::rows:
    case Argument::rows_per_expert:
      sentence = name + ": expected at most " + last + " routed rows, got " + got;
      break;
    case Argument::offsets:
      sentence = name + ": expected values ascending from 0 to at most " + last + ", got " + got;
      break;
    default:
      sentence =
          name + ": expected values from " + std::to_string(failure.least) + " to " + last + ", got " + got;
  }
  return {kErrIndexRange, std::string(name_of_op(static_cast<size_t>(failure.op))) + ": " + sentence};
}

}  // namespace moe::cuda
