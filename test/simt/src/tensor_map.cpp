// Tensor maps: what the driver checks when it encodes one, and where the rows of a box are.
#include "tensor_map.h"

#include <algorithm>
#include <cstring>

#include "report.h"

namespace simt {
namespace {

constexpr uint32_t kMark = 0x70616d74;

uint8_t size_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
      return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
      return 8;
  }
  return 0;
}

bool is_floating(CUtensorMapDataType type) {
  return type >= CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

uint8_t swizzle_bytes(CUtensorMapSwizzle swizzle) {
  constexpr uint8_t kBytes[] = {0, 32, 64, 128};
  return kBytes[swizzle];
}

CUresult invalid(const std::string& text) {
  publish_report("cuTensorMapEncodeTiled: " + text);
  return CUDA_ERROR_INVALID_VALUE;
}

// The sentence that says what is wrong with a map; empty where nothing is.
std::string fault_of(const TensorMap& map) {
  if (map.address % 16 != 0) return "the address is no multiple of 16 bytes";
  for (int dimension = 0; dimension < map.rank; ++dimension) {
    const std::string name = "dimension " + std::to_string(dimension) + ": ";
    if (dimension > 0 && (map.strides[dimension] % 16 != 0 || map.strides[dimension] >= uint64_t{1} << 40)) {
      return name + "a stride of " + std::to_string(map.strides[dimension]) +
             " bytes, expected a multiple of 16 below 2^40";
    }
    if (map.box[dimension] == 0 || map.box[dimension] > 256) {
      return name + "a box of " + std::to_string(map.box[dimension]) + ", expected 1 to 256";
    }
    if (map.element_strides[dimension] == 0 || map.element_strides[dimension] > 8) {
      return name + "an element stride of " + std::to_string(map.element_strides[dimension]) +
             ", expected 1 to 8";
    }
  }
  if (map.row_bytes() % 16 != 0) return "the box's rows are no multiple of 16 bytes";
  if (map.swizzle_bytes != 0 && map.row_bytes() > map.swizzle_bytes) {
    return "the box's rows have " + std::to_string(map.row_bytes()) + " bytes, the swizzle " +
           std::to_string(map.swizzle_bytes);
  }
  return "";
}

}  // namespace

uint32_t TensorMap::box_elements(int dimension) const {
  const uint32_t stride = dimension == 0 ? 1 : element_strides[dimension];  // ignored for dimension 0
  return (box[dimension] + stride - 1) / stride;
}

uint32_t TensorMap::rows() const {
  uint32_t count = 1;
  for (int dimension = 1; dimension < rank; ++dimension) count *= box_elements(dimension);
  return count;
}

TensorMap read_tensor_map(const CUtensorMap* map) {
#if defined(__x86_64__)  // AArch64's calling convention does not keep the alignment of a kernel's parameters
  if (reinterpret_cast<uintptr_t>(map) % alignof(CUtensorMap) != 0)
    fail("a tensor map not aligned to 64 bytes");
#endif
  TensorMap content;
  std::memcpy(&content, map, sizeof content);
  if (content.mark != kMark) fail("no tensor map is there");
  return content;
}

void write_tensor_map(CUtensorMap* map, const TensorMap& content) {
  std::memcpy(map, &content, sizeof content);
}

BoxRow box_row(const TensorMap& map, const int32_t* coordinates, uint32_t row) {
  int64_t offset = int64_t{coordinates[0]} * map.element_bytes;
  bool inside = true;
  for (int dimension = 1; dimension < map.rank; ++dimension) {
    const uint32_t extent = map.box_elements(dimension);
    const int64_t at =
        int64_t{coordinates[dimension]} + int64_t{row % extent} * map.element_strides[dimension];
    row /= extent;
    inside = inside && at >= 0 && at < static_cast<int64_t>(map.elements(dimension));
    offset += at * static_cast<int64_t>(map.strides[dimension]);
  }
  const auto clamp = [&](int64_t element) {
    return static_cast<uint32_t>(std::clamp<int64_t>(element, 0, map.box_elements(0)));
  };
  BoxRow found = {.address = map.address + static_cast<uint64_t>(offset)};
  if (inside) {
    found.inside_from = clamp(-int64_t{coordinates[0]});
    found.inside_to = clamp(static_cast<int64_t>(map.elements(0)) - coordinates[0]);
  }
  return found;
}

}  // namespace simt

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill fill) {
  using simt::TensorMap;
  if (map == nullptr || dims == nullptr || box == nullptr || element_strides == nullptr) {
    return simt::invalid("a null argument");
  }
  if (reinterpret_cast<uintptr_t>(map) % alignof(CUtensorMap) != 0)
    return simt::invalid("the map is not aligned to 64 bytes");
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
  if (rank == 0 || rank > simt::kMostRank || (rank > 1 && strides == nullptr))
    return simt::invalid("the rank");
  if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && !simt::is_floating(type))
    return simt::invalid("NaN fill of integers");
  TensorMap content = {.mark = simt::kMark,
                       .rank = static_cast<uint8_t>(rank),
                       .element_bytes = simt::size_of(type),
                       .swizzle_bytes = simt::swizzle_bytes(swizzle),
                       .fill_with_nan = fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                       .type = static_cast<uint8_t>(type),
                       .address = reinterpret_cast<uint64_t>(address)};
  content.strides[0] = content.element_bytes;
  for (cuuint32_t dimension = 0; dimension < rank; ++dimension) {
    if (dims[dimension] == 0 || dims[dimension] > uint64_t{1} << 32)
      return simt::invalid("a dimension of no or too many elements");
    content.last[dimension] = static_cast<uint32_t>(dims[dimension] - 1);
    content.box[dimension] = static_cast<uint16_t>(std::min<cuuint32_t>(box[dimension], 0xffff));
    content.element_strides[dimension] =
        static_cast<uint8_t>(std::min<cuuint32_t>(element_strides[dimension], 0xff));
    if (dimension > 0) content.strides[dimension] = strides[dimension - 1];
  }
  if (const std::string fault = simt::fault_of(content); !fault.empty()) return simt::invalid(fault);
  simt::write_tensor_map(map, content);
  return CUDA_SUCCESS;
}
