// Bulk copies of one thread out of shared memory, which complete by groups: shared memory is read when the
// thread waits for that, global memory written when it waits for the whole, or exits.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace simt {

struct BulkStore {
  // Reads shared memory, now; gives what will write global memory.
  std::function<std::function<void()>()> read;
  std::function<void()> write;  // empty until it was read
};

class BulkStores {
 public:
  void add(BulkStore store) { stores_.push_back(std::move(store)); }
  void commit() { group_ends_.push_back(stores_.size()); }
  // All groups but the KEEP latest: have read shared memory, or have completed.
  void wait_read(size_t keep);
  void wait(size_t keep);
  // The thread exits: shared memory must have been read.
  void finish();
  void clear();

 private:
  size_t count_without(size_t keep) const;

  std::vector<BulkStore> stores_;
  std::vector<size_t> group_ends_;
};

}  // namespace simt
