// cudaLaunchKernelEx: the one way to launch. Arguments are copied when the launch is made, as CUDA does.
#pragma once

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/runtime_types.h"

namespace simt {

template <class... P>
struct Invocation {
  void (*kernel)(P...);
  std::tuple<std::remove_cv_t<P>...> arguments;

  // What each emulated thread does.
  static void run(const void* invocation) {
    const auto& self = *static_cast<const Invocation*>(invocation);
    std::apply(self.kernel, self.arguments);
  }
};

cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, const void* function,
                           std::shared_ptr<const void> invocation, void (*run)(const void*));

}  // namespace simt

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  static_assert((!std::is_reference_v<P> && ...), "kernels take their arguments by value");
  using Invocation = simt::Invocation<P...>;
  auto invocation = std::make_shared<Invocation>(Invocation{kernel, {std::forward<A>(arguments)...}});
  return simt::enqueue_launch(*config, reinterpret_cast<const void*>(kernel), std::move(invocation),
                              &Invocation::run);
}
