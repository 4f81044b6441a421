// Launching kernels: what a device refuses, what it allows per kernel, and how many blocks fit.
#include <algorithm>
#include <utility>

#include "device_limits.h"
#include "launch.h"
#include "report.h"
#include "simt/launch.h"
#include "state.h"
#include "symbols.h"

namespace simt {
namespace {

int dynamic_limit(const void* function) {
  const auto& limits = runtime().shared_limits;
  const auto found = limits.find({current_device(), function});
  return found != limits.end() ? found->second : static_cast<int>(device_limits().shared_per_block);
}

uint64_t volume(dim3 size) {
  return uint64_t{size.x} * size.y * size.z;
}

bool within(dim3 size, const int (&limit)[3]) {
  return size.x <= static_cast<unsigned>(limit[0]) && size.y <= static_cast<unsigned>(limit[1]) &&
         size.z <= static_cast<unsigned>(limit[2]);
}

cudaError_t check_cluster(const Launch& launch) {
  const dim3 cluster = launch.cluster;
  if (volume(cluster) == 1) return cudaSuccess;
  const bool divides = volume(cluster) != 0 && launch.grid.x % cluster.x == 0 &&
                       launch.grid.y % cluster.y == 0 && launch.grid.z % cluster.z == 0;
  if (!device_limits().clusters || !divides || volume(cluster) > 8) {
    return refuse(cudaErrorInvalidClusterSize,
                  "launch: a cluster of " + triple(cluster) + " in a grid of " + triple(launch.grid));
  }
  return cudaSuccess;
}

cudaError_t check_launch(const Launch& launch) {
  const DeviceLimits limits = device_limits();
  const auto name = [&] { return "launch of " + function_name(launch.function); };
  const uint64_t threads = volume(launch.block);
  const bool block_fits = threads != 0 && threads <= static_cast<uint64_t>(limits.threads_per_block) &&
                          within(launch.block, limits.block_size);
  if (!block_fits || volume(launch.grid) == 0 || !within(launch.grid, limits.grid_size)) {
    return refuse(cudaErrorInvalidConfiguration,
                  name() + ": grid " + triple(launch.grid) + ", block " + triple(launch.block));
  }
  if (launch.shared_bytes > static_cast<size_t>(dynamic_limit(launch.function))) {
    return refuse(cudaErrorInvalidValue, name() + ": " + std::to_string(launch.shared_bytes) +
                                             " bytes of shared memory, of which the kernel may have " +
                                             std::to_string(dynamic_limit(launch.function)));
  }
  return check_cluster(launch);
}

bool read_attributes(const cudaLaunchConfig_t& config, Launch& launch) {
  for (unsigned index = 0; index < config.numAttrs; ++index) {
    const cudaLaunchAttribute& attribute = config.attrs[index];
    switch (attribute.id) {
      case cudaLaunchAttributeClusterDimension:
        launch.cluster =
            dim3(attribute.val.clusterDim.x, attribute.val.clusterDim.y, attribute.val.clusterDim.z);
        break;
      case cudaLaunchAttributeIgnore:
      case cudaLaunchAttributeProgrammaticStreamSerialization:  // kernels of a stream never overlap here
        break;
      default:
        return false;
    }
  }
  return true;
}

}  // namespace

cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, const void* function,
                           std::shared_ptr<const void> invocation, void (*run)(const void*)) {
  Launch launch = {.grid = config.gridDim,
                   .block = config.blockDim,
                   .cluster = dim3(),
                   .shared_bytes = config.dynamicSmemBytes,
                   .function = function,
                   .arguments = std::move(invocation),
                   .run = run};
  Lock lock(runtime().lock);
  const StreamPointer stream = find_stream(config.stream);
  if (!stream || stream->device != current_device()) return result(cudaErrorInvalidResourceHandle);
  if (device_now().sticky != cudaSuccess) return result(device_now().sticky);
  if (!read_attributes(config, launch)) return result(cudaErrorNotSupported);
  if (const cudaError_t error = check_launch(launch); error != cudaSuccess) return error;
  return result(enqueue(lock, stream, [launch = std::move(launch)] {
    const std::optional<Failure> failure = execute(launch);
    if (!failure) return cudaSuccess;
    publish_report(failure->text);
    return failure->code;
  }));
}

}  // namespace simt

using namespace simt;

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const Lock lock(runtime().lock);
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || value > static_cast<int>(device_limits().shared_per_block_opt_in)) {
        return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute: " + std::to_string(value) +
                                                 " bytes of shared memory for " + function_name(function));
      }
      runtime().shared_limits[{current_device(), function}] = value;
      return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      return cudaSuccess;
    default:
      return result(cudaErrorNotSupported);
  }
}

// The numbers of a compiler are not known here: no registers, no spills.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  if (attributes == nullptr) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  *attributes = {};
  attributes->maxThreadsPerBlock = device_limits().threads_per_block;
  attributes->ptxVersion = attributes->binaryVersion = settings().compute_capability;
  attributes->maxDynamicSharedSizeBytes = dynamic_limit(function);
  return cudaSuccess;
}

// By threads and shared memory alone: registers are not known here.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          size_t shared_bytes) {
  if (blocks == nullptr || threads <= 0) return result(cudaErrorInvalidValue);
  const Lock lock(runtime().lock);
  const DeviceLimits limits = device_limits();
  if (threads > limits.threads_per_block) return result(cudaErrorInvalidValue);
  *blocks = 0;
  if (shared_bytes > static_cast<size_t>(dynamic_limit(function))) return cudaSuccess;
  const int by_threads = limits.threads_per_multiprocessor / ((threads + 31) / 32 * 32);
  const auto by_shared =
      static_cast<int>(limits.shared_per_multiprocessor / (shared_bytes + limits.shared_reserved));
  *blocks = std::min({limits.blocks_per_multiprocessor, by_threads, by_shared});
  return cudaSuccess;
}
