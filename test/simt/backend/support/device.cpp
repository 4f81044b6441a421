#include "support/device.h"

#include <doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "../../native/support/format.h"
#include "simt/control.h"

namespace moe::test {
namespace {

constexpr uint64_t kSchedules = 3;

// An order in which threads and blocks run, and over how many multiprocessors, for the length of a scope.
class Schedule {
 public:
  explicit Schedule(uint64_t number) : before_(simt::settings()) {
    simt::settings().seed += number;
    simt::settings().multiprocessors += static_cast<int>(number);
  }
  ~Schedule() { simt::settings() = before_; }
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

 private:
  const simt::Settings before_;
};

std::vector<Device::Output> outputs_of(std::unique_ptr<Queue> queue, const Trial& trial) {
  Device device(std::move(queue));
  trial(device);
  return device.read_outputs();
}

// What the emulator found wrong is the cause of any failure of the device, and is told with it.
std::vector<Device::Output> outputs_of_emulated(const Trial& trial) {
  try {
    return outputs_of(cuda::make_queue(0), trial);
  } catch (const Error& error) {
    const std::string report = simt::last_report();
    simt::reset();
    if (report.empty()) throw;
    throw Error(error.code(), std::string(error.what()) + "\n" + report);
  }
}

// Of two correct kernels' results over inputs of unit scale, the second bounds of rounding twice.
double bound_of(DType dtype) {
  switch (dtype) {
    case DType::bfloat16:
      return 0x1p-7;
    case DType::float16:
      return 0x1p-10;
    default:
      return 1e-5;
  }
}

bool is_untouched(DType dtype, uint32_t bits) {
  return bits == (bytes_of(dtype) == 2 ? 0xffffu : 0xffffffffu);
}

void check_near(const Device::Output& got, const Device::Output& want) {
  double error = 0, scale = 0;
  size_t first_untouched = got.bits.size();
  for (size_t i = 0; i < want.bits.size(); ++i) {
    // What the CPU leaves alone is nobody's.
    if (is_untouched(want.dtype, want.bits[i])) {
      if (!is_untouched(got.dtype, got.bits[i])) first_untouched = std::min(first_untouched, i);
      continue;
    }
    const double wanted = value_of(want.dtype, want.bits[i]), off = value_of(got.dtype, got.bits[i]) - wanted;
    error += off * off;
    scale += wanted * wanted;
  }
  CHECK_MESSAGE(first_untouched == got.bits.size(), got.name, " was written where the CPU wrote nothing, at ",
                first_untouched);
  const double bound = std::max(bound_of(want.dtype), bound_of(want.rounded));
  // False for NaN. Zeros must be exact.
  CHECK_MESSAGE(std::sqrt(error) <= bound * std::sqrt(scale), got.name, " is off by ",
                std::sqrt(error / scale), ", over ", bound);
}

void check_equal(const Device::Output& got, const Device::Output& want, const std::string& where) {
  size_t differing = 0, first = 0;
  for (size_t i = want.bits.size(); i-- > 0;) {
    if (got.bits[i] == want.bits[i]) continue;
    ++differing;
    first = i;
  }
  CHECK_MESSAGE(differing == 0, got.name, " differs ", where, " in ", differing, " of ", want.bits.size(),
                " elements, first at ", first, ": ", value_of(got.dtype, got.bits[first]), " for ",
                value_of(want.dtype, want.bits[first]));
}

}  // namespace

uint32_t bits_of(DType dtype, double value) {
  switch (dtype) {
    case DType::bfloat16:
      return encode(value, kBFloat16);
    case DType::float16:
      return encode(value, kFloat16);
    case DType::int32:
      return static_cast<uint32_t>(static_cast<int32_t>(value));
    default:
      return std::bit_cast<uint32_t>(static_cast<float>(value));
  }
}

double value_of(DType dtype, uint32_t bits) {
  switch (dtype) {
    case DType::bfloat16:
      return decode(static_cast<uint16_t>(bits), kBFloat16);
    case DType::float16:
      return decode(static_cast<uint16_t>(bits), kFloat16);
    case DType::int32:
      return static_cast<int32_t>(bits);
    default:
      return std::bit_cast<float>(bits);
  }
}

void Device::run(const Op& op) {
  queue_->submit(op, pins_);
  wait_for(*queue_);
}

Tensor Device::allocate(DType dtype, const Shape& shape) {
  Tensor tensor = {.dtype = dtype, .rank = static_cast<int>(shape.size()), .present = true};
  std::copy(shape.begin(), shape.end(), tensor.dims.begin());
  pins_.push_back(queue_->allocate(tensor.bytes()));
  tensor.data = pins_.back()->data();
  return tensor;
}

void Device::write(const Tensor& tensor, const std::vector<uint32_t>& bits) {
  const size_t each = bytes_of(tensor.dtype);
  std::vector<char> host(tensor.bytes());
  for (size_t i = 0; i < bits.size(); ++i) std::memcpy(host.data() + i * each, &bits[i], each);
  queue_->write(tensor, pins_, host.data());
}

Tensor Device::ints(const Shape& shape, const Ints& values) {
  const Tensor tensor = allocate(DType::int32, shape);
  REQUIRE_EQ(static_cast<int64_t>(values.size()), tensor.elements());
  write(tensor, {values.begin(), values.end()});
  return tensor;
}

Tensor Device::floats(DType dtype, const Shape& shape, const Floats& values) {
  const Tensor tensor = allocate(dtype, shape);
  REQUIRE_EQ(static_cast<int64_t>(values.size()), tensor.elements());
  std::vector<uint32_t> bits;
  for (float value : values) bits.push_back(bits_of(dtype, value));
  write(tensor, bits);
  return tensor;
}

Tensor Device::random(DType dtype, const Shape& shape) {
  const Tensor tensor = allocate(dtype, shape);
  std::normal_distribution<float> normal;
  std::vector<uint32_t> bits;
  for (int64_t i = 0; i < tensor.elements(); ++i) bits.push_back(bits_of(dtype, normal(random_)));
  write(tensor, bits);
  return tensor;
}

Tensor Device::out(std::string name, DType dtype, const Shape& shape, Match match, DType rounded) {
  const Tensor tensor = allocate(dtype, shape);
  write(tensor, std::vector<uint32_t>(static_cast<size_t>(tensor.elements()), 0xffffffffu));
  places_.push_back({std::move(name), tensor, dtype == DType::int32 ? Match::exactly : match, rounded});
  return tensor;
}

Tensor Device::sum(std::string name, DType dtype, const Shape& shape) {
  const Tensor tensor = random(dtype, shape);
  places_.push_back({std::move(name), tensor, Match::near});
  return tensor;
}

std::vector<Device::Output> Device::read_outputs() {
  std::vector<Output> outputs;
  for (const Place& place : places_) {
    const size_t each = bytes_of(place.tensor.dtype);
    std::vector<char> host(place.tensor.bytes());
    read_blocking(*queue_, place.tensor, pins_, host.data());
    std::vector<uint32_t> bits(static_cast<size_t>(place.tensor.elements()), 0);
    for (size_t i = 0; i < bits.size(); ++i) std::memcpy(&bits[i], host.data() + i * each, each);
    outputs.push_back({place.name, place.tensor.dtype, place.rounded, place.match, std::move(bits)});
  }
  return outputs;
}

void compare(const Trial& trial) {
  const std::vector<Device::Output> want = outputs_of(cpu::make_queue(), trial);
  std::optional<std::vector<Device::Output>> first;
  for (uint64_t number = 0; number < kSchedules; ++number) {
    const Schedule schedule(number);
    const std::vector<Device::Output> got = outputs_of_emulated(trial);
    for (size_t i = 0; i < want.size(); ++i) {
      if (first) {
        check_equal(got[i], (*first)[i], "under another schedule");
      } else if (want[i].match == Match::exactly) {
        check_equal(got[i], want[i], "from the CPU's");
      } else {
        check_near(got[i], want[i]);
      }
    }
    if (!first) first = got;
  }
}

std::string failure_of(const Trial& trial) {
  try {
    outputs_of_emulated(trial);
  } catch (const Error& error) {
    return std::string(error.code()) + " " + error.what();
  }
  return "";
}

}  // namespace moe::test
