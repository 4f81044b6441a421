// Single machine instructions. The only place with inline PTX; under emulation each is a function of the
// emulator's.
#pragma once

#include <cuda.h>
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

__device__ inline uint32_t shared_address(const void* pointer MOE_WHERE) {
#if defined(MOE_SIMT)
  return simt::ptx::shared_address(pointer MOE_HERE);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

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
  const uint32_t address = shared_address(row MOE_HERE);
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

// Sixteen bytes, zeros from `source_bytes` on; nothing is read where that is 0.
__device__ inline void cp_async_16(uint32_t to, const void* from, uint32_t source_bytes MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_cg(to, from, source_bytes MOE_HERE);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(source_bytes)
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

// What compute capability 9.0 added: copies by tensor maps, barriers that count their bytes, products of
// whole warpgroups. Shared memory is named by its address within the block's window.

// A barrier whose phases each end with so many arrivals and all bytes that were announced.
__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::mbarrier_init(barrier, arrivals MOE_HERE);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}

// After the initialisations, before the barrier that makes them known.
__device__ inline void fence_mbarrier_init() {
#if defined(MOE_SIMT)
  simt::ptx::fence_mbarrier_init();
#else
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ inline void mbarrier_arrive(uint32_t barrier MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::mbarrier_arrive(barrier, 1 MOE_HERE);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

__device__ inline void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::mbarrier_arrive_expect_tx(barrier, bytes MOE_HERE);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

// Until the latest phase of a parity is complete; the phase before the first has parity 1.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity MOE_WHERE) {
#if defined(MOE_SIMT)
  while (!simt::ptx::mbarrier_try_wait_parity(barrier, parity MOE_HERE)) {
  }
#else
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{.reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2; selp.u32 %0, 1, 0, done;}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
#endif
}

// Arrives once the thread's cp.async so far are complete.
__device__ inline void cp_async_mbarrier_arrive(uint32_t barrier MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_mbarrier_arrive_noinc(barrier MOE_HERE);
#else
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// The box at (x, y, z), fastest dimension first; zeros where it is outside of the tensor.
__device__ inline void load_box(uint32_t to, const CUtensorMap& map, int32_t x, int32_t y, int32_t z,
                                uint32_t barrier MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::ptx::cp_async_bulk_tensor_shared_global(to, &map, {x, y, z}, barrier MOE_HERE);
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}

// Ordinary and cp.async writes to shared memory before it are seen by wgmma after it.
__device__ inline void fence_proxy_async() {
#if defined(MOE_SIMT)
  simt::ptx::fence_proxy_async();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Some of a block's threads, whole warps, meet; barrier 0 is __syncthreads'.
__device__ inline void named_barrier_sync(unsigned barrier, unsigned threads MOE_WHERE) {
#if defined(MOE_SIMT)
  simt::named_barrier_sync(barrier, threads MOE_HERE);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#endif
}

// True in one lane of the warp.
__device__ inline bool elect_lane() {
#if defined(MOE_SIMT)
  return simt::ptx::elect_sync();
#else
  uint32_t elected;
  asm volatile("{.reg .pred is; elect.sync _|is, 0xffffffff; selp.u32 %0, 1, 0, is;}" : "=r"(elected));
  return elected != 0;
#endif
}

// The registers of a warpgroup's threads from here on.
template <int kRegisters>
__device__ inline void release_registers() {
#if defined(MOE_SIMT)
  simt::ptx::setmaxnreg_dec(kRegisters);
#else
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ inline void claim_registers() {
#if defined(MOE_SIMT)
  simt::ptx::setmaxnreg_inc(kRegisters);
#else
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// Keeps the compiler from moving uses of registers past this point: it does not know that wgmma has them.
template <int kProducts, int kCount>
__device__ inline void keep_in_place([[maybe_unused]] float (&registers)[kProducts][kCount]) {
#if !defined(MOE_SIMT)
#pragma unroll
  for (int p = 0; p < kProducts; ++p) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[p][i])::"memory");
  }
#endif
}

// Before the first product, and between other uses of its accumulators and a product.
template <int kProducts, int kCount>
__device__ inline void wgmma_fence([[maybe_unused]] float (&d)[kProducts][kCount]) {
#if defined(MOE_SIMT)
  simt::ptx::wgmma_fence();
#else
  keep_in_place(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void wgmma_commit() {
#if defined(MOE_SIMT)
  simt::ptx::wgmma_commit_group();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most so many of the latest groups of products are incomplete.
template <int kPending, int kProducts, int kCount>
__device__ inline void wgmma_wait([[maybe_unused]] float (&d)[kProducts][kCount]) {
#if defined(MOE_SIMT)
  simt::ptx::wgmma_wait_group(kPending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  keep_in_place(d);
#endif
}

// d += a · b of a 64×16 and a 16×N matrix in shared memory, which descriptors find: with the warp w of the
// warpgroup, d[i] is row 16w + lane / 4 + 8(i/2 % 2), column 8(i/4) + 2(lane % 4) + i % 2. A transposed
// operand has k as its rows.
struct Transposed {
  bool a, b;
};
#if !defined(MOE_SIMT)
#define MOE_REGISTERS_8(d, i)                                                                 \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define MOE_REGISTERS_32(d, i) \
  MOE_REGISTERS_8(d, i), MOE_REGISTERS_8(d, i + 8), MOE_REGISTERS_8(d, i + 16), MOE_REGISTERS_8(d, i + 24)
#define MOE_REGISTERS_64(d, i) MOE_REGISTERS_32(d, i), MOE_REGISTERS_32(d, i + 32)
#define MOE_REGISTERS_128(d, i) MOE_REGISTERS_64(d, i), MOE_REGISTERS_64(d, i + 64)
#define MOE_NAMES_0_31                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MOE_NAMES_32_63                                                              \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MOE_NAMES_64_127                                                                         \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MOE_WGMMA(n, format, registers, names, a_at, b_at, a_tr, b_tr)                                 \
  asm volatile("{.reg .pred add; setp.ne.b32 add, 1, 0; wgmma.mma_async.sync.aligned.m64n" #n          \
               "k16.f32." format "." format " {" names "}, %" #a_at ", %" #b_at ", add, 1, 1, %" #a_tr \
               ", %" #b_tr ";}"                                                                        \
               : registers                                                                             \
               : "l"(a), "l"(b), "n"(kTransposed.a), "n"(kTransposed.b))
#define MOE_WGMMA_SHAPES(format)                                                                         \
  if constexpr (kN == 64)                                                                                \
    MOE_WGMMA(64, format, MOE_REGISTERS_32(d, 0), MOE_NAMES_0_31, 32, 33, 34, 35);                       \
  else if constexpr (kN == 128)                                                                          \
    MOE_WGMMA(128, format, MOE_REGISTERS_64(d, 0), MOE_NAMES_0_31 ", " MOE_NAMES_32_63, 64, 65, 66, 67); \
  else                                                                                                   \
    MOE_WGMMA(256, format, MOE_REGISTERS_128(d, 0),                                                      \
              MOE_NAMES_0_31 ", " MOE_NAMES_32_63 ", " MOE_NAMES_64_127, 128, 129, 130, 131)
#endif

template <int kN, bool kBFloat16, Transposed kTransposed>
__device__ inline void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b MOE_WHERE) {
  static_assert(kN == 64 || kN == 128 || kN == 256);
#if defined(MOE_SIMT)
  constexpr simt::WgmmaOptions kOptions = {.transpose_a = kTransposed.a, .transpose_b = kTransposed.b};
  if constexpr (kBFloat16) {
    simt::ptx::wgmma_m64k16_bf16<kN>(d, a, b, kOptions MOE_HERE);
  } else {
    simt::ptx::wgmma_m64k16_f16<kN>(d, a, b, kOptions MOE_HERE);
  }
#else
  if constexpr (kBFloat16) {
    MOE_WGMMA_SHAPES("bf16");
  } else {
    MOE_WGMMA_SHAPES("f16");
  }
#endif
}

#if !defined(MOE_SIMT)
#undef MOE_REGISTERS_8
#undef MOE_REGISTERS_32
#undef MOE_REGISTERS_64
#undef MOE_REGISTERS_128
#undef MOE_NAMES_0_31
#undef MOE_NAMES_32_63
#undef MOE_NAMES_64_127
#undef MOE_WGMMA
#undef MOE_WGMMA_SHAPES
#endif

}  // namespace moe::cuda::ptx
