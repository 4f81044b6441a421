// Marks what runs in kernels as well as on the host.
#pragma once

#if defined(__CUDACC__)
#define MOE_EVERYWHERE __host__ __device__
#else
#define MOE_EVERYWHERE
#endif
