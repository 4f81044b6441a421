// Clusters of blocks: who is in it, its barrier, and each other's shared memory; and what else came with
// compute capability 9.0 for whole warps and grids.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt/ptx/address.h"
#include "simt/vectors.h"
#include "simt/where.h"

namespace simt::ptx {

uint32_t cluster_ctarank();
uint32_t cluster_nctarank();
uint3 cluster_ctaid();
uint3 cluster_nctaid();

// barrier.cluster.arrive and .wait, of every thread of the cluster. Orders are of no consequence here.
void barrier_cluster_arrive(Where where = Where::current());
void barrier_cluster_wait(Where where = Where::current());

// mapa.shared::cluster: ADDRESS, of the block's own shared memory, in that of the block of RANK.
uint32_t mapa(uint32_t address, uint32_t rank, Where where = Where::current());

// ld.shared::cluster and st.shared::cluster.
template <class T>
T ld_shared_cluster(uint32_t address, Where where = Where::current());
template <class T>
void st_shared_cluster(uint32_t address, T value, Where where = Where::current());

// elect.sync: true for one lane of MASK, always the same one; which one depends on the seed.
bool elect_sync(uint32_t mask = 0xffffffffu, Where where = Where::current());

// setmaxnreg: executed by all four warps of a warpgroup, with 24 to 256 registers in steps of 8.
void setmaxnreg_inc(uint32_t registers, Where where = Where::current());
void setmaxnreg_dec(uint32_t registers, Where where = Where::current());

// Kernels of a stream never overlap here.
inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}

}  // namespace simt::ptx

namespace simt {

void note_call(const char* name, Where where);

}  // namespace simt

template <class T>
T simt::ptx::ld_shared_cluster(uint32_t address, Where where) {
  note_call("ld.shared::cluster", where);
  T value;
  std::memcpy(&value, shared_bytes(address, sizeof value, alignof(T)), sizeof value);
  return value;
}

template <class T>
void simt::ptx::st_shared_cluster(uint32_t address, T value, Where where) {
  note_call("st.shared::cluster", where);
  std::memcpy(shared_bytes(address, sizeof value, alignof(T)), &value, sizeof value);
}
