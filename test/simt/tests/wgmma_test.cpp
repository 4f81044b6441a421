// wgmma with operands in every canonical layout of the PTX manual. The host places element (mn, k) by the
// manual's own strides and applies Swizzle<B, 4, 3> to the byte offset; the emulator has to find it by the
// descriptor.
#include <cstring>

#include "simt/ptx.h"
#include "support.h"

namespace simt::test {
namespace {

using namespace simt::ptx;

constexpr unsigned kM = 64, kN = 64;
constexpr uint32_t kOperandBytes = 16384;

// Where element (mn, k) is: an offset in bytes before the swizzle of 2^BITS chunks, and what the descriptor
// says of it.
struct Layout {
  const char* name;
  bool mn_major;
  unsigned bits;
  uint32_t leading, stride;
  uint32_t start;  // in bytes: a later part of the pattern

  unsigned mode() const { return bits == 0 ? 0 : 4 - bits; }
  uint64_t descriptor(uint32_t address) const {
    return uint64_t{(address + start) >> 4} | uint64_t{leading >> 4} << 16 | uint64_t{stride >> 4} << 32 |
           uint64_t{mode()} << 62;
  }
  uint32_t swizzle(uint32_t offset) const { return offset ^ (offset >> 7 & ((1u << bits) - 1)) << 4; }
  // T elements make 16 bytes.
  uint32_t offset(uint32_t mn, uint32_t k, uint32_t t) const {
    const uint32_t size = 16 / t, chunks = 1u << bits, width = chunks * 16;
    if (!mn_major && bits == 0) {  // ((8,m),(T,2)):((1T,SBO),(1,LBO))
      return mn % 8 * 16 + mn / 8 * stride + k % t * size + k / t * leading;
    }
    if (!mn_major) {  // ((8,m),(T,2)):((wT,SBO),(1,T))
      return swizzle(start + mn % 8 * width + mn / 8 * stride + k * size);
    }
    if (bits == 0) {  // ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
      return mn % t * size + mn / t * stride + k % 8 * 16 + k / 8 * leading;
    }
    // ((T,w,m),(8,k)):((1,T,LBO),(wT,SBO))
    return swizzle(start + mn % t * size + mn / t % chunks * 16 + mn / t / chunks * leading + k % 8 * width +
                   k / 8 * stride);
  }
};

constexpr Layout kKMajor[] = {{"K-major, none", false, 0, 1024, 128, 0},
                              {"K-major, none, interleaved", false, 0, 128, 256, 0},
                              {"K-major, 32 bytes", false, 1, 16, 256, 0},
                              {"K-major, 64 bytes", false, 2, 16, 512, 0},
                              {"K-major, 64 bytes, second k", false, 2, 16, 512, 32},
                              {"K-major, 128 bytes", false, 3, 16, 1024, 0},
                              {"K-major, 128 bytes, fourth k", false, 3, 16, 1024, 96}};
constexpr Layout kMnMajor[] = {{"MN-major, none", true, 0, 1024, 128, 0},
                               {"MN-major, none, interleaved", true, 0, 128, 256, 0},
                               {"MN-major, 32 bytes", true, 1, 512, 256, 0},
                               {"MN-major, 64 bytes", true, 2, 1024, 512, 0},
                               {"MN-major, 128 bytes", true, 3, 2048, 1024, 0}};

enum class Kind { bf16, f16, tf32, bf16_registers, tf32_registers };

struct Problem {
  const unsigned char *a, *b;  // images of shared memory
  const uint32_t* a_registers;
  float* d;  // holds c at first
  Kind kind;
  Layout a_layout, b_layout;
  WgmmaOptions options;
  bool fenced;
};

__global__ void multiply(Problem problem) {
  unsigned char* const shared = dynamic_shared();
  for (unsigned index = threadIdx.x; index < kOperandBytes; index += 128) {
    shared[index] = problem.a[index];
    shared[kOperandBytes + index] = problem.b[index];
  }
  fence_proxy_async();
  __syncthreads();
  const uint64_t a = problem.a_layout.descriptor(shared_address(shared));
  const uint64_t b = problem.b_layout.descriptor(shared_address(shared + kOperandBytes));
  const unsigned row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  const auto place = [&](unsigned i) { return (row + i / 2 % 2 * 8) * kN + column + i / 4 * 8 + i % 2; };
  float d[kN / 2];
  for (unsigned i = 0; i < kN / 2; ++i) d[i] = problem.d[place(i)];
  uint32_t registers[4];
  for (unsigned i = 0; i < 4; ++i) registers[i] = problem.a_registers[threadIdx.x * 4 + i];
  if (problem.fenced) wgmma_fence();
  switch (problem.kind) {
    case Kind::bf16:
      wgmma_m64k16_bf16<kN>(d, a, b, problem.options);
      break;
    case Kind::f16:
      wgmma_m64k16_f16<kN>(d, a, b, problem.options);
      break;
    case Kind::tf32:
      wgmma_m64k8_tf32<kN>(d, a, b, problem.options);
      break;
    case Kind::bf16_registers:
      wgmma_m64k16_bf16<kN>(d, registers, b, problem.options);
      break;
    case Kind::tf32_registers:
      wgmma_m64k8_tf32<kN>(d, registers, b, problem.options);
      break;
  }
  wgmma_commit_group();
  if (!(d[0] != d[0])) __trap();  // not there yet
  wgmma_wait_group(0);
  for (unsigned i = 0; i < kN / 2; ++i) problem.d[place(i)] = d[i];
}

float a_at(unsigned row, unsigned k) {
  return static_cast<float>((row * 5 + k * 11 + 3) % 13) - 6;
}
float b_at(unsigned column, unsigned k) {
  return static_cast<float>((column * 7 + k * 3 + 1) % 11) - 5;
}
float c_at(unsigned row, unsigned column) {
  return static_cast<float>((row + column * 3) % 9) - 4;
}

bool is_tf32(Kind kind) {
  return kind == Kind::tf32 || kind == Kind::tf32_registers;
}

uint16_t half_bits(Kind kind, float value) {
  return kind == Kind::f16 ? to_float16(value) : to_bfloat16(value);
}

template <class Value>
std::vector<unsigned char> image(Kind kind, const Layout& layout, unsigned count, Value value) {
  std::vector<unsigned char> bytes(kOperandBytes, 0xff);
  for (unsigned mn = 0; mn < count; ++mn) {
    for (unsigned k = 0; k < (is_tf32(kind) ? 8 : 16); ++k) {
      const float number = value(mn, k);
      const uint32_t at = layout.offset(mn, k, is_tf32(kind) ? 4 : 8);
      const uint16_t half = half_bits(kind, number);
      if (is_tf32(kind)) {
        std::memcpy(&bytes.at(at), &number, 4);
      } else {
        std::memcpy(&bytes.at(at), &half, 2);
      }
    }
  }
  return bytes;
}

// The manual's fragments of a in registers: those of mma.sync, for rows 16w on of warp w.
std::vector<uint32_t> a_registers(Kind kind) {
  std::vector<uint32_t> all;
  for (unsigned thread = 0; thread < 128; ++thread) {
    const unsigned row = thread / 32 * 16 + thread % 32 / 4, in_group = thread % 4;
    for (unsigned reg = 0; reg < 4; ++reg) {
      const unsigned r = row + reg % 2 * 8;
      if (is_tf32(kind)) {
        all.push_back(__float_as_uint(a_at(r, in_group + reg / 2 * 4)));
      } else {
        const unsigned k = in_group * 2 + reg / 2 * 8;
        all.push_back(cvt_rn_bf16x2_f32(a_at(r, k + 1), a_at(r, k)));
      }
    }
  }
  return all;
}

// Whether the product is right to the last bit: its terms are small integers.
bool is_right(Kind kind, const Layout& a_layout, const Layout& b_layout, WgmmaOptions options) {
  options.transpose_a = a_layout.mn_major;
  options.transpose_b = b_layout.mn_major;
  std::vector<float> c;
  for (unsigned index = 0; index < kM * kN; ++index) c.push_back(c_at(index / kN, index % kN));
  const DeviceArray<unsigned char> a(image(kind, a_layout, kM, a_at)), b(image(kind, b_layout, kN, b_at));
  const DeviceArray<uint32_t> registers(a_registers(kind));
  const DeviceArray<float> d(c);
  const Problem problem = {.a = a.data(),
                           .b = b.data(),
                           .a_registers = registers.data(),
                           .d = d.data(),
                           .kind = kind,
                           .a_layout = a_layout,
                           .b_layout = b_layout,
                           .options = options,
                           .fenced = true};
  REQUIRE_EQ(run({.block = 128, .shared = 2 * kOperandBytes}, multiply, problem), cudaSuccess);
  const auto got = d.values();
  const float sign = options.negate_a != options.negate_b ? -1.0f : 1.0f;
  bool right = true;
  for (unsigned index = 0; index < kM * kN; ++index) {
    float expected = options.scale_d ? c[index] : 0;
    for (unsigned k = 0; k < (is_tf32(kind) ? 8 : 16); ++k)
      expected += sign * a_at(index / kN, k) * b_at(index % kN, k);
    right = right && got[index] == expected;
  }
  return right;
}

}  // namespace

TEST_CASE("wgmma finds its operands in every canonical layout") {
  const Fresh fresh;
  for (const Layout& layout : kKMajor) {
    CAPTURE(layout.name);
    CHECK(is_right(Kind::bf16, layout, kKMajor[5], {}));
    CHECK(is_right(Kind::f16, kKMajor[5], layout, {}));
    CHECK(is_right(Kind::tf32, layout, layout, {}));
  }
  for (const Layout& layout : kMnMajor) {
    CAPTURE(layout.name);
    CHECK(is_right(Kind::bf16, layout, kKMajor[5], {}));
    CHECK(is_right(Kind::f16, kKMajor[5], layout, {}));
  }
}

TEST_CASE("wgmma takes a from registers, and scales and negates") {
  const Fresh fresh;
  CHECK(is_right(Kind::bf16_registers, kKMajor[5], kMnMajor[4], {}));
  CHECK(is_right(Kind::tf32_registers, kKMajor[5], kKMajor[0], {}));
  CHECK(is_right(Kind::bf16, kKMajor[5], kKMajor[5], {.scale_d = false}));
  CHECK(is_right(Kind::bf16, kKMajor[5], kKMajor[5], {.negate_a = true}));
  CHECK(is_right(Kind::bf16, kKMajor[5], kKMajor[5], {.scale_d = false, .negate_b = true}));
  CHECK(is_right(Kind::bf16, kKMajor[5], kKMajor[5], {.negate_a = true, .negate_b = true}));
}

TEST_CASE("the manual's own examples of strides") {
  // K-major, no swizzle, tf32: ((8,2),(4,4)):((4,32),(1,64)) with LBO of 64 elements, SBO of 32.
  const Layout k_none = {"", false, 0, 64 * 4, 32 * 4, 0};
  CHECK_EQ(k_none.offset(9, 5, 4), (1 * 4 + 1 * 32 + 1 + 64) * 4);
  // MN-major, 64 bytes, bf16: ((8,4,2),(8,2)):((1,8,256),(32,512)) with LBO of 256 elements, SBO of 512,
  // before the swizzle.
  const Layout mn_64 = {"", true, 2, 256 * 2, 512 * 2, 0};
  CHECK_EQ(mn_64.offset(8 * 5 + 3, 8, 8), mn_64.swizzle((3 + 1 * 8 + 1 * 256 + 512) * 2));
}

TEST_CASE("a product without a fence is refused") {
  const Fresh fresh;
  const DeviceArray<unsigned char> image(std::vector<unsigned char>(kOperandBytes, 0));
  const DeviceArray<uint32_t> registers(512);
  const DeviceArray<float> d(kM * kN);
  const Problem problem = {.a = image.data(),
                           .b = image.data(),
                           .a_registers = registers.data(),
                           .d = d.data(),
                           .kind = Kind::bf16,
                           .a_layout = kKMajor[5],
                           .b_layout = kKMajor[5],
                           .options = {},
                           .fenced = false};
  CHECK_EQ(run({.block = 128, .shared = 2 * kOperandBytes}, multiply, problem), cudaErrorLaunchFailure);
  CHECK(reported("without a wgmma.fence"));
}

}  // namespace simt::test
