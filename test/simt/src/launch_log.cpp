// A file that processes append to, a whole line at a time.
#include "launch_log.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>

namespace simt {
namespace {

class LaunchLog {
 public:
  explicit LaunchLog(const char* path) : file_(open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
    if (file_ < 0) throw std::runtime_error(std::string("MOE_SIMT_LAUNCH_LOG: cannot open ") + path);
  }

  void add(const void* function) {
    const std::lock_guard hold(lock_);
    if (!seen_.insert(function).second) return;
    Dl_info info = {};
    if (dladdr(function, &info) == 0) return;
    const auto offset = reinterpret_cast<uintptr_t>(function) - reinterpret_cast<uintptr_t>(info.dli_fbase);
    char line[32];
    const int bytes = std::snprintf(line, sizeof line, "%llx\n", static_cast<unsigned long long>(offset));
    if (write(file_, line, static_cast<size_t>(bytes)) != bytes) {
      throw std::runtime_error("MOE_SIMT_LAUNCH_LOG: cannot write");
    }
  }

 private:
  int file_;
  std::mutex lock_;
  std::set<const void*> seen_;
};

}  // namespace

void log_launch(const void* function) {
  static const char* const path = std::getenv("MOE_SIMT_LAUNCH_LOG");
  if (path == nullptr || *path == '\0') return;
  static auto* const log = new LaunchLog(path);  // outlives whatever launches while the process exits
  log->add(function);
}

}  // namespace simt
