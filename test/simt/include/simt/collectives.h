// Barriers and warp collectives, with CUDA's names. Each takes the caller's source line by default argument:
// the lanes of a mask (the threads of a block, for __syncthreads) must meet at one line; whatever forwards to
// these passes its own caller's line on.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/where.h"

void __syncthreads(simt::Where where = simt::Where::current());
int __syncthreads_count(int predicate, simt::Where where = simt::Where::current());
int __syncthreads_or(int predicate, simt::Where where = simt::Where::current());
int __syncthreads_and(int predicate, simt::Where where = simt::Where::current());

namespace simt {

// bar.sync and bar.arrive of THREADS threads, a multiple of 32.
void named_barrier_sync(unsigned id, unsigned threads, Where where = Where::current());
void named_barrier_arrive(unsigned id, unsigned threads, Where where = Where::current());

enum class Shuffle { index, up, down, butterfly };
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int operand, int width, Where where);

enum class Vote { ballot, any, all };
uint32_t vote(Vote kind, uint32_t mask, bool predicate, Where where);

enum class Reduction { add, min, max, min_signed, max_signed, bit_and, bit_or, bit_xor };
uint32_t reduce(Reduction kind, uint32_t mask, uint32_t value, Where where);

uint32_t match_any(uint32_t mask, uint64_t value, Where where);

template <class T>
T shuffle_value(Shuffle kind, uint32_t mask, T value, int operand, int width, Where where) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(kind, mask, bits, operand, width, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace simt

void __syncwarp(unsigned mask = 0xffffffffu, simt::Where where = simt::Where::current());
unsigned __activemask() = delete;  // says nothing that a program may rely on

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              simt::Where where = simt::Where::current()) {
  return simt::shuffle_value(simt::Shuffle::index, mask, value, source, width, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 simt::Where where = simt::Where::current()) {
  return simt::shuffle_value(simt::Shuffle::up, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   simt::Where where = simt::Where::current()) {
  return simt::shuffle_value(simt::Shuffle::down, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  simt::Where where = simt::Where::current()) {
  return simt::shuffle_value(simt::Shuffle::butterfly, mask, value, lane_mask, width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Where where = simt::Where::current()) {
  return simt::vote(simt::Vote::ballot, mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, simt::Where where = simt::Where::current()) {
  return static_cast<int>(simt::vote(simt::Vote::any, mask, predicate != 0, where));
}
inline int __all_sync(unsigned mask, int predicate, simt::Where where = simt::Where::current()) {
  return static_cast<int>(simt::vote(simt::Vote::all, mask, predicate != 0, where));
}

template <class T>
unsigned __match_any_sync(unsigned mask, T value, simt::Where where = simt::Where::current()) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return simt::match_any(mask, bits, where);
}

#define SIMT_REDUCE(name, type, kind)                                                       \
  inline type name(unsigned mask, type value, simt::Where where = simt::Where::current()) { \
    return static_cast<type>(                                                               \
        simt::reduce(simt::Reduction::kind, mask, static_cast<uint32_t>(value), where));    \
  }
SIMT_REDUCE(__reduce_add_sync, unsigned, add)
SIMT_REDUCE(__reduce_add_sync, int, add)
SIMT_REDUCE(__reduce_min_sync, unsigned, min)
SIMT_REDUCE(__reduce_min_sync, int, min_signed)
SIMT_REDUCE(__reduce_max_sync, unsigned, max)
SIMT_REDUCE(__reduce_max_sync, int, max_signed)
SIMT_REDUCE(__reduce_and_sync, unsigned, bit_and)
SIMT_REDUCE(__reduce_or_sync, unsigned, bit_or)
SIMT_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef SIMT_REDUCE
