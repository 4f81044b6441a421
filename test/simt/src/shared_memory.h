// The shared memory of one block: exactly what its launch asked for, poisoned, a guard page on either side.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

class SharedArena {
 public:
  SharedArena() = default;
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;
  ~SharedArena() { unmap(); }

  // A fresh arena of BYTES: not a number, whatever it is read as.
  void renew(size_t bytes);

  unsigned char* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  bool in_guard(const void* address) const;
  // Whether what rounds the size up to 16 bytes is as it was.
  bool intact() const;

  // As an address of the shared state space. Alignments of it and of the pointer agree.
  uint32_t address_of(const void* pointer) const;
  // Null where [address, address + bytes) is not all inside.
  unsigned char* at(uint32_t address, size_t bytes) const;

 private:
  void unmap();

  unsigned char* mapped_ = nullptr;  // without the guard pages
  size_t mapped_bytes_ = 0;
  unsigned char* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace simt
