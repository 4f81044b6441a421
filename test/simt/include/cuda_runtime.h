// The emulated CUDA runtime, in the place of CUDA's own header: sources of kernels and launchers compile
// against it as plain C++20.
#pragma once

#include "simt/atomics.h"
#include "simt/collectives.h"
#include "simt/keywords.h"
#include "simt/launch.h"
#include "simt/runtime_api.h"
#include "simt/runtime_types.h"
#include "simt/scalar.h"
#include "simt/thread.h"
#include "simt/vectors.h"
