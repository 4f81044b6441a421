// How products of float32 are made where tensor cores can round their operands to tf32: a setting of the
// process, read as an op is submitted. Routers multiply in float32 whatever it says.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace moe {

enum class Float32Matmul : uint8_t { float32, tf32 };
inline constexpr std::array<const char*, 2> kFloat32MatmulNames = {"float32", "tf32"};

inline std::atomic<Float32Matmul>& float32_matmul() {
  static std::atomic<Float32Matmul> setting = Float32Matmul::float32;
  return setting;
}

}  // namespace moe
