// The context switch for x86-64 (System V) and AArch64. Rounding modes are not switched: kernels leave them
// alone.
#include "fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
asm(R"(
  .text
  .globl simt_switch_stack
  .hidden simt_switch_stack
  .type simt_switch_stack, @function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch_stack, . - simt_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl simt_switch_stack
  .hidden simt_switch_stack
  .type simt_switch_stack, %function
simt_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size simt_switch_stack, . - simt_switch_stack
)");
#else
#error "the emulator knows how to switch stacks on x86-64 and AArch64"
#endif

namespace simt {
namespace {

#if defined(__x86_64__)
// Six registers, the address to return to, and a null return address at which the frames above end.
constexpr size_t kFrameBytes = 64;
constexpr size_t kEntryOffset = 48;
#else
constexpr size_t kFrameBytes = 160;
constexpr size_t kEntryOffset = 88;  // x30
#endif

}  // namespace

void* prepare_stack(std::byte* top, void (*entry)()) {
  auto* const aligned = top - reinterpret_cast<uintptr_t>(top) % 16;
  std::byte* const frame = aligned - kFrameBytes;
  std::memset(frame, 0, kFrameBytes);
  std::memcpy(frame + kEntryOffset, &entry, sizeof entry);
  return frame;
}

}  // namespace simt
