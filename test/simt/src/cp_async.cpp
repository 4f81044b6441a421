// cp.async completes at the waits, in the order of issue.
#include "cp_async.h"

#include <algorithm>
#include <cstring>

namespace simt {

void CpAsyncQueue::wait_group(size_t keep) {
  if (group_ends_.size() <= keep) return;
  const size_t groups = group_ends_.size() - keep;
  const size_t done = group_ends_[groups - 1];
  group_ends_.erase(group_ends_.begin(), group_ends_.begin() + static_cast<std::ptrdiff_t>(groups));
  complete(done);
}

void CpAsyncQueue::complete_through(uint64_t number) {
  if (number > completed_) complete(number - completed_);
}

void CpAsyncQueue::wait_all() {
  group_ends_.clear();
  complete(copies_.size());
}

void CpAsyncQueue::clear() {
  copies_.clear();
  group_ends_.clear();
  completed_ = 0;
}

void CpAsyncQueue::write(const Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.source_bytes);
  std::memset(copy.to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

void CpAsyncQueue::complete(size_t count) {
  for (size_t index = 0; index < count; ++index) {
    write(copies_[index]);
  }
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(count));
  completed_ += count;
  for (size_t& end : group_ends_) end -= std::min(end, count);
}

}  // namespace simt
