// cp.async.bulk: copies of any multiple of 16 bytes by the asynchronous proxy. Copies into shared memory
// complete on an mbarrier, when no thread can run without them and in shuffled order; copies out of it by the
// groups of their thread.
#pragma once

#include <cstdint>

#include "cuda.h"
#include "simt/where.h"

namespace simt::ptx {

// cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes. TO and MBARRIER are the block's own.
void cp_async_bulk_shared_global(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier,
                                 Where where = Where::current());
// The same with .multicast::cluster: to the same place of every block of the cluster whose rank is in BLOCKS,
// each of which counts the bytes on its own mbarrier at that place.
void cp_async_bulk_shared_global_multicast(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier,
                                           uint16_t blocks, Where where = Where::current());
// cp.async.bulk.shared::cluster.shared::cta: TO and MBARRIER in one block of the cluster.
void cp_async_bulk_shared_shared(uint32_t to, uint32_t from, uint32_t bytes, uint32_t mbarrier,
                                 Where where = Where::current());
// cp.async.bulk.global.shared::cta.bulk_group.
void cp_async_bulk_global_shared(void* to, uint32_t from, uint32_t bytes, Where where = Where::current());

void cp_async_bulk_commit_group(Where where = Where::current());
// Until at most PENDING of the thread's latest groups are incomplete; with _read, have not read shared memory
// yet.
void cp_async_bulk_wait_group(int pending, Where where = Where::current());
void cp_async_bulk_wait_group_read(int pending, Where where = Where::current());

// fence.proxy.async: ordinary writes to shared memory before it are seen by bulk copies and wgmma after it.
void fence_proxy_async(Where where = Where::current());

}  // namespace simt::ptx

namespace simt {

// What tensor copies of every rank do. COORDINATES are of the box's first element, fastest dimension first.
void tensor_load(uint32_t to, const CUtensorMap* map, int rank, const int32_t* coordinates, uint32_t mbarrier,
                 uint32_t blocks, Where where);
void tensor_store(const CUtensorMap* map, int rank, const int32_t* coordinates, uint32_t from, Where where);

namespace ptx {

// cp.async.bulk.tensor.{1..5}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.
template <int Rank>
void cp_async_bulk_tensor_shared_global(uint32_t to, const CUtensorMap* map,
                                        const int32_t (&coordinates)[Rank], uint32_t mbarrier,
                                        Where where = Where::current()) {
  tensor_load(to, map, Rank, coordinates, mbarrier, 0, where);
}
template <int Rank>
void cp_async_bulk_tensor_shared_global_multicast(uint32_t to, const CUtensorMap* map,
                                                  const int32_t (&coordinates)[Rank], uint32_t mbarrier,
                                                  uint16_t blocks, Where where = Where::current()) {
  tensor_load(to, map, Rank, coordinates, mbarrier, blocks, where);
}
// cp.async.bulk.tensor.{1..5}d.global.shared::cta.tile.bulk_group.
template <int Rank>
void cp_async_bulk_tensor_global_shared(const CUtensorMap* map, const int32_t (&coordinates)[Rank],
                                        uint32_t from, Where where = Where::current()) {
  tensor_store(map, Rank, coordinates, from, where);
}

// prefetch.tensormap: checks that there is one.
void prefetch_tensormap(const CUtensorMap* map, Where where = Where::current());

// tensormap.replace.tile of a map in shared or global memory. Dimension 0 has no stride of its own: INDEX of
// a stride counts from dimension 1.
void tensormap_replace_global_address(CUtensorMap* map, const void* address, Where where = Where::current());
void tensormap_replace_global_dim(CUtensorMap* map, int index, uint32_t elements,
                                  Where where = Where::current());
void tensormap_replace_global_stride(CUtensorMap* map, int index, uint64_t bytes,
                                     Where where = Where::current());
void tensormap_replace_box_dim(CUtensorMap* map, int index, uint32_t elements,
                               Where where = Where::current());
// tensormap.cp_fenceproxy.global.shared::cta, with the fence that makes the copy known to the asynchronous
// proxy.
void tensormap_cp_fenceproxy(CUtensorMap* to, const CUtensorMap* from, Where where = Where::current());
// fence.proxy.tensormap::generic.acquire and .release: nothing to do here.
void fence_proxy_tensormap_acquire(const CUtensorMap* map, Where where = Where::current());
void fence_proxy_tensormap_release(Where where = Where::current());

}  // namespace ptx
}  // namespace simt
