// The PTX instructions of the emulator, a function for each form, named after the PTX instruction set manual.
// Shared memory is addressed as in PTX, by 32-bit addresses: shared_address() gives that of a pointer.
//
// The last parameter of each is the caller's source line, by default argument; whatever forwards passes its
// own on.
#pragma once

#include "simt/ptx/address.h"
#include "simt/ptx/bulk.h"
#include "simt/ptx/cluster.h"
#include "simt/ptx/convert.h"
#include "simt/ptx/cp_async.h"
#include "simt/ptx/matrix.h"
#include "simt/ptx/mbarrier.h"
#include "simt/ptx/memory.h"
#include "simt/ptx/mma.h"
#include "simt/ptx/wgmma.h"
