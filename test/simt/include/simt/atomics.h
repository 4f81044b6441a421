// Atomics on integers, as real ones: blocks may run on several host threads. There are none on floating-point
// numbers: what they sum depends on the order, and no kernel here may.
#pragma once

#include <cstdint>
#include <type_traits>

#include "simt/where.h"

namespace simt {

template <class T>
concept AtomicInteger = std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

// The running thread waits for memory that others change: the rest goes first. Every loop that waits like
// this must poll, or the emulator, which does not interrupt a thread, never leaves it.
void poll_memory(const char* name, Where where = Where::current());

// Replaces *ADDRESS by FUNCTION of it; what was there before.
template <AtomicInteger T, class Function>
T atomic_update(T* address, Function function) {
  T before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &before, function(before), true, __ATOMIC_SEQ_CST,
                                      __ATOMIC_RELAXED)) {
  }
  return before;
}

}  // namespace simt

template <simt::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_and(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_xor(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);
}
template <simt::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update(address, [value](T old) { return old > value ? old : value; });
}
template <simt::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::atomic_update(address, [value](T old) { return old < value ? old : value; });
}
// Counts up to LIMIT, then starts again at 0.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return simt::atomic_update(address, [limit](unsigned old) { return old >= limit ? 0 : old + 1; });
}
// Where it fails it polls: a loop around it is a lock.
template <simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value,
            simt::Where where = simt::Where::current()) {
  const T wanted = expected;
  if (!__atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) &&
      expected != wanted) {
    simt::poll_memory("atomicCAS", where);
  }
  return expected;
}
