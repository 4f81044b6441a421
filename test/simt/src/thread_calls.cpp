// Calls of one thread that reach into the scheduler: polling, traps, assertions, its shared memory.
#include <cstdio>
#include <cstdlib>

#include "engine.h"
#include "simt/atomics.h"
#include "simt/scalar.h"
#include "simt/thread.h"

namespace simt {

void poll_memory(const char* name, Where where) {
  enter(name, where).block_state->engine->poll();
}

unsigned char* dynamic_shared() {
  return self().block_state->shared.base();
}

}  // namespace simt

void __trap(simt::Where where) {
  simt::enter("__trap", where);
  simt::fail("a trap");
}

// In the place of the C library's, for whatever is linked with this: an assertion of a kernel ends its launch
// alone.
extern "C" void __assert_fail(const char* assertion, const char* file, unsigned line,
                              const char* function) noexcept {
  const std::string text = std::string("assertion failed: ") + assertion + ", " + file + ":" +
                           std::to_string(line) + ", in " + function;
  if (simt::here != nullptr) simt::fail(cudaErrorAssert, text);
  std::fprintf(stderr, "%s\n", text.c_str());
  std::abort();
}
