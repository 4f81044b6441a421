// The handler of SIGSEGV and SIGBUS: it sends the faulting fiber, whose frames are lost, to the top of its
// stack, and there the error is reported by ordinary code.
#include "fault.h"

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <mutex>

#include "device_memory.h"
#include "engine.h"

namespace simt {
namespace {

constexpr size_t kHandlerStack = size_t{64} << 10;
constexpr int kKernelSent = 0x80;  // SI_KERNEL: the processor gave no address

struct sigaction previous_segv, previous_bus;
thread_local void* fault_address = nullptr;
thread_local bool fault_has_address = false;

std::string hex(const void* address) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

std::string explain(const void* address, const Thread& thread) {
  if (!fault_has_address) return "a misaligned vector access, or a wild pointer";
  if (thread.block_state->engine->stacks().in_guard(address))
    return "the stack of an emulated thread overflowed";
  for (const auto& cluster : thread.block_state->engine->residents()) {
    for (const auto& block : cluster->blocks) {
      if (!block->shared.in_guard(address)) continue;
      const auto offset = static_cast<const unsigned char*>(address) - block->shared.base();
      return "out of bounds of shared memory: byte " + std::to_string(offset) + " of " +
             std::to_string(block->shared.bytes());
    }
  }
  return "illegal access to " + hex(address) + ": " + device_memory().describe(address);
}

[[noreturn]] void report_fault() {
  fail(cudaErrorIllegalAddress, explain(fault_address, self()));
}

void redirect(ucontext_t& context, std::byte* top) {
  const auto aligned = reinterpret_cast<uintptr_t>(top) / 16 * 16;
#if defined(__x86_64__)
  context.uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(aligned - 8);  // as after a call
  context.uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&report_fault);
#else
  context.uc_mcontext.sp = aligned;
  context.uc_mcontext.pc = reinterpret_cast<uintptr_t>(&report_fault);
#endif
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (here == nullptr) {
    // Not a kernel's: as if this handler were not there.
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;
  }
  fault_address = info->si_addr;
  fault_has_address = info->si_code != kKernelSent;
  redirect(*static_cast<ucontext_t*>(context), self().stack_top);
}

// Installs the handler, again where somebody else has installed one since.
void install(int signal, struct sigaction& previous) {
  struct sigaction action = {}, before = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(signal, &action, &before);
  if (before.sa_sigaction != on_fault) previous = before;
}

}  // namespace

FaultGuard::FaultGuard() : stack_(std::make_unique_for_overwrite<std::byte[]>(kHandlerStack)) {
  {
    static std::mutex lock;
    const std::lock_guard hold(lock);
    install(SIGSEGV, previous_segv);
    install(SIGBUS, previous_bus);
  }
  const stack_t mine = {.ss_sp = stack_.get(), .ss_flags = 0, .ss_size = kHandlerStack};
  sigaltstack(&mine, &previous_);
}

FaultGuard::~FaultGuard() {
  sigaltstack(&previous_, nullptr);
}

}  // namespace simt
