// Filling and converting tensors. Bound by bytes.
#include <type_traits>

#include "cuda/backend.h"
#include "cuda/device/convert.cuh"
#include "cuda/launch.h"

namespace moe::cuda {
namespace {

constexpr int kThreads = 256;
// Elements that a thread has in flight.
constexpr int kEach = 4;

template <class In, class Out>
__global__ void __launch_bounds__(kThreads) convert(const In* source, Out* out, int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * kThreads * kEach;
  for (int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kEach; at < count; at += stride) {
    const int64_t n = count - at < kEach ? count - at : kEach;
    for (int64_t i = 0; i < n; ++i) out[at + i] = from_float<Out>(to_float(source[at + i]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill(T* out, float value, int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < count; at += stride)
    out[at] = from_float<T>(value);
}

// int32 converts to and from float32 alone.
template <class In, class Out>
constexpr bool kConverts =
    !std::is_same_v<In, Out> && (std::is_same_v<In, float> || std::is_same_v<Out, float> ||
                                 !(std::is_same_v<In, int32_t> || std::is_same_v<Out, int32_t>));

// Calls `body` with the C++ type of any dtype.
template <class Body>
void with_type(DType dtype, Body body) {
  if (dtype == DType::int32) return body(TypeTag<int32_t>{});
  with_float_type(dtype, body);
}

}  // namespace

void run(const Fill& op, const Context& context) {
  const int64_t count = op.out.elements();
  with_type(op.out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, "fill", fill<T>, {.blocks = {blocks_for(count, kThreads * kEach)}, .threads = {kThreads}},
           op.out.as<T>(), op.value, count);
  });
}

void run(const Cast& op, const Context& context) {
  const int64_t count = op.out.elements();
  if (op.source.dtype == op.out.dtype) {
    if (count > 0)
      check(cudaMemcpyAsync(op.out.data, op.source.data, op.out.bytes(), cudaMemcpyDeviceToDevice,
                            context.stream()),
            "cudaMemcpyAsync");
    return;
  }
  with_type(op.source.dtype, [&](auto in_tag) {
    with_type(op.out.dtype, [&](auto out_tag) {
      using In = typename decltype(in_tag)::type;
      using Out = typename decltype(out_tag)::type;
      if constexpr (kConverts<In, Out>) {
        launch(context, "cast", convert<In, Out>,
               {.blocks = {blocks_for(count, kThreads * kEach)}, .threads = {kThreads}}, op.source.as<In>(),
               op.out.as<Out>(), count);
      }
    });
  });
}

}  // namespace moe::cuda
