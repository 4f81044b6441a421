// Bulk copies out of shared memory.
#include "bulk_stores.h"

#include <utility>

#include "report.h"

namespace simt {

size_t BulkStores::count_without(size_t keep) const {
  return group_ends_.size() <= keep ? 0 : group_ends_[group_ends_.size() - keep - 1];
}

void BulkStores::wait_read(size_t keep) {
  const size_t count = count_without(keep);
  for (size_t index = 0; index < count; ++index) {
    if (!stores_[index].write) stores_[index].write = stores_[index].read();
  }
}

void BulkStores::wait(size_t keep) {
  wait_read(keep);
  const size_t count = count_without(keep);
  for (size_t index = 0; index < count; ++index) stores_[index].write();
  if (count == 0) return;
  stores_.erase(stores_.begin(), stores_.begin() + static_cast<std::ptrdiff_t>(count));
  group_ends_.erase(group_ends_.begin(), group_ends_.end() - static_cast<std::ptrdiff_t>(keep));
  for (size_t& end : group_ends_) end -= count;
}

void BulkStores::finish() {
  for (const BulkStore& store : stores_) {
    if (!store.write)
      fail("exits before a bulk copy of its own has read shared memory: cp.async.bulk.wait_group(.read)");
    store.write();
  }
  clear();
}

void BulkStores::clear() {
  stores_.clear();
  group_ends_.clear();
}

}  // namespace simt
