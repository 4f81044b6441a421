#include "support/array.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <new>
#include <vector>

namespace moe::test {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr unsigned char kFill = 0xff;

// Mappings by size, kept because there are hundreds of thousands of arrays, all on one thread.
std::map<size_t, std::vector<char*>> free_pages;

size_t page() {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// So many bytes of whole pages, and one that faults after them.
char* take(size_t bytes) {
  std::vector<char*>& free = free_pages[bytes];
  if (!free.empty()) {
    char* pages = free.back();
    free.pop_back();
    return pages;
  }
  void* memory = mmap(nullptr, bytes + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* pages = static_cast<char*>(memory);
  if (mprotect(pages + bytes, page(), PROT_NONE) != 0) throw std::bad_alloc();
  return pages;
}

}  // namespace

Array::Array(DType dtype, int64_t count) : dtype_(dtype), count_(count) {
  const size_t bytes = static_cast<size_t>(count) * bytes_of(dtype);
  page_bytes_ = (bytes + kGuardBytes + page() - 1) / page() * page();
  pages_ = take(page_bytes_);
  data_ = pages_ + page_bytes_ - bytes;
  std::memset(data_ - kGuardBytes, kFill, bytes + kGuardBytes);
}

Array::~Array() {
  free_pages[page_bytes_].push_back(pages_);
}

bool Array::guard_untouched() const {
  return std::all_of(data_ - kGuardBytes, data_,
                     [](char byte) { return static_cast<unsigned char>(byte) == kFill; });
}

void Array::set(int64_t i, double value) {
  switch (dtype_) {
    case DType::float32: {
      const auto rounded = static_cast<float>(value);
      std::memcpy(at(i), &rounded, sizeof rounded);
      break;
    }
    case DType::int32: {
      const auto whole = static_cast<int32_t>(value);
      std::memcpy(at(i), &whole, sizeof whole);
      break;
    }
    case DType::bfloat16:
      return set_bits(i, encode(value, kBFloat16));
    case DType::float16:
      return set_bits(i, encode(value, kFloat16));
  }
}

double Array::operator[](int64_t i) const {
  switch (dtype_) {
    case DType::bfloat16:
      return decode(static_cast<uint16_t>(bits(i)), kBFloat16);
    case DType::float16:
      return decode(static_cast<uint16_t>(bits(i)), kFloat16);
    case DType::int32:
      return static_cast<int32_t>(bits(i));
    case DType::float32:
      break;
  }
  float value;
  std::memcpy(&value, at(i), sizeof value);
  return value;
}

}  // namespace moe::test
