// Element types, and the one switch over them. Storage structs have no arithmetic: kernels convert to float32
// and back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace moe {

enum class DType : uint8_t { float32, bfloat16, float16, int32 };

// In the order of the enumeration.
inline constexpr std::array<const char*, 4> kDTypeNames = {"float32", "bfloat16", "float16", "int32"};
inline constexpr std::array<size_t, 4> kDTypeBytes = {4, 2, 2, 4};

constexpr size_t bytes_of(DType dtype) {
  return kDTypeBytes[static_cast<size_t>(dtype)];
}
constexpr const char* name_of(DType dtype) {
  return kDTypeNames[static_cast<size_t>(dtype)];
}
constexpr bool is_float(DType dtype) {
  return dtype != DType::int32;
}

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T>
struct TypeTag {
  using type = T;
};

// Calls `f` with the C++ type of a float dtype. Validation has refused int32 before.
template <class F>
decltype(auto) with_float_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::bfloat16:
      return f(TypeTag<bfloat16>{});
    case DType::float16:
      return f(TypeTag<float16>{});
    default:
      return f(TypeTag<float>{});
  }
}

}  // namespace moe
