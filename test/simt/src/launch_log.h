// Which kernels ran, for whoever asks whether one was forgotten.
#pragma once

namespace simt {

// FUNCTION ran to its end. The first time, its offset in the file that holds it goes to MOE_SIMT_LAUNCH_LOG,
// as a line of hexadecimal digits: `objdump -t` gives the same number for a kernel.
void log_launch(const void* function);

}  // namespace simt
