// Where the time of ops goes: what a queue leaves of each op and of each of its stages, while it records.
#pragma once

#include <cstdint>

namespace moe {

// In nanoseconds since the recording began.
struct Span {
  const char* op;
  const char* stage;  // null for the op as a whole
  int64_t begin, end;
};

}  // namespace moe
