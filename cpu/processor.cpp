#include "cpu/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moe::cpu {
namespace {

#if defined(__x86_64__)
// Measured on Emerald Rapids; on AMD's Zen 4 both are the other way round. Of Intel's processors with
// AVX512-BF16, Cooper Lake alone has no AVX512-FP16: an older core, which may well be different.
Processor find_processor() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid(0, &a, &b, &c, &d);
  const bool intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
  constexpr unsigned kAvx512Fp16 = 1u << 23;
  const bool fp16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAvx512Fp16) != 0;
  return {.slow_pairs = intel && fp16, .follows_rows = intel && fp16};
}
#else
Processor find_processor() {
  return {};
}
#endif

}  // namespace

const Processor& processor() {
  static const Processor found = find_processor();
  return found;
}

}  // namespace moe::cpu
