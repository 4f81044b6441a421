// The place in a kernel that a function standing for an instruction was called from, for the emulator to name
// and to hold the lanes of a warp together by. On a device there is no such parameter.
#pragma once

#include <cuda_runtime.h>

#if defined(MOE_SIMT)
#define MOE_WHERE , simt::Where where = simt::Where::current()
#define MOE_HERE , where
#define MOE_ONLY_WHERE simt::Where where = simt::Where::current()
#else
#define MOE_WHERE
#define MOE_ONLY_WHERE
#define MOE_HERE
#endif
