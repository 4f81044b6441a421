// The context switch: what turns one host thread into thousands of CUDA threads.
#pragma once

#include <cstddef>

namespace simt {

// Saves the callee-saved registers and the stack pointer in *SAVE, and goes on where LOAD was saved.
extern "C" void simt_switch_stack(void** save, void* load);

// A stack pointer that, when switched to, enters ENTRY (which never returns) on the stack below TOP.
void* prepare_stack(std::byte* top, void (*entry)());

}  // namespace simt
