// Filling and converting tensors. Bound by bytes.
#include <cstring>

#include "cpu/backend.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"

namespace moe::cpu {

void run(const Fill& op) {
  const auto bytes = static_cast<int64_t>(bytes_of(op.out.dtype));
  char element[sizeof(float)];
  kernels().cast(&op.value, DType::float32, element, op.out.dtype, 1);
  for_chunks(op.out.elements(), bytes, [&](int64_t begin, int64_t end) {
    const auto fill = [&](auto value) {
      using T = decltype(value);
      std::memcpy(&value, element, sizeof value);
      std::fill(op.out.as<T>() + begin, op.out.as<T>() + end, value);
    };
    bytes == 2 ? fill(uint16_t{}) : fill(uint32_t{});
  });
}

void run(const Cast& op) {
  const auto from = static_cast<int64_t>(bytes_of(op.source.dtype)),
             to = static_cast<int64_t>(bytes_of(op.out.dtype));
  for_chunks(op.out.elements(), from + to, [&](int64_t begin, int64_t end) {
    kernels().cast(op.source.as<const char>() + begin * from, op.source.dtype, op.out.as<char>() + begin * to,
                   op.out.dtype, end - begin);
  });
}

}  // namespace moe::cpu
