// What a product's multiply-adds are made with.
#pragma once

#include <array>
#include <cstdint>

namespace moe::cuda {

// Fused multiply-adds of float32; or tensor cores, with float32 sums.
enum class Arithmetic : uint8_t { float32, tf32, bfloat16, float16 };
inline constexpr std::array<const char*, 4> kArithmeticNames = {"float32", "tf32", "bfloat16", "float16"};

}  // namespace moe::cuda
