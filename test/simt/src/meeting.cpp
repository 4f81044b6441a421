// Warp meetings: who came, who cannot come, and the work of the last.
#include "meeting.h"

#include <bit>
#include <cstdio>
#include <string>

#include "engine.h"

namespace simt {
namespace {

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string one_lane(uint32_t lanes) {
  return "lane " + std::to_string(std::countr_zero(lanes));
}

std::string standing_of(const Thread& thread) {
  return std::string(thread.doing) + ", " + place(thread.where);
}

[[noreturn]] void report_mismatch(const Warp& warp, const WarpOperation& operation, uint32_t mask,
                                  uint32_t others) {
  const Thread& other = warp.threads[std::countr_zero(others)];
  fail(std::string(operation.name) + " with mask " + hex(mask) + ": " + one_lane(others) +
       " of the mask waits in another call: " + standing_of(other));
}

void check_mask(const Warp& warp, const WarpOperation& operation, uint32_t mask, uint32_t me) {
  const std::string name = operation.name;
  if ((mask & me) == 0) fail(name + ": its mask " + hex(mask) + " lacks the caller");
  if ((mask & ~warp.present) != 0) {
    fail(name + ": its mask " + hex(mask) + " names " + one_lane(mask & ~warp.present) +
         ", which the block does not have");
  }
  if ((mask & warp.exited) != 0) {
    fail(name + ": its mask " + hex(mask) + " names " + one_lane(mask & warp.exited) + ", which has exited");
  }
}

}  // namespace

void* Lanes::raw(unsigned lane) const {
  return warp_->threads[lane].operand;
}

void meet(const WarpOperation& operation, uint32_t mask, void* operand, const Where& where) {
  Thread& thread = enter(operation.name, where);
  Warp& warp = *thread.warp;
  const uint32_t me = 1u << thread.lane;
  if ((mask & me) == 0 || warp.missing(mask)) check_mask(warp, operation, mask, me);
  Meeting& meeting = warp.meetings[std::countr_zero(mask)];
  if (meeting.arrived == 0) {
    if ((warp.meeting & mask) != 0) report_mismatch(warp, operation, mask, warp.meeting & mask);
    meeting = {.operation = &operation, .mask = mask, .where = where};
  } else if (meeting.operation != &operation || meeting.mask != mask || !(meeting.where == where)) {
    report_mismatch(warp, operation, mask, meeting.arrived);
  }
  meeting.arrived |= me;
  thread.operand = operand;
  if (meeting.arrived != mask) {
    warp.meeting |= me;
    thread.block_state->engine->park();
    return;
  }
  meeting.arrived = 0;
  warp.meeting &= ~mask;
  operation.apply(Lanes(warp, mask));
  warp.ready |= mask & ~me;
  thread.block_state->engine->maybe_give_way();
}

void check_exit_from_meetings() {
  const Thread& thread = self();
  const Warp& warp = *thread.warp;
  if (warp.meeting == 0) return;
  for (const Meeting& meeting : warp.meetings) {
    if (meeting.arrived == 0 || (meeting.mask >> thread.lane & 1) == 0) continue;
    fail("exits while " + one_lane(meeting.arrived) +
         " of its warp waits for it: " + standing_of(warp.threads[std::countr_zero(meeting.arrived)]));
  }
}

}  // namespace simt
