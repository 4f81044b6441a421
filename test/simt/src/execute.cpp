// Runs a launch on as many host threads as the settings allow.
#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#include "device_memory.h"
#include "engine.h"
#include "launch_log.h"
#include "simt/control.h"
#include "symbols.h"

namespace simt {
namespace {

std::atomic<uint64_t> launches{0};

std::string title(const Launch& launch) {
  return "kernel " + function_name(launch.function) + ", grid " + triple(launch.grid) + ", block " +
         triple(launch.block) + ", seed " + std::to_string(settings().seed);
}

}  // namespace

std::optional<Failure> execute(const Launch& launch) {
  const uint64_t number = launches.fetch_add(1);
  ClusterSource source(launch, number);
  std::optional<Failure> failure;
  std::mutex lock;
  const auto work = [&](uint64_t engine) {
    std::optional<Failure> mine = Engine::current().run(launch, number + (engine << 48), source);
    const std::lock_guard hold(lock);
    if (mine && !failure) failure = std::move(mine);
  };
  const auto engines = std::min<uint64_t>(std::max(1, settings().threads), launch.clusters());
  std::vector<std::thread> helpers;
  for (uint64_t engine = 1; engine < engines; ++engine) helpers.emplace_back(work, engine);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  if (auto overrun = device_memory().find_overrun(); overrun && !failure) {
    failure = {.code = cudaErrorIllegalAddress, .text = *overrun};
  }
  if (!failure) log_launch(launch.function);
  if (failure) failure->text = title(launch) + "\n  " + failure->text;
  return failure;
}

void restart_launch_numbers() {
  launches = 0;
}

}  // namespace simt
