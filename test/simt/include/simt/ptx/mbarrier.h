// mbarrier: barriers in shared memory that count arrivals and, from compute capability 9.0, bytes of copies.
// Addresses are of the block's own shared memory, or from mapa() of another block's where the manual allows
// `shared::cluster`.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt::ptx {

void mbarrier_init(uint32_t address, uint32_t count, Where where = Where::current());
void mbarrier_inval(uint32_t address, Where where = Where::current());

// mbarrier.arrive; the state of the phase that it belongs to, for the waits by state. A remote one gives
// none.
uint64_t mbarrier_arrive(uint32_t address, uint32_t count = 1, Where where = Where::current());
// mbarrier.arrive.expect_tx: announces BYTES, then arrives.
uint64_t mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes, Where where = Where::current());
void mbarrier_expect_tx(uint32_t address, uint32_t bytes, Where where = Where::current());
void mbarrier_complete_tx(uint32_t address, uint32_t bytes, Where where = Where::current());
// cp.async.mbarrier.arrive.noinc: arrives when all earlier cp.async of the thread have completed.
void cp_async_mbarrier_arrive_noinc(uint32_t address, Where where = Where::current());

// Whether the phase is complete: the one of STATE, or the latest of PARITY (of a fresh object, phase 0 is
// incomplete and the one before, of parity 1, complete). try_wait waits, though not for ever: now and then it
// gives up, as devices do, so it belongs in a loop.
bool mbarrier_test_wait(uint32_t address, uint64_t state, Where where = Where::current());
bool mbarrier_test_wait_parity(uint32_t address, uint32_t parity, Where where = Where::current());
bool mbarrier_try_wait(uint32_t address, uint64_t state, Where where = Where::current());
bool mbarrier_try_wait_parity(uint32_t address, uint32_t parity, Where where = Where::current());

// fence.mbarrier_init.release.cluster: nothing to do here.
void fence_mbarrier_init(Where where = Where::current());

}  // namespace simt::ptx
