// Ordered loads, stores and reductions on global memory, by which blocks talk to each other. A load polls:
// whatever else can run goes first, so that loops around it end.
#pragma once

#include <cstdint>

#include "simt/atomics.h"
#include "simt/where.h"

namespace simt::ptx {

// ld.acquire.gpu, ld.relaxed.gpu and ld.volatile.
template <AtomicInteger T>
T ld_acquire_gpu(const T* address, Where where = Where::current()) {
  poll_memory("ld.acquire", where);
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
template <AtomicInteger T>
T ld_relaxed_gpu(const T* address, Where where = Where::current()) {
  poll_memory("ld.relaxed", where);
  return __atomic_load_n(address, __ATOMIC_RELAXED);
}
// st.release.gpu and st.relaxed.gpu.
template <AtomicInteger T>
void st_release_gpu(T* address, std::type_identity_t<T> value) {
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
}
template <AtomicInteger T>
void st_relaxed_gpu(T* address, std::type_identity_t<T> value) {
  __atomic_store_n(address, value, __ATOMIC_RELAXED);
}
// red.release.gpu.add and atom.acq_rel.gpu.add.
template <AtomicInteger T>
void red_release_gpu_add(T* address, std::type_identity_t<T> value) {
  __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
}
template <AtomicInteger T>
T atom_acq_rel_gpu_add(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}

}  // namespace simt::ptx
