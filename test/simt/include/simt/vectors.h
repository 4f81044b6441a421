// CUDA's small vectors, with its names and alignments.
#pragma once

#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;

  constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1)
      : x(width), y(height), z(depth) {}
  constexpr dim3(uint3 index) : x(index.x), y(index.y), z(index.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

#define SIMT_VECTOR2(name, type)               \
  struct alignas(2 * sizeof(type)) name {      \
    type x, y;                                 \
  };                                           \
  constexpr name make_##name(type x, type y) { \
    return {x, y};                             \
  }

#define SIMT_VECTOR4(name, type)                                       \
  struct alignas(sizeof(type) * 4 < 16 ? sizeof(type) * 4 : 16) name { \
    type x, y, z, w;                                                   \
  };                                                                   \
  constexpr name make_##name(type x, type y, type z, type w) {         \
    return {x, y, z, w};                                               \
  }

SIMT_VECTOR2(short2, short)
SIMT_VECTOR2(ushort2, unsigned short)
SIMT_VECTOR2(int2, int)
SIMT_VECTOR2(uint2, unsigned)
SIMT_VECTOR2(float2, float)
SIMT_VECTOR2(double2, double)
SIMT_VECTOR2(longlong2, long long)
SIMT_VECTOR2(ulonglong2, unsigned long long)
SIMT_VECTOR4(char4, signed char)
SIMT_VECTOR4(uchar4, unsigned char)
SIMT_VECTOR4(short4, short)
SIMT_VECTOR4(ushort4, unsigned short)
SIMT_VECTOR4(int4, int)
SIMT_VECTOR4(uint4, unsigned)
SIMT_VECTOR4(float4, float)

#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
  return {x, y, z};
}
