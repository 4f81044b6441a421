// Fixed work to hold times against: what slows the machine down for a while slows this down alike. It shares
// no code with the kernels but the thread pool, so that no change of theirs changes it.
#pragma once

namespace moe::cpu {

enum class RulerKind { arithmetic, memory };

// Milliseconds that about one of work takes, split among the threads as blocks of a product are.
double ruler(RulerKind kind);

}  // namespace moe::cpu
