// Picks the instruction set: what the build has, what the processor runs, what the environment asks for.
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "cpu/processor.h"
#include "ops/error.h"

namespace moe::cpu {

namespace {

#if defined(__x86_64__) && !defined(MOE_BASELINE_ALONE)
// Half-precision conversion, which not every compiler's __builtin_cpu_supports knows. The operating system
// saves its registers if it saves those of AVX2.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

KernelList find_available() {
  KernelList list = {};
  const auto add = [&](const Kernels& table, bool runs) {
    if (runs) list.tables[list.count++] = &table;
  };
#if defined(MOE_BASELINE_ALONE)
  // No others were built.
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  add(kAvx512Bf16FloatKernels, avx512bf16 && processor().slow_pairs);
  add(kAvx512Bf16Kernels, avx512bf16);
  add(kAvx512Kernels, avx512);
  add(kAvx2Kernels, avx2);
#elif defined(__aarch64__)
  add(kNeonKernels, true);
#endif
  add(kBaselineKernels, true);
  return list;
}

const Kernels& choose() {
  const KernelList& list = available_kernels();
  const char* wanted = std::getenv("MOE_KERNELS_ISA");
  if (wanted == nullptr || *wanted == '\0') return *list.tables[0];
  std::string names;
  for (int i = 0; i < list.count; ++i) {
    if (std::string(wanted) == list.tables[i]->name) return *list.tables[i];
    names += (i > 0 ? ", " : "") + std::string(list.tables[i]->name);
  }
  throw Error(kErrUnsupported, "MOE_KERNELS_ISA: expected one of " + names + ", got " + wanted);
}

}  // namespace

const KernelList& available_kernels() {
  static const KernelList list = find_available();
  return list;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace moe::cpu
