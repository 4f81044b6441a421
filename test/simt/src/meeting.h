// Warp meetings: what every warp-wide instruction is made of. The lanes of a mask come with an operand each;
// the last one does the work for all of them.
#pragma once

#include <cstdint>

#include "simt/where.h"

namespace simt {

struct Warp;

// The lanes that met; OPERAND types are the operation's own.
class Lanes {
 public:
  Lanes(Warp& warp, uint32_t mask) : warp_(&warp), mask_(mask) {}

  Warp& warp() const { return *warp_; }
  uint32_t mask() const { return mask_; }
  bool has(unsigned lane) const { return lane < 32 && (mask_ >> lane & 1) != 0; }
  template <class Operand>
  Operand& operand(unsigned lane) const {
    return *static_cast<Operand*>(raw(lane));
  }
  // Calls VISIT(lane, operand) for each lane that met, lowest first.
  template <class Operand, class Visit>
  void each(Visit visit) const {
    for (uint32_t left = mask_; left != 0; left &= left - 1) {
      const auto lane = static_cast<unsigned>(__builtin_ctz(left));
      visit(lane, operand<Operand>(lane));
    }
  }

 private:
  void* raw(unsigned lane) const;

  Warp* warp_;
  uint32_t mask_;
};

struct WarpOperation {
  const char* name;
  void (*apply)(const Lanes& lanes);
};

// A meeting that has begun and lacks lanes.
struct Meeting {
  const WarpOperation* operation = nullptr;
  uint32_t mask = 0, arrived = 0;
  Where where;
};

// The running thread takes part in OPERATION with the lanes of MASK; returns when all have come. Lanes that
// come with another operation, mask or source line, and lanes that can come no more, end the launch.
void meet(const WarpOperation& operation, uint32_t mask, void* operand, const Where& where);

// The same for instructions that are `.sync.aligned`: all 32 lanes.
inline void meet_whole_warp(const WarpOperation& operation, void* operand, const Where& where) {
  meet(operation, 0xffffffffu, operand, where);
}

// The running thread is about to exit: nobody may wait for it.
void check_exit_from_meetings();

}  // namespace simt
