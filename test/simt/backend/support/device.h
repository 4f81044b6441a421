// The same ops on the CPU backend and on the CUDA backend under emulation, and what both leave in their
// outputs.
//
// A trial is a function that makes tensors on a device and runs ops there. It runs once on the CPU, which is
// right, and under several schedules on the emulated GPU; every tensor that it made with `out` is compared.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ops/queue.h"

namespace moe::test {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;
using Shape = std::vector<int64_t>;

// How an output is judged.
enum class Match { near, exactly };

class Device {
 public:
  explicit Device(std::unique_ptr<Queue> queue) : queue_(std::move(queue)) {}

  Queue& queue() { return *queue_; }
  // Throws what an op failed with.
  void run(const Op& op);

  Tensor ints(const Shape& shape, const Ints& values);
  Tensor floats(DType dtype, const Shape& shape, const Floats& values);
  // Unit scale: the standard normal distribution, the same on every device.
  Tensor random(DType dtype, const Shape& shape);
  // All bits set, which is NaN in every float dtype: nothing may be left of it where the other device has
  // something else. Sums on the way to it may be rounded to a narrower dtype.
  Tensor out(std::string name, DType dtype, const Shape& shape, Match match = Match::near,
             DType rounded = DType::float32);
  // What an op adds to.
  Tensor sum(std::string name, DType dtype, const Shape& shape);

  // Bits of an output, zero-extended.
  struct Output {
    std::string name;
    DType dtype, rounded;
    Match match;
    std::vector<uint32_t> bits;
  };
  std::vector<Output> read_outputs();

 private:
  struct Place {
    std::string name;
    Tensor tensor;
    Match match;
    DType rounded = DType::float32;
  };

  Tensor allocate(DType dtype, const Shape& shape);
  void write(const Tensor& tensor, const std::vector<uint32_t>& bits);

  std::unique_ptr<Queue> queue_;
  Pins pins_;
  std::vector<Place> places_;
  std::mt19937 random_{20'24};
};

using Trial = std::function<void(Device&)>;

// Checks that the devices agree: float32 to 1e-5 as norms, sixteen-bit formats to a few of their roundings,
// integers exactly; and that schedules change nothing at all.
void compare(const Trial& trial);

// The sentence that a trial fails with on the emulated GPU, or an empty text.
std::string failure_of(const Trial& trial);

uint32_t bits_of(DType dtype, double value);
double value_of(DType dtype, uint32_t bits);

}  // namespace moe::test
