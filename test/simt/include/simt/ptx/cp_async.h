// cp.async: copies of 4, 8 or 16 bytes from global to shared memory that are written when the thread waits
// for them, never sooner.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt::ptx {

// cp.async.{ca,cg}.shared.global [to], [from], BYTES, source_bytes: what SOURCE_BYTES leaves is zeros. FROM
// is not read where SOURCE_BYTES is 0. The cache is of no consequence; .cg takes 16 bytes only.
void cp_async_ca(uint32_t to, const void* from, uint32_t bytes, uint32_t source_bytes,
                 Where where = Where::current());
void cp_async_cg(uint32_t to, const void* from, uint32_t source_bytes = 16, Where where = Where::current());

void cp_async_commit_group(Where where = Where::current());
// Waits until at most PENDING of the thread's latest groups are incomplete.
void cp_async_wait_group(int pending, Where where = Where::current());
void cp_async_wait_all(Where where = Where::current());

}  // namespace simt::ptx
