// What is known of the processor beyond its instruction sets, and decides between kernels that it all runs.
// Chosen by what it is and not by timing, so that the same machine always computes the same bits.
#pragma once

namespace moe::cpu {

struct Processor {
  // Products of pairs of bfloat16 (vdpbf16ps) are no more operations a second than half of what multiply-adds
  // of floats are.
  bool slow_pairs = false;
  // Reads ahead by itself in several rows at a time, once it was led to their pages, and then has more lines
  // on their way than it can be asked for.
  bool follows_rows = false;
};

const Processor& processor();

}  // namespace moe::cpu
