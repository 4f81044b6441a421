// Fill and cast, and tensors that are written and read.
#include <doctest.h>

#include "support/device.h"

namespace moe::test {
namespace {

constexpr std::initializer_list<DType> kDTypes = {DType::float32, DType::bfloat16, DType::float16,
                                                  DType::int32};

}  // namespace

TEST_CASE("fill sets every element") {
  for (DType dtype : kDTypes) {
    for (int64_t count : {0, 1, 257, 5000}) {
      compare([&](Device& d) {
        d.run(Fill{.out = d.out("out", dtype, {count}, Match::exactly), .value = -2.5f});
      });
    }
  }
}

TEST_CASE("cast rounds as the CPU does") {
  Floats values = {0.0f,  -0.0f, 1.0f,  65519.9f, 65520.0f, -70000.0f,
                   6e-8f, 3e-8f, 1e38f, INFINITY, -INFINITY};
  for (int i = 0; i < 2000; ++i) values.push_back(static_cast<float>(i * 37 % 1000) * 0.0371f - 17.0f);
  const auto count = static_cast<int64_t>(values.size());
  for (DType from : {DType::float32, DType::bfloat16, DType::float16}) {
    for (DType to : {DType::float32, DType::bfloat16, DType::float16}) {
      compare([&](Device& d) {
        d.run(Cast{.source = d.floats(from, {count}, values),
                   .out = d.out("out", to, {count}, Match::exactly)});
      });
    }
  }
}

TEST_CASE("integers and floats") {
  compare([](Device& d) {
    d.run(Cast{.source = d.ints({5}, {0, -1, 7, 16777216, -2147483647}),
               .out = d.out("floats", DType::float32, {5}, Match::exactly)});
    d.run(Cast{.source = d.floats(DType::float32, {8}, {0.5f, 1.5f, 2.5f, -0.5f, -3e9f, 3e9f, NAN, 7.0f}),
               .out = d.out("ints", DType::int32, {8})});
  });
}

}  // namespace moe::test
