// Single machine instructions. The only place with inline PTX; under emulation each is a function of the
// emulator's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

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
__device__ inline void ldmatrix_x4(uint32_t (&to)[4], const void* row MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::ldmatrix(to, simt::ptx::shared_address(row MOE_HERE) MOE_HERE);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

__device__ inline void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::ldmatrix_trans(to, simt::ptx::shared_address(row MOE_HERE) MOE_HERE);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// d += a · b of a 16×16 and a 16×8 matrix, accumulated in float32.
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2] MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::mma_m16n8k16_bf16(d, a, b, d MOE_HERE);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2] MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::mma_m16n8k16_f16(d, a, b, d MOE_HERE);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace moe::cuda::ptx
