// Runs the tests, unless the processor lacks the instruction set that they are asked to run on.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest.h>

#include <cstdio>

#include "cpu/kernels.h"
#include "ops/error.h"

int main(int count, char** arguments) {
  constexpr int kSkipped = 77;
  try {
    moe::cpu::kernels();
  } catch (const moe::Error& error) {
    std::printf("skipped: %s\n", error.what());
    return kSkipped;
  }
  return doctest::Context(count, arguments).run();
}
