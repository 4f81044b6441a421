// cp.async.bulk.tensor: boxes of tensors, row by row, in chunks of 16 bytes that the swizzle places.
#include <cstring>
#include <vector>

#include "bulk_load.h"
#include "engine.h"
#include "simt/ptx/address.h"
#include "simt/ptx/bulk.h"
#include "swizzle.h"
#include "tensor_map.h"

namespace simt {
namespace {

constexpr uint32_t kChunk = 16;
constexpr uint32_t kSharedAlignment = 128;

struct Box {
  TensorMap map;
  int32_t coordinates[kMostRank];
};

Box make_box(const CUtensorMap* map, int rank, const int32_t* coordinates) {
  Box box = {.map = read_tensor_map(map), .coordinates = {}};
  if (box.map.rank != rank) {
    fail("a tensor map of rank " + std::to_string(box.map.rank) + " in a copy of rank " +
         std::to_string(rank));
  }
  std::memcpy(box.coordinates, coordinates, static_cast<size_t>(rank) * sizeof *coordinates);
  return box;
}

unsigned char* inside_start(const TensorMap& map, const BoxRow& row) {
  return reinterpret_cast<unsigned char*>(row.address + uint64_t{row.inside_from} * map.element_bytes);
}

size_t inside_bytes(const TensorMap& map, const BoxRow& row) {
  return row.inside_from < row.inside_to ? size_t{row.inside_to - row.inside_from} * map.element_bytes : 0;
}

// Tensors larger than their memory fault at the line that issues the copy.
void touch_rows(const Box& box) {
  for (uint32_t index = 0; index < box.map.rows(); ++index) {
    const BoxRow row = box_row(box.map, box.coordinates, index);
    const size_t bytes = inside_bytes(box.map, row);
    if (bytes != 0) touch_both_ends(inside_start(box.map, row), bytes);
  }
}

// Chunk AT of the box, at BASE whose shared address is ADDRESS.
unsigned char* chunk_at(unsigned char* base, uint32_t address, uint32_t at, const TensorMap& map) {
  return base + (swizzled(address + at, map.swizzle_bytes) - address);
}

void read_box(const Box& box, unsigned char* target, uint32_t address) {
  const uint32_t row_bytes = box.map.row_bytes();
  std::vector<unsigned char> content(row_bytes);
  for (uint32_t index = 0; index < box.map.rows(); ++index) {
    const BoxRow row = box_row(box.map, box.coordinates, index);
    // Outside of the tensor: zeros, or all ones, which is a NaN of every format.
    std::memset(content.data(), box.map.fill_with_nan != 0 ? 0xff : 0, content.size());
    const size_t bytes = inside_bytes(box.map, row);
    if (bytes != 0) {
      std::memcpy(&content[size_t{row.inside_from} * box.map.element_bytes], inside_start(box.map, row),
                  bytes);
    }
    for (uint32_t at = 0; at < row_bytes; at += kChunk) {
      std::memcpy(chunk_at(target, address, index * row_bytes + at, box.map), &content[at], kChunk);
    }
  }
}

// The box's bytes in order, without the swizzle.
std::vector<unsigned char> gather_box(const Box& box, unsigned char* source, uint32_t address) {
  std::vector<unsigned char> content(box.map.box_bytes());
  for (uint32_t at = 0; at < content.size(); at += kChunk) {
    std::memcpy(&content[at], chunk_at(source, address, at, box.map), kChunk);
  }
  return content;
}

void write_box(const Box& box, const std::vector<unsigned char>& content) {
  for (uint32_t index = 0; index < box.map.rows(); ++index) {
    const BoxRow row = box_row(box.map, box.coordinates, index);
    const size_t bytes = inside_bytes(box.map, row);
    if (bytes == 0) continue;
    std::memcpy(
        inside_start(box.map, row),
        &content[size_t{index} * box.map.row_bytes() + size_t{row.inside_from} * box.map.element_bytes],
        bytes);
  }
}

// A swizzle moves chunks within lines of 128 bytes: a box of whole lines holds them all.
void check_swizzle(const TensorMap& map) {
  if (map.swizzle_bytes == 0 || map.box_bytes() % 128 == 0) return;
  fail("a swizzled box of " + std::to_string(map.box_bytes()) + " bytes: expected a multiple of 128");
}

}  // namespace

void tensor_load(uint32_t to, const CUtensorMap* map, int rank, const int32_t* coordinates, uint32_t mbarrier,
                 uint32_t blocks, Where where) {
  enter_bulk("cp.async.bulk.tensor.shared.global", where);
  const Box box = make_box(map, rank, coordinates);
  check_swizzle(box.map);
  touch_rows(box);
  schedule_load(to, mbarrier, box.map.box_bytes(), kSharedAlignment, blocks,
                [box](unsigned char* target, uint32_t address) { read_box(box, target, address); });
}

void tensor_store(const CUtensorMap* map, int rank, const int32_t* coordinates, uint32_t from, Where where) {
  Thread& thread = enter_bulk("cp.async.bulk.tensor.global.shared", where);
  const Box box = make_box(map, rank, coordinates);
  check_swizzle(box.map);
  touch_rows(box);
  Block& block = *thread.block_state;
  unsigned char* const source = shared_bytes(from, box.map.box_bytes(), kSharedAlignment);
  thread.bulk.add({.read = [box, source, from, &block]() -> std::function<void()> {
                     block.proxy.reads(block, source, box.map.box_bytes());
                     return [box, content = gather_box(box, source, from)] { write_box(box, content); };
                   },
                   .write = {}});
}

namespace ptx {

void prefetch_tensormap(const CUtensorMap* map, Where where) {
  enter_bulk("prefetch.tensormap", where);
  read_tensor_map(map);
}

void tensormap_replace_global_address(CUtensorMap* map, const void* address, Where where) {
  enter_bulk("tensormap.replace.global_address", where);
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0)
    fail("tensormap.replace: the address is no multiple of 16 bytes");
  TensorMap content = read_tensor_map(map);
  content.address = reinterpret_cast<uint64_t>(address);
  write_tensor_map(map, content);
}

void tensormap_replace_global_dim(CUtensorMap* map, int index, uint32_t elements, Where where) {
  enter_bulk("tensormap.replace.global_dim", where);
  TensorMap content = read_tensor_map(map);
  if (index < 0 || index >= content.rank) fail("tensormap.replace: no dimension " + std::to_string(index));
  if (elements == 0) fail("tensormap.replace: a dimension of no elements");
  content.last[index] = elements - 1;
  write_tensor_map(map, content);
}

void tensormap_replace_global_stride(CUtensorMap* map, int index, uint64_t bytes, Where where) {
  enter_bulk("tensormap.replace.global_stride", where);
  TensorMap content = read_tensor_map(map);
  if (index < 0 || index + 1 >= content.rank) fail("tensormap.replace: no stride " + std::to_string(index));
  if (bytes % 16 != 0) fail("tensormap.replace: the stride is no multiple of 16 bytes");
  content.strides[index + 1] = bytes;
  write_tensor_map(map, content);
}

void tensormap_replace_box_dim(CUtensorMap* map, int index, uint32_t elements, Where where) {
  enter_bulk("tensormap.replace.box_dim", where);
  TensorMap content = read_tensor_map(map);
  if (index < 0 || index >= content.rank) fail("tensormap.replace: no dimension " + std::to_string(index));
  if (elements == 0 || elements > 256) fail("tensormap.replace: a box of " + std::to_string(elements));
  content.box[index] = static_cast<uint16_t>(elements);
  write_tensor_map(map, content);
}

void tensormap_cp_fenceproxy(CUtensorMap* to, const CUtensorMap* from, Where where) {
  enter_bulk("tensormap.cp_fenceproxy", where);
  read_tensor_map(from);
  std::memcpy(to, from, sizeof *to);
}

void fence_proxy_tensormap_acquire(const CUtensorMap* map, Where where) {
  enter_bulk("fence.proxy.tensormap.acquire", where);
  read_tensor_map(map);
}

void fence_proxy_tensormap_release(Where where) {
  enter_bulk("fence.proxy.tensormap.release", where);
}

}  // namespace ptx
}  // namespace simt
