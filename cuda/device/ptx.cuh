// Single machine instructions. The only place with inline PTX; under emulation each is a function of the
// emulator's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/arithmetic.h"
#include "cuda/device/where.cuh"

#if defined(MOE_SIMT)
#include "simt/ptx.h"
#endif

namespace moe::cuda {

// The shared memory that a block was launched with.
__device__ inline unsigned char* dynamic_shared() {
#if defined(MOE_SIMT)
  return simt::dynamic_shared();
#else
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
#endif
}

}  // namespace moe::cuda

namespace moe::cuda::ptx {

#if !defined(MOE_SIMT)
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// The bits of a float in another format, rounded to nearest even, and back.
__device__ inline uint16_t bf16_of(float value) {
#if defined(MOE_SIMT)
  return simt::ptx::cvt_rn_bf16_f32(value);
#else
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

__device__ inline uint16_t f16_of(float value) {
#if defined(MOE_SIMT)
  return simt::ptx::cvt_rn_f16_f32(value);
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

__device__ inline float float_of_f16(uint16_t bits) {
#if defined(MOE_SIMT)
  return simt::ptx::cvt_f32_f16(bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

// Four 8×8 matrices of 16-bit elements from shared memory: lane i gives the address of row i % 8 of matrix i
// / 8 and gets two elements of row lane / 4 of each; transposed, two of column lane / 4.
template <bool kTransposed>
__device__ inline void ldmatrix_x4(uint32_t (&to)[4], const void* row MOE_WHERE) {
#if defined(MOE_SIMT)
  const uint32_t address = simt::ptx::shared_address(row MOE_HERE);
  if constexpr (kTransposed) {
    simt::ptx::ldmatrix_trans(to, address MOE_HERE);
  } else {
    simt::ptx::ldmatrix(to, address MOE_HERE);
  }
#else
#define MOE_LDMATRIX(transposition)                                                                \
  asm volatile("ldmatrix.sync.aligned.m8n8.x4" transposition ".shared.b16 {%0, %1, %2, %3}, [%4];" \
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])                                \
               : "r"(shared_address(row))                                                          \
               : "memory")
  if constexpr (kTransposed) {
    MOE_LDMATRIX(".trans");
  } else {
    MOE_LDMATRIX("");
  }
#undef MOE_LDMATRIX
#endif
}

// d += a · b of a 16×k and a k×8 matrix, with 32 bytes of k, accumulated in float32.
template <Arithmetic kArithmetic>
__device__ inline void mma_m16n8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] MOE_WHERE) {
#if defined(MOE_SIMT)
  if constexpr (kArithmetic == Arithmetic::tf32) {
    simt::ptx::mma_m16n8k8_tf32(d, a, b, d MOE_HERE);
  } else if constexpr (kArithmetic == Arithmetic::bfloat16) {
    simt::ptx::mma_m16n8k16_bf16(d, a, b, d MOE_HERE);
  } else {
    simt::ptx::mma_m16n8k16_f16(d, a, b, d MOE_HERE);
  }
#else
#define MOE_MMA(k, type)                                                              \
  asm volatile("mma.sync.aligned.m16n8" k ".row.col.f32." type "." type               \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (kArithmetic == Arithmetic::tf32) {
    MOE_MMA("k8", "tf32");
  } else if constexpr (kArithmetic == Arithmetic::bfloat16) {
    MOE_MMA("k16", "bf16");
  } else {
    MOE_MMA("k16", "f16");
  }
#undef MOE_MMA
#endif
}

// The bits of a float rounded to tf32.
__device__ inline uint32_t tf32_of(float value) {
#if defined(MOE_SIMT)
  return simt::ptx::cvt_rna_tf32_f32(value);
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

// Sixteen bytes to shared memory without passing through registers, past the first-level cache: the first
// `bytes` of them are read, the others are zeros. Done when the thread's group of copies is.
__device__ inline void cp_async_16(void* to, const void* from, int bytes MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_cg(simt::ptx::shared_address(to MOE_HERE), from, static_cast<uint32_t>(bytes) MOE_HERE);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
#endif
}

__device__ inline void cp_async_commit(MOE_ONLY_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_commit_group(where);
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most so many of the thread's groups are under way, the latest.
template <int kPending>
__device__ inline void cp_async_wait(MOE_ONLY_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_wait_group(kPending, where);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace moe::cuda::ptx
