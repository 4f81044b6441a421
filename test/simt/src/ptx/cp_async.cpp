// Issues cp.async. A source out of bounds faults here, at the line that names it, though it is read later.
#include "simt/ptx/cp_async.h"

#include "engine.h"
#include "simt/ptx/address.h"

namespace simt {
namespace {

void touch(const unsigned char* from, uint32_t bytes) {
  if (bytes == 0) return;
  static_cast<void>(*static_cast<const volatile unsigned char*>(from));
  static_cast<void>(*static_cast<const volatile unsigned char*>(from + bytes - 1));
}

void issue(Thread& thread, uint32_t to, const void* from, uint32_t bytes, uint32_t source_bytes) {
  if (source_bytes > bytes) {
    fail(std::string(thread.doing) + ": " + std::to_string(source_bytes) + " bytes of source for a copy of " +
         std::to_string(bytes));
  }
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fail(cudaErrorMisalignedAddress,
         std::string(thread.doing) + ": the source is no multiple of " + std::to_string(bytes));
  }
  const auto* const source = static_cast<const unsigned char*>(from);
  touch(source, source_bytes);
  const CpAsyncQueue::Copy copy = {
      .to = shared_bytes(to, bytes, bytes), .from = source, .bytes = bytes, .source_bytes = source_bytes};
  if (thread.block_state->engine->completes_at_once()) {
    CpAsyncQueue::write(copy);
  } else {
    thread.cp_async.add(copy);
  }
}

}  // namespace

namespace ptx {

void cp_async_ca(uint32_t to, const void* from, uint32_t bytes, uint32_t source_bytes, Where where) {
  Thread& thread = enter("cp.async.ca", where);
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail("cp.async.ca copies 4, 8 or 16 bytes, not " + std::to_string(bytes));
  issue(thread, to, from, bytes, source_bytes);
}

void cp_async_cg(uint32_t to, const void* from, uint32_t source_bytes, Where where) {
  issue(enter("cp.async.cg", where), to, from, 16, source_bytes);
}

void cp_async_commit_group(Where where) {
  enter("cp.async.commit_group", where).cp_async.commit();
}

void cp_async_wait_group(int pending, Where where) {
  enter("cp.async.wait_group", where).cp_async.wait_group(static_cast<size_t>(pending));
}

void cp_async_wait_all(Where where) {
  enter("cp.async.wait_all", where).cp_async.wait_all();
}

}  // namespace ptx
}  // namespace simt
