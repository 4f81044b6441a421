// Conversions are exact or rounded to nearest even: every 16-bit pattern, and every float32 where rounding to
// 16 bits could go wrong.
#include <limits>
#include <vector>

#include "support/expect.h"

namespace moe::test {
namespace {

const Format& format_of(DType dtype) {
  return dtype == DType::bfloat16 ? kBFloat16 : kFloat16;
}

// Every number of a 16-bit format, the midpoint to the next one away from zero, and the float32 next to each.
std::vector<float> around_every_number(const Format& format) {
  std::vector<float> values;
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto low = static_cast<float>(decode(static_cast<uint16_t>(bits), format));
    values.push_back(low);
    if ((bits & 0x7fff) >= format.infinity()) continue;
    // Beyond the largest finite number lies one that would be next if the format had it.
    const bool largest = (bits & 0x7fff) + 1 == format.infinity();
    const auto below = static_cast<float>(decode(static_cast<uint16_t>(bits - (largest ? 1 : -1)), format));
    const float middle = largest ? low + (low - below) / 2 : (low + (below - low) / 2);
    for (float x : {low, middle}) {
      values.push_back(std::nextafter(x, 0.0f));
      values.push_back(std::nextafter(x, std::copysign(INFINITY, low)));
    }
    values.push_back(middle);
  }
  return values;
}

void convert(const cpu::Kernels& table, const Array& source, Array& out) {
  table.cast(source.at(0), source.dtype(), out.at(0), out.dtype(), source.size());
  CHECK(out.guard_untouched());
}

// Number of elements of `out` that are not `source` rounded to its dtype. NaN of any payload is NaN.
int64_t count_wrong(const Array& source, const Array& out) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < source.size(); ++i) {
    Array want(out.dtype(), 1);
    want.set(0, source[i]);
    const bool same = std::isnan(source[i]) ? std::isnan(out[i]) : out.bits(i) == want.bits(0);
    wrong += same ? 0 : 1;
  }
  return wrong;
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("every 16-bit number converts to every dtype") {
    for_each_table([](const cpu::Kernels& table) {
      for (DType from : {DType::bfloat16, DType::float16}) {
        Array source(from, 0x10000);
        for (int64_t i = 0; i < source.size(); ++i) source.set_bits(i, static_cast<uint32_t>(i));
        for (DType to : kFloatDTypes) {
          INFO(std::string(name_of(from)), " to ", std::string(name_of(to)));
          Array out(to, source.size());
          convert(table, source, out);
          CHECK_EQ(count_wrong(source, out), 0);
        }
      }
    });
  }

  TEST_CASE("float32 rounds to the nearest 16-bit number, ties to even") {
    for_each_table([](const cpu::Kernels& table) {
      for (DType to : {DType::bfloat16, DType::float16}) {
        INFO("to ", std::string(name_of(to)));
        const std::vector<float> values = around_every_number(format_of(to));
        Array source(DType::float32, static_cast<int64_t>(values.size())), out(to, source.size());
        for (int64_t i = 0; i < source.size(); ++i) source.set(i, values[static_cast<size_t>(i)]);
        convert(table, source, out);
        CHECK_EQ(count_wrong(source, out), 0);
      }
    });
  }

  TEST_CASE("conversions of every length touch nothing else") {
    Random random(8);
    for_each_table([&](const cpu::Kernels& table) {
      for (DType from : kFloatDTypes) {
        for (DType to : kFloatDTypes) {
          for (int64_t count = 0; count <= 2 * table.width + 1; ++count) {
            const Array source(from, count, random);
            Array out(to, count);
            convert(table, source, out);
            CHECK_EQ(count_wrong(source, out), 0);
          }
        }
      }
    });
  }

  TEST_CASE("int32 converts to float32 and back, saturating") {
    constexpr double kMost = std::numeric_limits<int32_t>::max(),
                     kLeast = std::numeric_limits<int32_t>::min();
    struct Pair {
      double from, to;
    };
    constexpr Pair pairs[] = {
        {0.5, 0},          {1.5, 2},      {-2.5, -2},        {0x1.fffffep30, 2147483520.0},
        {0x1p31, kMost},   {1e30, kMost}, {-0x1p31, kLeast}, {-1e30, kLeast},
        {INFINITY, kMost}, {NAN, 0}};
    for_each_table([&](const cpu::Kernels& table) {
      Array floats(DType::float32, std::size(pairs)), whole(DType::int32, floats.size());
      for (int64_t i = 0; i < floats.size(); ++i) floats.set(i, pairs[i].from);
      convert(table, floats, whole);
      for (int64_t i = 0; i < whole.size(); ++i) CHECK_EQ(whole[i], pairs[i].to);
      whole.set(0, 0x1000001);  // halfway between two float32
      convert(table, whole, floats);
      CHECK_EQ(floats[0], 0x1000000);
      CHECK_EQ(floats[2], -2);
    });
  }
}

}  // namespace moe::test
