// Asks memory for what is read next, a cache line at a time, while something else is computed. Included
// inside an anonymous namespace.

class Prefetcher {
 public:
  explicit Prefetcher(const AheadShare& share) : of_(share.of) {
    if (of_ == nullptr) return;
    ahead_ = *of_;
    left_ = min_of(share.lines, ahead_.lines);
    ahead_.lines -= left_;
  }
  // What was not asked for is left to others.
  ~Prefetcher() {
    if (of_ == nullptr) return;
    *of_ = ahead_;
    of_->lines += left_;
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  void next() {
    if (left_ == 0) return;
    --left_;
    fetch(ahead_.at);
    if ((ahead_.at += kCacheLine) < ahead_.end) return;
    ahead_.at = ahead_.begin;
    ++ahead_.row;
  }

  template <int Count>
  void next_lines() {
    const int64_t after = ahead_.at + Count * kCacheLine;
    if (left_ >= Count && after < ahead_.end) {
#pragma GCC unroll 16
      for (int i = 0; i < Count; ++i) fetch(ahead_.at + i * kCacheLine);
      left_ -= Count;
      ahead_.at = after;
    } else {
      for (int i = 0; i < Count; ++i) next();
    }
  }

 private:
  // Into the second-level cache: the first level is full of panels.
  void fetch(int64_t at) const { __builtin_prefetch(static_cast<const char*>(*ahead_.row) + at, 0, 2); }

  Ahead* const of_;
  Ahead ahead_;
  int64_t left_ = 0;
};
