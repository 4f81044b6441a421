// cp.async of one thread: copies that write shared memory only when the thread waits for their group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

class CpAsyncQueue {
 public:
  struct Copy {
    unsigned char* to;
    const unsigned char* from;
    uint32_t bytes, source_bytes;  // the rest is zeros
  };

  void add(const Copy& copy) { copies_.push_back(copy); }
  // Writes what a copy brings, now.
  static void write(const Copy& copy);
  void commit() { group_ends_.push_back(copies_.size()); }
  // Completes all groups but the KEEP latest.
  void wait_group(size_t keep);
  void wait_all();
  void clear();

  // How many copies were issued so far, and: completes those up to such a number.
  uint64_t issued() const { return completed_ + copies_.size(); }
  void complete_through(uint64_t number);

 private:
  void complete(size_t count);

  std::vector<Copy> copies_;
  std::vector<size_t> group_ends_;  // counts of copies_
  uint64_t completed_ = 0;
};

}  // namespace simt
