// The CUDA backend under emulation against the CPU backend.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest.h>
