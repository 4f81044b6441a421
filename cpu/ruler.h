// Fixed work to hold times against: what slows the machine down for a while slows this down alike. It shares
// no code with the kernels but the thread pool, so that no change of theirs changes it.
#pragma once

namespace moe::cpu {

// Milliseconds that it takes now, half of them arithmetic and half reading memory, some fifth of a
// millisecond on every thread.
double ruler();

}  // namespace moe::cpu
