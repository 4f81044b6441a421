// Device functions of one thread: bits, conversions, arithmetic with a stated rounding, fences, clocks.
#pragma once

#include <algorithm>
#include <bit>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "simt/atomics.h"
#include "simt/where.h"

// CUDA's global overloads.
using std::max;
using std::min;

template <class T>
T __ldg(const T* address) {
  return *address;
}
// Loads and stores with a cache hint.
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, std::type_identity_t<T> value) {
  *address = value;
}
template <class T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __popcll(unsigned long long value) {
  return std::popcount(value);
}
inline int __clz(int value) {
  return std::countl_zero(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return std::countl_zero(static_cast<unsigned long long>(value));
}
// The lowest set bit, counted from 1; 0 where there is none.
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1;
}
inline int __ffsll(long long value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(value)) + 1;
}
inline unsigned __brev(unsigned value) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1u) << (31 - bit);
  return reversed;
}
// Byte i of the result is the one of (high:low) that nibble i of SELECTOR names; its bit 3 replicates the
// sign.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int index = 0; index < 4; ++index) {
    const unsigned nibble = selector >> (4 * index) & 0xf;
    const auto byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7)) & 0xff);
    result |= ((nibble & 8) == 0 ? byte : (byte & 0x80) != 0 ? 0xffu : 0u) << (8 * index);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned one, unsigned other) {
  return static_cast<unsigned>(uint64_t{one} * other >> 32);
}
inline unsigned long long __umul64hi(unsigned long long one, unsigned long long other) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(one) * other >> 64);
}

inline int __float_as_int(float value) {
  return std::bit_cast<int>(value);
}
inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __int_as_float(int value) {
  return std::bit_cast<float>(value);
}
inline float __uint_as_float(unsigned value) {
  return std::bit_cast<float>(value);
}

inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float value) {
  return std::sqrt(value);
}
inline float __frcp_rn(float value) {
  return 1.0f / value;
}
// What int cannot hold saturates; NaN becomes 0.
inline int __float2int_rz(float value) {
  constexpr float kLimit = 2147483648.0f;
  if (value >= kLimit) return INT32_MAX;
  if (value < -kLimit) return INT32_MIN;
  return value == value ? static_cast<int>(value) : 0;
}
inline int __float2int_rn(float value) {
  return __float2int_rz(std::nearbyint(value));
}
inline float __int2float_rn(int value) {
  return static_cast<float>(value);
}
inline float __uint2float_rn(unsigned value) {
  return static_cast<float>(value);
}

// The fast approximations, here exact: a device's differ in the last bits, within the errors that CUDA
// states.
#define __expf(value) (std::exp(static_cast<float>(value)))
#define __exp2f(value) (std::exp2(static_cast<float>(value)))
#define __logf(value) (std::log(static_cast<float>(value)))
#define __log2f(value) (std::log2(static_cast<float>(value)))
#define __powf(base, power) (std::pow(static_cast<float>(base), static_cast<float>(power)))
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frsqrt_rn(float value) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(value)));
}
inline float rsqrtf(float value) {
  return __frsqrt_rn(value);
}
inline float __saturatef(float value) {
  return value >= 1.0f ? 1.0f : value > 0.0f ? value : 0.0f;  // 0 for NaN
}

// Threads of the emulator see each other's writes in the order they are made; the fence is for the compiler
// and, where blocks run on several host threads, for the processor.
inline void __threadfence_block() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_system() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

inline long long clock64() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}
// Lets every thread that can run go first.
inline void __nanosleep(unsigned, simt::Where where = simt::Where::current()) {
  simt::poll_memory("__nanosleep", where);
}
// Ends the launch with cudaErrorLaunchFailure. assert() of a kernel ends it with cudaErrorAssert.
[[noreturn]] void __trap(simt::Where where = simt::Where::current());
