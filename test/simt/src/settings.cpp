// Settings from the environment.
#include <cstdlib>

#include "simt/control.h"

namespace simt {
namespace {

template <class Number>
void read(const char* name, Number& value) {
  if (const char* text = std::getenv(name); text != nullptr && *text != '\0') {
    value = static_cast<Number>(std::strtoull(text, nullptr, 0));
  }
}

Settings from_environment() {
  Settings found;
  read("MOE_SIMT_CC", found.compute_capability);
  read("MOE_SIMT_FIRST_CC", found.first_compute_capability);
  read("MOE_SIMT_DRIVER", found.driver);
  read("MOE_SIMT_SMS", found.multiprocessors);
  read("MOE_SIMT_DEVICES", found.devices);
  read("MOE_SIMT_MEMORY", found.memory);
  read("MOE_SIMT_L2", found.l2);
  read("MOE_SIMT_SEED", found.seed);
  read("MOE_SIMT_THREADS", found.threads);
  return found;
}

}  // namespace

Settings& settings() {
  static Settings all = from_environment();
  return all;
}

}  // namespace simt
